//! Messages that make the raft crate panic or its chain halt when nothing stands in front of it, one each by
//! name. Those that a message alone can show are in one table; the others need what comes before.

use consensus_core::replica::eraftpb::{Entry, EntryType, Message, MessageType};
use consensus_core::replica::{Control, Event, MembershipChange, Role};

use crate::targets::rig::{ME, Rig, node};
use crate::targets::states::{STATES, append, change, entries, message, snapshot};

fn state(name: &str) -> Rig {
    let (_, state) = STATES.into_iter().find(|(known, _)| *known == name).expect("a state of that name");
    state()
}

fn of(kind: MessageType, set: impl FnOnce(&mut Message)) -> Message {
    let mut message = message(kind, 2, 3);
    set(&mut message);
    message
}

/// A change of membership made of nothing but groups in groups.
fn nested_change() -> Entry {
    let mut entry = Entry { index: 6, term: 3, data: vec![0x7b; 900].into(), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

#[test]
fn each_is_refused_by_name() {
    use MessageType::{
        MsgAppendResponse, MsgHeartbeat, MsgHup, MsgPropose, MsgReadIndex, MsgRequestPreVote, MsgSnapshot,
        MsgTimeoutNow, MsgTransferLeader,
    };
    let cases: [(&str, Message, &str); 18] = [
        ("follower-with-log", append(3, (100, 0), entries(3, 101..=102), 0), "previous entry without a term"),
        ("follower-with-log", append(3, (5, 3), entries(3, 8..=9), 0), "entries not contiguous"),
        (
            "follower-with-log",
            append(3, (5, 3), vec![nested_change()], 0),
            "membership change that cannot be read",
        ),
        ("follower-with-log", of(MsgHeartbeat, |m| m.commit = 6), "store behind"),
        ("follower-with-log", of(MsgPropose, |_| {}), "type not for peers"),
        ("follower-with-log", of(MsgHup, |_| {}), "type not for peers"),
        ("follower-with-log", of(MsgSnapshot, |_| {}), "snapshot message without snapshot"),
        ("follower-with-log", snapshot(4, (3, 4), &[1, 2, 3], &[]), "snapshot contradicts what is committed"),
        ("follower-with-log", snapshot(4, (9, 4), &[1, 2, 2], &[]), "snapshot with an impossible membership"),
        ("follower-with-log", snapshot(4, (9, 4), &[], &[]), "snapshot with an impossible membership"),
        ("leader", of(MsgReadIndex, |_| {}), "type not for peers"),
        ("leader", of(MsgTransferLeader, |m| m.from = 9), "type not for peers"),
        ("leader", of(MsgAppendResponse, |m| m.index = u64::MAX), "index out of range"),
        ("leader", of(MsgAppendResponse, |m| m.index = 100), "acknowledges what we do not have"),
        ("leader", of(MsgAppendResponse, |m| m.term = u64::MAX), "term too far ahead"),
        ("sole-voter-with-unsynced-log", of(MsgTimeoutNow, |m| m.term = 1), "sole voter with unsynced log"),
        ("fresh-follower", of(MsgRequestPreVote, |m| (m.term, m.priority) = (1, -1)), "priority not in use"),
        ("newcomer", append(1, (0, 0), entries(1, 1..=3), 0), "no membership yet"),
    ];
    for (name, message, reason) in cases {
        let mut rig = state(name);
        let text = format!("{name}: {message:?}");
        rig.peer(message);
        assert_eq!(rig.refused.iter().collect::<Vec<_>>(), [(&reason, &1)], "{text}");
        rig.settle();
        rig.reopen();
    }
}

#[test]
fn a_vote_that_nobody_can_have_heard_the_request_for_elects_nobody() {
    let mut rig = state("follower-with-unsynced-log");
    let ticket = rig.ticket();
    rig.event(Event::Control { ticket, command: Control::Campaign });
    let term = rig.status().term;
    rig.peer(message(MessageType::MsgRequestPreVoteResponse, 2, term + 1));
    assert_eq!(rig.status().role, Role::Candidate);
    rig.peer(message(MessageType::MsgRequestVoteResponse, 2, term + 1));
    assert_eq!(rig.status().role, Role::Candidate);
    rig.settle();
    rig.peer(message(MessageType::MsgRequestVoteResponse, 2, term + 1));
    assert_eq!(rig.status().role, Role::Leader, "once the log is durable the vote counts");
}

#[test]
fn a_sole_voter_does_not_stand_on_what_came_in_the_same_round() {
    let mut rig = state("sole-voter-with-unsynced-log");
    rig.settle();
    let append = append(1, (3, 1), entries(1, 4..=4), 3);
    rig.event_without_flush(Event::PeerMessage { from: node(2), message: append });
    rig.peer(message(MessageType::MsgTimeoutNow, 2, 1));
    assert_eq!(rig.refused["sole voter with unsynced log"], 1);
}

#[test]
fn a_sole_voter_that_leads_is_not_made_to_stand_again_on_an_unsynced_log() {
    let mut rig = Rig::new(&[ME], &[]);
    rig.ticks(30);
    rig.settle();
    assert_eq!(rig.status().role, Role::Leader);
    let ticket = rig.ticket();
    let changes = vec![MembershipChange::AddLearner(node(2)), MembershipChange::AddLearner(node(3))];
    rig.event(Event::Control { ticket, command: Control::ChangeMembership { changes } });
    let term = rig.status().term;
    rig.peer(message(MessageType::MsgTimeoutNow, 2, term + 1));
    assert_eq!(rig.refused["sole voter with unsynced log"], 1);
}

#[test]
fn a_joint_membership_with_one_voter_is_a_sole_voter_too() {
    let mut rig = state("sole-voter-with-unsynced-log");
    rig.settle();
    let learners = [change(4, 1, raft_learner(), 4), change(4, 1, raft_learner(), 5)];
    let joint = join(learners);
    rig.peer(append(1, (3, 1), vec![joint], 4));
    rig.settle();
    assert!(rig.status().joint);
    rig.peer(append(1, (4, 1), entries(1, 5..=5), 4));
    rig.peer(message(MessageType::MsgTimeoutNow, 2, 1));
    assert_eq!(rig.refused["sole voter with unsynced log"], 1);
}

#[test]
fn a_newcomer_that_is_asked_to_stand_is_elected_by_nobody() {
    let mut rig = state("newcomer");
    let ticket = rig.ticket();
    rig.event(Event::Control { ticket, command: Control::Campaign });
    rig.ticks(100);
    assert_eq!(rig.status().role, Role::Follower);
}

fn raft_learner() -> consensus_core::replica::eraftpb::ConfChangeType {
    consensus_core::replica::eraftpb::ConfChangeType::AddLearnerNode
}

/// Two changes in one entry: protobuf messages that follow each other are one, with both lists.
fn join([mut first, second]: [Entry; 2]) -> Entry {
    first.data = [first.data, second.data].concat().into();
    first
}
