//! Nodes on disk: what a directory belongs to, what a restart finds, and how a node leaves.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::harness::*;
use consensus_core::replica::{ReplicaConfig, Role};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{Identity, LogReader, PeerRecord};
use consensus_proto::ordering::outcome;
use consensus_server::application::ledger::{LedgerHandle, LedgerOptions};
use consensus_server::chain::{ChainObserver, Unobserved};
use consensus_server::node::{ChainConfig, Node, NodeConfig, Wiring};
use consensus_server::transport::Links;

/// Wires a node into a network in memory.
struct MemoryWiring {
    net: Arc<Net>,
}

impl Wiring for MemoryWiring {
    fn links(&self, identity: &Identity, _known: &[PeerRecord]) -> Links {
        self.net.links(identity.node_id.get())
    }

    fn observer(&self, _identity: &Identity) -> Arc<dyn ChainObserver> {
        Arc::new(Unobserved)
    }
}

fn config(id: u64, voters: u64, data_dir: &Path) -> NodeConfig {
    let chain = ChainConfig {
        name: CHAIN.to_owned(),
        incarnation: 1,
        voters: (1..=voters).map(node).collect(),
        replica: ReplicaConfig::default(),
        tick: TICK,
        // On a busy machine an election may take long; what is claimed here is that it is bridged.
        ledger: LedgerOptions {
            leader_grace: PATIENCE,
            submit_timeout: PATIENCE,
            ..LedgerOptions::default()
        },
    };
    NodeConfig {
        node_id: node(id),
        cluster: CLUSTER.to_owned(),
        data_dir: data_dir.to_owned(),
        store: RocksOptions::default(),
        chains: vec![chain],
    }
}

async fn start(net: &Arc<Net>, config: NodeConfig) -> Node {
    let wiring = MemoryWiring { net: net.clone() };
    let node = Node::start(config, &wiring).await.expect("it starts");
    net.join(ledger(&node));
    node
}

fn ledger(node: &Node) -> &LedgerHandle {
    node.ledger(chain_id()).expect("the chain runs")
}

/// Stops a node and lets go of its handles, which keep the directory open.
async fn stop(net: &Net, node: Node) {
    let id = ledger(&node).chain().identity().node_id.get();
    node.stop().await;
    net.leave(id);
}

async fn led(node: &Node) {
    until("somebody leads", || ledger(node).chain().status().leader.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_the_same_chain_and_knows_its_transactions() {
    let dir = tempfile::tempdir().expect("a directory");
    let net = Arc::new(Net::default());
    let first = start(&net, config(1, 1, dir.path())).await;
    led(&first).await;
    let answer = ledger(&first).submit(frame((0..700).map(transaction).collect())).await;
    assert_eq!(committed(&answer), (700, 0));
    let tip = ledger(&first).tip();
    assert!(tip.height >= 2, "more than one block: {tip:?}");
    stop(&net, first).await;

    let second = start(&net, config(1, 1, dir.path())).await;
    let reopened = ledger(&second).tip();
    assert_eq!((reopened.height, reopened.hash, reopened.transactions), (tip.height, tip.hash, 700));
    let block = ledger(&second).block(1).await.expect("readable").expect("it is there");
    assert_eq!(block.transactions[0], transaction(0));
    let blocks = ledger(&second).blocks(1..u64::MAX, u64::MAX).await.expect("readable");
    assert_eq!(blocks.iter().map(|b| b.transactions.len()).sum::<usize>(), 700);
    led(&second).await;
    let again = ledger(&second).submit(frame((0..700).map(transaction).collect())).await;
    assert_eq!(committed(&again), (0, 700));
    let Some(outcome::Outcome::Committed(place)) = &again[0].outcome else { panic!("{again:?}") };
    assert_eq!((place.height, place.index), (1, 0));
    let more = ledger(&second).submit(frame(vec![transaction("new")])).await;
    assert_eq!(committed(&more), (1, 0));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_belongs_to_somebody_else_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let net = Arc::new(Net::default());
    let wiring = MemoryWiring { net: net.clone() };
    let running = start(&net, config(1, 3, dir.path())).await;
    let refused = |config: NodeConfig| {
        let wiring = &wiring;
        async move { Node::start(config, wiring).await.expect_err("refused").to_string() }
    };
    let in_use = refused(config(1, 3, dir.path())).await;
    assert!(in_use.contains("in use"), "{in_use}");
    stop(&net, running).await;

    let other_node = refused(config(2, 3, dir.path())).await;
    assert_eq!(other_node, "foreign data directory: node id is 1, expected 2");
    let other_cluster = NodeConfig { cluster: "other".to_owned(), ..config(1, 3, dir.path()) };
    assert_eq!(refused(other_cluster).await, "foreign data directory: cluster is test, expected other");
    let other_voters = refused(config(1, 4, dir.path())).await;
    assert!(other_voters.starts_with("foreign data directory: genesis hash is "), "{other_voters}");
    let outsider = tempfile::tempdir().expect("a directory");
    let outsider = refused(config(9, 3, outsider.path())).await;
    assert_eq!(outsider, "chain main: node 9 is not among its first voters [n1, n2, n3]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_and_no_submission_elsewhere_fails() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let net = Arc::new(Net::default());
    let mut nodes = Vec::new();
    for (id, dir) in (1..).zip(&dirs) {
        nodes.push(start(&net, config(id, 3, dir.path())).await);
    }
    for node in &nodes {
        led(node).await;
    }
    let leads = |node: &Node| ledger(node).chain().status().role == Role::Leader;
    until("somebody leads", || nodes.iter().any(leads)).await;
    let leader = nodes.swap_remove(nodes.iter().position(leads).expect("just seen"));
    let leader_id = ledger(&leader).chain().identity().node_id.get();
    let client_ledger = ledger(&nodes[0]).clone();
    let client = tokio::spawn(async move {
        let mut failed = Vec::new();
        for n in 0..400 {
            let answer = client_ledger.submit(frame(vec![transaction(n)])).await;
            let (new, known) = committed(&answer);
            if new + known != 1 {
                failed.push(answer);
            }
        }
        failed
    });
    until("some are in", || ledger(&nodes[0]).tip().transactions > 50).await;
    let begun = Instant::now();
    leader.stop().await;
    let took = begun.elapsed();
    net.leave(leader_id);
    assert!(took.as_secs() < 5, "{took:?}");
    let failed = client.await.expect("no panic");
    let states: Vec<_> = nodes.iter().map(|node| ledger(node).chain().status()).collect();
    assert!(failed.is_empty(), "{failed:?} {states:#?}");
    for node in &nodes {
        assert_eq!(ledger(node).linearizable_tip().await.expect("a quorum is there").transactions, 400);
    }
    for node in nodes {
        stop(&net, node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_knows_of_its_peers_can_be_read_after_it_has_stopped() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let net = Arc::new(Net::default());
    let first = start(&net, config(1, 2, dirs[0].path())).await;
    let second = start(&net, config(2, 2, dirs[1].path())).await;
    led(&first).await;
    led(&second).await;
    let answer = ledger(&first).submit(frame(vec![transaction("a")])).await;
    assert_eq!(committed(&answer), (1, 0));
    let (leader, dir) = if ledger(&first).chain().status().role == Role::Leader {
        second.stop().await;
        (first, &dirs[0])
    } else {
        first.stop().await;
        (second, &dirs[1])
    };
    leader.stop().await;
    let store = RocksStore::open_read_only(dir.path()).expect("it can be read");
    let peers = store.peers(chain_id()).expect("readable");
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert!(peers[0].address.starts_with("memory/"), "{peers:?}");
    assert!(peers[0].recorded_at_ms > 0);
}
