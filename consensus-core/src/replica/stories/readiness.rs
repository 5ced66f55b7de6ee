//! Stories of when clients can be sent to a replica, where its own memory of a leader would say something else.

use super::*;

fn is_ready(story: &Story) -> bool {
    health::is_ready(&story.status(), health::LAG_ENTRIES_MAX)
}

fn heartbeat(story: &mut Story, commit: u64) {
    let mut heartbeat = message(MessageType::MsgHeartbeat, 1, 2, 1);
    heartbeat.commit = commit;
    story.peer(heartbeat);
    story.settle();
}

/// Member 2 that was restarted with one entry of leader 1.
fn restarted(members: &ConfState) -> Story {
    let mut story = Story::with(2, members, config());
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 1));
    story.settle();
    assert!(is_ready(&story));
    story.ticks(2);
    story.persist();
    Story::open(2, story.store.clone(), config())
}

#[test]
fn after_a_start_a_follower_is_not_ready_before_its_leader_has_told_how_far_the_chain_is() {
    let mut story = restarted(&members(&[1, 2, 3], &[]));
    assert!(!is_ready(&story), "it has heard nobody");
    heartbeat(&mut story, 1);
    assert!(!is_ready(&story), "a heartbeat tells no more than what this log has");
    let far = 2 * health::LAG_ENTRIES_MAX;
    story.peer(append(1, 2, 1, (far, 1), &[], far));
    story.ticks(config().election_ticks);
    heartbeat(&mut story, 1);
    assert!(!is_ready(&story), "it is {far} entries behind, and knows of one");
    assert_eq!(story.status().told_commit, Some(far));
}

#[test]
fn where_nothing_happens_heartbeats_that_bring_nothing_tell_that_nothing_is_missing() {
    let mut story = restarted(&members(&[1, 2, 3], &[]));
    heartbeat(&mut story, 1);
    story.ticks(4);
    heartbeat(&mut story, 1);
    assert!(!is_ready(&story), "what is missing may be on its way");
    story.ticks(1);
    heartbeat(&mut story, 1);
    assert!(is_ready(&story));
    story.ticks(config().election_ticks);
    assert!(is_ready(&story));
}

#[test]
fn a_learner_is_not_ready_when_its_leader_has_fallen_silent() {
    let mut story = restarted(&members(&[1, 3], &[2]));
    story.peer(append(1, 2, 1, (1, 1), &[(2, 1)], 2));
    story.settle();
    story.ticks(2 * config().election_ticks);
    assert!(is_ready(&story));
    story.ticks(1);
    assert_eq!(story.status().leader, NodeId::new(1), "the crate would remember it for ever");
    assert!(!is_ready(&story));
    heartbeat(&mut story, 2);
    assert!(is_ready(&story));
}

#[test]
fn a_leader_is_not_ready_before_it_has_committed_in_its_own_term() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.peer(append(2, 1, 1, (0, 0), &[(1, 1), (2, 1)], 1));
    story.settle();
    story.elect(3);
    assert!(!is_ready(&story), "it does not know how much of its log is committed");
    story.settle();
    story.acknowledge(3);
    story.settle();
    assert!(is_ready(&story));
}

#[test]
fn a_replica_that_installs_a_snapshot_is_not_ready_and_has_to_be_told_anew() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 1));
    story.settle();
    assert!(is_ready(&story));
    let mut message = message(MessageType::MsgSnapshot, 1, 2, 1);
    message.set_snapshot(snapshot_message(50, 1, &[1, 2, 3]));
    story.peer(message);
    assert!(!is_ready(&story));
    story.persist();
    assert!(!is_ready(&story), "durable, and not yet in the application");
    story.event(Event::SnapshotInstalled { index: 50 });
    story.persist();
    assert!(!is_ready(&story), "what was said meanwhile was not listened to");
    story.peer(append(1, 2, 1, (50, 1), &[(51, 1)], 51));
    story.settle();
    assert!(is_ready(&story));
}
