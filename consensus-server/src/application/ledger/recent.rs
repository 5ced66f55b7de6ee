//! The newest blocks, in memory.
//!
//! A block is readable from the moment it is applied; its records reach the store a little later, behind
//! everything else that the writer has to do. Until then, and for live readers in any case, it is served
//! from here. The ring is bounded in bytes and always keeps the blocks whose records are not written yet.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use consensus_core::ledger::Block;

/// What a transaction costs beside its payload and id.
const TRANSACTION_OVERHEAD_BYTES: u64 = 64;
/// Blocks kept in any case: more than the application hands to the writer ahead of its completion.
const BLOCKS_MIN: usize = 8;

/// A ring of contiguous blocks.
#[derive(Debug)]
pub(super) struct Recent {
    ring: RwLock<Ring>,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Ring {
    /// Height of the first block in `blocks`.
    first: u64,
    blocks: VecDeque<(Arc<Block>, u64)>,
    bytes: u64,
    /// Records up to this height are in the store.
    written: u64,
}

impl Recent {
    pub(super) fn new(bytes_max: u64, height: u64) -> Self {
        let ring = Ring { first: height + 1, written: height, ..Ring::default() };
        Self { ring: RwLock::new(ring), bytes_max }
    }

    /// Adds the blocks that follow the newest ones.
    pub(super) fn push(&self, blocks: impl IntoIterator<Item = Arc<Block>>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        for block in blocks {
            let bytes = block_bytes(&block);
            ring.bytes += bytes;
            ring.blocks.push_back((block, bytes));
        }
        ring.shrink(self.bytes_max);
    }

    /// The records of blocks up to `height` are in the store.
    pub(super) fn written(&self, height: u64) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.written = ring.written.max(height);
        ring.shrink(self.bytes_max);
    }

    /// The block at `height`, if it is here.
    pub(super) fn block(&self, height: u64) -> Option<Arc<Block>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(height.checked_sub(ring.first)?).ok()?;
        ring.blocks.get(at).map(|(block, _)| block.clone())
    }

    /// Blocks from the start of `heights` on while they are here, up to `bytes_max` of them but at least one.
    pub(super) fn blocks(&self, heights: Range<u64>, bytes_max: u64) -> Vec<Arc<Block>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = heights.start.checked_sub(ring.first) else { return Vec::new() };
        let count = heights.end.saturating_sub(heights.start) as usize;
        let mut bytes = 0;
        let mut taken: Vec<Arc<Block>> = Vec::new();
        for (block, block_bytes) in ring.blocks.iter().skip(at as usize).take(count) {
            bytes += block_bytes;
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(block.clone());
        }
        taken
    }
}

impl Ring {
    fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max && self.blocks.len() > BLOCKS_MIN && self.first <= self.written {
            if let Some((_, bytes)) = self.blocks.pop_front() {
                self.bytes -= bytes;
                self.first += 1;
            }
        }
    }
}

fn block_bytes(block: &Block) -> u64 {
    block
        .transactions
        .iter()
        .map(|t| (t.id.len() + t.payload.len()) as u64 + TRANSACTION_OVERHEAD_BYTES)
        .sum()
}

#[cfg(test)]
mod tests {
    use consensus_core::ids::Hash;
    use consensus_core::ledger::{Header, Transaction};

    use super::*;

    fn block(number: u64, bytes: usize) -> Arc<Block> {
        let transaction = Transaction { id: vec![1].into(), payload: vec![0; bytes].into() };
        let (previous_hash, data_hash, hash) = (Hash::default(), Hash::default(), Hash::default());
        let header = Header { number, previous_hash, data_hash, timestamp_ms: 0 };
        Arc::new(Block { header, hash, transactions: vec![transaction] })
    }

    #[test]
    fn old_blocks_leave_only_after_their_records_are_written() {
        let recent = Recent::new(1000, 0);
        recent.push((1..=20).map(|n| block(n, 500)));
        assert!(recent.block(1).is_some(), "not written yet");
        recent.written(15);
        assert!(recent.block(12).is_none() && recent.block(13).is_some(), "eight blocks stay in any case");
        assert_eq!(recent.block(20).map(|b| b.header.number), Some(20));
        assert!(recent.block(21).is_none());
        let heights = |from, to, bytes| {
            recent.blocks(from..to, bytes).iter().map(|b| b.header.number).collect::<Vec<_>>()
        };
        assert_eq!(heights(12, 20, u64::MAX), Vec::<u64>::new(), "not from the middle of nowhere");
        assert_eq!(heights(19, 30, u64::MAX), [19, 20]);
        assert_eq!(heights(13, 30, 1), [13], "at least one");
    }
}
