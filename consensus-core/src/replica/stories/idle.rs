//! Stories of ticks that nobody needs.

use super::*;

/// Everything that a replica has said and done so far.
fn deeds(story: &Story) -> (usize, usize, usize, usize) {
    (story.sent.len(), story.writes.len(), story.reports.len(), story.answers.len())
}

/// Sleeps through what it may sleep through, then ticks once; how many ticks that were together.
fn sleep_and_tick(story: &mut Story) -> u64 {
    let idle = story.replica.idle_ticks();
    let before = deeds(story);
    for slept in 1..idle {
        story.ticks(1);
        assert_eq!(deeds(story), before, "tick {slept} of {idle} was not for nothing");
        assert_eq!(story.replica.idle_ticks(), idle - slept);
    }
    story.ticks(1);
    idle
}

#[test]
fn a_follower_sleeps_until_its_election_timeout() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.settle();
    story.ticks(1);
    story.settle();
    let slept = sleep_and_tick(&mut story);
    let config = config();
    assert!(
        (config.election_ticks_min as u64 - 1..=config.election_ticks_max as u64).contains(&slept),
        "{slept}"
    );
    assert!(story.count_sent(MessageType::MsgRequestPreVote) > 0, "it stands in the last of them");
}

#[test]
fn the_leader_being_heard_lets_a_follower_sleep_longer() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(message(MessageType::MsgHeartbeat, 1, 2, 1));
    story.settle();
    story.ticks(1);
    story.settle();
    let before = story.replica.idle_ticks();
    story.ticks(5);
    assert_eq!(story.replica.idle_ticks(), before - 5);
    story.peer(message(MessageType::MsgHeartbeat, 1, 2, 1));
    assert_eq!(story.replica.idle_ticks(), before + 1);
}

#[test]
fn a_leader_sleeps_until_its_next_heartbeat() {
    let mut story =
        Story::with(1, &members(&[1, 2, 3], &[]), ReplicaConfig { heartbeat_ticks: 4, ..config() });
    story.lead(2);
    story.settle();
    story.acknowledge(2);
    story.settle();
    story.ticks(1);
    story.settle();
    for _ in 0..10 {
        story.acknowledge(2);
        story.sent.clear();
        let slept = sleep_and_tick(&mut story);
        assert!(slept <= 4, "{slept}");
        let due = story.count_sent(MessageType::MsgHeartbeat) > 0;
        assert!(due || story.replica.raw.raft.election_elapsed == 0, "a heartbeat, or a look at its quorum");
    }
}

#[test]
fn whoever_waits_for_something_does_not_sleep() {
    let mut story =
        Story::with(1, &members(&[1, 2, 3], &[]), ReplicaConfig { heartbeat_ticks: 4, ..config() });
    story.lead(2);
    story.ticks(5);
    story.settle();
    assert!(story.replica.idle_ticks() > 1);
    story.event(Event::ReadIndex { ticket: Ticket(1) });
    story.settle();
    assert_eq!(story.replica.idle_ticks(), 1, "a read may time out");

    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    assert_eq!(story.replica.idle_ticks(), 1, "a write is under way");
    story.settle();
    story.peer(append(1, 2, 1, (1, 1), &[], 1));
    story.apply();
    assert_eq!(story.replica.idle_ticks(), 1, "the next tick writes what is applied");
    story.ticks(1);
    story.settle();
    assert!(story.replica.idle_ticks() > 1);
}

#[test]
fn a_learner_waits_for_others_only() {
    let mut story = Story::with(4, &members(&[1, 2, 3], &[4]), config());
    story.settle();
    story.ticks(1);
    story.settle();
    assert_eq!(story.replica.idle_ticks(), u64::MAX);
}
