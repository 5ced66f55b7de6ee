//! S3: a leader has every entry that was committed in an earlier term (leader completeness; Raft paper,
//! figure 3 and section 5.4).
//!
//! It is asked at the last committed index only: that the logs agree below it follows from S2.

use super::{Verdict, Violation};
use crate::sim::image::{EntryDigest, LogImage};

const NAME: &str = "S3 leader completeness";

/// A leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Position of the node.
    pub node: usize,
    /// Its incarnation.
    pub incarnation: u64,
    /// The term that it leads.
    pub term: u64,
}

/// The leader of the highest term.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    leader: Option<Leader>,
}

impl LeaderCompleteness {
    /// This node leads with this log; `committed` is the last entry that any node has counted committed.
    pub fn leads(
        &mut self,
        leader: Leader,
        log: &LogImage,
        committed: Option<(u64, EntryDigest)>,
    ) -> Verdict {
        if self.leader.is_some_and(|known| known.term >= leader.term) {
            return Ok(());
        }
        self.leader = Some(leader);
        committed.map_or(Ok(()), |(index, entry)| has(leader, log, index, entry))
    }

    /// The leader that must have what is counted committed in `term`; none if nobody leads a later term.
    pub fn later_than(&self, term: u64) -> Option<Leader> {
        self.leader.filter(|leader| leader.term > term)
    }

    /// An entry is counted committed in an earlier term than that of this leader.
    pub fn commits(&self, leader: Leader, log: &LogImage, index: u64, entry: EntryDigest) -> Verdict {
        has(leader, log, index, entry)
    }
}

fn has(leader: Leader, log: &LogImage, index: u64, entry: EntryDigest) -> Verdict {
    if log.last() >= index && log.holds(index, entry) {
        return Ok(());
    }
    let Leader { node, term, .. } = leader;
    Err(Violation::new(
        NAME,
        format!(
            "n{} leads term {term} with a log to {} and {:?} at index {index}, committed is {entry:?}",
            node + 1,
            log.last(),
            log.entry(index)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{HardState, Position};

    const ENTRY: EntryDigest = EntryDigest { term: 1, content: 5 };

    fn log(entries: &[EntryDigest]) -> LogImage {
        let mut image = LogImage::new(Position::default(), HardState::default(), 0, 0);
        entries.iter().for_each(|entry| image.push(*entry));
        image
    }

    fn leader(term: u64) -> Leader {
        Leader { node: 0, incarnation: 1, term }
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_a_violation() {
        let other = EntryDigest { term: 2, content: 5 };
        let leads = |log: &LogImage| LeaderCompleteness::default().leads(leader(3), log, Some((1, ENTRY)));
        leads(&log(&[ENTRY, other])).unwrap();
        leads(&log(&[])).expect_err("it is missing");
        leads(&log(&[other])).expect_err("another one is there");
    }

    #[test]
    fn what_is_counted_committed_late_must_be_in_the_log_of_the_later_leader() {
        let mut check = LeaderCompleteness::default();
        check.leads(leader(3), &log(&[]), None).unwrap();
        assert_eq!(check.later_than(3), None);
        let later = check.later_than(2).unwrap();
        check.commits(later, &log(&[ENTRY]), 1, ENTRY).unwrap();
        check.commits(later, &log(&[]), 1, ENTRY).expect_err("it is missing");
    }
}
