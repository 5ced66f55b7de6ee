//! The seam at which a chain is measured and logged.
//!
//! The driver tells what happened as typed verbs; what becomes a metric, a log line or nothing is the
//! listener's business. Implementations must not wait: they are called on the hot path.

use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerReport, Refusal, Report, Status};

use crate::telemetry::trace::BlockTraces;

/// One round of the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundStats {
    /// Events handled, ticks included.
    pub events: usize,
    /// Proposals among them.
    pub proposals: usize,
    /// Messages handed to the transport.
    pub messages_sent: usize,
    /// Entries handed to the writer.
    pub entries_written: usize,
    /// Payload bytes handed to the writer.
    pub bytes_written: u64,
    /// Entries handed to the application.
    pub entries_committed: usize,
    /// Events left in the inbox for the next round.
    pub left: usize,
    /// Ticks before the round that a stall has swallowed.
    pub ticks_skipped: u64,
    /// How long the round took.
    pub elapsed: Duration,
}

/// Rounds that became durable together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistStats {
    /// How many rounds.
    pub rounds: usize,
    /// From handing the oldest of them to the writer until the driver saw it durable.
    pub elapsed: Duration,
}

/// What happens to snapshots on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// The application has built one.
    Built,
    /// The application has put one in the place of its state.
    Installed,
}

/// Who wants to know what a chain does. All methods return at once.
pub trait ChainObserver: Send + Sync + 'static {
    /// The replica reports something.
    fn report(&self, _report: &Report) {}

    /// A round ended.
    fn round(&self, _stats: RoundStats) {}

    /// Rounds became durable.
    fn persisted(&self, _stats: PersistStats) {}

    /// An entry that this node proposed is committed, so long after it was proposed.
    fn committed(&self, _after: Duration) {}

    /// A proposal of this node has its outcome: applied, so long after it was proposed, or why not.
    fn proposal_ended(&self, _outcome: Result<Duration, &Refusal>) {}

    /// Callers have begun to wait for a linearizable read.
    fn reads_began(&self, _callers: usize) {}

    /// They have their answer.
    fn reads_ended(&self, _callers: usize, _outcome: Result<(), &Refusal>) {}

    /// A step of a snapshot is done and took this long.
    fn snapshot(&self, _step: SnapshotStep, _took: Duration) {}

    /// The transport says this of a peer.
    fn peer_report(&self, _peer: NodeId, _report: PeerReport) {}

    /// Messages of a peer were dropped because the inbox was full.
    fn dropped(&self, _from: NodeId, _messages: usize) {}

    /// A fresh status was published: on each change of leadership and at most every few milliseconds.
    fn status(&self, _status: &Status) {}

    /// The chain halted.
    fn halted(&self, _reason: &str) {}

    /// What follows the chain's sampled blocks. Asked for once, at the start.
    fn traces(&self) -> BlockTraces {
        BlockTraces::off()
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl ChainObserver for Unobserved {}
