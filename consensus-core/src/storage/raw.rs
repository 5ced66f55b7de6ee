//! Reading keys and values as they are, and the readings that all stores on disk share.
//!
//! [`RawReader`] is the narrow door to an engine: get one value, walk a range. Opening a chain with its
//! checks (`load_chain`), serving a [`LogReader`](super::LogReader) and the inspection of a directory are
//! written once, on top of it, so that the server and the offline tools decode the same way.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::keys::{self, Family, Meta};
use super::records::{self, Record};
use super::shape::{self, LogShape};
use super::{
    Applied, ChainState, Error, HardState, Identity, LogEntry, PeerRecord, Position, Result, Snapshot,
};
use crate::ids::ChainId;

/// Entries whose checksums are verified at open, from the newest.
pub const OPEN_VERIFIED_ENTRIES_MAX: u64 = 10_000;

/// Bytes of entries whose checksums are verified at open, from the newest.
pub const OPEN_VERIFIED_BYTES_MAX: u64 = 64 << 20;

/// Which way a range is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Backward,
}

/// A range of keys of one family.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// The family.
    pub family: Family,
    /// First key.
    pub from: Vec<u8>,
    /// Exclusive end; `None` is the end of the family.
    pub to: Option<Vec<u8>>,
    /// Which way.
    pub direction: Direction,
}

impl KeyRange {
    /// A range that is walked ascending.
    pub fn forward(family: Family, from: Vec<u8>, to: Option<Vec<u8>>) -> Self {
        Self { family, from, to, direction: Direction::Forward }
    }

    /// The same range, walked descending.
    pub fn backward(self) -> Self {
        Self { direction: Direction::Backward, ..self }
    }
}

/// What a visitor of a range answers.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>;

/// Keys and values as they are.
pub trait RawReader: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// The engine's.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits each key of a range with its value until the visitor breaks.
    ///
    /// # Errors
    /// The engine's; what was visited before is sound.
    fn scan(&self, range: KeyRange, visit: Visit<'_>) -> Result<()>;

    /// In words, if the store knows that it has lost something that was durable.
    fn lost(&self) -> Option<String> {
        None
    }
}

/// Reads a chain's state and judges it, as [`LogWriter::open_chain`](super::LogWriter::open_chain) promises.
pub(crate) fn load_chain(raw: &dyn RawReader, chain: ChainId) -> Result<ChainState> {
    let identity = identity(raw, chain)?;
    let name = Some(identity.chain.as_str());
    let truncated: Position = required(raw, chain, Meta::Truncated, name)?;
    let mut state = ChainState {
        hard_state: required::<HardState>(raw, chain, Meta::HardState, name)?,
        applied: required::<Applied>(raw, chain, Meta::Applied, name)?,
        snapshot: optional::<Snapshot>(raw, chain, Meta::Snapshot, name)?,
        installing: optional::<Position>(raw, chain, Meta::Installing, name)?.is_some(),
        truncated,
        last: truncated,
        terms: term_starts(raw, chain, name)?,
        high_water: required(raw, chain, Meta::HighWater, name)?,
        identity: identity.clone(),
    };
    let Some(last) = last_entry(raw, chain, truncated.index, name)? else {
        shape::settle(&mut state)?;
        return Ok(state);
    };
    state.last = Position { index: last.index, term: last.term };
    shape::settle(&mut state)?;
    let first = first_index(raw, chain, truncated.index + 1)?;
    if first != Some(truncated.index + 1) {
        return Err(Error::Inconsistent(format!(
            "chain {}: the log begins at {}, must begin at {}",
            identity.chain,
            first.map_or_else(|| "an unreadable key".to_owned(), |index| index.to_string()),
            truncated.index + 1
        )));
    }
    verify_tail(raw, chain, &state)?;
    Ok(state)
}

/// Who owns a chain.
pub(crate) fn identity(raw: &dyn RawReader, chain: ChainId) -> Result<Identity> {
    let key = keys::meta(chain, Meta::Identity);
    let value = raw.get(Family::Meta, &key)?.ok_or(Error::NoChain(chain))?;
    let identity: Identity = records::read(Family::Meta, &key, None, &value)?;
    if identity.chain_id() == chain {
        return Ok(identity);
    }
    Err(Error::Inconsistent(format!(
        "the records of {chain:?} belong to chain {} incarnation {}, which is {:?}",
        identity.chain,
        identity.chain_incarnation,
        identity.chain_id()
    )))
}

/// The chains that have a record in the `meta` family, by their keys.
pub(crate) fn chain_ids(raw: &dyn RawReader) -> Result<Vec<ChainId>> {
    let mut chains = Vec::new();
    let mut from = Some(Vec::new());
    while let Some(start) = from.take() {
        let range = KeyRange::forward(Family::Meta, start, None);
        raw.scan(range, &mut |key, _| match keys::chain_of(key) {
            Some(chain) => {
                chains.push(chain);
                from = keys::chain_range(chain).1;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        })?;
    }
    Ok(chains)
}

/// The end of the log as stored, without the checks of an open: for stores that are only read.
pub(crate) fn stored_bounds(raw: &dyn RawReader, chain: ChainId) -> Result<(LogShape, String)> {
    let name = identity(raw, chain)?.chain;
    let truncated: Position = required(raw, chain, Meta::Truncated, Some(&name))?;
    let last = last_entry(raw, chain, truncated.index, Some(&name))?
        .map_or(truncated, |entry| Position { index: entry.index, term: entry.term });
    Ok((LogShape::bounds(truncated, last), name))
}

/// Entries `from..to` within the bounds of the log; see [`LogReader::entries`](super::LogReader::entries).
pub(crate) fn read_entries(
    raw: &dyn RawReader,
    chain: ChainId,
    name: &str,
    wanted: std::ops::Range<u64>,
    bytes_max: u64,
) -> Result<Vec<LogEntry>> {
    let mut found: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    let mut cut = false;
    let mut failure = None;
    let mut expected = wanted.start;
    let range = KeyRange::forward(
        Family::Log,
        keys::log(chain, wanted.start).to_vec(),
        Some(keys::log(chain, wanted.end).to_vec()),
    );
    raw.scan(range, &mut |key, value| {
        if keys::log_index(chain, key) != Some(expected) {
            return ControlFlow::Break(());
        }
        match records::decode_entry(key, expected, &value) {
            Ok(entry) => {
                bytes += entry.data.len() as u64;
                if !found.is_empty() && bytes > bytes_max {
                    cut = true;
                    return ControlFlow::Break(());
                }
                found.push(entry);
                expected += 1;
                ControlFlow::Continue(())
            }
            Err(cause) => {
                failure = Some(records::damaged(Family::Log, key, Some(name), cause));
                ControlFlow::Break(())
            }
        }
    })?;
    match failure {
        // What is sound in front of the damage is of no use without it: the caller wants to know.
        Some(error) => Err(error),
        None if cut || expected == wanted.end => Ok(found),
        None => Err(Error::Inconsistent(format!("chain {name}: log {expected} is missing"))),
    }
}

/// See [`LogReader::application_record`](super::LogReader::application_record).
pub(crate) fn read_application(raw: &dyn RawReader, chain: ChainId, key: &[u8]) -> Result<Option<Bytes>> {
    let key = keys::ledger(chain, key);
    let Some(value) = raw.get(Family::Ledger, &key)? else { return Ok(None) };
    let content = records::unframe(&key, &value);
    content.map(Some).map_err(|cause| records::damaged(Family::Ledger, &key, None, cause))
}

/// See [`LogReader::application_records`](super::LogReader::application_records).
pub(crate) fn read_application_range(
    raw: &dyn RawReader,
    chain: ChainId,
    from: &[u8],
    to: &[u8],
    count_max: usize,
) -> Result<Vec<(Vec<u8>, Bytes)>> {
    let mut found = Vec::new();
    if from >= to || count_max == 0 {
        return Ok(found);
    }
    let range = KeyRange::forward(Family::Ledger, keys::ledger(chain, from), Some(keys::ledger(chain, to)));
    let mut failure = None;
    raw.scan(range, &mut |key, value| match records::unframe(key, &value) {
        Ok(content) => {
            found.push((key[keys::CHAIN_BYTES..].to_vec(), content));
            if found.len() < count_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        Err(cause) => {
            failure = Some(records::damaged(Family::Ledger, key, None, cause));
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(found), Err)
}

/// See [`LogReader::peers`](super::LogReader::peers).
pub(crate) fn read_peers(raw: &dyn RawReader, chain: ChainId) -> Result<Vec<PeerRecord>> {
    let (from, to) = keys::peers(chain);
    read_all(raw, KeyRange::forward(Family::Meta, from, Some(to)), None)
}

fn term_starts(raw: &dyn RawReader, chain: ChainId, name: Option<&str>) -> Result<Vec<Position>> {
    let (from, to) = keys::term_starts(chain);
    let starts: Vec<Position> = read_all(raw, KeyRange::forward(Family::Meta, from, Some(to)), name)?;
    Ok(starts)
}

fn read_all<R: Record>(raw: &dyn RawReader, range: KeyRange, name: Option<&str>) -> Result<Vec<R>> {
    let mut found = Vec::new();
    let mut failure = None;
    let family = range.family;
    raw.scan(range, &mut |key, value| match records::read(family, key, name, &value) {
        Ok(record) => {
            found.push(record);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(found), Err)
}

fn required<R: Record>(raw: &dyn RawReader, chain: ChainId, record: Meta, name: Option<&str>) -> Result<R> {
    optional(raw, chain, record, name)?.ok_or_else(|| {
        let key = keys::meta(chain, record);
        records::damaged(Family::Meta, &key, name, "it is missing".to_owned())
    })
}

fn optional<R: Record>(
    raw: &dyn RawReader,
    chain: ChainId,
    record: Meta,
    name: Option<&str>,
) -> Result<Option<R>> {
    let key = keys::meta(chain, record);
    let Some(value) = raw.get(Family::Meta, &key)? else { return Ok(None) };
    records::read(Family::Meta, &key, name, &value).map(Some)
}

fn log_range(chain: ChainId, from: u64) -> KeyRange {
    KeyRange::forward(Family::Log, keys::log(chain, from).to_vec(), keys::chain_range(chain).1)
}

/// Index of the first log key of a chain at or after `from`, so that the compacted prefix is not walked over;
/// `None` if there is none or it is no log key.
fn first_index(raw: &dyn RawReader, chain: ChainId, from: u64) -> Result<Option<u64>> {
    let mut first = None;
    raw.scan(log_range(chain, from), &mut |key, _| {
        first = keys::log_index(chain, key);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

fn last_entry(
    raw: &dyn RawReader,
    chain: ChainId,
    truncated: u64,
    name: Option<&str>,
) -> Result<Option<LogEntry>> {
    let mut last = None;
    raw.scan(log_range(chain, truncated.saturating_add(1)).backward(), &mut |key, value| {
        let decoded = match keys::log_index(chain, key) {
            Some(index) => records::decode_entry(key, index, &value),
            None => Err("no log key".to_owned()),
        };
        last = Some(decoded.map_err(|cause| records::damaged(Family::Log, key, name, cause)));
        ControlFlow::Break(())
    })?;
    last.transpose()
}

/// Checksums, contiguity and terms of the newest entries.
fn verify_tail(raw: &dyn RawReader, chain: ChainId, state: &ChainState) -> Result<()> {
    let name = state.identity.chain.as_str();
    let shape = LogShape::of(state);
    let mut expected = state.last.index;
    let mut bytes = 0;
    let mut failure = None;
    let floor = state.truncated.index.max(state.last.index.saturating_sub(OPEN_VERIFIED_ENTRIES_MAX));
    let range = log_range(chain, floor + 1).backward();
    raw.scan(range, &mut |key, value| {
        if keys::log_index(chain, key) != Some(expected) {
            return ControlFlow::Break(());
        }
        match records::decode_entry(key, expected, &value) {
            Ok(entry) if shape.term_at(expected) == Some(entry.term) => {}
            Ok(entry) => {
                failure = Some(Error::Inconsistent(format!(
                    "chain {name}: log {expected} has term {}, the term starts say {:?}",
                    entry.term,
                    shape.term_at(expected)
                )));
                return ControlFlow::Break(());
            }
            Err(cause) => {
                failure = Some(records::damaged(Family::Log, key, Some(name), cause));
                return ControlFlow::Break(());
            }
        }
        bytes += value.len() as u64;
        expected -= 1;
        if bytes >= OPEN_VERIFIED_BYTES_MAX {
            expected = floor;
        }
        if expected > floor { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    match failure {
        Some(error) => Err(error),
        None if expected == floor => Ok(()),
        None => Err(Error::Inconsistent(format!("chain {name}: log {expected} is missing"))),
    }
}
