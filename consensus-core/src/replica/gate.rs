//! Every message from a peer is judged here before the `raft` crate sees it.
//!
//! The crate trusts its peers: a malformed or foreign message can make it panic or poison its term. What
//! passes here can do neither. Whether the sender is who it claims to be is the transport's business, and
//! arrives as `from`; whether it is a member is not asked, because a follower that lags behind must
//! accept a leader whose own addition it has not applied yet.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::change;
use crate::limits::Limits;
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::EntryKind;

/// How far a peer's term may be ahead of ours: far beyond any honest gap, far below an overflow.
const TERM_JUMP_MAX: u64 = 1_000_000;
/// Indexes above this are nonsense and would overflow arithmetic.
const INDEX_MAX: u64 = 1 << 62;

/// What the gate needs to know of the replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doorstep {
    pub(super) node: u64,
    pub(super) term: u64,
    pub(super) last: u64,
    /// The last entry that is durable, as the crate knows it.
    pub(super) persisted: u64,
    /// Index and term of the last committed entry; no term if it is not known.
    pub(super) committed: (u64, Option<u64>),
    /// Standing for election would be fatal, also for a leader that a later term makes a follower first.
    pub(super) unsynced_sole_voter: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Pass,
    Refuse(&'static str),
    /// The sender believes us to have log up to `claimed`, which we have not.
    StoreBehind {
        claimed: u64,
    },
}

/// Whether only a leader says this, whom a majority has elected in the message's term.
pub fn only_leaders_say(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgSnapshot
            | MessageType::MsgTimeoutNow
    )
}

/// Whether this asks for a vote, or whether there would be one.
pub fn asks_for_vote(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
}

/// Whether this answers who has asked for a vote.
pub fn answers_vote(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse)
}

/// Whether a transport that takes a member's messages from the store that its chain admitted takes this from any.
///
/// A follower that lags behind the admission of its leader's store would be shut out otherwise, for as long as that
/// one leads; and where its vote is needed, nobody could be elected. Neither promises anything for the sender: that
/// a candidate's log is as new as the voter's is judged by the `raft` crate, and who has a new store asks for
/// nothing before the group has admitted it. An answer to a request must go to the very store that asked.
pub fn any_store_may_say(kind: MessageType) -> bool {
    only_leaders_say(kind) || asks_for_vote(kind)
}

/// Judges `message` from the peer that the transport knows as `from`.
pub(super) fn judge(door: &Doorstep, limits: &Limits, from: u64, message: &Message) -> Verdict {
    if mutant::is(Mutant::GateOpen) {
        return Verdict::Pass;
    }
    if let Some(reason) = envelope(door, from, message) {
        return Verdict::Refuse(reason);
    }
    let by_type = match message.get_msg_type() {
        MessageType::MsgAppend => append(limits, message),
        MessageType::MsgAppendResponse => append_response(door, message),
        MessageType::MsgHeartbeat if message.term >= door.term && message.commit > door.last => {
            return Verdict::StoreBehind { claimed: message.commit };
        }
        MessageType::MsgSnapshot => snapshot(door, message),
        MessageType::MsgTimeoutNow if door.unsynced_sole_voter => Some("sole voter with unsynced log"),
        // Our request leaves when our log is durable, and only then may an election be won.
        MessageType::MsgRequestVoteResponse if door.persisted != door.last => Some("vote nobody asked for"),
        MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => None,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => {
            reach!(GateTypeNotForPeers);
            Some("type not for peers")
        }
    };
    by_type.map_or(Verdict::Pass, Verdict::Refuse)
}

fn envelope(door: &Doorstep, from: u64, message: &Message) -> Option<&'static str> {
    if message.to != door.node {
        reach!(GateOtherReceiver);
        return Some("addressed to another node");
    }
    if message.from != from || from == door.node || from == 0 {
        reach!(GateOtherSender);
        return Some("sender is not the peer");
    }
    if message.term == 0 {
        reach!(GateNoTerm);
        return Some("no term");
    }
    if message.term > door.term.saturating_add(TERM_JUMP_MAX) {
        reach!(GateTermTooFar);
        return Some("term too far ahead");
    }
    if message.index > INDEX_MAX || message.commit > INDEX_MAX || message.reject_hint > INDEX_MAX {
        reach!(GateIndexOutOfRange);
        return Some("index out of range");
    }
    if !message.entries.is_empty() && message.get_msg_type() != MessageType::MsgAppend {
        reach!(GateStrayEntries);
        return Some("entries in a message that carries none");
    }
    if message.has_snapshot() && message.get_msg_type() != MessageType::MsgSnapshot {
        reach!(GateStraySnapshot);
        return Some("snapshot in a message that carries none");
    }
    if message.request_snapshot > INDEX_MAX {
        reach!(GateIndexOutOfRange);
        return Some("index out of range");
    }
    // Nobody here sets it. A vote that it denies in term 0 is an answer that the crate cannot send.
    if message.priority != 0 || message.deprecated_priority != 0 {
        return Some("priority not in use");
    }
    None
}

fn append(limits: &Limits, message: &Message) -> Option<&'static str> {
    if message.log_term > message.term {
        reach!(GateLaterPrevious);
        return Some("previous entry from a later term");
    }
    // The crate takes term 0 for that of every position beyond its log, and would append there.
    if message.log_term == 0 && message.index != 0 {
        return Some("previous entry without a term");
    }
    let mut bytes = 0;
    let mut term = message.log_term;
    for (offset, entry) in (1..).zip(message.entries.iter()) {
        if entry.index != message.index + offset {
            reach!(GateGap);
            return Some("entries not contiguous");
        }
        if entry.term < term || entry.term > message.term || entry.term == 0 {
            reach!(GateTermsOutOfOrder);
            return Some("entry terms out of order");
        }
        term = entry.term;
        if !is_readable(entry) {
            return Some("membership change that cannot be read");
        }
        let size = entry_bytes(entry);
        if size > limits.entry_bytes_max {
            reach!(GateEntryTooLarge);
            return Some("entry too large");
        }
        bytes += size;
    }
    // One entry may pass alone whatever its size; the crate's own bound counts framing too.
    if message.entries.len() > 1 && bytes > 2 * limits.append_bytes_max {
        reach!(GateAppendTooLarge);
        return Some("append too large");
    }
    None
}

/// Every replica that applies what cannot be read would halt.
fn is_readable(entry: &Entry) -> bool {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => return true,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    change::read(kind, &entry.data).is_ok()
}

fn entry_bytes(entry: &Entry) -> u64 {
    match entry.get_entry_type() {
        EntryType::EntryNormal | EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            (entry.data.len() + entry.context.len()) as u64
        }
    }
}

fn append_response(door: &Doorstep, message: &Message) -> Option<&'static str> {
    if message.index > door.last {
        reach!(GateAcknowledgesTooMuch);
        return Some("acknowledges what we do not have");
    }
    if message.reject && message.reject_hint > message.index {
        reach!(GateHintTooHigh);
        return Some("rejection hints above what it rejects");
    }
    if message.request_snapshot > door.last {
        reach!(GateSnapshotTooHigh);
        return Some("asks for a snapshot of what we do not have");
    }
    None
}

fn snapshot(door: &Doorstep, message: &Message) -> Option<&'static str> {
    if !message.has_snapshot() {
        reach!(GateNoSnapshot);
        return Some("snapshot message without snapshot");
    }
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index > INDEX_MAX || metadata.term == 0 {
        reach!(GateSnapshotNowhere);
        return Some("snapshot without position");
    }
    if metadata.term > message.term {
        reach!(GateSnapshotLaterTerm);
        return Some("snapshot from a later term");
    }
    // The crate answers an older one, and would install one of another term in place of what is committed.
    let (commit, term) = door.committed;
    if metadata.index == commit && Some(metadata.term) != term {
        return Some("snapshot contradicts what is committed");
    }
    membership(metadata.get_conf_state())
}

/// The crate panics on a membership that contradicts itself.
fn membership(state: &ConfState) -> Option<&'static str> {
    const BAD: Option<&str> = Some("snapshot with an impossible membership");
    let distinct = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.first() != Some(&0) && ids.windows(2).all(|pair| pair[0] != pair[1])
    };
    let disjoint = |a: &[u64], b: &[u64]| a.iter().all(|id| !b.contains(id));
    if state.voters.is_empty() {
        reach!(GateImpossibleMembership);
        return BAD;
    }
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    if !lists.iter().all(|ids| distinct(ids)) {
        reach!(GateImpossibleMembership);
        return BAD;
    }
    if !disjoint(&state.learners, &state.voters)
        || !disjoint(&state.learners, &state.voters_outgoing)
        || !disjoint(&state.learners_next, &state.voters)
        || !state.learners_next.iter().all(|id| state.voters_outgoing.contains(id))
    {
        reach!(GateImpossibleMembership);
        return BAD;
    }
    if state.voters_outgoing.is_empty() && state.auto_leave {
        reach!(GateImpossibleMembership);
        return BAD;
    }
    None
}
