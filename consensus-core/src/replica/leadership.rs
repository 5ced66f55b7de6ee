//! Leadership as the outside sees it: who leads, and whether proposals are welcome.

use raft::StateRole;

use super::{Effect, Effects, Phase, Replica, Report, Role};
use crate::ids::NodeId;
use crate::mutant::{self, Mutant};
use crate::reach::reach;

impl Replica {
    pub(super) fn report_leadership(&mut self, effects: &mut Effects) {
        let now = (self.role(), self.raw.raft.term, self.raw.raft.leader_id);
        if now == self.leadership {
            return;
        }
        let (role, term, leader) = now;
        let was = std::mem::replace(&mut self.leadership, now);
        let leader = NodeId::new(leader);
        if was.0 == Role::Leader && (role != Role::Leader || term != was.1) {
            reach!(SteppedDown);
            self.proposals.lost(leader, effects);
            self.reads.lost(leader, effects);
            self.membership.lost(leader, effects);
        }
        let role = if mutant::is(Mutant::LeadershipToldLate) { was.0 } else { role };
        effects.push(Effect::Report(Report::Leadership { role, term, leader }));
    }

    /// Tells the application when it may propose, and when not any more.
    pub(super) fn request_proposals(&mut self, effects: &mut Effects) {
        if self.raw.raft.state != StateRole::Leader || !matches!(self.phase, Phase::Running) {
            if self.requested.take().is_some() {
                effects.push(Effect::WithdrawRequest);
            }
            return;
        }
        let (term, bound) = (self.raw.raft.term, self.config.limits.inflight_proposals_max);
        let open = self.proposal_refusal().is_none();
        let room = if open { bound.saturating_sub(self.proposals.outstanding()) } else { 0 };
        // Before the first opening of a term there is nothing to take back.
        let former = self.requested.filter(|(requested, _)| *requested == term).map(|(_, room)| room);
        let tell = match former {
            None => room > 0,
            Some(former) => room > former || (room == 0 && former > 0),
        };
        if tell {
            effects.push(Effect::RequestProposal { term, room });
        }
        if tell || former.is_some() {
            self.requested = Some((term, room));
        }
    }
}
