//! A user's own state machine on a chain.
//!
//! Implement [`StateMachine`] and [`start`] a chain with it; the [`EmbedHandle`] that comes back proposes
//! commands and reads. The machine lives in memory: after a restart it is
//! restored from the newest snapshot and the log above it, so a chain with a long life wants a snapshot
//! policy in its `ReplicaConfig`. Commands are not deduplicated and not forwarded: a refusal says who
//! leads, and a command whose outcome is unknown may have been applied.

use std::collections::HashMap;
use std::convert::Infallible;

use bytes::Bytes;
use consensus_core::ids::{ChainId, Ticket};
use consensus_core::replica::{CommittedEntry, OpenError, Outcome, Proposal, Refusal};
use consensus_core::storage::{EntryKind, LogEntry, LogReader, Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::{Application, ApplicationEvent, ApplicationInbox};
use crate::chain::{self, ChainHandle, ChainStart, RunningChain, StartError};

/// Requests that wait for the machine's task at most.
const REQUESTS_MAX: usize = 4096;
/// Payload bytes read from the log at a time when the machine is rebuilt.
const REPLAY_BYTES_MAX: u64 = 8 << 20;

/// A deterministic state machine. The same commands in the same order must lead to the same state and the
/// same answers on every node: no clock, no randomness, no iteration over hash maps that shows.
pub trait StateMachine: Send + 'static {
    /// Takes the command at `index` and returns its answer. What is wrong with a command is part of its answer.
    fn apply(&mut self, index: u64, command: &Bytes) -> Bytes;

    /// The whole state.
    fn snapshot(&self) -> Bytes;

    /// Replaces the state.
    ///
    /// # Errors
    /// In words; the chain halts on this node.
    fn restore(&mut self, snapshot: &Bytes) -> Result<(), String>;
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where.
    pub index: u64,
    /// The machine's answer.
    pub answer: Bytes,
}

type Query<M> = Box<dyn FnOnce(&M) + Send>;

enum Request<M> {
    Propose(Bytes, oneshot::Sender<Result<Applied, Refusal>>),
    Query(Query<M>),
}

/// Proposes commands to and reads from an embedded machine.
pub struct EmbedHandle<M> {
    chain: ChainHandle,
    requests: mpsc::Sender<Request<M>>,
}

impl<M> Clone for EmbedHandle<M> {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), requests: self.requests.clone() }
    }
}

impl<M> std::fmt::Debug for EmbedHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbedHandle").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The application that runs a machine on a chain.
struct Embedded<M> {
    machine: M,
    requests: mpsc::Receiver<Request<M>>,
}

/// Starts a chain with a machine as its application; the handle is for the machine.
///
/// # Errors
/// The replica's: a bad configuration, or a store that contradicts itself.
pub fn start<M: StateMachine>(
    start: ChainStart,
    machine: M,
) -> Result<(RunningChain, EmbedHandle<M>), OpenError> {
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let started = chain::start(start, |chain| {
        Ok::<_, Infallible>((
            Embedded { machine, requests },
            EmbedHandle { chain: chain.clone(), requests: sender },
        ))
    });
    started.map_err(|error| match error {
        StartError::Replica(cause) => cause,
        StartError::Application(never) => match never {},
    })
}

impl<M: StateMachine> EmbedHandle<M> {
    /// The chain that the machine lives on.
    pub fn chain(&self) -> &ChainHandle {
        &self.chain
    }

    /// Orders a command and resolves when this node, the leader, has applied it.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`] with a hint: nothing happened. [`Refusal::LeadershipLost`]: it may have been
    /// applied. Overloaded, empty or too large, halted.
    pub async fn propose(&self, command: Bytes) -> Result<Applied, Refusal> {
        let (answer, outcome) = oneshot::channel();
        self.send(Request::Propose(command, answer))?;
        outcome.await.unwrap_or(Err(Refusal::Halted))
    }

    /// Reads the machine on this node, which may be behind.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`], or halted.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, outcome) = oneshot::channel();
        // Whoever asked may have gone.
        let query = move |machine: &M| drop(answer.send(question(machine)));
        self.send(Request::Query(Box::new(query)))?;
        outcome.await.map_err(|_| Refusal::Halted)
    }

    /// Reads a state at least as new as every answer that was given before this call, on any node.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`] on other nodes than the leader, and those of [`read`](Self::read).
    pub async fn read_linearizable<T: Send + 'static>(
        &self,
        question: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.chain.read_index().await?;
        self.read(question).await
    }

    fn send(&self, request: Request<M>) -> Result<(), Refusal> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::Overloaded { what: "the state machine's queue", bound: REQUESTS_MAX as u64 }
            }
            mpsc::error::TrySendError::Closed(_) => Refusal::Halted,
        })
    }
}

/// The machine's task.
struct Task<M> {
    machine: M,
    chain: ChainHandle,
    /// The last entry that the machine has taken.
    applied: u64,
    /// How many more proposals are welcome; `None` while none are.
    room: Option<usize>,
    waiting: HashMap<Ticket, oneshot::Sender<Result<Applied, Refusal>>>,
}

impl<M: StateMachine> Application for Embedded<M> {
    async fn run(self, mut inbox: ApplicationInbox, chain: ChainHandle) {
        let Self { machine, mut requests } = self;
        let mut task = Task { machine, chain, applied: 0, room: None, waiting: HashMap::new() };
        loop {
            let outcome = tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => task.on_event(event),
                    None => return,
                },
                Some(request) = requests.recv() => {
                    task.on_requests(request, &mut requests);
                    Ok(())
                }
            };
            if let Err(reason) = outcome {
                task.chain.halt(reason);
            }
        }
    }
}

impl<M: StateMachine> Task<M> {
    fn on_event(&mut self, event: ApplicationEvent) -> Result<(), String> {
        match event {
            ApplicationEvent::Opened { applied, snapshot } => self.on_opened(applied, snapshot)?,
            ApplicationEvent::RequestProposal { room, .. } => self.room = Some(room),
            ApplicationEvent::WithdrawRequest => self.room = None,
            ApplicationEvent::Apply(entries) => self.on_apply(entries),
            ApplicationEvent::BuildSnapshot => {
                self.chain.snapshot_built(self.applied, Some(self.machine.snapshot()));
            }
            ApplicationEvent::InstallSnapshot(snapshot) => {
                self.restore(&snapshot)?;
                self.chain.snapshot_installed(self.applied);
            }
            ApplicationEvent::Answer { ticket, outcome } => self.on_answer(ticket, outcome),
            ApplicationEvent::Halted { .. } => {
                self.room = None;
                self.refuse_all(&Refusal::Halted);
            }
        }
        Ok(())
    }

    fn on_opened(&mut self, applied: u64, snapshot: Option<Snapshot>) -> Result<(), String> {
        if let Some(snapshot) = snapshot {
            self.restore(&snapshot)?;
        }
        let (reader, chain) = (self.chain.reader().clone(), self.chain.id());
        while self.applied < applied {
            for entry in replay(&*reader, chain, self.applied + 1, applied)? {
                self.take(&entry);
            }
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let index = snapshot.position.index;
        self.machine
            .restore(&snapshot.data)
            .map_err(|cause| format!("restoring the snapshot at {index}: {cause}"))?;
        self.applied = index;
        Ok(())
    }

    /// The answer, if the entry is a command at all.
    fn take(&mut self, entry: &LogEntry) -> Option<Bytes> {
        self.applied = entry.index;
        let command = entry.kind == EntryKind::Normal && !entry.data.is_empty();
        command.then(|| self.machine.apply(entry.index, &entry.data))
    }

    fn on_apply(&mut self, entries: Vec<CommittedEntry>) {
        for CommittedEntry { entry, ticket } in entries {
            if entry.index <= self.applied {
                continue;
            }
            let answer = self.take(&entry);
            let waiter = ticket.and_then(|ticket| self.waiting.remove(&ticket));
            if let (Some(waiter), Some(answer)) = (waiter, answer) {
                // Whoever proposed may have gone.
                let _ = waiter.send(Ok(Applied { index: entry.index, answer }));
            }
        }
        self.chain.applied(self.applied);
    }

    fn on_answer(&mut self, ticket: Ticket, outcome: Outcome) {
        // An applied command was answered when it was applied.
        if let Outcome::Failed(refusal) = outcome
            && let Some(waiter) = self.waiting.remove(&ticket)
        {
            let _ = waiter.send(Err(refusal));
        }
    }

    /// Takes this request and all that wait behind it; the commands among them become one proposal.
    fn on_requests(&mut self, first: Request<M>, requests: &mut mpsc::Receiver<Request<M>>) {
        let mut proposals = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Query(query) => query(&self.machine),
                Request::Propose(command, waiter) => {
                    if let Some(refusal) = self.refusal(&command) {
                        let _ = waiter.send(Err(refusal));
                    } else {
                        let ticket = self.chain.next_ticket();
                        self.waiting.insert(ticket, waiter);
                        proposals.push(Proposal::new(ticket, command));
                    }
                }
            }
            next = requests.try_recv().ok();
        }
        let tickets: Vec<Ticket> = proposals.iter().map(|p| p.ticket).collect();
        if tickets.is_empty() {
            return;
        }
        if let Err(refusal) = self.chain.propose(proposals) {
            for waiter in tickets.iter().filter_map(|ticket| self.waiting.remove(ticket)) {
                let _ = waiter.send(Err(refusal.clone()));
            }
        }
    }

    fn refusal(&self, command: &Bytes) -> Option<Refusal> {
        let Some(_room) = self.room else {
            return Some(Refusal::NotLeader { leader: self.chain.status().leader });
        };
        let (limits, bytes) = (self.chain.limits(), command.len() as u64);
        if bytes == 0 || bytes > limits.entry_bytes_max {
            return Some(Refusal::EntrySize { bytes, bound: limits.entry_bytes_max });
        }
        let bound = limits.inflight_proposals_max;
        (self.waiting.len() >= bound)
            .then_some(Refusal::Overloaded { what: "commands in flight", bound: bound as u64 })
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        for (_, waiter) in self.waiting.drain() {
            let _ = waiter.send(Err(refusal.clone()));
        }
    }
}

/// Entries that the machine had taken before the restart.
fn replay(reader: &dyn LogReader, chain: ChainId, from: u64, applied: u64) -> Result<Vec<LogEntry>, String> {
    reader
        .entries(chain, from, applied + 1, REPLAY_BYTES_MAX)
        .map_err(|cause| format!("reading entry {from} to rebuild the state machine: {cause}"))
}
