//! Stories of snapshots: lost on the way, on their way to the disk, and ahead of what the application is doing.

use super::*;

/// Leader 1 of three with a compacted log and a snapshot just sent to 3.
fn leader_that_sent_a_snapshot() -> Story {
    let policy = SnapshotPolicy { every_entries: 5, keep_entries: 0 };
    let config = ReplicaConfig { snapshots: Some(policy), snapshot_timeout_ticks: 20, ..config() };
    let mut story = Story::with(1, &members(&[1, 2, 3], &[]), config);
    story.lead(2);
    for ticket in 0..5 {
        story.propose(ticket, b"block");
        story.settle();
        story.acknowledge(2);
        story.settle();
    }
    assert_eq!(story.builds, 1);
    let index = story.status().applied;
    story.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"state")) });
    story.settle();
    assert_eq!(story.status().first, index + 1);
    story.sent.clear();
    let mut reject = message(MessageType::MsgAppendResponse, 3, 1, story.status().term);
    reject.reject = true;
    story.peer(reject);
    assert_eq!(story.count_sent(MessageType::MsgSnapshot), 1);
    story.sent.clear();
    story
}

#[test]
fn t14_a_snapshot_that_got_lost_is_sent_again_after_its_time() {
    let mut story = leader_that_sent_a_snapshot();
    heartbeats_answered(&mut story, 10);
    assert_eq!(story.count_sent(MessageType::MsgSnapshot), 0, "not before its time");
    heartbeats_answered(&mut story, 15);
    assert!(story.count_sent(MessageType::MsgAppend) + story.count_sent(MessageType::MsgSnapshot) > 0);
}

#[test]
fn t14_a_snapshot_that_the_transport_lost_is_sent_again_at_once() {
    let mut story = leader_that_sent_a_snapshot();
    let peer = NodeId::new(3).unwrap();
    story.event(Event::PeerReport { peer, report: PeerReport::SnapshotFailed });
    heartbeats_answered(&mut story, 2);
    assert!(story.count_sent(MessageType::MsgAppend) + story.count_sent(MessageType::MsgSnapshot) > 0);
}

fn receive_snapshot(story: &mut Story) {
    let mut message = message(MessageType::MsgSnapshot, 1, 2, 3);
    message.set_snapshot(snapshot_message(50, 3, &[1, 2, 3]));
    story.peer(message);
}

#[test]
fn t22_nothing_disturbs_a_replica_while_a_snapshot_is_on_its_way_to_the_disk() {
    let mut story = Story::new(2, &[1, 2, 3]);
    receive_snapshot(&mut story);
    story.ticks(60);
    story.peer(message(MessageType::MsgTimeoutNow, 1, 2, 3));
    story.control(1, Control::Campaign);
    story.event(Event::Applied { index: 0 });
    assert_eq!(story.halted, None);
    assert_eq!(story.installs.len(), 0, "not durable yet");
    assert_eq!(story.status().role, Role::Follower, "the crate was not called");
    story.persist();
    assert_eq!(story.halted, None);
    assert_eq!((story.installs.len(), story.status().applied), (1, 50));
    // The application takes its time: still no election, no append, and no acknowledgement.
    story.ticks(60);
    story.peer(append(1, 2, 3, (50, 3), &[(51, 3)], 50));
    assert_eq!(story.status().last, 50);
    assert_eq!(story.count_sent(MessageType::MsgAppendResponse), 0);
    story.event(Event::SnapshotInstalled { index: 50 });
    story.persist();
    let acks = story.take_sent(MessageType::MsgAppendResponse);
    assert_eq!((acks.len(), acks[0].index), (1, 50));
    story.ticks(60);
    assert_eq!(story.halted, None);
    assert_eq!(story.status().role, Role::PreCandidate, "elections are possible again");
    story.peer(append(1, 2, 3, (50, 3), &[(51, 3)], 51));
    story.settle();
    assert_eq!(story.status().applied, 51);
}

#[test]
fn nobody_stands_while_its_snapshot_waits_for_an_earlier_write() {
    let mut story = Story::with(2, &members(&[1, 3], &[2]), config());
    story.peer(append(1, 2, 3, (0, 0), &[(1, 3)], 0));
    assert_eq!(story.writes.len(), 1, "the snapshot has to wait for this write");
    receive_snapshot(&mut story);
    story.ticks(60);
    story.peer(message(MessageType::MsgTimeoutNow, 1, 2, 3));
    story.control(1, Control::Campaign);
    assert_eq!(story.status().learners, [2], "it goes by the membership before");
    assert_eq!(story.status().role, Role::Follower, "in which it has no vote");
    story.persist();
    story.event(Event::SnapshotInstalled { index: 50 });
    story.persist();
    story.ticks(60);
    assert_eq!(story.status().role, Role::PreCandidate, "it is a voter by its snapshot");
}

#[test]
fn what_waits_for_the_application_waits_until_it_has_the_snapshot() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.lead(3);
    story.propose(1, b"block");
    story.persist();
    story.acknowledge(3);
    assert_eq!(story.to_apply.len(), 1, "committed, and the application takes its time");
    story.event(Event::ReadIndex { ticket: Ticket(2) });
    let heartbeat = story.take_sent(MessageType::MsgHeartbeat).pop().unwrap();
    let mut response = message(MessageType::MsgHeartbeatResponse, 3, 2, story.status().term);
    response.context = heartbeat.context;
    story.peer(response);
    receive_snapshot(&mut story);
    story.persist();
    assert_eq!((story.installs.len(), story.status().applied), (1, 50));
    assert_eq!(story.answers, [], "the application has neither the block nor the snapshot");
    story.event(Event::SnapshotInstalled { index: 50 });
    assert_eq!(story.answer(1), Some(&Outcome::Applied { index: 2, term: 1 }));
    assert_eq!(story.answer(2), Some(&Outcome::ReadIndex { index: 2 }));
}

#[test]
fn an_installation_that_a_crash_interrupted_is_resumed() {
    let mut story = Story::new(2, &[1, 2, 3]);
    receive_snapshot(&mut story);
    story.persist();
    assert_eq!(story.installs.len(), 1);
    story.store.crash(0);
    let mut again = Story::open(2, story.store.clone(), config());
    again.ticks(1);
    assert_eq!(again.installs.len(), 1);
    assert_eq!(again.installs[0].position.index, 50);
    assert!(again.status().installing);
}

#[test]
fn what_was_applied_when_a_snapshot_came_leaves_its_membership_alone() {
    let mut story = Story::new(2, &[1, 2, 3]);
    let mut change = append(1, 2, 3, (0, 0), &[(1, 3)], 2);
    change.mut_entries().push(change_entry(2, 3, raft::eraftpb::ConfChangeType::RemoveNode, 3));
    story.peer(change);
    story.persist();
    assert_eq!(story.to_apply.len(), 2, "the application takes its time");
    story.peer(append(1, 2, 3, (2, 3), &[(3, 3)], 2));
    assert_eq!(story.writes.len(), 1, "the snapshot has to wait for this write");
    receive_snapshot(&mut story);
    story.event(Event::Applied { index: 2 });
    assert_eq!((story.halted.as_deref(), story.status().applied), (None, 0), "the snapshot stands for it");
    story.persist();
    story.event(Event::SnapshotInstalled { index: 50 });
    story.persist();
    assert_eq!((story.status().applied, story.status().voters), (50, vec![1, 2, 3]));
    assert_eq!(story.replica.raw.raft.prs().conf().voters().ids().len(), 3, "as in the snapshot");
}
