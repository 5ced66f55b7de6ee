//! Looking into a store without trusting it: what the offline tools show and verify.
//!
//! Nothing here fails because of what is stored: a damaged record is described in its place, and
//! [`verify_chain`] lists everything that is wrong as [`Finding`]s. Only an engine that cannot be read at all
//! is an error. Nothing is repaired, and nothing is judged that needs the application's understanding of its
//! records; their checksums are.

use std::ops::ControlFlow;

use bytes::Bytes;
use serde::Serialize;

use super::keys::{self, FORMAT_KEY, Family, Meta};
use super::raw::{self, KeyRange, RawReader};
use super::records::{self, Cause, Record};
use super::shape::{self, LogShape};
use super::{
    Applied, ChainState, Error, HardState, Identity, LogEntry, PeerRecord, Position, Result, Snapshot,
};
use crate::ids::ChainId;

/// Findings that one verification keeps; beyond them they are only counted.
pub const FINDINGS_MAX: usize = 1000;

/// A record as found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Field<T> {
    /// Sound.
    Present(T),
    /// Not there.
    Missing,
    /// There, and unreadable for this reason.
    Damaged(Cause),
}

impl<T> Field<T> {
    /// The record if it is sound.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(record) => Some(record),
            Self::Missing | Self::Damaged(_) => None,
        }
    }
}

/// A chain as found, unjudged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainInspection {
    /// The chain as keys name it.
    pub chain: ChainId,
    /// Owner.
    pub identity: Field<Identity>,
    /// Promises.
    pub hard_state: Field<HardState>,
    /// Applied index and membership.
    pub applied: Field<Applied>,
    /// Newest snapshot; often missing.
    pub snapshot: Field<Snapshot>,
    /// Position of a snapshot that is durable and not installed; mostly missing.
    pub installing: Field<Position>,
    /// The entry before the first kept one.
    pub truncated: Field<Position>,
    /// The last entry as the newest write recorded it.
    pub high_water: Field<Position>,
    /// Term starts by the index in their key; a damaged one at 0 stands for all that follow and cannot be read.
    pub terms: Vec<(u64, Field<Position>)>,
    /// Peers by the node in their key; a damaged one at 0 stands for all that follow and cannot be read.
    pub peers: Vec<(u64, Field<PeerRecord>)>,
    /// First index that has a key.
    pub first_index: Field<u64>,
    /// Last index that has a key.
    pub last_index: Field<u64>,
}

impl ChainInspection {
    /// The chain's name if its identity is sound.
    pub fn name(&self) -> Option<&str> {
        self.identity.present().map(|identity| identity.chain.as_str())
    }
}

/// One key of the log as found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedEntry {
    /// The index in its key.
    pub index: u64,
    /// Length of the stored value in bytes.
    pub stored_bytes: u64,
    /// The entry, or what is wrong with it.
    pub entry: std::result::Result<LogEntry, Cause>,
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A record's checksum, framing or content is wrong, or a data file is damaged.
    Damaged,
    /// A record that must be there is not.
    Missing,
    /// Indexes without entries between others.
    Gap,
    /// A term that falls, or that the recorded term starts contradict.
    Term,
    /// Records contradict each other.
    Relation,
    /// Something that must not be there.
    Stray,
}

/// Something wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// The record as people read it, e.g. `log 17 of chain main`.
    pub key: String,
    /// What is wrong with it.
    pub cause: String,
}

/// The outcome of a verification.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Verification {
    /// Log entries read.
    pub entries: u64,
    /// Stored bytes of the log read.
    pub log_bytes: u64,
    /// The application's records read.
    pub application_records: u64,
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// All findings.
    pub findings_total: u64,
}

impl Verification {
    /// Nothing is wrong.
    pub fn clean(&self) -> bool {
        self.findings_total == 0
    }

    fn add(&mut self, kind: FindingKind, key: String, cause: impl Into<String>) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, key, cause: cause.into() });
        }
    }

    fn absorb(&mut self, outcome: Result<()>, what: &str) {
        if let Err(error) = outcome {
            self.add(FindingKind::Damaged, what.to_owned(), error.to_string());
        }
    }
}

/// The format version of a store.
///
/// # Errors
/// The engine's.
pub fn format(raw: &dyn RawReader) -> Result<Field<u32>> {
    Ok(match raw.get(Family::Meta, FORMAT_KEY)? {
        None => Field::Missing,
        Some(value) => records::decode_format(&value).map_or_else(Field::Damaged, Field::Present),
    })
}

/// The chains that have any record in the `meta` family, ascending; their identities may be damaged.
///
/// # Errors
/// The engine's.
pub fn chains(raw: &dyn RawReader) -> Result<Vec<ChainId>> {
    raw::chain_ids(raw)
}

/// A chain as found.
///
/// # Errors
/// The engine's.
pub fn chain(raw: &dyn RawReader, chain: ChainId) -> Result<ChainInspection> {
    let (from, to) = keys::term_starts(chain);
    let terms = field_range(raw, from, to)?;
    let (from, to) = keys::peers(chain);
    let peers = field_range(raw, from, to)?;
    Ok(ChainInspection {
        chain,
        identity: field(raw, chain, Meta::Identity)?,
        hard_state: field(raw, chain, Meta::HardState)?,
        applied: field(raw, chain, Meta::Applied)?,
        snapshot: field(raw, chain, Meta::Snapshot)?,
        installing: field(raw, chain, Meta::Installing)?,
        truncated: field(raw, chain, Meta::Truncated)?,
        high_water: field(raw, chain, Meta::HighWater)?,
        terms,
        peers,
        first_index: edge_index(raw, log_keys(chain, 0, None), chain)?,
        last_index: edge_index(raw, log_keys(chain, 0, None).backward(), chain)?,
    })
}

/// Visits the log's keys in `from..to` (to exclusive; `None`: to its end) until the visitor breaks.
///
/// # Errors
/// The engine's.
pub fn scan_log(
    raw: &dyn RawReader,
    chain: ChainId,
    from: u64,
    to: Option<u64>,
    visit: &mut dyn FnMut(ScannedEntry) -> ControlFlow<()>,
) -> Result<()> {
    raw.scan(log_keys(chain, from, to), &mut |key, value| {
        // A key of another length is no entry; verification reports it.
        let Some(index) = keys::log_index(chain, key) else { return ControlFlow::Continue(()) };
        let entry = records::decode_entry(key, index, &value);
        visit(ScannedEntry { index, stored_bytes: value.len() as u64, entry })
    })
}

/// Verifies everything of a chain that can be verified without its application: every checksum, the log's
/// contiguity and terms, and the records against each other.
pub fn verify_chain(raw: &dyn RawReader, chain: ChainId) -> Verification {
    let mut verification = verify_log(raw, chain);
    verify_application(raw, chain, &mut verification);
    verification
}

/// The part of [`verify_chain`] that concerns Raft: the log and the `meta` records.
pub fn verify_log(raw: &dyn RawReader, chain: ChainId) -> Verification {
    let mut verification = Verification::default();
    if let Some(words) = raw.lost() {
        verification.add(FindingKind::Missing, "write-ahead log".to_owned(), words);
    }
    let inspection = match self::chain(raw, chain) {
        Ok(inspection) => inspection,
        Err(error) => {
            verification.absorb(Err(error), &format!("chain {chain}"));
            return verification;
        }
    };
    verify_fields(raw, &inspection, &mut verification);
    let walk = walk_log(raw, &inspection, &mut verification);
    verify_relations(&inspection, &walk, &mut verification);
    verification
}

/// What the walk over all entries found out.
struct Walk {
    /// The last sound or unsound entry's position; term 0 if it is unknown.
    last: Option<Position>,
}

fn walk_log(raw: &dyn RawReader, inspection: &ChainInspection, verification: &mut Verification) -> Walk {
    let chain = inspection.chain;
    let name = inspection.name();
    let describe = |key: &[u8]| keys::describe(Family::Log, key, name);
    let truncated = inspection.truncated.present().copied().unwrap_or_default();
    let recorded = recorded_terms(inspection);
    let mut expected = truncated.index + 1;
    let mut term = truncated.term;
    let mut last = None;
    let outcome = raw.scan(log_keys(chain, 0, None), &mut |key, value| {
        let Some(index) = keys::log_index(chain, key) else {
            verification.add(FindingKind::Stray, describe(key), "no log key");
            return ControlFlow::Continue(());
        };
        verification.entries += 1;
        verification.log_bytes += value.len() as u64;
        if index <= truncated.index {
            let cause = format!("entries up to {} are compacted", truncated.index);
            verification.add(FindingKind::Stray, describe(key), cause);
            return ControlFlow::Continue(());
        }
        if index != expected {
            let cause = format!("entries {expected}..={} are missing before it", index - 1);
            verification.add(FindingKind::Gap, describe(key), cause);
        }
        expected = index.saturating_add(1);
        match records::decode_entry(key, index, &value) {
            Ok(entry) => {
                verify_term(&recorded, &entry, term, &describe(key), verification);
                term = entry.term;
                last = Some(Position { index, term });
            }
            Err(cause) => {
                verification.add(FindingKind::Damaged, describe(key), cause);
                last = Some(Position { index, term: 0 });
            }
        }
        ControlFlow::Continue(())
    });
    verification.absorb(outcome, &format!("log after {} of chain {chain}", expected.saturating_sub(1)));
    Walk { last }
}

fn verify_term(
    recorded: &LogShape,
    entry: &LogEntry,
    before: u64,
    key: &str,
    verification: &mut Verification,
) {
    if entry.term < before {
        let cause = format!("term {} after term {before}", entry.term);
        verification.add(FindingKind::Term, key.to_owned(), cause);
    }
    let stated = recorded.term_at(entry.index);
    if stated != Some(entry.term) {
        let stated = stated.map_or_else(|| "none".to_owned(), |term| term.to_string());
        let cause = format!("term {}, the term starts say {stated}", entry.term);
        verification.add(FindingKind::Term, key.to_owned(), cause);
    }
}

fn recorded_terms(inspection: &ChainInspection) -> LogShape {
    LogShape::of_terms(
        inspection.truncated.present().copied().unwrap_or_default(),
        inspection.terms.iter().filter_map(|(_, start)| start.present().copied()).collect(),
    )
}

/// Each record by itself.
fn verify_fields(raw: &dyn RawReader, inspection: &ChainInspection, verification: &mut Verification) {
    let name = inspection.name();
    let chain = inspection.chain;
    let describe = |record: Meta| keys::describe(Family::Meta, &keys::meta(chain, record), name);
    let mut judge = |record: Meta, missing: bool, damaged: Option<&Cause>| {
        if missing {
            verification.add(FindingKind::Missing, describe(record), "it is missing");
        }
        if let Some(cause) = damaged {
            verification.add(FindingKind::Damaged, describe(record), cause.clone());
        }
    };
    fn parts<T>(field: &Field<T>) -> (bool, Option<&Cause>) {
        match field {
            Field::Present(_) => (false, None),
            Field::Missing => (true, None),
            Field::Damaged(cause) => (false, Some(cause)),
        }
    }
    let required = [
        (Meta::Identity, parts(&inspection.identity)),
        (Meta::HardState, parts(&inspection.hard_state)),
        (Meta::Applied, parts(&inspection.applied)),
        (Meta::Truncated, parts(&inspection.truncated)),
        (Meta::HighWater, parts(&inspection.high_water)),
    ];
    for (record, (missing, damaged)) in required {
        judge(record, missing, damaged);
    }
    judge(Meta::Snapshot, false, parts(&inspection.snapshot).1);
    judge(Meta::Installing, false, parts(&inspection.installing).1);
    for (index, start) in &inspection.terms {
        judge(Meta::TermStart(*index), false, parts(start).1);
    }
    if let Some(identity) = inspection.identity.present()
        && identity.chain_id() != chain
    {
        let cause = format!("it names chain {} with id {}", identity.chain, identity.chain_id());
        verification.add(FindingKind::Relation, describe(Meta::Identity), cause);
    }
    for (index, start) in &inspection.terms {
        if let Some(start) = start.present().filter(|start| start.index != *index) {
            let cause = format!("its record names index {}", start.index);
            verification.add(FindingKind::Relation, describe(Meta::TermStart(*index)), cause);
        }
    }
    verify_meta_keys(raw, inspection, verification);
}

/// Peers' records, and keys that name no record.
fn verify_meta_keys(raw: &dyn RawReader, inspection: &ChainInspection, verification: &mut Verification) {
    let name = inspection.name();
    let (from, to) = keys::chain_range(inspection.chain);
    let outcome = raw.scan(KeyRange::forward(Family::Meta, from, to), &mut |key, value| {
        let describe = || keys::describe(Family::Meta, key, name);
        match Meta::parse(&key[keys::CHAIN_BYTES..]) {
            None => verification.add(FindingKind::Stray, describe(), "no record has such a key"),
            Some(Meta::Peer(node)) => match PeerRecord::decode(key, &value) {
                Ok(peer) if peer.node_id == node => {}
                Ok(peer) => {
                    let cause = format!("its record names node {}", peer.node_id);
                    verification.add(FindingKind::Relation, describe(), cause);
                }
                Err(cause) => verification.add(FindingKind::Damaged, describe(), cause),
            },
            Some(_) => {}
        }
        ControlFlow::Continue(())
    });
    verification.absorb(outcome, "meta records");
}

/// The records against each other and against the log.
fn verify_relations(inspection: &ChainInspection, walk: &Walk, verification: &mut Verification) {
    let (Some(identity), Some(hard_state), Some(applied), Some(truncated), Some(high_water)) = (
        inspection.identity.present(),
        inspection.hard_state.present(),
        inspection.applied.present(),
        inspection.truncated.present(),
        inspection.high_water.present(),
    ) else {
        return;
    };
    let mut last = walk.last.unwrap_or(*truncated);
    if last.term == 0 && last.index == high_water.index {
        // The last entry is damaged, which is found already.
        last = *high_water;
    }
    let mut state = ChainState {
        identity: identity.clone(),
        hard_state: *hard_state,
        applied: applied.clone(),
        snapshot: inspection.snapshot.present().cloned(),
        installing: inspection.installing.present().is_some(),
        truncated: *truncated,
        last,
        terms: inspection.terms.iter().filter_map(|(_, start)| start.present().copied()).collect(),
        high_water: *high_water,
    };
    if matches!(inspection.snapshot, Field::Damaged(_)) {
        state.installing = false;
    }
    for words in shape::contradictions(&state) {
        verification.add(FindingKind::Relation, format!("chain {}", identity.chain), words);
    }
}

fn verify_application(raw: &dyn RawReader, chain: ChainId, verification: &mut Verification) {
    let (from, to) = keys::chain_range(chain);
    let outcome = raw.scan(KeyRange::forward(Family::Ledger, from, to), &mut |key, value| {
        verification.application_records += 1;
        if let Err(cause) = records::unframe(key, &value) {
            verification.add(FindingKind::Damaged, keys::describe(Family::Ledger, key, None), cause);
        }
        ControlFlow::Continue(())
    });
    verification.absorb(outcome, &format!("application records of chain {chain}"));
}

fn log_keys(chain: ChainId, from: u64, to: Option<u64>) -> KeyRange {
    let end = match to {
        Some(to) => Some(keys::log(chain, to).to_vec()),
        None => keys::chain_range(chain).1,
    };
    KeyRange::forward(Family::Log, keys::log(chain, from).to_vec(), end)
}

fn edge_index(raw: &dyn RawReader, range: KeyRange, chain: ChainId) -> Result<Field<u64>> {
    let mut found = None;
    let outcome = raw.scan(range, &mut |key, _| {
        found = keys::log_index(chain, key);
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    Ok(match damage_of(outcome)? {
        Err(cause) => Field::Damaged(cause),
        Ok(()) => found.map_or(Field::Missing, Field::Present),
    })
}

fn field<R: Record>(raw: &dyn RawReader, chain: ChainId, record: Meta) -> Result<Field<R>> {
    let key = keys::meta(chain, record);
    Ok(match damage_of(raw.get(Family::Meta, &key))? {
        Err(cause) => Field::Damaged(cause),
        Ok(value) => value.map_or(Field::Missing, |value| decode_field(&key, &value)),
    })
}

/// Tells damage, which is to be shown, from a failure of the engine.
fn damage_of<T>(outcome: Result<T>) -> Result<std::result::Result<T, Cause>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Damaged { key, cause }) => Ok(Err(format!("{key}: {cause}"))),
        Err(error) => Err(error),
    }
}

fn field_range<R: Record>(raw: &dyn RawReader, from: Vec<u8>, to: Vec<u8>) -> Result<Vec<(u64, Field<R>)>> {
    let mut found = Vec::new();
    let outcome = raw.scan(KeyRange::forward(Family::Meta, from, Some(to)), &mut |key, value| {
        let number = match Meta::parse(&key[keys::CHAIN_BYTES..]) {
            Some(Meta::TermStart(index)) => index,
            Some(Meta::Peer(node)) => node.get(),
            // A stray key, which the verification finds.
            _ => return ControlFlow::Continue(()),
        };
        found.push((number, decode_field(key, &value)));
        ControlFlow::Continue(())
    });
    if let Err(cause) = damage_of(outcome)? {
        found.push((0, Field::Damaged(cause)));
    }
    Ok(found)
}

fn decode_field<R: Record>(key: &[u8], value: &Bytes) -> Field<R> {
    R::decode(key, value).map_or_else(Field::Damaged, Field::Present)
}
