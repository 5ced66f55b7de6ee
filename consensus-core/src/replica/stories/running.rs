//! Stories of a group in its ordinary course: leaders come and go, messages get lost, somebody is cut off. The N
//! numbers are those of the catalogue (`docs/catalogue.md`).

use super::*;

/// Leader 1 of three that both others follow closely.
fn followed_leader(config: ReplicaConfig) -> Story {
    let mut story = Story::with(1, &members(&[1, 2, 3], &[]), config);
    story.lead(2);
    story.acknowledge(3);
    story.sent.clear();
    story
}

/// Follower 2 of three with one entry of leader 1.
fn follower() -> Story {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 1));
    story.settle();
    story.sent.clear();
    story
}

fn refused_without_leader(story: &mut Story, ticket: u64) {
    story.propose(ticket, b"block");
    assert_eq!(story.answer(ticket), Some(&Outcome::Failed(Refusal::NotLeader { leader: None })));
}

#[test]
fn n05_what_filled_the_pipeline_of_a_lost_leadership_does_not_fill_that_of_the_next() {
    let mut config = config();
    config.limits.inflight_proposals_max = 2;
    let mut story = followed_leader(config);
    story.propose(1, b"one");
    story.propose(2, b"two");
    assert_eq!((story.status().proposals, story.room), (2, Some(0)));
    let term = story.status().term + 1;
    story.peer(append(3, 1, term, (1, 1), &[(2, term)], 2));
    story.settle();
    for ticket in [1, 2] {
        assert!(matches!(story.answer(ticket), Some(Outcome::Failed(Refusal::LeadershipLost { .. }))));
    }
    story.lead(2);
    assert_eq!((story.status().proposals, story.room), (0, Some(2)));
    for ticket in 3..6 {
        story.propose(ticket, b"again");
    }
    assert_eq!((story.answer(3), story.answer(4)), (None, None), "taken");
    assert!(matches!(story.answer(5), Some(Outcome::Failed(Refusal::Overloaded { bound: 2, .. }))));
}

#[test]
fn n08_a_leader_that_nobody_answers_steps_down_within_two_election_timeouts() {
    let mut story = followed_leader(config());
    story.propose(1, b"block");
    story.ticks(2 * config().election_ticks);
    assert_ne!(story.status().role, Role::Leader);
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::LeadershipLost { .. }))));
    assert_eq!(story.room, None);
    refused_without_leader(&mut story, 2);
}

#[test]
fn n10_n21_a_follower_that_is_cut_off_asks_in_vain_and_follows_again_in_the_same_term() {
    let mut story = follower();
    story.ticks(100);
    story.persist();
    assert_eq!((story.status().role, story.status().leader), (Role::PreCandidate, None));
    assert!(story.count_sent(MessageType::MsgRequestPreVote) > 0);
    assert_eq!(story.count_sent(MessageType::MsgRequestVote), 0, "nobody has answered");
    refused_without_leader(&mut story, 1);
    story.peer(message(MessageType::MsgHeartbeat, 1, 2, 1));
    assert_eq!((story.status().role, story.status().leader), (Role::Follower, NodeId::new(1)));
    assert_eq!(story.status().term, 1, "its leader's term");
}

#[test]
fn n21_who_comes_back_gets_no_vote_while_the_leader_is_heard() {
    let mut story = follower();
    let mut request = message(MessageType::MsgRequestPreVote, 3, 2, 2);
    (request.index, request.log_term) = (9, 1);
    story.peer(request.clone());
    story.persist();
    let granted = |story: &mut Story| {
        story.take_sent(MessageType::MsgRequestPreVoteResponse).iter().any(|response| !response.reject)
    };
    assert!(!granted(&mut story));
    assert_eq!((story.status().term, story.status().leader), (1, NodeId::new(1)));
    story.ticks(2 * config().election_ticks);
    story.peer(request);
    story.persist();
    assert!(granted(&mut story), "its leader has gone");
}

#[test]
fn n20_n22_a_stale_log_gets_no_vote_and_one_that_has_caught_up_gets_it() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 2, (0, 0), &[(1, 1), (2, 2)], 0));
    story.settle();
    let mut story = Story::open(2, story.store.clone(), config());
    for (term, log, refused) in [(5, (9, 1), true), (6, (1, 2), true), (7, (2, 2), false)] {
        let mut request = message(MessageType::MsgRequestVote, 3, 2, term);
        (request.index, request.log_term) = log;
        story.peer(request);
        story.settle();
        let responses = story.take_sent(MessageType::MsgRequestVoteResponse);
        assert_eq!((responses.len(), responses[0].reject), (1, refused), "{log:?}");
    }
}

#[test]
fn n11_an_append_that_got_lost_is_sent_again_when_a_heartbeat_is_answered() {
    let mut story = followed_leader(config());
    story.propose(1, b"block");
    let lost = story.take_sent(MessageType::MsgAppend).pop().unwrap();
    assert_eq!(lost.entries[0].data, &b"block"[..]);
    story.peer(message(MessageType::MsgHeartbeatResponse, 2, 1, 1));
    let probe = story.take_sent(MessageType::MsgAppend).pop().expect("it is asked what it has");
    let mut refusal = message(MessageType::MsgAppendResponse, 2, 1, 1);
    (refusal.reject, refusal.index, refusal.reject_hint, refusal.log_term) = (true, probe.index, 1, 1);
    story.peer(refusal);
    let again = story.take_sent(MessageType::MsgAppend).pop().expect("sent again");
    assert_eq!((again.to, again.index), (2, 1));
    assert_eq!(again.entries, lost.entries);
}

#[test]
fn n12_blocks_are_proposed_and_sent_while_those_before_them_are_under_way() {
    let mut story = followed_leader(config());
    for ticket in 0..5 {
        story.propose(ticket, b"block");
    }
    let sent: Vec<u64> = story
        .take_sent(MessageType::MsgAppend)
        .iter()
        .filter(|append| append.to == 2)
        .flat_map(|append| append.entries.iter().map(|entry| entry.index))
        .collect();
    assert_eq!(sent, [2, 3, 4, 5, 6], "nothing is durable, acknowledged or applied yet");
    assert!(story.answers.is_empty());
    story.persist();
    story.acknowledge(2);
    story.settle();
    let applied = |ticket| matches!(story.answer(ticket), Some(Outcome::Applied { .. }));
    assert!((0..5).all(applied));
}
