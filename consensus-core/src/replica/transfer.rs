//! Handing leadership over.
//!
//! While a transfer runs the crate drops proposals; so it starts only towards a peer that is close, and is
//! given up after one election timeout.
//!
//! A leader whose own disk hangs hands leadership over by itself. Nobody else would miss it: its heartbeats need no
//! disk. But nothing is applied here, and so acknowledged, that is not on its own disk.

use std::collections::BTreeMap;

use raft::eraftpb::MessageType;
use raft::{ProgressState, StateRole};

use super::proposals::fail;
use super::{Effect, Effects, Message, Outcome, Refusal, Replica, Report};
use crate::ids::{NodeId, Ticket};
use crate::mutant::{self, Mutant};
use crate::reach::reach;

/// A leader's write may be under way for so many election timeouts.
const DISK_PATIENCE: u64 = 2;

#[derive(Debug)]
pub(super) struct Transfer {
    /// Who waits for its end; nobody if the replica itself wants it.
    ticket: Option<Ticket>,
    target: u64,
    term: u64,
    deadline: u64,
}

/// When each peer answered this leader last, in ticks since open.
///
/// The crate's own mark (`recent_active`) is no measure: it is cleared for all peers whenever the quorum is
/// counted, so until the next answers arrive nobody seems to be there, and before that a peer that has just
/// died seems to be there as much as the others.
#[derive(Debug, Default)]
pub(super) struct Answered {
    ticks: BTreeMap<u64, u64>,
}

impl Replica {
    /// Notes an answer to this leader; to be called with every message before it is stepped.
    pub(super) fn note_answer(&mut self, message: &Message) {
        let raft = &self.raw.raft;
        let is_answer = matches!(
            message.get_msg_type(),
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
        );
        if !is_answer || raft.state != StateRole::Leader || message.term != raft.term {
            return;
        }
        let members = raft.prs();
        if members.get(message.from).is_some() {
            self.answered.ticks.insert(message.from, self.ticks);
        }
        if self.answered.ticks.len() > members.iter().len() {
            self.answered.ticks.retain(|id, _| members.get(*id).is_some());
        }
    }

    /// The tick of a peer's last answer, if that is no longer ago than an election timeout.
    pub(super) fn last_answer(&self, id: u64) -> Option<u64> {
        let answered = self.answered.ticks.get(&id).copied();
        answered.filter(|answered| self.ticks - answered <= self.config.election_ticks as u64)
    }

    pub(super) fn transfer_leader(&mut self, ticket: Ticket, to: Option<NodeId>, effects: &mut Effects) {
        match self.find_target(to) {
            Ok(None) => effects.push(Effect::Answer { ticket, outcome: Outcome::Done }),
            Ok(Some(target)) => self.begin_transfer(Some(ticket), target),
            Err(refusal) => fail(ticket, refusal, effects),
        }
    }

    fn begin_transfer(&mut self, ticket: Option<Ticket>, target: u64) {
        let deadline = self.ticks + self.config.election_ticks as u64;
        self.transfer = Some(Transfer { ticket, target, term: self.raw.raft.term, deadline });
        self.raw.transfer_leader(target);
        self.pin();
    }

    /// Hands leadership over if the disk has not taken the oldest write for long and somebody else's has: to
    /// whoever has most of the log.
    pub(super) fn hand_over_from_hung_disk(&mut self, effects: &mut Effects) {
        let Some(since) = self.rounds.oldest_since() else { return };
        let ticks = self.ticks - since;
        let leads = self.raw.raft.state == StateRole::Leader && self.transfer.is_none();
        let patience = DISK_PATIENCE * self.config.election_ticks as u64;
        if !leads || ticks < patience || mutant::is(Mutant::HungDiskLeads) {
            return;
        }
        // Where all disks hang, and where nobody else is reachable, another leader is no better.
        let persisted = self.raw.raft.raft_log.persisted;
        let Some(target) = self.best_target(persisted + 1) else {
            reach!(NobodyToTakeOverFromHungDisk);
            return;
        };
        reach!(HandedOverFromHungDisk);
        self.begin_transfer(None, target);
        let to = NodeId::new(target).expect("members have ids");
        effects.push(Effect::Report(Report::DiskHangs { ticks, to }));
    }

    /// The target, or `None` if it leads already.
    fn find_target(&self, to: Option<NodeId>) -> Result<Option<u64>, Refusal> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(Refusal::NotLeader { leader: self.leader() });
        }
        if self.transfer.is_some() {
            return Err(Refusal::Transfer("another transfer is in progress".to_owned()));
        }
        let target = match to {
            Some(to) if to.get() == self.node => return Ok(None),
            Some(to) => self.check_target(to.get())?,
            None => self
                .best_target(0)
                .ok_or_else(|| Refusal::Transfer("no other voter is reachable".to_owned()))?,
        };
        Ok(Some(target))
    }

    fn is_voter(&self, id: u64) -> bool {
        self.raw.raft.prs().conf().voters().contains(id)
    }

    fn check_target(&self, id: u64) -> Result<u64, Refusal> {
        let refused = |why: &str| Err(Refusal::Transfer(format!("node {id} {why}")));
        if mutant::is(Mutant::TransferToAnybody) {
            return Ok(id);
        }
        let Some(progress) = self.raw.raft.prs().get(id) else {
            reach!(TransferToNobody);
            return refused("is not a member");
        };
        if !self.is_voter(id) {
            reach!(TransferToLearner);
            return refused("is not a voter");
        }
        if self.last_answer(id).is_none() {
            reach!(TransferToSilentNode);
            return refused("was not heard within an election timeout");
        }
        if progress.state == ProgressState::Snapshot {
            reach!(TransferToNodeInSnapshot);
            return refused("is receiving a snapshot");
        }
        Ok(id)
    }

    /// The voter with most of the log, at least up to `matched_min`; of several, the one that answered last.
    fn best_target(&self, matched_min: u64) -> Option<u64> {
        self.raw
            .raft
            .prs()
            .iter()
            .filter(|(id, progress)| **id != self.node && progress.matched >= matched_min)
            .filter(|(id, _)| self.check_target(**id).is_ok())
            .max_by_key(|(id, progress)| {
                let lags = mutant::is(Mutant::TransferToWhoLags);
                let matched = if lags { u64::MAX - progress.matched } else { progress.matched };
                (matched, self.last_answer(**id), std::cmp::Reverse(**id))
            })
            .map(|(id, _)| *id)
    }

    /// Answers a transfer that has succeeded or that cannot any more.
    pub(super) fn resolve_transfer(&mut self, effects: &mut Effects) {
        let Some(transfer) = &self.transfer else { return };
        let raft = &self.raw.raft;
        let leader = raft.leader_id;
        let outcome = if leader == transfer.target {
            Outcome::Done
        } else if raft.term > transfer.term && leader != 0 {
            Outcome::Failed(Refusal::Transfer(format!("node {leader} leads instead")))
        } else if self.ticks >= transfer.deadline && !mutant::is(Mutant::TransferNeverGivenUp) {
            let why = format!("node {} did not take over in time", transfer.target);
            Outcome::Failed(Refusal::Transfer(why))
        } else {
            return;
        };
        reach!(TransferDone, leader == transfer.target);
        reach!(TransferTooSlow, leader != transfer.target && raft.term == transfer.term);
        let ticket = transfer.ticket;
        self.transfer = None;
        if self.raw.raft.state == StateRole::Leader {
            self.raw.raft.abort_leader_transfer();
        }
        if let Some(ticket) = ticket {
            effects.push(Effect::Answer { ticket, outcome });
        }
    }

    pub(super) fn halt_transfer(&mut self, effects: &mut Effects) {
        if let Some(ticket) = self.transfer.take().and_then(|transfer| transfer.ticket) {
            fail(ticket, Refusal::Halted, effects);
        }
    }
}
