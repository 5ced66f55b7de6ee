//! The streams between nodes: the series of the subsystem `peer`.

use consensus_core::ids::NodeId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, PeerLabel, PeerReasonLabel, ReasonLabel, Subsystem};

/// Why a message did not reach its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropCause {
    /// The queue was at its bound of messages or bytes.
    QueueFull,
    /// There is no open stream.
    Disconnected,
    /// Larger than any message may be.
    TooLarge,
}

impl DropCause {
    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Disconnected => "disconnected",
            Self::TooLarge => "too-large",
        }
    }
}

/// One chain's peers.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    chain: String,
    connected: Family<PeerLabel, Gauge>,
    queue_bytes: Family<PeerLabel, Gauge>,
    queue_messages: Family<PeerLabel, Gauge>,
    connects: Family<PeerLabel, Counter>,
    round_trip: Family<PeerLabel, Histogram, fn() -> Histogram>,
    sent_messages: Family<PeerLabel, Counter>,
    sent_frames: Family<PeerLabel, Counter>,
    received_messages: Family<PeerLabel, Counter>,
    dropped: Family<PeerReasonLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    malformed: Family<PeerReasonLabel, Counter>,
}

/// The series of one peer, looked up once.
#[derive(Clone, Debug)]
pub struct PeerSeries {
    /// 1 while a stream to it is open.
    pub connected: Gauge,
    /// Bytes that wait for it.
    pub queue_bytes: Gauge,
    /// Messages that wait for it.
    pub queue_messages: Gauge,
    /// Streams opened.
    pub connects: Counter,
    /// From a ping on its stream to the answer, in seconds; none through a CITA-Cloud network service.
    pub round_trip: Histogram,
    /// Messages written to its stream.
    pub sent_messages: Counter,
    /// Frames written to its stream.
    pub sent_frames: Counter,
    /// Messages that came from it.
    pub received_messages: Counter,
    queue_full: Counter,
    disconnected: Counter,
    too_large: Counter,
}

impl PeerSeries {
    /// Messages for it that were lost here, for whatever cause.
    pub fn dropped_messages(&self) -> u64 {
        self.queue_full.get() + self.disconnected.get() + self.too_large.get()
    }

    /// Messages for it were lost here.
    pub fn dropped(&self, cause: DropCause, messages: u64) {
        match cause {
            DropCause::QueueFull => self.queue_full.inc_by(messages),
            DropCause::Disconnected => self.disconnected.inc_by(messages),
            DropCause::TooLarge => self.too_large.inc_by(messages),
        };
    }
}

impl PeerMetrics {
    /// Registers the series. Once for each chain of a process.
    pub fn new(metrics: &Metrics, chain: &str) -> Self {
        metrics.registry(|registry| {
            let mut peer = Subsystem::new(registry, "peer", chain);
            Self {
                chain: chain.to_owned(),
                connected: peer.family("connected", "1 while a stream to the peer is open; on a CITA-Cloud node: unless messages for it are not taken"),
                queue_bytes: peer.family("queue_bytes", "Bytes of messages that wait for the peer"),
                queue_messages: peer.family("queue_messages", "Messages that wait for the peer"),
                connects: peer.family("connects", "Streams to the peer that were opened"),
                round_trip: peer.seconds_by_peer(
                    "round_trip_seconds",
                    "From a ping on the stream to the peer until its answer, measured each second",
                ),
                sent_messages: peer.family("messages_sent", "Messages written to the peer's stream"),
                sent_frames: peer.family("frames_sent", "Frames written to the peer's stream"),
                received_messages: peer.family("messages_received", "Messages that came from the peer"),
                dropped: peer.family("messages_dropped", "Messages for the peer that were lost on this node"),
                refused: peer.family("handshakes_refused", "Handshakes refused, by us or by the other side"),
                malformed: peer.family("messages_malformed", "Messages from the peer that cannot be decoded"),
            }
        })
    }

    /// The series of one peer.
    pub fn peer(&self, peer: NodeId) -> PeerSeries {
        let label = PeerLabel { chain: self.chain.clone(), peer: peer.get() };
        let dropped = |cause: DropCause| {
            let reason = cause.as_str();
            self.dropped.get_or_create_owned(&PeerReasonLabel {
                chain: self.chain.clone(),
                peer: peer.get(),
                reason,
            })
        };
        PeerSeries {
            connected: self.connected.get_or_create_owned(&label),
            queue_bytes: self.queue_bytes.get_or_create_owned(&label),
            queue_messages: self.queue_messages.get_or_create_owned(&label),
            connects: self.connects.get_or_create_owned(&label),
            round_trip: self.round_trip.get_or_create_owned(&label),
            sent_messages: self.sent_messages.get_or_create_owned(&label),
            sent_frames: self.sent_frames.get_or_create_owned(&label),
            received_messages: self.received_messages.get_or_create_owned(&label),
            queue_full: dropped(DropCause::QueueFull),
            disconnected: dropped(DropCause::Disconnected),
            too_large: dropped(DropCause::TooLarge),
        }
    }

    /// A peer that is not kept track of any more: its series end.
    pub fn forget(&self, peer: NodeId) {
        let label = PeerLabel { chain: self.chain.clone(), peer: peer.get() };
        for family in [&self.connected, &self.queue_bytes, &self.queue_messages] {
            family.remove(&label);
        }
        for family in [&self.connects, &self.sent_messages, &self.sent_frames, &self.received_messages] {
            family.remove(&label);
        }
        self.round_trip.remove(&label);
        for cause in [DropCause::QueueFull, DropCause::Disconnected, DropCause::TooLarge] {
            let (chain, reason) = (self.chain.clone(), cause.as_str());
            self.dropped.remove(&PeerReasonLabel { chain, peer: peer.get(), reason });
        }
    }

    /// A handshake failed over `difference`.
    pub fn handshake_refused(&self, difference: &'static str) {
        self.refused.get_or_create(&ReasonLabel { chain: self.chain.clone(), reason: difference }).inc();
    }

    /// A message cannot be decoded.
    pub fn malformed(&self, peer: NodeId, reason: &'static str) {
        let label = PeerReasonLabel { chain: self.chain.clone(), peer: peer.get(), reason };
        self.malformed.get_or_create(&label).inc();
    }
}
