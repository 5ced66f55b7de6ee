//! Stand-in controllers behave as the real ones do, seen from where consensus stands.

use std::sync::atomic::Ordering;

use super::setting::{next_block, nodes};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

fn hashes(blocks: &Value) -> Vec<&str> {
    let blocks = blocks.as_array().expect("a list");
    blocks.iter().map(|block| block["hash"].as_str().expect("a hash")).collect()
}

#[tokio::test]
async fn blocks_that_are_checked_and_committed_everywhere_are_nowhere_imported() {
    let mut nodes = nodes(3).await;
    for leader in [0, 0, 1, 2] {
        next_block(&mut nodes, leader).await;
    }
    let expected = nodes[0].blocks().await;
    for node in &nodes {
        let status = node.at(4).await;
        assert_eq!(status["counts"]["imported"], 0);
        assert_eq!(hashes(&node.blocks().await), hashes(&expected));
    }
}

#[tokio::test]
async fn a_controller_that_missed_blocks_fetches_them_and_tells_consensus() {
    let mut nodes = nodes(3).await;
    for _ in 0..120 {
        next_block(&mut nodes[..2], 0).await;
    }
    let status = nodes[2].at(120).await;
    assert!(status["counts"]["imported"].as_u64() >= Some(119), "{status}");
    assert_eq!(hashes(&nodes[2].blocks().await), hashes(&nodes[0].blocks().await));
    assert_eq!(nodes[2].blocks().await[7]["arrival"], "sync");
    assert_eq!(nodes[2].consensus.height.load(Ordering::Acquire), 120);
}

#[tokio::test]
async fn nothing_is_imported_while_consensus_refuses_or_is_not_ready() {
    let mut nodes = nodes(2).await;
    nodes[1].consensus.check_code.store(300, Ordering::Release);
    for _ in 0..3 {
        next_block(&mut nodes[..1], 0).await;
    }
    let status = nodes[1].status(|status| status["counts"]["check_block"]["failed"].as_u64() > Some(2)).await;
    assert_eq!(status["height"], 0);
    nodes[1].consensus.check_code.store(0, Ordering::Release);
    nodes[1].at(3).await;
}

#[tokio::test]
async fn a_proposal_with_an_unknown_transaction_is_refused_until_it_was_fetched() {
    let mut nodes = nodes(2).await;
    let added = nodes[0].order("/txs", json!({"count": 3, "local": true})).await;
    let proposal = nodes[0].propose().await.unwrap();
    assert_eq!(nodes[1].commit(&proposal).await.unwrap().0, 119);
    assert_eq!(nodes[1].check(&proposal).await, 119);
    nodes[1].status(|status| status["pool"] == 3).await;
    assert_eq!(nodes[1].check(&proposal).await, 0);
    assert_eq!(nodes[1].commit(&proposal).await.unwrap().0, 0);
    assert_eq!(nodes[1].blocks().await[1]["txs"], added["hashes"]);
}

#[tokio::test]
async fn transactions_reach_the_other_pools() {
    let nodes = nodes(3).await;
    nodes[0].order("/txs", json!({"count": 10, "bytes": 300, "bodies": ["one"]})).await;
    for node in &nodes {
        node.status(|status| status["pool"] == 11).await;
    }
}

#[tokio::test]
async fn heights_that_are_too_low_or_too_high_have_their_codes() {
    let mut nodes = nodes(2).await;
    nodes[1].order("/sync", json!({"on": false})).await;
    let first = next_block(&mut nodes[..1], 0).await;
    let second = next_block(&mut nodes[..1], 0).await;
    assert_eq!(nodes[0].check(&second).await, 129);
    assert_eq!(nodes[1].check(&second).await, 128);
    assert_eq!(nodes[1].commit(&second).await.unwrap().0, 128);
    assert_eq!(nodes[1].commit(&first).await.unwrap().0, 0);
    nodes[1].order("/sync", json!({"on": true})).await;
    nodes[1].at(2).await;
}

#[tokio::test]
async fn a_proposal_is_kept_until_a_block_comes() {
    let mut nodes = nodes(1).await;
    let first = nodes[0].propose().await.unwrap();
    nodes[0].order("/txs", json!({"count": 1})).await;
    assert_eq!(nodes[0].propose().await.unwrap(), first);
    nodes[0].commit(&first).await.unwrap();
    let second = nodes[0].propose().await.unwrap();
    assert_eq!((first.height, second.height), (1, 2));
    nodes[0].commit(&second).await.unwrap();
    assert_eq!(nodes[0].blocks().await[2]["tx_count"], 1);
}

#[tokio::test]
async fn a_block_that_is_here_is_committed_again_without_effect_and_a_ping_tells_the_height() {
    let mut nodes = nodes(1).await;
    let first = next_block(&mut nodes, 0).await;
    next_block(&mut nodes, 0).await;
    let (code, configuration) = nodes[0].commit(&first).await.unwrap();
    assert_eq!((code, configuration.height), (0, 1), "the height that was asked for");
    let configuration = nodes[0].ping().await;
    assert_eq!((configuration.height, configuration.block_interval), (2, 3));
    assert_eq!(configuration.validators, [nodes[0].address.clone()]);
    let status = nodes[0].at(2).await;
    assert_eq!((&status["counts"]["pings"], &status["counts"]["committed"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_block_behind() {
    let mut nodes = nodes(1).await;
    nodes[0].order("/faults", json!({"call": "commit", "outcome": "unavailable"})).await;
    let proposal = nodes[0].propose().await.unwrap();
    let status = nodes[0].commit(&proposal).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(nodes[0].commit(&proposal).await.unwrap().0, 0);
    assert_eq!(nodes[0].at(1).await["counts"]["committed"], 1);
}

#[tokio::test]
async fn scripted_codes_hangs_and_delays_happen_and_end() {
    let mut nodes = nodes(1).await;
    nodes[0].order("/faults", json!({"call": "get", "code": 500, "times": 2})).await;
    assert_eq!(nodes[0].propose().await, Err(500));
    assert_eq!(nodes[0].propose().await, Err(500));
    let proposal = nodes[0].propose().await.unwrap();
    nodes[0].order("/faults", json!({"call": "check", "hang_ms": 300})).await;
    nodes[0].order("/faults", json!({"delay_ms": 200})).await;
    let start = Instant::now();
    let mut other = nodes[0].controller.clone();
    let (checked, _) = tokio::join!(nodes[0].check(&proposal), async {
        tokio::task::yield_now().await;
        other.get_proposal(consensus_proto::cita::common::Empty {}).await.unwrap()
    });
    assert_eq!(checked, 0);
    assert!(start.elapsed() >= Duration::from_millis(250), "the hang holds the lock");
    let start = Instant::now();
    nodes[0].commit(&proposal).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(190));
}

#[tokio::test]
async fn a_rollback_of_one_is_healed_by_the_others_and_of_all_by_consensus() {
    let mut nodes = nodes(2).await;
    for _ in 0..5 {
        next_block(&mut nodes, 0).await;
    }
    let before = nodes[0].blocks().await;
    nodes[1].order("/rollback", json!({"blocks": 3})).await;
    nodes[1].at(5).await;
    assert_eq!(hashes(&nodes[1].blocks().await), hashes(&before));
    for node in &nodes {
        node.order("/sync", json!({"on": false})).await;
        assert_eq!(node.order("/rollback", json!({"blocks": 1})).await["height"], 4);
    }
    assert_eq!(nodes[0].ping().await.height, 4);
    assert_eq!(next_block(&mut nodes, 1).await.height, 5);
}

#[tokio::test]
async fn a_change_of_validators_and_interval_is_answered_on_every_node() {
    let mut nodes = nodes(3).await;
    let remaining = nodes[1..].iter().map(|node| hex::encode(&node.address)).collect::<Vec<_>>();
    for node in &nodes {
        node.order("/proposal", json!({"validators": remaining, "block_interval": 1})).await;
    }
    next_block(&mut nodes, 0).await;
    for node in &mut nodes {
        let configuration = node.ping().await;
        assert_eq!((configuration.validators.len(), configuration.block_interval), (2, 1));
        assert_eq!(node.at(1).await["change_waits"], false);
    }
    let removed = nodes[0].propose().await.unwrap();
    assert_eq!(nodes[1].check(&removed).await, 130);
    next_block(&mut nodes, 1).await;
}

#[tokio::test]
async fn proposals_of_eight_mebibytes_pass_and_are_imported() {
    let mut nodes = nodes(2).await;
    nodes[0].order("/proposal", json!({"padding": 8 << 20})).await;
    let proposal = nodes[0].propose().await.unwrap();
    assert_eq!(nodes[1].check(&proposal).await, 0);
    nodes[0].commit(&proposal).await.unwrap();
    next_block(&mut nodes[..1], 0).await;
    let status = nodes[1].at(2).await;
    assert_eq!(status["counts"]["imported"], 2);
}
