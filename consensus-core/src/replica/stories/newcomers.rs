//! Stories of replicas that come to a chain: its founders, and those that join it later or again.

use super::*;
use crate::storage::{self, Position};

fn founding_snapshot(voters: &[u64]) -> Snapshot {
    Snapshot {
        position: Position { index: 1, term: 1 },
        conf_state: members(voters, &[]),
        data: Bytes::from_static(b"founded"),
    }
}

fn founder(node: u64, voters: &[u64]) -> Story {
    let store = Arc::new(MemoryStore::new());
    storage::found(&*store, &identity(node), founding_snapshot(voters)).unwrap();
    Story::open(node, store, config())
}

fn newcomer(node: u64) -> Story {
    Story::with(node, &members(&[], &[]), config())
}

fn invitation(index: u64, term: u64, learners: &[u64]) -> Message {
    let mut snapshot = snapshot_message(index, term, &[1, 2]);
    snapshot.mut_metadata().mut_conf_state().set_learners(learners.to_vec());
    let mut message = message(MessageType::MsgSnapshot, 1, 3, term);
    message.set_snapshot(snapshot);
    message
}

#[test]
pub(super) fn a_newcomer_gives_no_vote_and_asks_for_none() {
    let mut story = newcomer(3);
    story.ticks(100);
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote, MessageType::MsgTimeoutNow] {
        let mut request = message(kind, 1, 3, 5);
        request.index = 100;
        request.log_term = 4;
        story.peer(request);
    }
    story.settle();
    assert_eq!(story.sent, Vec::new(), "it may have voted in this term before it lost its store");
    let refused =
        |report: &&Report| matches!(report, Report::GateRefused { reason: "no membership yet", .. });
    assert_eq!(story.reports.iter().filter(refused).count(), 3);
}

#[test]
fn a_newcomer_takes_part_once_a_snapshot_names_it() {
    let mut story = newcomer(3);
    story.peer(invitation(10, 4, &[3]));
    story.persist();
    let installed = story.installs.pop().expect("the application gets the state");
    story.event(Event::SnapshotInstalled { index: installed.position.index });
    story.settle();
    assert_eq!((story.status().voters, story.status().learners), (vec![1, 2], vec![3]));
    story.ticks(100);
    assert_eq!(story.count_sent(MessageType::MsgRequestPreVote), 0, "a learner does not stand");
    let mut request = message(MessageType::MsgRequestVote, 2, 3, 9);
    request.index = 10;
    request.log_term = 4;
    story.peer(request);
    story.settle();
    assert_eq!(story.count_sent(MessageType::MsgRequestVoteResponse), 1);
}

#[test]
fn a_newcomer_ignores_a_snapshot_that_does_not_name_it() {
    let mut story = newcomer(3);
    story.peer(invitation(10, 4, &[]));
    story.settle();
    assert!(story.installs.is_empty());
    assert!(story.status().voters.is_empty());
}

#[test]
fn founders_need_no_election_timeout_and_only_one_of_them_stands_at_once() {
    let mut stood = 0;
    for node in 1..=4 {
        let mut story = founder(node, &[1, 2, 3, 4]);
        assert_eq!((story.status().first, story.status().applied), (2, 1));
        story.ticks(2);
        stood += usize::from(story.count_sent(MessageType::MsgRequestPreVote) > 0);
    }
    assert_eq!(stood, 1);
}

#[test]
fn a_sole_founder_leads_at_once() {
    leads_at_once(&mut founder(1, &[1]));
}

#[test]
fn a_newcomer_is_sent_a_snapshot_that_is_not_older_than_its_admission() {
    let mut story = founder(1, &[1]);
    story.event(Event::Tick);
    story.settle();
    let newcomer = NodeId::new(3).unwrap();
    story.control(1, Control::ChangeMembership { changes: vec![MembershipChange::AddLearner(newcomer)] });
    story.settle();
    assert_eq!(story.answer(1), Some(&Outcome::Done));
    let mut refusal = message(MessageType::MsgAppendResponse, 3, 1, story.status().term);
    refusal.reject = true;
    refusal.index = story.take_sent(MessageType::MsgAppend)[0].index;
    story.peer(refusal);
    assert_eq!(story.count_sent(MessageType::MsgSnapshot), 0, "the founding one does not name it");
    assert_eq!(story.builds, 1);
    let index = story.status().applied;
    story.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"now")) });
    assert!(story.count_sent(MessageType::MsgHeartbeat) > 0, "whoever waits is asked at once");
    story.peer(message(MessageType::MsgHeartbeatResponse, 3, 1, story.status().term));
    let sent = story.take_sent(MessageType::MsgSnapshot);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].get_snapshot().get_metadata().get_conf_state().learners, [3]);
}

/// Node 3 of {1, 2, 3} that has applied its removal and, in the same step, its return as a learner.
fn removed_and_returned() -> Story {
    let mut story = Story::new(3, &[1, 2, 3]);
    let mut entries = append(1, 3, 1, (0, 0), &[(1, 1)], 3);
    entries.mut_entries().push(change_entry(2, 1, raft::eraftpb::ConfChangeType::RemoveNode, 3));
    entries.mut_entries().push(change_entry(3, 1, raft::eraftpb::ConfChangeType::AddLearnerNode, 3));
    story.peer(entries);
    story.settle();
    story
}

#[test]
fn a_replica_that_was_removed_and_returned_in_one_step_is_what_it_was_made_last() {
    let mut story = removed_and_returned();
    assert!(story.reports.contains(&Report::Removed));
    assert_eq!((story.status().voters, story.status().learners), (vec![1, 2], vec![3]));
    story.ticks(2);
    story.persist();
    let state = story.store.open_chain(identity(3).chain_id()).unwrap();
    assert_eq!((state.applied.index, state.applied.conf_state), (3, members(&[1, 2], &[3])));
}

#[test]
fn a_replica_that_was_removed_votes_for_whoever_finishes_the_change_and_never_stands() {
    let mut story = Story::new(3, &[1, 3]);
    let mut entries = append(1, 3, 1, (0, 0), &[(1, 1)], 2);
    entries.mut_entries().push(change_entry(2, 1, raft::eraftpb::ConfChangeType::RemoveNode, 3));
    story.peer(entries);
    story.settle();
    story.ticks(2);
    story.persist();
    // Node 1 forgot in a crash that the change is committed: for it node 3 still votes.
    for restarted in [false, true] {
        if restarted {
            story = Story::open(3, story.store.clone(), config());
        }
        story.sent.clear();
        story.ticks(100);
        let told = story.reports.iter().filter(|report| **report == Report::Removed).count();
        assert_eq!(told, 1, "whoever runs it is told once");
        assert_eq!(story.sent, Vec::new(), "it does not stand");
        let mut request = message(MessageType::MsgRequestVote, 1, 3, 9 + u64::from(restarted));
        (request.index, request.log_term) = (2, 1);
        story.peer(request);
        story.settle();
        let answers = story.take_sent(MessageType::MsgRequestVoteResponse);
        assert!(answers.len() == 1 && !answers[0].reject);
    }
}

#[test]
fn nobody_is_sent_a_snapshot_from_before_its_removal_and_return() {
    let mut story = founder(1, &[1]);
    story.event(Event::Tick);
    story.settle();
    let node = NodeId::new(3).unwrap();
    let changes = [
        MembershipChange::AddLearner(node),
        MembershipChange::Remove(node),
        MembershipChange::AddLearner(node),
    ];
    for (ticket, change) in (1..).zip(changes) {
        story.control(ticket, Control::ChangeMembership { changes: vec![change] });
        story.settle();
        assert_eq!(story.answer(ticket), Some(&Outcome::Done));
        if ticket == 1 {
            let index = story.status().applied;
            story.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"first time")) });
            story.settle();
        }
    }
    let mut refusal = message(MessageType::MsgAppendResponse, 3, 1, story.status().term);
    refusal.reject = true;
    refusal.index = story.take_sent(MessageType::MsgAppend).last().expect("it is probed").index;
    story.peer(refusal);
    assert_eq!(
        story.count_sent(MessageType::MsgSnapshot),
        0,
        "it names the node and is from before its removal"
    );
    assert_eq!(story.builds, 1);
}

#[test]
fn a_leader_that_an_inherited_entry_makes_a_learner_steps_down() {
    let mut story = Story::new(1, &[1, 2, 3]);
    let mut inherited = append(2, 1, 1, (0, 0), &[(1, 1)], 0);
    inherited.mut_entries().push(change_entry(2, 1, raft::eraftpb::ConfChangeType::AddLearnerNode, 1));
    story.peer(inherited);
    story.settle();
    story.elect(3);
    story.persist();
    story.acknowledge(3);
    story.settle();
    assert_eq!((story.status().voters, story.status().learners), (vec![2, 3], vec![1]));
    assert_eq!(story.status().role, Role::Follower);
    story.sent.clear();
    story.ticks(50);
    assert_eq!(story.sent, Vec::new(), "a learner neither leads nor stands");
}

#[test]
fn a_snapshot_from_before_a_restart_is_sent_if_the_membership_has_not_changed_since() {
    for changed in [false, true] {
        let mut story = founder(1, &[1]);
        story.event(Event::Tick);
        story.settle();
        let node = NodeId::new(3).unwrap();
        story.control(1, Control::ChangeMembership { changes: vec![MembershipChange::AddLearner(node)] });
        story.settle();
        let index = story.status().applied;
        story.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"state")) });
        story.settle();
        if changed {
            for (ticket, change) in
                [(2, MembershipChange::Remove(node)), (3, MembershipChange::AddLearner(node))]
            {
                story.control(ticket, Control::ChangeMembership { changes: vec![change] });
                story.settle();
            }
        }
        story.propose(4, b"block");
        story.settle();
        story.ticks(2);
        story.settle();
        let mut story = Story::open(1, story.store.clone(), config());
        story.event(Event::Tick);
        story.settle();
        let mut refusal = message(MessageType::MsgAppendResponse, 3, 1, story.status().term);
        refusal.reject = true;
        refusal.index = story.take_sent(MessageType::MsgAppend).last().expect("it is probed").index;
        story.peer(refusal);
        assert_eq!(story.count_sent(MessageType::MsgSnapshot), usize::from(!changed));
    }
}

#[test]
fn a_leader_takes_its_applications_word_that_an_entry_was_committed() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.propose(1, b"inherited, in earnest");
    story.persist();
    let last = story.status().last;
    assert!(story.status().commit < last, "nobody has acknowledged it to this leader");
    let data = Some(Bytes::from_static(b"state"));
    story.event(Event::SnapshotBuilt { index: last, data });
    assert_eq!(story.status().commit, last);
    assert_eq!(story.to_apply.last().unwrap().entry.index, last, "what it has is given to it all the same");
}
