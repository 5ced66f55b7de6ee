//! S6: a committed entry stays on the disks of a majority of the voters for ever (Raft paper, section 5.4,
//! "committed entries are durable"; our promise that nothing acknowledged is lost).
//!
//! A log that has grown cannot have lost anything. So only indexes that a disk had before are counted again when
//! its log changes there, and all of them once at the end of a run.

use super::{Verdict, Violation};
use crate::sim::image::{EntryDigest, LogImage};

const NAME: &str = "S6 committed stays durable";

/// How far each durable log went.
#[derive(Debug)]
pub struct CommittedStays {
    quorum: usize,
    last: Vec<u64>,
}

impl CommittedStays {
    /// For nodes `0..nodes`, so many of them voters.
    pub fn new(nodes: usize, voters: usize) -> Self {
        Self { quorum: voters / 2 + 1, last: vec![0; nodes] }
    }

    /// A node's durable log has changed from `from` on. `committed` are all committed entries from index 1;
    /// `images` are the durable images of all voters.
    pub fn changed<'a>(
        &mut self,
        node: usize,
        from: u64,
        log: &LogImage,
        committed: &[EntryDigest],
        images: impl Iterator<Item = &'a LogImage> + Clone,
    ) -> Verdict {
        let before = std::mem::replace(&mut self.last[node], log.last());
        for index in from.max(1)..=before.min(committed.len() as u64) {
            if !held(log, index, committed[index as usize - 1]) {
                self.counts(index, committed, images.clone())?;
            }
        }
        Ok(())
    }

    /// At the end: every committed entry is on a majority.
    pub fn sweep<'a>(
        &self,
        committed: &[EntryDigest],
        images: impl Iterator<Item = &'a LogImage> + Clone,
    ) -> Verdict {
        (1..=committed.len() as u64).try_for_each(|index| self.counts(index, committed, images.clone()))
    }

    fn counts<'a>(
        &self,
        index: u64,
        committed: &[EntryDigest],
        images: impl Iterator<Item = &'a LogImage>,
    ) -> Verdict {
        let entry = committed[index as usize - 1];
        let copies = images.filter(|image| held(image, index, entry)).count();
        if copies >= self.quorum {
            return Ok(());
        }
        let detail =
            format!("{entry:?} at index {index} is left on {copies} disks, {} are a quorum", self.quorum);
        Err(Violation::new(NAME, detail))
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
        let mut check = CommittedStays::new(3, 3);
        let mut disks = [log(3), log(2), log(0)];
        for (node, disk) in disks.iter().enumerate() {
            check.changed(node, 1, disk, &committed, disks.iter()).unwrap();
        }
        check.sweep(&committed, disks.iter()).unwrap();
        disks[0] = log(2);
        check.changed(0, 3, &disks[0], &committed, disks.iter()).expect("what it lost was not committed");
        disks[1] = log(1);
        check.changed(1, 2, &disks[1], &committed, disks.iter()).expect_err("one disk is no majority");
        check.sweep(&committed, disks.iter()).expect_err("at the end too");
    }
}
