//! What must hold in every run: one property a file, each with its source.
//!
//! The cluster tells the checks what it sees; a check answers with a [`Violation`] at the first
//! contradiction. All of them take constant time per observation (amortised).

mod agreed_membership;
mod apply_order;
mod chained_blocks;
mod client_history;
mod committed_stays;
mod durable_before_heard;
mod durable_quorum;
mod fresh_reads;
mod leader_completeness;
mod leadership_told;
mod log_matching;
mod monotonic;
mod no_id_twice;
mod no_panic;
mod one_content_per_position;
mod one_leader_per_term;
mod one_vote_per_term;
mod ordered_and_bounded;
mod refused_as_forged;
mod silent_outsiders;
mod true_answers;
mod true_readiness;

use std::fmt;

pub use agreed_membership::AgreedMembership;
pub use apply_order::ApplyOrder;
pub use chained_blocks::ChainedBlocks;
pub use client_history::{Acknowledgement, ClientHistory};
pub use committed_stays::CommittedStays;
pub use durable_before_heard::DurableBeforeHeard;
pub use durable_quorum::{DurableQuorum, is_majority, on_a_majority};
pub use fresh_reads::FreshReads;
pub use leader_completeness::{Leader, LeaderCompleteness};
pub use leadership_told::LeadershipTold;
pub use log_matching::LogMatching;
pub use monotonic::{Monotonic, Promises};
pub use no_id_twice::NoIdTwice;
pub use no_panic::NoPanic;
pub use one_content_per_position::{CanonicalBlock, OneContentPerPosition};
pub use one_leader_per_term::OneLeaderPerTerm;
pub use one_vote_per_term::OneVotePerTerm;
pub use ordered_and_bounded::OrderedAndBounded;
pub use refused_as_forged::RefusedAsForged;
pub use silent_outsiders::{SilentOutsiders, is_named};
pub use true_answers::TrueAnswers;
pub use true_readiness::{Seen, TrueReadiness};

use super::application::TakenBlock;
use crate::limits::Limits;
use crate::storage::{ConfState, Position};

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
    /// S2.
    pub log_matching: LogMatching,
    /// S3.
    pub leader_completeness: LeaderCompleteness,
    /// S4.
    pub one_content_per_position: OneContentPerPosition,
    /// S5.
    pub durable_quorum: DurableQuorum,
    /// S6.
    pub committed_stays: CommittedStays,
    /// S7.
    pub monotonic: Monotonic,
    /// S8.
    pub one_vote_per_term: OneVotePerTerm,
    /// S9 and S16.
    pub ordered_and_bounded: OrderedAndBounded,
    /// S10.
    pub apply_order: ApplyOrder,
    /// S11.
    pub chained_blocks: ChainedBlocks,
    /// S12.
    pub agreed_membership: AgreedMembership,
    /// S13.
    pub silent_outsiders: SilentOutsiders,
    /// S14.
    pub fresh_reads: FreshReads,
    /// S15.
    pub no_id_twice: NoIdTwice,
    /// S17.
    pub no_panic: NoPanic,
    /// S18.
    pub refused_as_forged: RefusedAsForged,
    /// S19.
    pub true_readiness: TrueReadiness,
    /// S20.
    pub leadership_told: LeadershipTold,
    /// A1.
    pub true_answers: TrueAnswers,
    /// D1.
    pub durable_before_heard: DurableBeforeHeard,
    /// P4.
    pub client_history: ClientHistory,
}

impl Invariants {
    /// For a cluster of this many nodes that begins with these members and a snapshot at this position (index 0:
    /// without one), with these bounds.
    pub fn new(nodes: usize, founders: &ConfState, founded_at: Position, limits: &Limits) -> Self {
        let members = founders.voters.len() + founders.learners.len();
        Self {
            one_leader_per_term: OneLeaderPerTerm::default(),
            log_matching: LogMatching::new(nodes, founders, founded_at),
            leader_completeness: LeaderCompleteness::default(),
            one_content_per_position: OneContentPerPosition::new(founded_at.index),
            durable_quorum: DurableQuorum,
            committed_stays: CommittedStays::new(nodes),
            monotonic: Monotonic::new(nodes),
            one_vote_per_term: OneVotePerTerm::default(),
            ordered_and_bounded: OrderedAndBounded::new(nodes, limits),
            apply_order: ApplyOrder::new(nodes),
            chained_blocks: ChainedBlocks,
            agreed_membership: AgreedMembership::new(nodes, founders),
            silent_outsiders: SilentOutsiders::new(members, nodes - members),
            fresh_reads: FreshReads::default(),
            no_id_twice: NoIdTwice::default(),
            no_panic: NoPanic,
            refused_as_forged: RefusedAsForged::new(nodes),
            true_readiness: TrueReadiness::new(nodes),
            leadership_told: LeadershipTold::new(nodes),
            true_answers: TrueAnswers,
            durable_before_heard: DurableBeforeHeard,
            client_history: ClientHistory::new(nodes),
        }
    }

    /// A node is gone with everything that only its process knew.
    pub fn stops(&mut self, node: usize) {
        self.refused_as_forged.stops(node);
        self.leadership_told.stops(node);
        self.true_readiness.stops(node);
        self.ordered_and_bounded.stops(node);
    }

    /// A node that is down gets an empty store.
    pub fn begins_anew(&mut self, node: usize) {
        self.monotonic.begins_anew(node);
        self.log_matching.begins_anew(node);
        self.committed_stays.begins_anew(node);
        self.silent_outsiders.begins_anew(node);
        self.agreed_membership.crashes(node, Vec::new());
    }

    /// An application has made a block.
    ///
    /// # Errors
    /// The first property that it violates.
    pub fn block(&mut self, node: usize, block: TakenBlock) -> Verdict {
        self.apply_order.block(node, block.height)?;
        self.made_anew(node, block)
    }

    /// An application that starts has made a block that it had lost.
    ///
    /// # Errors
    /// The first property that it violates.
    pub fn made_anew(&mut self, node: usize, block: TakenBlock) -> Verdict {
        let id = node as u64 + 1;
        let TakenBlock { height, previous, canonical, sealed } = block;
        self.chained_blocks.block(id, height, previous, self.one_content_per_position.blocks())?;
        self.client_history.delivers(node, height, &canonical)?;
        let transactions = canonical.transactions.clone();
        if self.one_content_per_position.block(id, height, canonical)? {
            self.no_id_twice.block(height, &transactions)?;
            sealed.map_or(Ok(()), |block| self.chained_blocks.sealed(id, &block))?;
        }
        Ok(())
    }
}
