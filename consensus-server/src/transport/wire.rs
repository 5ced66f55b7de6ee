//! The only codec of Raft messages: between the schema on the wire and the types of the raft crate.
//!
//! Both describe the same fields, so a message is moved field by field and payloads keep their buffer. What
//! arrives is only brought into shape here; whether it makes sense is judged by the replica's gate. A number
//! that names no message or entry type is an error, since the crate's types cannot hold it.

use bytes::Bytes;
use consensus_core::replica::{Message, any_store_may_say, asks_for_vote, eraftpb, only_leaders_say};
use consensus_proto::raft as wire;
use thiserror::Error;

/// A message that cannot be expressed in the crate's types.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// No such type of message.
    #[error("message type {0} is unknown, must be at most 18")]
    MessageType(i32),
    /// No such type of entry.
    #[error("entry type {0} is unknown, must be at most 2")]
    EntryType(i32),
}

/// From the crate's type to the wire's.
pub fn encode(mut message: Message) -> wire::Message {
    wire::Message {
        msg_type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(encode_entry).collect(),
        commit: message.commit,
        snapshot: message.snapshot.take().map(encode_snapshot),
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: std::mem::take(&mut message.context),
        request_snapshot: message.request_snapshot,
        deprecated_priority: message.deprecated_priority,
        commit_term: message.commit_term,
        priority: message.priority,
    }
}

fn encode_entry(entry: eraftpb::Entry) -> wire::Entry {
    wire::Entry {
        entry_type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        sync_log: entry.sync_log,
        context: entry.context,
    }
}

fn encode_snapshot(mut snapshot: eraftpb::Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        data: std::mem::take(&mut snapshot.data),
        metadata: snapshot.metadata.take().map(|mut metadata| wire::SnapshotMetadata {
            conf_state: metadata.conf_state.take().map(|conf_state| wire::ConfState {
                voters: conf_state.voters,
                learners: conf_state.learners,
                voters_outgoing: conf_state.voters_outgoing,
                learners_next: conf_state.learners_next,
                auto_leave: conf_state.auto_leave,
            }),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

/// From the wire's type to the crate's.
///
/// # Errors
/// A type of message or entry that the crate does not know.
pub fn decode(message: wire::Message) -> Result<Message, Error> {
    let entries = message.entries.into_iter().map(decode_entry).collect::<Result<Vec<_>, _>>()?;
    Ok(Message {
        msg_type: message_type(message.msg_type)?,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.into(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.snapshot.map(decode_snapshot).into(),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        deprecated_priority: message.deprecated_priority,
        priority: message.priority,
        ..Message::default()
    })
}

fn decode_entry(entry: wire::Entry) -> Result<eraftpb::Entry, Error> {
    let entry_type = match wire::EntryType::try_from(entry.entry_type) {
        Ok(wire::EntryType::Normal) => eraftpb::EntryType::EntryNormal,
        Ok(wire::EntryType::ConfChange) => eraftpb::EntryType::EntryConfChange,
        Ok(wire::EntryType::ConfChangeV2) => eraftpb::EntryType::EntryConfChangeV2,
        Err(_) => return Err(Error::EntryType(entry.entry_type)),
    };
    Ok(eraftpb::Entry {
        entry_type,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        sync_log: entry.sync_log,
        context: entry.context,
        ..eraftpb::Entry::default()
    })
}

fn decode_snapshot(snapshot: wire::Snapshot) -> eraftpb::Snapshot {
    let conf_state = |conf_state: wire::ConfState| eraftpb::ConfState {
        voters: conf_state.voters,
        learners: conf_state.learners,
        voters_outgoing: conf_state.voters_outgoing,
        learners_next: conf_state.learners_next,
        auto_leave: conf_state.auto_leave,
        ..eraftpb::ConfState::default()
    };
    let metadata = snapshot.metadata.map(|metadata| eraftpb::SnapshotMetadata {
        conf_state: metadata.conf_state.map(conf_state).into(),
        index: metadata.index,
        term: metadata.term,
        ..eraftpb::SnapshotMetadata::default()
    });
    eraftpb::Snapshot { data: snapshot.data, metadata: metadata.into(), ..eraftpb::Snapshot::default() }
}

fn message_type(number: i32) -> Result<eraftpb::MessageType, Error> {
    use eraftpb::MessageType as Crate;
    use wire::MessageType as Wire;
    let known = Wire::try_from(number).map_err(|_| Error::MessageType(number))?;
    Ok(match known {
        Wire::Hup => Crate::MsgHup,
        Wire::Beat => Crate::MsgBeat,
        Wire::Propose => Crate::MsgPropose,
        Wire::Append => Crate::MsgAppend,
        Wire::AppendResponse => Crate::MsgAppendResponse,
        Wire::RequestVote => Crate::MsgRequestVote,
        Wire::RequestVoteResponse => Crate::MsgRequestVoteResponse,
        Wire::Snapshot => Crate::MsgSnapshot,
        Wire::Heartbeat => Crate::MsgHeartbeat,
        Wire::HeartbeatResponse => Crate::MsgHeartbeatResponse,
        Wire::Unreachable => Crate::MsgUnreachable,
        Wire::SnapStatus => Crate::MsgSnapStatus,
        Wire::CheckQuorum => Crate::MsgCheckQuorum,
        Wire::TransferLeader => Crate::MsgTransferLeader,
        Wire::TimeoutNow => Crate::MsgTimeoutNow,
        Wire::ReadIndex => Crate::MsgReadIndex,
        Wire::ReadIndexResponse => Crate::MsgReadIndexResp,
        Wire::RequestPreVote => Crate::MsgRequestPreVote,
        Wire::RequestPreVoteResponse => Crate::MsgRequestPreVoteResponse,
    })
}

/// Whether a message carries a snapshot, whose fate must be reported.
pub fn is_snapshot(message: &Message) -> bool {
    message.get_msg_type() == eraftpb::MessageType::MsgSnapshot
}

/// Whether a message is of a kind that is heard from any store; false for what cannot be decoded.
pub fn is_heard_from_any_store(message: &wire::Message) -> bool {
    message_type(message.msg_type).is_ok_and(any_store_may_say)
}

/// Whether a message is of a kind that only leaders send; false for what cannot be decoded.
pub fn is_leaders(message: &wire::Message) -> bool {
    message_type(message.msg_type).is_ok_and(only_leaders_say)
}

/// Whether a message asks for a vote; false for what cannot be decoded.
pub fn is_request_for_vote(message: &wire::Message) -> bool {
    message_type(message.msg_type).is_ok_and(asks_for_vote)
}

/// Whether a message carries entries of the log or a snapshot, or stands in their order. The others may overtake
/// these.
pub fn is_of_log(message: &Message) -> bool {
    use eraftpb::MessageType::{MsgAppend, MsgSnapshot};
    matches!(message.get_msg_type(), MsgAppend | MsgSnapshot) || !message.entries.is_empty()
}

/// An entry on its way to a peer, beside what a proposal brought along for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Accompanied<'a> {
    /// The receiver.
    pub(crate) to: u64,
    /// The entry.
    pub(crate) index: u64,
    /// Its term.
    pub(crate) term: u64,
    /// What it was proposed with; not empty.
    pub(crate) context: &'a Bytes,
}

/// The entries in these messages that an application has proposed with a context.
pub(crate) fn accompanied(messages: &[Message]) -> impl Iterator<Item = Accompanied<'_>> {
    let appends = messages.iter().filter(|message| message.get_msg_type() == eraftpb::MessageType::MsgAppend);
    appends.flat_map(|message| {
        let own = |entry: &&eraftpb::Entry| {
            // A membership change keeps the replica's own there.
            !entry.context.is_empty() && entry.get_entry_type() == eraftpb::EntryType::EntryNormal
        };
        let to = message.to;
        message.entries.iter().filter(own).map(move |entry| {
            let eraftpb::Entry { index, term, context, .. } = entry;
            Accompanied { to, index: *index, term: *term, context }
        })
    })
}

/// The last entry that the sender of this message has, if it says so.
pub(crate) fn acknowledged(message: &Message) -> Option<u64> {
    let answer = message.get_msg_type() == eraftpb::MessageType::MsgAppendResponse;
    (answer && !message.reject).then_some(message.index)
}

/// Bytes of a message as queues count them: never less than it takes on the wire.
pub fn queued_bytes(message: &Message) -> u64 {
    const MESSAGE: usize = 192;
    const ENTRY: usize = 64;
    const NUMBER: usize = 11;
    let entries: usize = message.entries.iter().map(|e| e.data.len() + e.context.len() + ENTRY).sum();
    let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| {
        let members = snapshot.get_metadata().get_conf_state();
        let numbers = members.voters.len()
            + members.learners.len()
            + members.voters_outgoing.len()
            + members.learners_next.len();
        snapshot.data.len() + ENTRY + numbers * NUMBER
    });
    (MESSAGE + message.context.len() + entries + snapshot) as u64
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use protobuf::Message as _;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn bytes(rng: &mut SmallRng) -> Bytes {
        let length = rng.random_range(0..40);
        (0..length).map(|_| rng.random()).collect::<Vec<u8>>().into()
    }

    fn numbers(rng: &mut SmallRng) -> Vec<u64> {
        let length = rng.random_range(0..4);
        (0..length).map(|_| rng.random()).collect()
    }

    /// Any message, each field set or left out.
    fn any(rng: &mut SmallRng) -> wire::Message {
        let number = |rng: &mut SmallRng| if rng.random() { rng.random() } else { 0 };
        let entries = rng.random_range(0..4);
        wire::Message {
            msg_type: rng.random_range(0..=18),
            to: number(rng),
            from: number(rng),
            term: number(rng),
            log_term: number(rng),
            index: number(rng),
            entries: (0..entries)
                .map(|_| wire::Entry {
                    entry_type: rng.random_range(0..=2),
                    term: number(rng),
                    index: number(rng),
                    data: bytes(rng),
                    sync_log: rng.random(),
                    context: bytes(rng),
                })
                .collect(),
            commit: number(rng),
            snapshot: rng.random::<bool>().then(|| wire::Snapshot {
                data: bytes(rng),
                metadata: rng.random::<bool>().then(|| wire::SnapshotMetadata {
                    conf_state: rng.random::<bool>().then(|| wire::ConfState {
                        voters: numbers(rng),
                        learners: numbers(rng),
                        voters_outgoing: numbers(rng),
                        learners_next: numbers(rng),
                        auto_leave: rng.random(),
                    }),
                    index: number(rng),
                    term: number(rng),
                }),
            }),
            reject: rng.random(),
            reject_hint: number(rng),
            context: bytes(rng),
            request_snapshot: number(rng),
            deprecated_priority: number(rng),
            commit_term: number(rng),
            priority: if rng.random() { rng.random() } else { 0 },
        }
    }

    #[test]
    fn any_message_comes_back_as_it_was() {
        for seed in 0..500 {
            let message = any(&mut SmallRng::seed_from_u64(seed));
            let there = decode(message.clone()).expect("known types");
            assert_eq!(encode(there), message, "seed {seed}");
        }
    }

    #[test]
    fn both_codecs_read_each_others_bytes() {
        for seed in 0..500 {
            let ours = any(&mut SmallRng::seed_from_u64(seed));
            let theirs = decode(ours.clone()).expect("known types");
            let read_by_them =
                Message::parse_from_bytes(&ours.encode_to_vec()).expect("the crate reads ours");
            assert_eq!(read_by_them, theirs, "seed {seed}");
            let written_by_them = theirs.write_to_bytes().expect("encodes");
            let read_by_us = wire::Message::decode(written_by_them.as_slice()).expect("we read the crate's");
            assert_eq!(read_by_us, ours, "seed {seed}");
        }
    }

    #[test]
    fn an_append_is_the_same_bytes_in_both_codecs() {
        for seed in 0..500 {
            let mut ours = any(&mut SmallRng::seed_from_u64(seed));
            // The crate writes these fields in the order of its schema's text, we in that of their numbers.
            ours.commit_term = 0;
            ours.request_snapshot = 0;
            ours.snapshot = None;
            for entry in &mut ours.entries {
                entry.sync_log = false;
            }
            let theirs = decode(ours.clone()).expect("known types");
            assert_eq!(ours.encode_to_vec(), theirs.write_to_bytes().expect("encodes"), "seed {seed}");
        }
    }

    #[test]
    fn a_queue_never_counts_less_than_the_wire() {
        for seed in 0..500 {
            let ours = any(&mut SmallRng::seed_from_u64(seed));
            let theirs = decode(ours.clone()).expect("known types");
            assert!(queued_bytes(&theirs) >= ours.encoded_len() as u64, "seed {seed}");
        }
    }

    #[test]
    fn an_unknown_message_type_is_named() {
        let message = wire::Message { msg_type: 19, ..Default::default() };
        assert_eq!(
            decode(message).expect_err("unknown").to_string(),
            "message type 19 is unknown, must be at most 18"
        );
    }

    #[test]
    fn an_unknown_entry_type_is_named() {
        let entry = wire::Entry { entry_type: -1, ..Default::default() };
        let message = wire::Message { entries: vec![entry], ..Default::default() };
        assert_eq!(
            decode(message).expect_err("unknown").to_string(),
            "entry type -1 is unknown, must be at most 2"
        );
    }

    #[test]
    fn payloads_keep_their_buffer() {
        let data = Bytes::from(vec![7; 1000]);
        let entry = wire::Entry { data: data.clone(), ..Default::default() };
        let decoded =
            decode(wire::Message { entries: vec![entry], ..Default::default() }).expect("known types");
        assert_eq!(encode(decoded).entries[0].data.as_ptr(), data.as_ptr());
    }

    #[test]
    fn entries_that_were_proposed_with_a_context_are_told_from_all_others() {
        let entry = |index, entry_type, context: &'static str| eraftpb::Entry {
            index,
            entry_type,
            term: 3,
            context: context.into(),
            ..eraftpb::Entry::default()
        };
        use eraftpb::EntryType::{EntryConfChangeV2, EntryNormal};
        let mut append = Message { to: 2, ..Message::default() };
        append.set_msg_type(eraftpb::MessageType::MsgAppend);
        append.entries = vec![
            entry(5, EntryNormal, ""),
            entry(6, EntryNormal, "trace"),
            entry(7, EntryConfChangeV2, "ticket"),
        ]
        .into();
        let mut proposal = append.clone();
        proposal.set_msg_type(eraftpb::MessageType::MsgPropose);
        let messages = [proposal, append];
        let found: Vec<_> = accompanied(&messages).collect();
        let context = &Bytes::from_static(b"trace");
        assert_eq!(found, [Accompanied { to: 2, index: 6, term: 3, context }]);
    }

    #[test]
    fn only_a_positive_answer_to_an_append_acknowledges() {
        let mut message = Message { index: 9, ..Message::default() };
        message.set_msg_type(eraftpb::MessageType::MsgAppendResponse);
        assert_eq!(acknowledged(&message), Some(9));
        message.reject = true;
        assert_eq!(acknowledged(&message), None);
        message.reject = false;
        message.set_msg_type(eraftpb::MessageType::MsgHeartbeatResponse);
        assert_eq!(acknowledged(&message), None);
    }
}
