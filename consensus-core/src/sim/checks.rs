//! What the checks see of disks, and of the whole cluster at the end of a run.
//!
//! What they see of rounds, messages and blocks is in [`super::rounds`] and [`super::work`].

use super::cluster::{Cluster, Sight};
use super::invariants::Verdict;
use super::swarm::ApplicationKind;
use crate::storage::ConfState;

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
        let lost = self.invariants.committed_stays.lost(node, from, log, committed);
        self.check_stays(lost)
    }

    /// These committed entries must still be durable on a majority.
    fn check_stays(&self, indexes: impl IntoIterator<Item = u64>) -> Verdict {
        // A leader goes by a membership before any node has it on its disk.
        let leader = self.leader().map(|leader| self.nodes[leader].membership());
        let agreed = self.invariants.agreed_membership.newest_two();
        let memberships: Vec<ConfState> = agreed.into_iter().chain(leader).collect();
        indexes.into_iter().try_for_each(|index| {
            let Some(entry) = self.invariants.one_content_per_position.entry(index) else { return Ok(()) };
            let holds = |id: u64| self.nodes.get(id as usize - 1).is_some_and(|node| node.held(index, entry));
            self.invariants.committed_stays.stays(index, entry, &memberships, holds)
        })
    }

    /// When all nodes have recovered, or the cluster stands still.
    pub(super) fn check_end(&mut self) -> Verdict {
        if self.sight == Sight::Inside {
            self.check_stays(1..=self.invariants.one_content_per_position.committed())?;
        }
        let blocks = self.invariants.one_content_per_position.blocks().len() as u64;
        let whole = self.nodes.iter().enumerate().find(|(node, state)| {
            let tip = state.running.as_ref().map(|running| running.application.tip().0);
            self.is_sound(*node) && tip == Some(blocks)
        });
        if let Some((_, node)) = whole.filter(|_| self.swarm.application == ApplicationKind::Ledger) {
            // Its tip is that of all nodes, and the tip's hash covers the chain: one store stands for all.
            self.invariants.chained_blocks.audit(node.id, node.disk.store().as_ref(), node.chain())?;
        }
        self.invariants.client_history.judge()
    }
}
