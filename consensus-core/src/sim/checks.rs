//! What the checks see of disks, and of the whole cluster at the end of a run.
//!
//! What they see of rounds, messages and blocks is in [`super::rounds`] and [`super::work`].

use super::cluster::{Cluster, Sight};
use super::invariants::Verdict;

impl Cluster {
    /// A node's durable log may have changed.
    pub(super) fn check_durable(&mut self, node: usize) -> Verdict {
        let Some(from) = self.nodes[node].disk.take_changed_from() else { return Ok(()) };
        if self.sight == Sight::Outside {
            return Ok(());
        }
        let log = self.nodes[node].disk.durable();
        self.invariants.log_matching.changed(node, from, log)?;
        let committed = self.invariants.one_content_per_position.entries();
        let voters = self.nodes[..self.swarm.voters as usize].iter().map(|node| node.disk.durable());
        self.invariants.committed_stays.changed(node, from, log, committed, voters)
    }

    /// When all nodes have recovered.
    pub(super) fn check_end(&mut self) -> Verdict {
        let committed = self.invariants.one_content_per_position.entries();
        let voters = self.nodes[..self.swarm.voters as usize].iter().map(|node| node.disk.durable());
        if self.sight == Sight::Inside {
            self.invariants.committed_stays.sweep(committed, voters)?;
        }
        if self.swarm.application == super::swarm::ApplicationKind::Ledger {
            // All nodes have the same tip, and its hash covers the chain: one store stands for all.
            let node = &self.nodes[0];
            self.invariants.chained_blocks.audit(node.id, node.disk.store().as_ref(), node.chain())?;
        }
        self.invariants.client_history.judge()
    }
}
