//! Committed payload bytes that the application has not taken.

use std::collections::VecDeque;

use crate::storage::LogEntry;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Backlog {
    pub(super) fn push(&mut self, entry: &LogEntry) {
        let bytes = entry.data.len() as u64;
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
