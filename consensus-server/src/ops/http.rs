//! The operations listener: HTTP/1.1, for scrapers, probes and people with curl.
//!
//! `GET /metrics` OpenMetrics text · `GET /livez`, `GET /readyz` 200 or 503, with `?verbose` a line for each
//! condition · `GET /status` JSON · `GET /log` the log filter, `PUT /log` changes it (the body is the filter) ·
//! anything else 404 and what there is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::OpsView;
use super::health::Checks;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::telemetry::{LogControl, Metrics};

/// Longest log filter.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Requests under way get this long when the node stops.
const DRAIN: Duration = Duration::from_millis(500);

/// What the listener serves from.
#[derive(Clone, Debug)]
pub struct Ops {
    /// State and health.
    pub view: Arc<dyn OpsView>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// The log filter.
    pub log: LogControl,
    /// Whether it may be changed from another host, where the listener can be reached from there.
    pub remote_log_changes: bool,
}

/// What there is.
const HELP: &str = "consensus-server operations: /metrics /livez /readyz /status /log\n";

/// Serves until `stop`.
///
/// # Errors
/// The listener's.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) -> std::io::Result<()> {
    let service = router(ops).into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = deadline => Ok(()),
    }
}

fn router(ops: Ops) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/log", get(log).put(set_log))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(ops)
}

async fn index() -> &'static str {
    HELP
}

async fn unknown() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, HELP)
}

async fn metrics(State(ops): State<Ops>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], ops.metrics.encode()).into_response()
}

async fn livez(State(ops): State<Ops>, RawQuery(query): RawQuery) -> Response {
    answer(&ops.view.liveness(), query.as_deref())
}

async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> Response {
    answer(&ops.view.readiness(), query.as_deref())
}

fn answer(checks: &Checks, query: Option<&str>) -> Response {
    let code = if checks.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query
        .is_some_and(|query| query.split('&').any(|word| word == "verbose" || word.starts_with("verbose=")));
    let body = match (verbose, checks.is_ok()) {
        (true, _) => checks.verbose(),
        (false, true) => "ok\n".to_owned(),
        (false, false) => format!("{}\n", checks.failures()),
    };
    (code, body).into_response()
}

async fn status(State(ops): State<Ops>) -> Json<Value> {
    Json(ops.view.status_json())
}

async fn log(State(ops): State<Ops>) -> String {
    ops.log.filter() + "\n"
}

async fn set_log(
    State(ops): State<Ops>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    filter: String,
) -> Response {
    if !ops.remote_log_changes && !caller.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "the log filter can be changed from this host only\n")
            .into_response();
    }
    match ops.log.set(&filter) {
        Ok(previous) => {
            tracing::info!(filter = filter.trim(), previous, "log filter changed");
            format!("{previous}\n").into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::logging;

    #[derive(Debug)]
    struct Nothing;

    impl OpsView for Nothing {
        fn liveness(&self) -> Checks {
            Checks(Vec::new())
        }

        fn readiness(&self) -> Checks {
            Checks(Vec::new())
        }

        fn status_json(&self) -> Value {
            Value::Null
        }
    }

    #[tokio::test]
    async fn only_this_host_changes_the_log_filter_unless_others_may() {
        let (_subscriber, log) = logging::build("info", LogFormat::Human).expect("valid");
        for (remote_log_changes, caller, expected) in [
            (false, "192.0.2.1:1", StatusCode::FORBIDDEN),
            (false, "[2001:db8::1]:1", StatusCode::FORBIDDEN),
            (false, "127.0.0.1:1", StatusCode::OK),
            (false, "[::1]:1", StatusCode::OK),
            (false, "[::ffff:127.0.0.1]:1", StatusCode::OK),
            (true, "192.0.2.1:1", StatusCode::OK),
        ] {
            let metrics = Arc::new(Metrics::new(1));
            let ops = Ops { view: Arc::new(Nothing), metrics, log: log.clone(), remote_log_changes };
            let caller = ConnectInfo(caller.parse().expect("an address"));
            let answer = set_log(State(ops), caller, "warn".to_owned()).await;
            assert_eq!(answer.status(), expected, "{caller:?}");
        }
    }
}
