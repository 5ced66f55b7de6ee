//! A replicated counter: a user's own state machine on three in-process nodes.
//!
//! Run it with `cargo run -p consensus-server --example embed_counter`. The nodes live in one process and
//! talk through memory; their stores are in memory too. A real node would use `RocksStore` and the peer
//! streams instead, and nothing else would change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use consensus_core::ids::{Hash, NodeId, StoreIncarnation};
use consensus_core::replica::{Message, Refusal, ReplicaConfig, SnapshotPolicy};
use consensus_core::storage::group_commit::GroupCommitLimits;
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{ConfState, Identity, LogWriter};
use consensus_server::application::embed::{self, EmbedHandle, StateMachine};
use consensus_server::chain::{ChainHandle, ChainStart, NodeWriter, RunningChain, Unobserved};
use consensus_server::transport::Transport;

/// Adds up the numbers that it is told.
#[derive(Default)]
struct Counter {
    total: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, _index: u64, command: &Bytes) -> Bytes {
        let Some(number) = decode(command) else { return Bytes::from_static(b"not a number") };
        self.total = self.total.wrapping_add(number);
        encode(self.total)
    }

    fn snapshot(&self) -> Bytes {
        encode(self.total)
    }

    fn restore(&mut self, snapshot: &Bytes) -> Result<(), String> {
        self.total = decode(snapshot).ok_or_else(|| format!("a total of {} bytes", snapshot.len()))?;
        Ok(())
    }
}

fn encode(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn decode(bytes: &Bytes) -> Option<u64> {
    bytes.as_ref().try_into().ok().map(u64::from_be_bytes)
}

/// The network: every node's inbox within reach of the others.
type Nodes = Arc<Mutex<BTreeMap<u64, ChainHandle>>>;

struct MemoryTransport {
    own: NodeId,
    nodes: Nodes,
}

impl Transport for MemoryTransport {
    fn send(&self, messages: Vec<Message>) {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            if let Some(receiver) = nodes.get(&message.to) {
                receiver.deliver_messages(self.own, vec![message]);
            }
        }
    }
}

/// A node that runs, and what must outlive it.
struct CounterNode {
    chain: RunningChain,
    counter: EmbedHandle<Counter>,
    writer: Arc<NodeWriter>,
}

fn start(id: u64, voters: &[u64], nodes: &Nodes) -> anyhow::Result<CounterNode> {
    let own = NodeId::new(id).context("node ids begin at 1")?;
    let identity = Identity {
        cluster: "example".to_owned(),
        chain: "counter".to_owned(),
        chain_incarnation: 1,
        node_id: own,
        store_incarnation: StoreIncarnation(rand::random()),
        genesis_hash: Hash::default(),
        created_at_ms: 0,
    };
    let store = Arc::new(MemoryStore::new());
    store.create_chain(&identity, &ConfState { voters: voters.to_vec(), ..ConfState::default() })?;
    let writer = NodeWriter::start(store.clone(), GroupCommitLimits::default(), |_| {})?;
    let snapshots = Some(SnapshotPolicy { every_entries: 100, keep_entries: 10 });
    let start = ChainStart {
        state: store.open_chain(identity.chain_id())?,
        replica: ReplicaConfig { seed: rand::random(), snapshots, ..ReplicaConfig::default() },
        tick: Duration::from_millis(20),
        reader: store,
        writer: writer.chain(identity.chain_id()),
        transport: Arc::new(MemoryTransport { own, nodes: nodes.clone() }),
        observer: Arc::new(Unobserved),
    };
    let (chain, counter) = embed::start(start, Counter::default())?;
    nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, chain.handle().clone());
    Ok(CounterNode { chain, counter, writer })
}

/// Proposes to whoever leads, and tries again while an election is under way.
async fn add(nodes: &[CounterNode], number: u64) -> anyhow::Result<u64> {
    for _ in 0..500 {
        for node in nodes {
            match node.counter.propose(encode(number)).await {
                Ok(applied) => return decode(&applied.answer).ok_or_else(|| anyhow!("the counter refused")),
                Err(Refusal::NotLeader { .. }) => {}
                // Anything else may have been applied, and adding twice is not the same as adding once.
                Err(refusal) => return Err(refusal.into()),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(anyhow!("nobody has led for ten seconds"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let peers = Nodes::default();
    let voters = [1, 2, 3];
    let nodes = voters.iter().map(|id| start(*id, &voters, &peers)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut total = 0;
    for number in 1..=250 {
        total = add(&nodes, number).await?;
    }
    println!("the leader says {total} after adding 1 to 250");
    for (id, node) in voters.iter().zip(&nodes) {
        let mut seen = 0;
        while seen < total {
            seen = node.counter.read(|counter| counter.total).await?;
            tokio::task::yield_now().await;
        }
        let status = node.chain.handle().status();
        println!("node {id}, {}: {seen}, log kept from entry {}", status.role.as_str(), status.first);
    }
    for node in nodes {
        node.chain.stop(Duration::from_secs(1)).await;
        node.writer.shutdown();
    }
    Ok(())
}
