//! What a chain orders entries for.
//!
//! An application is one task behind one trait: it takes committed entries in order, says what it has
//! taken, and proposes while it is asked to. [`ledger`] is the built-in one (transactions to blocks),
//! [`embed`] adapts a user's own state machine. An application never sees a replica, a term it could act on
//! by itself or a peer; it may be slow, but it must not skip: the index moves only when it says so.

pub mod controller;
pub mod embed;
mod inbox;
pub mod ledger;

use std::future::Future;

use consensus_core::ids::Ticket;
use consensus_core::replica::{CommittedEntry, Outcome};
use consensus_core::storage::Snapshot;

pub use inbox::{ApplicationInbox, InboxFull};
pub(crate) use inbox::{ApplicationSender, channel};

use crate::chain::ChainHandle;

/// Something the chain tells its application, in this order of causes.
#[derive(Debug)]
pub enum ApplicationEvent {
    /// Always the first: what the chain was opened with. Entries up to `applied` are not handed out again, so
    /// whoever keeps the state in memory restores the snapshot and reads the entries above it from the store.
    Opened {
        /// The last entry that the application had taken.
        applied: u64,
        /// The newest snapshot, if any.
        snapshot: Option<Snapshot>,
    },
    /// This node leads and its log is applied: answer with `ChainHandle::propose` whenever there is something,
    /// until it is withdrawn. A later request replaces the earlier one.
    RequestProposal {
        /// The term in which proposals are welcome.
        term: u64,
        /// How many more proposals may be outstanding from now on.
        room: usize,
    },
    /// Proposals are not welcome any more; those in flight are answered one by one.
    WithdrawRequest,
    /// Take these: answer with `ChainHandle::applied` for a prefix or all of them.
    Apply(Vec<CommittedEntry>),
    /// Answer with `ChainHandle::snapshot_built`.
    BuildSnapshot,
    /// Replace the state by this one: answer with `ChainHandle::snapshot_installed`.
    InstallSnapshot(Snapshot),
    /// The answer to a proposal.
    Answer {
        /// Which one.
        ticket: Ticket,
        /// What became of it. `Applied` comes after the entry was taken.
        outcome: Outcome,
    },
    /// The chain has halted on this node: nothing will be applied any more.
    Halted {
        /// Why, for people.
        reason: String,
    },
}

/// One chain's application on this node.
pub trait Application: Send + 'static {
    /// Runs until the inbox ends; ending earlier halts the chain.
    fn run(self, inbox: ApplicationInbox, chain: ChainHandle) -> impl Future<Output = ()> + Send;
}
