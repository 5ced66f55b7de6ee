//! A submission whose way to the leader leads nowhere is answered all the same, and soon. The N numbers are those of
//! the catalogue (`consensus-core/docs/catalogue.md`).

use std::time::{Duration, Instant};

use consensus_proto::ordering::Reason;
use consensus_server::application::ledger::LedgerOptions;

use crate::harness::{Cluster, Settings, TICK, frame, refusal, transaction};

/// Shorter than a leader that is cut off believes in itself.
const SHORT: Duration = TICK.saturating_mul(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n06_a_submission_without_an_outcome_is_answered_when_its_time_is_up() {
    let ledger = LedgerOptions { submit_timeout: SHORT, ..LedgerOptions::default() };
    let cluster = Cluster::start(3, Settings { ledger, ..Settings::default() });
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.net.cut(id);
    }
    let begun = Instant::now();
    let answer = cluster.ledger(leader).submit(frame(vec![transaction("a")])).await;
    let (reason, message) = refusal(&answer).expect("nobody can commit it");
    assert_eq!((reason, message.as_str()), (Reason::Timeout, "no outcome within 100 ms"));
    assert!(begun.elapsed() >= SHORT);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n07_a_submission_whose_leader_cannot_be_reached_is_refused_and_does_not_wait_for_its_time() {
    let ledger = LedgerOptions { leader_grace: Duration::from_millis(10), ..LedgerOptions::default() };
    let timeout = ledger.submit_timeout;
    let cluster = Cluster::start(3, Settings { ledger, ..Settings::default() });
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).expect("a follower");
    // Nobody can be elected instead.
    (1..=3).for_each(|id| cluster.net.cut(id));
    let begun = Instant::now();
    let answer = cluster.ledger(follower).submit(frame(vec![transaction("a")])).await;
    let (reason, _) = refusal(&answer).expect("refused");
    assert_eq!(reason, Reason::NoLeader);
    assert!(begun.elapsed() < timeout / 2);
    cluster.stop().await;
}
