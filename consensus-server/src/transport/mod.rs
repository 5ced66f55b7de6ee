//! How messages and forwarded requests leave this node for others.
//!
//! A chain knows its peers only through these traits; what carries them (gRPC streams, a network
//! microservice, memory in tests) is decided where the node is put together. Nothing here waits on the
//! hot path: a transport takes messages into bounded queues and drops what does not fit, which Raft
//! repairs.

pub mod book;
pub mod cita;
pub(crate) mod connect;
pub mod forward;
pub mod gathering;
pub mod handshake;
pub(crate) mod local;
pub mod outbox;
pub mod peer_streams;
pub mod survey;
pub mod wire;

use std::sync::Arc;

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::{Message, Refusal};
use consensus_proto::ordering::{Acknowledgement, Outcome};
use consensus_proto::records::Transaction;
use futures_util::future::BoxFuture;

use crate::telemetry::trace::TraceContext;

/// Carries one chain's Raft messages to its peers.
pub trait Transport: Send + Sync + 'static {
    /// Takes messages on their way, in order per receiver (`Message::to`). Never waits; what does not fit is
    /// dropped, counted and reported with `ChainHandle::report_peer`.
    fn send(&self, messages: Vec<Message>);
}

/// Carries requests to the leader of one chain and its real answers back.
pub trait Forwarder: Send + Sync + 'static {
    /// Hands transactions to `leader`. Resolves with outcomes whose counts add up to the number of
    /// transactions; at once with `REASON_NO_LEADER` if there is no open connection to it. The caller bounds
    /// the wait. `trace` is the span above, if the frame is sampled.
    fn forward(
        &self,
        leader: NodeId,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Vec<Outcome>>;

    /// Asks `leader` for the index that a linearizable read must have applied.
    fn read_index(&self, leader: NodeId) -> BoxFuture<'static, Result<u64, Refusal>>;
}

/// What a transport knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLink {
    /// The peer.
    pub node_id: NodeId,
    /// Where its peer service is reached.
    pub address: String,
    /// Its store, once it was heard.
    pub store_incarnation: Option<StoreIncarnation>,
    /// Unix time in milliseconds; 0: never heard.
    pub last_heard_ms: u64,
    /// Whether a stream to it is open.
    pub connected: bool,
}

/// What is known of one chain's peers, for records and status pages.
pub trait PeerBook: Send + Sync + 'static {
    /// All peers, ascending by node.
    fn peers(&self) -> Vec<PeerLink>;
}

/// Everything that connects one chain with its peers.
#[derive(Clone)]
pub struct Links {
    /// Raft messages.
    pub transport: Arc<dyn Transport>,
    /// Requests to the leader.
    pub forwarder: Arc<dyn Forwarder>,
    /// What is known of the peers.
    pub peers: Arc<dyn PeerBook>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// A chain without peers: the only voter of its chain sends nothing and forwards nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Transport for Alone {
    fn send(&self, _messages: Vec<Message>) {}
}

impl Forwarder for Alone {
    fn forward(
        &self,
        leader: NodeId,
        transactions: Vec<Transaction>,
        _acknowledgement: Acknowledgement,
        _trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Vec<Outcome>> {
        Box::pin(async move { vec![crate::application::ledger::no_leader(transactions.len(), Some(leader))] })
    }

    fn read_index(&self, leader: NodeId) -> BoxFuture<'static, Result<u64, Refusal>> {
        Box::pin(async move { Err(Refusal::NotLeader { leader: Some(leader) }) })
    }
}

impl PeerBook for Alone {
    fn peers(&self) -> Vec<PeerLink> {
        Vec::new()
    }
}

impl Links {
    /// For a chain whose only voter is this node.
    pub fn alone() -> Self {
        Self { transport: Arc::new(Alone), forwarder: Arc::new(Alone), peers: Arc::new(Alone) }
    }
}
