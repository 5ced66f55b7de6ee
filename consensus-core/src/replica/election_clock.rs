//! Election timeouts from a seeded generator.
//!
//! The `raft` crate draws its randomised timeout from the operating system whenever it resets; that would
//! make runs unrepeatable. After every call into the crate the timeout is therefore set again from here: a
//! new draw for each (term, role, leader) and for each campaign, the same value otherwise.

use raft::{RawNode, StateRole};

use super::log_view::LogView;

pub(super) struct ElectionClock {
    state: u64,
    min: usize,
    span: u64,
    timeout: usize,
    drawn_for: (u64, StateRole, u64),
    elapsed: usize,
}

impl ElectionClock {
    /// Timeouts of `min..=max` ticks.
    pub(super) fn new(seed: u64, min: usize, max: usize) -> Self {
        let mut clock = Self {
            state: seed,
            min,
            span: (max - min) as u64 + 1,
            timeout: min,
            drawn_for: (0, StateRole::Follower, 0),
            elapsed: 0,
        };
        clock.draw();
        clock
    }

    fn draw(&mut self) {
        self.timeout = self.min + (self.random() % self.span) as usize;
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// To be called after every call into the crate.
    pub(super) fn pin(&mut self, raw: &mut RawNode<LogView>) {
        let raft = &mut raw.raft;
        let key = (raft.term, raft.state, raft.leader_id);
        let campaigned = raft.election_elapsed < self.elapsed && raft.state == StateRole::PreCandidate;
        if key != self.drawn_for || campaigned {
            self.drawn_for = key;
            self.draw();
        }
        self.elapsed = raft.election_elapsed;
        raft.set_randomized_election_timeout(self.timeout);
    }
}
