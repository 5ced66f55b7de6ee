//! What must hold in every run: one property a file, each with its source.
//!
//! The cluster tells the checks what it sees; a check answers with a [`Violation`] at the first
//! contradiction. All of them take constant time per observation (amortised).

mod acknowledged_once;
mod agreed_membership;
mod apply_order;
mod durable_before_heard;
mod durable_quorum;
mod fresh_reads;
mod monotonic;
mod one_content_per_position;
mod one_leader_per_term;
mod one_vote_per_term;
mod ordered_and_bounded;
mod silent_outsiders;

use std::fmt;

pub use acknowledged_once::{AcknowledgedOnce, Acknowledgement};
pub use agreed_membership::AgreedMembership;
pub use apply_order::ApplyOrder;
pub use durable_before_heard::DurableBeforeHeard;
pub use durable_quorum::{DurableQuorum, is_majority};
pub use fresh_reads::FreshReads;
pub use monotonic::{Monotonic, Promises};
pub use one_content_per_position::{CanonicalBlock, OneContentPerPosition};
pub use one_leader_per_term::OneLeaderPerTerm;
pub use one_vote_per_term::OneVotePerTerm;
pub use ordered_and_bounded::OrderedAndBounded;
pub use silent_outsiders::{SilentOutsiders, is_named};

use crate::limits::Limits;
use crate::storage::ConfState;

/// Something that must never be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property: its number in the list of properties and its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// A violation.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// What a check answers.
pub type Verdict = Result<(), Violation>;

/// All checks of a run.
#[derive(Debug)]
pub struct Invariants {
    /// S1.
    pub one_leader_per_term: OneLeaderPerTerm,
    /// S4.
    pub one_content_per_position: OneContentPerPosition,
    /// S5.
    pub durable_quorum: DurableQuorum,
    /// S7.
    pub monotonic: Monotonic,
    /// S8.
    pub one_vote_per_term: OneVotePerTerm,
    /// S9 and S16.
    pub ordered_and_bounded: OrderedAndBounded,
    /// S10.
    pub apply_order: ApplyOrder,
    /// S12.
    pub agreed_membership: AgreedMembership,
    /// S13.
    pub silent_outsiders: SilentOutsiders,
    /// S14.
    pub fresh_reads: FreshReads,
    /// D1.
    pub durable_before_heard: DurableBeforeHeard,
    /// P4.
    pub acknowledged_once: AcknowledgedOnce,
}

impl Invariants {
    /// For a cluster of this many nodes that begins with these members and so many entries, with these bounds.
    pub fn new(nodes: usize, founders: &ConfState, entries: u64, limits: &Limits) -> Self {
        let members = founders.voters.len() + founders.learners.len();
        Self {
            one_leader_per_term: OneLeaderPerTerm::default(),
            one_content_per_position: OneContentPerPosition::new(entries),
            durable_quorum: DurableQuorum,
            monotonic: Monotonic::new(nodes),
            one_vote_per_term: OneVotePerTerm::default(),
            ordered_and_bounded: OrderedAndBounded::new(limits),
            apply_order: ApplyOrder::new(nodes),
            agreed_membership: AgreedMembership::new(nodes, founders),
            silent_outsiders: SilentOutsiders::new(members, nodes - members),
            fresh_reads: FreshReads::default(),
            durable_before_heard: DurableBeforeHeard,
            acknowledged_once: AcknowledgedOnce::default(),
        }
    }
}
