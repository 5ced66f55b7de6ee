//! S4: state-machine safety: all nodes and incarnations have one entry at a committed index, and one
//! block at a height (Raft paper, figure 3; our promise of agreement).
//!
//! The canonical entry of an index is that of the first node that counted it committed; the canonical block
//! of a height is the first one that an application committed.

use super::{Verdict, Violation};
use crate::ids::Hash;
use crate::sim::image::EntryDigest;

const NAME: &str = "S4 one content per position";

/// A block as the first application committed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CanonicalBlock {
    /// Its hash, which covers the hash of the block before.
    pub hash: Hash,
    /// The entry it came from.
    pub index: u64,
    /// Client and number of its transactions, in order.
    pub transactions: Vec<(u64, u64)>,
}

/// Canonical entries and blocks.
#[derive(Debug, Default)]
pub struct OneContentPerPosition {
    entries: Vec<EntryDigest>,
    blocks: Vec<CanonicalBlock>,
}

impl OneContentPerPosition {
    /// A chain that begins with so many entries, which nobody ever applies.
    pub fn new(entries: u64) -> Self {
        let founding = EntryDigest { term: 0, content: 0 };
        Self { entries: vec![founding; entries as usize], blocks: Vec::new() }
    }

    /// The highest index that any node counted committed.
    pub fn committed(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Committed entries in order; the first has index 1.
    pub fn entries(&self) -> &[EntryDigest] {
        &self.entries
    }

    /// The committed entry at an index.
    pub fn entry(&self, index: u64) -> Option<EntryDigest> {
        self.entries.get(usize::try_from(index).ok()?.checked_sub(1)?).copied()
    }

    /// Blocks in order; the first has height 1.
    pub fn blocks(&self) -> &[CanonicalBlock] {
        &self.blocks
    }

    /// A node counts the next index committed.
    pub fn commit(&mut self, digest: EntryDigest) {
        self.entries.push(digest);
    }

    /// A node hands an entry to its application.
    pub fn applies(&mut self, node: u64, index: u64, digest: EntryDigest) -> Verdict {
        let canonical = index.checked_sub(1).and_then(|offset| self.entries.get(offset as usize));
        match canonical {
            Some(canonical) if *canonical == digest => Ok(()),
            Some(canonical) => Err(Violation::new(
                NAME,
                format!("n{node} applies {digest:?} at index {index}, committed is {canonical:?}"),
            )),
            None => Err(Violation::new(
                NAME,
                format!("n{node} applies index {index}, committed are {}", self.committed()),
            )),
        }
    }

    /// An application commits a block; whether it is the first one at its height.
    ///
    /// # Errors
    /// Another one is there, or the one before it is not.
    pub fn block(&mut self, node: u64, height: u64, block: CanonicalBlock) -> Result<bool, Violation> {
        let offset = (height as usize).wrapping_sub(1);
        match self.blocks.get(offset) {
            Some(canonical) if *canonical == block => Ok(false),
            Some(canonical) => Err(Violation::new(
                NAME,
                format!("n{node} has {block:?} at height {height}, canonical is {canonical:?}"),
            )),
            None if offset == self.blocks.len() => {
                self.blocks.push(block);
                Ok(true)
            }
            None => Err(Violation::new(
                NAME,
                format!("n{node} commits height {height} after {} blocks", self.blocks.len()),
            )),
        }
    }

    /// An application says that a height has this hash; height 0 stands before the first block.
    pub fn tip(&self, node: u64, height: u64, hash: Hash) -> Verdict {
        if height == 0 {
            return Ok(());
        }
        let canonical = self.blocks.get(height as usize - 1).map(|block| block.hash);
        if canonical == Some(hash) {
            return Ok(());
        }
        Err(Violation::new(
            NAME,
            format!("n{node} has hash {hash} at height {height}, canonical is {canonical:?}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_entry_or_block_at_a_position_is_a_violation() {
        let mut check = OneContentPerPosition::default();
        let digest = EntryDigest { term: 1, content: 1 };
        check.applies(1, 1, digest).expect_err("nobody counted it committed");
        check.commit(digest);
        check.applies(1, 1, digest).unwrap();
        check.applies(2, 1, EntryDigest { term: 2, content: 1 }).expect_err("another term");
        let block = CanonicalBlock { hash: Hash([1; 32]), index: 1, transactions: vec![(1, 1)] };
        assert!(check.block(1, 1, block.clone()).unwrap(), "the first");
        assert!(!check.block(2, 1, block.clone()).unwrap(), "the same");
        assert_eq!((check.entry(0), check.entry(1), check.entry(2)), (None, Some(digest), None));
        check.block(2, 1, CanonicalBlock { index: 2, ..block.clone() }).expect_err("another entry");
        check.block(2, 3, block).expect_err("a gap");
        check.tip(3, 1, Hash([1; 32])).unwrap();
        check.tip(3, 1, Hash([2; 32])).expect_err("another tip");
    }
}
