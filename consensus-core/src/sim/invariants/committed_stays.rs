//! S6: a committed entry stays on the disks of a majority of the voters for ever (Raft paper, section 5.4,
//! "committed entries are durable"; our promise that nothing acknowledged is lost).
//!
//! A log that has grown cannot have lost anything. So only indexes that a disk had before are counted again when
//! its log changes there, and all of them once at the end of a run.

use super::{Verdict, Violation, on_a_majority};
use crate::sim::image::{EntryDigest, LogImage};
use crate::storage::ConfState;

const NAME: &str = "S6 committed stays durable";

/// How far each durable log went.
#[derive(Debug)]
pub struct CommittedStays {
    last: Vec<u64>,
}

impl CommittedStays {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { last: vec![0; nodes] }
    }

    /// A node gets an empty store.
    pub fn begins_anew(&mut self, node: usize) {
        self.last[node] = 0;
    }

    /// A node's durable log has changed from `from` on: the committed entries that it had there and has no more, by
    /// index. `committed` are all committed entries from index 1.
    pub fn lost(&mut self, node: usize, from: u64, log: &LogImage, committed: &[EntryDigest]) -> Vec<u64> {
        let before = std::mem::replace(&mut self.last[node], log.last());
        let had = from.max(1)..=before.min(committed.len() as u64);
        had.filter(|index| !held(log, *index, committed[*index as usize - 1])).collect()
    }

    /// The committed entry at `index` must be on a majority of one of `memberships`; `holds` says whether a node, by
    /// id, has it durable, be it on a disk that was lost afterwards.
    pub fn stays(
        &self,
        index: u64,
        entry: EntryDigest,
        memberships: &[ConfState],
        holds: impl Fn(u64) -> bool,
    ) -> Verdict {
        on_a_majority(memberships.iter(), holds).map_err(|voters| {
            Violation::new(NAME, format!("{entry:?} at index {index} is left on no majority of {voters}"))
        })
    }

    /// A leader knows a node to have had more than it has.
    pub fn store_behind(&self, node: u64, from: u64, claimed: u64, last: u64) -> Violation {
        Violation::new(NAME, format!("n{node} has {last}, n{from} knows it to have {claimed}"))
    }
}

fn held(log: &LogImage, index: u64, entry: EntryDigest) -> bool {
    log.last() >= index && log.holds(index, entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{HardState, Position};

    fn log(entries: u64) -> LogImage {
        let mut image = LogImage::new(Position::default(), HardState::default(), 0, 0);
        (0..entries).for_each(|content| image.push(EntryDigest { term: 1, content }));
        image
    }

    #[test]
    fn a_committed_entry_that_leaves_the_majority_is_a_violation() {
        let committed: Vec<EntryDigest> = (0..2).map(|content| EntryDigest { term: 1, content }).collect();
        let mut check = CommittedStays::new(3);
        let members = [ConfState { voters: vec![1, 2, 3], ..ConfState::default() }];
        let mut disks = [log(3), log(2), log(0)];
        for (node, disk) in disks.iter().enumerate() {
            assert!(check.lost(node, 1, disk, &committed).is_empty());
        }
        let stays = |check: &CommittedStays, disks: &[LogImage; 3]| {
            let holds = |id: u64| held(&disks[id as usize - 1], 2, committed[1]);
            check.stays(2, committed[1], &members, holds)
        };
        stays(&check, &disks).unwrap();
        disks[0] = log(2);
        assert!(check.lost(0, 3, &disks[0], &committed).is_empty(), "what it lost was not committed");
        disks[1] = log(1);
        assert_eq!(check.lost(1, 2, &disks[1], &committed), [2]);
        stays(&check, &disks).expect_err("one disk is no majority");
        check.begins_anew(0);
        assert!(check.lost(0, 1, &log(0), &committed).is_empty(), "a new store had nothing");
    }

    #[test]
    fn a_joint_membership_demands_both_halves_until_the_older_one_is_enough() {
        let (check, entry) = (CommittedStays::new(4), EntryDigest { term: 1, content: 1 });
        let old = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let joint = ConfState { voters: vec![3, 4], voters_outgoing: vec![1, 2, 3], ..ConfState::default() };
        let on_old_majority = |id: u64| id <= 2;
        check.stays(1, entry, &[joint.clone(), old], on_old_majority).expect("the change is under way");
        check.stays(1, entry, &[joint], on_old_majority).expect_err("the new half has nothing");
    }
}
