//! The exchange as a whole: pairs of nodes over carriers in memory, a stand-in network service and direct
//! streams.

mod carriers;
mod gate;
mod sending;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::eraftpb::{Entry, MessageType};
use consensus_core::replica::{Message, PeerReport};
use consensus_proto::cita::exchange::{Candidate, Report};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::telemetry::Metrics;

/// Nothing in these tests takes so long.
const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
const GROUP: GroupId = GroupId([7; 16]);

fn id(node: u64) -> NodeId {
    NodeId::new(node).expect("not 0")
}

/// The store of a node in these tests.
fn store(node: u64) -> StoreIncarnation {
    StoreIncarnation([node as u8; 16])
}

fn roster(nodes: &[u64]) -> BTreeMap<NodeId, StoreIncarnation> {
    nodes.iter().map(|node| (id(*node), store(*node))).collect()
}

/// Remembers what the exchange delivers and reports.
#[derive(Default)]
struct Chain {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Default)]
struct Seen {
    messages: Vec<(NodeId, Message)>,
    reports: Vec<(NodeId, PeerReport)>,
}

impl Sink for Chain {
    fn deliver(&self, from: NodeId, messages: Vec<Message>) {
        self.seen.lock().unwrap().messages.extend(messages.into_iter().map(|message| (from, message)));
        self.changed.notify_one();
    }

    fn report(&self, peer: NodeId, report: PeerReport) {
        self.seen.lock().unwrap().reports.push((peer, report));
        self.changed.notify_one();
    }
}

impl Chain {
    /// Waits until what was seen satisfies, and returns what it says.
    async fn until<T>(&self, satisfies: impl Fn(&Seen) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = satisfies(&self.seen.lock().unwrap()) {
                    return found;
                }
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("what the test waits for happens")
    }

    /// The indices of the first messages that came.
    async fn indices(&self, count: usize) -> Vec<u64> {
        self.until(|seen| {
            (seen.messages.len() >= count)
                .then(|| seen.messages.iter().map(|(_, message)| message.index).collect())
        })
        .await
    }

    async fn reports(&self, count: usize) -> Vec<PeerReport> {
        self.until(|seen| {
            (seen.reports.len() >= count).then(|| seen.reports.iter().map(|(_, report)| *report).collect())
        })
        .await
    }
}

/// One node of a test.
struct Node {
    exchange: Arc<Exchange>,
    letters: mpsc::Receiver<Letter>,
    chain: Arc<Chain>,
    metrics: ExchangeMetrics,
}

impl Node {
    /// A member of the group of nodes 1 to 3, with its chain.
    fn seated(config: ExchangeConfig, carrier: Arc<dyn Carrier>) -> Self {
        Self::with_timeout(config, carrier, SOON)
    }

    fn with_timeout(config: ExchangeConfig, carrier: Arc<dyn Carrier>, timeout: Duration) -> Self {
        let metrics = ExchangeMetrics::new(&Metrics::new(config.node.get()), "test");
        let node = config.node.get();
        let (exchange, letters) = Exchange::with_timeout(config, carrier, metrics.clone(), timeout);
        let chain = Arc::new(Chain::default());
        exchange.take_seat(store(node), Some(GROUP));
        exchange.set_roster(Some(roster(&[1, 2, 3])));
        exchange.attach_sink(Some(chain.clone()));
        Self { exchange, letters, chain, metrics }
    }

    async fn letter(&mut self) -> Letter {
        tokio::time::timeout(SOON, self.letters.recv()).await.expect("a letter comes").expect("it is open")
    }
}

/// Brings envelopes to exchanges in memory, by node, and remembers who was addressed how.
#[derive(Default)]
struct Hub {
    nodes: Mutex<BTreeMap<NodeId, Arc<Exchange>>>,
    carried: Mutex<Vec<(NodeId, u64, Bytes)>>,
}

impl Hub {
    fn join(&self, node: &Node) {
        self.nodes.lock().unwrap().insert(node.exchange.core.config.node, node.exchange.clone());
    }

    fn carried(&self) -> Vec<(NodeId, u64, Bytes)> {
        std::mem::take(&mut self.carried.lock().unwrap())
    }
}

impl Carrier for Hub {
    fn carry(&self, to: NodeId, origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        self.carried.lock().unwrap().push((to, origin, envelope.clone()));
        let node = self.nodes.lock().unwrap().get(&to).cloned();
        Box::pin(async move {
            if let Some(node) = node {
                node.receive(0, envelope);
            }
            Ok(())
        })
    }

    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let nodes: Vec<_> = self.nodes.lock().unwrap().values().cloned().collect();
        Box::pin(async move {
            for node in nodes {
                node.receive(77, envelope.clone());
            }
            Ok(())
        })
    }
}

/// Two members that reach each other.
fn pair() -> (Arc<Hub>, Node, Node) {
    let hub = Arc::new(Hub::default());
    let [one, two] = [1, 2].map(|node| Node::seated(ExchangeConfig::testing(node, MIB), hub.clone()));
    hub.join(&one);
    hub.join(&two);
    (hub, one, two)
}

fn heartbeat(from: u64, to: u64, index: u64) -> Message {
    let mut message = Message { from, to, index, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    message
}

fn append(from: u64, to: u64, index: u64, bytes: usize) -> Message {
    let mut message = heartbeat(from, to, index);
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { data: vec![0; bytes].into(), ..Entry::default() }].into());
    message
}

fn snapshot(from: u64, to: u64, index: u64) -> Message {
    let mut message = heartbeat(from, to, index);
    message.set_msg_type(MessageType::MsgSnapshot);
    message
}

fn report(height: u64) -> Mail {
    Mail::Report(Report { height, ..Report::default() })
}

fn candidate(bytes: u64) -> Mail {
    let data = (0..bytes).map(|at| (at / 7) as u8).collect::<Vec<u8>>().into();
    Mail::Candidate(Candidate { term: 1, number: 2, height: 3, data, ..Candidate::default() })
}
