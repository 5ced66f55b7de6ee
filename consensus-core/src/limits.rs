//! Every bound of a replica and its ledger, in one struct, checked against each other.
//!
//! A bound that another one depends on is tied to it in [`Limits::validate`]; there is no second place
//! where a queue or a message gets a size.

use thiserror::Error;

/// Bytes of Raft and protobuf framing that a message needs beyond its entries' payloads.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 64 * 1024;

/// Longest transaction id in bytes.
pub const TRANSACTION_ID_BYTES_MAX: usize = 64;

/// Longest context that a proposal brings along, in bytes.
pub const ENTRY_CONTEXT_BYTES_MAX: usize = 64;

/// Bounds of one chain on one node. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Limits {
    /// Largest payload of one log entry.
    pub entry_bytes_max: u64,
    /// Payload bytes that one append message carries; a single larger entry still passes alone.
    pub append_bytes_max: u64,
    /// Append messages in flight to one peer.
    pub inflight_appends_max: usize,
    /// Payload bytes proposed and not yet committed, on a leader.
    pub uncommitted_bytes_max: u64,
    /// Payload bytes handed to the application in one step.
    pub apply_bytes_max: u64,
    /// Payload bytes committed and not yet applied; beyond it a follower drops appends and a leader refuses
    /// proposals.
    pub apply_backlog_bytes_max: u64,
    /// Rounds handed to the writer and not yet durable.
    pub unpersisted_rounds_max: usize,
    /// Payload bytes handed to the writer and not yet durable.
    pub unpersisted_bytes_max: u64,
    /// Payload bytes of recent entries kept in memory.
    pub tail_bytes_max: u64,
    /// Proposals not yet applied, on a leader.
    pub inflight_proposals_max: usize,
    /// Linearizable reads waiting for their index.
    pub pending_reads_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entry_bytes_max: 16 << 20,
            append_bytes_max: 1 << 20,
            inflight_appends_max: 64,
            uncommitted_bytes_max: 64 << 20,
            apply_bytes_max: 8 << 20,
            apply_backlog_bytes_max: 128 << 20,
            unpersisted_rounds_max: 64,
            unpersisted_bytes_max: 64 << 20,
            tail_bytes_max: 64 << 20,
            inflight_proposals_max: 256,
            pending_reads_max: 4096,
        }
    }
}

/// Two bounds that contradict each other, or one that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name} is {value}, must be {bound}")]
pub struct LimitsError {
    /// The field.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it must be.
    pub bound: String,
}

impl Limits {
    /// Checks each bound and those that depend on each other.
    ///
    /// # Errors
    /// The first bound that does not hold, with its value and what it must be.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let at_least = |name, value: u64, least: u64, what: &str| {
            if value >= least {
                return Ok(());
            }
            Err(LimitsError { name, value, bound: format!("at least {least}{what}") })
        };
        at_least("entry_bytes_max", self.entry_bytes_max, 1024, "")?;
        at_least("append_bytes_max", self.append_bytes_max, 1024, "")?;
        at_least("inflight_appends_max", self.inflight_appends_max as u64, 1, "")?;
        at_least("unpersisted_rounds_max", self.unpersisted_rounds_max as u64, 1, "")?;
        at_least("inflight_proposals_max", self.inflight_proposals_max as u64, 1, "")?;
        at_least("pending_reads_max", self.pending_reads_max as u64, 1, "")?;
        let entry = self.entry_bytes_max;
        at_least("uncommitted_bytes_max", self.uncommitted_bytes_max, entry, " (entry_bytes_max)")?;
        at_least("apply_backlog_bytes_max", self.apply_backlog_bytes_max, entry, " (entry_bytes_max)")?;
        at_least("unpersisted_bytes_max", self.unpersisted_bytes_max, entry, " (entry_bytes_max)")?;
        at_least("tail_bytes_max", self.tail_bytes_max, entry, " (entry_bytes_max)")
    }

    /// Largest message between two replicas, framing included: what transports size their limits from.
    pub fn message_bytes_max(&self) -> u64 {
        self.append_bytes_max + self.entry_bytes_max + MESSAGE_OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_consistent() {
        Limits::default().validate().expect("the defaults hold");
    }

    #[test]
    fn a_bound_below_the_entry_size_is_refused_by_name() {
        let limits = Limits { uncommitted_bytes_max: 5, ..Limits::default() };
        let error = limits.validate().expect_err("too small");
        assert_eq!(
            error.to_string(),
            "uncommitted_bytes_max is 5, must be at least 16777216 (entry_bytes_max)"
        );
    }
}
