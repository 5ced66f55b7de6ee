//! S7: term, vote within a term, commit, applied and the application's height never go back: not within
//! an incarnation, and not across a restart below what the writer had reported durable (Raft paper,
//! figure 2, persistent state).
//!
//! Commit and applied may fall back at a restart to what was last synced.

use super::{Verdict, Violation};
use crate::storage::HardState;

const NAME: &str = "S7 monotonic";

/// What a node may not fall back behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promises {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// Applied index.
    pub applied: u64,
    /// Last block of the application.
    pub height: u64,
}

impl Promises {
    /// What is wrong with going from here to there.
    fn broken_by(&self, next: &Self) -> Option<String> {
        let (old, new) = (&self.hard_state, &next.hard_state);
        let falls =
            |what: &str, from: u64, to: u64| (to < from).then(|| format!("{what} falls from {from} to {to}"));
        let revoted = new.term == old.term && old.vote.is_some() && new.vote != old.vote;
        falls("term", old.term, new.term)
            .or_else(|| {
                revoted.then(|| format!("vote in term {} was {:?}, is {:?}", old.term, old.vote, new.vote))
            })
            .or_else(|| falls("commit", old.commit, new.commit))
            .or_else(|| falls("applied", self.applied, next.applied))
            .or_else(|| falls("height", self.height, next.height))
    }
}

/// Promises of all nodes, in memory and on disk.
#[derive(Debug)]
pub struct Monotonic {
    in_memory: Vec<Promises>,
    on_disk: Vec<Promises>,
}

impl Monotonic {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { in_memory: vec![Promises::default(); nodes], on_disk: vec![Promises::default(); nodes] }
    }

    /// The state of a running replica.
    pub fn observe(&mut self, node: usize, now: Promises) -> Verdict {
        let before = std::mem::replace(&mut self.in_memory[node], now);
        match before.broken_by(&now) {
            None => Ok(()),
            Some(how) => Err(Violation::new(NAME, format!("n{}: {how}", node + 1))),
        }
    }

    /// A node's store is a new one, which has promised nothing.
    pub fn begins_anew(&mut self, node: usize) {
        self.in_memory[node] = Promises::default();
        self.on_disk[node] = Promises::default();
    }

    /// A node's application falls back to what the log proves.
    pub fn forgets_height(&mut self, node: usize) {
        self.on_disk[node].height = 0;
    }

    /// The writer reported all of this durable.
    pub fn durable(&mut self, node: usize, now: Promises) {
        self.on_disk[node] = now;
    }

    /// What a restarted node found.
    pub fn reopened(&mut self, node: usize, found: Promises) -> Verdict {
        let promised = std::mem::replace(&mut self.on_disk[node], found);
        self.in_memory[node] = found;
        match promised.broken_by(&found) {
            None => Ok(()),
            Some(how) => Err(Violation::new(NAME, format!("n{} after a restart: {how}", node + 1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn promises(term: u64, vote: u64, commit: u64) -> Promises {
        Promises {
            hard_state: HardState { term, vote: NodeId::new(vote), commit },
            applied: commit,
            height: 0,
        }
    }

    #[test]
    fn a_vote_that_changes_within_its_term_is_a_violation() {
        let mut check = Monotonic::new(1);
        check.observe(0, promises(3, 0, 0)).unwrap();
        check.observe(0, promises(3, 2, 0)).unwrap();
        check.observe(0, promises(4, 0, 0)).unwrap();
        check.observe(0, promises(4, 1, 0)).unwrap();
        check.observe(0, promises(4, 2, 0)).expect_err("another vote");
    }

    #[test]
    fn a_restart_may_lose_what_was_not_durable_and_nothing_else() {
        let mut check = Monotonic::new(1);
        check.durable(0, promises(3, 2, 5));
        check.observe(0, promises(4, 1, 9)).unwrap();
        check.reopened(0, promises(3, 2, 5)).unwrap();
        check.observe(0, promises(3, 2, 6)).unwrap();
        check.durable(0, promises(3, 2, 6));
        check.reopened(0, promises(3, 2, 5)).expect_err("commit fell");
        check.durable(0, promises(3, 2, 6));
        check.reopened(0, promises(3, 0, 6)).expect_err("the vote is forgotten");
    }
}
