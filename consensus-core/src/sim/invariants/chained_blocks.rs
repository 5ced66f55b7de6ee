//! S11: each block carries the hash of the block before it, and its own hash is that of its header (our promise
//! of one hash chain; layout in [`crate::ledger::block`]).
//!
//! That all nodes have the same hash at a height is the business of S4. At the end of a run the whole chain in a
//! store is checked as an auditor would, with [`crate::ledger::verify_chain`].

use super::{CanonicalBlock, Verdict, Violation};
use crate::ids::{ChainId, Hash};
use crate::ledger::{Block, HashRule, verify_chain};
use crate::storage::LogReader;

const NAME: &str = "S11 chained blocks";

/// Judges blocks.
#[derive(Debug, Default)]
pub struct ChainedBlocks;

impl ChainedBlocks {
    /// A node commits a block behind `canonical`, whose first block has height 1.
    pub fn block(&self, node: u64, height: u64, previous: Hash, canonical: &[CanonicalBlock]) -> Verdict {
        let before = match height.checked_sub(2) {
            None => Some(Hash::default()),
            Some(offset) => canonical.get(offset as usize).map(|block| block.hash),
        };
        if before == Some(previous) {
            return Ok(());
        }
        let detail = format!("n{node}: block {height} follows {previous}, the one before it is {before:?}");
        Err(Violation::new(NAME, detail))
    }

    /// A block of the production ledger: whether its hashes are those of its content.
    pub fn sealed(&self, node: u64, block: &Block) -> Verdict {
        let rule = HashRule::Native;
        let (data, header) = (rule.data_hash(&block.transactions), rule.header_hash(&block.header));
        if data == block.header.data_hash && header == block.hash {
            return Ok(());
        }
        let number = block.header.number;
        let detail = format!(
            "n{node}: block {number} says hash {} over data {}, its content gives {header} over {data}",
            block.hash, block.header.data_hash
        );
        Err(Violation::new(NAME, detail))
    }

    /// The whole chain of the production ledger in a node's store.
    pub fn audit(&self, node: u64, store: &dyn LogReader, chain: ChainId) -> Verdict {
        let mut first = None;
        let mut report = |finding| {
            first.get_or_insert(finding);
        };
        let audit = verify_chain(store, chain, Hash::default(), HashRule::Native, 1..u64::MAX, &mut report);
        let why = match (audit, first) {
            (Ok(_), None) => return Ok(()),
            (Ok(_), Some(finding)) => finding.to_string(),
            (Err(error), _) => error.to_string(),
        };
        Err(Violation::new(NAME, format!("n{node}: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{NodeId, StoreIncarnation};
    use crate::ledger::{Ledger, LedgerConfig, Transaction, encode_proposal};
    use crate::storage::memory::MemoryStore;
    use crate::storage::{
        ApplicationWrite, ConfState, EntryKind, HardState, Identity, LogEntry, LogWriter, WriteBatch,
    };

    #[test]
    fn a_block_that_does_not_follow_the_one_before_is_a_violation() {
        let block = |n: u8| CanonicalBlock { hash: Hash([n; 32]), index: 1, transactions: Vec::new() };
        let canonical = [block(1), block(2)];
        ChainedBlocks.block(1, 1, Hash::default(), &[]).unwrap();
        ChainedBlocks.block(1, 2, Hash([1; 32]), &canonical).unwrap();
        ChainedBlocks.block(1, 3, Hash([2; 32]), &canonical).unwrap();
        ChainedBlocks.block(1, 3, Hash([1; 32]), &canonical).expect_err("it follows another one");
        ChainedBlocks.block(1, 1, Hash([1; 32]), &canonical).expect_err("nothing stands before the first");
    }

    fn identity() -> Identity {
        Identity {
            cluster: "simulated".to_owned(),
            chain: "main".to_owned(),
            chain_incarnation: 1,
            node_id: NodeId::new(1).unwrap(),
            store_incarnation: StoreIncarnation([1; 16]),
            genesis_hash: Hash::default(),
            created_at_ms: 0,
        }
    }

    #[test]
    fn a_block_whose_hash_or_record_is_wrong_is_a_violation() {
        let (store, chain) = (Arc::new(MemoryStore::new()), identity().chain_id());
        store.create_chain(&identity(), &ConfState { voters: vec![1], ..ConfState::default() }).unwrap();
        let mut ledger =
            Ledger::open(store.as_ref(), chain, Hash::default(), LedgerConfig::default()).unwrap();
        let transaction = Transaction { id: vec![1].into(), payload: vec![2].into() };
        let data = encode_proposal(5, &[transaction]);
        let entry =
            LogEntry { index: 1, term: 1, kind: EntryKind::Normal, context: bytes::Bytes::new(), data };
        let applied = ledger.apply(&entry).unwrap();
        let block = applied.block.unwrap();
        ChainedBlocks.sealed(1, &block).unwrap();
        let forged = Block { hash: Hash([9; 32]), ..(*block).clone() };
        ChainedBlocks.sealed(1, &forged).expect_err("not the hash of its header");

        let mut batch = WriteBatch::new(chain);
        batch.entries = vec![entry];
        batch.hard_state = Some(HardState { term: 1, vote: None, commit: 1 });
        batch.application = applied.writes;
        store.write(&[batch]).unwrap();
        ChainedBlocks.audit(1, store.as_ref(), chain).unwrap();
        let mut batch = WriteBatch::new(chain);
        batch.application = vec![ApplicationWrite { key: crate::ledger::records::block_key(1), value: None }];
        store.write(&[batch]).unwrap();
        ChainedBlocks.audit(1, store.as_ref(), chain).expect_err("a record is gone");
    }
}
