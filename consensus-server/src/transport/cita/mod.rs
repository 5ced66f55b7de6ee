//! The exchange between the consensus services of one CITA-Cloud chain.
//!
//! Raft messages and letters ([`Mail`]) go in envelopes that say all there is to know of their sender, so any
//! [`Carrier`] will do: the chain's network service ([`network`]), direct streams ([`direct`]), memory in
//! tests. A carrier may lose, double, delay and reorder; nothing that comes is believed before the gate
//! ([`gate`]) has judged it on its way through the [`reception`]. Nothing here waits: each peer has a bounded
//! queue ([`lanes`]) and a task of its own ([`sender`]), letters go into a bounded channel, and what does not
//! fit is dropped and counted. What letters mean is not known here.

pub mod direct;
mod envelope;
mod gate;
mod lanes;
pub mod network;
mod parts;
mod reception;
mod sender;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::{Message, PeerReport, answers_vote};
use consensus_proto::cita::exchange::{self, Envelope};
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::envelope::{Seat, Stamp};
use self::parts::Assembly;
use self::sender::Peer;
use super::{PeerBook, PeerLink, Transport};
use crate::chain::ChainHandle;
use crate::telemetry::metrics::{ExchangeMetrics, Refused, Unsent};
use crate::telemetry::{Throttle, unix_time_ms};

/// Peers that are kept track of: members, and others that spoke or were written to.
const PEERS_MAX: usize = 1024;
/// Letters that wait for whoever reads them.
const LETTERS_MAX: usize = 1024;
/// A letter above this size is a large one (a candidate).
const LARGE_LETTER_BYTES: u64 = 64 << 10;
/// While so many letters wait, no large one is accepted: so that those that wait are bounded in bytes, too.
const BEFORE_LARGE_MAX: usize = 8;
/// How often a line that others can provoke is written, for each cause.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// A peer that was heard within this time and is not out of reach counts as connected.
const HEARD_LATELY_MS: u64 = 10_000;
/// How often pieces that are overdue are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What an exchange is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeConfig {
    /// This node.
    pub node: NodeId,
    /// The chain's id as configured; empty if it is not known.
    pub chain: Bytes,
    /// Drawn when this process started.
    pub session: u64,
    /// Largest message, in either direction.
    pub message_bytes_max: u64,
    /// What is larger goes in pieces of this size.
    pub chunk_bytes: u64,
    /// Raft messages that wait for one peer, and letters.
    pub queue_messages_max: usize,
    /// Their bytes; a single message always fits where nothing waits.
    pub queue_bytes_max: u64,
}

/// 16 bytes naming a Raft group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {self}")
    }
}

/// Everything that is not a Raft message.
#[derive(Clone, PartialEq, Debug)]
pub enum Mail {
    /// A node presents itself.
    Hello(exchange::Hello),
    /// The first nodes of a chain found its group.
    Founding(exchange::Founding),
    /// The receiver is a member now.
    Invitation(exchange::Invitation),
    /// The receiver is none any more.
    Dismissal(exchange::Dismissal),
    /// A block that the leader wants to propose.
    Candidate(exchange::Candidate),
    /// What a controller says of a candidate.
    Verdict(exchange::Verdict),
    /// Where a controller stands.
    Report(exchange::Report),
    /// Agreed blocks shall be given up.
    VoidRequest(exchange::VoidRequest),
    /// They are, by the sender.
    VoidPromise(exchange::VoidPromise),
}

/// Mail that arrived.
#[derive(Clone, PartialEq, Debug)]
pub struct Letter {
    /// The sender.
    pub from: NodeId,
    /// The store that it speaks for.
    pub incarnation: StoreIncarnation,
    /// The group that it is in.
    pub group: Option<GroupId>,
    /// What it says.
    pub mail: Mail,
}

/// Takes envelopes to other nodes, without a promise that they arrive.
pub trait Carrier: Send + Sync + 'static {
    /// Hands one encoded envelope over; resolves when the carrier took it. `origin` is the address that
    /// CITA-Cloud's network knows the receiver by. The exchange bounds the wait.
    fn carry(&self, to: NodeId, origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>>;

    /// Hands one encoded envelope over for everybody on the chain's network, members or not.
    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>>;

    /// How a node is reached, for people.
    fn address(&self, _to: NodeId, origin: u64) -> String {
        format!("origin {origin:016x}")
    }
}

/// Where Raft messages of others go: the chain.
pub(super) trait Sink: Send + Sync {
    fn deliver(&self, from: NodeId, messages: Vec<Message>);
    fn report(&self, peer: NodeId, report: PeerReport);
}

impl Sink for ChainHandle {
    fn deliver(&self, from: NodeId, messages: Vec<Message>) {
        // What does not fit is counted by the chain.
        let _ = self.deliver_messages(from, messages);
    }

    fn report(&self, peer: NodeId, report: PeerReport) {
        self.report_peer(peer, report);
    }
}

/// One node's end of the exchange.
pub struct Exchange {
    core: Arc<Core>,
}

/// What the exchange shares with its senders.
struct Core {
    config: ExchangeConfig,
    carrier: Arc<dyn Carrier>,
    metrics: ExchangeMetrics,
    place: Mutex<Place>,
    book: Mutex<Book>,
    assembly: Mutex<(Assembly, Instant)>,
    letters: mpsc::Sender<Letter>,
    refused_log: Vec<Throttle>,
    carry_timeout: Duration,
    clock: AtomicU64,
    stop: CancellationToken,
}

/// Who this node is among the others.
#[derive(Default)]
struct Place {
    seat: Option<Seat>,
    roster: Option<Arc<BTreeMap<NodeId, StoreIncarnation>>>,
    chain: Option<Arc<dyn Sink>>,
}

/// The peers that are kept track of.
#[derive(Default)]
struct Book {
    peers: BTreeMap<NodeId, Arc<Peer>>,
    /// No envelope for a peer that is not kept track of any more had a higher number.
    sequence_floor: u64,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("node", &self.core.config.node).finish_non_exhaustive()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("node", &self.config.node).finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Exchange {
    /// Starts nothing; what is sent starts a task for its peer, so that must happen within a runtime. Returns
    /// the receiving end for letters, too. Until [`take_seat`](Self::take_seat) everything is dropped.
    pub fn new(
        config: ExchangeConfig,
        carrier: Arc<dyn Carrier>,
        metrics: ExchangeMetrics,
    ) -> (Arc<Self>, mpsc::Receiver<Letter>) {
        Self::with_timeout(config, carrier, metrics, sender::CARRY_TIMEOUT)
    }

    fn with_timeout(
        config: ExchangeConfig,
        carrier: Arc<dyn Carrier>,
        metrics: ExchangeMetrics,
        carry_timeout: Duration,
    ) -> (Arc<Self>, mpsc::Receiver<Letter>) {
        let (letters, arrived) = mpsc::channel(LETTERS_MAX);
        let envelope_bytes_max = config.message_bytes_max + envelope::overhead_bytes(&config.chain);
        let core = Core {
            config,
            carrier,
            metrics,
            place: Mutex::default(),
            book: Mutex::default(),
            assembly: Mutex::new((Assembly::new(envelope_bytes_max), Instant::now())),
            letters,
            refused_log: Refused::ALL.iter().map(|_| Throttle::new(LOG_EVERY)).collect(),
            carry_timeout,
            clock: AtomicU64::new(0),
            stop: CancellationToken::new(),
        };
        (Arc::new(Self { core: Arc::new(core) }), arrived)
    }

    /// Which store this node speaks for, and in which group (`None`: it looks for one). Another seat than
    /// before forgets the roster and detaches the chain, which belong to the seat: say them anew, in the order
    /// seat, roster, chain.
    pub fn take_seat(&self, incarnation: StoreIncarnation, group: Option<GroupId>) {
        let seat = Some(Seat { incarnation, group });
        let mut place = self.core.place();
        if place.seat != seat {
            *place = Place { seat, ..Place::default() };
        }
    }

    /// The group's members and their stores: their Raft messages are taken only from there, and go only there.
    /// What only leaders say is taken from any store of a member, and answered there, and anybody else of the
    /// group may send, too, and is answered at the store that it spoke for: this node may not have come to their
    /// admission yet. `None`: this node knows no member yet.
    pub fn set_roster(&self, roster: Option<BTreeMap<NodeId, StoreIncarnation>>) {
        self.core.place().roster = roster.map(Arc::new);
    }

    /// Raft messages go here from now on; `None`: they are dropped.
    pub fn attach(&self, chain: Option<ChainHandle>) {
        self.attach_sink(chain.map(|chain| Arc::new(chain) as Arc<dyn Sink>));
    }

    fn attach_sink(&self, sink: Option<Arc<dyn Sink>>) {
        self.core.place().chain = sink;
    }

    /// Carries the Raft messages of the chain of this moment's seat: once another seat is taken, what that
    /// chain still sends is dropped.
    pub fn transport(self: &Arc<Self>) -> Arc<dyn Transport> {
        let seat = self.core.place().seat;
        Arc::new(SeatTransport { exchange: self.clone(), seat })
    }

    /// Never waits; what does not fit is dropped and counted.
    pub fn mail(&self, to: NodeId, mail: Mail) {
        let core = &self.core;
        if to == core.config.node {
            return core.metrics.unsent(Unsent::Itself, 1);
        }
        let Some(seat) = core.place().seat else { return core.metrics.unsent(Unsent::Seatless, 1) };
        let Some(peer) = core.peer(to) else { return core.metrics.unsent(Unsent::Crowded, 1) };
        peer.push_mail(core, mail, Stamp { seat, to: None });
    }

    /// Says hello to everybody on the chain's network, members or not. May be lost, so say it again.
    pub fn announce(&self, hello: exchange::Hello) {
        let core = &self.core;
        let Some(seat) = core.place().seat else { return core.metrics.unsent(Unsent::Seatless, 1) };
        let encoded = envelope::encode(&envelope::announcement(
            &core.config,
            seat,
            exchange::envelope::Body::Hello(hello),
        ));
        let announced = core.carrier.announce(encoded);
        tokio::spawn(core.stop.clone().run_until_cancelled_owned(async move {
            if let Ok(Err(why)) = tokio::time::timeout(sender::CARRY_TIMEOUT, announced).await {
                tracing::debug!(why, "nobody was told");
            }
        }));
    }

    /// Takes what came from the network service or a direct stream. `origin` is the sender's address there; 0:
    /// unknown. Never waits. False: dropped.
    pub fn receive(&self, origin: u64, encoded: Bytes) -> bool {
        let bytes = encoded.len() as u64;
        if bytes > self.core.envelope_bytes_max() || envelope::is_bloated(&encoded) {
            return self.core.refuse(Refused::TooLarge, 0);
        }
        match Envelope::decode(encoded) {
            Ok(envelope) => self.receive_decoded(origin, envelope),
            Err(_) => self.core.refuse(Refused::Malformed, 0),
        }
    }

    /// The same for what was decoded already, by a server that bounds the size of messages.
    pub(super) fn receive_decoded(&self, origin: u64, envelope: Envelope) -> bool {
        let from = envelope.from;
        match self.core.admit(origin, envelope) {
            Ok(()) => true,
            Err(cause) => self.core.refuse(cause, from),
        }
    }

    /// Bytes of the largest encoded envelope that is accepted.
    pub fn envelope_bytes_max(&self) -> u64 {
        self.core.envelope_bytes_max()
    }

    /// Bytes of the largest encoded envelope that this node sends in one.
    pub fn piece_bytes_max(&self) -> u64 {
        self.core.config.chunk_bytes + 2 * envelope::overhead_bytes(&self.core.config.chain)
    }

    /// The members, and whoever else was heard or written to.
    pub fn peers(&self) -> Vec<PeerLink> {
        let roster = self.core.place().roster.clone().unwrap_or_default();
        let peers = self.core.book().peers.clone();
        let mut nodes: Vec<NodeId> = roster.keys().chain(peers.keys()).copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|node| *node != self.core.config.node);
        let lately = unix_time_ms().saturating_sub(HEARD_LATELY_MS);
        let link = |node_id: NodeId| {
            let peer = peers.get(&node_id);
            let heard = peer.and_then(|peer| peer.heard().seat).map(|seat| seat.incarnation);
            let origin = peer.map_or(node_id.get(), |peer| peer.origin());
            let last_heard_ms = peer.map_or(0, |peer| peer.last_heard_ms());
            PeerLink {
                node_id,
                address: self.core.carrier.address(node_id, origin),
                store_incarnation: roster.get(&node_id).copied().or(heard),
                last_heard_ms,
                connected: last_heard_ms > lately && peer.is_some_and(|peer| !peer.out()),
            }
        };
        nodes.into_iter().map(link).collect()
    }

    /// When a peer was last heard, in Unix time in milliseconds; 0: never.
    pub fn last_heard_ms(&self, peer: NodeId) -> u64 {
        self.core.book().peers.get(&peer).map_or(0, |peer| peer.last_heard_ms())
    }

    /// Ends all sending and receiving; what waits is lost, and the tasks end.
    pub fn stop(&self) {
        self.core.stop.cancel();
    }

    fn send_raft(&self, messages: Vec<Message>, of: Option<Seat>) {
        let (seat, roster) = {
            let place = self.core.place();
            (place.seat, place.roster.clone())
        };
        // Messages for one peer usually follow each other: one lock for each run.
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let to = first.to;
            let run =
                std::iter::once(first).chain(std::iter::from_fn(|| messages.next_if(|next| next.to == to)));
            match seat.filter(|seat| of.is_none_or(|of| of == *seat)) {
                Some(seat) => self.core.send_run(to, run.collect(), seat, roster.as_deref()),
                None => self.core.metrics.unsent(Unsent::Seatless, run.count() as u64),
            }
        }
    }
}

impl Transport for Exchange {
    fn send(&self, messages: Vec<Message>) {
        self.send_raft(messages, None);
    }
}

/// The transport of one seat's chain.
struct SeatTransport {
    exchange: Arc<Exchange>,
    seat: Option<Seat>,
}

impl Transport for SeatTransport {
    fn send(&self, messages: Vec<Message>) {
        match self.seat {
            Some(seat) => self.exchange.send_raft(messages, Some(seat)),
            None => self.exchange.core.metrics.unsent(Unsent::Seatless, messages.len() as u64),
        }
    }
}

impl PeerBook for Exchange {
    fn peers(&self) -> Vec<PeerLink> {
        Self::peers(self)
    }
}

impl Core {
    fn place(&self) -> MutexGuard<'_, Place> {
        // Nothing panics while one of these locks is held.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn envelope_bytes_max(&self) -> u64 {
        self.config.message_bytes_max + envelope::overhead_bytes(&self.config.chain)
    }

    /// The record of a peer, made if there is room for it: the one not touched for the longest makes some,
    /// unless it is a member or being sent to.
    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut book = self.book();
        if let Some(peer) = book.peers.get(&node) {
            peer.touch(now);
            return Some(peer.clone());
        }
        if book.peers.len() >= PEERS_MAX {
            let roster = self.place().roster.clone().unwrap_or_default();
            let idle = |peer: &&Arc<Peer>| !roster.contains_key(&peer.node()) && !peer.attended();
            let oldest = book.peers.values().filter(idle).min_by_key(|peer| peer.touched())?.clone();
            book.sequence_floor = book.sequence_floor.max(oldest.sequence());
            book.peers.remove(&oldest.node());
            self.metrics.forget_peer(oldest.node());
        }
        let peer = Arc::new(Peer::new(node, book.sequence_floor, self.metrics.peer(node)));
        peer.touch(now);
        book.peers.insert(node, peer.clone());
        Some(peer)
    }

    /// Queues Raft messages for one peer.
    fn send_run(
        self: &Arc<Self>,
        to: u64,
        messages: Vec<Message>,
        seat: Seat,
        roster: Option<&BTreeMap<NodeId, StoreIncarnation>>,
    ) {
        let node = NodeId::new(to).filter(|node| *node != self.config.node);
        let addressed = node
            .and_then(|node| self.peer(node))
            .and_then(|peer| peer.store(seat, roster).map(|store| (peer, store)));
        match addressed {
            Some((peer, store)) => {
                let asked = peer.heard().asked.unwrap_or(store);
                let to = |message: &Message| if answers_vote(message.get_msg_type()) { asked } else { store };
                peer.push_raft(self, messages, |message| Stamp { seat, to: Some(to(message)) });
            }
            None => self.on_stranger(node, &messages, seat),
        }
    }

    fn on_stranger(&self, node: Option<NodeId>, messages: &[Message], seat: Seat) {
        self.metrics.unsent(Unsent::Stranger, messages.len() as u64);
        let snapshots = messages.iter().filter(|message| super::wire::is_snapshot(message)).map(|_| seat);
        if let Some(node) = node {
            self.report_snapshots(node, &snapshots.collect::<Vec<_>>(), PeerReport::SnapshotFailed);
        }
    }

    fn report(&self, peer: NodeId, report: PeerReport) {
        let chain = self.place().chain.clone();
        if let Some(chain) = chain {
            chain.report(peer, report);
        }
    }

    /// One report for each snapshot that the chain of the present seat has sent.
    fn report_snapshots(&self, peer: NodeId, of: &[Seat], report: PeerReport) {
        if of.is_empty() {
            return;
        }
        let (seat, chain) = {
            let place = self.place();
            (place.seat, place.chain.clone())
        };
        let Some(chain) = chain else { return };
        for _ in of.iter().filter(|of| Some(**of) == seat) {
            chain.report(peer, report);
        }
    }
}

#[cfg(test)]
impl ExchangeConfig {
    /// Of a small node without particular bounds.
    fn testing(node: u64, chunk_bytes: u64) -> Self {
        Self {
            node: NodeId::new(node).expect("not 0"),
            chain: Bytes::from_static(&[9; 32]),
            session: 1000 + node,
            message_bytes_max: 64 << 20,
            chunk_bytes,
            queue_messages_max: 1000,
            queue_bytes_max: 64 << 20,
        }
    }
}
