//! Snapshots: when one is built, what it lets go, and that none sent is forgotten.
//!
//! The crate stops replicating to a peer once it has sent it a snapshot, until it hears of its fate. So each
//! snapshot sent has a deadline here; when it passes without the peer's acknowledgement, failure is reported
//! and the crate tries again.

use std::collections::BTreeMap;

use raft::eraftpb::MessageType;
use raft::{SnapshotStatus, StateRole};

use super::{Effect, Effects, Message, Phase, Replica};
use crate::ids::NodeId;
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{Position, Snapshot, WriteBatch};
use bytes::Bytes;

/// When to build snapshots and what to keep of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPolicy {
    /// Applied entries after which a new snapshot is built.
    pub every_entries: u64,
    /// Entries kept below the snapshot for peers that lag behind.
    pub keep_entries: u64,
}

#[derive(Debug)]
pub(super) struct Snapshots {
    policy: Option<SnapshotPolicy>,
    timeout_ticks: u64,
    building: bool,
    /// The application cannot build one; asked again only after a restart.
    unsupported: bool,
    /// Sent to, with the tick at which it counts as lost.
    sent: BTreeMap<u64, u64>,
}

impl Snapshots {
    pub(super) fn new(policy: Option<SnapshotPolicy>, timeout_ticks: u64) -> Self {
        Self { policy, timeout_ticks, building: false, unsupported: false, sent: BTreeMap::new() }
    }

    pub(super) fn note_sent(&mut self, messages: &[Message], now: u64) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.sent.insert(message.to, now + self.timeout_ticks);
            }
        }
    }

    /// Whether one was sent and may have got lost.
    pub(super) fn await_news(&self) -> bool {
        !self.sent.is_empty()
    }
}

impl Replica {
    /// Asks for a snapshot when the policy or a lagging peer wants one.
    pub(super) fn request_snapshot_when_due(&mut self, effects: &mut Effects) {
        let wanted = self.raw.store().take_snapshot_wanted();
        reach!(SnapshotWanted, wanted);
        if self.snapshots.building || self.snapshots.unsupported || self.applied == 0 {
            return;
        }
        let since = self.applied - self.raw.store().snapshot_index().min(self.applied);
        let due = self.snapshots.policy.is_some_and(|policy| since >= policy.every_entries);
        if due || (wanted && since > 0) {
            self.snapshots.building = true;
            effects.push(Effect::BuildSnapshot);
        }
    }

    pub(super) fn on_snapshot_built(&mut self, index: u64, data: Option<Bytes>, effects: &mut Effects) {
        self.snapshots.building = false;
        let Some(data) = data else {
            self.snapshots.unsupported = true;
            return;
        };
        let current = self.raw.store().snapshot_index();
        let unchanged = index >= self.raw.store().changed_at();
        let Some(term) = self.raw.store().term_of(index) else { return };
        if index > self.applied {
            self.catch_up_with_application(index);
        }
        if index <= current || index > self.applied || !unchanged || !matches!(self.phase, Phase::Running) {
            reach!(SnapshotOutdated);
            return;
        }
        let snapshot = Snapshot {
            position: Position { index, term },
            conf_state: self.raw.store().conf_state().clone(),
            data,
        };
        let mut batch = self.lazy_batch();
        batch.compact_to = self.compaction_point(index);
        if let Some(to) = batch.compact_to {
            reach!(LogCompacted);
            self.raw.mut_store().compact(to);
        }
        if mutant::is(Mutant::CompactedBeforeSnapshot) {
            let compact_to = batch.compact_to.take();
            effects.push(Effect::Persist { batch: WriteBatch { compact_to, ..WriteBatch::new(self.chain) } });
        }
        batch.snapshot = Some(snapshot.clone());
        self.raw.mut_store().set_snapshot(snapshot);
        effects.push(Effect::Persist { batch });
        if self.raw.raft.state == StateRole::Leader {
            // Whoever waits for it asks again with its answer to a heartbeat.
            self.raw.ping();
            self.pin();
        }
    }

    /// After a restart the application may have entries that this replica has not heard to be committed. They
    /// are: it was given nothing else. A leader that waited for a quorum to say so again could wait for the very
    /// peer that waits for this snapshot.
    fn catch_up_with_application(&mut self, index: u64) {
        let leads = self.raw.raft.state == StateRole::Leader;
        let log = &mut self.raw.raft.raft_log;
        if leads && index > log.committed && index <= log.last_index() {
            log.commit_to(index);
        }
    }

    /// Never beyond the snapshot, and never beyond what is in the store.
    fn compaction_point(&self, snapshot_index: u64) -> Option<Position> {
        let keep = self.snapshots.policy?.keep_entries;
        let index = snapshot_index.saturating_sub(keep) + u64::from(mutant::is(Mutant::CompactionOffByOne));
        if index < self.raw.store().first() {
            return None;
        }
        let term = self.raw.store().term_of(index)?;
        Some(Position { index, term })
    }

    pub(super) fn on_snapshot_installed(&mut self, index: u64, effects: &mut Effects) {
        let Phase::CatchingUp { index: awaited, .. } = &self.phase else { return };
        if *awaited != index {
            return;
        }
        let Phase::CatchingUp { held, .. } = std::mem::replace(&mut self.phase, Phase::Running) else {
            return;
        };
        self.heard.listen(self.ticks);
        let mut batch = self.lazy_batch();
        batch.installed = true;
        reach!(SnapshotInstalled);
        effects.push(Effect::Persist { batch });
        super::ready::send(held, effects);
        self.applied_pending = true;
        self.proposals.applied(index, effects);
    }

    /// A snapshot handed to the peer: its acknowledgement comes when it is installed, so only the time that
    /// it may take starts anew.
    pub(super) fn on_snapshot_delivered(&mut self, peer: NodeId) {
        if let Some(deadline) = self.snapshots.sent.get_mut(&peer.get()) {
            *deadline = self.ticks + self.snapshots.timeout_ticks;
        }
    }

    pub(super) fn on_snapshot_failed(&mut self, peer: NodeId) {
        if mutant::is(Mutant::SnapshotLossUnnoticed) {
            return;
        }
        if self.snapshots.sent.remove(&peer.get()).is_some() {
            reach!(SnapshotFailed);
            self.raw.report_snapshot(peer.get(), SnapshotStatus::Failure);
            self.pin();
        }
    }

    /// Reports the loss of snapshots that were not acknowledged in time.
    pub(super) fn expire_snapshots(&mut self) {
        let acknowledged = |id: &u64| {
            self.raw
                .raft
                .prs()
                .get(*id)
                .is_none_or(|progress| progress.state != raft::ProgressState::Snapshot)
        };
        let done: Vec<u64> = self.snapshots.sent.keys().copied().filter(acknowledged).collect();
        for id in done {
            self.snapshots.sent.remove(&id);
        }
        let late: Vec<u64> = self
            .snapshots
            .sent
            .iter()
            .filter(|(_, deadline)| **deadline <= self.ticks && !mutant::is(Mutant::SnapshotLossUnnoticed))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            reach!(SnapshotLate);
            self.snapshots.sent.remove(&id);
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
            self.pin();
        }
    }
}
