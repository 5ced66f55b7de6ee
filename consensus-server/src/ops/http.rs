//! The operations listener: HTTP/1.1, for scrapers, probes and people with curl.
//!
//! `GET /metrics` OpenMetrics text · `GET /livez`, `GET /readyz` 200 or 503, with `?verbose` a line for each
//! condition · `GET /status` JSON, `GET /cluster` the same of all nodes that answer · `GET /` the status page for a
//! browser, otherwise what there is · `GET /log` the log filter, `PUT /log` changes it (the body is the filter) ·
//! anything else 404 and what there is. Over TLS reading needs the role `read` and a change `admin`; in plaintext
//! everybody may read, and changes are taken from this host only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use consensus_core::audit::Entry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::OpsView;
use super::health::Checks;
use crate::audit::{self, AuditLog};
use crate::security::Caller;
use crate::security::refusals::{Place, Refusals};
use crate::security::roles::{Role, authorize};
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
    /// Where a change of it is written down.
    pub audit: AuditLog,
    /// Who counts those that are turned away, if anybody does.
    pub refusals: Option<Arc<Refusals>>,
}

/// What there is.
const HELP: &str = "consensus-server operations: /metrics /livez /readyz /status /cluster /log\n";
/// The status page: nothing in it comes from elsewhere, and browsers are told so.
const PAGE: &str = include_str!("page/index.html");
const PAGE_STYLE: &str = include_str!("page/page.css");
const PAGE_SCRIPT: &str = include_str!("page/page.js");
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                           img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves until `stop`.
///
/// # Errors
/// The listener's.
pub async fn serve<L>(listener: L, ops: Ops, stop: CancellationToken) -> std::io::Result<()>
where
    L: Listener<Addr = SocketAddr>,
    Caller: for<'a> Connected<IncomingStream<'a, L>>,
{
    let service = router(ops).into_make_service_with_connect_info::<Caller>();
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
        .route("/page.css", get(async || page_part("text/css; charset=utf-8", PAGE_STYLE)))
        .route("/page.js", get(async || page_part("text/javascript; charset=utf-8", PAGE_SCRIPT)))
        .route("/cluster", get(cluster))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/log", get(log).put(set_log))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(ops.clone(), authorized))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(ops)
}

/// Lets through who may do what is asked.
async fn authorized(
    State(ops): State<Ops>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let role = if request.method().is_safe() { Role::Read } else { Role::Admin };
    match authorize(&caller, role) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            if let Some(refusals) = &ops.refusals {
                refusals.denied(Place::Ops, &caller, &denied);
            }
            (StatusCode::FORBIDDEN, format!("{}\n", denied.what)).into_response()
        }
    }
}

/// People with a browser get the page, people with curl what there is.
async fn index(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        page_part("text/html; charset=utf-8", PAGE)
    } else {
        HELP.into_response()
    }
}

fn page_part(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

async fn cluster(State(ops): State<Ops>) -> Json<Value> {
    Json(ops.view.cluster_json().await)
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
    ConnectInfo(caller): ConnectInfo<Caller>,
    filter: String,
) -> Response {
    let entry = Entry::new(&caller.to_string(), "log-filter", "").with("filter", filter.trim());
    let ongoing = match ops.audit.begin(entry).await {
        Ok(ongoing) => ongoing,
        Err(error) => {
            let why = format!("{}\n", audit::refusal(&error));
            return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
        }
    };
    match ops.log.set(&filter) {
        Ok(previous) => {
            tracing::info!(filter = filter.trim(), previous, "log filter changed");
            ongoing.end("done").await;
            format!("{previous}\n").into_response()
        }
        Err(why) => {
            ongoing.end(&format!("refused: {why}")).await;
            (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::audit::FILE;
    use tonic::codegen::Service;

    use super::*;
    use crate::config::LogFormat;
    use crate::security::Certificate;
    use crate::security::roles::Roles;
    use crate::telemetry::logging;
    use crate::telemetry::metrics::SecurityMetrics;

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

        fn cluster_json(&self) -> futures_util::future::BoxFuture<'_, Value> {
            Box::pin(async { Value::Null })
        }
    }

    fn caller(remote: &str, units: Option<&[&str]>) -> Caller {
        let certificate = units.map(|units| {
            Arc::new(Certificate {
                subject: "CN=alice".to_owned(),
                pin: crate::config::Pin::of_public_key(b"key"),
                roles: Roles::of(units.iter().copied()),
                not_before: 0,
                not_after: 0,
            })
        });
        Caller::uncounted(remote.parse().expect("an address"), certificate)
    }

    #[tokio::test]
    async fn reading_and_changing_need_their_role_or_this_host() {
        let (_subscriber, log) = logging::build("info", LogFormat::Human).expect("valid");
        let directory = tempfile::tempdir().expect("a directory");
        let (ok, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
        for (remote, units, read, change) in [
            ("192.0.2.1:1", None, ok, no),
            ("[2001:db8::1]:1", None, ok, no),
            ("127.0.0.1:1", None, ok, ok),
            ("[::1]:1", None, ok, ok),
            ("[::ffff:127.0.0.1]:1", None, ok, ok),
            ("192.0.2.1:1", Some(&["admin"][..]), ok, ok),
            ("192.0.2.1:1", Some(&["read"][..]), ok, no),
            ("127.0.0.1:1", Some(&["read"][..]), ok, no),
            ("127.0.0.1:1", Some(&["submit"][..]), no, no),
        ] {
            let metrics = Arc::new(Metrics::new(1));
            let refusals = Some(Arc::new(Refusals::new(SecurityMetrics::new(&metrics))));
            let audit = AuditLog::new(directory.path());
            let (view, metrics, log) = (Arc::new(Nothing), metrics.clone(), log.clone());
            let ops = Ops { view, metrics: metrics.clone(), log, audit, refusals };
            for (method, uri, body, expected) in
                [("GET", "/status", "", read), ("GET", "/log", "", read), ("PUT", "/log", "warn", change)]
            {
                let mut request = Request::builder()
                    .method(method)
                    .uri(uri)
                    .body(axum::body::Body::from(body))
                    .expect("valid");
                request.extensions_mut().insert(ConnectInfo(caller(remote, units)));
                let answer = router(ops.clone()).call(request).await.expect("infallible");
                assert_eq!(answer.status(), expected, "{remote} {units:?} {method} {uri}");
            }
            let refused = metrics.encode().contains("consensus_security_refused_total{at=\"ops\"");
            assert_eq!(refused, read == no || change == no, "{remote} {units:?}");
        }
        let written = std::fs::read_to_string(directory.path().join(FILE)).expect("actions are written down");
        for (actor, acted) in
            [("127.0.0.1:1", true), ("CN=alice at 192.0.2.1:1", true), ("CN=alice at 127.0.0.1:1", false)]
        {
            assert_eq!(written.contains(&format!("\"actor\":\"{actor}\"")), acted, "{actor} in\n{written}");
        }
    }
}
