//! What must hold in every run: one property a file, each with its source.
//!
//! The cluster tells the checks what it sees; a check answers with a [`Violation`] at the first
//! contradiction. All of them take constant time per observation (amortised).

mod acknowledged_once;
mod apply_order;
mod durable_before_heard;
mod durable_quorum;
mod fresh_reads;
mod monotonic;
mod one_content_per_position;
mod one_leader_per_term;
mod one_vote_per_term;
mod ordered_and_bounded;

use std::fmt;

pub use acknowledged_once::{AcknowledgedOnce, Acknowledgement};
pub use apply_order::ApplyOrder;
pub use durable_before_heard::DurableBeforeHeard;
pub use durable_quorum::DurableQuorum;
pub use fresh_reads::FreshReads;
pub use monotonic::{Monotonic, Promises};
pub use one_content_per_position::{CanonicalBlock, OneContentPerPosition};
pub use one_leader_per_term::OneLeaderPerTerm;
pub use one_vote_per_term::OneVotePerTerm;
pub use ordered_and_bounded::OrderedAndBounded;

use crate::limits::Limits;

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
    /// S14.
    pub fresh_reads: FreshReads,
    /// D1.
    pub durable_before_heard: DurableBeforeHeard,
    /// P4.
    pub acknowledged_once: AcknowledgedOnce,
}

impl Invariants {
    /// For a cluster of this many nodes, so many of them voters, with these bounds.
    pub fn new(nodes: usize, voters: usize, limits: &Limits) -> Self {
        Self {
            one_leader_per_term: OneLeaderPerTerm::default(),
            one_content_per_position: OneContentPerPosition::default(),
            durable_quorum: DurableQuorum::new(voters),
            monotonic: Monotonic::new(nodes),
            one_vote_per_term: OneVotePerTerm::default(),
            ordered_and_bounded: OrderedAndBounded::new(limits),
            apply_order: ApplyOrder::new(nodes),
            fresh_reads: FreshReads::default(),
            durable_before_heard: DurableBeforeHeard,
            acknowledged_once: AcknowledgedOnce::default(),
        }
    }
}
