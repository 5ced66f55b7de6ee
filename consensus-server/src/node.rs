//! The chains of this process: opened from one store, found by their id, stopped in order.
//!
//! A node owns the data directory (nobody else may have it open), the writer's thread, and for each chain
//! its driver and its ledger. What connects a chain with the world is handed in by [`Wiring`], so a node
//! runs the same over gRPC, over another network or in a test.
//!
//! What it does not do: listen, serve, read configuration files or handle signals.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use consensus_core::ids::{ChainId, Hash, NodeId, StoreIncarnation};
use consensus_core::ledger::genesis_hash;
use consensus_core::replica::{OpenError, ReplicaConfig, Role};
use consensus_core::storage::group_commit::{GroupCommitLimits, RoundReport};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{self, ConfState, Identity, LogReader, LogWriter, PeerRecord};
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::application::ledger::{self, LedgerError, LedgerHandle, LedgerOptions};
use crate::chain::{self, ChainHandle, ChainObserver, ChainStart, ChainWriter, NodeWriter, RunningChain};
use crate::peer_records::{self, PeerRecorder};
use crate::store_watch::StoreWatch;
use crate::telemetry::metrics::StoreMetrics;
use crate::telemetry::unix_time_ms;
use crate::transport::Links;

/// How long a stopping leader waits for another to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a stopping node waits for the outcomes of what was submitted.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a stopping chain waits for its application.
const APPLICATION_PATIENCE: Duration = Duration::from_secs(1);
/// Batches in the writer's queue beside the replicas' rounds.
const SPARE_BATCHES: usize = 1024;

/// What a node is started from.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub node_id: NodeId,
    /// Name of the cluster.
    pub cluster: String,
    /// The data directory; created if it is missing.
    pub data_dir: PathBuf,
    /// The storage engine.
    pub store: RocksOptions,
    /// The chains.
    pub chains: Vec<ChainConfig>,
}

/// One chain of a node.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Its name.
    pub name: String,
    /// Distinguishes it from earlier chains of its name.
    pub incarnation: u64,
    /// Its first voters, equal on all nodes and for the chain's whole life.
    pub voters: Vec<NodeId>,
    /// How the replica behaves. A seed of 0 is replaced by a random one.
    pub replica: ReplicaConfig,
    /// Length of a tick.
    pub tick: Duration,
    /// How the ledger behaves. Hash seeds of 0 are replaced by random ones.
    pub ledger: LedgerOptions,
}

impl ChainConfig {
    /// The chain as keys and messages name it.
    pub fn id(&self) -> ChainId {
        ChainId::derive(&self.name, self.incarnation)
    }
}

/// What a node needs for each of its chains from whoever puts it together.
pub trait Wiring {
    /// What connects the chain with its peers, of which `known` was written down before this start; it will be
    /// given the chain's handle later.
    fn links(&self, identity: &Identity, known: &[PeerRecord]) -> Links;

    /// Who listens to the chain.
    fn observer(&self, identity: &Identity) -> Arc<dyn ChainObserver>;

    /// Who listens to the writer, on its own thread; must not block.
    fn on_write(&self) -> Box<dyn Fn(&RoundReport) + Send> {
        Box::new(|_| {})
    }

    /// Where is told how the store stands, if anybody wants to know.
    fn store_metrics(&self) -> Option<StoreMetrics> {
        None
    }
}

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A chain's replica.
    #[error("chain {chain}: {cause}")]
    Replica {
        /// The chain's name.
        chain: String,
        /// Why.
        cause: OpenError,
    },
    /// A chain's ledger.
    #[error("chain {chain}: {cause}")]
    Ledger {
        /// The chain's name.
        chain: String,
        /// Why.
        cause: LedgerError,
    },
    /// This node is neither a first voter nor has it ever been a member.
    #[error("chain {chain}: node {node} is not among its first voters {voters:?}")]
    NoVoter {
        /// The chain's name.
        chain: String,
        /// This node.
        node: NodeId,
        /// The first voters.
        voters: Vec<NodeId>,
    },
    /// The configuration has it twice.
    #[error("chain {chain} is configured twice")]
    Twice {
        /// The chain's name.
        chain: String,
    },
    /// The writer's thread.
    #[error("starting the writer: {0}")]
    Writer(#[from] io::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    chains: BTreeMap<ChainId, NodeChain>,
    store: Arc<RocksStore>,
    writer: Arc<NodeWriter>,
    recorder: JoinHandle<()>,
    watch: Option<StoreWatch>,
}

/// A running chain of a node.
#[derive(Debug)]
struct NodeChain {
    running: RunningChain,
    ledger: LedgerHandle,
    links: Links,
    writer: ChainWriter,
}

impl Node {
    /// Opens the data directory and starts all chains on the current runtime. A chain that the store does not
    /// have is created.
    ///
    /// # Errors
    /// A directory in use, foreign or damaged; a chain that cannot be opened.
    pub async fn start(config: NodeConfig, wiring: &dyn Wiring) -> Result<Self, NodeError> {
        let (data_dir, options) = (config.data_dir.clone(), config.store.clone());
        let opened = tokio::task::spawn_blocking(move || RocksStore::open(&data_dir, &options)).await;
        let store = Arc::new(opened.map_err(|_| io::Error::other("opening the store panicked"))??);
        let writer = NodeWriter::start(store.clone(), writer_limits(&config.chains), wiring.on_write())?;
        let mut chains = BTreeMap::new();
        for chain in &config.chains {
            match open_chain(&store, &writer, &config, chain, wiring) {
                Ok(started) => chains.insert(started.running.handle().id(), started),
                Err(error) => {
                    // Nothing has been served yet: there is nothing to hand over or to wait for.
                    for started in chains.into_values() {
                        started.running.stop(APPLICATION_PATIENCE).await;
                    }
                    return Err(error);
                }
            };
        }
        let recorders = chains.values().map(NodeChain::recorder).collect();
        let recorder = tokio::spawn(peer_records::run(recorders));
        let watch = wiring.store_metrics().map(|metrics| StoreWatch::start(&store, metrics));
        Ok(Self { chains, store, writer, recorder, watch })
    }

    /// The ids of all chains.
    pub fn chain_ids(&self) -> impl Iterator<Item = ChainId> {
        self.chains.keys().copied()
    }

    /// A chain's handle.
    pub fn chain(&self, id: ChainId) -> Option<&ChainHandle> {
        self.chains.get(&id).map(|chain| chain.running.handle())
    }

    /// A chain's ledger.
    pub fn ledger(&self, id: ChainId) -> Option<&LedgerHandle> {
        self.chains.get(&id).map(|chain| &chain.ledger)
    }

    /// All ledgers, ascending by chain.
    pub fn ledgers(&self) -> impl Iterator<Item = &LedgerHandle> {
        self.chains.values().map(|chain| &chain.ledger)
    }

    /// The store.
    pub fn store(&self) -> &Arc<RocksStore> {
        &self.store
    }

    /// The writer.
    pub fn writer(&self) -> &Arc<NodeWriter> {
        &self.writer
    }

    /// Stops in order: takes no more submissions, hands leadership over, waits for outcomes, ends the chains,
    /// makes everything durable. Takes at most about four seconds, and an idle follower no time.
    pub async fn stop(self) {
        let Self { chains, store, writer, recorder, watch } = self;
        recorder.abort();
        let chains: Vec<NodeChain> = chains.into_values().collect();
        futures_util::future::join_all(chains.into_iter().map(NodeChain::stop)).await;
        // A blocking task that panicked has nothing to tell.
        let _ = tokio::task::spawn_blocking(move || writer.shutdown()).await;
        if let Some(watch) = watch {
            watch.stop().await;
        }
        drop(store);
    }
}

impl NodeChain {
    async fn stop(self) {
        let handle = self.running.handle();
        self.ledger.close();
        let status = handle.status();
        if status.role == Role::Leader && status.voters.len() > 1 && status.halted.is_none() {
            match timeout(TRANSFER_PATIENCE, handle.transfer_leader(None)).await {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => {
                    tracing::warn!(chain = handle.identity().chain, %refusal, "leadership stays")
                }
                Err(_) => {
                    tracing::warn!(chain = handle.identity().chain, "nobody took leadership over in time")
                }
            }
        }
        if !self.ledger.drained(DRAIN_PATIENCE).await {
            tracing::warn!(chain = handle.identity().chain, "stopping with submissions that have no outcome");
        }
        self.recorder().write().await;
        self.running.stop(APPLICATION_PATIENCE).await;
    }

    fn recorder(&self) -> PeerRecorder {
        let (chain, writer) = (self.running.handle().clone(), self.writer.clone());
        PeerRecorder::new(chain, self.links.peers.clone(), writer)
    }
}

/// Opens a chain, or creates it.
fn open_chain(
    store: &Arc<RocksStore>,
    writer: &Arc<NodeWriter>,
    config: &NodeConfig,
    chain: &ChainConfig,
    wiring: &dyn Wiring,
) -> Result<NodeChain, NodeError> {
    let named = config.chains.iter().filter(|other| other.id() == chain.id()).count();
    if named > 1 {
        return Err(NodeError::Twice { chain: chain.name.clone() });
    }
    let identity = adopt(store, config, chain)?;
    start_chain(store, writer, chain.clone(), &identity, wiring)
}

/// The chain's identity: what the store says, checked, or a new one.
fn adopt(store: &RocksStore, config: &NodeConfig, chain: &ChainConfig) -> Result<Identity, NodeError> {
    let existing = store.chains()?;
    let voters: Vec<u64> = chain.voters.iter().map(|voter| voter.get()).collect();
    let rule = chain.ledger.ledger.rule;
    let genesis_hash = genesis_hash(&config.cluster, &chain.name, chain.incarnation, &voters, rule);
    for found in &existing {
        foreign("cluster", &found.cluster, &config.cluster)?;
        foreign("node id", &found.node_id, &config.node_id)?;
    }
    if let Some(found) = existing.iter().find(|found| found.chain_id() == chain.id()) {
        foreign("genesis hash", &found.genesis_hash, &genesis_hash)?;
        return Ok(found.clone());
    }
    create(store, config, chain, genesis_hash, existing.first().map(|found| found.store_incarnation))
}

fn create(
    store: &RocksStore,
    config: &NodeConfig,
    chain: &ChainConfig,
    genesis_hash: Hash,
    store_incarnation: Option<StoreIncarnation>,
) -> Result<Identity, NodeError> {
    if !chain.voters.contains(&config.node_id) {
        let (chain, voters) = (chain.name.clone(), chain.voters.clone());
        return Err(NodeError::NoVoter { chain, node: config.node_id, voters });
    }
    let identity = Identity {
        cluster: config.cluster.clone(),
        chain: chain.name.clone(),
        chain_incarnation: chain.incarnation,
        node_id: config.node_id,
        store_incarnation: store_incarnation.unwrap_or_else(|| StoreIncarnation(rand::random())),
        genesis_hash,
        created_at_ms: unix_time_ms(),
    };
    let mut voters: Vec<u64> = chain.voters.iter().map(|voter| voter.get()).collect();
    voters.sort_unstable();
    store.create_chain(&identity, &ConfState { voters, ..ConfState::default() })?;
    Ok(identity)
}

/// Refuses a directory that belongs to somebody else.
fn foreign<T: PartialEq + std::fmt::Display>(
    what: &'static str,
    found: &T,
    expected: &T,
) -> storage::Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(storage::Error::Foreign { what, found: found.to_string(), expected: expected.to_string() })
}

fn start_chain(
    store: &Arc<RocksStore>,
    writer: &Arc<NodeWriter>,
    config: ChainConfig,
    identity: &Identity,
    wiring: &dyn Wiring,
) -> Result<NodeChain, NodeError> {
    let ChainConfig { name, mut replica, tick, mut ledger, .. } = config;
    let state = store.open_chain(identity.chain_id())?;
    if replica.seed == 0 {
        replica.seed = rand::random();
    }
    for seed in [&mut ledger.ledger.hash_seed, &mut ledger.pipeline.hash_seed] {
        if *seed == [0; 2] {
            *seed = rand::random();
        }
    }
    let links = wiring.links(identity, &store.peers(identity.chain_id())?);
    let chain_writer = writer.chain(identity.chain_id());
    let start = ChainStart {
        state,
        replica,
        tick,
        reader: store.clone() as Arc<dyn LogReader>,
        writer: chain_writer.clone(),
        transport: links.transport.clone(),
        observer: wiring.observer(identity),
    };
    let forwarder = links.forwarder.clone();
    let (running, handle) =
        chain::start(start, |chain| ledger::open(chain, forwarder, ledger)).map_err(|error| match error {
            chain::StartError::Replica(cause) => NodeError::Replica { chain: name.clone(), cause },
            chain::StartError::Application(cause) => NodeError::Ledger { chain: name.clone(), cause },
        })?;
    Ok(NodeChain { running, ledger: handle, links, writer: chain_writer })
}

/// A queue that takes all rounds of all replicas and leaves half of itself to them.
fn writer_limits(chains: &[ChainConfig]) -> GroupCommitLimits {
    let rounds: usize = chains.iter().map(|chain| chain.replica.limits.unpersisted_rounds_max).sum();
    let bytes: u64 = chains.iter().map(|chain| chain.replica.limits.unpersisted_bytes_max).sum();
    let defaults = GroupCommitLimits::default();
    GroupCommitLimits {
        queue_batches_max: defaults.queue_batches_max.max(2 * rounds + SPARE_BATCHES),
        queue_bytes_max: defaults.queue_bytes_max.max(4 * bytes),
        ..defaults
    }
}
