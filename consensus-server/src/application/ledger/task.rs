//! The ledger's task: chain events and submitted frames in, proposals, blocks and answers out.
//!
//! A turn takes everything that waits: committed entries are applied in order, frames go into the pipeline
//! while it has room, whatever is ready to be cut leaves as one round of proposals, and each frame that is
//! complete is answered once. The task waits for nothing but its inputs and, under a slow disk, for room in
//! front of the writer.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus_core::ids::Ticket;
use consensus_core::ledger::{
    self, Completion, Frame, Ledger, Pipeline, Refusal as PipelineRefusal, Run, encode_proposal,
};
use consensus_core::replica::{CommittedEntry, Outcome, Proposal, Refusal, Status};
use consensus_proto::ordering::{self, Acknowledgement, Reason, outcome};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

use super::frames;
use super::handle::{Shared, stopping};
use super::traced::{FrameKey, Traced};
use super::{Tip, TransactionState, refused};
use crate::application::{Application, ApplicationEvent, ApplicationInbox};
use crate::chain::ChainHandle;

/// What is kept of a frame until it has all its outcomes.
pub(super) struct Token {
    /// Where they go; `None` if it was answered when it was accepted.
    answer: Option<oneshot::Sender<Vec<ordering::Outcome>>>,
    /// Set if it is sampled.
    trace: Option<FrameKey>,
}

/// The built-in application, ready to run.
pub struct LedgerApplication {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) pipeline: Pipeline<Token>,
}

impl std::fmt::Debug for LedgerApplication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerApplication").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

/// Proposals in this leadership.
#[derive(Clone, Copy, Debug)]
enum Door {
    /// Not welcome: this node does not lead, or its log is not applied yet.
    Shut,
    /// Welcome, unless the replica has said that there is no room.
    Open { room: bool },
    /// The chain has halted.
    Halted,
}

struct Task {
    shared: Arc<Shared>,
    chain: ChainHandle,
    ledger: Ledger,
    pipeline: Pipeline<Token>,
    door: Door,
    /// Proposals in flight, with the pipeline's numbers of their batches.
    batches: HashMap<Ticket, u64>,
    traced: Traced,
    inflight_max: usize,
    /// Blocks whose records are with the writer: (what it must have written, height).
    unwritten: VecDeque<(u64, u64)>,
    started: Instant,
}

impl Application for LedgerApplication {
    async fn run(self, inbox: ApplicationInbox, chain: ChainHandle) {
        let Self { shared, ledger, pipeline } = self;
        let inflight_max = chain.limits().inflight_proposals_max;
        let _end = End(shared.clone());
        let task = Task {
            traced: Traced::new(chain.traces().clone()),
            shared,
            chain,
            ledger,
            pipeline,
            door: Door::Shut,
            batches: HashMap::new(),
            inflight_max,
            unwritten: VecDeque::new(),
            started: Instant::now(),
        };
        task.turns(inbox).await;
    }
}

/// Lets nobody wait for a task that has ended, however it ended.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.frames.close();
        // A question without an answer is put to the store.
        drop(self.0.frames.take_questions());
        for frame in self.0.frames.take_frames(usize::MAX) {
            let _ = frame.answer.send(vec![stopping(frame.transactions.len())]);
        }
        self.0.arrivals.end();
    }
}

/// What a turn begins with.
enum Input {
    Event(ApplicationEvent),
    Woken,
    Ended,
}

impl Task {
    async fn turns(mut self, mut inbox: ApplicationInbox) {
        let mut status = self.chain.watch_status();
        let mut alarm = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            match self.input(&mut inbox, &mut status, &mut alarm).await {
                Input::Event(event) => self.on_event(event).await,
                Input::Woken => {}
                Input::Ended => return,
            }
            while let Some(event) = inbox.try_recv() {
                self.on_event(event).await;
            }
            self.answer_questions();
            self.take_frames(&status);
            self.propose();
            self.answer();
            tokio::task::consume_budget().await;
        }
    }

    async fn input(
        &self,
        inbox: &mut ApplicationInbox,
        status: &mut watch::Receiver<Arc<Status>>,
        alarm: &mut Pin<Box<Sleep>>,
    ) -> Input {
        let deadline = self.cut_deadline();
        if let Some(deadline) = deadline
            && alarm.deadline() != deadline
        {
            alarm.as_mut().reset(deadline);
        }
        // Frames wait for the door to open or for the news that somebody else leads.
        let undecided = matches!(self.door, Door::Shut) && self.shared.frames.len() > 0;
        tokio::select! {
            event = inbox.recv() => event.map_or(Input::Ended, Input::Event),
            () = self.shared.frames.woken() => Input::Woken,
            () = alarm_or_never(alarm, deadline.is_some()) => Input::Woken,
            _ = status.changed(), if undecided => Input::Woken,
        }
    }

    /// When a partly filled block must be cut; as long as nothing is in flight it is cut at once.
    fn cut_deadline(&self) -> Option<Instant> {
        let waits = matches!(self.door, Door::Open { room: true }) && self.batches.len() < self.inflight_max;
        let at = self.pipeline.next_deadline_ms().filter(|_| waits)?;
        Some(self.started + Duration::from_millis(at))
    }

    async fn on_event(&mut self, event: ApplicationEvent) {
        match event {
            // The ledger's own records say where it is; entries that it has taken already are ignored.
            ApplicationEvent::Opened { .. } => {}
            ApplicationEvent::RequestProposal { room, .. } => self.door = Door::Open { room: room > 0 },
            ApplicationEvent::WithdrawRequest => self.withdraw(),
            ApplicationEvent::Apply(entries) => self.apply(entries).await,
            // The log is the blocks' body and is never replaced by a snapshot.
            ApplicationEvent::BuildSnapshot => self.chain.snapshot_built(0, None),
            ApplicationEvent::InstallSnapshot(snapshot) => {
                let index = snapshot.position.index;
                self.chain.halt(format!(
                    "a snapshot at {index} was received, the ledger is built from entries only"
                ));
            }
            ApplicationEvent::Answer { ticket, outcome } => self.on_answer(ticket, outcome),
            ApplicationEvent::Halted { .. } => {
                self.door = Door::Halted;
                self.batches.clear();
                self.traced.halted();
                let completions = self.pipeline.clear(PipelineRefusal::Halted);
                self.complete(completions);
            }
        }
    }

    /// What was not proposed is refused; what is in flight is answered one by one.
    fn withdraw(&mut self) {
        self.door = Door::Shut;
        while let Some(batch) = self.pipeline.next_batch(u64::MAX, 1, 0) {
            self.pipeline.lost(batch.number, PipelineRefusal::NotProposed);
        }
    }

    fn on_answer(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(number) = self.batches.remove(&ticket) else { return };
        let refusal = match outcome {
            Outcome::Failed(Refusal::NotLeader { .. } | Refusal::EntrySize { .. }) => {
                PipelineRefusal::NotProposed
            }
            Outcome::Failed(Refusal::Overloaded { what, bound }) => {
                PipelineRefusal::Overloaded { what, bound }
            }
            Outcome::Failed(Refusal::Halted) => PipelineRefusal::Halted,
            // Applied is answered when the entry is taken; a ticket that is still here then was not.
            Outcome::Failed(_) | Outcome::Applied { .. } | Outcome::ReadIndex { .. } | Outcome::Done => {
                PipelineRefusal::OutcomeUnknown
            }
        };
        self.traced.lost(ticket, &refusal);
        self.pipeline.lost(number, refusal);
    }

    async fn apply(&mut self, entries: Vec<CommittedEntry>) {
        if matches!(self.door, Door::Halted) {
            return;
        }
        let mut writes = Vec::new();
        let mut blocks = Vec::new();
        let mut last = None;
        for CommittedEntry { entry, ticket } in entries {
            let mut applied = match self.ledger.apply(&entry) {
                Ok(applied) => applied,
                Err(error) => return self.chain.halt(format!("applying entry {}: {error}", entry.index)),
            };
            if let Some(ticket) = ticket
                && let Some(number) = self.batches.remove(&ticket)
            {
                self.traced.applied(ticket, &applied);
                self.pipeline.applied(number, &applied);
            }
            if writes.is_empty() {
                writes = std::mem::take(&mut applied.writes);
            } else {
                writes.append(&mut applied.writes);
            }
            blocks.extend(applied.block);
            last = Some(entry.index);
            tokio::task::consume_budget().await;
        }
        let Some(last) = last else { return };
        // Blocks are readable from memory before anybody is told of them, from the store later.
        self.shared.recent.push(blocks);
        if !writes.is_empty() {
            match self.chain.write(writes).await {
                Ok(position) => self.unwritten.push_back((position, self.ledger.tip().height)),
                // The writer has failed or stopped: nothing may be called applied any more.
                Err(_) => return,
            }
        }
        self.publish();
        self.chain.applied(last);
        self.note_written();
    }

    fn publish(&mut self) {
        let tip = tip_of(&self.ledger);
        self.shared.tip.send_replace(tip);
        self.shared.arrivals.arrive(tip.height);
    }

    /// Lets old blocks leave memory whose records are in the store by now.
    fn note_written(&mut self) {
        let written = self.chain.written();
        let mut height = None;
        while let Some((position, up_to)) = self.unwritten.front().copied()
            && position <= written
        {
            height = Some(up_to);
            self.unwritten.pop_front();
        }
        if let Some(height) = height {
            self.shared.recent.written(height);
        }
    }

    fn answer_questions(&mut self) {
        for question in self.shared.frames.take_questions() {
            let state = if self.pipeline.is_waiting(&question.id) {
                Some(TransactionState::Pending)
            } else {
                self.ledger.position(&question.id).map(TransactionState::Committed)
            };
            // Whoever asked may have gone.
            let _ = question.answer.send(state);
        }
    }

    fn take_frames(&mut self, status: &watch::Receiver<Arc<Status>>) {
        match self.door {
            Door::Open { .. } => {
                let room =
                    self.shared.options.pipeline.transactions_max - self.pipeline.waiting_transactions();
                let now_ms = self.now_ms();
                for frame in self.shared.frames.take_frames(room as usize) {
                    self.offer(frame, now_ms);
                }
            }
            Door::Shut => {
                let status = status.borrow().clone();
                if status.leader != Some(status.node_id) {
                    self.refuse_frames(|count| not_leader(count, &status));
                }
            }
            Door::Halted => {
                let status = status.borrow().clone();
                self.refuse_frames(|count| halted(count, &status));
            }
        }
    }

    fn refuse_frames(&self, refusal: impl Fn(usize) -> ordering::Outcome) {
        for frame in self.shared.frames.take_frames(usize::MAX) {
            let _ = frame.answer.send(vec![refusal(frame.transactions.len())]);
        }
    }

    fn offer(&mut self, frame: frames::Frame, now_ms: u64) {
        let frames::Frame { transactions, acknowledgement, trace, answer } = frame;
        let trace = self.traced.arrived(trace, transactions.len());
        let first = self.pipeline.accepted();
        let mut answer = Some(answer);
        let early = answer.take_if(|_| acknowledgement == Acknowledgement::Accepted);
        let frame = Frame { token: Token { answer, trace }, transactions };
        let verdicts = self.pipeline.offer(frame, now_ms, &self.ledger);
        if let Some(key) = trace {
            self.traced.queued(key, first..self.pipeline.accepted());
        }
        if let Some(early) = early {
            let _ = early.send(self.outcomes(verdicts));
        }
    }

    /// Everything that is ready to be cut, as the proposals of one round.
    fn propose(&mut self) {
        let Door::Open { room: true } = self.door else { return };
        let now_ms = self.now_ms();
        let mut proposals = Vec::new();
        let mut timestamp_ms = None;
        loop {
            let in_flight = self.batches.len();
            let room = self.inflight_max.saturating_sub(in_flight);
            let Some(batch) = self.pipeline.next_batch(now_ms, room, in_flight) else { break };
            let ticket = self.chain.next_ticket();
            self.batches.insert(ticket, batch.number);
            let context = self.traced.cut(ticket, &batch);
            let timestamp_ms = *timestamp_ms.get_or_insert_with(unix_time_ms);
            let data = encode_proposal(timestamp_ms, &batch.transactions);
            proposals.push(Proposal { ticket, data, context });
        }
        if proposals.is_empty() {
            return;
        }
        let tickets: Vec<Ticket> = proposals.iter().map(|p| p.ticket).collect();
        if let Err(refusal) = self.chain.propose(proposals) {
            for ticket in tickets {
                self.on_answer(ticket, Outcome::Failed(refusal.clone()));
            }
        }
    }

    fn answer(&mut self) {
        let completions = self.pipeline.take_completions();
        self.complete(completions);
        self.shared.waiting.store(self.pipeline.waiting_transactions(), Ordering::Release);
    }

    fn complete(&mut self, completions: Vec<Completion<Token>>) {
        for Completion { token: Token { answer, trace }, outcomes } in completions {
            if let Some(key) = trace {
                self.traced.answered(key);
            }
            if let Some(answer) = answer {
                // Whoever waited may have gone.
                let _ = answer.send(self.outcomes(outcomes));
            }
        }
    }

    fn outcomes(&self, runs: Vec<Run>) -> Vec<ordering::Outcome> {
        runs.into_iter().map(|run| self.outcome(run)).collect()
    }

    fn outcome(&self, Run { count, outcome }: Run) -> ordering::Outcome {
        let outcome = match outcome {
            ledger::Outcome::Committed { height, index, block_hash, duplicate } => {
                let block_hash = bytes::Bytes::copy_from_slice(block_hash.as_bytes());
                let committed = ordering::Committed { height, index, block_hash, duplicate };
                outcome::Outcome::Committed(committed)
            }
            ledger::Outcome::Accepted => outcome::Outcome::Accepted(ordering::Accepted {}),
            ledger::Outcome::Refused(refusal) => return self.refused(count as usize, &refusal),
        };
        ordering::Outcome { count, outcome: Some(outcome) }
    }

    fn refused(&self, count: usize, refusal: &PipelineRefusal) -> ordering::Outcome {
        let status = self.chain.status();
        let reason = match refusal {
            PipelineRefusal::Invalid(_) => Reason::Invalid,
            PipelineRefusal::Overloaded { .. } => Reason::Overloaded,
            PipelineRefusal::NotProposed => return not_leader(count, &status),
            PipelineRefusal::OutcomeUnknown => Reason::LeadershipLost,
            PipelineRefusal::Halted => return halted(count, &status),
        };
        refused(count, reason, refusal.to_string(), status.leader)
    }

    /// Milliseconds since the task began: what the cutter's timeout is measured with.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// The end of a ledger, for those outside.
pub(super) fn tip_of(ledger: &Ledger) -> Tip {
    let ledger::Tip { height, hash, log_index, timestamp_ms, transactions } = ledger.tip();
    Tip { height, hash, timestamp_ms, transactions, index: log_index }
}

fn not_leader(count: usize, status: &Status) -> ordering::Outcome {
    let leader = status.leader.filter(|leader| *leader != status.node_id);
    refused(count, Reason::NotLeader, "this node is not the leader", leader)
}

pub(super) fn halted(count: usize, status: &Status) -> ordering::Outcome {
    let reason = status.halted.as_deref().unwrap_or("the reason is in the log");
    refused(count, Reason::Halted, format!("the chain has halted on this node: {reason}"), None)
}

async fn alarm_or_never(alarm: &mut Pin<Box<Sleep>>, set: bool) {
    if set { alarm.as_mut().await } else { std::future::pending().await }
}

/// The wall clock, for people's eyes in block timestamps; nothing depends on it.
fn unix_time_ms() -> u64 {
    // A clock before 1970 is no reason to stop.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
