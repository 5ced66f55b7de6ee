//! What a node's log contains, kept by the simulator beside the store.
//!
//! An image follows the same write batches as the store and keeps of each entry only its term and a hash.
//! A node has one image of what its replica handed out and one of what is durable: the invariants compare
//! images of different nodes in constant time, and a reopened store must equal its durable image.

use std::collections::VecDeque;
use std::hash::{Hash as _, Hasher as _};

use bytes::Bytes;

use super::trace::ContentHasher;
use crate::storage::{EntryKind, HardState, LogEntry, Position, WriteBatch};

/// An entry as images know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryDigest {
    /// Its term.
    pub term: u64,
    /// A hash over kind, context and payload.
    pub content: u64,
}

impl EntryDigest {
    /// Of an entry.
    pub fn of(entry: &LogEntry) -> Self {
        let mut hasher = ContentHasher::default();
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        };
        hasher.write_u64(kind);
        entry.context[..].hash(&mut hasher);
        entry.data[..].hash(&mut hasher);
        Self { term: entry.term, content: hasher.finish() }
    }

    /// The hash over a payload that is proposed.
    pub fn content_of(data: &Bytes) -> u64 {
        let (index, term, kind) = (0, 0, EntryKind::Normal);
        Self::of(&LogEntry { index, term, kind, context: Bytes::new(), data: data.clone() }).content
    }

    /// Of all entries of a batch.
    pub fn of_batch(batch: &WriteBatch) -> Vec<Self> {
        batch.entries.iter().map(Self::of).collect()
    }
}

/// A log without its payloads. Two are equal if they contain the same, whoever has looked at them.
#[derive(Clone, Debug, Default)]
pub struct LogImage {
    base: Position,
    entries: VecDeque<EntryDigest>,
    hard_state: HardState,
    applied: u64,
    snapshot: u64,
    changed_from: Option<u64>,
}

impl PartialEq for LogImage {
    fn eq(&self, other: &Self) -> bool {
        let content = |image: &Self| (image.base, image.hard_state, image.applied, image.snapshot);
        content(self) == content(other) && self.entries == other.entries
    }
}

impl LogImage {
    /// From what a store says at open; `snapshot` is the index of its newest snapshot, 0 without one.
    pub fn new(base: Position, hard_state: HardState, applied: u64, snapshot: u64) -> Self {
        Self { base, hard_state, applied, snapshot, ..Self::default() }
    }

    /// Appends one entry that the store has.
    pub fn push(&mut self, digest: EntryDigest) {
        self.entries.push_back(digest);
    }

    /// Promises.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Applied index.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The lowest index whose entry is not what it was at the last call; `None` if all are.
    pub fn take_changed_from(&mut self) -> Option<u64> {
        self.changed_from.take()
    }

    fn changed(&mut self, index: u64) {
        self.changed_from = Some(self.changed_from.map_or(index, |from| from.min(index)));
    }

    /// Does what opening a store does: what is applied is committed.
    pub fn settle(&mut self) {
        self.hard_state.commit = self.hard_state.commit.max(self.applied);
    }

    /// The position before the first entry kept.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The last index.
    pub fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// The entry at an index, if it is kept.
    pub fn entry(&self, index: u64) -> Option<EntryDigest> {
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).copied()
    }

    /// Whether the log has this very entry, or had it and keeps it in a snapshot.
    pub fn holds(&self, index: u64, digest: EntryDigest) -> bool {
        index <= self.base.index || self.entry(index) == Some(digest)
    }

    /// Follows a batch whose entries have these digests.
    ///
    /// # Errors
    /// Why the batch does not fit the log.
    pub fn write(&mut self, batch: &WriteBatch, digests: &[EntryDigest]) -> Result<(), String> {
        if let Some(snapshot) = &batch.install {
            self.changed(snapshot.position.index);
            self.base = snapshot.position;
            self.snapshot = snapshot.position.index;
            self.entries.clear();
            self.applied = snapshot.position.index;
            self.hard_state.commit = self.hard_state.commit.max(snapshot.position.index);
        }
        if let Some(from) = batch.truncate_from {
            let keep = from.checked_sub(self.base.index + 1);
            let keep = keep
                .ok_or_else(|| format!("tail from {from} removed, log begins after {}", self.base.index))?;
            self.entries.truncate(keep as usize);
            self.changed(from);
        }
        for (entry, digest) in batch.entries.iter().zip(digests) {
            if entry.index != self.last() + 1 {
                return Err(format!("entry {} written after {}", entry.index, self.last()));
            }
            self.entries.push_back(*digest);
            self.changed(entry.index);
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(applied) = &batch.applied {
            self.applied = applied.index;
        }
        if let Some(snapshot) = &batch.snapshot {
            self.snapshot = snapshot.position.index;
        }
        batch.compact_to.map_or(Ok(()), |to| self.compact(to))
    }

    fn compact(&mut self, to: Position) -> Result<(), String> {
        if to.index > self.last() {
            return Err(format!("compacted to {}, the last entry is {}", to.index, self.last()));
        }
        if to.index > self.snapshot {
            return Err(format!("compacted to {}, the snapshot is at {}", to.index, self.snapshot));
        }
        while self.base.index < to.index {
            let Some(gone) = self.entries.pop_front() else { break };
            self.base = Position { index: self.base.index + 1, term: gone.term };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ChainId;
    use crate::storage::{ConfState, Snapshot};

    fn batch(truncate_from: Option<u64>, entries: &[(u64, u64)], compact_to: Option<Position>) -> WriteBatch {
        let entries = entries.iter().map(|(index, term)| LogEntry {
            index: *index,
            term: *term,
            kind: EntryKind::Normal,
            context: bytes::Bytes::new(),
            data: bytes::Bytes::from(vec![*index as u8, *term as u8]),
        });
        let chain = ChainId::derive("image", 0);
        WriteBatch { truncate_from, entries: entries.collect(), compact_to, ..WriteBatch::new(chain) }
    }

    fn write(image: &mut LogImage, batch: &WriteBatch) -> Result<(), String> {
        image.write(batch, &EntryDigest::of_batch(batch))
    }

    #[test]
    fn an_overwritten_tail_is_gone_and_a_compacted_head_still_holds() {
        let mut image = LogImage::default();
        write(&mut image, &batch(None, &[(1, 1), (2, 1), (3, 1)], None)).unwrap();
        let old = image.entry(2).unwrap();
        write(&mut image, &batch(Some(2), &[(2, 2)], None)).unwrap();
        assert_eq!(image.last(), 2);
        assert!(!image.holds(2, old));
        assert_eq!(image.entry(3), None);
        let compaction = batch(None, &[], Some(Position { index: 1, term: 1 }));
        let refused = write(&mut image.clone(), &compaction).unwrap_err();
        assert_eq!(refused, "compacted to 1, the snapshot is at 0");
        let position = Position { index: 1, term: 1 };
        let snapshot = Snapshot { position, conf_state: ConfState::default(), data: bytes::Bytes::new() };
        write(&mut image, &WriteBatch { snapshot: Some(snapshot), ..compaction }).unwrap();
        assert_eq!(image.base(), Position { index: 1, term: 1 });
        assert!(image.holds(1, old));
        assert_eq!(image.entry(2).unwrap().term, 2);
    }

    #[test]
    fn what_has_changed_is_told_once() {
        let mut image = LogImage::default();
        assert_eq!(image.take_changed_from(), None);
        write(&mut image, &batch(None, &[(1, 1), (2, 1), (3, 1)], None)).unwrap();
        assert_eq!((image.take_changed_from(), image.take_changed_from()), (Some(1), None));
        let same = image.clone();
        write(&mut image, &batch(Some(3), &[(3, 1), (4, 1)], None)).unwrap();
        assert_eq!(image.take_changed_from(), Some(3));
        write(&mut image, &batch(Some(4), &[], None)).unwrap();
        assert_eq!(image, same, "who has looked makes no difference");
    }

    #[test]
    fn a_gap_is_refused() {
        let mut image = LogImage::default();
        assert_eq!(write(&mut image, &batch(None, &[(2, 1)], None)).unwrap_err(), "entry 2 written after 0");
        write(&mut image, &batch(None, &[(1, 1)], None)).unwrap();
        write(&mut image, &batch(None, &[(1, 2)], None))
            .expect_err("overwritten without removal of the tail");
    }
}
