//! Stand-in networks carry messages as the real one does, and lose them as ordered.

use super::setting::{PATIENCE, next_block, nodes};
use cita_peers::config::origin;
use serde_json::json;
use tokio::time::timeout;

#[tokio::test]
async fn what_is_sent_to_an_address_arrives_there_with_the_senders() {
    let mut nodes = nodes(3).await;
    let to = nodes[2].address.clone();
    nodes[0].send_numbered(Some(&to), 1).await;
    let message = timeout(PATIENCE, nodes[2].messages.recv()).await.unwrap().unwrap();
    assert_eq!(message.origin, origin(&nodes[0].address));
    assert!(nodes[1].messages.try_recv().is_err());
}

#[tokio::test]
async fn what_is_broadcast_reaches_all_others() {
    let mut nodes = nodes(3).await;
    nodes[0].send_numbered(None, 5).await;
    for node in &mut nodes[1..] {
        let mut numbers = node.numbers(5).await;
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }
    assert!(nodes[0].messages.try_recv().is_err());
}

#[tokio::test]
async fn what_is_sent_to_nobody_is_answered_like_anything_else() {
    let mut nodes = nodes(1).await;
    nodes[0].send_numbered(Some(&bytes::Bytes::from_static(b"nobody at all")), 1).await;
    nodes[0].network_status(|status| status["counts"]["unknown"] == 1).await;
}

#[tokio::test]
async fn messages_are_lost_and_doubled_at_the_ordered_rate() {
    let mut nodes = nodes(2).await;
    let to = nodes[1].address.clone();
    let faults = json!({"module": "consensus", "loss": 0.5, "duplicate": 0.5});
    nodes[0].order_network("/faults", faults).await;
    nodes[0].send_numbered(Some(&to), 400).await;
    let lost = nodes[0].network_status(|status| status["counts"]["lost"].as_u64() > Some(0)).await;
    let lost = lost["counts"]["lost"].as_u64().unwrap() as usize;
    assert!((120..280).contains(&lost), "{lost}");
    let mut numbers = nodes[1].numbers(400 - lost + 1).await;
    let arrived = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() < arrived, "some came twice");
}

#[tokio::test]
async fn messages_overtake_each_other_when_ordered() {
    let mut nodes = nodes(2).await;
    let to = nodes[1].address.clone();
    nodes[0].order_network("/faults", json!({"reorder_ms": 50})).await;
    nodes[0].send_numbered(Some(&to), 100).await;
    let numbers = nodes[1].numbers(100).await;
    assert!(!numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test]
async fn a_peer_is_cut_off_in_one_direction_and_connected_again() {
    let mut nodes = nodes(2).await;
    let addresses = [nodes[0].address.clone(), nodes[1].address.clone()];
    nodes[0].order_network("/faults", json!({"block_out": [hex::encode(&addresses[1])]})).await;
    nodes[0].send_numbered(Some(&addresses[1]), 3).await;
    nodes[1].send_numbered(Some(&addresses[0]), 3).await;
    assert_eq!(nodes[0].numbers(3).await.len(), 3);
    nodes[0].order_network("/faults", json!({})).await;
    nodes[0].send_numbered(Some(&addresses[1]), 1).await;
    assert_eq!(nodes[1].numbers(1).await, [0]);
    assert!(nodes[1].messages.try_recv().is_err());
}

#[tokio::test]
async fn a_registration_is_refused_as_often_as_ordered() {
    let mut nodes = nodes(1).await;
    nodes[0].order_network("/registrations", json!({"refuse": 2})).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        let info = consensus_proto::cita::network::RegisterInfo::default();
        codes.push(nodes[0].network.register_network_msg_handler(info).await.unwrap().into_inner().code);
    }
    assert_eq!(codes, [400, 400, 0]);
}

#[tokio::test]
async fn controllers_catch_up_over_a_network_that_loses_doubles_and_reorders() {
    let mut nodes = nodes(2).await;
    for node in &nodes {
        let faults = json!({"loss": 0.3, "duplicate": 0.3, "reorder_ms": 20});
        node.order_network("/faults", faults).await;
    }
    for _ in 0..60 {
        next_block(&mut nodes[..1], 0).await;
    }
    nodes[1].at(60).await;
    assert_eq!(nodes[1].blocks().await[60]["hash"], nodes[0].blocks().await[60]["hash"]);
}
