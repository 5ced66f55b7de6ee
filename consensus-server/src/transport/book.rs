//! What this node knows of each peer: where it is, which store it has, when it was heard.
//!
//! Shared between the streams to the peers and the service that hears them. A peer's store incarnation is
//! remembered from the first time it was heard (or from the record on disk) and a different one is refused
//! from then on: a store that was wiped or replaced has forgotten its votes and must not count under the
//! old id. The book decides nothing else; who may speak at all is judged in [`super::handshake`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::storage::PeerRecord;

use super::{PeerBook, PeerLink};
use crate::config::{Config, Pin};
use crate::telemetry::metrics::{PeerMetrics, PeerSeries};
use crate::telemetry::unix_time_ms;

/// One peer.
#[derive(Debug)]
pub struct Peer {
    node_id: NodeId,
    address: String,
    client_address: String,
    public_keys: Vec<Pin>,
    store: Mutex<Option<StoreIncarnation>>,
    last_heard_ms: AtomicU64,
    connected: AtomicBool,
    series: PeerSeries,
}

impl Peer {
    /// The node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// `host:port` of its peer service.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` of its client service.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// The public keys that it may present over TLS.
    pub fn public_keys(&self) -> &[Pin] {
        &self.public_keys
    }

    /// Its metrics.
    pub fn series(&self) -> &PeerSeries {
        &self.series
    }

    /// It spoke just now.
    pub fn heard(&self) {
        self.last_heard_ms.store(unix_time_ms(), Ordering::Relaxed);
    }

    /// Unix time in milliseconds; 0: never heard.
    pub fn last_heard_ms(&self) -> u64 {
        self.last_heard_ms.load(Ordering::Relaxed)
    }

    /// Whether a stream to it is open.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        self.series.connected.set(i64::from(connected));
    }

    /// Bytes that wait for it.
    pub fn queue_bytes(&self) -> u64 {
        self.series.queue_bytes.get().max(0) as u64
    }

    /// Messages for it that were lost on this node since it started.
    pub fn dropped(&self) -> u64 {
        self.series.dropped_messages()
    }

    /// The store it was last heard with.
    pub fn store_incarnation(&self) -> Option<StoreIncarnation> {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the store that it presents.
    ///
    /// # Errors
    /// In words, if it is another one than before.
    pub fn present_store(&self, presented: StoreIncarnation) -> Result<(), String> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        match *store {
            Some(recorded) if recorded != presented => Err(format!(
                "store of node {} was replaced: recorded {recorded}, presented {presented}; a new store must join as a \
                 new member",
                self.node_id
            )),
            _ => {
                *store = Some(presented);
                Ok(())
            }
        }
    }
}

/// All peers of one chain: the members other than this node.
#[derive(Debug)]
pub struct Book {
    peers: BTreeMap<NodeId, Arc<Peer>>,
}

impl Book {
    /// From the configuration, and from what was written down before this start.
    pub fn new(config: &Config, known: &[PeerRecord], metrics: &PeerMetrics) -> Self {
        let peer = |member: &crate::config::Member| {
            let record = known.iter().find(|record| record.node_id == member.node_id);
            let peer = Peer {
                node_id: member.node_id,
                address: member.peer_address.clone(),
                client_address: member.client_address.clone(),
                public_keys: member.public_keys.clone(),
                store: Mutex::new(record.and_then(|record| record.store_incarnation)),
                last_heard_ms: AtomicU64::new(record.map_or(0, |record| record.last_heard_ms)),
                connected: AtomicBool::new(false),
                series: metrics.peer(member.node_id),
            };
            (member.node_id, Arc::new(peer))
        };
        Self { peers: config.others().map(peer).collect() }
    }

    /// A peer by id.
    pub fn peer(&self, node_id: NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(&node_id)
    }

    /// All, ascending by node.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }
}

impl PeerBook for Book {
    fn peers(&self) -> Vec<PeerLink> {
        self.iter()
            .map(|peer| PeerLink {
                node_id: peer.node_id,
                address: peer.address.clone(),
                store_incarnation: peer.store_incarnation(),
                last_heard_ms: peer.last_heard_ms(),
                connected: peer.connected(),
            })
            .collect()
    }
}
