//! The exchange between the consensus services of one CITA-Cloud chain: the series of the subsystem
//! `exchange`, and those of its peers.

use consensus_core::ids::NodeId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Metrics, PeerMetrics, PeerSeries, ReasonLabel, Subsystem};

/// Why something that arrived was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A version of the envelope that this node does not speak.
    Version,
    /// Meant for another node.
    Receiver,
    /// The sender names no node.
    Sender,
    /// This node's own, come back.
    Loopback,
    /// Of another chain.
    Chain,
    /// Larger than any may be.
    TooLarge,
    /// Cannot be decoded, or its fields cannot be.
    Malformed,
    /// Came before, or is too old to tell.
    Duplicate,
    /// Of a process of the sender that has ended.
    OldSession,
    /// Raft messages of another group, or while this node is in none.
    Group,
    /// Raft messages from a node or a store that is not in the roster.
    SenderStore,
    /// Meant for another store of this node.
    ReceiverStore,
    /// A piece that fits no message under way.
    Part,
    /// This node does not speak for any store yet.
    Seatless,
    /// Raft messages while no chain runs.
    Chainless,
    /// More nodes have spoken than this one keeps track of.
    Crowded,
    /// More letters wait than may.
    LettersFull,
}

impl Refused {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Version,
        Self::Receiver,
        Self::Sender,
        Self::Loopback,
        Self::Chain,
        Self::TooLarge,
        Self::Malformed,
        Self::Duplicate,
        Self::OldSession,
        Self::Group,
        Self::SenderStore,
        Self::ReceiverStore,
        Self::Part,
        Self::Seatless,
        Self::Chainless,
        Self::Crowded,
        Self::LettersFull,
    ];

    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Receiver => "receiver",
            Self::Sender => "sender",
            Self::Loopback => "loopback",
            Self::Chain => "chain",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Duplicate => "duplicate",
            Self::OldSession => "old-session",
            Self::Group => "group",
            Self::SenderStore => "sender-store",
            Self::ReceiverStore => "receiver-store",
            Self::Part => "part",
            Self::Seatless => "seatless",
            Self::Chainless => "chainless",
            Self::Crowded => "crowded",
            Self::LettersFull => "letters-full",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub const fn number(self) -> usize {
        self as usize
    }
}

/// Why something was not even queued for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsent {
    /// This node does not speak for any store, or no longer for the one that the message is of.
    Seatless,
    /// Raft messages for a node that is not in the roster.
    Stranger,
    /// More peers than this node keeps track of.
    Crowded,
    /// For this node itself.
    Itself,
}

impl Unsent {
    const ALL: [Self; 4] = [Self::Seatless, Self::Stranger, Self::Crowded, Self::Itself];

    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seatless => "seatless",
            Self::Stranger => "stranger",
            Self::Crowded => "crowded",
            Self::Itself => "itself",
        }
    }
}

/// One chain's exchange. Registers the series of its peers as well, so it stands in the place of
/// [`PeerMetrics`].
#[derive(Clone, Debug)]
pub struct ExchangeMetrics {
    peers: PeerMetrics,
    refused: Vec<Counter>,
    unsent: Vec<Counter>,
    letters: Counter,
    outages: Counter,
    parts_sent: Counter,
    parts_received: Counter,
    registered: Gauge,
    registrations: Counter,
}

impl ExchangeMetrics {
    /// Registers the series. Once for each chain of a process.
    pub fn new(metrics: &Metrics, chain: &str) -> Self {
        let peers = PeerMetrics::new(metrics, chain);
        metrics.registry(|registry| {
            let mut exchange = Subsystem::new(registry, "exchange", chain);
            let refused: Family<ReasonLabel, Counter> =
                exchange.family("refused", "Envelopes that arrived and were dropped");
            let unsent: Family<ReasonLabel, Counter> =
                exchange.family("unsent", "Messages that were not queued for any peer");
            let series = |family: &Family<ReasonLabel, Counter>, reason| {
                family.get_or_create_owned(&ReasonLabel { chain: chain.to_owned(), reason })
            };
            Self {
                peers,
                refused: Refused::ALL.iter().map(|cause| series(&refused, cause.as_str())).collect(),
                unsent: Unsent::ALL.iter().map(|cause| series(&unsent, cause.as_str())).collect(),
                letters: exchange.counter("letters_received", "Letters that arrived and were accepted"),
                outages: exchange.counter("outages", "Times that nothing could be handed over for a peer"),
                parts_sent: exchange.counter("parts_sent", "Pieces of large envelopes handed over"),
                parts_received: exchange.counter("parts_received", "Pieces of large envelopes accepted"),
                registered: exchange.gauge("registered", "1 while the network service knows this node"),
                registrations: exchange.counter("registrations", "Registrations that were accepted"),
            }
        })
    }

    /// The series of one peer.
    pub fn peer(&self, peer: NodeId) -> PeerSeries {
        self.peers.peer(peer)
    }

    /// A peer is not kept track of any more: its series end.
    pub fn forget_peer(&self, peer: NodeId) {
        self.peers.forget(peer);
    }

    /// Something that arrived was dropped.
    pub fn refused(&self, cause: Refused) {
        self.refused[cause.number()].inc();
    }

    /// How often that happened.
    pub fn refused_count(&self, cause: Refused) -> u64 {
        self.refused[cause.number()].get()
    }

    /// Messages were not queued for any peer.
    pub fn unsent(&self, cause: Unsent, messages: u64) {
        self.unsent[cause as usize].inc_by(messages);
    }

    /// How often that happened.
    pub fn unsent_count(&self, cause: Unsent) -> u64 {
        self.unsent[cause as usize].get()
    }

    /// A letter was accepted.
    pub fn letter_received(&self) {
        self.letters.inc();
    }

    /// An outage of the way to a peer began.
    pub fn outage(&self) {
        self.outages.inc();
    }

    /// A piece was handed over.
    pub fn part_sent(&self) {
        self.parts_sent.inc();
    }

    /// A piece was accepted.
    pub fn part_received(&self) {
        self.parts_received.inc();
    }

    /// The network service has accepted this node's registration.
    pub fn registered(&self) {
        self.registered.set(1);
        self.registrations.inc();
    }

    /// The network service is gone, and with it the registration.
    pub fn unregistered(&self) {
        self.registered.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_series() {
        let metrics = Metrics::new(1);
        let exchange = ExchangeMetrics::new(&metrics, "main");
        for (number, cause) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(cause.number(), number);
            (0..=number).for_each(|_| exchange.refused(cause));
        }
        let text = metrics.encode();
        for (number, cause) in Refused::ALL.into_iter().enumerate() {
            let sample = format!(
                "consensus_exchange_refused_total{{chain=\"main\",reason=\"{}\"}} {}",
                cause.as_str(),
                number + 1
            );
            assert!(text.contains(&sample), "{sample} in {text}");
        }
        for (number, cause) in Unsent::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
        }
    }

    #[test]
    fn a_forgotten_peer_has_no_series() {
        let metrics = Metrics::new(1);
        let exchange = ExchangeMetrics::new(&metrics, "main");
        let peer = NodeId::new(7).expect("not 0");
        exchange.peer(peer).sent_frames.inc();
        assert!(metrics.encode().contains("peer=\"7\""));
        exchange.forget_peer(peer);
        assert!(!metrics.encode().contains("peer=\"7\""));
    }
}
