//! How long a replica can be left alone.
//!
//! Most ticks do nothing but be counted. A driver that knows for how many of them sleeps through them, and a
//! node with nothing to do costs next to nothing.

use raft::StateRole;

use super::{Phase, Replica};

impl Replica {
    /// The tick that matters next, counted from 1, if nothing else happens before it. The ticks before it have
    /// no effects: they may be handed in later, all at once, but before anything else is. `u64::MAX`: only
    /// other events matter.
    pub fn idle_ticks(&self) -> u64 {
        if self.halted.is_some() {
            return u64::MAX;
        }
        if self.has_deadlines() {
            return 1;
        }
        let raft = &self.raw.raft;
        let ticks = match raft.state {
            StateRole::Leader => {
                let to_beat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
                let to_check = raft.election_timeout().saturating_sub(raft.election_elapsed);
                to_beat.min(to_check)
            }
            _ if !raft.promotable() => return u64::MAX,
            _ => raft.randomized_election_timeout().saturating_sub(raft.election_elapsed),
        };
        (ticks as u64).max(1)
    }

    /// Whether something counts ticks that ends before an election or a heartbeat is due.
    fn has_deadlines(&self) -> bool {
        !matches!(self.phase, Phase::Running)
            || !self.rounds.is_empty()
            || self.has_lazy_write()
            || self.reads.len() > 0
            || self.snapshots.await_news()
            || self.transfer.is_some()
            || self.designated.is_some()
            || self.raw.has_ready()
    }
}
