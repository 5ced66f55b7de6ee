//! How proposals, reads and snapshots of a chain end: series of the subsystem `raft`, counted by
//! [`ChainMetrics`](super::ChainMetrics).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{PeerLabel, ReasonLabel, Subsystem};

/// What clients of the chain wait for, and how it ends.
#[derive(Debug)]
pub(super) struct Outcomes {
    pub(super) commit_seconds: Histogram,
    pub(super) apply_seconds: Histogram,
    pub(super) proposals_failed: Family<ReasonLabel, Counter>,
    pub(super) reads: Counter,
    pub(super) reads_failed: Family<ReasonLabel, Counter>,
    pub(super) reads_pending: Gauge,
    pub(super) snapshot_build_seconds: Histogram,
    pub(super) snapshot_install_seconds: Histogram,
    pub(super) snapshots_sent: Family<PeerLabel, Counter>,
    pub(super) snapshots_failed: Family<PeerLabel, Counter>,
    pub(super) unreachable: Family<PeerLabel, Counter>,
}

impl Outcomes {
    pub(super) fn new(raft: &mut Subsystem<'_>) -> Self {
        Self {
            commit_seconds: raft.seconds(
                "commit_duration_seconds",
                "From an entry's proposal on this node until it is committed",
            ),
            apply_seconds: raft.seconds(
                "apply_duration_seconds",
                "From an entry's proposal on this node until it is applied",
            ),
            proposals_failed: raft
                .family("proposals_failed", "Proposals of this node that were refused, or lost sight of"),
            reads: raft.counter("reads", "Linearizable reads that got their index"),
            reads_failed: raft.family("reads_failed", "Linearizable reads that did not"),
            reads_pending: raft.gauge("reads_pending", "Linearizable reads that wait for a quorum"),
            snapshot_build_seconds: raft
                .seconds("snapshot_build_duration_seconds", "How long the application built a snapshot"),
            snapshot_install_seconds: raft.seconds(
                "snapshot_install_duration_seconds",
                "How long the application put a received snapshot in place",
            ),
            snapshots_sent: raft.family("snapshots_sent", "Snapshots handed over to a peer"),
            snapshots_failed: raft
                .family("snapshots_failed", "Snapshots for a peer that were lost on their way"),
            unreachable: raft
                .family("peer_unreachable", "Times that the way to a peer was found broken or full"),
        }
    }
}
