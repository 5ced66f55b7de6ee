//! Chains of one process that talk through memory.
//!
//! Each member has its own store, writer, driver and ledger; the network hands messages straight into the
//! inbox of their receiver, unless either end is cut off. Ticks are short and real, so an election takes
//! some hundred milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::{ChainId, NodeId, StoreIncarnation};
use consensus_core::ledger::{HashRule, Transaction, genesis_hash};
use consensus_core::replica::{Message, Refusal, ReplicaConfig, Role};
use consensus_core::storage::group_commit::GroupCommitLimits;
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{ConfState, Identity, LogWriter};
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason, outcome};
use consensus_server::application::ledger::{self, LedgerHandle, LedgerOptions, Submission, no_leader};
use consensus_server::chain::{self, ChainHandle, ChainStart, NodeWriter, RunningChain, Unobserved};
use consensus_server::telemetry::trace::TraceContext;
use consensus_server::transport::{Forwarder, Links, PeerBook, PeerLink, Transport};
use futures_util::future::BoxFuture;

pub(crate) const TICK: Duration = Duration::from_millis(20);
/// No wait in a test is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const CLUSTER: &str = "test";
pub(crate) const CHAIN: &str = "main";

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

pub(crate) fn chain_id() -> ChainId {
    ChainId::derive(CHAIN, 1)
}

/// Waits for `condition` as long as it may take.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while !condition() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Who can reach whom.
#[derive(Default)]
pub(crate) struct Net {
    state: Mutex<NetState>,
}

#[derive(Default)]
struct NetState {
    chains: BTreeMap<NodeId, ChainHandle>,
    ledgers: BTreeMap<NodeId, LedgerHandle>,
    cut: BTreeSet<NodeId>,
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, NetState> {
        self.state.lock().expect("nothing panics with the lock")
    }

    /// Nothing reaches this node or leaves it.
    pub(crate) fn cut(&self, id: u64) {
        self.lock().cut.insert(node(id));
    }

    /// It is reachable again.
    pub(crate) fn heal(&self, id: u64) {
        self.lock().cut.remove(&node(id));
    }

    pub(crate) fn join(&self, ledger: &LedgerHandle) {
        let id = ledger.chain().identity().node_id;
        let mut state = self.lock();
        state.chains.insert(id, ledger.chain().clone());
        state.ledgers.insert(id, ledger.clone());
    }

    pub(crate) fn leave(&self, id: u64) {
        let mut state = self.lock();
        state.chains.remove(&node(id));
        state.ledgers.remove(&node(id));
    }

    fn ledger(&self, from: NodeId, to: NodeId) -> Option<LedgerHandle> {
        let state = self.lock();
        let reachable = !state.cut.contains(&from) && !state.cut.contains(&to);
        state.ledgers.get(&to).filter(|_| reachable).cloned()
    }

    /// What connects a node with the others.
    pub(crate) fn links(self: &Arc<Self>, id: u64) -> Links {
        let wire = Arc::new(Wire { net: self.clone(), id: node(id) });
        Links { transport: wire.clone(), forwarder: wire.clone(), peers: wire }
    }
}

/// One node's end of the network.
struct Wire {
    net: Arc<Net>,
    id: NodeId,
}

impl Transport for Wire {
    fn send(&self, messages: Vec<Message>) {
        let mut by_receiver: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        for message in messages {
            by_receiver.entry(message.to).or_default().push(message);
        }
        let state = self.net.lock();
        if state.cut.contains(&self.id) {
            return;
        }
        for (to, messages) in by_receiver {
            let to = node(to);
            if let Some(chain) = state.chains.get(&to).filter(|_| !state.cut.contains(&to)) {
                chain.deliver_messages(self.id, messages);
            }
        }
    }
}

impl Forwarder for Wire {
    fn forward(
        &self,
        leader: NodeId,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Vec<Outcome>> {
        let ledger = self.net.ledger(self.id, leader);
        Box::pin(async move {
            match ledger {
                Some(ledger) => {
                    ledger.submit(Submission { transactions, acknowledgement, hops: 1, trace }).await
                }
                None => vec![no_leader(transactions.len(), Some(leader))],
            }
        })
    }

    fn read_index(&self, leader: NodeId) -> BoxFuture<'static, Result<u64, Refusal>> {
        let ledger = self.net.ledger(self.id, leader);
        Box::pin(async move {
            match ledger {
                Some(ledger) => ledger.chain().read_index().await,
                None => Err(Refusal::NotLeader { leader: None }),
            }
        })
    }
}

impl PeerBook for Wire {
    fn peers(&self) -> Vec<PeerLink> {
        let state = self.net.lock();
        let others = state.chains.keys().filter(|id| **id != self.id);
        others
            .map(|id| PeerLink {
                node_id: *id,
                address: format!("memory/{id}"),
                store_incarnation: None,
                last_heard_ms: 1,
                connected: true,
            })
            .collect()
    }
}

/// How members are started.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) ledger: LedgerOptions,
    pub(crate) replica: ReplicaConfig,
}

/// One running member.
pub(crate) struct Member {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) ledger: LedgerHandle,
    running: RunningChain,
    writer: Arc<NodeWriter>,
}

impl Member {
    pub(crate) fn chain(&self) -> &ChainHandle {
        self.ledger.chain()
    }

    pub(crate) fn leads(&self) -> bool {
        self.chain().status().role == Role::Leader
    }

    /// Stops in order; what is durable stays in the store.
    pub(crate) async fn stop(self) -> Arc<MemoryStore> {
        self.running.stop(PATIENCE).await;
        let writer = self.writer;
        tokio::task::spawn_blocking(move || writer.shutdown()).await.expect("the writer ends");
        self.store
    }
}

/// A cluster in memory.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) members: BTreeMap<u64, Member>,
    voters: Vec<u64>,
    settings: Settings,
}

impl Cluster {
    /// Starts nodes 1..=count.
    pub(crate) fn start(count: u64, settings: Settings) -> Self {
        let voters = (1..=count).collect();
        let mut cluster = Self { net: Arc::new(Net::default()), members: BTreeMap::new(), voters, settings };
        for id in 1..=count {
            let store = Arc::new(MemoryStore::new());
            let conf_state = ConfState { voters: cluster.voters.clone(), ..ConfState::default() };
            store.create_chain(&identity(id, &cluster.voters), &conf_state).expect("it is new");
            cluster.join(id, store);
        }
        cluster
    }

    /// Starts a node on what is in a store.
    pub(crate) fn join(&mut self, id: u64, store: Arc<MemoryStore>) {
        let writer =
            NodeWriter::start(store.clone(), GroupCommitLimits::default(), |_| {}).expect("a thread");
        let links = self.net.links(id);
        let start = ChainStart {
            state: store.open_chain(chain_id()).expect("it is there"),
            replica: ReplicaConfig { seed: id, ..self.settings.replica.clone() },
            tick: TICK,
            reader: store.clone(),
            writer: writer.chain(chain_id()),
            transport: links.transport,
            observer: Arc::new(Unobserved),
        };
        let options = self.settings.ledger.clone();
        let (running, ledger) =
            chain::start(start, |chain| ledger::open(chain, links.forwarder, options)).expect("it starts");
        self.net.join(&ledger);
        self.members.insert(id, Member { store, ledger, running, writer });
    }

    /// Stops a node without handing anything over.
    pub(crate) async fn leave(&mut self, id: u64) -> Arc<MemoryStore> {
        self.net.leave(id);
        self.members.remove(&id).expect("it runs").stop().await
    }

    pub(crate) fn ledger(&self, id: u64) -> &LedgerHandle {
        &self.members[&id].ledger
    }

    /// Waits until exactly one member leads and all reachable ones know it; returns its id.
    pub(crate) async fn leader(&self) -> u64 {
        let mut leader = 0;
        until("a leader that all know", || {
            let cut = self.net.lock().cut.clone();
            let mut reachable = self.members.iter().filter(|(id, _)| !cut.contains(&node(**id)));
            leader = reachable.clone().find(|(_, member)| member.leads()).map_or(0, |(id, _)| *id);
            leader != 0 && reachable.all(|(_, m)| m.chain().status().leader == NodeId::new(leader))
        })
        .await;
        leader
    }

    /// Waits until all members have the same tip, and returns its height.
    pub(crate) async fn level(&self) -> u64 {
        until("all have the same tip", || {
            let mut tips = self.members.values().map(|m| (m.ledger.tip().height, m.ledger.tip().hash));
            let first = tips.next();
            tips.all(|tip| Some(tip) == first)
        })
        .await;
        self.members.values().next().expect("a member").ledger.tip().height
    }

    /// The ids of all transactions in the chain as a member has it, in order.
    pub(crate) async fn chain_of(&self, id: u64) -> Vec<Bytes> {
        let ledger = self.ledger(id);
        let mut ids = Vec::new();
        for height in 1..=ledger.tip().height {
            let block = ledger.block(height).await.expect("readable").expect("below the tip");
            ids.extend(block.transactions.iter().map(|t| t.id.clone()));
        }
        ids
    }

    pub(crate) async fn stop(mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.leave(id).await;
        }
    }
}

pub(crate) fn identity(id: u64, voters: &[u64]) -> Identity {
    Identity {
        cluster: CLUSTER.to_owned(),
        chain: CHAIN.to_owned(),
        chain_incarnation: 1,
        node_id: node(id),
        store_incarnation: StoreIncarnation([id as u8; 16]),
        genesis_hash: genesis_hash(CLUSTER, CHAIN, 1, voters, HashRule::Native),
        created_at_ms: 1,
    }
}

pub(crate) fn transaction(id: impl std::fmt::Display) -> Transaction {
    Transaction { id: id.to_string().into(), payload: format!("payload of {id}").into() }
}

/// A frame that is to be committed.
pub(crate) fn frame(transactions: Vec<Transaction>) -> Submission {
    Submission { transactions, acknowledgement: Acknowledgement::Committed, hops: 0, trace: None }
}

/// How many transactions of an answer are committed, as new ones and as duplicates.
pub(crate) fn committed(outcomes: &[Outcome]) -> (u32, u32) {
    let mut counts = (0, 0);
    for answer in outcomes {
        match &answer.outcome {
            Some(outcome::Outcome::Committed(c)) if c.duplicate => counts.1 += answer.count,
            Some(outcome::Outcome::Committed(_)) => counts.0 += answer.count,
            _ => {}
        }
    }
    counts
}

/// The reason of the first refusal in an answer.
pub(crate) fn refusal(outcomes: &[Outcome]) -> Option<(Reason, String)> {
    outcomes.iter().find_map(|answer| match &answer.outcome {
        Some(outcome::Outcome::Refused(refused)) => Some((refused.reason(), refused.message.clone())),
        _ => None,
    })
}
