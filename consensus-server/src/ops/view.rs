//! The state of the node, gathered from its parts for whoever asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerProgress, Role, Status};
use consensus_proto::admin::{ChainStatus, LeaderChange, NodeStatus, PeerStatus};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::health::{self, Checks};
use crate::application::ledger::LedgerHandle;
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::security::Security;
use crate::telemetry::metrics::{self, ChainMetrics};
use crate::telemetry::unix_time_ms;
use crate::transport::book::Book;
use crate::transport::survey::{Standing, Survey};

/// What a program tells its operators: health, and its state in its own words.
///
/// [`super::http`] and the health service ask; nothing here may wait.
pub trait OpsView: fmt::Debug + Send + Sync + 'static {
    /// Whether the process does its work. Nobody restarts it as long as it does.
    fn liveness(&self) -> Checks;

    /// Whether it can be relied on now.
    fn readiness(&self) -> Checks;

    /// Everything, for people and their tools.
    fn status_json(&self) -> Value;

    /// How each node of the cluster stands, this one and the others as far as they can be asked, for the status
    /// page (`page/page.js` has the names); within a second or so.
    fn cluster_json(&self) -> BoxFuture<'_, Value>;
}

/// Looks at a running node.
#[derive(Debug)]
pub struct NodeView {
    config: Arc<Config>,
    chain: ChainHandle,
    ledger: LedgerHandle,
    book: Arc<Book>,
    metrics: Arc<ChainMetrics>,
    survey: Survey,
    security: Arc<Security>,
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
        survey: Survey,
        security: Arc<Security>,
    ) -> Self {
        Self {
            config,
            chain,
            ledger,
            book,
            metrics,
            survey,
            security,
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
            alarms: self.security.alarms(),
            ..NodeStatus::default()
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
            recent_leader_changes: self
                .metrics
                .recent_leader_changes()
                .into_iter()
                .map(change_record)
                .collect(),
            sync_time_us: self.metrics.sync_time_us(),
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

impl OpsView for NodeView {
    fn liveness(&self) -> Checks {
        health::liveness(&self.chain.status(), self.metrics.stalled())
    }

    fn readiness(&self) -> Checks {
        health::readiness(&self.chain.status(), self.stopping.load(Ordering::Relaxed))
    }

    fn status_json(&self) -> Value {
        let mut status = node_json(&self.status());
        status["security"] = self.security.json();
        status
    }

    fn cluster_json(&self) -> BoxFuture<'_, Value> {
        Box::pin(async {
            let own = json!({
                "node_id": self.config.node_id.get(),
                "address": self.config.own().client_address,
                "own": true,
                "reached": true,
                "status": self.status_json(),
            });
            let mut nodes: Vec<Value> = self.survey.ask().await.iter().map(standing_json).collect();
            nodes.push(own);
            nodes.sort_by_key(|node| node["node_id"].as_u64());
            json!({
                "cluster": self.config.cluster,
                "asked": self.config.node_id.get(),
                "now_ms": unix_time_ms(),
                "nodes": nodes,
            })
        })
    }
}

pub(crate) fn change_record(change: metrics::LeaderChange) -> LeaderChange {
    LeaderChange { at_ms: change.at_ms, term: change.term, leader_id: change.leader.map_or(0, NodeId::get) }
}

/// A peer and its answer.
fn standing_json(standing: &Standing) -> Value {
    let Standing { peer, answer } = standing;
    json!({
        "node_id": peer.node_id().get(),
        "address": peer.client_address(),
        "own": false,
        "reached": answer.is_ok(),
        "status": answer.as_ref().ok().map(node_json),
        "why": answer.as_ref().err(),
        "last_heard_ms": peer.last_heard_ms(),
    })
}

/// The status under the names of the admin service's schema; hashes in hex.
fn node_json(status: &NodeStatus) -> Value {
    json!({
        "cluster": status.cluster,
        "node_id": status.node_id,
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "ready": status.ready,
        "not_ready_reason": status.not_ready_reason,
        "chains": status.chains.iter().map(chain_json).collect::<Vec<_>>(),
        "alarms": status.alarms,
    })
}

fn chain_json(chain: &ChainStatus) -> Value {
    json!({
        "chain": chain.chain,
        "chain_incarnation": chain.chain_incarnation,
        "state": chain.state,
        "halt_reason": chain.halt_reason,
        "role": chain.role,
        "term": chain.term,
        "leader_id": chain.leader_id,
        "leader_address": chain.leader_address,
        "commit_index": chain.commit_index,
        "applied_index": chain.applied_index,
        "persisted_index": chain.persisted_index,
        "first_index": chain.first_index,
        "last_index": chain.last_index,
        "height": chain.height,
        "tip_hash": hex::encode(&chain.tip_hash),
        "voters": chain.voters,
        "learners": chain.learners,
        "peers": chain.peers.iter().map(peer_json).collect::<Vec<_>>(),
        "leader_changes": chain.leader_changes,
        "transactions": chain.transactions,
        "recent_leader_changes": chain.recent_leader_changes.iter().map(change_json).collect::<Vec<_>>(),
        "sync_time_us": chain.sync_time_us,
    })
}

/// A change of the leader under the names of the admin service's schema.
pub(crate) fn change_json(change: &LeaderChange) -> Value {
    json!({ "at_ms": change.at_ms, "term": change.term, "leader_id": change.leader_id })
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "node_id": peer.node_id,
        "address": peer.address,
        "connected": peer.connected,
        "matched": peer.matched,
        "next": peer.next,
        "progress": peer.progress,
        "last_heard_ms": peer.last_heard_ms,
        "queue_bytes": peer.queue_bytes,
        "dropped_messages": peer.dropped_messages,
    })
}
