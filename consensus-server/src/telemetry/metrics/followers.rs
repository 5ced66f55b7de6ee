//! What a leader knows of its peers: series of the subsystem `raft` that end with its leadership.

use std::sync::{Mutex, PoisonError};

use consensus_core::ids::NodeId;
use consensus_core::replica::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{PeerLabel, Subsystem};

/// Labels `chain`, `peer` and `state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerStateLabel {
    chain: String,
    peer: u64,
    state: &'static str,
}

/// What a leader knows of its peers; the series of others vanish with leadership.
#[derive(Debug)]
pub(super) struct Followers {
    matched_lag: Family<PeerLabel, Gauge>,
    inflight: Family<PeerLabel, Gauge>,
    active: Family<PeerLabel, Gauge>,
    state: Family<PeerStateLabel, Gauge>,
    known: Mutex<Vec<(NodeId, &'static str)>>,
}

impl Followers {
    pub(super) fn new(raft: &mut Subsystem<'_>) -> Self {
        Self {
            matched_lag: raft.family("peer_matched_lag_entries", "Entries a peer lacks; leader only"),
            inflight: raft
                .family("peer_inflight_entries", "Entries sent to a peer and not acknowledged; leader only"),
            active: raft
                .family("peer_active", "1 if the peer has answered within the election timeout; leader only"),
            state: raft.family(
                "peer_state",
                "1 for how a peer gets its entries: probe, replicate or snapshot; leader only",
            ),
            known: Mutex::default(),
        }
    }

    /// As of this status.
    pub(super) fn status(&self, chain: &str, status: &Status) {
        let label = |peer: NodeId| PeerLabel { chain: chain.to_owned(), peer: peer.get() };
        let in_state =
            |peer: NodeId, state| PeerStateLabel { chain: chain.to_owned(), peer: peer.get(), state };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, state) in known.drain(..) {
            let now = status.peers.iter().find(|progress| progress.node_id == peer);
            if now.is_none_or(|now| now.state != state) {
                self.state.remove(&in_state(peer, state));
            }
            if now.is_none() {
                for family in [&self.matched_lag, &self.inflight, &self.active] {
                    family.remove(&label(peer));
                }
            }
        }
        for progress in status.peers.iter().filter(|p| p.node_id != status.node_id) {
            let label = label(progress.node_id);
            let lag = status.last.saturating_sub(progress.matched);
            let inflight = progress.next.saturating_sub(progress.matched + 1);
            self.matched_lag.get_or_create(&label).set(lag as i64);
            self.inflight.get_or_create(&label).set(inflight as i64);
            self.active.get_or_create(&label).set(i64::from(progress.active));
            self.state.get_or_create(&in_state(progress.node_id, progress.state)).set(1);
            known.push((progress.node_id, progress.state));
        }
    }
}
