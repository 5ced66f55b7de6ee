//! A node's driver: one round, and what becomes of its effects.
//!
//! Effects are performed one after the other, and after each of them the node may crash: what was sent is
//! out, what was handed over is in hand, and the rest is lost.

use super::cluster::{Cluster, Happening, Process, Sight};
use super::disk::Write;
use super::image::EntryDigest;
use super::invariants::{Leader, Seen, Verdict, Violation};
use super::mutant::Mutant;
use super::node::{Question, Task};
use super::swarm::Boundary;
use super::trace::{MessageDigest, Step};
use crate::ids::{NodeId, Ticket};
use crate::reach::reach;
use crate::replica::eraftpb::MessageType;
use crate::replica::{CommittedEntry, Effect, Message, Outcome, Report, Role, only_leaders_say};
use crate::storage::{ConfState, EntryKind, LogEntry, WriteBatch};

/// Whether an entry changes the membership.
fn is_change(entry: &&LogEntry) -> bool {
    entry.kind != EntryKind::Normal
}

impl Cluster {
    /// One round of a node's driver.
    pub(super) fn round(&mut self, process: Process) -> Verdict {
        let now_us = self.schedule.now_us();
        let Process { node, incarnation } = process;
        let Some(running) = self.nodes[node].running_as(incarnation) else { return Ok(()) };
        if running.busy_until_us > now_us {
            // The process was stopped after this round was scheduled.
            let at_us = running.busy_until_us;
            self.schedule.at(at_us, Happening::Round(process));
            return Ok(());
        }
        running.round_due = false;
        let deaf = running.status.installing;
        if running.tick_due {
            self.invariants.true_readiness.ticks(node);
        }
        running.round()?;
        let deaf = deaf || running.status.installing;
        running.busy_until_us = now_us + self.rounds[node].exponential(self.swarm.latencies.round_mean_us);
        let mut effects = std::mem::take(&mut running.effects);
        self.counters.rounds += 1;
        let refusals = effects.iter().filter_map(refusal);
        self.invariants.refused_as_forged.round(node, refusals, deaf)?;
        self.check_round(node)?;
        for effect in effects.drain() {
            let boundary = self.perform(process, effect)?;
            if self.nodes[node].running.is_none() {
                // It has halted.
                return Ok(());
            }
            if self.crashes_at(node, boundary) {
                return self.crash(node, boundary.as_str());
            }
        }
        if let Some(running) = self.nodes[node].running.as_mut() {
            self.invariants.leadership_told.round(node, &running.status)?;
            running.effects = effects;
        }
        Ok(())
    }

    /// What must hold after a round, before any of its effects.
    fn check_round(&mut self, node: usize) -> Verdict {
        let id = node as u64 + 1;
        let incarnation = self.nodes[node].incarnation;
        let Some(running) = self.nodes[node].running.as_ref() else { return Ok(()) };
        let status = &running.status;
        if let Some(reason) = status.halted.as_deref() {
            if self.nodes[node].is_damaged() {
                return Ok(());
            }
            return self.invariants.no_panic.runs(id, Some(reason));
        }
        let (leads, term, commit) = (status.role == Role::Leader, status.term, status.commit);
        self.invariants.ordered_and_bounded.observe(status)?;
        self.invariants.monotonic.observe(node, running.promises())?;
        // Before its own vote is durable, a leader is one in its own mind only: it may forget that.
        reach!(TwoLeadersOfTwoTerms, leads && self.leader().is_some_and(|newest| newest != node));
        if leads && self.nodes[node].disk.promised().hard_state.term == term {
            self.invariants.one_leader_per_term.leads(id, incarnation, term)?;
            let committed = self.invariants.one_content_per_position.committed();
            let committed = self.invariants.one_content_per_position.entry(committed).map(|e| (committed, e));
            let leader = Leader { node, incarnation, term };
            self.invariants.leader_completeness.leads(leader, &self.nodes[node].issued, committed)?;
        }
        let membership = running.replica.conf_state();
        self.invariants.silent_outsiders.observe(node, status.role, membership)?;
        let newest = leads && self.invariants.leader_completeness.later_than(term).is_none();
        let seen = Seen {
            application: running.application.index(),
            installs: running.tasks.iter().any(|task| matches!(task, Task::Install(_))),
            membership,
            committed: newest.then(|| self.invariants.one_content_per_position.committed()),
            election_ticks: self.swarm.election_ticks as u64,
        };
        self.invariants.true_readiness.round(node, status, &seen)?;
        if self.invariants.one_content_per_position.committed() < commit || *membership != running.membership
        {
            let membership = membership.clone();
            self.check_commits(node, commit, &membership)?;
            if let Some(running) = self.nodes[node].running.as_mut() {
                running.membership = membership;
            }
        }
        Ok(())
    }

    /// What a node newly counts committed, going by the membership before the round or by that after it.
    fn check_commits(&mut self, node: usize, commit: u64, after: &ConfState) -> Verdict {
        let id = node as u64 + 1;
        let running = self.nodes[node].running.as_ref();
        let before = running.map(|running| running.membership.clone());
        let term = running.map_or(0, |running| running.status.term);
        let memberships = [after, before.as_ref().unwrap_or(after)];
        while self.invariants.one_content_per_position.committed() < commit {
            let index = self.invariants.one_content_per_position.committed() + 1;
            let Some(digest) = self.nodes[node].issued.entry(index) else {
                let detail = format!("n{id} counts index {index} committed, which it does not have");
                return Err(Violation::new("S5 durable quorum", detail));
            };
            let holds =
                |id: u64| self.nodes.get(id as usize - 1).is_some_and(|node| node.held(index, digest));
            let counted = self.invariants.durable_quorum.commits(id, index, digest, &memberships, holds);
            if self.sight == Sight::Inside {
                counted?;
            }
            self.invariants.one_content_per_position.commit(digest);
            let later = self.invariants.leader_completeness.later_than(term);
            let running = |leader: &Leader| self.nodes[leader.node].incarnation == leader.incarnation;
            if let Some(leader) = later.filter(running) {
                let log = &self.nodes[leader.node].issued;
                self.invariants.leader_completeness.commits(leader, log, index, digest)?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, process: Process, effect: Effect) -> Result<Boundary, Violation> {
        let node = process.node;
        match effect {
            Effect::Send { messages } => self.send(process, messages),
            Effect::Persist { batch } => self.persist(process, batch),
            Effect::RequestProposal { term, room } => {
                self.note(node, Step::Request { term, room });
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.pool.open(term, room);
                }
                self.propose(node);
                Ok(Boundary::Other)
            }
            Effect::WithdrawRequest => {
                self.note(node, Step::Withdraw);
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.pool.close();
                }
                Ok(Boundary::Other)
            }
            Effect::Apply { entries } => self.apply(process, entries),
            Effect::BuildSnapshot => {
                self.note(node, Step::BuildSnapshot);
                self.assign(process, Task::Build);
                Ok(Boundary::Snapshot)
            }
            Effect::InstallSnapshot { snapshot } => {
                self.note(node, Step::InstallSnapshot { index: snapshot.position.index });
                self.counters.snapshots_installed += 1;
                self.invariants.apply_order.installs(node, snapshot.position.index);
                self.invariants.ordered_and_bounded.stops(node);
                let admitted = self.admitted[node] == self.nodes[node].store_number;
                if self.invariants.silent_outsiders.is_outside(node) {
                    reach!(NewcomerJoined);
                    self.nodes[node].joined();
                }
                self.invariants.silent_outsiders.joins(node, admitted)?;
                let (index, membership) = (snapshot.position.index, &snapshot.conf_state);
                self.invariants.agreed_membership.stands(node, index, membership)?;
                self.assign(process, Task::Install(Box::new(snapshot)));
                Ok(Boundary::Snapshot)
            }
            Effect::Answer { ticket, outcome } => self.answer(node, ticket, outcome),
            Effect::Report(report) => self.take_report(node, report),
            Effect::Halt { reason } if self.nodes[node].is_damaged() => {
                reach!(HaltedByDamage);
                self.refuse(node, reason)?;
                Ok(Boundary::Other)
            }
            Effect::Halt { reason } => {
                self.invariants.no_panic.runs(node as u64 + 1, Some(&reason))?;
                Ok(Boundary::Other)
            }
        }
    }

    /// Sends messages under the eyes of the checks.
    pub(super) fn send(&mut self, process: Process, messages: Vec<Message>) -> Result<Boundary, Violation> {
        let mut boundary = Boundary::Sent;
        for message in messages {
            let kind = message.get_msg_type();
            let digest = MessageDigest::of(&message);
            self.note(process.node, Step::Send(digest));
            self.invariants.one_vote_per_term.sent(&message)?;
            self.invariants.silent_outsiders.sent(process.node, &message)?;
            let durable = self.nodes[process.node].disk.durable();
            let kept = self.invariants.durable_before_heard.sent(&message, durable);
            if self.sight == Sight::Inside {
                kept?;
            }
            if only_leaders_say(kind) {
                let check = &mut self.invariants.one_leader_per_term;
                check.leads(process.node as u64 + 1, process.incarnation, message.term)?;
            }
            if kind == MessageType::MsgRequestVoteResponse && !message.reject {
                boundary = Boundary::VoteSent;
            } else if kind == MessageType::MsgAppendResponse && !message.reject && boundary == Boundary::Sent
            {
                boundary = Boundary::AcceptanceSent;
            }
            self.transmit(process, message, digest);
        }
        Ok(boundary)
    }

    fn persist(&mut self, process: Process, batch: WriteBatch) -> Result<Boundary, Violation> {
        let node = process.node;
        self.note(
            node,
            Step::Persist {
                number: batch.number,
                sync: batch.sync,
                first: batch.entries.first().map_or(0, |entry| entry.index),
                entries: batch.entries.len(),
                truncate_from: batch.truncate_from,
            },
        );
        if let Some(hard_state) = batch.hard_state {
            let vote = hard_state.vote.map_or(0, NodeId::get);
            self.note(node, Step::PersistTerm { term: hard_state.term, vote, commit: hard_state.commit });
        }
        let boundary = if batch.snapshot.is_some() || batch.install.is_some() {
            Boundary::Snapshot
        } else {
            Boundary::Persist
        };
        if batch.snapshot.is_some() {
            self.counters.snapshots_built += 1;
        }
        if let Some(applied) = &batch.applied {
            self.invariants.agreed_membership.stands(node, applied.index, &applied.conf_state)?;
        }
        if let Some(snapshot) = &batch.snapshot {
            let (index, membership) = (snapshot.position.index, &snapshot.conf_state);
            self.invariants.agreed_membership.stands(node, index, membership)?;
        }
        let changes: Vec<u64> = batch.entries.iter().filter(is_change).map(|entry| entry.index).collect();
        let committed = self.invariants.one_content_per_position.committed();
        let from = if batch.install.is_some() { Some(0) } else { batch.truncate_from };
        self.invariants.agreed_membership.writes(node, from, &changes, committed)?;
        let digests = EntryDigest::of_batch(&batch);
        let issued = self.nodes[node].issued.write(&batch, &digests);
        issued.map_err(|how| Violation::new("S9 log", format!("n{} hands out: {how}", node + 1)))?;
        let early = self.mutant == Some(Mutant::AcknowledgeBeforePersist);
        let write = Write::of_replica(batch, digests, !early);
        let early = if early { write.awaited() } else { None };
        self.write(process, write);
        if let Some(completion) = early {
            self.nodes[node].disk.promise_early();
            self.completed(process, completion);
        }
        Ok(boundary)
    }

    fn apply(&mut self, process: Process, entries: Vec<CommittedEntry>) -> Result<Boundary, Violation> {
        let node = process.node;
        let id = node as u64 + 1;
        let first = entries.first().map_or(0, |first| first.entry.index);
        let last = entries.last().map_or(0, |last| last.entry.index);
        self.note(node, Step::Apply { first, last });
        let mut plain: Vec<LogEntry> = Vec::with_capacity(entries.len());
        for CommittedEntry { entry, .. } in entries {
            self.invariants.apply_order.applies(node, entry.index)?;
            if is_change(&&entry) {
                self.invariants.agreed_membership.commits(entry.index);
            }
            let digest = EntryDigest::of(&entry);
            self.invariants.one_content_per_position.applies(id, entry.index, digest)?;
            plain.push(entry);
        }
        let bytes = plain.iter().map(|entry| entry.data.len() as u64).sum();
        self.invariants.ordered_and_bounded.hands_out(node, bytes)?;
        self.assign(process, Task::Apply(plain));
        Ok(Boundary::Apply)
    }

    fn answer(&mut self, node: usize, ticket: Ticket, outcome: Outcome) -> Result<Boundary, Violation> {
        let id = node as u64 + 1;
        let Some(running) = self.nodes[node].running.as_mut() else { return Ok(Boundary::Other) };
        let question = running.answered(ticket);
        self.invariants.true_answers.answered(id, ticket.0, question.is_some())?;
        let application = running.application.index();
        let (done, index) = match outcome {
            Outcome::Applied { index, .. } | Outcome::ReadIndex { index } => (true, index),
            Outcome::Done => (true, 0),
            Outcome::Failed(_) => (false, 0),
        };
        if application < index {
            let detail = format!("n{id} answers with index {index}, its application has {application}");
            return Err(Violation::new("S10 apply order", detail));
        }
        match question {
            Some(Question::Proposal(block, content)) => {
                running.pool.answered(&block);
                if let Outcome::Applied { index, term } = outcome {
                    let canonical = self.invariants.one_content_per_position.entry(index);
                    self.invariants.true_answers.applied(id, content, index, term, canonical)?;
                }
            }
            Some(Question::Read(least)) if done => self.invariants.fresh_reads.answered(id, least, index)?,
            Some(Question::Mistake) if done => {
                let detail = format!("n{id} carries out what it must refuse");
                return Err(Violation::new("S13 mistakes are refused", detail));
            }
            Some(Question::Read(_) | Question::Control | Question::Mistake) | None => {}
        }
        self.note(node, Step::Answer { ticket: ticket.0, done, index });
        Ok(Boundary::Other)
    }

    fn take_report(&mut self, node: usize, report: Report) -> Result<Boundary, Violation> {
        let step = match report {
            Report::Leadership { role, term, leader } => {
                self.invariants.leadership_told.told(node, role, term, leader.map_or(0, NodeId::get))?;
                Step::Role { role: role.as_str(), term, leader: leader.map_or(0, NodeId::get) }
            }
            Report::GateRefused { from, reason } => {
                *self.counters.refused.entry(reason).or_default() += 1;
                Step::Refused { from: from.get(), reason }
            }
            Report::StoreBehind { from, claimed, last } => {
                let stays = &self.invariants.committed_stays;
                return Err(stays.store_behind(node as u64 + 1, from.get(), claimed, last));
            }
            Report::Removed => {
                self.invariants.silent_outsiders.removed(node);
                Step::Report
            }
            Report::Membership { .. } | Report::DiskHangs { .. } => Step::Report,
        };
        self.note(node, step);
        Ok(Boundary::Other)
    }
}

fn refusal(effect: &Effect) -> Option<&'static str> {
    match effect {
        Effect::Report(Report::GateRefused { reason, .. }) => Some(reason),
        _ => None,
    }
}
