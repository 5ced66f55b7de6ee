//! Stories of what a replica finds after a restart, and of when its snapshots are due. The R numbers are those of
//! the catalogue (`docs/catalogue.md`).

use super::*;

fn snapshots(every_entries: u64, keep_entries: u64) -> ReplicaConfig {
    let policy = SnapshotPolicy { every_entries, keep_entries };
    ReplicaConfig { snapshots: Some(policy), ..config() }
}

/// The only voter, which leads and has applied its first entry.
fn sole_leader(config: ReplicaConfig) -> Story {
    let mut story = Story::with(1, &members(&[1], &[]), config);
    lead_alone(&mut story);
    story
}

fn lead_alone(story: &mut Story) {
    story.event(Event::Tick);
    story.settle();
    assert_eq!(story.status().role, Role::Leader);
}

fn apply_one(story: &mut Story) {
    story.propose(story.status().last, b"block");
    story.settle();
}

/// The application builds what was asked for.
fn build(story: &mut Story) {
    assert_eq!(std::mem::take(&mut story.builds), 1, "a snapshot is due at {}", story.status().applied);
    let index = story.status().applied;
    story.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"state")) });
    story.settle();
}

#[test]
fn r05_with_an_interval_of_one_entry_every_entry_has_its_snapshot() {
    let mut story = sole_leader(snapshots(1, 0));
    build(&mut story);
    for last in 2..=4 {
        apply_one(&mut story);
        build(&mut story);
        let snapshot = story.store.open_chain(story.chain).unwrap().snapshot.unwrap();
        assert_eq!((snapshot.position.index, story.status().first), (last, last + 1));
    }
}

#[test]
fn r10_r11_a_restart_leaves_the_next_snapshot_where_it_was_due() {
    let mut story = sole_leader(snapshots(5, 0));
    (2..=5).for_each(|_| apply_one(&mut story));
    build(&mut story);
    (6..=7).for_each(|_| apply_one(&mut story));
    story.ticks(2);
    story.persist();
    let mut story = Story::open(1, story.store.clone(), snapshots(5, 0));
    lead_alone(&mut story);
    apply_one(&mut story);
    assert_eq!((story.status().applied, story.builds), (9, 0), "5 + 5 are 10");
    apply_one(&mut story);
    assert_eq!((story.status().applied, story.builds), (10, 1));
}

#[test]
fn r16_the_log_keeps_what_it_shall_behind_each_snapshot_also_after_a_restart() {
    for keep in [1, 2] {
        let mut story = sole_leader(snapshots(4, keep));
        for index in 2..=16 {
            apply_one(&mut story);
            if index % 4 == 0 {
                build(&mut story);
                assert_eq!(story.status().first, index - keep + 1);
            }
        }
        let story = Story::open(1, story.store.clone(), snapshots(4, keep));
        assert_eq!((story.status().first, story.status().last), (16 - keep + 1, 16));
    }
}

/// Follower 2 of three that has installed a snapshot up to 50 of term 3.
fn installed() -> Story {
    let mut story = Story::new(2, &[1, 2, 3]);
    let mut message = message(MessageType::MsgSnapshot, 1, 2, 3);
    message.set_snapshot(snapshot_message(50, 3, &[1, 2, 3]));
    story.peer(message);
    story.persist();
    story.event(Event::SnapshotInstalled { index: 50 });
    story.persist();
    story
}

#[test]
fn r08_after_a_restart_on_a_snapshot_without_a_log_the_log_goes_on_behind_it() {
    let mut story = Story::open(2, installed().store, config());
    let status = story.status();
    assert_eq!((status.first, status.last, status.applied), (51, 50, 50));
    assert!(story.installs.is_empty(), "the application has it");
    story.peer(append(1, 2, 3, (50, 3), &[(51, 3)], 51));
    story.settle();
    assert_eq!(story.status().applied, 51);
}

#[test]
fn r09_after_a_restart_the_entries_behind_the_snapshot_are_handed_out_again() {
    let mut story = installed();
    story.peer(append(1, 2, 3, (50, 3), &[(51, 3), (52, 3)], 52));
    story.persist();
    assert_eq!(story.to_apply.len(), 2, "the application takes its time");
    let mut story = Story::open(2, story.store.clone(), config());
    story.peer(append(1, 2, 3, (52, 3), &[], 52));
    let handed: Vec<u64> = story.to_apply.iter().map(|committed| committed.entry.index).collect();
    assert_eq!(handed, [51, 52]);
}

#[test]
fn r18_a_snapshot_of_what_is_committed_here_is_ignored_and_answered_with_how_far_this_log_is() {
    let mut story = Story::new(2, &[1, 2, 3]);
    let entries: Vec<(u64, u64)> = (1..=60).map(|index| (index, 1)).collect();
    story.peer(append(1, 2, 1, (0, 0), &entries, 60));
    story.settle();
    story.sent.clear();
    // Long enough for its acknowledgement to have got lost.
    story.ticks(2);
    let mut message = message(MessageType::MsgSnapshot, 1, 2, 1);
    message.set_snapshot(snapshot_message(50, 1, &[1, 2, 3]));
    story.peer(message);
    story.settle();
    assert!(story.installs.is_empty());
    let status = story.status();
    assert_eq!((status.first, status.last, status.applied), (1, 60, 60));
    let answers = story.take_sent(MessageType::MsgAppendResponse);
    assert_eq!((answers.len(), answers[0].index, answers[0].reject), (1, 60, false));
}
