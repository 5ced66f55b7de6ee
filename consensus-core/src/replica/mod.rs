//! One chain's consensus state on this node, as a pure function of events.
//!
//! [`Replica::handle`] takes an [`Event`] and lists [`Effect`]s; [`Replica::flush`] ends a round: one
//! Ready of the `raft` crate, one [`WriteBatch`](crate::storage::WriteBatch), one round of sends. Nothing is
//! ever awaited here: durability, the application and the peers answer by further events.
//!
//! Inside, one concern each: `ready` (the Ready contract: what may leave before what is durable), `gate`
//! (judges every message from a peer), `log_view` (the log as the crate sees it), `proposals`, `reads`,
//! `membership`, `snapshots`, `transfer`, `election_clock`, `backlog`, `heard` and `health`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft::{RawNode, StateRole};

use crate::ids::{ChainId, NodeId, Ticket};
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{ChainState, LogReader, Snapshot};

mod backlog;
mod change;
mod config;
mod effect;
mod election_clock;
mod event;
mod gate;
pub mod health;
mod heard;
mod idle;
mod leadership;
mod log_view;
mod membership;
mod proposals;
mod raft_logger;
mod reads;
mod ready;
mod snapshots;
mod status;
mod transfer;

#[cfg(test)]
mod stories;

pub use config::{OpenError, ReplicaConfig};
pub use effect::{CommittedEntry, Effect, Effects, Outcome, Refusal, Report};
pub use event::{Control, Event, MembershipChange, PeerReport, Proposal};
pub use gate::{answers_vote, any_store_may_say, asks_for_vote, only_leaders_say};
pub use snapshots::SnapshotPolicy;
pub use status::{PeerProgress, Role, Status};

/// The `raft` crate's message types, for the codec of a transport only.
pub use raft::eraftpb;

/// A message between replicas.
pub type Message = raft::eraftpb::Message;

/// A reason to halt.
#[derive(Debug)]
struct Halt(String);

/// A Ready with a snapshot that is being made durable; nothing may be asked of the crate meanwhile.
struct Installing {
    ready: raft::Ready,
    held: Vec<Message>,
    snapshot: Snapshot,
}

enum Phase {
    Running,
    /// A received snapshot is on its way to the disk.
    Installing(Box<Installing>),
    /// A received snapshot is durable and the application is taking it: no elections, no appends, and its
    /// acknowledgement is held.
    CatchingUp {
        index: u64,
        held: Vec<Message>,
    },
}

/// One chain's consensus state on this node.
pub struct Replica {
    node: u64,
    chain: ChainId,
    config: ReplicaConfig,
    raw: RawNode<log_view::LogView>,
    clock: election_clock::ElectionClock,
    phase: Phase,
    rounds: ready::Rounds,
    proposals: proposals::Proposals,
    reads: reads::Reads,
    membership: membership::Membership,
    snapshots: snapshots::Snapshots,
    transfer: Option<transfer::Transfer>,
    answered: transfer::Answered,
    heard: heard::Heard,
    backlog: backlog::Backlog,
    /// Ticks since open.
    ticks: u64,
    /// The application has taken everything up to here.
    applied: u64,
    /// `applied` has not been handed to the writer yet.
    applied_pending: bool,
    /// The application was given everything up to here.
    handed_out: u64,
    /// A tick has passed: what may be written lazily is.
    lazy_due: bool,
    /// What was last reported.
    leadership: (Role, u64, u64),
    /// The term and room of the last `RequestProposal` that was not withdrawn.
    requested: Option<(u64, usize)>,
    /// Set before the first round: a snapshot whose installation a restart interrupted.
    resume_install: Option<Snapshot>,
    /// Stand for election at once in the first round.
    campaign_at_start: bool,
    /// This replica shall stand first on a chain without history, which has this term.
    designated: Option<u64>,
    halted: Option<String>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("node", &self.node)
            .field("chain", &self.chain)
            .field("term", &self.raw.raft.term)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Opens a replica on what is durable. The application must hold everything up to `state.applied.index`
    /// and ignore entries it already has. A store without log and members is that of a newcomer: it takes
    /// part in nothing until a leader has sent it a snapshot.
    ///
    /// # Errors
    /// [`OpenError::Config`], [`OpenError::Limits`]; [`OpenError::Inconsistent`] when the log, the commit index
    /// and the applied index contradict each other.
    pub fn open(
        config: ReplicaConfig,
        mut state: ChainState,
        reader: Arc<dyn LogReader>,
    ) -> Result<Self, OpenError> {
        config.validate()?;
        config::check_state(&mut state)?;
        let node = state.identity.node_id.get();
        let chain = state.identity.chain_id();
        let applied = state.applied.index;
        let voters = state.applied.conf_state.voters.clone();
        let term = state.hard_state.term;
        let fresh = state.last == state.truncated && state.hard_state.vote.is_none() && term <= 1;
        let raft_config = config.for_raft(node, applied);
        let clock = election_clock::ElectionClock::new(
            config.seed,
            config.election_ticks_min,
            config.election_ticks_max,
        );
        let resume_install = state.snapshot.clone().filter(|_| state.installing);
        let resume_install = resume_install.filter(|_| !mutant::is(Mutant::InterruptedInstallForgotten));
        let membership = membership::Membership::new(&state.applied.conf_state, node);
        let rounds = ready::Rounds::new(state.hard_state);
        let view = log_view::LogView::new(&state, reader, config.limits.tail_bytes_max);
        let raw = RawNode::new(&raft_config, view, &raft_logger::logger(node))?;
        let turn = u64::from_be_bytes(chain.to_be_bytes()) % voters.len().max(1) as u64;
        let mut replica = Self {
            node,
            chain,
            rounds,
            raw,
            clock,
            phase: Phase::Running,
            proposals: proposals::Proposals::default(),
            reads: reads::Reads::new(config.seed, 2 * config.election_ticks_max as u64),
            membership,
            snapshots: snapshots::Snapshots::new(config.snapshots, config.snapshot_timeout_ticks),
            transfer: None,
            answered: transfer::Answered::default(),
            heard: heard::Heard::default(),
            backlog: backlog::Backlog::default(),
            ticks: 0,
            applied,
            applied_pending: false,
            handed_out: applied,
            lazy_due: false,
            leadership: (Role::Follower, state.hard_state.term, 0),
            requested: None,
            resume_install,
            campaign_at_start: voters == [node],
            designated: (fresh && voters.get(turn as usize) == Some(&node)).then_some(term),
            halted: None,
            config,
        };
        replica.pin();
        Ok(replica)
    }

    /// Takes an event. What it leads to is listed in `effects`, partly only by [`Self::flush`].
    pub fn handle(&mut self, event: Event, effects: &mut Effects) {
        if self.halted.is_some() {
            proposals::refuse(&event, Refusal::Halted, effects);
            return;
        }
        self.guarded(effects, |replica, effects| replica.on_event(event, effects));
    }

    /// Ends a round.
    pub fn flush(&mut self, effects: &mut Effects) {
        if self.halted.is_none() {
            self.guarded(effects, Self::end_round);
        }
    }

    /// Runs one step; a panic inside the `raft` crate and a read that failed there halt the chain instead of
    /// the process.
    fn guarded(
        &mut self,
        effects: &mut Effects,
        step: impl FnOnce(&mut Self, &mut Effects) -> Result<(), Halt>,
    ) {
        let result = catch_unwind(AssertUnwindSafe(|| step(self, effects)));
        let reason = match result {
            Ok(Ok(())) => None,
            Ok(Err(Halt(reason))) => Some(reason),
            Err(panic) => Some(format!("bug! panic: {}", panic_text(&*panic))),
        };
        let reason = self.raw.store().take_damage().map(|error| error.to_string()).or(reason);
        if let Some(reason) = reason {
            self.halt(reason, effects);
        }
    }

    fn halt(&mut self, reason: String, effects: &mut Effects) {
        self.proposals.halt(effects);
        self.reads.halt(effects);
        self.halt_transfer(effects);
        self.membership.lost(None, effects);
        if self.requested.take().is_some() {
            effects.push(Effect::WithdrawRequest);
        }
        effects.push(Effect::Halt { reason: reason.clone() });
        self.halted = Some(reason);
    }

    fn on_event(&mut self, event: Event, effects: &mut Effects) -> Result<(), Halt> {
        match event {
            Event::Tick => self.on_tick(effects),
            Event::PeerMessage { from, message } => self.on_peer_message(from, message, effects)?,
            Event::Propose { proposals } => self.on_propose(proposals, effects),
            Event::ReadIndex { ticket } => self.on_read_index(ticket, effects),
            Event::Persisted { number } => self.on_persisted(number, effects),
            Event::Applied { index } => self.on_applied(index, effects)?,
            Event::SnapshotBuilt { index, data } => self.on_snapshot_built(index, data, effects),
            Event::SnapshotInstalled { index } => self.on_snapshot_installed(index, effects),
            Event::PeerReport { peer, report } => self.on_peer_report(peer, report),
            Event::Control { ticket, command } => self.on_control(ticket, command, effects),
        }
        Ok(())
    }

    fn pin(&mut self) {
        self.clock.pin(&mut self.raw);
    }

    /// Whether the crate may be called: not while a snapshot is on its way to the disk.
    fn callable(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::CatchingUp { .. })
    }

    /// Whether a snapshot was received that the application does not have yet. Until it is on the disk the crate
    /// goes by its membership already, and everybody else by the one before: nobody stands meanwhile.
    fn takes_snapshot(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { .. }) || self.raw.snap().is_some()
    }

    /// The only voter must not stand for election while its log is not durable: it would win at once.
    fn must_not_campaign(&self) -> bool {
        self.raw.raft.state != StateRole::Leader
            && self.is_unsynced_sole_voter()
            && !mutant::is(Mutant::SoleVoterDoesNotWait)
    }

    /// Nobody else has a vote, in neither half of a joint membership, and not all of the log is durable.
    fn is_unsynced_sole_voter(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        // What came in this round is in none of the rounds on their way to the disk yet.
        let durable = self.rounds.is_empty() && log.persisted == log.last_index();
        !durable && self.raw.raft.prs().conf().voters().ids().iter().all(|id| id == self.node)
    }

    fn on_tick(&mut self, effects: &mut Effects) {
        self.ticks += 1;
        self.lazy_due = true;
        self.reads.expire(self.ticks, effects);
        if !self.callable() {
            return;
        }
        self.expire_snapshots();
        if self.takes_snapshot() || self.must_not_campaign() {
            reach!(SoleVoterWaitedForItsDisk, self.must_not_campaign());
            return;
        }
        self.raw.tick();
        self.pin();
        self.hand_over_from_hung_disk(effects);
        if let Some(term) = self.designated {
            self.stand_first(term);
        }
    }

    /// On a chain without history one replica, known to all, does not wait for its timeout.
    fn stand_first(&mut self, first_term: u64) {
        let raft = &self.raw.raft;
        if raft.leader_id != 0 || raft.term > first_term + 1 || self.ticks > self.config.election_ticks as u64
        {
            self.designated = None;
        } else if self.ticks.is_multiple_of(2) {
            // A refusal shows in the next tick.
            reach!(StoodFirst);
            let _ = self.raw.campaign();
            self.pin();
        }
    }

    fn on_peer_message(&mut self, from: NodeId, message: Message, effects: &mut Effects) -> Result<(), Halt> {
        if !self.callable() {
            return Ok(());
        }
        let log = &self.raw.raft.raft_log;
        let door = gate::Doorstep {
            node: self.node,
            term: self.raw.raft.term,
            last: log.last_index(),
            persisted: log.persisted,
            committed: (log.committed, log.term(log.committed).ok()),
            unsynced_sole_voter: self.is_unsynced_sole_voter(),
        };
        let verdict = match gate::judge(&door, &self.config.limits, from.get(), &message) {
            gate::Verdict::Pass => {
                self.note_leader(&message);
                self.room_for(&message)
            }
            refusal => refusal,
        };
        match verdict {
            gate::Verdict::Pass => {}
            gate::Verdict::Refuse(reason) => {
                effects.push(Effect::Report(Report::GateRefused { from, reason }));
                return Ok(());
            }
            gate::Verdict::StoreBehind { claimed } => {
                effects.push(Effect::Report(Report::StoreBehind { from, claimed, last: door.last }));
                return Ok(());
            }
        }
        reach!(VoteRefusedInLease, self.is_leased_against(&message));
        reach!(MessageOfAFormerTerm, message.term < door.term);
        self.note_answer(&message);
        let stepped = self.raw.step(message);
        self.pin();
        match stepped {
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            Err(error) => Err(Halt(format!("message from node {from}: {error}"))),
        }
    }

    /// Whether the lease of a leader that was heard lately speaks against a candidate.
    #[cfg(feature = "sim")]
    fn is_leased_against(&self, message: &Message) -> bool {
        use raft::eraftpb::MessageType::{MsgRequestPreVote, MsgRequestVote};
        let raft = &self.raw.raft;
        matches!(message.get_msg_type(), MsgRequestVote | MsgRequestPreVote)
            && message.term > raft.term
            && raft.leader_id != 0
            && raft.election_elapsed < self.config.election_ticks
    }

    /// Appends are dropped, as if the network had lost them, while a queue behind them is full or a snapshot
    /// is being installed.
    fn room_for(&self, message: &Message) -> gate::Verdict {
        use raft::eraftpb::MessageType;
        let kind = message.get_msg_type();
        if self.raw.store().conf_state().voters.is_empty() {
            // It may have voted in this term before it lost its store.
            let vote = matches!(
                kind,
                MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow
            ) && !mutant::is(Mutant::NewcomerVotes);
            reach!(NewcomerAskedToVote, vote);
            // Entries without a membership below them are a store that does not open again. An append
            // further up is answered, and the answer brings the snapshot.
            let start_of_log = kind == MessageType::MsgAppend && message.index == 0;
            if vote || start_of_log {
                return gate::Verdict::Refuse("no membership yet");
            }
        }
        if self.takes_snapshot()
            && matches!(kind, MessageType::MsgAppend | MessageType::MsgSnapshot | MessageType::MsgTimeoutNow)
        {
            reach!(AppendWhileInstalling);
            return gate::Verdict::Refuse("installing a snapshot");
        }
        if kind == MessageType::MsgAppend && !message.entries.is_empty() {
            if self.backlog_full() {
                reach!(AppendBeyondApplyBacklog);
                return gate::Verdict::Refuse("apply backlog full");
            }
            if self.rounds.bytes() >= self.config.limits.unpersisted_bytes_max {
                reach!(AppendBeyondWriterBacklog);
                return gate::Verdict::Refuse("writer backlog full");
            }
        }
        gate::Verdict::Pass
    }

    fn on_propose(&mut self, proposals: Vec<Proposal>, effects: &mut Effects) {
        let refusal = self.proposal_refusal();
        for proposal in proposals {
            if let Some(refusal) = &refusal {
                proposals::fail(proposal.ticket, refusal.clone(), effects);
            } else if let Err((ticket, refusal)) = self.proposals.gather(proposal, &self.config.limits) {
                proposals::fail(ticket, refusal, effects);
            }
        }
    }

    fn backlog_full(&self) -> bool {
        let bound = self.config.limits.apply_backlog_bytes_max;
        self.backlog.bytes() >= bound && !mutant::is(Mutant::BacklogUnbounded)
    }

    fn on_read_index(&mut self, ticket: Ticket, effects: &mut Effects) {
        if self.raw.raft.state != StateRole::Leader || !self.callable() {
            proposals::fail(ticket, Refusal::NotLeader { leader: self.leader() }, effects);
            return;
        }
        let bound = self.config.limits.pending_reads_max;
        if self.reads.len() >= bound {
            let refusal = Refusal::Overloaded { what: "pending reads", bound: bound as u64 };
            proposals::fail(ticket, refusal, effects);
            return;
        }
        self.reads.park(ticket, self.ticks);
        if mutant::is(Mutant::StaleLeaderReads) {
            let context = self.reads.next_context();
            self.reads.asked();
            self.reads.confirm(&context, self.raw.raft.raft_log.committed);
        }
    }

    fn on_applied(&mut self, index: u64, effects: &mut Effects) -> Result<(), Halt> {
        // Older than a snapshot that has replaced it, or that the crate goes by already: its membership then, too,
        // is that of the snapshot.
        if index <= self.applied || !self.callable() || self.raw.snap().is_some() {
            reach!(AppliedBelowSnapshot);
            return Ok(());
        }
        if index > self.handed_out {
            let handed_out = self.handed_out;
            return Err(Halt(format!(
                "bug! application reports {index} applied, was given up to {handed_out}"
            )));
        }
        self.apply_membership(index, effects)?;
        self.applied = index;
        self.applied_pending = true;
        self.backlog.applied(index);
        self.proposals.applied(index, effects);
        self.raw.advance_apply_to(index);
        self.pin();
        Ok(())
    }

    fn on_peer_report(&mut self, peer: NodeId, report: PeerReport) {
        if !self.callable() {
            return;
        }
        match report {
            PeerReport::Unreachable => {
                self.raw.report_unreachable(peer.get());
                self.pin();
            }
            PeerReport::SnapshotDelivered => self.on_snapshot_delivered(peer),
            PeerReport::SnapshotFailed => self.on_snapshot_failed(peer),
        }
    }

    fn on_control(&mut self, ticket: Ticket, command: Control, effects: &mut Effects) {
        if !self.callable() {
            proposals::fail(ticket, Refusal::NotLeader { leader: None }, effects);
            return;
        }
        match command {
            Control::TransferLeader { to } => self.transfer_leader(ticket, to, effects),
            Control::Campaign => {
                // The crate itself would let a newcomer stand, to be elected by nobody.
                let eligible = self.raw.raft.promotable() && !self.must_not_campaign();
                if eligible && !self.takes_snapshot() {
                    // The crate logs why it does not stand.
                    let _ = self.raw.campaign();
                    self.pin();
                }
                effects.push(Effect::Answer { ticket, outcome: Outcome::Done });
            }
            Control::ChangeMembership { changes } => self.change_membership(ticket, &changes, effects),
        }
    }

    fn end_round(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        self.start(effects);
        if self.callable() {
            self.step_gathered(effects)?;
            self.ask_reads();
            self.leave_joint_when_due();
            self.take_readys(effects)?;
        }
        if self.callable() {
            self.request_snapshot_when_due(effects);
        }
        self.report_leadership(effects);
        self.resolve_transfer(effects);
        // While a snapshot is on its way into the application, the application is behind `applied`.
        if !matches!(self.phase, Phase::CatchingUp { .. }) {
            let early = mutant::is(Mutant::ReadBeforeApplied);
            self.reads.applied(if early { u64::MAX } else { self.applied }, effects);
        }
        self.request_proposals(effects);
        if std::mem::take(&mut self.lazy_due) {
            self.persist_lazily(effects);
        }
        Ok(())
    }

    fn start(&mut self, effects: &mut Effects) {
        self.report_removal(effects);
        if let Some(snapshot) = self.resume_install.take() {
            reach!(InstallResumed);
            self.phase = Phase::CatchingUp { index: snapshot.position.index, held: Vec::new() };
            effects.push(Effect::InstallSnapshot { snapshot });
        }
        if std::mem::take(&mut self.campaign_at_start) {
            // The only voter has nobody to wait for; the crate logs why it does not stand.
            let _ = self.raw.campaign();
            self.pin();
        }
    }

    fn step_gathered(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        for (message, tickets) in self.proposals.take_gathered(self.node, self.config.limits.append_bytes_max)
        {
            // A follower's crate would forward it to the leader, whose gate takes no proposals from peers.
            let leads = self.raw.raft.state == StateRole::Leader || mutant::is(Mutant::ProposalsForwarded);
            let stepped = if leads { self.raw.step(message) } else { Err(raft::Error::ProposalDropped) };
            self.pin();
            match stepped {
                Ok(()) if self.raw.raft.state == StateRole::Leader => {
                    let last = self.raw.raft.raft_log.last_index();
                    self.proposals.appended(tickets, last, self.raw.raft.term);
                }
                Ok(()) | Err(raft::Error::ProposalDropped) => {
                    reach!(ProposalsLostInTheirRound);
                    let leader = self.leader();
                    for (ticket, _) in tickets {
                        proposals::fail(ticket, Refusal::NotLeader { leader }, effects);
                    }
                }
                Err(error) => return Err(Halt(format!("proposing: {error}"))),
            }
        }
        Ok(())
    }

    fn ask_reads(&mut self) {
        if !self.reads.has_parked() || self.raw.raft.state != StateRole::Leader {
            return;
        }
        let taken =
            |replica: &Self| replica.raw.raft.pending_read_count() + replica.raw.raft.ready_read_count();
        let before = taken(self);
        let context = self.reads.next_context();
        self.raw.read_index(context);
        self.pin();
        // Until the leader has committed in its own term the crate drops the question without a word.
        reach!(ReadBeforeFirstCommit, taken(self) == before);
        if taken(self) > before {
            self.reads.asked();
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a message".to_owned())
}
