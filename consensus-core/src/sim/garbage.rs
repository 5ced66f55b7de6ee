//! Messages that no honest peer sends and that are well-formed all the same: they must die at the gate.
//!
//! Each one breaks one rule of the gate and is otherwise like a message that a peer could send now, so that
//! nothing but this rule can refuse it. Which reason the gate must name is part of it, so that
//! [`RefusedAsForged`](super::invariants::RefusedAsForged) can compare.

use bytes::Bytes;

use super::rng::Rng;
use crate::limits::Limits;
use crate::replica::eraftpb::{ConfState, Entry, MessageType, Snapshot};
use crate::replica::{Message, Status};

/// Far beyond any term or index of a run, and below an overflow.
const FAR: u64 = 1 << 40;

/// By kind, the reason that the gate must give; `None` where honest messages meet it, too.
const KINDS: [Option<&str>; 21] = [
    Some("addressed to another node"),
    Some("sender is not the peer"),
    Some("no term"),
    Some("term too far ahead"),
    Some("index out of range"),
    Some("index out of range"),
    Some("entries in a message that carries none"),
    Some("snapshot in a message that carries none"),
    Some("type not for peers"),
    Some("previous entry from a later term"),
    Some("entries not contiguous"),
    Some("entry terms out of order"),
    Some("entry too large"),
    Some("append too large"),
    None,
    Some("rejection hints above what it rejects"),
    Some("asks for a snapshot of what we do not have"),
    Some("snapshot without position"),
    Some("snapshot from a later term"),
    Some("snapshot with an impossible membership"),
    Some("snapshot message without snapshot"),
];

/// The kind that an honest message may look like: one about a tail that was overwritten.
const ACKNOWLEDGES_TOO_MUCH: u64 = 14;

/// A piece of garbage for the replica with this status and these bounds, apparently from `from`, and the reason
/// for which the gate refuses it; `None` if honest messages are refused for it, too.
pub(super) fn draw(
    rng: &mut Rng,
    from: u64,
    status: &Status,
    limits: &Limits,
) -> (Message, Option<&'static str>) {
    let kind = rng.below(KINDS.len() as u64);
    let term = status.term.max(1);
    let mut message = Message { from, to: status.node_id.get(), term, ..Message::default() };
    message.set_msg_type(*rng.pick(&[
        MessageType::MsgHeartbeat,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgHeartbeatResponse,
    ]));
    match kind {
        0 => message.to += 1,
        1 => message.from = message.to,
        2 => message.term = 0,
        3 => message.term += FAR,
        4 => match rng.below(3) {
            0 => message.index = u64::MAX,
            1 => message.commit = u64::MAX,
            _ => message.reject_hint = u64::MAX,
        },
        5 => message.request_snapshot = u64::MAX,
        6 => message.set_entries(vec![entry(1, 1, small())].into()),
        7 => message.set_snapshot(snapshot(1, 1, &[1])),
        8 => message.set_msg_type(*rng.pick(&[
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgPropose,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
            MessageType::MsgTransferLeader,
            MessageType::MsgReadIndex,
            MessageType::MsgReadIndexResp,
        ])),
        9..=13 => bad_append(kind, &mut message, status, limits),
        14..=16 => bad_response(kind, &mut message, status),
        _ => bad_snapshot(kind, &mut message, status),
    }
    (message, KINDS[kind as usize])
}

/// Whether only garbage is refused for this reason.
pub(super) fn is_reason(reason: &str) -> bool {
    KINDS.iter().flatten().any(|known| *known == reason)
}

fn bad_append(kind: u64, message: &mut Message, status: &Status, limits: &Limits) {
    let (term, last) = (message.term, status.last);
    message.set_msg_type(MessageType::MsgAppend);
    message.index = last;
    message.log_term = if last > 0 { term } else { 0 };
    let entries = match kind {
        9 => {
            message.log_term = term + 1;
            vec![]
        }
        10 => vec![entry(last + 1, term, small()), entry(last + 3, term, small())],
        11 => vec![entry(last + 1, term, small()), entry(last + 2, 0, small())],
        12 => vec![entry(last + 1, term, Bytes::from(vec![0; limits.entry_bytes_max as usize + 1]))],
        _ => {
            let largest = Bytes::from(vec![0; limits.entry_bytes_max as usize]);
            let count = 2 * limits.append_bytes_max / limits.entry_bytes_max + 2;
            (1..=count).map(|offset| entry(last + offset, term, largest.clone())).collect()
        }
    };
    message.set_entries(entries.into());
}

fn bad_response(kind: u64, message: &mut Message, status: &Status) {
    message.set_msg_type(MessageType::MsgAppendResponse);
    match kind {
        ACKNOWLEDGES_TOO_MUCH => message.index = status.last + FAR,
        15 => {
            message.reject = true;
            message.reject_hint = message.index + 1;
        }
        _ => message.request_snapshot = status.last + FAR,
    }
}

fn bad_snapshot(kind: u64, message: &mut Message, status: &Status) {
    // Not where something may be committed by the time it arrives.
    let (term, index) = (message.term, status.last + FAR);
    message.set_msg_type(MessageType::MsgSnapshot);
    match kind {
        17 => message.set_snapshot(snapshot(0, 0, &[1])),
        20 => {}
        18 => message.set_snapshot(snapshot(index, term + 1, &[1, 2, 3])),
        _ => message.set_snapshot(snapshot(index, term.max(1), &[2, 2])),
    }
}

fn small() -> Bytes {
    Bytes::from_static(b"x")
}

fn entry(index: u64, term: u64, data: Bytes) -> Entry {
    Entry { index, term, data, ..Entry::default() }
}

fn snapshot(index: u64, term: u64, voters: &[u64]) -> Snapshot {
    let mut out = Snapshot::default();
    let metadata = out.mut_metadata();
    metadata.index = index;
    metadata.term = term;
    metadata.set_conf_state(ConfState { voters: voters.to_vec(), ..ConfState::default() });
    out
}
