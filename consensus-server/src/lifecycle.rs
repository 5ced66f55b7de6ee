//! A node from its first listener to its last answer.
//!
//! Start: listen (a port in use is found out before anything is touched), certificates, store, chain, peers,
//! services. Stop: not ready, no new connections or submissions, leadership handed over, what was taken is
//! answered, chain, peers, listeners; in less than five seconds. Nothing here decides anything about a chain.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use consensus_core::ids::{ChainId, Hash};
use consensus_core::ledger::CutterConfig;
use consensus_core::replica::ReplicaConfig;
use consensus_core::storage::group_commit::RoundReport;
use consensus_core::storage::rocks::RocksOptions;
use consensus_core::storage::{Identity, PeerRecord};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use crate::application::ledger::{LedgerHandle, LedgerOptions};
use crate::audit::AuditLog;
use crate::chain::{ChainHandle, ChainObserver};
use crate::clients::Clients;
use crate::config::{Config, Listen};
use crate::node::{self, Node, NodeConfig, Wiring};
use crate::ops::{NodeView, http};
use crate::security::acceptor::Acceptor;
use crate::security::dialer::Dialer;
use crate::security::refusals::Place;
use crate::security::{self, Security};
use crate::services::{self, AdminService, OrderingService, PeerService};
use crate::telemetry::LogControl;
use crate::telemetry::metrics::{
    ChainMetrics, Metrics, OrderingMetrics, PeerMetrics, StoreMetrics, WriterMetrics,
};
use crate::telemetry::trace::{self, Exporter};
use crate::transport::Links;
use crate::transport::book::Book;
use crate::transport::forward::PeerForwarder;
use crate::transport::handshake::Handshake;
use crate::transport::peer_streams::PeerStreams;
use crate::transport::survey::Survey;

/// The node's part of stopping: leadership, outcomes, the application, the store.
const NODE_STOP_MAX: Duration = Duration::from_millis(4300);
/// How often the queues of a ledger are looked at that has no new block.
const QUEUES_EVERY: Duration = Duration::from_secs(1);
/// Connections get this long to finish once everything is answered.
const CONNECTIONS_STOP_MAX: Duration = Duration::from_millis(400);

/// A node that runs.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    node: Node,
    view: Arc<NodeView>,
    audit: AuditLog,
    streams: Arc<PeerStreams>,
    forwarder: Arc<PeerForwarder>,
    security: Arc<Security>,
    stops: Stops,
    tasks: Vec<JoinHandle<()>>,
    /// Carries spans to the collector, if there is one.
    exporter: Option<Exporter>,
}

/// What ends when.
#[derive(Debug)]
struct Stops {
    stopping: watch::Sender<bool>,
    /// Clients' calls end.
    clients: CancellationToken,
    /// Peers' calls and operations end.
    rest: CancellationToken,
}

/// The three listeners, bound before anything else is touched.
#[derive(Debug)]
pub struct Listeners {
    client: TcpListener,
    peer: TcpListener,
    ops: TcpListener,
}

impl Listeners {
    /// Listens on all three addresses; nothing is accepted yet.
    ///
    /// # Errors
    /// The first address that cannot be listened on, with its key.
    pub async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        Ok(Self {
            client: bind("listen.client", listen.client).await?,
            peer: bind("listen.peer", listen.peer).await?,
            ops: bind("listen.ops", listen.ops).await?,
        })
    }

    /// The addresses, with the ports that the system gave.
    ///
    /// # Errors
    /// The system's.
    pub fn addresses(&self) -> std::io::Result<Listen> {
        Ok(Listen {
            client: self.client.local_addr()?,
            peer: self.peer.local_addr()?,
            ops: self.ops.local_addr()?,
        })
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!("{key} {address} is in use"),
        Err(error) => Err(error).with_context(|| format!("{key} {address} cannot be listened on")),
    }
}

/// What a chain is wired to, made when the node asks for it.
struct Made {
    handshake: Arc<Handshake>,
    streams: Arc<PeerStreams>,
    forwarder: Arc<PeerForwarder>,
}

/// Connects the chain with its peers over gRPC and with the metrics.
struct GrpcWiring {
    config: Arc<Config>,
    dialer: Dialer,
    peer_metrics: PeerMetrics,
    chain_metrics: Arc<ChainMetrics>,
    writer_metrics: WriterMetrics,
    store_metrics: StoreMetrics,
    made: Mutex<Option<Made>>,
}

impl GrpcWiring {
    fn new(config: Arc<Config>, dialer: Dialer, metrics: &Metrics, tracer: &trace::Tracer) -> Self {
        let chain_name = &config.chain.name;
        Self {
            dialer,
            peer_metrics: PeerMetrics::new(metrics, chain_name),
            chain_metrics: Arc::new(ChainMetrics::new(metrics, chain_name).tracing(tracer)),
            writer_metrics: WriterMetrics::new(metrics),
            store_metrics: StoreMetrics::new(metrics),
            made: Mutex::default(),
            config,
        }
    }
}

impl Wiring for GrpcWiring {
    fn links(&self, identity: &Identity, known: &[PeerRecord]) -> Links {
        let book = Arc::new(Book::new(&self.config, known, &self.peer_metrics));
        let address = self.config.own().peer_address.clone();
        let handshake = Arc::new(Handshake::new(identity.clone(), address, book.clone()));
        let (dialer, metrics) = (self.dialer.clone(), self.peer_metrics.clone());
        let streams = Arc::new(PeerStreams::new(&self.config, handshake.clone(), dialer.clone(), metrics));
        let bytes_max = self.config.limits.message_bytes_max();
        let forwarder = Arc::new(PeerForwarder::new(handshake.clone(), dialer, bytes_max));
        let links = Links { transport: streams.clone(), forwarder: forwarder.clone(), peers: book };
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Made { handshake, streams, forwarder });
        links
    }

    fn observer(&self, _identity: &Identity) -> Arc<dyn ChainObserver> {
        self.chain_metrics.clone()
    }

    fn on_write(&self) -> Box<dyn Fn(&RoundReport) + Send> {
        let metrics = self.writer_metrics.clone();
        Box::new(move |round| metrics.wrote(round))
    }

    fn store_metrics(&self) -> Option<StoreMetrics> {
        Some(self.store_metrics.clone())
    }
}

impl Server {
    /// Starts a node; it serves when this returns, and is ready when its chain has a leader.
    ///
    /// # Errors
    /// Certificates or a data directory that cannot be used.
    pub async fn start(config: Config, listeners: Listeners, log: LogControl) -> anyhow::Result<Self> {
        let config = Arc::new(config.listening_on(listeners.addresses()?));
        let metrics = Arc::new(Metrics::new(config.node_id.get()));
        metrics.memory_bound(config.memory_bytes_max());
        metrics.configured(config.digest);
        metrics.watch_log(log.clone());
        metrics.watch_runtime();
        let security = Arc::new(Security::new(&config, &metrics)?);
        let chain_name = &config.chain.name;
        let name = config.node_id.to_string();
        let (tracer, exporter) = trace::start_if_wanted(config.tracing.as_ref(), &name, &metrics)?;
        let wiring = GrpcWiring::new(config.clone(), security.dialer(), &metrics, &tracer);
        tracing::info!(node = config.node_id.get(), data = %config.data_dir.display(), "starting");
        security::data_dir(&config.data_dir)
            .with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
        let node = Node::start(node_config(&config), &wiring).await?;
        let id = ChainId::derive(chain_name, config.chain.incarnation);
        let (chain, ledger) = node.chain(id).zip(node.ledger(id)).context("the node has started no chain")?;
        let (chain, ledger) = (chain.clone(), ledger.clone());
        let made = wiring.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        let audit = AuditLog::new(&config.data_dir);
        audit.note("start", &started(config.digest)).await;
        let Made { handshake, streams, forwarder } = made.context("the node has wired no chain")?;
        let mut tasks = streams.start(chain.clone());

        let book = handshake.book().clone();
        let view = Arc::new(NodeView::new(
            config.clone(),
            chain.clone(),
            ledger.clone(),
            book,
            wiring.chain_metrics.clone(),
            Survey::new(handshake.clone(), security.dialer()),
            security.clone(),
        ));
        let (clients, rest) = (CancellationToken::new(), CancellationToken::new());
        let (stopping, stop_seen) = watch::channel(false);
        let ordering_metrics = OrderingMetrics::new(&metrics, chain_name);
        tasks.push(tokio::spawn(follow_ledger(ledger.clone(), ordering_metrics.clone(), rest.clone())));
        let ordering = OrderingService::new(ledger.clone(), &config, ordering_metrics, clients.clone());
        let admin = AdminService::new(view.clone(), config.clone(), log.clone(), audit.clone());
        let (router, reporter) = services::client_router(&config, ordering, admin, security.refusals())?;
        tasks.push(tokio::spawn(services::report_health(
            reporter,
            view.clone(),
            Some(config.chain.name.clone()),
            stop_seen,
        )));
        let counted = Some(Clients::new(&config.clients, &metrics));
        let acceptor = security.acceptor(Place::Client, listeners.client, counted)?;
        tasks.push(serve("listen.client", router, acceptor, clients.clone()));
        let peer = PeerService::new(
            ledger,
            view.clone(),
            handshake,
            &config,
            wiring.peer_metrics.clone(),
            rest.clone(),
        );
        let acceptor = security.acceptor(Place::Peer, listeners.peer, None)?;
        tasks.push(serve("listen.peer", services::peer_router(&config, peer), acceptor, rest.clone()));
        let refusals = Some(security.refusals().clone());
        let served = http::Ops { view: view.clone(), metrics, log, audit: audit.clone(), refusals };
        tasks.push(serve_ops(security.acceptor(Place::Ops, listeners.ops, None)?, served, rest.clone()));
        tasks.extend(security.keep(audit.clone(), rest.clone()));
        let Listen { client, peer, ops } = config.listen;
        tracing::info!(node = config.node_id.get(), %client, %peer, %ops, "serving");
        let stops = Stops { stopping, clients, rest };
        Ok(Self { config, node, view, audit, streams, forwarder, security, stops, tasks, exporter })
    }

    /// The configuration with the addresses that are listened on.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The chain.
    pub fn chain(&self) -> &ChainHandle {
        self.view.chain()
    }

    /// Looks at the certificate files at once, without waiting for the next look.
    pub fn reload(&self) {
        self.security.reload();
    }

    /// Stops in order; within five seconds.
    pub async fn stop(self) {
        let Self { node, view, audit, streams, forwarder, stops, tasks, exporter, .. } = self;
        let Stops { stopping, clients, rest } = stops;
        tracing::info!("stopping");
        view.stop();
        stopping.send_replace(true);
        // No new connections, no new frames; what was taken is still answered while the node stops.
        clients.cancel();
        if tokio::time::timeout(NODE_STOP_MAX, node.stop()).await.is_err() {
            let bound_ms = NODE_STOP_MAX.as_millis() as u64;
            tracing::error!(bound_ms, "the node has not stopped in time");
        }
        forwarder.stop();
        streams.stop();
        rest.cancel();
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let ends = tokio::time::timeout(CONNECTIONS_STOP_MAX, futures_util::future::join_all(tasks));
        if tokio::join!(ends, trace::stop(exporter)).0.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        audit.note("stop", &[]).await;
        tracing::info!("stopped");
    }
}

/// What is written down when a node starts.
pub(crate) fn started(configuration: Hash) -> [(&'static str, String); 2] {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    [("version", version), ("configuration", format!("sha256:{configuration}"))]
}

/// The node's part of the configuration.
fn node_config(config: &Config) -> NodeConfig {
    let raft = &config.raft;
    let replica = ReplicaConfig {
        heartbeat_ticks: raft.heartbeat_ticks,
        election_ticks: raft.election_ticks,
        election_ticks_min: raft.election_ticks_min,
        election_ticks_max: raft.election_ticks_max,
        limits: config.limits.clone(),
        ..ReplicaConfig::default()
    };
    let mut ledger = LedgerOptions {
        queue_transactions_max: config.queues.pool_transactions_max,
        queue_bytes_max: config.queues.pool_bytes_max,
        submit_timeout: config.submit_deadline,
        ..LedgerOptions::default()
    };
    ledger.pipeline.cutter = CutterConfig {
        messages_max: config.block.messages_max as u32,
        preferred_bytes: config.block.preferred_bytes,
        absolute_bytes: config.block.absolute_bytes,
        timeout_ms: config.block.timeout.as_millis() as u64,
    };
    ledger.pipeline.transactions_max = config.queues.pool_transactions_max as u64;
    ledger.pipeline.bytes_max = config.queues.pool_bytes_max;
    let chain = node::ChainConfig {
        name: config.chain.name.clone(),
        incarnation: config.chain.incarnation,
        voters: config.members.iter().map(|member| member.node_id).collect(),
        replica,
        tick: raft.tick,
        ledger,
    };
    NodeConfig {
        node_id: config.node_id,
        cluster: config.cluster.clone(),
        data_dir: config.data_dir.clone(),
        store: RocksOptions::default(),
        chains: vec![chain],
    }
}

fn serve(name: &'static str, router: Router, acceptor: Acceptor, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let incoming = services::accepted(acceptor);
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(listener = name, %error, "serving has ended");
        }
    })
}

fn serve_ops(acceptor: Acceptor, ops: http::Ops, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = http::serve(acceptor, ops, stop).await {
            tracing::error!(listener = "listen.ops", %error, "serving has ended");
        }
    })
}

/// Keeps the ledger's gauges: its tip as it changes, its queues also while it stands still.
async fn follow_ledger(ledger: LedgerHandle, metrics: OrderingMetrics, stop: CancellationToken) {
    let mut tips = ledger.watch_tip();
    loop {
        let tip = *tips.borrow_and_update();
        metrics.tip(tip.height, tip.transactions);
        metrics.waiting(ledger.queued(), ledger.in_pipeline(), ledger.forwarded());
        match stop.run_until_cancelled(tokio::time::timeout(QUEUES_EVERY, tips.changed())).await {
            Some(Ok(Ok(())) | Err(_)) => {}
            Some(Ok(Err(_))) | None => return,
        }
    }
}
