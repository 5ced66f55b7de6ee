//! Stories of a membership that changes while members are late, cut off or fail at the worst moment. The M numbers
//! are those of the catalogue (`docs/catalogue.md`).

use raft::eraftpb::ConfChangeType;

use super::*;

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn change(change: MembershipChange) -> Control {
    Control::ChangeMembership { changes: vec![change] }
}

/// Until a change that `voter` has to acknowledge is through.
fn carry_through(story: &mut Story, voter: u64) {
    for _ in 0..4 {
        story.settle();
        story.acknowledge(voter);
        story.settle();
    }
}

#[test]
fn m03_a_transfer_whose_message_got_lost_can_be_asked_for_again() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let to = NodeId::new(2);
    story.control(1, Control::TransferLeader { to });
    assert_eq!(story.take_sent(MessageType::MsgTimeoutNow).len(), 1, "and it gets lost");
    heartbeats_answered(&mut story, config().election_ticks);
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::Transfer(_)))));
    story.control(2, Control::TransferLeader { to });
    assert_eq!(story.take_sent(MessageType::MsgTimeoutNow).len(), 1);
    story.peer(message(MessageType::MsgHeartbeat, 2, 1, story.status().term + 1));
    assert_eq!(story.answer(2), Some(&Outcome::Done));
}

#[test]
fn m04_a_leader_that_has_removed_a_follower_goes_on_without_it() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.control(1, change(MembershipChange::Remove(node(3))));
    carry_through(&mut story, 2);
    assert_eq!((story.answer(1), story.status().voters), (Some(&Outcome::Done), vec![1, 2]));
    let peers: Vec<u64> = story.status().peers.iter().map(|peer| peer.node_id.get()).collect();
    assert_eq!(peers, [2]);
    story.sent.clear();
    story.propose(2, b"block");
    carry_through(&mut story, 2);
    story.ticks(1);
    assert!(matches!(story.answer(2), Some(Outcome::Applied { .. })));
    assert!(story.sent.iter().all(|message| message.to == 2), "{:?}", story.sent);
}

#[test]
fn m10_a_peer_that_starts_late_is_sent_the_log_from_where_it_is() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    for ticket in 0..5 {
        story.propose(ticket, b"block");
        story.settle();
        story.acknowledge(2);
        story.settle();
    }
    story.sent.clear();
    story.peer(message(MessageType::MsgHeartbeatResponse, 3, 1, story.status().term));
    let append = story.take_sent(MessageType::MsgAppend).pop().expect("it lacks everything");
    let indexes: Vec<u64> = append.entries.iter().map(|entry| entry.index).collect();
    assert_eq!((append.to, append.index, indexes), (3, 0, vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(append.commit, 6);
}

#[test]
fn m16_a_follower_that_was_cut_off_during_a_change_has_the_membership_with_the_log() {
    let mut story = Story::new(3, &[1, 2, 3]);
    let mut missed = append(1, 3, 1, (0, 0), &[(1, 1)], 100);
    missed.mut_entries().push(change_entry(2, 1, ConfChangeType::AddLearnerNode, 4));
    for index in 3..=100 {
        missed.mut_entries().push(entry(index, 1, b"x"));
    }
    story.peer(missed);
    story.persist();
    assert_eq!(story.status().learners, [] as [u64; 0], "not before its application has it");
    story.settle();
    assert_eq!((story.status().applied, story.status().learners), (100, vec![4]));
}

/// Follower 2 of {1, 2, 3} that has applied the step of {1, 2, 4} into its joint phase.
fn follower_in_a_joint_phase() -> Story {
    use protobuf::Message as _;
    let single = |kind, id| {
        let mut single = raft::eraftpb::ConfChangeSingle { node_id: id, ..Default::default() };
        single.set_change_type(kind);
        single
    };
    let singles = vec![single(ConfChangeType::AddNode, 4), single(ConfChangeType::RemoveNode, 3)];
    let mut both = raft::eraftpb::ConfChangeV2::default();
    both.set_changes(singles.into());
    let mut joint = entry(2, 1, b"");
    joint.data = both.write_to_bytes().unwrap().into();
    joint.set_entry_type(EntryType::EntryConfChangeV2);
    let mut story = Story::new(2, &[1, 2, 3]);
    let mut message = append(1, 2, 1, (0, 0), &[(1, 1)], 2);
    message.mut_entries().push(joint);
    story.peer(message);
    story.settle();
    story.ticks(2);
    story.persist();
    assert!(story.status().joint);
    story
}

#[test]
fn m17_m18_whoever_leads_next_finishes_a_change_also_after_a_restart_of_all() {
    for restarted in [false, true] {
        let mut story = follower_in_a_joint_phase();
        if restarted {
            story = Story::open(2, story.store.clone(), config());
            assert!(story.status().joint, "the joint phase is on the disk");
        }
        story.elect(1);
        carry_through(&mut story, 1);
        assert_eq!((story.status().joint, story.status().voters), (false, vec![1, 2, 4]));
    }
}

#[test]
fn m19_a_replica_that_was_removed_takes_neither_proposals_nor_reads_and_is_not_ready() {
    let mut story = Story::new(3, &[1, 2, 3]);
    let mut removal = append(1, 3, 1, (0, 0), &[(1, 1)], 2);
    removal.mut_entries().push(change_entry(2, 1, ConfChangeType::RemoveNode, 3));
    story.peer(removal);
    story.settle();
    assert!(story.reports.contains(&Report::Removed));
    story.propose(1, b"block");
    story.event(Event::ReadIndex { ticket: Ticket(2) });
    let told = Outcome::Failed(Refusal::NotLeader { leader: NodeId::new(1) });
    assert_eq!((story.answer(1), story.answer(2)), (Some(&told), Some(&told)));
    // The others send it nothing any more.
    story.ticks(2 * config().election_ticks + 1);
    assert!(!health::is_ready(&story.status(), health::LAG_ENTRIES_MAX));
}

#[test]
fn m20_a_change_that_was_in_flight_when_leadership_was_lost_is_answered_and_holds_up_no_other() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.control(1, change(MembershipChange::AddLearner(node(4))));
    let term = story.status().term + 1;
    story.peer(append(3, 1, term, (1, 1), &[(2, term)], 2));
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::LeadershipLost { .. }))));
    story.settle();
    assert_eq!(story.status().learners, [] as [u64; 0], "the change was overwritten");
    story.lead(2);
    story.control(2, change(MembershipChange::AddLearner(node(5))));
    carry_through(&mut story, 2);
    assert_eq!((story.answer(2), story.status().learners), (Some(&Outcome::Done), vec![5]));
}
