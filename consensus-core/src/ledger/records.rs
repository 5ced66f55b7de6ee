//! The ledger's own records in the store, beside the log.
//!
//! | key                        | value                                                    |
//! |----------------------------|----------------------------------------------------------|
//! | `t`, transaction id        | `TransactionRecord`: where it is                         |
//! | `b`, height (8 bytes)      | `BlockRecord`: header, and where the body is in the log  |
//! | `w`, height (8 bytes)      | the block's hash (32 bytes), then its transactions' keys |
//! | `h`                        | `LedgerTip`                                              |
//!
//! Numbers in keys are big-endian. The `w` records cover the blocks that have transactions in the window of
//! known ids, and leave with them: with these a restart reads a few bytes per transaction instead of the
//! bodies. Each of their keys is one byte for the length of an id of up to 32 bytes and the id, or a zero and the
//! SHA-256 of a longer id. Framing and checksums are the store's.

use bytes::Bytes;
use consensus_proto::records;
use prost::Message as _;

use super::block::Header;
use super::error::{Error, Result};
use super::ledger::Tip;
use super::window::IdKey;
use crate::ids::Hash;

/// Key of the [`Tip`].
pub const TIP_KEY: &[u8] = b"h";

/// Key of the block record at a height.
pub fn block_key(height: u64) -> Vec<u8> {
    height_key(b'b', height)
}

/// Key of a transaction's record.
pub fn transaction_key(id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + id.len());
    key.push(b't');
    key.extend_from_slice(id);
    key
}

pub(super) fn recent_key(height: u64) -> Vec<u8> {
    height_key(b'w', height)
}

fn height_key(kind: u8, height: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(kind);
    key.extend_from_slice(&height.to_be_bytes());
    key
}

/// The height in a key of a block or window record.
pub(super) fn height_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// A block without its transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBlock {
    /// The header.
    pub header: Header,
    /// The entry that holds the transactions.
    pub log_index: u64,
    /// The entry's term.
    pub log_term: u64,
    /// Transactions in the block.
    pub transactions: u32,
    /// Sum of the payloads' lengths in bytes.
    pub bytes: u64,
    /// Positions in the entry that are not in the block, ascending.
    pub skipped: Vec<u32>,
}

impl StoredBlock {
    pub(super) fn encode(self) -> Bytes {
        let record = records::BlockRecord {
            header: Some(self.header.to_record()),
            log_index: self.log_index,
            log_term: self.log_term,
            transactions: self.transactions,
            bytes: self.bytes,
            skipped: self.skipped,
        };
        record.encode_to_vec().into()
    }

    /// Reads a block record, which must be the one of `height`.
    ///
    /// # Errors
    /// [`Error::Record`] if it does not decode or belongs to another height.
    pub fn decode(height: u64, value: Bytes) -> Result<Self> {
        let damaged = |cause: String| Error::record(format!("block {height}"), cause);
        let record = records::BlockRecord::decode(value).map_err(|error| damaged(error.to_string()))?;
        let header = record
            .header
            .as_ref()
            .and_then(Header::from_record)
            .ok_or_else(|| damaged("header missing or hash not of 32 bytes".into()))?;
        if header.number != height {
            return Err(damaged(format!("it says number {}", header.number)));
        }
        Ok(Self {
            header,
            log_index: record.log_index,
            log_term: record.log_term,
            transactions: record.transactions,
            bytes: record.bytes,
            skipped: record.skipped,
        })
    }
}

pub(super) fn encode_tip(tip: &Tip) -> Bytes {
    let record = records::LedgerTip {
        height: tip.height,
        hash: Bytes::copy_from_slice(tip.hash.as_bytes()),
        log_index: tip.log_index,
        timestamp_ms: tip.timestamp_ms,
        transactions: tip.transactions,
    };
    record.encode_to_vec().into()
}

pub(super) fn decode_tip(value: Bytes) -> Result<Tip> {
    let record =
        records::LedgerTip::decode(value).map_err(|error| Error::record("tip", error.to_string()))?;
    Ok(Tip {
        height: record.height,
        hash: Hash::from_slice(&record.hash).ok_or_else(|| Error::record("tip", "hash not of 32 bytes"))?,
        log_index: record.log_index,
        timestamp_ms: record.timestamp_ms,
        transactions: record.transactions,
    })
}

pub(super) fn decode_transaction(id: &[u8], value: Bytes) -> Result<records::TransactionRecord> {
    records::TransactionRecord::decode(value)
        .map_err(|error| Error::record(format!("transaction {}", hex::encode(id)), error.to_string()))
}

/// The window record of a block.
pub(super) fn encode_recent<'a>(hash: &Hash, keys: impl Iterator<Item = &'a IdKey>) -> Bytes {
    let mut buffer = Vec::with_capacity(32 + 33 * keys.size_hint().0);
    buffer.extend_from_slice(hash.as_bytes());
    for key in keys {
        key.encode(&mut buffer);
    }
    buffer.into()
}

/// Hash and keys of a window record.
pub(super) fn decode_recent(height: u64, value: &[u8]) -> Result<(Hash, Vec<IdKey>)> {
    let damaged = || Error::record(format!("window {height}"), "it does not decode");
    let (hash, mut rest) = value.split_first_chunk::<32>().ok_or_else(damaged)?;
    let mut keys = Vec::new();
    while !rest.is_empty() {
        keys.push(IdKey::decode(&mut rest).ok_or_else(damaged)?);
    }
    if keys.is_empty() {
        return Err(damaged());
    }
    Ok((Hash(*hash), keys))
}
