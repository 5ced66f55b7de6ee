//! One task per chain: inputs in, one flush, effects out.
//!
//! This is the only `select!` on the hot path, and it waits for nothing but "something is in the inbox" and
//! "a tick that matters has passed" ([`Ticks`]). A round handles what waits (durable positions first, a
//! bounded number of messages), flushes the replica once and performs the effects in order; whatever takes
//! time answers through the inbox.
//!
//! When the replica asks to halt, panics, or loses its writer or its application, the chain halts: requests
//! are refused, the last status stays readable with the reason, and the other chains of the process go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use consensus_core::limits::Limits;
use consensus_core::replica::{Effects, Event, Refusal, Replica, Role, Status};
use consensus_core::storage::{Identity, LogReader};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::effects::{Halt, Performer};
use super::handle::{ChainHandle, Shared};
use super::inbox::{Inbox, Waiting};
use super::observer::{ChainObserver, RoundStats};
use super::ticks::{Passed, Ticks};
use super::writer::ChainWriter;
use crate::application::ApplicationSender;
use crate::transport::{Transport, wire};

/// Messages handled in one round.
const ROUND_MESSAGES_MAX: usize = 256;
/// A status is published no more often than this, changes of leadership excepted.
const STATUS_INTERVAL: Duration = Duration::from_millis(10);

/// Everything that a driver works with.
pub(super) struct DriverParts {
    /// Who owns the data.
    pub(super) identity: Identity,
    /// The replica, opened.
    pub(super) replica: Replica,
    /// Its bounds.
    pub(super) limits: Limits,
    /// Its store.
    pub(super) reader: Arc<dyn LogReader>,
    /// Makes its writes durable.
    pub(super) writer: ChainWriter,
    /// Carries its messages.
    pub(super) transport: Arc<dyn Transport>,
    /// Listens.
    pub(super) observer: Arc<dyn ChainObserver>,
    /// Feeds its application.
    pub(super) application: ApplicationSender,
}

/// Owns a replica.
pub(super) struct Driver {
    handle: ChainHandle,
    replica: Replica,
    effects: Effects,
    performer: Performer,
    inbox: Arc<Inbox>,
    status: watch::Sender<Arc<Status>>,
    observer: Arc<dyn ChainObserver>,
    /// The highest durable number that the replica was told.
    reported: u64,
    published: Instant,
    /// There is a newer status than the published one.
    unpublished: bool,
}

/// How a chain's life goes on after a round.
enum Next {
    /// There may be more.
    Go,
    /// It was asked to stop.
    Stop,
    /// It cannot go on.
    Halt(Halt),
}

impl Driver {
    /// A driver that does not run yet; what its handle is given waits.
    pub(super) fn new(parts: DriverParts) -> Self {
        let DriverParts { identity, replica, limits, reader, writer, transport, observer, application } =
            parts;
        let inbox = Arc::new(Inbox::new(&limits));
        writer.tell(inbox.clone());
        let (status_sender, status) = watch::channel(Arc::new(replica.status()));
        let handle = ChainHandle::new(Arc::new(Shared {
            chain_id: identity.chain_id(),
            identity,
            limits,
            inbox: inbox.clone(),
            status,
            traces: observer.traces(),
            observer: observer.clone(),
            reader,
            writer: writer.clone(),
            tickets: AtomicU64::new(1),
        }));
        Self {
            performer: Performer::new(handle.clone(), transport, writer, application, observer.clone()),
            handle,
            replica,
            effects: Effects::new(),
            inbox,
            status: status_sender,
            observer,
            reported: 0,
            published: Instant::now(),
            unpublished: false,
        }
    }

    /// What everybody else holds of the chain.
    pub(super) fn handle(&self) -> &ChainHandle {
        &self.handle
    }

    /// Runs until `ChainHandle::stop`. A tick has the length `tick`.
    pub(super) async fn run(mut self, tick: Duration) {
        let next = self.rounds(Ticks::new(tick, Instant::now())).await;
        if let Next::Halt(halt) = next {
            self.halt(&halt);
            self.wait_for_stop().await;
        }
        self.performer.close(Refusal::Halted);
        refuse(self.inbox.end(), &Refusal::Halted);
    }

    async fn rounds(&mut self, mut ticks: Ticks) -> Next {
        let mut left = 0;
        let mut alarm = Box::pin(tokio::time::sleep_until(ticks.wake_at()));
        loop {
            if left > 0 {
                tokio::task::yield_now().await;
            } else {
                wait(&self.inbox, &ticks, alarm.as_mut()).await;
            }
            let waiting = self.inbox.take(ROUND_MESSAGES_MAX);
            left = waiting.left;
            // Under load the inbox is always ready; others want the thread, too.
            tokio::task::consume_budget().await;
            let passed = ticks.pass(Instant::now());
            match self.round(waiting, passed) {
                Next::Go => {}
                next => return next,
            }
            // What is not published yet is with the next tick.
            let idle = if self.unpublished { 1 } else { self.replica.idle_ticks() };
            ticks.sleep(idle);
        }
    }

    /// One round: events, one flush, effects.
    fn round(&mut self, mut waiting: Waiting, passed: Passed) -> Next {
        let started = Instant::now();
        let mut stats =
            RoundStats { left: waiting.left, ticks_skipped: passed.skipped, ..RoundStats::default() };
        self.performer.latency().round(started);
        let stop = std::mem::take(&mut waiting.stop);
        if let Some(reason) = waiting.failure.take() {
            refuse(waiting, &Refusal::Halted);
            return self.stopped(stop, Next::Halt(Halt(reason)));
        }
        let durable = self.inbox.durable();
        let persisted = (durable > self.reported).then_some(durable);
        if let Some(number) = persisted {
            self.reported = number;
            self.performer.persisted(number, started);
        }
        let outcome = {
            let (replica, effects, performer) = (&mut self.replica, &mut self.effects, &mut self.performer);
            catch_unwind(AssertUnwindSafe(|| {
                stats.events =
                    handle_all(replica, effects, performer, persisted, waiting, passed, &mut stats);
                replica.flush(effects);
            }))
        };
        if let Err(panic) = outcome {
            return self
                .stopped(stop, Next::Halt(Halt(format!("the replica panicked: {}", panic_text(&*panic)))));
        }
        let performed = self.performer.perform(&mut self.effects, &mut stats, started);
        self.unpublished = true;
        if performed.changed || passed.any() || started.duration_since(self.published) >= STATUS_INTERVAL {
            self.publish(started);
        }
        stats.elapsed = started.elapsed();
        self.observer.round(stats);
        self.stopped(stop, performed.halt.map_or(Next::Go, Next::Halt))
    }

    /// A wish to stop outranks what the round led to.
    fn stopped(&mut self, stop: Vec<tokio::sync::oneshot::Sender<()>>, next: Next) -> Next {
        if stop.is_empty() {
            return next;
        }
        self.performer.stopped_by(stop);
        Next::Stop
    }

    /// Publishes the status, if it is another one: nobody is woken by a tick at rest.
    fn publish(&mut self, now: Instant) {
        (self.published, self.unpublished) = (now, false);
        let status = self.replica.status();
        if **self.status.borrow() != status {
            let status = Arc::new(status);
            self.observer.status(&status);
            self.status.send_replace(status);
        }
    }

    /// Publishes the halt and refuses what waits.
    fn halt(&mut self, halt: &Halt) {
        let mut status = Status::clone(&self.status.borrow());
        status.halted = Some(halt.0.clone());
        // It leads nobody and hears nobody any more.
        (status.role, status.leader) = (Role::Follower, None);
        status.peers.clear();
        self.observer.status(&status);
        self.status.send_replace(Arc::new(status));
        self.observer.halted(&halt.0);
        self.performer.halted(&halt.0);
        let waiting = self.inbox.close(Refusal::Halted);
        self.stop_senders(waiting);
    }

    fn stop_senders(&mut self, mut waiting: Waiting) {
        let stop = std::mem::take(&mut waiting.stop);
        self.performer.stopped_by(stop);
        refuse(waiting, &Refusal::Halted);
    }

    async fn wait_for_stop(&mut self) {
        while !self.performer.is_stopping() {
            self.inbox.woken().await;
            let waiting = self.inbox.take(0);
            self.stop_senders(waiting);
        }
    }
}

/// Until something is in the inbox or a tick matters.
async fn wait(inbox: &Inbox, ticks: &Ticks, mut alarm: Pin<&mut Sleep>) {
    // An alarm that is early is left as it is: setting it costs more than waking up for nothing once.
    if alarm.is_elapsed() || alarm.deadline() > ticks.wake_at() {
        alarm.as_mut().reset(ticks.wake_at());
    }
    tokio::select! {
        // The alarm is ready once in a while, the inbox under load always.
        biased;
        () = alarm => {}
        () = inbox.woken() => {}
    }
}

/// Feeds a round's inputs to the replica; returns how many events they were.
fn handle_all(
    replica: &mut Replica,
    effects: &mut Effects,
    performer: &mut Performer,
    persisted: Option<u64>,
    waiting: Waiting,
    passed: Passed,
    stats: &mut RoundStats,
) -> usize {
    let mut events = 0;
    let mut handle = |event| {
        events += 1;
        replica.handle(event, effects);
    };
    // The replica has slept through these, in which nothing had happened yet.
    for _ in 0..passed.idle {
        handle(Event::Tick);
    }
    if let Some(number) = persisted {
        handle(Event::Persisted { number });
    }
    if let Some(index) = waiting.applied {
        performer.traces().applied(index);
        handle(Event::Applied { index });
    }
    if let Some(index) = waiting.snapshot_installed {
        performer.traces().replaced(index);
        performer.latency().installed();
        handle(Event::SnapshotInstalled { index });
    }
    if let Some((index, data)) = waiting.snapshot_built {
        performer.latency().built(data.is_some());
        handle(Event::SnapshotBuilt { index, data });
    }
    for (from, message) in waiting.messages {
        if performer.traces().is_busy()
            && let Some(index) = wire::acknowledged(&message)
        {
            performer.traces().acknowledged(from, index);
        }
        handle(Event::PeerMessage { from, message });
    }
    for (peer, report) in waiting.reports {
        performer.peer_report(peer, report);
        handle(Event::PeerReport { peer, report });
    }
    if !waiting.proposals.is_empty() {
        stats.proposals = waiting.proposals.len();
        performer.latency().proposed(&waiting.proposals);
        handle(Event::Propose { proposals: waiting.proposals });
    }
    if !waiting.reads.is_empty() {
        let ticket = performer.expect_reads(waiting.reads);
        handle(Event::ReadIndex { ticket });
    }
    for (command, answer) in waiting.controls {
        let ticket = performer.expect_control(answer);
        handle(Event::Control { ticket, command });
    }
    if passed.due {
        handle(Event::Tick);
    }
    events
}

/// Answers everything that waits for an answer; the rest is dropped.
fn refuse(waiting: Waiting, refusal: &Refusal) {
    // A caller that has gone away is no concern of ours.
    for answer in waiting.reads {
        let _ = answer.send(Err(refusal.clone()));
    }
    for (_, answer) in waiting.controls {
        let _ = answer.send(Err(refusal.clone()));
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
