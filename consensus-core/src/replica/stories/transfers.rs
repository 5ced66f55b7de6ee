//! Whom leadership is handed to, and who is told to be active, at every moment of the leader's own clock.

use super::*;

/// The answers of these peers to a heartbeat.
fn answers(story: &mut Story, peers: &[u64]) {
    for from in peers {
        story.peer(message(MessageType::MsgHeartbeatResponse, *from, 1, story.status().term));
    }
}

/// Heartbeats, and the answers of these peers to them.
fn answered_by(story: &mut Story, peers: &[u64], ticks: usize) {
    for _ in 0..ticks {
        story.ticks(1);
        answers(story, peers);
    }
}

/// Leads two others that have its whole log.
fn leader() -> Story {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.acknowledge(3);
    story
}

/// To whom a transfer without a named target goes.
fn handed_to(story: &mut Story) -> Result<u64, Outcome> {
    story.sent.clear();
    story.control(1, Control::TransferLeader { to: None });
    if let Some(refusal) = story.answer(1) {
        return Err(refusal.clone());
    }
    let now = story.take_sent(MessageType::MsgTimeoutNow);
    Ok(now.first().map_or(0, |message| message.to))
}

#[test]
fn leadership_can_be_handed_over_while_the_answers_to_a_heartbeat_are_on_their_way() {
    for ticks in 0..=2 * config().election_ticks {
        let mut story = leader();
        answered_by(&mut story, &[2, 3], ticks);
        story.ticks(1);
        assert_eq!(
            handed_to(&mut story),
            Ok(2),
            "after {ticks} ticks and one whose heartbeat is not answered yet"
        );
    }
}

#[test]
fn of_voters_that_are_equally_far_on_one_that_still_answers_takes_over() {
    for ticks in 1..config().election_ticks {
        let mut story = leader();
        answered_by(&mut story, &[3], ticks);
        assert_eq!(handed_to(&mut story), Ok(3), "node 2 has been silent for {ticks} ticks");
    }
}

#[test]
fn a_voter_that_was_silent_for_an_election_timeout_does_not_take_over() {
    let mut story = leader();
    answered_by(&mut story, &[2], 2 * config().election_ticks);
    story.control(2, Control::TransferLeader { to: NodeId::new(3) });
    assert!(matches!(story.answer(2), Some(Outcome::Failed(Refusal::Transfer(_)))));
}

#[test]
fn a_peer_that_answers_every_heartbeat_is_active_at_every_moment() {
    let mut story = leader();
    for tick in 0..3 * config().election_ticks {
        story.ticks(1);
        let active: Vec<bool> = story.status().peers.iter().map(|peer| peer.active).collect();
        assert_eq!(active, [true, true], "tick {tick}, before the answers");
        answers(&mut story, &[2, 3]);
    }
}

/// Leads two others, and has a write under way that node 2 has durable.
fn leader_with_hung_disk() -> Story {
    let mut story = leader();
    story.propose(1, b"block");
    story.acknowledge(2);
    story.sent.clear();
    story
}

/// The ticks for which a leader waits for its disk.
fn patience() -> usize {
    2 * config().election_ticks
}

#[test]
pub(super) fn a_leader_whose_disk_hangs_hands_over_to_one_that_has_what_it_lacks() {
    let mut story = leader_with_hung_disk();
    answered_by(&mut story, &[2, 3], patience() - 1);
    assert_eq!(story.count_sent(MessageType::MsgTimeoutNow), 0, "not yet");
    answered_by(&mut story, &[2, 3], 1);
    let asked: Vec<u64> = story.take_sent(MessageType::MsgTimeoutNow).iter().map(|m| m.to).collect();
    assert_eq!(asked, [2]);
    let to = NodeId::new(2).unwrap();
    assert!(story.reports.contains(&Report::DiskHangs { ticks: patience() as u64, to }));
    let term = story.status().term;
    story.peer(message(MessageType::MsgHeartbeat, 2, 1, term + 1));
    let leader = NodeId::new(2);
    assert_eq!(story.answer(1), Some(&Outcome::Failed(Refusal::LeadershipLost { leader })));
}

#[test]
fn a_leader_whose_disk_hangs_asks_again_when_nobody_took_over() {
    let mut story = leader_with_hung_disk();
    answered_by(&mut story, &[2, 3], patience());
    assert_eq!(story.take_sent(MessageType::MsgTimeoutNow).len(), 1);
    answered_by(&mut story, &[2, 3], config().election_ticks + 1);
    assert_eq!(story.take_sent(MessageType::MsgTimeoutNow).len(), 1);
    story.persist();
    answered_by(&mut story, &[2, 3], 3 * patience());
    assert_eq!(story.take_sent(MessageType::MsgTimeoutNow).len(), 0, "the disk is well again");
    assert_eq!(story.status().role, Role::Leader);
    story.propose(2, b"next");
    assert_eq!(story.answer(2), None, "accepted");
}

#[test]
fn a_leader_whose_disk_hangs_leads_on_where_nobody_else_has_more() {
    let mut story = leader();
    story.propose(1, b"block");
    story.sent.clear();
    answered_by(&mut story, &[2, 3], 3 * patience());
    assert_eq!(story.count_sent(MessageType::MsgTimeoutNow), 0);
    assert_eq!(story.status().role, Role::Leader);
}

#[test]
fn a_leader_whose_disk_hangs_does_not_hand_over_to_one_that_is_silent() {
    let mut story = leader_with_hung_disk();
    answered_by(&mut story, &[3], 3 * patience());
    assert_eq!(story.count_sent(MessageType::MsgTimeoutNow), 0);
}

#[test]
fn a_leader_with_a_slow_disk_and_many_writes_under_way_leads_on() {
    let mut story = leader_with_hung_disk();
    for _ in 0..3 * patience() {
        story.propose(2, b"more");
        story.acknowledge(2);
        while story.writes.len() > patience() / 2 {
            story.persist_one();
        }
        answered_by(&mut story, &[2, 3], 1);
    }
    assert_eq!(story.count_sent(MessageType::MsgTimeoutNow), 0);
}
