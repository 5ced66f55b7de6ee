//! The shape of one chain's log: where it begins and ends, where its terms begin, what is promised.
//!
//! Every store keeps a [`LogShape`] per open chain in memory. It judges a [`WriteBatch`] before anything is
//! written ([`LogShape::check`]) and says what the batch does to the log ([`LogShape::advance`]), so that
//! writing needs no read and no store has rules of its own. A refused batch is a programmer's error: it
//! would have put something on disk that Raft must never see.
//!
//! [`settle`] is the judgement over what was found on disk at open.

use std::ops::RangeInclusive;

use super::{ChainState, Error, HardState, Position, Result, WriteBatch};
use crate::reach::reach;

/// Bounds, terms and promises of a chain's log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LogShape {
    truncated: Position,
    last: Position,
    terms: Vec<Position>,
    hard_state: HardState,
    applied: u64,
}

/// What a batch does to the log, in the order of the fields.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LogChange {
    /// All entries and term starts go: a snapshot replaces them.
    pub(crate) replaced: bool,
    /// Indexes of the old tail that go.
    pub(crate) tail: Option<RangeInclusive<u64>>,
    /// Indexes that compaction removes.
    pub(crate) compacted: Option<RangeInclusive<u64>>,
    /// Term starts that go.
    pub(crate) terms_removed: Vec<u64>,
    /// Term starts that come.
    pub(crate) terms_added: Vec<Position>,
    /// The log ends elsewhere than before, or with another entry.
    pub(crate) end_moved: bool,
}

impl LogShape {
    /// The shape of a chain that was found at open.
    pub(crate) fn of(state: &ChainState) -> Self {
        Self {
            truncated: state.truncated,
            last: state.last,
            terms: state.terms.clone(),
            hard_state: state.hard_state,
            applied: state.applied.index,
        }
    }

    /// Only the bounds, for reading.
    pub(crate) fn bounds(truncated: Position, last: Position) -> Self {
        Self { truncated, last, ..Self::default() }
    }

    /// Only where terms begin, for a log whose end is not known.
    pub(crate) fn of_terms(truncated: Position, terms: Vec<Position>) -> Self {
        Self { truncated, last: Position { index: u64::MAX, term: 0 }, terms, ..Self::default() }
    }

    /// The entry before the first kept one.
    pub(crate) fn truncated(&self) -> Position {
        self.truncated
    }

    /// The last entry, or `truncated` if there is none.
    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// Term starts of the kept entries.
    pub(crate) fn terms(&self) -> &[Position] {
        &self.terms
    }

    /// The newest promises.
    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Whether `from..to` is kept.
    pub(crate) fn covers(&self, from: u64, to: u64) -> Result<()> {
        if from <= self.truncated.index {
            return Err(Error::Compacted { from, first: self.truncated.index + 1 });
        }
        if to > self.last.index.saturating_add(1) {
            return Err(Error::Unavailable { to, last: self.last.index });
        }
        Ok(())
    }

    /// Term of an entry; `None` outside the log.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        if index < self.truncated.index || index > self.last.index {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        after.checked_sub(1).map(|i| self.terms[i].term)
    }

    /// Judges a batch; nothing changes.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] with the rule that the batch breaks.
    pub(crate) fn check(&self, batch: &WriteBatch) -> Result<()> {
        self.judge(batch)
            .map_err(|broken| Error::Inconsistent(format!("refused write to {:?}: {broken}", batch.chain)))
    }

    fn judge(&self, batch: &WriteBatch) -> std::result::Result<(), String> {
        let mut base = self.truncated;
        let mut end = self.last;
        let mut promised = self.hard_state;
        let mut applied = self.applied;
        if let Some(snapshot) = &batch.install {
            let at = snapshot.position;
            let floor = promised.commit.max(applied);
            if at.index <= floor {
                return Err(format!(
                    "snapshot at {} is not above what is committed or applied ({floor})",
                    at.index
                ));
            }
            (base, end, applied) = (at, at, at.index);
            promised.commit = promised.commit.max(at.index);
        }
        if let Some(from) = batch.truncate_from {
            let floor = promised.commit.max(applied).max(base.index);
            if from <= floor {
                return Err(format!("truncation from {from} reaches what is committed or applied ({floor})"));
            }
            if from > end.index + 1 {
                return Err(format!("truncation from {from} leaves a gap after {}", end.index));
            }
            let kept = from - 1;
            let term = if kept == end.index { Some(end.term) } else { self.term_at(kept) };
            end = Position { index: kept, term: term.ok_or_else(|| format!("no term known for {kept}"))? };
        }
        for entry in &batch.entries {
            if entry.index != end.index + 1 {
                return Err(format!("entry {} does not follow {}", entry.index, end.index));
            }
            if entry.term < end.term || entry.term == 0 {
                return Err(format!(
                    "entry {} has term {}, the one before {}",
                    entry.index, entry.term, end.term
                ));
            }
            end = Position { index: entry.index, term: entry.term };
        }
        if let Some(next) = batch.hard_state {
            promised = judge_hard_state(promised, next, end)?;
        }
        if promised.term < end.term {
            return Err(format!("hard state has term {}, the last entry {}", promised.term, end.term));
        }
        if let Some(next) = &batch.applied {
            if next.index < applied || next.index > end.index {
                return Err(format!("applied {} is not within {applied}..={}", next.index, end.index));
            }
            applied = next.index;
        }
        if let Some(snapshot) = &batch.snapshot
            && snapshot.position.index > applied
        {
            return Err(format!(
                "snapshot at {} is above the applied index {applied}",
                snapshot.position.index
            ));
        }
        self.judge_compaction(batch, base, applied)
    }

    fn judge_compaction(
        &self,
        batch: &WriteBatch,
        base: Position,
        applied: u64,
    ) -> std::result::Result<(), String> {
        let Some(to) = batch.compact_to.filter(|to| to.index > base.index) else { return Ok(()) };
        if to.index > applied {
            return Err(format!("compaction to {} is above the applied index {applied}", to.index));
        }
        let written = batch.entries.first().and_then(|first| {
            let offset = to.index.checked_sub(first.index)?;
            batch.entries.get(offset as usize).map(|entry| entry.term)
        });
        let term = written.or_else(|| self.term_at(to.index));
        if term != Some(to.term) {
            return Err(format!("compaction to {} names term {}, the entry has {term:?}", to.index, to.term));
        }
        Ok(())
    }

    /// Takes over a batch that [`Self::check`] has passed, and says what it does to the log.
    pub(crate) fn advance(&mut self, batch: &WriteBatch) -> LogChange {
        let mut change = LogChange::default();
        let old_last = self.last;
        if let Some(snapshot) = &batch.install {
            change.replaced = true;
            reach!(LogReplacedOnDisk, self.last != self.truncated);
            self.terms.clear();
            self.truncated = snapshot.position;
            self.last = snapshot.position;
            self.applied = snapshot.position.index;
            self.hard_state.commit = self.hard_state.commit.max(snapshot.position.index);
        }
        if let Some(from) = batch.truncate_from.filter(|from| *from <= self.last.index) {
            let term = self.term_at(from - 1).expect("a checked truncation has a term before it");
            change.tail = Some(from..=self.last.index);
            reach!(TailRemovedOnDisk);
            let kept = self.terms.partition_point(|start| start.index < from);
            change.terms_removed.extend(self.terms.drain(kept..).map(|start| start.index));
            self.last = Position { index: from - 1, term };
        }
        for entry in &batch.entries {
            let position = Position { index: entry.index, term: entry.term };
            if self.terms.last().is_none_or(|start| start.term != entry.term) {
                self.terms.push(position);
                change.terms_added.push(position);
            }
            self.last = position;
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(applied) = &batch.applied {
            self.applied = applied.index;
        }
        change.end_moved = change.replaced || self.last != old_last || change.tail.is_some();
        if let Some(to) = batch.compact_to.filter(|to| to.index > self.truncated.index) {
            self.compact(to, &mut change);
        }
        change
    }

    /// Plays the loss of all entries from an index on; only for a store that simulates it.
    pub(crate) fn forget_from(&mut self, from: u64) {
        if let Some(term) = self.term_at(from.saturating_sub(1)) {
            self.last = Position { index: from - 1, term };
            self.terms.retain(|start| start.index < from);
        }
    }

    fn compact(&mut self, to: Position, change: &mut LogChange) {
        change.compacted = Some(self.truncated.index + 1..=to.index);
        let next = to.index + 1;
        let next_term = self.term_at(next);
        let gone = self.terms.partition_point(|start| start.index <= to.index);
        for start in self.terms.drain(..gone) {
            change.terms_added.retain(|added| added.index != start.index);
            change.terms_removed.push(start.index);
        }
        if let Some(term) = next_term
            && self.terms.first().is_none_or(|start| start.index != next)
        {
            let start = Position { index: next, term };
            reach!(CompactedWithinATerm);
            self.terms.insert(0, start);
            change.terms_added.push(start);
        }
        self.truncated = to;
    }
}

fn judge_hard_state(old: HardState, new: HardState, end: Position) -> std::result::Result<HardState, String> {
    if new.term < old.term {
        return Err(format!("term {} after term {}", new.term, old.term));
    }
    if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
        return Err(format!("vote for {:?} in term {} after a vote for {:?}", new.vote, new.term, old.vote));
    }
    if new.commit < old.commit || new.commit > end.index {
        return Err(format!("commit {} is not within {}..={}", new.commit, old.commit, end.index));
    }
    Ok(new)
}

/// Judges the records of a chain against each other, as they were found at open, and repairs what the log
/// proves: a commit index below the applied one.
///
/// # Errors
/// [`Error::Inconsistent`] with the numbers that contradict each other.
pub(crate) fn settle(state: &mut ChainState) -> Result<()> {
    if state.applied.index <= state.last.index {
        state.hard_state.commit = state.hard_state.commit.max(state.applied.index);
    }
    match contradictions(state).into_iter().next() {
        None => Ok(()),
        Some(words) => Err(Error::Inconsistent(format!("chain {}: {words}", state.identity.chain))),
    }
}

/// All contradictions among a chain's records, in words.
pub(crate) fn contradictions(state: &ChainState) -> Vec<String> {
    let mut found = Vec::new();
    let ChainState { hard_state, applied, truncated, last, high_water, .. } = state;
    if high_water != last {
        reach!(LostEndFound);
        found.push(format!(
            "the log ends at {} (term {}), the high-water mark says {} (term {}): entries were lost",
            last.index, last.term, high_water.index, high_water.term
        ));
    }
    if applied.index > last.index {
        found.push(format!("applied is {}, but the log ends at {}", applied.index, last.index));
    }
    if applied.index < truncated.index {
        found.push(format!("applied is {}, but the log begins after {}", applied.index, truncated.index));
    }
    if hard_state.commit > last.index {
        found.push(format!("commit is {}, but the log ends at {}", hard_state.commit, last.index));
    }
    if hard_state.term < last.term {
        found.push(format!("the hard state has term {}, but the last entry {}", hard_state.term, last.term));
    }
    match &state.snapshot {
        Some(snapshot) if snapshot.position.index > applied.index => found.push(format!(
            "the snapshot is at {}, but applied is {}",
            snapshot.position.index, applied.index
        )),
        None if state.installing => found.push("a snapshot is being installed, but there is none".to_owned()),
        _ => {}
    }
    found.extend(term_contradictions(state));
    found
}

fn term_contradictions(state: &ChainState) -> Vec<String> {
    let mut found = Vec::new();
    let ChainState { truncated, last, terms, .. } = state;
    if truncated.index == last.index {
        if let Some(start) = terms.first() {
            found.push(format!("the log is empty, but term {} begins at {}", start.term, start.index));
        }
        return found;
    }
    match terms.first() {
        None => found.push("no term start is recorded".to_owned()),
        Some(start) if start.index != truncated.index + 1 => found.push(format!(
            "the first term start is at {}, but the log begins at {}",
            start.index,
            truncated.index + 1
        )),
        Some(_) => {}
    }
    for pair in terms.windows(2) {
        if pair[1].index <= pair[0].index || pair[1].term <= pair[0].term {
            found.push(format!(
                "term {} begins at {}, after term {} at {}",
                pair[1].term, pair[1].index, pair[0].term, pair[0].index
            ));
        }
    }
    if let Some(start) = terms.last()
        && (start.index > last.index || start.term != last.term)
    {
        found.push(format!(
            "the newest term start is term {} at {}, but the last entry is {} (term {})",
            start.term, start.index, last.index, last.term
        ));
    }
    found
}
