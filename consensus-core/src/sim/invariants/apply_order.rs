//! S10: a node's application is called with index after index, without gap and, within an incarnation,
//! without repetition; blocks come height after height (Raft paper, section 5.3; our promise of exactly-once
//! application).
//!
//! After a restart entries may come again from the durable applied index on; that they are the same bytes is
//! the business of S4.

use super::{Verdict, Violation};

const NAME: &str = "S10 apply order";

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The last entry handed to the application.
    handed: u64,
    /// The last block it committed.
    height: u64,
}

/// Where each application stands.
#[derive(Debug)]
pub struct ApplyOrder {
    nodes: Vec<Progress>,
}

impl ApplyOrder {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { nodes: vec![Progress::default(); nodes] }
    }

    /// A node starts with what its store and its application say; `installing`: a snapshot waits for the
    /// application, which may be behind it.
    pub fn starts(
        &mut self,
        node: usize,
        applied: u64,
        application: u64,
        height: u64,
        installing: bool,
    ) -> Verdict {
        self.nodes[node] = Progress { handed: applied, height };
        if application >= applied || installing {
            return Ok(());
        }
        Err(Violation::new(
            NAME,
            format!("n{}: applied is {applied}, the application has entries to {application} only", node + 1),
        ))
    }

    /// A snapshot is handed to the application: entries go on behind it.
    pub fn installs(&mut self, node: usize, index: u64) {
        self.nodes[node].handed = index;
    }

    /// The application has become a snapshot with this height.
    pub fn installed(&mut self, node: usize, height: u64) {
        self.nodes[node].height = height;
    }

    /// Entries are handed to the application.
    pub fn applies(&mut self, node: usize, index: u64) -> Verdict {
        let progress = &mut self.nodes[node];
        let expected = progress.handed + 1;
        if index == expected {
            progress.handed = index;
            return Ok(());
        }
        Err(Violation::new(NAME, format!("n{} applies index {index}, due is {expected}", node + 1)))
    }

    /// The application has taken entries: its index was `before` and is `after`.
    pub fn taken(&self, node: usize, before: u64, after: u64) -> Verdict {
        if after >= before {
            return Ok(());
        }
        let detail = format!("n{}: the application went back from index {before} to {after}", node + 1);
        Err(Violation::new(NAME, detail))
    }

    /// The application commits a block.
    pub fn block(&mut self, node: usize, height: u64) -> Verdict {
        let progress = &mut self.nodes[node];
        let expected = progress.height + 1;
        if height == expected {
            progress.height = height;
            return Ok(());
        }
        Err(Violation::new(NAME, format!("n{} commits height {height}, due is {expected}", node + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repetitions_and_an_application_behind_its_record_are_violations() {
        let mut check = ApplyOrder::new(1);
        check.applies(0, 1).unwrap();
        check.applies(0, 2).unwrap();
        check.applies(0, 2).expect_err("again");
        check.applies(0, 4).expect_err("a gap");
        check.starts(0, 1, 2, 0, false).unwrap();
        check.applies(0, 2).unwrap();
        check.block(0, 1).unwrap();
        check.block(0, 3).expect_err("a gap");
        check.starts(0, 3, 2, 0, false).expect_err("the application lost an entry");
        check.starts(0, 3, 2, 0, true).expect("a snapshot is on its way");
        check.installs(0, 7);
        check.installed(0, 5);
        check.taken(0, 7, 7).unwrap();
        check.taken(0, 7, 6).expect_err("it took an entry again");
        check.applies(0, 8).unwrap();
        check.block(0, 6).unwrap();
    }
}
