//! One chain's consensus state on this node, as a pure function of events.
//!
//! [`Replica::handle`] takes an [`Event`] and lists [`Effect`]s; [`Replica::flush`] ends a round: one
//! Ready of the `raft` crate, one [`WriteBatch`](crate::storage::WriteBatch), one round of sends. Nothing is
//! ever awaited here: durability, the application and the peers answer by further events.

mod effect;
mod event;
mod status;

pub use effect::{CommittedEntry, Effect, Effects, Outcome, Refusal, Report};
pub use event::{Control, Event, MembershipChange, PeerReport, Proposal};
pub use status::{PeerProgress, Role, Status};

/// The `raft` crate's message types, for the codec of a transport only.
pub use raft::eraftpb;

/// A message between replicas.
pub type Message = raft::eraftpb::Message;
