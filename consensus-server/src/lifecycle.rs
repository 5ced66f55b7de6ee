//! A node from its first listener to its last answer.
//!
//! Start: listen (a port in use is found out before anything is touched), store, chain, peers, services. Stop:
//! not ready, no new connections or submissions, leadership handed over, what was taken is answered, chain,
//! peers, listeners; in less than five seconds. Nothing here decides anything about a chain.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use consensus_core::ids::ChainId;
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
use crate::chain::{ChainHandle, ChainObserver};
use crate::config::{Config, Listen};
use crate::node::{self, Node, NodeConfig, Wiring};
use crate::ops::{NodeView, http};
use crate::services::{self, AdminService, OrderingService, PeerService};
use crate::telemetry::LogControl;
use crate::telemetry::metrics::{ChainMetrics, Metrics, OrderingMetrics, PeerMetrics, WriterMetrics};
use crate::transport::Links;
use crate::transport::book::Book;
use crate::transport::forward::PeerForwarder;
use crate::transport::handshake::Handshake;
use crate::transport::peer_streams::PeerStreams;

/// The node's part of stopping: leadership, outcomes, the application, the store.
const NODE_STOP_MAX: Duration = Duration::from_millis(4300);
/// Connections get this long to finish once everything is answered.
const CONNECTIONS_STOP_MAX: Duration = Duration::from_millis(400);

/// A node that runs.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    node: Node,
    view: Arc<NodeView>,
    streams: Arc<PeerStreams>,
    forwarder: Arc<PeerForwarder>,
    stopping: watch::Sender<bool>,
    /// Clients' calls end.
    clients: CancellationToken,
    /// Peers' calls and operations end.
    rest: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
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
    peer_metrics: PeerMetrics,
    chain_metrics: Arc<ChainMetrics>,
    writer_metrics: WriterMetrics,
    made: Mutex<Option<Made>>,
}

impl Wiring for GrpcWiring {
    fn links(&self, identity: &Identity, known: &[PeerRecord]) -> Links {
        let book = Arc::new(Book::new(&self.config, known, &self.peer_metrics));
        let address = self.config.own().peer_address.clone();
        let handshake = Arc::new(Handshake::new(identity.clone(), address, book.clone()));
        let streams = Arc::new(PeerStreams::new(&self.config, handshake.clone(), self.peer_metrics.clone()));
        let bytes_max = self.config.limits.message_bytes_max();
        let forwarder = Arc::new(PeerForwarder::new(handshake.clone(), bytes_max));
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
}

impl Server {
    /// Starts a node; it serves when this returns, and is ready when its chain has a leader.
    ///
    /// # Errors
    /// A data directory that cannot be used.
    pub async fn start(config: Config, listeners: Listeners, log: LogControl) -> anyhow::Result<Self> {
        let config = Arc::new(config.listening_on(listeners.addresses()?));
        let metrics = Arc::new(Metrics::new(config.node_id.get()));
        let chain_name = &config.chain.name;
        let wiring = GrpcWiring {
            config: config.clone(),
            peer_metrics: PeerMetrics::new(&metrics, chain_name),
            chain_metrics: Arc::new(ChainMetrics::new(&metrics, chain_name)),
            writer_metrics: WriterMetrics::new(&metrics),
            made: Mutex::default(),
        };
        tracing::info!(node = config.node_id.get(), data = %config.data_dir.display(), "starting");
        let node = Node::start(node_config(&config), &wiring).await?;
        let id = ChainId::derive(chain_name, config.chain.incarnation);
        let (chain, ledger) = node.chain(id).zip(node.ledger(id)).context("the node has started no chain")?;
        let (chain, ledger) = (chain.clone(), ledger.clone());
        let made = wiring.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Made { handshake, streams, forwarder } = made.context("the node has wired no chain")?;
        let mut tasks = streams.start(chain.clone());

        let book = handshake.book().clone();
        let view = Arc::new(NodeView::new(
            config.clone(),
            chain.clone(),
            ledger.clone(),
            book,
            wiring.chain_metrics.clone(),
        ));
        let (clients, rest) = (CancellationToken::new(), CancellationToken::new());
        let (stopping, stop_seen) = watch::channel(false);
        let ordering_metrics = OrderingMetrics::new(&metrics, chain_name);
        tasks.push(tokio::spawn(follow_tip(ledger.clone(), ordering_metrics.clone(), rest.clone())));
        let ordering = OrderingService::new(ledger.clone(), &config, ordering_metrics, clients.clone());
        let admin = AdminService::new(view.clone(), config.clone(), log.clone());
        let (router, reporter) = services::client_router(&config, ordering, admin)?;
        tasks.push(tokio::spawn(services::report_health(
            reporter,
            view.clone(),
            Some(config.chain.name.clone()),
            stop_seen,
        )));
        tasks.push(serve("listen.client", router, listeners.client, clients.clone()));
        let peer =
            PeerService::new(chain, ledger, handshake, &config, wiring.peer_metrics.clone(), rest.clone());
        tasks.push(serve("listen.peer", services::peer_router(&config, peer), listeners.peer, rest.clone()));
        tasks.push(serve_ops(
            listeners.ops,
            http::Ops { view: view.clone(), metrics, log, remote_log_changes: true },
            rest.clone(),
        ));
        let Listen { client, peer, ops } = config.listen;
        tracing::info!(node = config.node_id.get(), %client, %peer, %ops, "serving");
        Ok(Self { config, node, view, streams, forwarder, stopping, clients, rest, tasks })
    }

    /// The configuration with the addresses that are listened on.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The chain.
    pub fn chain(&self) -> &ChainHandle {
        self.view.chain()
    }

    /// Stops in order; within five seconds.
    pub async fn stop(self) {
        let Self { node, view, streams, forwarder, stopping, clients, rest, tasks, .. } = self;
        tracing::info!("stopping");
        view.stop();
        stopping.send_replace(true);
        // No new connections, no new frames; what was taken is still answered while the node stops.
        clients.cancel();
        if tokio::time::timeout(NODE_STOP_MAX, node.stop()).await.is_err() {
            tracing::error!("the node has not stopped within {} ms", NODE_STOP_MAX.as_millis());
        }
        forwarder.stop();
        streams.stop();
        rest.cancel();
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let ends = futures_util::future::join_all(tasks);
        if tokio::time::timeout(CONNECTIONS_STOP_MAX, ends).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        tracing::info!("stopped");
    }
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

fn serve(
    name: &'static str,
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let incoming = services::incoming(listener, name);
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(listener = name, %error, "serving has ended");
        }
    })
}

fn serve_ops(listener: TcpListener, ops: http::Ops, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, ops, stop).await {
            tracing::error!(listener = "listen.ops", %error, "serving has ended");
        }
    })
}

/// Keeps the ledger's gauges.
async fn follow_tip(ledger: LedgerHandle, metrics: OrderingMetrics, stop: CancellationToken) {
    let mut tips = ledger.watch_tip();
    loop {
        let tip = *tips.borrow_and_update();
        metrics.tip(tip.height, tip.transactions);
        match stop.run_until_cancelled(tips.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}
