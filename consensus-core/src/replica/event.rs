//! What a replica is told. Each event that answers an [`Effect`](super::Effect) names it.
//!
//! The driver hands over everything that is in its inbox, `Persisted` first, and then calls
//! [`Replica::flush`](super::Replica::flush) once. Events never fail: what they lead to comes back as effects.

use bytes::Bytes;

use super::Message;
use crate::ids::{NodeId, Ticket};

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// One tick of the clock has passed.
    Tick,
    /// A message arrived from the peer that the transport knows as `from`.
    PeerMessage {
        /// The authenticated sender.
        from: NodeId,
        /// The message, not yet judged.
        message: Message,
    },
    /// The application (or an embedder) wants entries appended; the answer to `Effect::RequestProposal`.
    Propose {
        /// All proposals of a round; they become consecutive entries.
        proposals: Vec<Proposal>,
    },
    /// A linearizable read wants to know which index it must see; answered by `Effect::Answer`.
    ReadIndex {
        /// Names the answer.
        ticket: Ticket,
    },
    /// All `Effect::Persist` up to `number` are durable.
    Persisted {
        /// The write's number.
        number: u64,
    },
    /// The application has taken every entry of `Effect::Apply` up to `index`, and its own records of them are
    /// written or handed to the writer.
    Applied {
        /// The last entry.
        index: u64,
    },
    /// Answer to `Effect::BuildSnapshot`.
    SnapshotBuilt {
        /// The application's state contains all entries up to here.
        index: u64,
        /// The application's bytes; `None` if it could not build one.
        data: Option<Bytes>,
    },
    /// Answer to `Effect::InstallSnapshot`: the application has the state of the snapshot, durably.
    SnapshotInstalled {
        /// The snapshot's index.
        index: u64,
    },
    /// What the transport learnt about a peer.
    PeerReport {
        /// The peer.
        peer: NodeId,
        /// What happened.
        report: PeerReport,
    },
    /// An operator's or the process's wish; answered by `Effect::Answer`.
    Control {
        /// Names the answer.
        ticket: Ticket,
        /// The wish.
        command: Control,
    },
}

/// One entry that somebody wants in the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Names the answer.
    pub ticket: Ticket,
    /// The payload; not empty (empty entries are Raft's own).
    pub data: Bytes,
    /// Travels with the entry, on the wire and on disk, and means nothing to consensus: where the entry belongs in
    /// a trace. Usually empty; left out if it is longer than [`ENTRY_CONTEXT_BYTES_MAX`](crate::limits::ENTRY_CONTEXT_BYTES_MAX)
    /// or does not fit beside the payload.
    pub context: Bytes,
}

impl Proposal {
    /// Without a context.
    pub fn new(ticket: Ticket, data: Bytes) -> Self {
        Self { ticket, data, context: Bytes::new() }
    }
}

/// What a transport can know of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerReport {
    /// A message was dropped or the stream broke.
    Unreachable,
    /// A snapshot message was handed over to the peer.
    SnapshotDelivered,
    /// A snapshot message was lost.
    SnapshotFailed,
}

/// What an operator or the process may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// Move leadership to a peer, or to the one that is furthest on.
    TransferLeader {
        /// The target.
        to: Option<NodeId>,
    },
    /// Stand for election now.
    Campaign,
    /// Change the membership; several changes go through joint consensus.
    ChangeMembership {
        /// What shall change.
        changes: Vec<MembershipChange>,
    },
}

/// One step of a membership change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// Make it a voter.
    AddVoter(NodeId),
    /// Make it a learner.
    AddLearner(NodeId),
    /// Take it out.
    Remove(NodeId),
}
