//! The state of a CITA-Cloud node's consensus service, for whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerProgress, Role, Status};
use consensus_proto::admin::{self, ChainStatus, LeaderChange, NodeStatus, PeerStatus};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};

use super::group::{CHAIN, CLUSTER};
use crate::application::controller::{Command, Configuration, ControllerStatus};
use crate::chain::ChainHandle;
use crate::config::cita::address::Short;
use crate::ops::health::{Check, Checks, liveness, readiness};
use crate::ops::{OpsView, change_json, change_record};
use crate::telemetry::metrics::ChainMetrics;
use crate::telemetry::{Told, unix_time_ms};
use crate::transport::PeerLink;
use crate::transport::cita::{Exchange, GroupId};

/// A learner's leader counts for this long after it was heard.
const LEADER_HEARD_MS: u64 = 3000;

/// What the node is doing.
#[derive(Debug, Default)]
struct Place {
    group: Option<GroupId>,
    chain: Option<ChainHandle>,
    commands: Option<mpsc::Sender<Command>>,
    /// Why there is no seat, or no leader.
    waits: Option<String>,
    told: Told,
}

/// Looks at a running service.
#[derive(Debug)]
pub(super) struct CitaView {
    own: NodeId,
    address: String,
    exchange: Arc<Exchange>,
    metrics: Arc<ChainMetrics>,
    controller: watch::Sender<ControllerStatus>,
    place: Mutex<Place>,
    started: Instant,
    stopping: AtomicBool,
}

impl CitaView {
    pub(super) fn new(
        own: NodeId,
        address: String,
        exchange: Arc<Exchange>,
        metrics: Arc<ChainMetrics>,
    ) -> Self {
        Self {
            own,
            address,
            exchange,
            metrics,
            controller: watch::Sender::new(ControllerStatus::default()),
            place: Mutex::default(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // Nothing panics while the lock is held.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no seat; why, is logged.
    pub(super) fn looking(&self, why: String) {
        self.waits(Some(why));
    }

    /// Something is waited for, or nothing any more.
    pub(super) fn waits(&self, why: Option<String>) {
        let mut place = self.place();
        match &why {
            Some(why) if place.told.is_due(why, Instant::now()) => tracing::info!(why, "waiting"),
            Some(_) => {}
            None => place.told = Told::default(),
        }
        place.waits = why;
    }

    pub(super) fn seated(&self, group: GroupId, chain: ChainHandle, commands: mpsc::Sender<Command>) {
        let (chain, commands) = (Some(chain), Some(commands));
        *self.place() = Place { group: Some(group), chain, commands, waits: None, told: Told::default() };
    }

    pub(super) fn unseated(&self) {
        *self.place() = Place::default();
    }

    /// From now on the service is not ready.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Where the application tells its state.
    pub(super) fn controller(&self) -> watch::Sender<ControllerStatus> {
        self.controller.clone()
    }

    pub(super) fn controller_status(&self) -> ControllerStatus {
        self.controller.borrow().clone()
    }

    /// The controller was heard while there is no seat.
    pub(super) fn controller_at(&self, configuration: &Configuration) {
        self.controller.send_modify(|status| {
            status.height = Some(configuration.height);
            status.healthy = true;
            status.block_interval_ms = configuration.block_interval.as_millis() as u64;
            status.validators = configuration.validators.iter().map(hex::encode).collect();
        });
    }

    /// The controller cannot be relied on, and there is no seat.
    pub(super) fn controller_lost(&self, why: String) {
        self.controller.send_modify(|status| status.healthy = false);
        self.looking(why);
    }

    /// The chain that this node has a seat in, and where its application takes decisions.
    pub(super) fn seat(&self) -> Option<(ChainHandle, mpsc::Sender<Command>)> {
        let place = self.place();
        Some((place.chain.clone()?, place.commands.clone()?))
    }

    /// What there is to say to whoever needs a seat.
    pub(super) fn no_seat(&self) -> String {
        let why = self.place().waits.clone().unwrap_or_else(|| "starting".to_owned());
        format!("this node has no seat in the chain's group: {why}")
    }

    /// Everything that the admin service tells.
    pub(super) fn node_status(&self) -> NodeStatus {
        let readiness = self.readiness();
        NodeStatus {
            cluster: CLUSTER.to_owned(),
            node_id: self.own.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            ready: readiness.is_ok(),
            not_ready_reason: readiness.failures(),
            chains: self.seat().iter().map(|(chain, _)| self.chain_status(chain)).collect(),
            validator: hex::decode(&self.address).unwrap_or_default().into(),
            waits: self.place().waits.clone().unwrap_or_default(),
            controller: Some(controller_record(&self.controller.borrow())),
            alarms: Vec::new(),
        }
    }

    fn chain_status(&self, chain: &ChainHandle) -> ChainStatus {
        let status = chain.status();
        ChainStatus {
            chain: CHAIN.to_owned(),
            chain_incarnation: chain.identity().chain_incarnation,
            state: if status.halted.is_some() { "halted" } else { "running" }.to_owned(),
            halt_reason: status.halted.clone().unwrap_or_default(),
            role: self.role(&status).to_owned(),
            term: status.term,
            leader_id: self.leader_of(&status).map_or(0, NodeId::get),
            commit_index: status.commit,
            applied_index: status.applied,
            persisted_index: status.persisted,
            first_index: status.first,
            last_index: status.last,
            height: self.controller.borrow().height.unwrap_or(0),
            voters: status.voters.clone(),
            learners: status.learners.clone(),
            peers: self.exchange.peers().into_iter().map(|link| peer_status(link, &status)).collect(),
            leader_changes: self.metrics.leader_changes(),
            recent_leader_changes: self.changes(),
            sync_time_us: self.metrics.sync_time_us(),
            // Blocks and their transactions are the controller's.
            leader_address: String::new(),
            tip_hash: Bytes::new(),
            transactions: 0,
        }
    }

    fn role(&self, status: &Status) -> &'static str {
        let learner = status.learners.contains(&self.own.get());
        if learner && status.role == Role::Follower { "learner" } else { status.role.as_str() }
    }

    fn status(&self) -> Option<(Option<GroupId>, Arc<Status>)> {
        let place = self.place();
        place.chain.as_ref().map(|chain| (place.group, chain.status()))
    }

    /// Who leads. A learner never loses its leader by itself, so it counts only while it is heard.
    pub(super) fn leader_of(&self, status: &Status) -> Option<NodeId> {
        let leader = status.leader?;
        let learner = status.learners.contains(&self.own.get());
        let heard_ms = self.exchange.last_heard_ms(leader);
        let lately = unix_time_ms().saturating_sub(heard_ms) <= LEADER_HEARD_MS;
        (!learner || lately).then_some(leader)
    }

    fn is_validator(&self) -> bool {
        let status = self.controller.borrow();
        status.validators.is_empty() || status.validators.contains(&self.address)
    }
}

impl OpsView for CitaView {
    fn liveness(&self) -> Checks {
        match self.status() {
            Some((_, status)) => liveness(&status, self.metrics.stalled()),
            None => Checks(vec![Check { name: "service", ok: true, found: "runs".to_owned() }]),
        }
    }

    fn readiness(&self) -> Checks {
        let stopping = self.stopping.load(Ordering::Relaxed);
        let controller = self.controller_status();
        let mut checks = match self.status() {
            Some((_, status)) => readiness(&status, stopping).0,
            None => {
                let why = self.place().waits.clone().unwrap_or_else(|| "starting".to_owned());
                vec![Check { name: "seat", ok: !self.is_validator() && !stopping, found: why }]
            }
        };
        let found = match controller.height {
            None => "not heard yet".to_owned(),
            Some(height) if controller.healthy => format!("at height {height}"),
            Some(height) => format!("does not answer, was at height {height}"),
        };
        checks.push(Check { name: "controller", ok: controller.healthy, found });
        if let Some(trouble) = controller.trouble.filter(|_| controller.healthy) {
            checks.push(Check { name: "blocks", ok: false, found: trouble });
        }
        Checks(checks)
    }

    fn status_json(&self) -> Value {
        let readiness = self.readiness();
        let chains: Vec<Value> =
            self.status().iter().map(|(group, status)| self.chain_json(*group, status)).collect();
        json!({
            "cluster": CLUSTER,
            "node_id": self.own,
            "address": self.address,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "ready": readiness.is_ok(),
            "not_ready_reason": readiness.failures(),
            "waits": self.place().waits,
            "controller": self.controller_status(),
            "chains": chains,
        })
    }

    /// The others are not asked: the network carries what the protocol needs. What is known of them is shown.
    fn cluster_json(&self) -> BoxFuture<'_, Value> {
        let own = json!({
            "node_id": self.own,
            "address": self.address,
            "own": true,
            "reached": true,
            "status": self.status_json(),
        });
        let known = |link: PeerLink| {
            json!({
                "node_id": link.node_id,
                "address": link.address,
                "own": false,
                "reached": false,
                "unasked": true,
                "connected": link.connected,
                "last_heard_ms": link.last_heard_ms,
            })
        };
        let nodes: Vec<Value> =
            std::iter::once(own).chain(self.exchange.peers().into_iter().map(known)).collect();
        let mut cluster = json!({
            "cluster": CLUSTER,
            "asked": self.own,
            "now_ms": unix_time_ms(),
            "nodes": nodes,
        });
        write_ids(&mut cluster);
        Box::pin(std::future::ready(cluster))
    }
}

impl CitaView {
    fn chain_json(&self, group: Option<GroupId>, status: &Status) -> Value {
        let progress = |id: NodeId| status.peers.iter().find(|peer| peer.node_id == id);
        let peers: Vec<Value> = self
            .exchange
            .peers()
            .into_iter()
            .map(|link| {
                let progress: Option<&PeerProgress> = progress(link.node_id);
                json!({
                    "node_id": link.node_id,
                    "address": link.address,
                    "connected": link.connected,
                    "last_heard_ms": link.last_heard_ms,
                    "matched": progress.map_or(0, |peer| peer.matched),
                    "next": progress.map_or(0, |peer| peer.next),
                    "progress": progress.map_or("", |peer| peer.state),
                })
            })
            .collect();
        json!({
            "chain": CHAIN,
            "group": group.map(|group| group.to_string()),
            "state": if status.halted.is_some() { "halted" } else { "running" },
            "halt_reason": status.halted.clone().unwrap_or_default(),
            "role": self.role(status),
            "term": status.term,
            "leader_id": self.leader_of(status).map_or(0, NodeId::get),
            "commit_index": status.commit,
            "applied_index": status.applied,
            "persisted_index": status.persisted,
            "first_index": status.first,
            "last_index": status.last,
            "height": self.controller.borrow().height.unwrap_or(0),
            "voters": status.voters,
            "learners": status.learners,
            "peers": peers,
            "leader_changes": self.metrics.leader_changes(),
            "recent_leader_changes": self.changes().iter().map(change_json).collect::<Vec<_>>(),
            "sync_time_us": self.metrics.sync_time_us(),
        })
    }

    fn changes(&self) -> Vec<LeaderChange> {
        self.metrics.recent_leader_changes().into_iter().map(change_record).collect()
    }
}

/// Node ids in what the page is told, as everybody writes them: a browser does not keep 64 bits of a number.
fn write_ids(value: &mut Value) {
    let written = |id: &mut Value| {
        if let Some(node) = id.as_u64().and_then(NodeId::new) {
            *id = Value::String(Short(node).to_string());
        }
    };
    match value {
        Value::Array(list) => list.iter_mut().for_each(write_ids),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), &mut *value) {
                    ("node_id" | "leader_id" | "asked", id) => written(id),
                    ("voters" | "learners", Value::Array(ids)) => ids.iter_mut().for_each(written),
                    (_, value) => write_ids(value),
                }
            }
        }
        _ => {}
    }
}

fn peer_status(link: PeerLink, status: &Status) -> PeerStatus {
    let progress = status.peers.iter().find(|peer| peer.node_id == link.node_id);
    PeerStatus {
        node_id: link.node_id.get(),
        address: link.address,
        connected: link.connected,
        matched: progress.map_or(0, |peer| peer.matched),
        next: progress.map_or(0, |peer| peer.next),
        progress: progress.map(|peer| peer.state.to_owned()).unwrap_or_default(),
        last_heard_ms: link.last_heard_ms,
        ..PeerStatus::default()
    }
}

fn controller_record(status: &ControllerStatus) -> admin::ControllerStatus {
    let address = |address: &String| hex::decode(address).unwrap_or_default().into();
    admin::ControllerStatus {
        height: status.height,
        agreed_height: status.agreed_height,
        healthy: status.healthy,
        block_interval_ms: status.block_interval_ms,
        validators: status.validators.iter().map(address).collect(),
        trouble: status.trouble.clone().unwrap_or_default(),
    }
}
