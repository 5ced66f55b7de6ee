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
