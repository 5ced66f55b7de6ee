//! Any well-formed message, most times one that comes close to making sense in the replica's state.

use bytes::Bytes;
use consensus_core::replica::Message;
use consensus_core::replica::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, MessageType,
    Snapshot,
};
use protobuf::Message as _;

use super::draws::Draws;
use super::rig::{ME, Rig};

/// Voters, a learner, one that comes and goes, a stranger.
const NODES: [u64; 6] = [2, 3, 2, 4, 5, 9];

const KINDS: [MessageType; 30] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgAppendResponse,
    MessageType::MsgAppendResponse,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// The next message to `rig`.
pub(crate) fn any(draws: &mut Draws<'_>, rig: &Rig) -> Message {
    let status = rig.status();
    let positions =
        [status.first - 1, status.applied, status.commit, status.persisted, status.last, status.last];
    let from = if draws.chance(4) { draws.number() } else { draws.pick(&NODES) };
    let to = if draws.chance(4) { draws.number() } else { ME };
    let mut message = Message { from, to, ..Message::default() };
    message.set_msg_type(draws.pick(&KINDS));
    message.term = match draws.below(16) {
        0 => status.term.saturating_sub(1),
        1 => status.term + 1,
        2 => draws.near(&[status.term, status.term + 1_000_000]),
        _ => status.term,
    };
    message.index = draws.near(&positions);
    let known = rig.terms.get(&message.index).copied().unwrap_or(0);
    message.log_term = if draws.chance(192) { known } else { draws.near(&[status.term, 0, known]) };
    message.commit = draws.near(&positions);
    message.reject = draws.chance(64);
    message.reject_hint = draws.near(&positions);
    if draws.chance(24) {
        message.commit_term = draws.near(&[status.term, known]);
        message.request_snapshot = draws.near(&positions);
        message.priority = draws.number() as i64;
        message.deprecated_priority = draws.number();
    }
    if draws.chance(32) {
        message.context = context(draws, rig);
    }
    let kind = message.get_msg_type();
    if kind == MessageType::MsgAppend || draws.chance(8) {
        let list = entries(draws, &message);
        message.set_entries(list.into());
    }
    if kind == MessageType::MsgSnapshot && draws.chance(248) || draws.chance(2) {
        message.set_snapshot(snapshot(draws, &message));
    }
    message
}

/// Made up, or one that the replica has sent itself.
fn context(draws: &mut Draws<'_>, rig: &Rig) -> Bytes {
    let own = rig.sent.iter().rev().map(|sent| &sent.context).find(|context| !context.is_empty());
    match own {
        Some(own) if draws.chance(128) => own.clone(),
        _ if draws.chance(64) => Bytes::from_static(b"CampaignTransfer"),
        _ => draws.bytes(),
    }
}

fn entries(draws: &mut Draws<'_>, message: &Message) -> Vec<Entry> {
    let count = draws.below(5) as u64;
    let mut term = message.log_term.max(1);
    (1..=count)
        .map(|offset| {
            if draws.chance(160) {
                term = message.term;
            }
            let mut entry = Entry { index: message.index.wrapping_add(offset), term, ..Entry::default() };
            if draws.chance(4) {
                entry.index = draws.number();
                entry.term = draws.number();
            }
            match draws.below(16) {
                0 => membership(draws, &mut entry),
                1 => entry.context = draws.bytes(),
                2 => entry.data = Bytes::from(vec![7; 300 * draws.below(8)]),
                3 => {}
                _ => entry.data = Bytes::from_static(b"block"),
            }
            entry
        })
        .collect()
}

/// A change of membership in either form, or bytes that are none.
fn membership(draws: &mut Draws<'_>, entry: &mut Entry) {
    let single = |draws: &mut Draws<'_>| {
        let kinds = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
        let id = if draws.chance(8) { draws.number() } else { draws.pick(&[1, 2, 3, 4, 5, 9]) };
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(draws.pick(&kinds));
        single
    };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    let data = match draws.below(8) {
        0 => {
            entry.set_entry_type(draws.pick(&[EntryType::EntryConfChange, EntryType::EntryConfChangeV2]));
            entry.data = draws.bytes();
            return;
        }
        1 | 2 => {
            entry.set_entry_type(EntryType::EntryConfChange);
            let one = single(draws);
            let mut change = ConfChange { node_id: one.node_id, ..ConfChange::default() };
            change.set_change_type(one.get_change_type());
            change.write_to_bytes()
        }
        _ => {
            let count = draws.below(4);
            let mut change = ConfChangeV2::default();
            change.set_changes((0..count).map(|_| single(draws)).collect::<Vec<_>>().into());
            change.write_to_bytes()
        }
    };
    entry.data = data.expect("a change encodes").into();
}

fn snapshot(draws: &mut Draws<'_>, message: &Message) -> Snapshot {
    let mut snapshot = Snapshot { data: draws.bytes(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = draws.near(&[message.index, message.commit]);
    metadata.term = draws.near(&[message.log_term.max(1), message.term]);
    let ids = |draws: &mut Draws<'_>| -> Vec<u64> {
        let count = draws.below(5);
        (0..count).map(|_| draws.pick(&[1, 2, 3, 4, 5, 9, 0])).collect()
    };
    let mut state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    if draws.chance(64) {
        state.voters = ids(draws);
        state.learners = ids(draws);
        state.voters_outgoing = ids(draws);
        state.learners_next = ids(draws);
        state.auto_leave = draws.chance(128);
    }
    if draws.chance(250) {
        metadata.set_conf_state(state);
    }
    snapshot
}
