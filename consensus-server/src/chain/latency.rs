//! How long a chain's own proposals, reads and snapshots take, for whoever listens.
//!
//! Times are those of the rounds in which something began and ended, so that a proposal costs one entry in a table and
//! no look at the clock. The table holds what this replica has proposed and not answered, which the replica bounds.

use std::collections::HashMap;
use std::sync::Arc;

use consensus_core::ids::Ticket;
use consensus_core::replica::{CommittedEntry, Outcome, Proposal, Refusal};
use tokio::time::Instant;

use super::observer::{ChainObserver, SnapshotStep};

/// What is under way, and since when.
pub(super) struct Latency {
    observer: Arc<dyn ChainObserver>,
    now: Instant,
    proposals: HashMap<Ticket, Instant>,
    building: Option<Instant>,
    installing: Option<Instant>,
}

impl Latency {
    pub(super) fn new(observer: Arc<dyn ChainObserver>) -> Self {
        Self { observer, now: Instant::now(), proposals: HashMap::new(), building: None, installing: None }
    }

    /// A round begins.
    pub(super) fn round(&mut self, now: Instant) {
        self.now = now;
    }

    /// These go to the replica.
    pub(super) fn proposed(&mut self, proposals: &[Proposal]) {
        self.proposals.extend(proposals.iter().map(|proposal| (proposal.ticket, self.now)));
    }

    /// These are committed.
    pub(super) fn committed(&self, entries: &[CommittedEntry]) {
        let tickets = entries.iter().filter_map(|entry| entry.ticket);
        for since in tickets.filter_map(|ticket| self.proposals.get(&ticket)) {
            self.observer.committed(self.now.duration_since(*since));
        }
    }

    /// A ticket is answered; those that are no proposals are none of ours.
    pub(super) fn answered(&mut self, ticket: Ticket, outcome: &Outcome) {
        let Some(since) = self.proposals.remove(&ticket) else { return };
        self.observer.proposal_ended(match outcome {
            Outcome::Failed(refusal) => Err(refusal),
            Outcome::Applied { .. } | Outcome::ReadIndex { .. } | Outcome::Done => {
                Ok(self.now.duration_since(since))
            }
        });
    }

    /// So many callers wait for a read.
    pub(super) fn reads_began(&self, callers: usize) {
        self.observer.reads_began(callers);
    }

    /// They need not any more.
    pub(super) fn reads_ended(&self, callers: usize, outcome: Result<(), &Refusal>) {
        self.observer.reads_ended(callers, outcome);
    }

    /// The application is asked for a snapshot.
    pub(super) fn building(&mut self) {
        self.building = Some(self.now);
    }

    /// It has one, or has none to give.
    pub(super) fn built(&mut self, there: bool) {
        if let Some(since) = self.building.take().filter(|_| there) {
            self.observer.snapshot(SnapshotStep::Built, self.now.duration_since(since));
        }
    }

    /// The application is given a snapshot.
    pub(super) fn installing(&mut self) {
        self.installing = Some(self.now);
    }

    /// It has taken it.
    pub(super) fn installed(&mut self) {
        if let Some(since) = self.installing.take() {
            self.observer.snapshot(SnapshotStep::Installed, self.now.duration_since(since));
        }
    }
}
