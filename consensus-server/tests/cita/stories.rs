//! What must hold whatever happens to controllers, consensus state and validators. Each story ends with the
//! oracle's word: no height with two contents, none skipped, none before a quorum had the one before. How fast
//! a chain is, is measured elsewhere; bounds here are wide enough for a machine that does other things, too.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::controllers::{Fault, lasts};

const ALL: [u64; 4] = [1, 2, 3, 4];
const INTERVAL: Duration = Duration::from_millis(50);
const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A group is founded, or led again, and has made a block.
const FOUNDED_MAX: Duration = Duration::from_secs(10);

/// A block is agreed on, no controller has executed it, and its transactions are lost: finding F2.
async fn lose_an_agreed_block(cluster: &Cluster) -> u64 {
    let controllers = &cluster.controllers;
    controllers.set_execution(&ALL, 500 * MILLIS);
    let agreed = |id: &u64| cluster.status(*id)["controller"]["agreed_height"].as_u64().unwrap_or(0);
    let start = controllers.top();
    cluster.until("a block after this one", || controllers.top() > start).await;
    cluster.until("a block that is agreed on", || ALL.iter().all(|id| agreed(id) > controllers.top())).await;
    controllers.set_all(Fault::Dead);
    controllers.lose_pools();
    lasts(600 * MILLIS).await;
    controllers.set_execution(&ALL, Duration::ZERO);
    controllers.top() + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_found_their_group_and_make_the_same_blocks() {
    let cluster = Cluster::four(INTERVAL);
    let took = cluster.grow(&ALL, 1).await;
    assert!(took < FOUNDED_MAX, "first block after {took:?}");
    cluster.grow(&ALL, 20).await;
    let synced = cluster.controllers.synced();
    assert!(synced <= 4, "of 84 blocks {synced} did not come by consensus");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_do_without_three() {
    let ids = [1, 2, 3, 4, 5, 6, 7];
    let cluster = Cluster::start(&ids, &ids, INTERVAL);
    cluster.grow(&ids, 5).await;
    for id in [5, 6, 7] {
        cluster.cut(id);
    }
    cluster.grow(&ALL, 10).await;
    for id in [5, 6, 7] {
        cluster.heal(id);
    }
    cluster.grow(&ids, 5).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_block_is_lost_when_transactions_are_missing_or_calls_hang_and_the_leader_stays() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let term = cluster.term();
    for (fault, time) in [(Fault::Forgetful, 2 * SECOND), (Fault::Hangs, SECOND)] {
        cluster.controllers.set_all(fault);
        lasts(time).await;
        cluster.controllers.set_all(Fault::None);
        cluster.grow(&ALL, 3).await;
        assert_eq!(cluster.term(), term, "{fault:?}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_block_is_lost_when_all_controllers_are_down_for_a_while() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let term = cluster.term();
    cluster.controllers.set_all(Fault::Dead);
    lasts(4 * SECOND).await;
    cluster.controllers.set_all(Fault::None);
    cluster.grow(&ALL, 3).await;
    // Some may have looked well only because nobody had called them; leadership does not go round for ever.
    assert!(cluster.term() <= term + 3, "{} hand-overs", cluster.term() - term);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_dies_in_the_middle_of_a_commit_gets_no_block_twice() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    for round in 0..3 {
        let all = round == 2;
        for id in ALL.into_iter().filter(|id| all || *id % 2 == round) {
            cluster.controllers.set(id, Fault::DiesInCommit);
        }
        lasts(500 * MILLIS).await;
        cluster.controllers.set_all(Fault::None);
        cluster.grow(&ALL, 3).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consensus_does_not_run_ahead_of_the_controllers() {
    let cluster = Cluster::four(Duration::ZERO);
    cluster.grow(&ALL, 5).await;
    cluster.controllers.set(3, Fault::Hangs);
    cluster.controllers.set(4, Fault::Hangs);
    lasts(200 * MILLIS).await;
    let stands = cluster.controllers.top();
    lasts(1500 * MILLIS).await;
    assert!(cluster.controllers.top() <= stands + 1, "two of four are no quorum");
    cluster.controllers.set(3, Fault::None);
    cluster.grow(&[1, 2, 3], 5).await;
    cluster.controllers.set(4, Fault::None);
    cluster.grow(&ALL, 5).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_no_controller_can_ever_commit_is_given_up_also_after_a_restart_of_everything() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let lost = lose_an_agreed_block(&cluster).await;
    for id in ALL {
        cluster.stop(id).await;
    }
    cluster.controllers.set_all(Fault::None);
    ALL.into_iter().for_each(|id| cluster.run(id));
    cluster.grow(&ALL, 3).await;
    assert!(cluster.controllers.executed(lost).is_some(), "height {lost} is not left out");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_is_not_given_up_while_a_validator_is_missing_that_may_have_it() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let lost = lose_an_agreed_block(&cluster).await;
    cluster.cut(4);
    cluster.controllers.set_all(Fault::None);
    let said = |id: &u64| {
        let trouble = cluster.trouble(*id);
        trouble.contains("validator 0000000000000004 ") && trouble.contains(&format!("block {lost}"))
    };
    cluster.until("the leader says for whom it waits", || [1, 2, 3].iter().any(said)).await;
    lasts(SECOND).await;
    assert_eq!(cluster.controllers.executed(lost), None);
    cluster.heal(4);
    cluster.grow(&ALL, 3).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_one_or_all_commit_no_other_bytes() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    for id in ALL {
        cluster.stop(id).await;
        let others: Vec<u64> = ALL.into_iter().filter(|other| *other != id).collect();
        cluster.grow(&others, 2).await;
        cluster.run(id);
        cluster.grow(&ALL, 2).await;
    }
    for id in ALL {
        cluster.stop(id).await;
    }
    ALL.into_iter().for_each(|id| cluster.run(id));
    let took = cluster.grow(&ALL, 1).await;
    assert!(took < FOUNDED_MAX, "first block after {took:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_become_three_and_one_and_four_again() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    for validators in [&[1, 2, 3][..], &ALL, &[4], &ALL] {
        cluster.controllers.configure(validators, INTERVAL);
        cluster.grow(validators, 4).await;
        cluster.until("members are the validators", || cluster.voters(validators[0]) == validators).await;
        cluster.grow(validators, 2).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_validators_are_replaced() {
    let cluster = Cluster::start(&[1, 2, 3, 4, 5, 6, 7], &ALL, INTERVAL);
    cluster.grow(&ALL, 2).await;
    let others = [5, 6, 7];
    cluster.controllers.configure(&others, INTERVAL);
    cluster.grow(&others, 4).await;
    cluster.until("members are the validators", || cluster.voters(5) == others).await;
    cluster.grow(&others, 4).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_no_validator_any_more_hands_over() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    for _ in 0..2 {
        cluster.until("a leader", || cluster.leader().is_some()).await;
        let leader = cluster.leader().expect("there is one");
        let others: Vec<u64> = ALL.into_iter().filter(|id| *id != leader).collect();
        cluster.controllers.configure(&others, INTERVAL);
        let took = cluster.grow(&others, 4).await;
        assert!(took < 5 * SECOND, "no gap: {took:?}");
        cluster.until("members are the validators", || cluster.voters(others[0]) == others).await;
        cluster.controllers.configure(&ALL, INTERVAL);
        cluster.grow(&ALL, 4).await;
        cluster.until("members are the validators", || cluster.voters(others[0]) == ALL).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_interval_is_in_force_at_once() {
    let cluster = Cluster::four(300 * MILLIS);
    cluster.grow(&ALL, 2).await;
    let took = cluster.grow(&[1], 3).await;
    assert!((500 * MILLIS..5 * SECOND).contains(&took), "at 300 ms: {took:?}");
    cluster.controllers.configure(&ALL, SECOND);
    cluster.grow(&[1], 1).await;
    let took = cluster.grow(&[1], 2).await;
    assert!((1800 * MILLIS..6 * SECOND).contains(&took), "at 1 s: {took:?}");
    cluster.controllers.configure(&ALL, Duration::ZERO);
    cluster.grow(&[1], 1).await;
    let took = cluster.grow(&[1], 20).await;
    assert!(took < 5 * SECOND, "at 0: {took:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_leaves_a_controller_that_hangs_once_and_does_not_come_back_by_itself() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    let (first, term) = (cluster.leader().expect("there is one"), cluster.term());
    cluster.controllers.set(first, Fault::Hangs);
    let others: Vec<u64> = ALL.into_iter().filter(|id| *id != first).collect();
    let took = cluster.grow(&others, 3).await;
    assert!(took < 8 * SECOND, "no blocks for {took:?}");
    assert_eq!(cluster.term(), term + 1, "one hand-over");
    cluster.controllers.set(first, Fault::None);
    cluster.grow(&ALL, 10).await;
    assert_eq!(cluster.term(), term + 1);
    assert_ne!(cluster.leader(), Some(first));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_leaves_a_node_whose_transactions_reach_nobody() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    let first = cluster.leader().expect("there is one");
    cluster.controllers.set(first, Fault::Mute);
    let took = cluster.grow(&ALL, 3).await;
    assert!(took < 8 * SECOND, "no blocks for {took:?}");
    assert_ne!(cluster.leader(), Some(first));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_controllers_make_slow_blocks_and_no_elections() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 2).await;
    let (leader, term) = (cluster.leader().expect("there is one"), cluster.term());
    cluster.controllers.set_execution(&ALL, 2500 * MILLIS);
    // None of the others is there before the leader's.
    cluster.controllers.set_execution(&[leader], 2300 * MILLIS);
    cluster.grow(&ALL, 3).await;
    assert_eq!(cluster.term(), term);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_state_comes_back_into_the_same_group() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 5).await;
    let group = cluster.group(1);
    cluster.until("a leader", || cluster.leader().is_some()).await;
    let leader = cluster.leader().expect("there is one");
    let follower = ALL.into_iter().find(|id| *id != leader).expect("four of them");
    for id in [follower, leader] {
        cluster.stop(id).await;
        cluster.wipe(id);
        cluster.run(id);
        let rest: Vec<u64> = ALL.into_iter().filter(|other| *other != id).collect();
        cluster.grow(&rest, 2).await;
        cluster.until("it is a voter again", || rest.iter().all(|other| cluster.voters(*other) == ALL)).await;
        cluster.grow(&ALL, 3).await;
        assert_eq!(cluster.group(id), group);
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_state_has_no_vote_before_the_others_have_admitted_it() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let group = cluster.group(1);
    cluster.stop(3).await;
    cluster.stop(4).await;
    cluster.wipe(4);
    cluster.run(4);
    let stands = cluster.controllers.top();
    lasts(4 * SECOND).await;
    assert!(cluster.controllers.top() <= stands + 1, "two of four and one that has forgotten are no quorum");
    cluster.run(3);
    cluster.grow(&ALL, 3).await;
    cluster.until("it is a voter again", || cluster.voters(1) == ALL && cluster.voters(4) == ALL).await;
    assert_eq!(cluster.group(4), group);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_has_lost_too_many_is_left_and_the_chain_goes_on_in_another() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 3).await;
    let group = cluster.group(1);
    for id in ALL {
        cluster.stop(id).await;
    }
    cluster.wipe(3);
    cluster.wipe(4);
    ALL.into_iter().for_each(|id| cluster.run(id));
    cluster.grow(&ALL, 3).await;
    assert_ne!(cluster.group(1), group);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_have_lost_their_state_they_found_another_group_and_the_chain_goes_on() {
    let cluster = Cluster::four(INTERVAL);
    cluster.grow(&ALL, 5).await;
    let group = cluster.group(1);
    for id in ALL {
        cluster.stop(id).await;
        cluster.wipe(id);
    }
    ALL.into_iter().for_each(|id| cluster.run(id));
    cluster.grow(&ALL, 3).await;
    assert_ne!(cluster.group(1), group);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_were_set_back_get_the_same_blocks_again() {
    let cluster = Cluster::four(Duration::ZERO);
    cluster.grow(&ALL, 110).await;
    cluster.controllers.configure(&ALL, INTERVAL);
    cluster.grow(&ALL, 2).await;
    for id in ALL {
        cluster.stop(id).await;
    }
    cluster.controllers.set_back(&ALL, 1);
    ALL.into_iter().for_each(|id| cluster.run(id));
    cluster.grow(&ALL, 3).await;
    cluster.controllers.set_back(&[2], 100);
    cluster.grow(&ALL, 3).await;
    cluster.end().await;
}
