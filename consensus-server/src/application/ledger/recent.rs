//! The newest blocks, in memory.
//!
//! A block is readable from the moment it is applied; its records reach the store a little later, behind
//! everything else that the writer has to do. Until then, and for live readers in any case, it is served
//! from here. The ring is bounded in bytes and always keeps the blocks whose records are not written yet.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use consensus_proto::ordering::Block;

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

    /// Forgets everything: the state was replaced, and the next block is `height + 1`.
    pub(super) fn reset(&self, height: u64) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *ring = Ring { first: height + 1, written: height, ..Ring::default() };
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
    use consensus_proto::records::{BlockHeader, Transaction};

    use super::*;

    fn block(number: u64, bytes: usize) -> Arc<Block> {
        let transaction = Transaction { id: vec![1].into(), payload: vec![0; bytes].into() };
        let header = BlockHeader { number, ..BlockHeader::default() };
        Arc::new(Block { header: Some(header), transactions: vec![transaction], ..Block::default() })
    }

    #[test]
    fn old_blocks_leave_only_after_their_records_are_written() {
        let recent = Recent::new(1000, 0);
        recent.push((1..=20).map(|n| block(n, 500)));
        assert!(recent.block(1).is_some(), "not written yet");
        recent.written(15);
        assert!(recent.block(12).is_none() && recent.block(13).is_some(), "eight blocks stay in any case");
        assert_eq!(recent.block(20).and_then(|b| b.header.clone()).map(|h| h.number), Some(20));
        assert!(recent.block(21).is_none());
    }
}
