//! Several whole nodes of one chain in one process, each with a store of its own, and memory between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_server::cita::member::{self, Member};
use consensus_server::config::cita::Reconfigured;
use consensus_server::config::{CitaConfig, Tracing};
use consensus_server::ops::OpsView;
use consensus_server::telemetry::Metrics;
use consensus_server::telemetry::metrics::ExchangeMetrics;
use consensus_server::telemetry::trace;
use consensus_server::transport::cita::{Carrier, Exchange};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::controllers::{Controllers, address};

/// No wait in a story is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often the controllers look at each other.
const SYNC_EVERY: Duration = Duration::from_millis(150);

/// Who can reach whom.
#[derive(Default)]
struct Net {
    state: Mutex<NetState>,
}

#[derive(Default)]
struct NetState {
    ends: BTreeMap<NodeId, Arc<Exchange>>,
    cut: BTreeSet<u64>,
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, NetState> {
        self.state.lock().expect("nothing panics with the lock")
    }

    /// Whoever is reached from here.
    fn ends(&self, from: u64) -> BTreeMap<NodeId, Arc<Exchange>> {
        let state = self.lock();
        if state.cut.contains(&from) {
            return BTreeMap::new();
        }
        let open = |(id, _): &(&NodeId, &Arc<Exchange>)| !state.cut.contains(&id.get());
        state.ends.iter().filter(open).map(|(id, end)| (*id, end.clone())).collect()
    }
}

/// One node's way to the others.
struct Wire {
    net: Arc<Net>,
    id: u64,
}

impl Carrier for Wire {
    fn carry(&self, to: NodeId, _origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        if let Some(end) = self.net.ends(self.id).get(&to) {
            end.receive(self.id, envelope);
        }
        async { Ok(()) }.boxed()
    }

    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        for end in self.net.ends(self.id).values() {
            end.receive(self.id, envelope.clone());
        }
        async { Ok(()) }.boxed()
    }
}

/// A node that runs.
struct Node {
    view: Arc<dyn OpsView>,
    hints: watch::Sender<Option<Reconfigured>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The nodes, their directories and their controllers.
pub(crate) struct Cluster {
    pub(crate) controllers: Arc<Controllers>,
    net: Arc<Net>,
    dir: tempfile::TempDir,
    nodes: Arc<Mutex<BTreeMap<u64, Node>>>,
    syncing: JoinHandle<()>,
    /// Where the nodes' traces go.
    tracing: Option<Tracing>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

impl Cluster {
    /// As many nodes as there are ids, all started.
    pub(crate) fn start(ids: &[u64], validators: &[u64], interval: Duration) -> Self {
        Self::start_as(ids, validators, interval, None)
    }

    /// As many validators as there are ids, which send their traces somewhere.
    pub(crate) fn traced(ids: &[u64], interval: Duration, tracing: Tracing) -> Self {
        Self::start_as(ids, ids, interval, Some(tracing))
    }

    fn start_as(ids: &[u64], validators: &[u64], interval: Duration, tracing: Option<Tracing>) -> Self {
        let controllers = Controllers::new(ids, validators, interval);
        let nodes: Arc<Mutex<BTreeMap<u64, Node>>> = Arc::default();
        let syncing = tokio::spawn(sync(controllers.clone(), nodes.clone()));
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Self { controllers, net: Arc::default(), dir, nodes, syncing, tracing };
        ids.iter().for_each(|id| cluster.run(*id));
        cluster
    }

    /// Four validators.
    pub(crate) fn four(interval: Duration) -> Self {
        Self::start(&[1, 2, 3, 4], &[1, 2, 3, 4], interval)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Node>> {
        self.nodes.lock().expect("nothing panics with the lock")
    }

    fn home(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn config(&self, id: u64) -> Arc<CitaConfig> {
        let home = self.home(id);
        std::fs::create_dir_all(&home).expect("can be made");
        std::fs::write(home.join("node_address"), hex::encode(address(id))).expect("can be written");
        let text = format!(
            "[consensus_raft]\nnode_addr = \"node_address\"\nraft_data_path = \"{}\"\n\
             tick_interval_in_millis = 50\nheartbeat_tick = 3\nelection_tick = 10\n\
             snapshot_every_entries = 128\n",
            home.join("raft-data-dir").display()
        );
        Arc::new(CitaConfig::parse(&text, "config.toml", &home).expect("valid"))
    }

    /// Starts a node that does not run.
    pub(crate) fn run(&self, id: u64) {
        let (config, metrics) = (self.config(id), Arc::new(Metrics::new(id)));
        let carrier = Arc::new(Wire { net: self.net.clone(), id });
        let exchange_metrics = ExchangeMetrics::new(&metrics, "cita");
        let (exchange, letters) = member::exchange(&config, &exchange_metrics, carrier);
        let (hints, hinted) = watch::channel(None);
        let stop = CancellationToken::new();
        // What carries the spans ends with the node.
        let (tracer, _) = trace::start_if_wanted(self.tracing.as_ref(), &id.to_string(), &metrics)
            .expect("the endpoint is one");
        let member = Member {
            config,
            controller: self.controllers.of(id),
            exchange: exchange.clone(),
            letters,
            hints: hinted,
            metrics,
            tracer,
            stop: stop.clone(),
        };
        let (life, view) = member.start();
        self.net.lock().ends.insert(NodeId::new(id).expect("not 0"), exchange);
        self.lock().insert(id, Node { view, hints, stop, task: tokio::spawn(life) });
    }

    /// Stops a node; its controller goes on.
    pub(crate) async fn stop(&self, id: u64) {
        let node = self.lock().remove(&id).expect("runs");
        node.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, node.task).await.expect("stops in time");
        ended.expect("no panic").expect("nothing was wrong");
        let end = self.net.lock().ends.remove(&NodeId::new(id).expect("not 0"));
        end.expect("was there").stop();
    }

    /// Takes away the consensus state of a node that does not run.
    pub(crate) fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.home(id).join("raft-data-dir")).expect("was there");
    }

    /// Nothing reaches this node or leaves it, but its controller.
    pub(crate) fn cut(&self, id: u64) {
        self.net.lock().cut.insert(id);
    }

    /// It is reachable again.
    pub(crate) fn heal(&self, id: u64) {
        self.net.lock().cut.remove(&id);
    }

    /// What a running node says of itself.
    pub(crate) fn status(&self, id: u64) -> Value {
        let view = self.lock().get(&id).map(|node| node.view.clone());
        view.map_or(Value::Null, |view| view.status_json())
    }

    /// Why a node makes no blocks, as its operator reads it.
    pub(crate) fn trouble(&self, id: u64) -> String {
        self.status(id)["controller"]["trouble"].as_str().unwrap_or_default().to_owned()
    }

    /// The one that leads the most recent term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let ids: Vec<u64> = self.lock().keys().copied().collect();
        let terms = ids.into_iter().filter_map(|id| {
            let status = self.status(id);
            let chain = &status["chains"][0];
            (chain["role"] == "leader").then(|| (chain["term"].as_u64(), id))
        });
        terms.max().map(|(_, id)| id)
    }

    /// The highest term that any node is in.
    pub(crate) fn term(&self) -> u64 {
        let ids: Vec<u64> = self.lock().keys().copied().collect();
        ids.into_iter().filter_map(|id| self.status(id)["chains"][0]["term"].as_u64()).max().unwrap_or(0)
    }

    /// The group's voters as a node has them.
    pub(crate) fn voters(&self, id: u64) -> Vec<u64> {
        let status = self.status(id);
        let voters = status["chains"][0]["voters"].as_array().cloned().unwrap_or_default();
        voters.iter().filter_map(Value::as_u64).collect()
    }

    /// The group that a node is in.
    pub(crate) fn group(&self, id: u64) -> String {
        self.status(id)["chains"][0]["group"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for `condition` as long as it may take; tells what there is if it is in vain.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > PATIENCE {
                let ids: Vec<u64> = self.lock().keys().copied().collect();
                let all: Vec<String> = ids.into_iter().map(|id| format!("{:#}", self.status(id))).collect();
                panic!("waited in vain: {what}\n{}", all.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        start.elapsed()
    }

    /// Waits until these controllers have this many blocks more than the highest has now.
    pub(crate) async fn grow(&self, ids: &[u64], blocks: u64) -> Duration {
        let goal = self.controllers.top() + blocks;
        self.until(&format!("height {goal} on {ids:?}"), || {
            ids.iter().all(|id| self.controllers.height(*id) >= goal)
        })
        .await
    }

    /// Ends the story: nothing that must not be has been.
    pub(crate) async fn end(self) {
        let ids: Vec<u64> = self.lock().keys().copied().collect();
        futures_util::future::join_all(ids.into_iter().map(|id| self.stop(id))).await;
        self.controllers.assert_sound();
    }
}

/// The controllers' own sync, which tells consensus what it has brought.
async fn sync(controllers: Arc<Controllers>, nodes: Arc<Mutex<BTreeMap<u64, Node>>>) {
    let mut looks = tokio::time::interval(SYNC_EVERY);
    loop {
        looks.tick().await;
        for id in controllers.sync() {
            let height = controllers.height(id);
            let told = Reconfigured { height, block_interval: Duration::ZERO, validators: Vec::new() };
            if let Some(node) = nodes.lock().expect("nothing panics with the lock").get(&id) {
                node.hints.send_replace(Some(told));
            }
        }
    }
}
