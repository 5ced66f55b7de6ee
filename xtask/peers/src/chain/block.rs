//! What the stand-in controllers agree on: a block, its bytes and its hash.
//!
//! A block names its transactions by hash and carries a change of validators or interval, if it makes one,
//! so that all nodes derive the same configuration from the same blocks.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// A block; what a proposal's data encodes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Block {
    /// From 0; the first one is never agreed on.
    #[prost(uint64, tag = "1")]
    pub height: u64,
    /// Hash of the block before.
    #[prost(bytes = "bytes", tag = "2")]
    pub prevhash: Bytes,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub timestamp_ms: u64,
    /// Address of the validator that made it.
    #[prost(bytes = "bytes", tag = "4")]
    pub proposer: Bytes,
    /// Hashes of its transactions, in order.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub transactions: Vec<Bytes>,
    /// What it changes from the next height on.
    #[prost(message, optional, tag = "6")]
    pub change: Option<Change>,
    /// Makes it as large as a script wants.
    #[prost(bytes = "bytes", tag = "7")]
    pub padding: Bytes,
}

/// A change of what is in force.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Change {
    /// The new validators; empty: as before.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub validators: Vec<Bytes>,
    /// The new interval in seconds; none: as before.
    #[prost(uint32, optional, tag = "2")]
    pub block_interval: Option<u32>,
}

/// What is in force after a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seconds.
    pub block_interval: u32,
    /// Addresses.
    pub validators: Vec<Bytes>,
}

impl Settings {
    /// What is in force after `change`.
    #[must_use]
    pub fn after(&self, change: &Change) -> Self {
        let validators = if change.validators.is_empty() { &self.validators } else { &change.validators };
        Self {
            block_interval: change.block_interval.unwrap_or(self.block_interval),
            validators: validators.clone(),
        }
    }
}

/// SHA-256, as 32 bytes.
pub fn hash(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(data))
}

/// Bytes as people read them.
pub fn shown(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
