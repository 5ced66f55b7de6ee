//! Membership changes: proposed with their preconditions checked, applied with the entry.
//!
//! The crate replaces a refused change by an empty entry without a word, and panics when a leader has
//! removed itself; so a change is proposed only when none is pending, and never takes out its own leader.

use std::collections::VecDeque;

use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use super::change;
use super::proposals::fail;
use super::{Effect, Effects, Halt, MembershipChange, Outcome, Refusal, Replica, Report};
use crate::ids::{NodeId, Ticket};
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{ConfState, EntryKind, LogEntry};

#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Changes handed to the application and not applied yet.
    committed: VecDeque<LogEntry>,
    /// This replica is no member any more, and nobody was told.
    removal_untold: bool,
    /// The change that somebody waits for: where it was appended.
    awaited: Option<(u64, u64, Ticket)>,
}

impl Membership {
    /// With what is durable. Who is in no membership at all is a newcomer.
    pub(super) fn new(durable: &ConfState, node: u64) -> Self {
        let ConfState { voters, learners, voters_outgoing, .. } = durable;
        let named = [voters, learners, voters_outgoing].iter().any(|ids| ids.contains(&node));
        Self { removal_untold: !voters.is_empty() && !named, ..Self::default() }
    }

    pub(super) fn committed(&mut self, entry: &LogEntry) {
        if entry.kind != EntryKind::Normal {
            self.committed.push_back(entry.clone());
        }
    }

    pub(super) fn clear(&mut self) {
        self.committed.clear();
    }

    pub(super) fn lost(&mut self, leader: Option<NodeId>, effects: &mut Effects) {
        if let Some((.., ticket)) = self.awaited.take() {
            reach!(ChangeLostWithLeadership);
            fail(ticket, Refusal::LeadershipLost { leader }, effects);
        }
    }
}

impl Replica {
    pub(super) fn change_membership(
        &mut self,
        ticket: Ticket,
        changes: &[MembershipChange],
        effects: &mut Effects,
    ) {
        if let Err(refusal) = self.try_change_membership(ticket, changes) {
            fail(ticket, refusal, effects);
        }
    }

    fn try_change_membership(&mut self, ticket: Ticket, changes: &[MembershipChange]) -> Result<(), Refusal> {
        let refused = |reason: &str| Err(Refusal::Membership(reason.to_owned()));
        if self.raw.raft.state != StateRole::Leader {
            return Err(Refusal::NotLeader { leader: self.leader() });
        }
        let pending = self.raw.raft.has_pending_conf() || self.membership.awaited.is_some();
        if pending && !mutant::is(Mutant::SecondChangeTaken) {
            reach!(ChangeWhileOneIsPending);
            return refused("another change is pending");
        }
        if self.is_joint() {
            return refused("the former change is still in its joint phase");
        }
        if self.raw.raft.lead_transferee.is_some() {
            reach!(ChangeDuringTransfer);
            return refused("a transfer of leadership is in progress");
        }
        if changes.is_empty() {
            return refused("no change given");
        }
        let takes_self_out = |change: &MembershipChange| matches!(change, MembershipChange::Remove(id) | MembershipChange::AddLearner(id) if id.get() == self.node);
        if changes.iter().any(takes_self_out) && !mutant::is(Mutant::LeaderTakesItselfOut) {
            reach!(LeaderToRemoveItself);
            return refused("a leader cannot take itself out: transfer leadership first");
        }
        let joint = !mutant::is(Mutant::ChangesOneByOne);
        let changes = if joint { changes } else { &changes[..1] };
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
        let context = ticket.0.to_be_bytes().to_vec();
        self.raw
            .propose_conf_change(context, change.clone())
            .map_err(|error| Refusal::Membership(error.to_string()))?;
        if mutant::is(Mutant::MembershipAppliedAtAppend)
            && let Ok(state) = self.raw.apply_conf_change(&change)
        {
            let index = self.raw.raft.raft_log.last_index();
            self.raw.mut_store().set_conf_state((&state).into(), index);
        }
        self.pin();
        let index = self.raw.raft.raft_log.last_index();
        self.membership.awaited = Some((index, self.raw.raft.term, ticket));
        Ok(())
    }

    /// Applies the changes up to `index`, before the crate hears that they are applied.
    pub(super) fn apply_membership(&mut self, index: u64, effects: &mut Effects) -> Result<(), Halt> {
        while let Some(entry) = self.membership.committed.pop_front_if(|entry| entry.index <= index) {
            let change = change::read(entry.kind, &entry.data)
                .map_err(|cause| Halt(format!("membership change at {}: {cause}", entry.index)))?;
            let state = self
                .raw
                .apply_conf_change(&change)
                .map_err(|error| Halt(format!("membership change at {}: {error}", entry.index)))?;
            self.pin();
            let state = ConfState::from(&state);
            reach!(JointEntered, !state.voters_outgoing.is_empty());
            reach!(JointLeft, self.is_joint() && state.voters_outgoing.is_empty());
            effects.push(Effect::Report(Report::Membership {
                voters: state.voters.clone(),
                learners: state.learners.clone(),
            }));
            if !mutant::is(Mutant::MembershipNotSaved) {
                self.raw.mut_store().set_conf_state(state, entry.index);
            }
            self.answer_awaited(&entry, effects);
            self.step_down_when_no_voter();
            self.membership.removal_untold = !self.is_member() && !mutant::is(Mutant::RemovedNotTold);
            reach!(RemovalApplied, !self.is_member());
            self.report_removal(effects);
        }
        Ok(())
    }

    /// Tells whoever runs this replica that it is no member any more. It goes on as a follower that never stands:
    /// those who have not heard of the removal yet may need its vote and its log in order to finish the change.
    pub(super) fn report_removal(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.membership.removal_untold) {
            effects.push(Effect::Report(Report::Removed));
        }
    }

    fn answer_awaited(&mut self, entry: &LogEntry, effects: &mut Effects) {
        let Some((index, term, ticket)) = self.membership.awaited else { return };
        if index > entry.index {
            return;
        }
        self.membership.awaited = None;
        if (index, term) == (entry.index, entry.term) {
            effects.push(Effect::Answer { ticket, outcome: Outcome::Done });
        } else {
            fail(ticket, Refusal::LeadershipLost { leader: self.leader() }, effects);
        }
    }

    /// A leader that finds itself in a joint phase that nobody ends, ends it.
    pub(super) fn leave_joint_when_due(&mut self) {
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader
            && self.is_joint()
            && !raft.has_pending_conf()
            && raft.apply_to_current_term()
            && raft.lead_transferee.is_none()
        {
            // Refusal is harmless: the next round asks again.
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
            self.pin();
        }
    }

    /// Whoever has no vote neither leads nor stands. The crate would let a leader lead on that an inherited change
    /// has taken out or made a learner, and panics when one that was taken out wins or hears of its disk.
    fn step_down_when_no_voter(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Follower && !raft.prs().conf().voters().contains(self.node) {
            reach!(LeaderLostItsVote, raft.state == StateRole::Leader);
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
            self.pin();
        }
    }

    fn is_joint(&self) -> bool {
        !self.raw.store().conf_state().voters_outgoing.is_empty()
    }

    fn is_member(&self) -> bool {
        self.raw.raft.prs().get(self.node).is_some()
    }
}

fn single(change: &MembershipChange) -> ConfChangeSingle {
    let (kind, id) = match change {
        MembershipChange::AddVoter(id) => (ConfChangeType::AddNode, id),
        MembershipChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
        MembershipChange::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    let mut out = ConfChangeSingle { node_id: id.get(), ..ConfChangeSingle::default() };
    out.set_change_type(kind);
    out
}
