//! Committed entries that the application has not taken, in bytes.
//!
//! While the backlog is at its bound nothing more is handed out, and appends are dropped as if the network had
//! lost them; so neither a slow application nor a long log after a restart fills the memory.

use std::collections::VecDeque;

use crate::storage::LogEntry;

/// What an entry counts beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Backlog {
    pub(super) fn push(&mut self, entry: &LogEntry) {
        let bytes = entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES;
        self.bytes += bytes;
        self.entries.push_back((entry.index, bytes));
    }

    pub(super) fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.entries.pop_front_if(|(at, _)| *at <= index) {
            self.bytes -= bytes;
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
