//! The states in which a replica may meet any message, each reached by honest events.

use consensus_core::replica::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
    Snapshot,
};
use consensus_core::replica::{Control, Event, MembershipChange, Proposal, Role};
use protobuf::Message as _;

use super::rig::{ME, Rig, node};

/// A name and how to get there.
pub(crate) type State = (&'static str, fn() -> Rig);

/// All of them.
pub(crate) const STATES: [State; 16] = [
    ("fresh-follower", || Rig::new(&[1, 2, 3], &[4])),
    ("follower-with-log", follower),
    ("follower-with-unsynced-log", follower_with_unsynced_log),
    ("follower-with-compacted-log", follower_with_compacted_log),
    ("pre-candidate", pre_candidate),
    ("candidate", candidate),
    ("leader", leader),
    ("leader-with-unsynced-proposals", leader_with_unsynced_proposals),
    ("leader-in-joint-phase", leader_in_joint_phase),
    ("leader-handing-over", leader_handing_over),
    ("sole-voter-with-unsynced-log", sole_voter_with_unsynced_log),
    ("learner", || Rig::new(&[2, 3], &[1])),
    ("newcomer", || Rig::new(&[], &[])),
    ("snapshot-on-its-way-to-disk", snapshot_on_its_way_to_disk),
    ("snapshot-on-its-way-to-application", snapshot_on_its_way_to_application),
    ("removed", removed),
];

pub(crate) fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: ME, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

pub(crate) fn append(term: u64, previous: (u64, u64), entries: Vec<Entry>, commit: u64) -> Message {
    let mut message = message(MessageType::MsgAppend, 2, term);
    (message.index, message.log_term) = previous;
    message.commit = commit;
    message.set_entries(entries.into());
    message
}

pub(crate) fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| Entry { index, term, data: "block".into(), ..Entry::default() }).collect()
}

pub(crate) fn change(index: u64, term: u64, kind: ConfChangeType, id: u64) -> Entry {
    let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    let data = change.write_to_bytes().expect("a change encodes").into();
    let mut entry = Entry { index, term, data, ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

pub(crate) fn snapshot(term: u64, position: (u64, u64), voters: &[u64], learners: &[u64]) -> Message {
    let mut snapshot = Snapshot { data: "state".into(), ..Snapshot::default() };
    let conf_state =
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
    snapshot.mut_metadata().set_conf_state(conf_state);
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = position;
    let mut message = message(MessageType::MsgSnapshot, 2, term);
    message.set_snapshot(snapshot);
    message
}

fn follower() -> Rig {
    let mut rig = Rig::new(&[1, 2, 3], &[4]);
    rig.peer(append(3, (0, 0), [entries(1, 1..=2), entries(3, 3..=5)].concat(), 3));
    rig.settle();
    rig
}

fn follower_with_unsynced_log() -> Rig {
    let mut rig = follower();
    rig.peer(append(4, (3, 3), entries(4, 4..=5), 3));
    rig.peer(append(5, (4, 4), entries(5, 5..=6), 4));
    rig
}

fn follower_with_compacted_log() -> Rig {
    let mut rig = Rig::new(&[1, 2, 3], &[4]);
    for last in (4..=20).step_by(4) {
        let previous = if last == 4 { (0, 0) } else { (last - 4, 1) };
        rig.peer(append(1, previous, entries(1, last - 3..=last), last));
        rig.settle();
        rig.snapshots();
        rig.settle();
    }
    assert!(rig.status().first > 1, "the log is compacted");
    rig
}

fn campaign(rig: &mut Rig) {
    let ticket = rig.ticket();
    rig.event(Event::Control { ticket, command: Control::Campaign });
}

fn pre_candidate() -> Rig {
    let mut rig = follower();
    campaign(&mut rig);
    assert_eq!(rig.status().role, Role::PreCandidate);
    rig
}

fn candidate() -> Rig {
    let mut rig = pre_candidate();
    let term = rig.status().term;
    rig.peer(message(MessageType::MsgRequestPreVoteResponse, 2, term + 1));
    assert_eq!(rig.status().role, Role::Candidate);
    rig
}

fn acknowledge(rig: &mut Rig, from: u64) {
    let mut ack = message(MessageType::MsgAppendResponse, from, rig.status().term);
    ack.index = rig.status().last;
    rig.peer(ack);
    rig.settle();
}

fn leader() -> Rig {
    let mut rig = candidate();
    rig.settle();
    let term = rig.status().term;
    rig.peer(message(MessageType::MsgRequestVoteResponse, 2, term));
    rig.settle();
    acknowledge(&mut rig, 2);
    assert_eq!(rig.status().role, Role::Leader);
    rig
}

fn leader_with_unsynced_proposals() -> Rig {
    let mut rig = leader();
    for _ in 0..3 {
        let proposal = Proposal::new(rig.ticket(), "block".into());
        rig.event(Event::Propose { proposals: vec![proposal] });
    }
    assert!(rig.status().proposals > 0 && rig.status().unpersisted_rounds > 0);
    rig
}

fn leader_in_joint_phase() -> Rig {
    let mut rig = leader();
    let ticket = rig.ticket();
    let changes = vec![MembershipChange::AddVoter(node(5)), MembershipChange::Remove(node(3))];
    rig.event(Event::Control { ticket, command: Control::ChangeMembership { changes } });
    rig.persist();
    acknowledge(&mut rig, 2);
    assert!(rig.status().joint);
    rig
}

fn leader_handing_over() -> Rig {
    let mut rig = leader();
    let ticket = rig.ticket();
    rig.event(Event::Control { ticket, command: Control::TransferLeader { to: Some(node(3)) } });
    rig
}

fn sole_voter_with_unsynced_log() -> Rig {
    let mut rig = Rig::new(&[1, 2], &[]);
    let removal = change(1, 1, ConfChangeType::RemoveNode, 2);
    rig.peer(append(1, (0, 0), vec![removal], 1));
    rig.settle();
    rig.peer(append(1, (1, 1), entries(1, 2..=3), 1));
    assert_eq!(rig.status().voters, [1]);
    rig
}

fn snapshot_on_its_way_to_disk() -> Rig {
    let mut rig = follower();
    rig.peer(snapshot(4, (30, 4), &[1, 2, 3], &[4]));
    assert!(rig.status().installing);
    rig
}

fn snapshot_on_its_way_to_application() -> Rig {
    let mut rig = snapshot_on_its_way_to_disk();
    rig.persist();
    assert!(rig.status().installing);
    rig
}

fn removed() -> Rig {
    let mut rig = follower();
    rig.peer(append(3, (5, 3), vec![change(6, 3, ConfChangeType::RemoveNode, ME)], 6));
    rig.settle();
    assert_eq!(rig.status().voters, [2, 3]);
    rig
}
