//! S2: if two logs have an entry with the same index and term, they are identical up to it (log matching;
//! Raft paper, figure 3 and section 5.3).
//!
//! Each durable log has a rolling hash at every index. The first log that has an entry of a term at an index
//! decides the hash there for all others, so that one lookup compares a log with all that ever were.

use super::{Verdict, Violation, is_named};
use crate::sim::image::LogImage;
use crate::sim::rng::scramble;
use crate::storage::{ConfState, Position};

const NAME: &str = "S2 log matching";

/// A log up to an index, by the term of the entry there.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    term: u64,
    hash: u64,
}

/// The rolling hashes of all logs.
#[derive(Debug)]
pub struct LogMatching {
    /// By index: every term that ever stood there.
    known: Vec<Vec<Prefix>>,
    /// By node and index: the hash of the durable log up to there.
    logs: Vec<Vec<u64>>,
}

impl LogMatching {
    /// For nodes `0..nodes`, of which the founders, by id, have a snapshot at this position (index 0: none) and the
    /// others nothing.
    pub fn new(nodes: usize, founders: &ConfState, founded_at: Position) -> Self {
        let mut known = vec![vec![Prefix { term: 0, hash: 0 }]];
        known.resize_with(founded_at.index as usize + 1, Vec::new);
        if founded_at.index > 0 {
            known[founded_at.index as usize].push(Prefix { term: founded_at.term, hash: 0 });
        }
        let length = |id| if is_named(founders, id) { founded_at.index as usize + 1 } else { 1 };
        Self { known, logs: (1..=nodes as u64).map(|id| vec![0; length(id)]).collect() }
    }

    /// A node gets an empty store.
    pub fn begins_anew(&mut self, node: usize) {
        self.logs[node] = vec![0];
    }

    /// A node's durable log has changed from the index `from` on.
    pub fn changed(&mut self, node: usize, from: u64, log: &LogImage) -> Verdict {
        let base = log.base();
        let mut next = from;
        if from <= base.index {
            // A snapshot stands for the log up to it: of the log that all others have there.
            let Some(hash) = self.known_hash(base.index, base.term) else {
                let detail = format!("n{} has a log behind {base:?}, which no log ever had", node + 1);
                return Err(Violation::new(NAME, detail));
            };
            self.logs[node].resize(base.index as usize, 0);
            self.logs[node].push(hash);
            next = base.index + 1;
        }
        self.logs[node].truncate(next as usize);
        for index in next..=log.last() {
            self.append(node, index, log)?;
        }
        Ok(())
    }

    fn append(&mut self, node: usize, index: u64, log: &LogImage) -> Verdict {
        let before = self.logs[node].last().copied().unwrap_or_default();
        let Some(entry) = log.entry(index) else { return Ok(()) };
        let hash = scramble(before.rotate_left(17) ^ scramble(entry.term) ^ entry.content);
        self.logs[node].push(hash);
        match self.known_hash(index, entry.term) {
            None => {
                self.known.resize_with(self.known.len().max(index as usize + 1), Vec::new);
                self.known[index as usize].push(Prefix { term: entry.term, hash });
                Ok(())
            }
            Some(known) if known == hash => Ok(()),
            Some(_) => Err(Violation::new(
                NAME,
                format!(
                    "n{} has another log up to index {index} of term {} than others",
                    node + 1,
                    entry.term
                ),
            )),
        }
    }

    fn known_hash(&self, index: u64, term: u64) -> Option<u64> {
        let terms = self.known.get(index as usize)?;
        terms.iter().find(|prefix| prefix.term == term).map(|prefix| prefix.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::image::EntryDigest;
    use crate::storage::HardState;

    fn log(base: (u64, u64), entries: &[(u64, u64)]) -> LogImage {
        let base = Position { index: base.0, term: base.1 };
        let mut image = LogImage::new(base, HardState::default(), base.index, base.index);
        entries.iter().for_each(|(term, content)| image.push(EntryDigest { term: *term, content: *content }));
        image
    }

    #[test]
    fn another_entry_below_a_common_one_is_a_violation() {
        let mut check = LogMatching::new(3, &ConfState::default(), Position::default());
        check.changed(0, 1, &log((0, 0), &[(1, 10), (1, 11), (2, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(1, 10), (1, 11)])).unwrap();
        check.changed(1, 3, &log((0, 0), &[(1, 10), (1, 11), (2, 12)])).unwrap();
        check.changed(2, 1, &log((0, 0), &[(1, 10), (1, 99)])).expect_err("another content in one term");
        let mut check = LogMatching::new(2, &ConfState::default(), Position::default());
        check.changed(0, 1, &log((0, 0), &[(1, 10), (2, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(2, 10), (2, 12)])).expect_err("another term below");
    }

    #[test]
    fn an_overwritten_tail_and_a_snapshot_are_followed() {
        let mut check = LogMatching::new(2, &ConfState::default(), Position::default());
        check.changed(0, 1, &log((0, 0), &[(1, 10), (1, 11), (1, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(1, 10), (1, 11)])).unwrap();
        check.changed(0, 2, &log((0, 0), &[(1, 10), (2, 21)])).expect("terms may differ at an index");
        check.changed(1, 2, &log((2, 2), &[(2, 22)])).expect("a snapshot of the others' log");
        check.changed(0, 3, &log((0, 0), &[(1, 10), (2, 21), (2, 22)])).unwrap();
        check.changed(1, 2, &log((2, 7), &[])).expect_err("a snapshot of a log that never was");
    }

    #[test]
    fn a_founding_snapshot_is_a_log_that_was_and_a_new_store_begins_empty() {
        let founders = ConfState { voters: vec![1, 2], ..ConfState::default() };
        let mut check = LogMatching::new(3, &founders, Position { index: 1, term: 1 });
        check.changed(0, 2, &log((1, 1), &[(1, 10), (1, 11)])).unwrap();
        check.changed(1, 2, &log((1, 1), &[(1, 10)])).unwrap();
        check.changed(2, 1, &log((1, 1), &[])).expect("a newcomer gets it");
        check.begins_anew(1);
        check.changed(1, 3, &log((3, 1), &[(1, 12)])).expect("a snapshot of the others' log");
        check.changed(2, 1, &log((1, 2), &[])).expect_err("founded in another term");
    }
}
