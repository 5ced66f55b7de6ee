//! Our own types to and from those of the `raft` crate: moves of fields, payloads are shared.

use raft::eraftpb;

use crate::ids::NodeId;
use crate::storage::{ConfState, EntryKind, HardState, LogEntry, Snapshot};

pub(super) fn entry_from_raft(entry: eraftpb::Entry) -> LogEntry {
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChange => EntryKind::ConfChange,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    LogEntry { index: entry.index, term: entry.term, kind, context: entry.context, data: entry.data }
}

pub(super) fn entry_to_raft(entry: &LogEntry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry {
        index: entry.index,
        term: entry.term,
        context: entry.context.clone(),
        data: entry.data.clone(),
        ..eraftpb::Entry::default()
    };
    out.set_entry_type(match entry.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
    });
    out
}

pub(super) fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState { term: state.term, vote: NodeId::new(state.vote), commit: state.commit }
}

pub(super) fn hard_state_to_raft(state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term,
        vote: state.vote.map_or(0, NodeId::get),
        commit: state.commit,
        ..eraftpb::HardState::default()
    }
}

/// Sorted, so that equal memberships are equal values.
pub(super) fn conf_state_from_raft(state: &eraftpb::ConfState) -> ConfState {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    ConfState {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

pub(super) fn conf_state_to_raft(state: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
        ..eraftpb::ConfState::default()
    }
}

pub(super) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let metadata = snapshot.get_metadata();
    Snapshot {
        position: crate::storage::Position { index: metadata.index, term: metadata.term },
        conf_state: conf_state_from_raft(metadata.get_conf_state()),
        data: snapshot.data.clone(),
    }
}

pub(super) fn snapshot_to_raft(snapshot: &Snapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot { data: snapshot.data.clone(), ..eraftpb::Snapshot::default() };
    let metadata = out.mut_metadata();
    metadata.index = snapshot.position.index;
    metadata.term = snapshot.position.term;
    metadata.set_conf_state(conf_state_to_raft(&snapshot.conf_state));
    out
}
