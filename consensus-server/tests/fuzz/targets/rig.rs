//! A node's chain in memory, as the targets that need one start it.

use std::sync::Arc;
use std::time::Duration;

use consensus_core::ids::{ChainId, NodeId, StoreIncarnation};
use consensus_core::ledger::{HashRule, genesis_hash};
use consensus_core::limits::Limits;
use consensus_core::replica::ReplicaConfig;
use consensus_core::storage::group_commit::GroupCommitLimits;
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{ConfState, Identity, LogWriter};
use consensus_server::application::ledger::{self, LedgerHandle, LedgerOptions};
use consensus_server::chain::{self, ChainHandle, ChainStart, NodeWriter, RunningChain, Unobserved};
use consensus_server::transport::Links;
use tokio::runtime::Runtime;

const TICK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// Node 1 with a chain and a runtime.
pub(crate) struct Node {
    pub(crate) ledger: LedgerHandle,
    pub(crate) runtime: Runtime,
    running: Option<RunningChain>,
    writer: Arc<NodeWriter>,
}

impl Node {
    /// A member among these voters; the others are not there.
    pub(crate) fn start(voters: &[u64], limits: Limits, options: LedgerOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let _within = runtime.enter();
        let store = Arc::new(MemoryStore::new());
        let members = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        store.create_chain(&identity(voters), &members).expect("it is new");
        let id = ChainId::derive("main", 1);
        let writer =
            NodeWriter::start(store.clone(), GroupCommitLimits::default(), |_| {}).expect("a thread");
        let links = Links::alone();
        let start = ChainStart {
            state: store.open_chain(id).expect("it is there"),
            replica: ReplicaConfig { seed: 1, limits, ..ReplicaConfig::default() },
            tick: TICK,
            reader: store.clone(),
            writer: writer.chain(id),
            transport: links.transport,
            observer: Arc::new(Unobserved),
        };
        let (running, ledger) =
            chain::start(start, |chain| ledger::open(chain, links.forwarder, options)).expect("it starts");
        drop(_within);
        Self { ledger, runtime, running: Some(running), writer }
    }

    pub(crate) fn chain(&self) -> &ChainHandle {
        self.ledger.chain()
    }

    /// Waits until the node leads.
    pub(crate) fn lead(&self) {
        let mut status = self.chain().watch_status();
        let leads = async { status.wait_for(|status| status.leader == NodeId::new(1)).await.map(|_| ()) };
        let led = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, leads).await });
        led.expect("in time").expect("it runs");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.runtime.block_on(running.stop(PATIENCE));
        self.writer.shutdown();
    }
}

fn identity(voters: &[u64]) -> Identity {
    Identity {
        cluster: "fuzz".to_owned(),
        chain: "main".to_owned(),
        chain_incarnation: 1,
        node_id: NodeId::new(1).expect("not 0"),
        store_incarnation: StoreIncarnation([1; 16]),
        genesis_hash: genesis_hash("fuzz", "main", 1, voters, HashRule::Native),
        created_at_ms: 1,
    }
}
