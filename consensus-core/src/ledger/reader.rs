//! Reads the chain from the store: headers, blocks, transactions, proofs.
//!
//! A reader is independent of the ledger that applies; it sees what is written. Blocks have their bodies in the
//! log, so reading one takes its record and its log entry. What is read is checked against what it must
//! agree with at no extra cost: number, entry, number of transactions, and within a range of blocks the
//! previous hashes; the store has checked every record's checksum below. Data hashes are computed only for proofs
//! and by [`verify_chain`](super::verify_chain).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use consensus_proto::records::TransactionRecord;

use super::block::{Block, HashRule, Header, Transaction, decode_proposal};
use super::error::{Error, Result};
use super::ledger::{Tip, remove_positions};
use super::proof::{self, InclusionProof};
use super::records::{self, StoredBlock, TIP_KEY};
use crate::ids::{ChainId, Hash};
use crate::storage::{EntryKind, LogEntry, LogReader};

/// Block records read from the store at a time.
const BLOCKS_PER_READ: usize = 256;

/// A header with its hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedHeader {
    /// The header.
    pub header: Header,
    /// Its hash.
    pub hash: Hash,
    /// Transactions in the block.
    pub transactions: u32,
}

/// Read access to one chain.
#[derive(Clone)]
pub struct LedgerReader {
    store: Arc<dyn LogReader>,
    chain: ChainId,
    genesis: Hash,
    rule: HashRule,
}

impl fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerReader").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl LedgerReader {
    /// A reader of a chain with this genesis hash.
    pub fn new(store: Arc<dyn LogReader>, chain: ChainId, genesis: Hash, rule: HashRule) -> Self {
        Self { store, chain, genesis, rule }
    }

    /// The end of the chain, as written.
    ///
    /// # Errors
    /// The store's, or [`Error::Record`].
    pub fn tip(&self) -> Result<Tip> {
        read_tip(&*self.store, self.chain, self.genesis)
    }

    /// The header at a height; `None` above the tip and at 0.
    ///
    /// # Errors
    /// The store's, or [`Error::Record`].
    pub fn header(&self, height: u64) -> Result<Option<SealedHeader>> {
        let Some(stored) = read_stored(&*self.store, self.chain, height)? else { return Ok(None) };
        let hash = self.rule.header_hash(&stored.header);
        Ok(Some(SealedHeader { header: stored.header, hash, transactions: stored.transactions }))
    }

    /// The headers at `heights`, ascending, as far as they exist, at most `count_max`.
    ///
    /// # Errors
    /// The store's, or [`Error::Record`].
    pub fn headers(&self, heights: Range<u64>, count_max: usize) -> Result<Vec<SealedHeader>> {
        let stored = self.stored_range(heights, count_max)?;
        Ok(stored
            .into_iter()
            .map(|(stored, hash)| SealedHeader {
                header: stored.header,
                hash,
                transactions: stored.transactions,
            })
            .collect())
    }

    /// The block at a height; `None` above the tip and at 0.
    ///
    /// # Errors
    /// The store's ([`storage::Error::Compacted`](crate::storage::Error::Compacted) if the body is not kept any
    /// more), or [`Error::Record`].
    pub fn block(&self, height: u64) -> Result<Option<Block>> {
        let Some(stored) = read_stored(&*self.store, self.chain, height)? else { return Ok(None) };
        let transactions = read_body(&*self.store, self.chain, &stored)?;
        let hash = self.rule.header_hash(&stored.header);
        Ok(Some(Block { header: stored.header, hash, transactions }))
    }

    /// The blocks at `heights`, ascending, as far as they exist; cut off before the one whose entry would bring the
    /// payloads above `bytes_max`, but at least one if there is one. A caller that wants more asks again from where
    /// the answer ended.
    ///
    /// # Errors
    /// As [`LedgerReader::block`].
    pub fn blocks(&self, heights: Range<u64>, bytes_max: u64) -> Result<Vec<Block>> {
        let stored = self.stored_range(heights, BLOCKS_PER_READ)?;
        let (Some((first, _)), Some((last, _))) = (stored.first(), stored.last()) else {
            return Ok(Vec::new());
        };
        let (from, to) = (first.log_index, last.log_index + 1);
        let mut entries = self.store.entries(self.chain, from, to, bytes_max)?.into_iter();
        let mut blocks = Vec::with_capacity(entries.len());
        for (stored, hash) in stored {
            let Some(entry) = entries.find(|entry| entry.index >= stored.log_index) else { break };
            let transactions = body(entry, &stored)?;
            blocks.push(Block { header: stored.header, hash, transactions });
        }
        Ok(blocks)
    }

    /// Where a transaction is, and its block's hash; `None` if it is not in the chain. Of an id that is in the chain
    /// more than once (at a distance beyond the window of known ids), the last.
    ///
    /// # Errors
    /// The store's, or [`Error::Record`].
    pub fn transaction(&self, id: &[u8]) -> Result<Option<(TransactionRecord, Hash)>> {
        let Some(record) = read_transaction(&*self.store, self.chain, id)? else { return Ok(None) };
        let header = self.header(record.height)?.ok_or_else(|| missing_block(record.height))?;
        Ok(Some((record, header.hash)))
    }

    /// Proof that a transaction is in the chain; `None` if it is not. The body that it is made from is checked against
    /// the data hash.
    ///
    /// # Errors
    /// As [`LedgerReader::block`].
    pub fn prove(&self, id: &[u8]) -> Result<Option<InclusionProof>> {
        let Some(record) = read_transaction(&*self.store, self.chain, id)? else { return Ok(None) };
        let height = record.height;
        let block = self.block(height)?.ok_or_else(|| missing_block(height))?;
        let path = proof::path(&block.transactions, record.index);
        let transaction = block.transactions.get(record.index as usize).filter(|t| t.id == id);
        let (Some(path), Some(transaction)) = (path, transaction) else {
            let what = format!("transaction {}", hex::encode(id));
            return Err(Error::record(what, format!("it is not at {} of block {height}", record.index)));
        };
        let proof = InclusionProof {
            transaction: transaction.clone(),
            index: record.index,
            transactions: block.transactions.len() as u32,
            path,
            header: block.header,
            block_hash: block.hash,
        };
        proof.verify().map_err(|error| Error::record(format!("block {height}"), error.to_string()))?;
        Ok(Some(proof))
    }

    /// Block records with their hashes, each checked against the one before.
    fn stored_range(&self, heights: Range<u64>, count_max: usize) -> Result<Vec<(StoredBlock, Hash)>> {
        let from = heights.start.max(1);
        if from >= heights.end {
            return Ok(Vec::new());
        }
        let (first, end) = (records::block_key(from), records::block_key(heights.end));
        let found = self.store.application_records(self.chain, &first, &end, count_max)?;
        let mut blocks: Vec<(StoredBlock, Hash)> = Vec::with_capacity(found.len());
        for (height, (key, value)) in (from..heights.end).zip(found) {
            if records::height_of(&key) != Some(height) {
                // Nothing at the first height of the range: it is above the tip, or nothing below is kept.
                return if blocks.is_empty() { Ok(blocks) } else { Err(missing_block(height)) };
            }
            let stored = StoredBlock::decode(height, value)?;
            let previous = blocks.last().map_or(stored.header.previous_hash, |(_, hash)| *hash);
            if stored.header.previous_hash != previous {
                let cause = format!("previous hash is {}, expected {previous}", stored.header.previous_hash);
                return Err(Error::record(format!("block {height}"), cause));
            }
            let hash = self.rule.header_hash(&stored.header);
            blocks.push((stored, hash));
        }
        Ok(blocks)
    }
}

pub(super) fn read_tip(store: &dyn LogReader, chain: ChainId, genesis: Hash) -> Result<Tip> {
    match store.application_record(chain, TIP_KEY)? {
        Some(value) => records::decode_tip(value),
        None => Ok(Tip::genesis(genesis)),
    }
}

pub(super) fn read_stored(store: &dyn LogReader, chain: ChainId, height: u64) -> Result<Option<StoredBlock>> {
    match store.application_record(chain, &records::block_key(height))? {
        Some(value) => StoredBlock::decode(height, value).map(Some),
        None => Ok(None),
    }
}

pub(super) fn read_transaction(
    store: &dyn LogReader,
    chain: ChainId,
    id: &[u8],
) -> Result<Option<TransactionRecord>> {
    match store.application_record(chain, &records::transaction_key(id))? {
        Some(value) => records::decode_transaction(id, value).map(Some),
        None => Ok(None),
    }
}

/// The transactions of a block, from its log entry.
pub(super) fn read_body(
    store: &dyn LogReader,
    chain: ChainId,
    stored: &StoredBlock,
) -> Result<Vec<Transaction>> {
    let index = stored.log_index;
    match store.entries(chain, index, index + 1, u64::MAX)?.pop() {
        Some(entry) => body(entry, stored),
        None => {
            Err(Error::record(format!("block {}", stored.header.number), format!("entry {index} is missing")))
        }
    }
}

fn body(entry: LogEntry, stored: &StoredBlock) -> Result<Vec<Transaction>> {
    let LogEntry { index, term, kind, data, .. } = entry;
    let wrong = |cause: String| Error::record(format!("block {}", stored.header.number), cause);
    if index != stored.log_index || term != stored.log_term {
        let expected = format!("entry {} of term {}", stored.log_index, stored.log_term);
        return Err(wrong(format!("found entry {index} of term {term}, expected {expected}")));
    }
    if kind != EntryKind::Normal {
        return Err(wrong(format!("entry {index} is a membership change")));
    }
    let transactions = transactions_of(data, index, &stored.skipped)?;
    if transactions.len() != stored.transactions as usize {
        let found = transactions.len();
        return Err(wrong(format!(
            "entry {index} holds {found} of its {} transactions",
            stored.transactions
        )));
    }
    Ok(transactions)
}

fn transactions_of(data: Bytes, index: u64, skipped: &[u32]) -> Result<Vec<Transaction>> {
    let mut transactions = decode_proposal(data).map_err(|cause| Error::Entry { index, cause })?.transactions;
    remove_positions(&mut transactions, skipped.iter().copied());
    Ok(transactions)
}

fn missing_block(height: u64) -> Error {
    Error::record(format!("block {height}"), "missing")
}
