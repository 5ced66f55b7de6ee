//! The control listener of a network.
//!
//! `GET /status` who can be reached and what was carried · `GET /faults` what is wrong, `POST /faults` one
//! [`Order`] in place of the last one, `DELETE /faults` nothing any more · `POST /registrations`
//! `{"refuse"}` how many of the next registrations are refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Network;
use super::faults::Order;
use crate::control::Refused;

/// Everything that the listener answers.
pub(super) fn router(network: Arc<Network>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/faults", get(faults).post(set_faults).delete(clear_faults))
        .route("/registrations", post(refuse_registrations))
        .with_state(network)
}

async fn status(State(network): State<Arc<Network>>) -> Json<Value> {
    let peers = network.links.iter().filter_map(|link| link.peer());
    let peers = peers.map(|peer| format!("{:016x}", peer.node)).collect::<Vec<_>>();
    let dropped = network.links.iter().map(|link| link.dropped()).sum::<u64>();
    Json(json!({
        "node": format!("{:016x}", network.config.node),
        "peers": peers,
        "dropped": dropped,
        "paused": network.faults().paused_until().is_some(),
        "counts": network.counts().clone(),
    }))
}

async fn faults(State(network): State<Arc<Network>>) -> Json<Order> {
    Json(network.faults().order().clone())
}

async fn set_faults(
    State(network): State<Arc<Network>>,
    Json(order): Json<Order>,
) -> Result<Json<Value>, Refused> {
    network.faults().take(order)?;
    Ok(Json(json!({})))
}

async fn clear_faults(State(network): State<Arc<Network>>) -> Result<Json<Value>, Refused> {
    network.faults().take(Order::default())?;
    Ok(Json(json!({})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registrations {
    refuse: u32,
}

async fn refuse_registrations(
    State(network): State<Arc<Network>>,
    Json(order): Json<Registrations>,
) -> Json<Value> {
    network.refusals.store(order.refuse, Ordering::Release);
    Json(json!({}))
}
