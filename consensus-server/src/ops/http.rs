//! The operations listener: HTTP/1.1, for scrapers, probes and people with curl.
//!
//! `GET /metrics` OpenMetrics text · `GET /livez`, `GET /readyz` 200 or 503, with `?verbose` a line for each
//! condition · `GET /status` JSON · `GET /log` the log filter, `PUT /log` changes it (the body is the filter).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use consensus_proto::admin::{ChainStatus, NodeStatus, PeerStatus};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::NodeView;
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
    pub view: Arc<NodeView>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// The log filter.
    pub log: LogControl,
}

/// Serves until `stop`.
///
/// # Errors
/// The listener's.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) -> std::io::Result<()> {
    let serving = axum::serve(listener, router(ops)).with_graceful_shutdown(stop.clone().cancelled_owned());
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
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(ops)
}

async fn index() -> &'static str {
    "consensus-server operations: /metrics /livez /readyz /status /log\n"
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
    Json(node_json(&ops.view.status()))
}

async fn log(State(ops): State<Ops>) -> String {
    ops.log.filter() + "\n"
}

async fn set_log(State(ops): State<Ops>, filter: String) -> Response {
    match ops.log.set(&filter) {
        Ok(previous) => {
            tracing::info!(filter = filter.trim(), previous, "log filter changed");
            format!("{previous}\n").into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

/// The status under the names of the admin service's schema; hashes in hex.
fn node_json(status: &NodeStatus) -> Value {
    json!({
        "cluster": status.cluster,
        "node_id": status.node_id,
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "ready": status.ready,
        "not_ready_reason": status.not_ready_reason,
        "chains": status.chains.iter().map(chain_json).collect::<Vec<_>>(),
    })
}

fn chain_json(chain: &ChainStatus) -> Value {
    json!({
        "chain": chain.chain,
        "chain_incarnation": chain.chain_incarnation,
        "state": chain.state,
        "halt_reason": chain.halt_reason,
        "role": chain.role,
        "term": chain.term,
        "leader_id": chain.leader_id,
        "leader_address": chain.leader_address,
        "commit_index": chain.commit_index,
        "applied_index": chain.applied_index,
        "persisted_index": chain.persisted_index,
        "first_index": chain.first_index,
        "last_index": chain.last_index,
        "height": chain.height,
        "tip_hash": hex::encode(&chain.tip_hash),
        "voters": chain.voters,
        "learners": chain.learners,
        "peers": chain.peers.iter().map(peer_json).collect::<Vec<_>>(),
        "leader_changes": chain.leader_changes,
        "transactions": chain.transactions,
    })
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "node_id": peer.node_id,
        "address": peer.address,
        "connected": peer.connected,
        "matched": peer.matched,
        "next": peer.next,
        "progress": peer.progress,
        "last_heard_ms": peer.last_heard_ms,
        "queue_bytes": peer.queue_bytes,
        "dropped_messages": peer.dropped_messages,
    })
}
