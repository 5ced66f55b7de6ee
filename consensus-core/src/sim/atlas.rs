//! The fault atlas: which losses the cluster survives, and who can recover alone.
//!
//! A store is sound unless it was damaged, refused, emptied or set aside after a removal. As long as the sound
//! voters are a majority of every membership in use, nothing committed is lost and the cluster goes on; that is
//! what every check demands. Beyond that it has to stand still, and then exactly that is demanded.
//! While a change of the membership is under way the atlas allows nothing: what it will lead to is not known.

use super::cluster::Cluster;
use super::invariants::{is_majority, is_named};
use super::node::{Node, Running};
use super::rng::Rng;
use crate::storage::ConfState;

impl Cluster {
    /// Whether a node, by position, has kept everything that it ever promised as a member.
    pub(super) fn is_sound(&self, node: usize) -> bool {
        let state = &self.nodes[node];
        state.refused.is_none() && !state.is_damaged() && !self.invariants.silent_outsiders.is_outside(node)
    }

    /// Whether a node, by position, speaks for nothing that its member has promised. Who has a flipped bit that it
    /// has not read goes on.
    fn is_lost(&self, node: usize) -> bool {
        let state = &self.nodes[node];
        let goes_on = state.running.is_some() && state.is_damaged();
        !self.is_sound(node) && !goes_on
    }

    /// The memberships that any node goes by; `None` while a change is under way.
    fn memberships_in_use(&self) -> Option<Vec<ConfState>> {
        let newest = self.invariants.agreed_membership.settled()?;
        let asked = |node: &Node| node.running.as_ref().is_some_and(Running::awaits_change);
        if self.nodes.iter().any(asked) {
            return None;
        }
        let mut in_use = vec![newest.clone()];
        for (node, state) in self.nodes.iter().enumerate() {
            let outsiders = &self.invariants.silent_outsiders;
            if outsiders.is_outside(node) || outsiders.is_removed(node) {
                continue;
            }
            // A change that was applied and is not durable is forgotten in a crash, and the old one counts again.
            for membership in [state.membership(), state.durable_membership()] {
                if !in_use.contains(&membership) {
                    in_use.push(membership);
                }
            }
        }
        Some(in_use)
    }

    /// Whether nobody needs the word of a node that was removed any more: it is in no membership in use.
    pub(super) fn is_dispensable(&self, node: usize) -> bool {
        let id = node as u64 + 1;
        let nobodys = |in_use: Vec<ConfState>| in_use.iter().all(|membership| !is_named(membership, id));
        self.memberships_in_use().is_some_and(nobodys)
    }

    /// Whether the cluster survives that these nodes, a mask of positions, have lost their stores.
    pub(super) fn survives_without(&self, lost: u64) -> bool {
        let Some(in_use) = self.memberships_in_use() else { return false };
        let counts = |id: &u64| (lost >> (id - 1)) & 1 == 0 && self.is_sound(*id as usize - 1);
        in_use.iter().all(|membership| is_majority(membership, counts))
    }

    /// The newest membership; `None` while a change is under way.
    pub(super) fn settled_membership(&self) -> Option<ConfState> {
        self.memberships_in_use().and_then(|in_use| in_use.into_iter().next())
    }

    /// Whether a majority of a membership is lost for good.
    pub(super) fn is_beyond(&self, membership: &ConfState) -> bool {
        !is_majority(membership, |id| !self.is_lost(*id as usize - 1))
    }

    /// The nodes that may be missing while the others recover, as a mask: any that leave a majority of every
    /// membership in use. None while that is not known.
    pub(super) fn draw_left_out(&self, rng: &mut Rng) -> u64 {
        let count = self.nodes.len() as u64;
        let first = rng.below(count);
        let mut left_out = 0;
        for offset in 0..count {
            let with = left_out | 1 << ((first + offset) % count);
            if rng.coin() && self.survives_without(with) {
                left_out = with;
            }
        }
        left_out
    }
}
