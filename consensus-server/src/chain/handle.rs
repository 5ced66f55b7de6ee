//! What everybody else holds of a running chain.
//!
//! A handle is cheap to clone and never blocks its caller's thread: transports deliver, services ask,
//! applications propose and answer. It knows no replica; all it does is put things into the driver's inbox
//! and wait for answers. After a halt or a stop every request is refused and the status stays readable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use consensus_core::ids::{ChainId, NodeId, Ticket};
use consensus_core::limits::Limits;
use consensus_core::replica::{Control, Message, PeerReport, Proposal, Refusal, Status};
use consensus_core::storage::{ApplicationWrite, Identity, LogReader};
use tokio::sync::{oneshot, watch};

use super::inbox::Inbox;
use super::observer::ChainObserver;
use super::writer::ChainWriter;
use crate::telemetry::trace::BlockTraces;

/// One running chain, as seen from outside of its driver.
#[derive(Clone)]
pub struct ChainHandle {
    shared: Arc<Shared>,
}

/// What all clones of a handle share with the driver.
pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) chain_id: ChainId,
    pub(super) limits: Limits,
    pub(super) inbox: Arc<Inbox>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) observer: Arc<dyn ChainObserver>,
    pub(super) traces: BlockTraces,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) writer: ChainWriter,
    pub(super) tickets: AtomicU64,
}

impl ChainHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Who owns the chain's data on this node.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// The chain, as keys and messages name it.
    pub fn id(&self) -> ChainId {
        self.shared.chain_id
    }

    /// The bounds that the chain runs under.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What follows the chain's sampled blocks.
    pub fn traces(&self) -> &BlockTraces {
        &self.shared.traces
    }

    /// The newest published state: at most a tick old, some milliseconds under load, and never older than the
    /// last change of leadership.
    pub fn status(&self) -> Arc<Status> {
        self.shared.status.borrow().clone()
    }

    /// Follows the published state.
    pub fn watch_status(&self) -> watch::Receiver<Arc<Status>> {
        self.shared.status.clone()
    }

    /// The store that the chain and its application are kept in; reads block, so call it off the async
    /// threads.
    pub fn reader(&self) -> &Arc<dyn LogReader> {
        &self.shared.reader
    }

    /// The index that a linearizable read must see; it is applied on this node when the answer arrives.
    /// Reads that wait together share one round of the protocol.
    ///
    /// # Errors
    /// The replica's refusal: not the leader, timed out, overloaded or halted.
    pub async fn read_index(&self) -> Result<u64, Refusal> {
        let (answer, outcome) = oneshot::channel();
        self.shared.inbox.read(answer)?;
        outcome.await.unwrap_or(Err(Refusal::Halted))
    }

    /// Moves leadership to `to`, or to the peer that is furthest on. Resolves when that peer leads.
    ///
    /// # Errors
    /// The replica's refusal.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), Refusal> {
        self.control(Control::TransferLeader { to }).await
    }

    /// Performs a control command. Resolves when it took effect.
    ///
    /// # Errors
    /// The replica's refusal.
    pub async fn control(&self, control: Control) -> Result<(), Refusal> {
        let (answer, outcome) = oneshot::channel();
        self.shared.inbox.control(control, answer)?;
        outcome.await.unwrap_or(Err(Refusal::Halted))
    }

    /// Takes messages of the peer that the transport has authenticated as `from`, in their order. Never waits;
    /// returns how many were dropped because the inbox is full. A chain that has stopped takes none.
    pub fn deliver_messages(&self, from: NodeId, messages: Vec<Message>) -> usize {
        let dropped = self.shared.inbox.messages(from, messages);
        if dropped > 0 {
            self.shared.observer.dropped(from, dropped);
        }
        dropped
    }

    /// What the transport learnt about a peer.
    pub fn report_peer(&self, peer: NodeId, report: PeerReport) {
        self.shared.inbox.report(peer, report);
    }

    /// Ends the chain's driver after the round that runs, and with it the application's inbox. What was
    /// handed to the writer becomes durable. Idempotent; requests that wait are refused as halted.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        self.shared.inbox.stop(done);
        // Dropped instead of sent: the driver had ended before.
        let _ = ended.await;
    }

    /// A ticket that no other request of this chain has.
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.shared.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Wants entries appended, all in the next round; each ticket is answered to the application. To be called
    /// within the term and the room of an `ApplicationEvent::RequestProposal`.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] if more waits than the chain's limits allow in flight, or halted; none of the
    /// tickets is answered then.
    pub fn propose(&self, proposals: Vec<Proposal>) -> Result<(), Refusal> {
        self.shared.inbox.propose(proposals)
    }

    /// The application has taken everything up to `index`, and has handed its own records of it to
    /// [`write`](Self::write) before.
    pub fn applied(&self, index: u64) {
        self.shared.inbox.applied(index);
    }

    /// The answer to `ApplicationEvent::BuildSnapshot`: the state as of `index`, or `None` if there is none.
    pub fn snapshot_built(&self, index: u64, data: Option<Bytes>) {
        self.shared.inbox.snapshot_built(index, data);
    }

    /// The answer to `ApplicationEvent::InstallSnapshot`.
    pub fn snapshot_installed(&self, index: u64) {
        self.shared.inbox.snapshot_installed(index);
    }

    /// Hands the application's own records to the writer, unsynced and in order with everything else that this
    /// chain writes. Waits while more than the writer's bound is under way, never for the disk's sync. Returns
    /// the position that [`written`](Self::written) reaches when the store has them.
    ///
    /// # Errors
    /// [`Refusal::Halted`] if the writer has failed or stopped.
    pub async fn write(&self, writes: Vec<ApplicationWrite>) -> Result<u64, Refusal> {
        self.shared.writer.write(writes).await
    }

    /// The same, synced: returns when the records are durable. For promises that are rare.
    ///
    /// # Errors
    /// [`Refusal::Halted`] if the writer has failed or stopped: it is unknown whether they are durable.
    pub async fn write_durably(&self, writes: Vec<ApplicationWrite>) -> Result<(), Refusal> {
        self.shared.writer.write_durably(writes).await
    }

    /// How far the store has what was handed to [`write`](Self::write).
    pub fn written(&self) -> u64 {
        self.shared.writer.written()
    }

    /// Halts the chain on this node: its application cannot go on. Status and reads stay.
    pub fn halt(&self, reason: impl Into<String>) {
        self.shared.inbox.fail(reason.into());
    }
}

impl std::fmt::Debug for ChainHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainHandle")
            .field("chain", &self.shared.identity.chain)
            .field("node", &self.shared.identity.node_id)
            .finish_non_exhaustive()
    }
}
