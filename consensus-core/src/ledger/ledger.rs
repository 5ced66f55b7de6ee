//! The state machine: committed entries in, blocks and records out.
//!
//! [`Ledger::apply`] is a function of the entries alone: every node that applies the same entries has the same
//! tip, whatever it restarted in between. It numbers blocks, keeps timestamps from going back, leaves out
//! transactions whose id is in the window of known ids, and makes no empty blocks. What it returns must be
//! written to the store as a whole before or together with the replica's own applied index; entries that
//! are applied again after a crash change nothing.
//!
//! It does not read anything while it applies: the window is in memory, rebuilt at open from small records.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use consensus_proto::records::TransactionRecord;
use prost::Message as _;

use super::block::{
    Block, BlockProposal, DEDUP_WINDOW_TRANSACTIONS, HashRule, Header, Transaction, decode_proposal,
};
use super::error::{Error, Result};
use super::records::{self, StoredBlock, TIP_KEY};
use super::window::{IdKey, Place, Window};
use crate::ids::{ChainId, Hash};
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{ApplicationWrite, EntryKind, LogEntry, LogReader};

/// Window records read from the store at a time.
const RECORDS_PER_READ: usize = 4096;

/// Payload bytes read from the log at a time when entries are applied again.
const REPLAY_BYTES: u64 = 8 << 20;

/// Parameters of a ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerConfig {
    /// The chain's hash rule.
    pub rule: HashRule,
    /// How many of the chain's last transactions are known by their ids. Part of the chain's rules: it must be equal
    /// on all nodes for the chain's whole life, so only tests use anything but the default, which the genesis hash
    /// covers.
    pub dedup_window_transactions: usize,
    /// Seeds the hash table of ids, on this node only. Draw it at random where clients are not trusted; it never
    /// shows in any result.
    pub hash_seed: [u64; 2],
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            rule: HashRule::Native,
            dedup_window_transactions: DEDUP_WINDOW_TRANSACTIONS,
            hash_seed: [0; 2],
        }
    }
}

/// The end of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    /// Height of the last block; 0 before the first.
    pub height: u64,
    /// Hash of the last block; the genesis hash before the first.
    pub hash: Hash,
    /// The last applied entry, which need not have made a block.
    pub log_index: u64,
    /// Timestamp of the last block; 0 before the first.
    pub timestamp_ms: u64,
    /// Transactions in the whole chain.
    pub transactions: u64,
}

impl Tip {
    /// The end of a chain without blocks.
    pub const fn genesis(hash: Hash) -> Self {
        Self { height: 0, hash, log_index: 0, timestamp_ms: 0, transactions: 0 }
    }
}

/// Where a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The block.
    pub height: u64,
    /// Position within the block.
    pub index: u32,
    /// The block's hash.
    pub block_hash: Hash,
}

/// A transaction of an entry that the chain had already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Its position in the entry.
    pub position: u32,
    /// Where the chain has it.
    pub at: Location,
}

/// What an entry led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedEntry {
    /// The entry.
    pub index: u64,
    /// The block; `None` for entries that carry none and for those that had been applied before.
    pub block: Option<Arc<Block>>,
    /// What was left out of the block, ascending.
    pub skipped: Vec<Skipped>,
    /// To be written as a whole; empty if the entry had been applied before.
    pub writes: Vec<ApplicationWrite>,
}

/// One chain's ledger.
pub struct Ledger {
    config: LedgerConfig,
    tip: Tip,
    window: Window,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("tip", &self.tip)
            .field("window", &self.window.len())
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// The ledger as the store has it; without records, the one before the first entry. The next entry to apply is
    /// `tip().log_index + 1`.
    ///
    /// # Errors
    /// The store's, or [`Error::Record`] where the records do not fit together or belong to another genesis.
    pub fn open(reader: &dyn LogReader, chain: ChainId, genesis: Hash, config: LedgerConfig) -> Result<Self> {
        let tip = match reader.application_record(chain, TIP_KEY)? {
            Some(value) => records::decode_tip(value)?,
            None => Tip::genesis(genesis),
        };
        let mut ledger =
            Self { config, tip, window: Window::new(config.dedup_window_transactions, config.hash_seed) };
        ledger.check_tip(reader, chain, genesis)?;
        if !mutant::is(Mutant::WindowNotReadAtOpen) {
            ledger.read_window(reader, chain)?;
        }
        Ok(ledger)
    }

    /// The end of the chain.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Where the chain has this id, if it is among the last transactions that the window covers.
    pub fn position(&self, id: &[u8]) -> Option<Location> {
        self.locate(&IdKey::of(id))
    }

    /// Transactions in the window of known ids, and how many it takes at most.
    pub fn window(&self) -> (usize, usize) {
        (self.window.len(), self.window.capacity())
    }

    pub(super) fn locate(&self, key: &IdKey) -> Option<Location> {
        self.window.locate(key)
    }

    /// Applies the next entry. Entries up to the tip's are ignored, so that a replay is harmless.
    ///
    /// # Errors
    /// [`Error::Gap`] and [`Error::Entry`]; the ledger is unchanged and the chain must halt.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<AppliedEntry> {
        let index = entry.index;
        if index <= self.tip.log_index && !mutant::is(Mutant::AppliedAgain) {
            reach!(LedgerIgnoredARepetition);
            return Ok(AppliedEntry { index, block: None, skipped: Vec::new(), writes: Vec::new() });
        }
        if index > self.tip.log_index + 1 {
            return Err(Error::Gap { expected: self.tip.log_index + 1, found: index });
        }
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            self.tip.log_index = index;
            let writes = vec![put(TIP_KEY.to_vec(), records::encode_tip(&self.tip))];
            return Ok(AppliedEntry { index, block: None, skipped: Vec::new(), writes });
        }
        let proposal = decode_proposal(entry.data.clone()).map_err(|cause| Error::Entry { index, cause })?;
        Ok(self.append(entry, proposal))
    }

    /// Applies the entries that the log has up to `to` and the ledger has not, and gives each result to `take`: for a
    /// ledger whose records are behind the replica's applied index. `to` must be committed.
    ///
    /// # Errors
    /// The store's, those of [`Ledger::apply`], or the one of `take`, which ends the replay.
    pub fn replay<E: From<Error>>(
        &mut self,
        reader: &dyn LogReader,
        chain: ChainId,
        to: u64,
        take: &mut dyn FnMut(AppliedEntry) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        while self.tip.log_index < to {
            let from = self.tip.log_index + 1;
            let entries = reader.entries(chain, from, to + 1, REPLAY_BYTES).map_err(Error::from)?;
            if entries.is_empty() {
                return Err(Error::record("log", format!("entry {from} is missing")).into());
            }
            for entry in entries {
                take(self.apply(&entry)?)?;
            }
        }
        Ok(())
    }

    /// Appends what is new in a proposal as the next block.
    fn append(&mut self, entry: &LogEntry, proposal: BlockProposal) -> AppliedEntry {
        let BlockProposal { timestamp_ms, mut transactions } = proposal;
        let height = self.tip.height + 1;
        let mut known: Vec<(u32, Place)> = Vec::new();
        let mut next: u32 = 0;
        self.window.reserve(transactions.len());
        for (position, transaction) in transactions.iter().enumerate() {
            let index = if mutant::is(Mutant::PlaceCountsSkipped) { position as u32 } else { next };
            match self.window.insert(IdKey::of(&transaction.id), Place { height, index }) {
                Some(_) if mutant::is(Mutant::DuplicateNotLeftOut) => next += 1,
                None => next += 1,
                Some(place) => known.push((position as u32, place)),
            }
        }
        remove_positions(&mut transactions, known.iter().map(|(position, _)| *position));
        reach!(LedgerLeftOutADouble, !known.is_empty());
        reach!(LedgerMadeNoBlock, transactions.is_empty());
        self.tip.log_index = entry.index;
        let mut writes = Vec::with_capacity(transactions.len() + 4);
        let (block, skipped) = if transactions.is_empty() {
            (None, self.skipped(&known))
        } else {
            let block = self.next_block(timestamp_ms, transactions);
            let skipped = self.skipped(&known);
            self.write_block(entry, &block, &skipped, &mut writes);
            (Some(Arc::new(block)), skipped)
        };
        writes.push(put(TIP_KEY.to_vec(), records::encode_tip(&self.tip)));
        AppliedEntry { index: entry.index, block, skipped, writes }
    }

    /// Makes the next block and moves the tip to it.
    fn next_block(&mut self, timestamp_ms: u64, transactions: Vec<Transaction>) -> Block {
        let chained = !mutant::is(Mutant::BlocksNotChained);
        let covered = if mutant::is(Mutant::DataHashOfFirstOnly) { 1 } else { transactions.len() };
        let header = Header {
            number: self.tip.height + 1,
            previous_hash: if chained { self.tip.hash } else { Hash::default() },
            data_hash: self.config.rule.data_hash(&transactions[..covered]),
            timestamp_ms: timestamp_ms.max(self.tip.timestamp_ms),
        };
        reach!(LedgerClampedTime, timestamp_ms < self.tip.timestamp_ms);
        let hash = self.config.rule.header_hash(&header);
        self.tip = Tip {
            height: header.number,
            hash,
            log_index: self.tip.log_index,
            timestamp_ms: header.timestamp_ms,
            transactions: self.tip.transactions + transactions.len() as u64,
        };
        Block { header, hash, transactions }
    }

    /// Completes what is known of skipped transactions; before the window forgets anything.
    fn skipped(&self, known: &[(u32, Place)]) -> Vec<Skipped> {
        let hash_at = |height| {
            if height == self.tip.height {
                return self.tip.hash;
            }
            self.window.block_hash(height).expect("a known id's block is in the window")
        };
        known
            .iter()
            .map(|&(position, Place { height, index })| Skipped {
                position,
                at: Location { height, index, block_hash: hash_at(height) },
            })
            .collect()
    }

    /// Records of a block; also ends it in the window.
    fn write_block(
        &mut self,
        entry: &LogEntry,
        block: &Block,
        skipped: &[Skipped],
        writes: &mut Vec<ApplicationWrite>,
    ) {
        let height = block.header.number;
        let transactions = block.transactions.len() as u32;
        let record = StoredBlock {
            header: block.header,
            log_index: entry.index,
            log_term: entry.term,
            transactions,
            bytes: block.transactions.iter().map(|t| t.payload.len() as u64).sum(),
            skipped: skipped.iter().map(|skipped| skipped.position).collect(),
        };
        writes.push(put(records::block_key(height), record.encode()));
        let recent = records::encode_recent(&block.hash, self.window.newest(block.transactions.len()));
        writes.push(put(records::recent_key(height), recent));
        write_transactions(block, writes);
        for left in self.window.seal(height, block.hash, transactions) {
            writes.push(ApplicationWrite { key: records::recent_key(left), value: None });
        }
    }

    fn check_tip(&self, reader: &dyn LogReader, chain: ChainId, genesis: Hash) -> Result<()> {
        let Tip { height, hash, .. } = self.tip;
        if height == 0 {
            if hash == genesis {
                return Ok(());
            }
            return Err(Error::record("tip", format!("genesis hash is {hash}, expected {genesis}")));
        }
        let missing = || Error::record(format!("block {height}"), "missing, and the tip is there");
        let value = reader.application_record(chain, &records::block_key(height))?.ok_or_else(missing)?;
        let block = StoredBlock::decode(height, value)?;
        let found = self.config.rule.header_hash(&block.header);
        if found != hash {
            return Err(Error::record("tip", format!("hash is {hash}, block {height} has {found}")));
        }
        if height == 1 && block.header.previous_hash != genesis {
            let found = block.header.previous_hash;
            return Err(Error::record("block 1", format!("genesis hash is {found}, expected {genesis}")));
        }
        if block.log_index > self.tip.log_index {
            let cause = format!("entry {} is behind the tip's {}", block.log_index, self.tip.log_index);
            return Err(Error::record(format!("block {height}"), cause));
        }
        Ok(())
    }

    fn read_window(&mut self, reader: &dyn LogReader, chain: ChainId) -> Result<()> {
        let end = records::recent_key(self.tip.height + 1);
        let mut from = records::recent_key(0);
        let mut next: Option<u64> = None;
        let mut newest = None;
        loop {
            let found = reader.application_records(chain, &from, &end, RECORDS_PER_READ)?;
            let Some((last, _)) = found.last() else { break };
            from = last.clone();
            from.push(0);
            for (key, value) in found {
                let height = records::height_of(&key)
                    .ok_or_else(|| Error::record("window", format!("key {}", hex::encode(&key))))?;
                if next.is_some_and(|next| next != height) {
                    return Err(Error::record(format!("window {height}"), "the one before it is missing"));
                }
                next = Some(height + 1);
                newest = Some(self.read_window_block(height, &value)?);
            }
        }
        let expected = self.tip.transactions.min(self.window.capacity() as u64);
        if self.window.len() as u64 != expected {
            let cause = format!("{} transactions, expected {expected}", self.window.len());
            return Err(Error::record("window", cause));
        }
        if newest.is_some_and(|newest| newest != (self.tip.height, self.tip.hash)) {
            return Err(Error::record("window", format!("it does not end with block {}", self.tip.height)));
        }
        Ok(())
    }

    fn read_window_block(&mut self, height: u64, value: &[u8]) -> Result<(u64, Hash)> {
        let (hash, keys) = records::decode_recent(height, value)?;
        self.window.reserve(keys.len());
        let transactions = keys.len() as u32;
        let from = usize::from(mutant::is(Mutant::PlacesShiftAtOpen));
        for (index, key) in (from..).zip(keys) {
            if self.window.insert(key, Place { height, index: index as u32 }).is_some() {
                return Err(Error::record(
                    format!("window {height}"),
                    format!("transaction {index} is there twice"),
                ));
            }
        }
        self.window.seal(height, hash, transactions);
        Ok((height, hash))
    }
}

fn put(key: Vec<u8>, value: Bytes) -> ApplicationWrite {
    ApplicationWrite { key, value: Some(value) }
}

/// One record for each transaction; their values share one buffer.
fn write_transactions(block: &Block, writes: &mut Vec<ApplicationWrite>) {
    let height = block.header.number;
    let mut buffer = Vec::with_capacity(block.transactions.len() * 16);
    let mut ends = Vec::with_capacity(block.transactions.len());
    for index in 0..block.transactions.len() as u32 {
        TransactionRecord { height, index }.encode(&mut buffer).expect("a vector grows");
        ends.push(buffer.len());
    }
    let values = Bytes::from(buffer);
    let mut start = 0;
    for (transaction, end) in block.transactions.iter().zip(ends) {
        writes.push(put(records::transaction_key(&transaction.id), values.slice(start..end)));
        start = end;
    }
}

/// Removes ascending positions from a list in one pass; those beyond its end are ignored.
pub(super) fn remove_positions<T>(list: &mut Vec<T>, positions: impl IntoIterator<Item = u32>) {
    let mut positions = positions.into_iter().peekable();
    if positions.peek().is_none() {
        return;
    }
    let mut position = 0;
    list.retain(|_| {
        let remove = positions.next_if_eq(&position).is_some();
        position += 1;
        !remove
    });
}
