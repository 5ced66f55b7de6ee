//! The ledger on running chains: what is submitted anywhere is committed exactly once everywhere.

use std::time::{Duration, Instant};

use crate::harness::*;
use consensus_core::ledger::PipelineConfig;
use consensus_core::replica::{Refusal, ReplicaConfig};
use consensus_proto::ordering::{Acknowledgement, Reason, outcome};
use consensus_server::application::ledger::{LedgerError, LedgerOptions, Submission, TransactionState};
use futures_util::FutureExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_submitted_to_any_node_is_committed_exactly_once_on_all() {
    let cluster = Cluster::start(4, Settings::default());
    cluster.leader().await;
    let mut answers = Vec::new();
    for round in 0..5 {
        for id in 1..=4 {
            let transactions = (0..20).map(|n| transaction(format!("{id}-{round}-{n}"))).collect();
            answers.push(cluster.ledger(id).submit(frame(transactions)).await);
        }
    }
    for answer in &answers {
        assert_eq!(committed(answer), (20, 0), "{answer:?}");
    }
    cluster.level().await;
    let chain = cluster.chain_of(1).await;
    let mut unique = chain.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((chain.len(), unique.len()), (400, 400));
    for id in 2..=4 {
        assert_eq!(cluster.chain_of(id).await, chain);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_names_the_place_where_the_answering_node_has_the_transaction() {
    let cluster = Cluster::start(3, Settings::default());
    cluster.leader().await;
    for id in 1..=3 {
        let ledger = cluster.ledger(id);
        let sent = transaction(format!("to {id}"));
        let answer = ledger.submit(frame(vec![sent.clone()])).await;
        let Some(outcome::Outcome::Committed(place)) = &answer[0].outcome else { panic!("{answer:?}") };
        assert!(ledger.tip().height >= place.height, "readable on the node that answers");
        let block = ledger.block(place.height).await.expect("readable").expect("it is there");
        assert_eq!(block.transactions[place.index as usize], sent);
        assert_eq!(block.hash.as_bytes()[..], place.block_hash[..]);
        let state = ledger.transaction(sent.id.clone()).await.expect("readable");
        assert!(matches!(state, TransactionState::Committed(at) if at.height == place.height));
        let proof = ledger.prove(sent.id.clone()).await.expect("readable").expect("it is there");
        proof.verify().expect("it holds");
        assert_eq!(proof.transaction, sent);
    }
    let unknown = cluster.ledger(1).transaction("never sent".into()).await.expect("readable");
    assert_eq!(unknown, TransactionState::Unknown);
    assert!(cluster.ledger(1).prove("never sent".into()).await.expect("readable").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_leader_has_gone_a_repeated_id_is_answered_with_its_first_place() {
    let mut cluster = Cluster::start(3, Settings::default());
    let first = cluster.leader().await;
    let transactions: Vec<_> = (0..50).map(transaction).collect();
    let answer = cluster.ledger(first).submit(frame(transactions.clone())).await;
    assert_eq!(committed(&answer), (50, 0));
    let store = cluster.leave(first).await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    let again = cluster.ledger(second).submit(frame(transactions)).await;
    assert_eq!(committed(&again), (0, 50), "{again:?}");
    let place = |answer: &[consensus_proto::ordering::Outcome]| match &answer[0].outcome {
        Some(outcome::Outcome::Committed(c)) => (c.height, c.index, c.block_hash.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(place(&answer), place(&again));
    cluster.join(first, store);
    cluster.leader().await;
    cluster.level().await;
    assert_eq!(cluster.chain_of(first).await.len(), 50);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_repeated_through_a_change_of_leader_end_up_in_the_chain_once() {
    let mut cluster = Cluster::start(3, Settings::default());
    let first = cluster.leader().await;
    let follower = if first == 1 { 2 } else { 1 };
    let ledger = cluster.ledger(follower).clone();
    let client = tokio::spawn(async move {
        for n in 0..300 {
            let begun = Instant::now();
            loop {
                let answer = ledger.submit(frame(vec![transaction(n)])).await;
                let (new, known) = committed(&answer);
                if new + known == 1 {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{answer:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    until("half of them are in the chain", || cluster.ledger(follower).tip().transactions >= 100).await;
    cluster.leave(first).await;
    client.await.expect("every transaction is answered as committed");
    cluster.level().await;
    let mut chain = cluster.chain_of(follower).await;
    let length = chain.len();
    chain.sort();
    chain.dedup();
    assert_eq!((length, chain.len()), (300, 300));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_waiter_hinders_nobody_and_its_transactions_are_committed() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    for n in 0..20 {
        let submission = cluster.ledger(leader).submit(frame(vec![transaction(format!("gone {n}"))]));
        let mut submission = std::pin::pin!(submission);
        assert!(submission.as_mut().now_or_never().is_none());
    }
    let answer = cluster.ledger(leader).submit(frame(vec![transaction("still here")])).await;
    assert_eq!(committed(&answer), (1, 0));
    until("the chain has all of them", || cluster.ledger(leader).tip().transactions == 21).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_is_answered_before_the_commit_and_the_transaction_is_pending_meanwhile() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    let ledger = cluster.ledger(leader);
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.net.cut(id);
    }
    let transactions = vec![transaction("a"), transaction("b")];
    let submission = Submission { acknowledgement: Acknowledgement::Accepted, ..frame(transactions) };
    let answer = ledger.submit(submission).await;
    assert!(matches!(answer[0].outcome, Some(outcome::Outcome::Accepted(_))), "{answer:?}");
    let state = ledger.transaction("a".into()).await.expect("readable");
    assert_eq!(state, TransactionState::Pending);
    for id in 1..=3 {
        cluster.net.heal(id);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_with_its_bound_and_when_to_come_again() {
    let pipeline = PipelineConfig { transactions_max: 10, ..PipelineConfig::default() };
    let ledger = LedgerOptions { pipeline, queue_transactions_max: 20, ..LedgerOptions::default() };
    // A leader without a quorum steps down after a second.
    let replica = ReplicaConfig {
        election_ticks: 50,
        election_ticks_min: 51,
        election_ticks_max: 70,
        ..ReplicaConfig::default()
    };
    let cluster = Cluster::start(3, Settings { ledger, replica });
    let leader = cluster.leader().await;
    let ledger = cluster.ledger(leader).clone();
    // A leader takes nothing before it has committed an entry of its own term.
    assert_eq!(committed(&ledger.submit(frame(vec![transaction("before")])).await), (1, 0));
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.net.cut(id);
    }
    let ten = |n: usize| frame((0..10).map(|i| transaction(format!("{n}-{i}"))).collect());
    // Once it is accepted it fills the pool, and what comes now has to queue.
    ledger.submit(Submission { acknowledgement: Acknowledgement::Accepted, ..ten(0) }).await;
    let mut waiting = Vec::new();
    for n in [1, 2] {
        let (ledger, submission) = (ledger.clone(), ten(n));
        waiting.push(tokio::spawn(async move { ledger.submit(submission).await }));
    }
    until("the queue is full", || ledger.queued() == 20).await;
    let answer = ledger.submit(frame(vec![transaction("one too many")])).await;
    let Some(outcome::Outcome::Refused(refused)) = &answer[0].outcome else { panic!("{answer:?}") };
    assert_eq!(refused.reason(), Reason::Overloaded);
    assert_eq!(refused.message, "the queue is at its bound of 20 transactions");
    assert!(refused.retry_after_ms > 0);
    for waiting in waiting {
        let answer = waiting.await.expect("no panic");
        let (reason, _) = refusal(&answer).expect("a leader without a quorum steps down and says so");
        assert!(matches!(reason, Reason::LeadershipLost | Reason::NotLeader), "{answer:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_chain_refuses_with_its_reason_and_still_serves_its_blocks() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    let ledger = cluster.ledger(leader).clone();
    ledger.submit(frame(vec![transaction("before")])).await;
    ledger.chain().halt("the test says so");
    until("it has halted", || ledger.chain().status().halted.is_some()).await;
    assert!(!cluster.members[&leader].leads(), "who has halted leads nobody");
    let answer = ledger.submit(frame(vec![transaction("after")])).await;
    let (reason, message) = refusal(&answer).expect("refused");
    assert_eq!(reason, Reason::Halted);
    assert!(message.ends_with("the test says so"), "{message}");
    assert_eq!(ledger.chain().read_index().await, Err(Refusal::Halted));
    assert_eq!(ledger.chain().transfer_leader(None).await, Err(Refusal::Halted));
    assert!(ledger.block(1).await.expect("readable").is_some());
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    until("the others elect one of them", || others.iter().any(|id| cluster.members[id].leads())).await;
    let answer = loop {
        let answer = cluster.ledger(others[0]).submit(frame(vec![transaction("goes on")])).await;
        if refusal(&answer).is_none() {
            break answer;
        }
    };
    assert_eq!(committed(&answer), (1, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_halts_the_chain_of_that_node_only() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    let victim = (1..=3).find(|id| *id != leader).expect("a follower");
    cluster.members[&victim].store.fail_next_write("the disk is on fire");
    let answer = cluster.ledger(leader).submit(frame(vec![transaction("a")])).await;
    assert_eq!(committed(&answer), (1, 0));
    let chain = cluster.members[&victim].chain();
    until("it has halted", || chain.status().halted.is_some()).await;
    let reason = chain.status().halted.clone().expect("halted");
    assert!(reason.contains("the disk is on fire"), "{reason}");
    let answer = cluster.ledger(leader).submit(frame(vec![transaction("b")])).await;
    assert_eq!(committed(&answer), (1, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_a_submission_fails_at_once_instead_of_waiting() {
    let ledger = LedgerOptions { leader_grace: Duration::from_millis(50), ..LedgerOptions::default() };
    let cluster = Cluster::start(3, Settings { ledger, ..Settings::default() });
    let leader = cluster.leader().await;
    for id in 1..=3 {
        cluster.net.cut(id);
    }
    let ledger = cluster.ledger(leader);
    until("it steps down", || ledger.chain().status().leader.is_none()).await;
    let begun = Instant::now();
    let (reason, _) = refusal(&ledger.submit(frame(vec![transaction("a")])).await).expect("refused");
    assert_eq!(reason, Reason::NoLeader);
    assert!(begun.elapsed() < cluster.ledger(leader).options().submit_timeout / 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_was_forwarded_is_not_forwarded_again() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).expect("a follower");
    let submission = Submission { hops: 1, ..frame(vec![transaction("a")]) };
    let answer = cluster.ledger(follower).submit(submission).await;
    let Some(outcome::Outcome::Refused(refused)) = &answer[0].outcome else { panic!("{answer:?}") };
    assert_eq!((refused.reason(), refused.leader_id), (Reason::NotLeader, leader));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_tip_on_any_node_sees_every_earlier_acknowledgement() {
    let cluster = Cluster::start(3, Settings::default());
    let leader = cluster.leader().await;
    for n in 0..20 {
        let answer = cluster.ledger(leader).submit(frame(vec![transaction(n)])).await;
        assert_eq!(committed(&answer), (1, 0));
        for id in 1..=3 {
            let tip = cluster.ledger(id).linearizable_tip().await.expect("a quorum is there");
            assert!(tip.transactions > n, "node {id}: {tip:?} after {n}");
        }
    }
    for id in 1..=3 {
        cluster.net.cut(id);
    }
    let lonely = cluster.ledger(leader).linearizable_tip().await;
    assert!(matches!(lonely, Err(LedgerError::Refused(_))), "{lonely:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_without_losing_what_is_submitted_meanwhile() {
    let ledger =
        LedgerOptions { leader_grace: PATIENCE, submit_timeout: PATIENCE, ..LedgerOptions::default() };
    let cluster = Cluster::start(3, Settings { ledger, ..Settings::default() });
    let leader = cluster.leader().await;
    let target = (1..=3).find(|id| *id != leader).expect("a follower");
    let ledger = cluster.ledger(leader).clone();
    let client = tokio::spawn(async move {
        let mut unanswered = 0;
        for n in 0..200 {
            let answer = ledger.submit(frame(vec![transaction(n)])).await;
            let (new, known) = committed(&answer);
            unanswered += 1 - new - known;
        }
        unanswered
    });
    until("some are in", || cluster.ledger(leader).tip().transactions > 20).await;
    cluster.ledger(leader).chain().transfer_leader(Some(node(target))).await.expect("it moves");
    assert_eq!(cluster.leader().await, target);
    let unanswered = client.await.expect("no panic");
    assert_eq!(unanswered, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_stop_everything_is_refused_and_nothing_hangs() {
    let cluster = Cluster::start(1, Settings::default());
    let leader = cluster.leader().await;
    let ledger = cluster.ledger(leader).clone();
    ledger.submit(frame(vec![transaction("before")])).await;
    cluster.stop().await;
    let answer = ledger.submit(frame(vec![transaction("after")])).await;
    assert_eq!(refusal(&answer).map(|(reason, _)| reason), Some(Reason::ShuttingDown));
    assert_eq!(ledger.chain().read_index().await, Err(Refusal::Halted));
    assert_eq!(ledger.chain().deliver_messages(node(2), vec![Default::default()]), 0);
    ledger.chain().stop().await;
    let state = ledger.transaction("before".into()).await.expect("the store still answers");
    assert!(matches!(state, TransactionState::Committed(_)));
}
