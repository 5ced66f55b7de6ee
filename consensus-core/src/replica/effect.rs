//! What a replica wants done. Each effect that expects an answer names the answering event.
//!
//! Effects are performed in their order; none of them may be skipped, and none is awaited: the answers
//! are events.

use thiserror::Error;

use super::{Message, Role};
use crate::error::Class;
use crate::ids::{NodeId, Ticket};
use crate::storage::{LogEntry, Snapshot, WriteBatch};

/// Something to do.
// A batch is moved twice in its life; a box for each would cost more than the room in a short list.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Effect {
    /// Send these, in order per receiver. Losing some is legal; a lost snapshot is answered by
    /// `Event::PeerReport`.
    Send {
        /// The messages.
        messages: Vec<Message>,
    },
    /// Hand to the writer. With `batch.sync`: answered by `Event::Persisted` when it is durable.
    Persist {
        /// One round's writes.
        batch: WriteBatch,
    },
    /// This replica leads, its log is applied, and it takes proposals: answered by `Event::Propose` whenever
    /// the application has something.
    RequestProposal {
        /// The term in which the proposals are welcome.
        term: u64,
        /// How many more proposals may be outstanding from now on.
        room: usize,
    },
    /// Proposals are not welcome any more: leadership was lost. What was in flight is answered one by one.
    WithdrawRequest,
    /// Hand to the application, in order: answered by `Event::Applied` once for a prefix or all of them.
    Apply {
        /// Committed and locally durable entries, contiguous.
        entries: Vec<CommittedEntry>,
    },
    /// Build a snapshot of the state as it is: answered by `Event::SnapshotBuilt`.
    BuildSnapshot,
    /// Replace the application's state: answered by `Event::SnapshotInstalled`. No `Apply` comes before that.
    InstallSnapshot {
        /// The snapshot, durable in the store.
        snapshot: Snapshot,
    },
    /// The answer to a ticket; exactly one for each.
    Answer {
        /// The question's ticket.
        ticket: Ticket,
        /// The answer.
        outcome: Outcome,
    },
    /// Something that people or metrics should know.
    Report(Report),
    /// The chain must stop on this node; the replica ignores every further event.
    Halt {
        /// Why, for people.
        reason: String,
    },
}

/// A committed entry on its way to the application.
#[derive(Clone, Debug)]
pub struct CommittedEntry {
    /// The entry.
    pub entry: LogEntry,
    /// Set if this replica proposed it in its present leadership.
    pub ticket: Option<Ticket>,
}

/// Answers to tickets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The proposal is committed and applied here.
    Applied {
        /// Where.
        index: u64,
        /// In which term.
        term: u64,
    },
    /// A read that sees at least this index, which is applied here, is linearizable.
    ReadIndex {
        /// The index.
        index: u64,
    },
    /// The control command took effect.
    Done,
    /// It did not happen, or it is unknown whether it happened.
    Failed(Refusal),
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// Another node leads, or nobody.
    #[error("this replica is not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Leadership was lost with the request in flight: it may still take effect.
    #[error("leadership was lost, the outcome is unknown")]
    LeadershipLost {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// A queue is full.
    #[error("{what} is at its bound of {bound}")]
    Overloaded {
        /// The queue.
        what: &'static str,
        /// Its bound.
        bound: u64,
    },
    /// The entry is empty or too large.
    #[error("entry of {bytes} bytes, must be between 1 and {bound}")]
    EntrySize {
        /// Its payload.
        bytes: u64,
        /// The largest payload.
        bound: u64,
    },
    /// No answer within the replica's own deadline.
    #[error("not confirmed within {ticks} ticks")]
    TimedOut {
        /// How long it waited.
        ticks: u64,
    },
    /// The membership change cannot be done now or as it is.
    #[error("membership change refused: {0}")]
    Membership(String),
    /// The transfer of leadership cannot be done as asked.
    #[error("transfer refused: {0}")]
    Transfer(String),
    /// The chain has halted on this node.
    #[error("the chain has halted on this node")]
    Halted,
}

impl Refusal {
    /// What the consumer may do.
    pub fn class(&self) -> Class {
        match self {
            Self::NotLeader { .. }
            | Self::LeadershipLost { .. }
            | Self::Overloaded { .. }
            | Self::TimedOut { .. } => Class::Retry,
            Self::EntrySize { .. } | Self::Membership(_) | Self::Transfer(_) => Class::Reject,
            Self::Halted => Class::Halt,
        }
    }

    /// The word for labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not-leader",
            Self::LeadershipLost { .. } => "leadership-lost",
            Self::Overloaded { .. } => "overloaded",
            Self::EntrySize { .. } => "entry-size",
            Self::TimedOut { .. } => "timed-out",
            Self::Membership(_) => "membership",
            Self::Transfer(_) => "transfer",
            Self::Halted => "halted",
        }
    }
}

/// What people or metrics should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Role, term or leader changed.
    Leadership {
        /// Our role.
        role: Role,
        /// Our term.
        term: u64,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// A message was refused at the gate.
    GateRefused {
        /// Its sender.
        from: NodeId,
        /// Why; also the metric's label.
        reason: &'static str,
    },
    /// A peer speaks as if this replica had more log than it has: this store lost data.
    StoreBehind {
        /// Who says so.
        from: NodeId,
        /// The index it believes us to have.
        claimed: u64,
        /// What we have.
        last: u64,
    },
    /// This leader's disk has not taken a write for long: leadership is offered to another node.
    DiskHangs {
        /// How long the oldest write has been under way.
        ticks: u64,
        /// Who shall take over.
        to: NodeId,
    },
    /// Membership changed.
    Membership {
        /// Voters.
        voters: Vec<u64>,
        /// Learners.
        learners: Vec<u64>,
    },
    /// This replica is no member any more.
    Removed,
}

/// The effects of a round, in order.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one at the end.
    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes all, in order; the room is kept.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.list.drain(..)
    }

    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Effect> {
        self.list.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
