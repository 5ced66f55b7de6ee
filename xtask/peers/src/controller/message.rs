//! What the stand-in controllers say to each other over the network, and under which types.
//!
//! The types are the real controller's, because the network treats some of them in its own way; the
//! contents are ours.

use bytes::Bytes;
use prost::Message;

/// The module of all of these.
pub(super) const MODULE: &str = "controller";
/// [`ChainStatus`], to all.
pub(super) const CHAIN_STATUS: &str = "chain_status";
/// [`ChainStatus`] of a node that has just started, or has heard nothing for long: wants an answer.
pub(super) const CHAIN_STATUS_INIT: &str = "chain_status_init";
/// [`BlockRequest`].
pub(super) const SYNC_BLOCK: &str = "sync_block";
/// [`Blocks`].
pub(super) const SYNC_BLOCK_RESPOND: &str = "sync_block_respond";
/// [`TransactionRequest`].
pub(super) const SYNC_TX: &str = "sync_tx";
/// [`Transactions`], as asked for.
pub(super) const SYNC_TX_RESPOND: &str = "sync_tx_respond";
/// [`Transactions`], to all.
pub(super) const SEND_TXS: &str = "send_txs";

/// Where a chain ends.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ChainStatus {
    #[prost(uint64, tag = "1")]
    pub(super) height: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) hash: Bytes,
}

/// Asks for blocks, both ends included.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct BlockRequest {
    #[prost(uint64, tag = "1")]
    pub(super) first: u64,
    #[prost(uint64, tag = "2")]
    pub(super) last: u64,
}

/// Blocks in order; perhaps fewer than asked for.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Blocks {
    #[prost(uint64, tag = "1")]
    pub(super) first: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) blocks: Vec<Bytes>,
}

/// Asks for bodies.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TransactionRequest {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) hashes: Vec<Bytes>,
}

/// Bodies.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Transactions {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) bodies: Vec<Bytes>,
}
