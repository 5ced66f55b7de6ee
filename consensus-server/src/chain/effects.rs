//! Performs a round's effects, in their order.
//!
//! Nothing here waits: messages go to the transport, writes to the writer's queue, committed entries to the
//! application's inbox, answers to whoever holds the ticket. Tickets that were issued here belong to
//! callers of the handle; all others belong to the application.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use consensus_core::ids::{NodeId, Ticket};
use consensus_core::replica::{Effect, Effects, Message, Outcome, PeerReport, Refusal, Report};
use consensus_core::storage::WriteBatch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::ChainHandle;
use super::inbox::{ControlAnswer, ReadAnswer};
use super::latency::Latency;
use super::observer::{ChainObserver, PersistStats, RoundStats};
use super::writer::ChainWriter;
use crate::application::{ApplicationEvent, ApplicationSender};
use crate::telemetry::trace::BlockTraces;
use crate::transport::{Transport, wire};

/// Why a chain cannot go on.
pub(super) struct Halt(pub(super) String);

/// What a round's effects led to.
pub(super) struct Performed {
    /// Role, term, leader or membership changed.
    pub(super) changed: bool,
    /// The chain must stop.
    pub(super) halt: Option<Halt>,
}

/// Who waits for a ticket of the handle.
enum Asker {
    Reads(Vec<ReadAnswer>),
    Control(ControlAnswer),
}

/// Performs one chain's effects.
pub(super) struct Performer {
    handle: ChainHandle,
    transport: Arc<dyn Transport>,
    writer: ChainWriter,
    application: ApplicationSender,
    observer: Arc<dyn ChainObserver>,
    latency: Latency,
    askers: HashMap<Ticket, Asker>,
    /// Synced writes under way, as (number, handed over at); bounded by the replica's limit of rounds.
    under_way: VecDeque<(u64, Instant)>,
    stopping: Vec<oneshot::Sender<()>>,
}

impl Performer {
    pub(super) fn new(
        handle: ChainHandle,
        transport: Arc<dyn Transport>,
        writer: ChainWriter,
        application: ApplicationSender,
        observer: Arc<dyn ChainObserver>,
    ) -> Self {
        Self {
            handle,
            transport,
            writer,
            application,
            latency: Latency::new(observer.clone()),
            observer,
            askers: HashMap::new(),
            under_way: VecDeque::new(),
            stopping: Vec::new(),
        }
    }

    /// What follows the chain's sampled blocks.
    pub(super) fn traces(&self) -> &BlockTraces {
        self.handle.traces()
    }

    /// What measures how long things take.
    pub(super) fn latency(&mut self) -> &mut Latency {
        &mut self.latency
    }

    /// The transport says this of a peer.
    pub(super) fn peer_report(&self, peer: NodeId, report: PeerReport) {
        self.observer.peer_report(peer, report);
    }

    /// A ticket for all reads of a round.
    pub(super) fn expect_reads(&mut self, answers: Vec<ReadAnswer>) -> Ticket {
        self.latency.reads_began(answers.len());
        self.expect(Asker::Reads(answers))
    }

    /// A ticket for a command.
    pub(super) fn expect_control(&mut self, answer: ControlAnswer) -> Ticket {
        self.expect(Asker::Control(answer))
    }

    fn expect(&mut self, asker: Asker) -> Ticket {
        let ticket = self.handle.next_ticket();
        self.askers.insert(ticket, asker);
        ticket
    }

    /// Writes up to `number` are durable.
    pub(super) fn persisted(&mut self, number: u64, now: Instant) {
        self.traces().durable(number);
        let mut stats = PersistStats::default();
        while let Some((oldest, since)) = self.under_way.front().copied() {
            if oldest > number {
                break;
            }
            if stats.rounds == 0 {
                stats.elapsed = now.duration_since(since);
            }
            stats.rounds += 1;
            self.under_way.pop_front();
        }
        if stats.rounds > 0 {
            self.observer.persisted(stats);
        }
    }

    /// Performs all effects; the rest of a round in which the chain halts is dropped.
    pub(super) fn perform(
        &mut self,
        effects: &mut Effects,
        stats: &mut RoundStats,
        now: Instant,
    ) -> Performed {
        let mut performed = Performed { changed: false, halt: None };
        for effect in effects.drain() {
            match self.run(effect, stats, now, &mut performed.changed) {
                Ok(()) => {}
                Err(halt) => {
                    performed.halt = Some(halt);
                    break;
                }
            }
        }
        performed
    }

    fn run(
        &mut self,
        effect: Effect,
        stats: &mut RoundStats,
        now: Instant,
        changed: &mut bool,
    ) -> Result<(), Halt> {
        match effect {
            Effect::Send { messages } => {
                stats.messages_sent += messages.len();
                self.note_sent(&messages);
                self.transport.send(messages);
                Ok(())
            }
            Effect::Persist { batch } => self.run_persist(batch, stats, now),
            Effect::RequestProposal { term, room } => {
                self.tell(ApplicationEvent::RequestProposal { term, room })
            }
            Effect::WithdrawRequest => self.tell(ApplicationEvent::WithdrawRequest),
            Effect::Apply { entries } => {
                stats.entries_committed += entries.len();
                self.traces().committed(&entries);
                self.latency.committed(&entries);
                self.tell(ApplicationEvent::Apply(entries))
            }
            Effect::BuildSnapshot => {
                self.latency.building();
                self.tell(ApplicationEvent::BuildSnapshot)
            }
            Effect::InstallSnapshot { snapshot } => {
                self.latency.installing();
                self.tell(ApplicationEvent::InstallSnapshot(snapshot))
            }
            Effect::Answer { ticket, outcome } => self.run_answer(ticket, outcome),
            Effect::Report(report) => {
                *changed |=
                    matches!(report, Report::Leadership { .. } | Report::Membership { .. } | Report::Removed);
                self.observer.report(&report);
                Ok(())
            }
            Effect::Halt { reason } => Err(Halt(reason)),
        }
    }

    fn note_sent(&self, messages: &[Message]) {
        let traces = self.traces();
        if !traces.is_on() {
            return;
        }
        for wire::Accompanied { to, index, term, context } in wire::accompanied(messages) {
            if let Some(peer) = NodeId::new(to) {
                traces.sent(peer, index, term, context);
            }
        }
    }

    fn run_persist(&mut self, batch: WriteBatch, stats: &mut RoundStats, now: Instant) -> Result<(), Halt> {
        stats.entries_written += batch.entries.len();
        stats.bytes_written += batch.bytes();
        self.traces().appended(&batch);
        if batch.sync {
            self.under_way.push_back((batch.number, now));
        }
        self.writer.submit(batch).map_err(|cause| Halt(format!("the writer takes nothing more: {cause}")))
    }

    fn run_answer(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), Halt> {
        self.latency.answered(ticket, &outcome);
        // A caller that has gone away is no concern of ours.
        match self.askers.remove(&ticket) {
            None => return self.tell(ApplicationEvent::Answer { ticket, outcome }),
            Some(Asker::Reads(answers)) => {
                let answer = match outcome {
                    Outcome::ReadIndex { index } | Outcome::Applied { index, .. } => Ok(index),
                    Outcome::Failed(refusal) => Err(refusal),
                    Outcome::Done => return Err(Halt("a read was answered as a command".to_owned())),
                };
                self.latency.reads_ended(answers.len(), answer.as_ref().map(drop));
                for asker in answers {
                    let _ = asker.send(answer.clone());
                }
            }
            Some(Asker::Control(answer)) => {
                let _ = answer.send(match outcome {
                    Outcome::Failed(refusal) => Err(refusal),
                    Outcome::Done | Outcome::Applied { .. } | Outcome::ReadIndex { .. } => Ok(()),
                });
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: ApplicationEvent) -> Result<(), Halt> {
        self.application.push(event).map_err(|full| Halt(full.to_string()))
    }

    /// Who wants to know when the driver has ended.
    pub(super) fn stopped_by(&mut self, stop: Vec<oneshot::Sender<()>>) {
        self.stopping.extend(stop);
    }

    pub(super) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// The chain has halted: the application is told, and nobody waits in vain.
    pub(super) fn halted(&mut self, reason: &str) {
        // An application whose inbox is full is told by the status.
        let _ = self.application.push(ApplicationEvent::Halted { reason: reason.to_owned() });
        self.refuse_askers(&Refusal::Halted);
    }

    /// The driver ends.
    pub(super) fn close(&mut self, refusal: Refusal) {
        self.refuse_askers(&refusal);
        self.application.close();
        for done in self.stopping.drain(..) {
            let _ = done.send(());
        }
    }

    fn refuse_askers(&mut self, refusal: &Refusal) {
        for (_, asker) in self.askers.drain() {
            match asker {
                Asker::Reads(answers) => {
                    self.latency.reads_ended(answers.len(), Err(refusal));
                    for answer in answers {
                        let _ = answer.send(Err(refusal.clone()));
                    }
                }
                Asker::Control(answer) => {
                    let _ = answer.send(Err(refusal.clone()));
                }
            }
        }
    }
}
