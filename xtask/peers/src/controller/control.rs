//! The control listener of a controller.
//!
//! `GET /status` where the chain is and what was seen · `GET /blocks?from=&to=&txs=true` what is in it ·
//! `POST /txs` `{"count","bytes","bodies","local"}` transactions for the pool, told to the others unless
//! local · `DELETE /txs` empties the pool · `POST /faults` one [`Order`], `DELETE /faults` none any more ·
//! `POST /rollback` `{"blocks","silent"}` takes blocks away · `POST /proposal`
//! `{"validators","block_interval","padding"}` what the next own proposal changes and how large it is ·
//! `POST /sync` `{"on"}` stops imports or lets them go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Controller;
use super::faults::{Faults, Order};
use super::message::{self, Transactions};
use crate::chain::Stored;
use crate::chain::block::{Change, shown};
use crate::config::address;
use crate::control::Refused;

type Answer = Result<Json<Value>, Refused>;

/// Bytes of a generated transaction that keep it apart from others.
const NONCE_BYTES: usize = 16;
/// Transactions of one order.
const COUNT_MAX: usize = 100_000;
/// Bytes of a generated transaction.
const BYTES_MAX: usize = 64 << 10;
/// Bytes that a proposal can be made larger by.
const PADDING_MAX: usize = 256 << 20;

/// Everything that the listener answers.
pub(super) fn router(controller: Arc<Controller>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/blocks", get(blocks))
        .route("/txs", post(add_transactions).delete(clear_pool))
        .route("/faults", post(add_fault).delete(clear_faults))
        .route("/rollback", post(roll_back))
        .route("/proposal", post(shape_proposal))
        .route("/sync", post(set_sync))
        .with_state(controller)
}

async fn status(State(controller): State<Arc<Controller>>) -> Json<Value> {
    let counts = controller.counts().clone();
    let chain = controller.chain();
    let settings = chain.settings();
    Json(json!({
        "address": shown(&controller.config.address),
        "height": chain.height(),
        "hash": shown(&chain.tip().hash),
        "timestamp_ms": chain.tip().block.timestamp_ms,
        "told_height": controller.told_height.load(Ordering::Acquire),
        "syncing": controller.is_syncing.load(Ordering::Acquire),
        "pool": chain.pool.len(),
        "block_interval": settings.block_interval,
        "validators": settings.validators.iter().map(|address| shown(address)).collect::<Vec<_>>(),
        "change_waits": chain.change.is_some(),
        "counts": counts,
    }))
}

#[derive(Debug, Deserialize)]
struct Range {
    from: Option<u64>,
    to: Option<u64>,
    #[serde(default)]
    txs: bool,
}

async fn blocks(State(controller): State<Arc<Controller>>, Query(range): Query<Range>) -> Json<Value> {
    let chain = controller.chain();
    let blocks = chain.blocks();
    let to = range.to.unwrap_or(u64::MAX).min(chain.height());
    let from = range.from.unwrap_or(0);
    let listed = (from..=to).map(|height| block_json(&blocks[height as usize], range.txs));
    Json(Value::Array(listed.collect()))
}

fn block_json(stored: &Stored, with_transactions: bool) -> Value {
    let Stored { block, data, hash, arrival, arrived_us, .. } = stored;
    let mut value = json!({
        "height": block.height,
        "hash": shown(hash),
        "timestamp_ms": block.timestamp_ms,
        "arrival": arrival,
        "arrived_us": arrived_us,
        "proposer": shown(&block.proposer),
        "tx_count": block.transactions.len(),
        "bytes": data.len(),
        "changes": block.change.is_some(),
    });
    if with_transactions {
        value["txs"] = block.transactions.iter().map(|hash| shown(hash)).collect();
    }
    value
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTransactions {
    #[serde(default)]
    count: usize,
    bytes: Option<usize>,
    #[serde(default)]
    bodies: Vec<String>,
    #[serde(default)]
    local: bool,
}

impl NewTransactions {
    fn validate(&self, bytes: usize) -> anyhow::Result<()> {
        ensure!(self.count <= COUNT_MAX, "{} transactions, at most {COUNT_MAX} at once", self.count);
        ensure!(
            (NONCE_BYTES..=BYTES_MAX).contains(&bytes),
            "transactions of {bytes} bytes, not {NONCE_BYTES} to {BYTES_MAX}"
        );
        Ok(())
    }
}

async fn add_transactions(
    State(controller): State<Arc<Controller>>,
    Json(order): Json<NewTransactions>,
) -> Answer {
    let bytes = order.bytes.unwrap_or(NONCE_BYTES);
    order.validate(bytes)?;
    let generated = (0..order.count).map(|_| generated(bytes));
    let bodies: Vec<Bytes> = order.bodies.into_iter().map(Bytes::from).chain(generated).collect();
    let hashes = {
        let mut chain = controller.chain();
        bodies.iter().map(|body| shown(&chain.pool.insert(body.clone()))).collect::<Vec<_>>()
    };
    if !order.local {
        controller.broadcast(message::SEND_TXS, &Transactions { bodies });
    }
    Ok(Json(json!({ "hashes": hashes })))
}

fn generated(bytes: usize) -> Bytes {
    let mut body = vec![0; bytes];
    body[..NONCE_BYTES].copy_from_slice(&rand::random::<[u8; NONCE_BYTES]>());
    Bytes::from(body)
}

async fn clear_pool(State(controller): State<Arc<Controller>>) -> Json<Value> {
    controller.chain().pool.clear();
    Json(json!({}))
}

async fn add_fault(State(controller): State<Arc<Controller>>, Json(order): Json<Order>) -> Answer {
    controller.faults().take(&order)?;
    Ok(Json(json!({})))
}

async fn clear_faults(State(controller): State<Arc<Controller>>) -> Json<Value> {
    *controller.faults() = Faults::default();
    Json(json!({}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    blocks: u64,
    /// Consensus is not told.
    #[serde(default)]
    silent: bool,
}

async fn roll_back(State(controller): State<Arc<Controller>>, Json(order): Json<Rollback>) -> Answer {
    let mut ledger = controller.gate.lock().await;
    let height = controller.chain().roll_back(order.blocks);
    ledger.truncate(height)?;
    controller.told_height.store(height, Ordering::Release);
    drop(ledger);
    if !order.silent {
        let telling = controller.clone();
        tokio::spawn(async move { telling.reconfigure_until_heard().await });
    }
    controller.broadcast(message::CHAIN_STATUS_INIT, &controller.chain_status());
    Ok(Json(json!({ "height": height })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    validators: Option<Vec<String>>,
    block_interval: Option<u32>,
    padding: Option<usize>,
}

impl Shape {
    /// The new validators; none if they stay.
    fn validators(&self) -> anyhow::Result<Vec<Bytes>> {
        let padding = self.padding.unwrap_or(0);
        ensure!(padding <= PADDING_MAX, "padding of {padding} bytes, at most {PADDING_MAX}");
        let validators = self.validators.iter().flatten().map(|text| address(text));
        validators.collect::<Result<_, _>>().context("validators")
    }
}

async fn shape_proposal(State(controller): State<Arc<Controller>>, Json(order): Json<Shape>) -> Answer {
    let validators = order.validators()?;
    let mut chain = controller.chain();
    if !validators.is_empty() || order.block_interval.is_some() {
        chain.change = Some(Change { validators, block_interval: order.block_interval });
    }
    if let Some(padding) = order.padding {
        chain.padding = padding;
    }
    Ok(Json(json!({})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sync {
    on: bool,
}

async fn set_sync(State(controller): State<Arc<Controller>>, Json(order): Json<Sync>) -> Json<Value> {
    controller.fetching.set_stopped(!order.on);
    Json(json!({}))
}
