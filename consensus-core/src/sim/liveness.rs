//! The second phase: faults have ended, and the cluster has to recover.
//!
//! Within a minute of simulated time one node leads and all others follow it, at least ten more blocks are
//! in the chain, every client has its answer, every ticket is answered, and all nodes have applied the same
//! (our promise of liveness). A node that was far behind may take longer while it makes progress.

use super::cluster::{Cluster, Happening, RECOVERY_US};
use super::invariants::{Verdict, Violation};
use super::schedule::{MILLISECOND, SECOND};
use super::trace::Step;

/// Blocks that must follow.
const BLOCKS_MIN: u64 = 10;

/// How long a node that lags behind may take for one more entry.
const PROGRESS_US: u64 = 10 * SECOND;

/// How often the condition is looked at.
const LOOK_EVERY_US: u64 = 100 * MILLISECOND;

impl Cluster {
    /// Ends all faults and waits until the cluster has recovered.
    pub(super) fn recover(&mut self) -> Verdict {
        self.quieten();
        let before = self.invariants.one_content_per_position.blocks().len() as u64;
        let mut end_us = self.schedule.now_us() + RECOVERY_US;
        let mut slowest = 0;
        while let Some(missing) = self.missing(before + BLOCKS_MIN) {
            let now_us = self.schedule.now_us();
            if self.clients.retired() && self.slowest() > slowest {
                // Who was far behind, with slow disks and small messages, may take long as long as it goes on.
                slowest = self.slowest();
                end_us = end_us.max(now_us + PROGRESS_US);
            }
            if now_us >= end_us {
                return Err(Violation::new("L1 recovery", missing));
            }
            self.run_until((now_us + LOOK_EVERY_US).min(end_us))?;
        }
        for node in 0..self.nodes.len() {
            if let Some(running) = &self.nodes[node].running {
                let (height, hash) = running.application.tip();
                self.invariants.one_content_per_position.tip(node as u64 + 1, height, hash)?;
            }
        }
        Ok(())
    }

    fn quieten(&mut self) {
        self.quiet = true;
        self.trace.record(self.schedule.now_us(), 0, Step::Quiet);
        self.network.quieten();
        self.clients.quieten();
        let now_us = self.schedule.now_us();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.quieten();
            match self.nodes[node].running.as_mut() {
                Some(running) => running.busy_until_us = running.busy_until_us.min(now_us),
                None => self.schedule.after(MILLISECOND, Happening::Start(node)),
            }
            // A round that was scheduled for the end of a pause comes then; this one comes at once.
            let process = self.process(node);
            self.schedule.after(MILLISECOND, Happening::Round(process));
        }
    }

    /// What has not recovered yet. Clients stop when there are blocks enough.
    fn missing(&mut self, height: u64) -> Option<String> {
        let blocks = self.invariants.one_content_per_position.blocks().len() as u64;
        if blocks < height {
            return Some(format!("{blocks} blocks, {height} are due; {}", self.standing()));
        }
        self.clients.retire();
        if !self.clients.content() {
            return Some(format!("a client waits for its answer; {}", self.standing()));
        }
        let agree = self.leader().is_some_and(|leader| self.all_follow(leader));
        let answered =
            self.nodes.iter().all(|node| node.running.as_ref().is_some_and(|r| r.open_questions() == 0));
        if agree && answered { None } else { Some(self.standing()) }
    }

    fn all_follow(&self, leader: usize) -> bool {
        let Some(first) = self.nodes[leader].running.as_ref() else { return false };
        let (status, tip) = (&first.status, first.application.tip());
        self.nodes.iter().all(|node| {
            node.running.as_ref().is_some_and(|running| {
                running.status.term == status.term
                    && running.status.leader == Some(status.node_id)
                    && running.status.applied == status.commit
                    && running.status.last == status.last
                    && running.application.tip() == tip
            })
        })
    }

    /// What every node has applied.
    fn slowest(&self) -> u64 {
        let applied = self.nodes.iter().map(|node| node.running.as_ref().map_or(0, |r| r.status.applied));
        applied.min().unwrap_or(0)
    }

    fn standing(&self) -> String {
        let mut words = Vec::new();
        for node in &self.nodes {
            match &node.running {
                None => words.push(format!("n{} is down", node.id)),
                Some(running) => {
                    let (status, height) = (&running.status, running.application.tip().0);
                    words.push(format!(
                        "n{} {} term {} leader {:?} commit {} applied {} last {} height {height} open {}",
                        node.id,
                        status.role.as_str(),
                        status.term,
                        status.leader,
                        status.commit,
                        status.applied,
                        status.last,
                        running.open_questions(),
                    ));
                }
            }
        }
        words.join("; ")
    }
}
