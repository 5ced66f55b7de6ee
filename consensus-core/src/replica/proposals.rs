//! Proposals from the moment they are gathered until their entry is applied.
//!
//! All proposals of a round go to the crate in as few messages as the append size allows, so that a round
//! is one append per peer. A proposal is recognised again by index and term, never by a number of its own.

use std::collections::VecDeque;

use raft::StateRole;
use raft::eraftpb::{Entry, MessageType};

use super::{Effect, Effects, Event, Message, Outcome, Phase, Proposal, Refusal, Replica};
use crate::ids::{NodeId, Ticket};
use crate::limits::{ENTRY_CONTEXT_BYTES_MAX, Limits};
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::LogEntry;

#[derive(Clone, Copy, Debug)]
struct InFlight {
    index: u64,
    term: u64,
    ticket: Ticket,
    bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Proposals {
    gathered: Vec<Proposal>,
    gathered_bytes: u64,
    /// In the log, not committed; ascending.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// Handed to the application; ascending.
    committed: VecDeque<InFlight>,
}

impl Proposals {
    /// Not yet applied.
    pub(super) fn outstanding(&self) -> usize {
        self.gathered.len() + self.in_flight.len() + self.committed.len()
    }

    /// Keeps a proposal for the end of the round.
    pub(super) fn gather(
        &mut self,
        mut proposal: Proposal,
        limits: &Limits,
    ) -> Result<(), (Ticket, Refusal)> {
        let bytes = proposal.data.len() as u64;
        if bytes == 0 || bytes > limits.entry_bytes_max {
            return Err((proposal.ticket, Refusal::EntrySize { bytes, bound: limits.entry_bytes_max }));
        }
        let full = self.outstanding() >= limits.inflight_proposals_max;
        if full && !mutant::is(Mutant::ProposalsUnbounded) {
            let refusal = Refusal::Overloaded {
                what: "proposals in flight",
                bound: limits.inflight_proposals_max as u64,
            };
            return Err((proposal.ticket, refusal));
        }
        if self.gathered_bytes + self.in_flight_bytes + bytes > limits.uncommitted_bytes_max {
            reach!(UncommittedBytesFull);
            let refusal =
                Refusal::Overloaded { what: "uncommitted bytes", bound: limits.uncommitted_bytes_max };
            return Err((proposal.ticket, refusal));
        }
        // A context is a remark: nothing is refused for it, here or at a follower's gate.
        let context = proposal.context.len();
        if context > ENTRY_CONTEXT_BYTES_MAX || bytes + context as u64 > limits.entry_bytes_max {
            proposal.context.clear();
        }
        self.gathered_bytes += bytes;
        self.gathered.push(proposal);
        Ok(())
    }

    /// The gathered proposals as messages to step, each with the tickets of its entries.
    pub(super) fn take_gathered(
        &mut self,
        node: u64,
        append_bytes_max: u64,
    ) -> Vec<(Message, Vec<(Ticket, u64)>)> {
        self.gathered_bytes = 0;
        let mut out = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        let mut tickets = Vec::new();
        let mut bytes = 0;
        for proposal in std::mem::take(&mut self.gathered) {
            let size = proposal.data.len() as u64;
            if bytes + size > append_bytes_max && !entries.is_empty() {
                reach!(ProposalsInTwoMessages);
                out.push((propose(node, std::mem::take(&mut entries)), std::mem::take(&mut tickets)));
                bytes = 0;
            }
            bytes += size;
            tickets.push((proposal.ticket, size));
            let Proposal { data, context, .. } = proposal;
            entries.push(Entry { data, context, ..Entry::default() });
        }
        if !entries.is_empty() {
            out.push((propose(node, entries), tickets));
        }
        out
    }

    /// The entries of a stepped message stand at `..=last` in `term`.
    pub(super) fn appended(&mut self, tickets: Vec<(Ticket, u64)>, last: u64, term: u64) {
        let first = last + 1 - tickets.len() as u64;
        for (index, (ticket, bytes)) in (first..).zip(tickets) {
            self.in_flight_bytes += bytes;
            self.in_flight.push_back(InFlight { index, term, ticket, bytes });
        }
    }

    /// An entry is committed: its ticket if it is ours. What was to stand there instead is answered.
    pub(super) fn committed(&mut self, entry: &LogEntry, effects: &mut Effects) -> Option<Ticket> {
        while let Some(own) = self.in_flight.pop_front_if(|own| own.index <= entry.index) {
            self.in_flight_bytes -= own.bytes;
            let same_term = own.term == entry.term || mutant::is(Mutant::AnswersByIndexOnly);
            if own.index == entry.index && same_term {
                self.committed.push_back(own);
                return Some(own.ticket);
            }
            fail(own.ticket, Refusal::LeadershipLost { leader: None }, effects);
        }
        None
    }

    pub(super) fn applied(&mut self, index: u64, effects: &mut Effects) {
        while let Some(own) = self.committed.pop_front_if(|own| own.index <= index) {
            let outcome = Outcome::Applied { index: own.index, term: own.term };
            effects.push(Effect::Answer { ticket: own.ticket, outcome });
        }
    }

    /// Leadership is lost: what is not committed may still be, but nobody here will know by its ticket.
    pub(super) fn lost(&mut self, leader: Option<NodeId>, effects: &mut Effects) {
        if mutant::is(Mutant::AnswersByIndexOnly) {
            return;
        }
        for own in self.in_flight.drain(..).filter(|_| !mutant::is(Mutant::LostProposalsUnanswered)) {
            reach!(ProposalsLost);
            fail(own.ticket, Refusal::LeadershipLost { leader }, effects);
        }
        for proposal in self.gathered.drain(..) {
            fail(proposal.ticket, Refusal::NotLeader { leader }, effects);
        }
        self.in_flight_bytes = 0;
        self.gathered_bytes = 0;
    }

    /// The chain has halted.
    pub(super) fn halt(&mut self, effects: &mut Effects) {
        let tickets = self.in_flight.drain(..).chain(self.committed.drain(..)).map(|own| own.ticket);
        for ticket in tickets.chain(self.gathered.drain(..).map(|proposal| proposal.ticket)) {
            fail(ticket, Refusal::Halted, effects);
        }
    }
}

impl Replica {
    /// Why no proposal is taken now.
    pub(super) fn proposal_refusal(&self) -> Option<Refusal> {
        if !self.takes_proposals() {
            return Some(Refusal::NotLeader { leader: self.leader() });
        }
        let bound = self.config.limits.apply_backlog_bytes_max;
        reach!(ProposalBeyondApplyBacklog, self.backlog.bytes() >= bound);
        self.backlog_full().then_some(Refusal::Overloaded { what: "apply backlog bytes", bound })
    }

    /// Leads, has applied everything it inherited, and is not handing over.
    fn takes_proposals(&self) -> bool {
        let raft = &self.raw.raft;
        matches!(self.phase, Phase::Running)
            && raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && raft.apply_to_current_term()
    }
}

fn propose(node: u64, entries: Vec<Entry>) -> Message {
    let mut message = Message { from: node, ..Message::default() };
    message.set_msg_type(MessageType::MsgPropose);
    message.set_entries(entries.into());
    message
}

/// Answers a ticket with a refusal.
pub(super) fn fail(ticket: Ticket, refusal: Refusal, effects: &mut Effects) {
    effects.push(Effect::Answer { ticket, outcome: Outcome::Failed(refusal) });
}

/// Answers every ticket of an event with a refusal.
pub(super) fn refuse(event: &Event, refusal: Refusal, effects: &mut Effects) {
    match event {
        Event::Propose { proposals } => {
            for proposal in proposals {
                fail(proposal.ticket, refusal.clone(), effects);
            }
        }
        Event::ReadIndex { ticket } | Event::Control { ticket, .. } => fail(*ticket, refusal, effects),
        Event::Tick
        | Event::PeerMessage { .. }
        | Event::Persisted { .. }
        | Event::Applied { .. }
        | Event::SnapshotBuilt { .. }
        | Event::SnapshotInstalled { .. }
        | Event::PeerReport { .. } => {}
    }
}
