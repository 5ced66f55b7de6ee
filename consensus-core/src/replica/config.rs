//! How a replica shall behave, and what it refuses to start on.

use thiserror::Error;

use super::SnapshotPolicy;
use crate::limits::{Limits, LimitsError};
use crate::mutant::{self, Mutant};
use crate::storage::ChainState;

/// How a replica shall behave. Times are in ticks; the driver decides how long a tick is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// A leader's heartbeat interval.
    pub heartbeat_ticks: usize,
    /// After this long without a leader's word a follower may help elect another, and a leader without a
    /// quorum's word steps down.
    pub election_ticks: usize,
    /// Shortest randomised election timeout; at least `election_ticks`.
    pub election_ticks_min: usize,
    /// Longest randomised election timeout; above the shortest.
    pub election_ticks_max: usize,
    /// Seeds the election timeouts and makes this start's read contexts its own: different for every start
    /// of a node in production, given in a simulation.
    pub seed: u64,
    /// When to build snapshots; `None` only when a lagging peer needs one.
    pub snapshots: Option<SnapshotPolicy>,
    /// Ticks after which a snapshot sent and not acknowledged counts as lost.
    pub snapshot_timeout_ticks: u64,
    /// Bounds.
    pub limits: Limits,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            heartbeat_ticks: 1,
            election_ticks: 10,
            election_ticks_min: 11,
            election_ticks_max: 20,
            seed: 0,
            snapshots: None,
            snapshot_timeout_ticks: 300,
            limits: Limits::default(),
        }
    }
}

impl ReplicaConfig {
    /// Checks the relations between the values.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn validate(&self) -> Result<(), OpenError> {
        let bad =
            |name, value: usize, bound: String| Err(OpenError::Config { name, value: value as u64, bound });
        if self.heartbeat_ticks == 0 {
            return bad("heartbeat_ticks", 0, "at least 1".to_owned());
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return bad(
                "election_ticks",
                self.election_ticks,
                format!("above heartbeat_ticks ({})", self.heartbeat_ticks),
            );
        }
        if self.election_ticks_min < self.election_ticks {
            return bad(
                "election_ticks_min",
                self.election_ticks_min,
                format!("at least election_ticks ({})", self.election_ticks),
            );
        }
        if self.election_ticks_max <= self.election_ticks_min {
            return bad(
                "election_ticks_max",
                self.election_ticks_max,
                format!("above election_ticks_min ({})", self.election_ticks_min),
            );
        }
        self.limits.validate()?;
        Ok(())
    }

    /// As the crate wants it.
    pub(super) fn for_raft(&self, node: u64, applied: u64) -> raft::Config {
        let limits = &self.limits;
        raft::Config {
            id: node,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            min_election_tick: self.election_ticks_min,
            max_election_tick: self.election_ticks_max + 1,
            applied,
            max_size_per_msg: limits.append_bytes_max,
            max_inflight_msgs: limits.inflight_appends_max,
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: limits.apply_bytes_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: false,
            ..raft::Config::default()
        }
    }
}

/// Why a replica cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A value of the configuration.
    #[error("{name} is {value}, must be {bound}")]
    Config {
        /// The field.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        bound: String,
    },
    /// A bound.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// What is durable contradicts itself.
    #[error("the store contradicts itself: {0}")]
    Inconsistent(String),
    /// The `raft` crate refuses.
    #[error("raft refuses to start: {0}")]
    Raft(#[from] raft::Error),
}

/// Repairs what the log proves and refuses the rest; the crate would panic on it.
pub(super) fn check_state(state: &mut ChainState) -> Result<(), OpenError> {
    let inconsistent = |text: String| Err(OpenError::Inconsistent(text));
    let (last, applied, truncated) = (state.last.index, state.applied.index, state.truncated.index);
    if applied < truncated {
        return inconsistent(format!(
            "applied index {applied} is below the first kept entry {}",
            truncated + 1
        ));
    }
    if applied > last {
        return inconsistent(format!(
            "applied index {applied} is above the last entry {last}: the log lost its tail"
        ));
    }
    if mutant::is(Mutant::VoteForgottenAtRestart) {
        state.hard_state.vote = None;
    }
    // The applied index is written behind the commit index of an earlier moment.
    state.hard_state.commit = state.hard_state.commit.max(applied);
    if state.hard_state.commit > last {
        let commit = state.hard_state.commit;
        return inconsistent(format!(
            "commit index {commit} is above the last entry {last}: the log lost its tail"
        ));
    }
    if state.last.term > state.hard_state.term {
        let (entry, term) = (state.last.term, state.hard_state.term);
        return inconsistent(format!("the last entry is of term {entry}, the promised term is {term}"));
    }
    if state.applied.conf_state.voters.is_empty() && last > 0 {
        return inconsistent(format!("the membership has no voters and the log has entries up to {last}"));
    }
    Ok(())
}
