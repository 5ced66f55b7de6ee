//! The state of the node, gathered from its parts for whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerProgress, Role, Status};
use consensus_proto::admin::{ChainStatus, NodeStatus, PeerStatus};

use super::health::{self, Checks};
use crate::application::ledger::LedgerHandle;
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::telemetry::metrics::ChainMetrics;
use crate::transport::book::Book;

/// Looks at a running node.
#[derive(Debug)]
pub struct NodeView {
    config: Arc<Config>,
    chain: ChainHandle,
    ledger: LedgerHandle,
    book: Arc<Book>,
    metrics: Arc<ChainMetrics>,
    started: Instant,
    stopping: AtomicBool,
}

impl NodeView {
    /// Of a node that runs one chain.
    pub fn new(
        config: Arc<Config>,
        chain: ChainHandle,
        ledger: LedgerHandle,
        book: Arc<Book>,
        metrics: Arc<ChainMetrics>,
    ) -> Self {
        Self {
            config,
            chain,
            ledger,
            book,
            metrics,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The chain.
    pub fn chain(&self) -> &ChainHandle {
        &self.chain
    }

    /// From now on the node is not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process does its work.
    pub fn liveness(&self) -> Checks {
        health::liveness(&self.chain.status(), self.metrics.stalled())
    }

    /// Whether clients can be sent here.
    pub fn readiness(&self) -> Checks {
        health::readiness(&self.chain.status(), self.stopping.load(Ordering::Relaxed))
    }

    /// Everything that the admin service tells.
    pub fn status(&self) -> NodeStatus {
        let readiness = self.readiness();
        NodeStatus {
            cluster: self.config.cluster.clone(),
            node_id: self.config.node_id.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            ready: readiness.is_ok(),
            not_ready_reason: readiness.failures(),
            chains: vec![self.chain_status()],
        }
    }

    fn chain_status(&self) -> ChainStatus {
        let status = self.chain.status();
        let identity = self.chain.identity();
        let tip = self.ledger.tip();
        let learner = status.learners.contains(&status.node_id.get());
        let role = if learner && status.role == Role::Follower { "learner" } else { status.role.as_str() };
        let leader_address = status.leader.and_then(|leader| self.config.member(leader));
        ChainStatus {
            chain: identity.chain.clone(),
            chain_incarnation: identity.chain_incarnation,
            state: if status.halted.is_some() { "halted" } else { "running" }.to_owned(),
            halt_reason: status.halted.clone().unwrap_or_default(),
            role: role.to_owned(),
            term: status.term,
            leader_id: status.leader.map_or(0, NodeId::get),
            leader_address: leader_address.map(|member| member.client_address.clone()).unwrap_or_default(),
            commit_index: status.commit,
            applied_index: status.applied,
            persisted_index: status.persisted,
            first_index: status.first,
            last_index: status.last,
            height: tip.height,
            tip_hash: tip.hash.as_bytes().to_vec().into(),
            voters: status.voters.clone(),
            learners: status.learners.clone(),
            peers: self.peers(&status),
            leader_changes: self.metrics.leader_changes(),
            transactions: tip.transactions,
        }
    }

    fn peers(&self, status: &Status) -> Vec<PeerStatus> {
        let progress: BTreeMap<NodeId, &PeerProgress> = status.peers.iter().map(|p| (p.node_id, p)).collect();
        let peer = |peer: &Arc<crate::transport::book::Peer>| {
            let progress = progress.get(&peer.node_id());
            PeerStatus {
                node_id: peer.node_id().get(),
                address: peer.address().to_owned(),
                connected: peer.connected(),
                matched: progress.map_or(0, |p| p.matched),
                next: progress.map_or(0, |p| p.next),
                progress: progress.map(|p| p.state.to_owned()).unwrap_or_default(),
                last_heard_ms: peer.last_heard_ms(),
                queue_bytes: peer.queue_bytes(),
                dropped_messages: peer.dropped(),
            }
        };
        self.book.iter().map(peer).collect()
    }
}
