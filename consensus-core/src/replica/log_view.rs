//! The log as the `raft` crate sees it: what the store holds, plus the newest entries in memory.
//!
//! Positions and terms of all kept entries are answered from memory; payloads come from the tail in
//! memory or, for what a slow follower or a restart needs, from the store. Entries the writer has not yet
//! written are always in the tail, because the store cannot show them.
//!
//! A failed read cannot be returned to the crate without a panic there, so it is remembered
//! ([`LogView::take_damage`]) and ends the round.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{Entry, Snapshot as RaftSnapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use crate::ids::ChainId;
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{self, ChainState, ConfState, HardState, LogEntry, LogReader, Position, Snapshot};

/// Bytes that an entry counts beyond its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 32;
/// Step in which a scan without a bound reads from the store.
const SCAN_BYTES: u64 = 1 << 20;

pub(super) struct LogView {
    chain: ChainId,
    reader: Arc<dyn LogReader>,
    truncated: Position,
    last: u64,
    terms: Vec<Position>,
    tail: VecDeque<LogEntry>,
    tail_bytes: u64,
    tail_bytes_max: u64,
    /// Entries up to here may leave the tail: the store shows them.
    stored: u64,
    hard_state: HardState,
    conf_state: ConfState,
    /// The last change of the membership since the start; 0 before the first.
    changed_at: u64,
    /// Applied at the start.
    started_at: u64,
    /// Whether the membership changed between this index and the start, once somebody wanted to know.
    changed_before_start: Cell<Option<(u64, bool)>>,
    snapshot: Option<Snapshot>,
    snapshot_wanted: Cell<bool>,
    /// Give out no committed entries for now.
    hold_back: bool,
    damage: RefCell<Option<storage::Error>>,
}

impl LogView {
    pub(super) fn new(state: &ChainState, reader: Arc<dyn LogReader>, tail_bytes_max: u64) -> Self {
        Self {
            chain: state.identity.chain_id(),
            reader,
            truncated: state.truncated,
            last: state.last.index,
            terms: state.terms.clone(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
            stored: state.last.index,
            hard_state: state.hard_state,
            conf_state: state.applied.conf_state.clone(),
            changed_at: 0,
            started_at: state.applied.index,
            changed_before_start: Cell::new(None),
            snapshot: state.snapshot.clone(),
            snapshot_wanted: Cell::new(false),
            hold_back: false,
            damage: RefCell::new(None),
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.truncated.index + 1
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The membership from an index on.
    pub(super) fn set_conf_state(&mut self, conf_state: ConfState, index: u64) {
        self.conf_state = conf_state;
        self.changed_at = index;
    }

    pub(super) fn changed_at(&self) -> u64 {
        self.changed_at
    }

    /// While set, the crate finds no committed entries to hand out, however many there are.
    pub(super) fn set_hold_back(&mut self, hold_back: bool) {
        self.hold_back = hold_back;
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |s| s.position.index)
    }

    /// Whether the crate asked for a snapshot that is not there, since the last call.
    pub(super) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// A read that failed since the last call.
    pub(super) fn take_damage(&self) -> Option<storage::Error> {
        self.damage.take()
    }

    /// Makes entries visible; what stood at or above the first of them is replaced. Returns the first
    /// index of a replaced tail.
    pub(super) fn append(&mut self, entries: &[LogEntry]) -> Option<u64> {
        let first = entries.first()?.index;
        assert!(
            first > self.truncated.index && first <= self.last + 1,
            "entries from {first} do not join a log of {}..={}",
            self.first(),
            self.last
        );
        let replaced = (first <= self.last).then_some(first);
        if replaced.is_some() {
            self.remove_from(first);
        }
        for entry in entries {
            assert_eq!(entry.index, self.last + 1, "entries are contiguous");
            if self.terms.last().is_none_or(|start| start.term != entry.term) {
                self.terms.push(Position { index: entry.index, term: entry.term });
            }
            self.tail_bytes += weight(entry);
            self.tail.push_back(entry.clone());
            self.last = entry.index;
        }
        replaced
    }

    fn remove_from(&mut self, first: u64) {
        while self.terms.last().is_some_and(|start| start.index >= first) {
            self.terms.pop();
        }
        while let Some(entry) = self.tail.pop_back_if(|entry| entry.index >= first) {
            self.tail_bytes -= weight(&entry);
        }
        self.last = first - 1;
        self.stored = self.stored.min(self.last);
    }

    /// The store shows entries up to `index` now: the tail may shrink to its bound.
    pub(super) fn stored_to(&mut self, index: u64) {
        self.stored = self.stored.max(index.min(self.last));
        while self.tail_bytes > self.tail_bytes_max {
            match self.tail.pop_front_if(|entry| entry.index <= self.stored) {
                Some(entry) => {
                    reach!(TailLetGo);
                    self.tail_bytes -= weight(&entry);
                }
                None => break,
            }
        }
    }

    /// Forgets entries up to `to`, which the store may remove.
    pub(super) fn compact(&mut self, to: Position) {
        assert!(to.index >= self.truncated.index && to.index <= self.last, "compaction stays within the log");
        self.truncated = to;
        while let Some(entry) = self.tail.pop_front_if(|entry| entry.index <= to.index) {
            self.tail_bytes -= weight(&entry);
        }
        self.drop_term_starts(to.index);
    }

    /// Keeps the term run that covers the first kept entry, moved to start there.
    fn drop_term_starts(&mut self, upto: u64) {
        let covering = self.terms.partition_point(|start| start.index <= upto + 1);
        if covering == 0 {
            return;
        }
        self.terms.drain(..covering - 1);
        if upto >= self.last {
            self.terms.clear();
        } else if let Some(first) = self.terms.first_mut() {
            first.index = first.index.max(upto + 1);
        }
    }

    pub(super) fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Replaces everything by a received snapshot.
    pub(super) fn install(&mut self, snapshot: &Snapshot) {
        self.truncated = snapshot.position;
        self.last = snapshot.position.index;
        self.stored = self.last;
        self.terms.clear();
        self.tail.clear();
        self.tail_bytes = 0;
        self.set_conf_state(snapshot.conf_state.clone(), snapshot.position.index);
        self.snapshot = Some(snapshot.clone());
    }

    /// The term of an entry or of the position before the first.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        if index < self.truncated.index || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|start| start.index <= index);
        run.checked_sub(1).map(|run| self.terms[run].term)
    }

    /// Whether no entry behind this index, which is kept, has changed the membership so far.
    fn is_unchanged_since(&self, index: u64) -> bool {
        if index < self.changed_at {
            return false;
        }
        if index >= self.started_at {
            return true;
        }
        if let Some((from, changed)) = self.changed_before_start.get()
            && from == index
        {
            return !changed;
        }
        let changed = self.has_change(index + 1, self.started_at + 1);
        self.changed_before_start.set(Some((index, changed)));
        !changed
    }

    /// Whether an entry in this range changes the membership; one that cannot be read may.
    fn has_change(&self, mut low: u64, high: u64) -> bool {
        while low < high {
            let Ok(part) = self.read(low, high, SCAN_BYTES) else { return true };
            if part.iter().any(|entry| entry.get_entry_type() != raft::eraftpb::EntryType::EntryNormal) {
                return true;
            }
            low += part.len() as u64;
        }
        false
    }

    fn read_tail(&self, low: u64, high: u64, bytes_max: u64) -> Vec<Entry> {
        let Some(front) = self.tail.front().map(|entry| entry.index) else { return Vec::new() };
        let mut bytes = 0;
        let mut out = Vec::new();
        for entry in self.tail.range((low - front) as usize..(high - front) as usize) {
            bytes += weight(entry);
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone().into());
        }
        out
    }

    fn read_store(&self, low: u64, high: u64, bytes_max: u64) -> raft::Result<Vec<Entry>> {
        reach!(EntriesReadFromStore);
        match self.reader.entries(self.chain, low, high, bytes_max) {
            Ok(entries) => Ok(entries.into_iter().map(Entry::from).collect()),
            Err(error) => {
                *self.damage.borrow_mut() = Some(error);
                Err(StorageError::LogTemporarilyUnavailable.into())
            }
        }
    }

    /// Entries for a scan that has no bound: the crate looks only at their types, so the payloads of normal
    /// entries stay out of memory.
    fn scan(&self, mut low: u64, high: u64) -> raft::Result<Vec<Entry>> {
        let mut out = Vec::new();
        reach!(UnappliedScanned, low < high);
        while low < high {
            let part = self.read(low, high, SCAN_BYTES)?;
            low += part.len() as u64;
            out.extend(part.into_iter().map(|mut entry| {
                if entry.get_entry_type() == raft::eraftpb::EntryType::EntryNormal {
                    entry.data.clear();
                }
                entry
            }));
        }
        Ok(out)
    }

    /// At least one entry; fewer than asked where the store's part ends or the bound is met.
    fn read(&self, low: u64, high: u64, bytes_max: u64) -> raft::Result<Vec<Entry>> {
        match self.tail.front().map(|entry| entry.index) {
            Some(front) if low >= front => Ok(self.read_tail(low, high, bytes_max)),
            Some(front) => self.read_store(low, high.min(front), bytes_max),
            None => self.read_store(low, high, bytes_max),
        }
    }
}

fn weight(entry: &LogEntry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

impl raft::Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut members = self.conf_state.clone();
        if mutant::is(Mutant::LearnerCounted) {
            members.voters.append(&mut members.learners);
        }
        Ok(RaftState::new(self.hard_state.into(), (&members).into()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last + 1 {
            return Err(StorageError::Unavailable.into());
        }
        match max_size.into() {
            // Bounded and not for a peer: committed entries for a Ready. None is a legal answer.
            Some(_) if self.hold_back && !context.can_async() => Ok(Vec::new()),
            Some(bytes_max) => self.read(low, high, bytes_max),
            None if context.can_async() => self.read(low, high, u64::MAX),
            None => self.scan(low, high),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_of(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<RaftSnapshot> {
        match &self.snapshot {
            Some(snapshot)
                if snapshot.position.index >= request_index.max(self.truncated.index)
                    && snapshot.position.index > 0
                    // A newcomer refuses a snapshot from before its own admission, and one from before its removal
                    // and return would make it live through them once more.
                    && self.is_unchanged_since(snapshot.position.index) =>
            {
                Ok(snapshot.clone().into())
            }
            _ => {
                reach!(
                    SnapshotFromBeforeTheChange,
                    self.snapshot.as_ref().is_some_and(|snapshot| snapshot.position.index < self.changed_at)
                );
                self.snapshot_wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
