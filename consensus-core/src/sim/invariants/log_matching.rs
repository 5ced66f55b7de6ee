//! S2: if two logs have an entry with the same index and term, they are identical up to it (log matching;
//! Raft paper, figure 3 and section 5.3).
//!
//! Each durable log has a rolling hash at every index. The first log that has an entry of a term at an index
//! decides the hash there for all others, so that one lookup compares a log with all that ever were.

use super::{Verdict, Violation};
use crate::sim::image::LogImage;
use crate::sim::rng::scramble;

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
    /// For nodes `0..nodes` with empty logs.
    pub fn new(nodes: usize) -> Self {
        Self { known: vec![vec![Prefix { term: 0, hash: 0 }]], logs: vec![vec![0]; nodes] }
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
    use crate::storage::{HardState, Position};

    fn log(base: (u64, u64), entries: &[(u64, u64)]) -> LogImage {
        let base = Position { index: base.0, term: base.1 };
        let mut image = LogImage::new(base, HardState::default(), base.index, base.index);
        entries.iter().for_each(|(term, content)| image.push(EntryDigest { term: *term, content: *content }));
        image
    }

    #[test]
    fn another_entry_below_a_common_one_is_a_violation() {
        let mut check = LogMatching::new(3);
        check.changed(0, 1, &log((0, 0), &[(1, 10), (1, 11), (2, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(1, 10), (1, 11)])).unwrap();
        check.changed(1, 3, &log((0, 0), &[(1, 10), (1, 11), (2, 12)])).unwrap();
        check.changed(2, 1, &log((0, 0), &[(1, 10), (1, 99)])).expect_err("another content in one term");
        let mut check = LogMatching::new(2);
        check.changed(0, 1, &log((0, 0), &[(1, 10), (2, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(2, 10), (2, 12)])).expect_err("another term below");
    }

    #[test]
    fn an_overwritten_tail_and_a_snapshot_are_followed() {
        let mut check = LogMatching::new(2);
        check.changed(0, 1, &log((0, 0), &[(1, 10), (1, 11), (1, 12)])).unwrap();
        check.changed(1, 1, &log((0, 0), &[(1, 10), (1, 11)])).unwrap();
        check.changed(0, 2, &log((0, 0), &[(1, 10), (2, 21)])).expect("terms may differ at an index");
        check.changed(1, 2, &log((2, 2), &[(2, 22)])).expect("a snapshot of the others' log");
        check.changed(0, 3, &log((0, 0), &[(1, 10), (2, 21), (2, 22)])).unwrap();
        check.changed(1, 2, &log((2, 7), &[])).expect_err("a snapshot of a log that never was");
    }
}
