//! Checks a stored chain from records and log entries alone, for people who want to know whether it is sound.
//!
//! Each block is checked for its number, its previous hash, its timestamp, its entry (present, in log order, of the
//! recorded term), its number of transactions and bytes, its data hash, and that each transaction is found under
//! its id. Damage is reported as [`Finding`]s and the check goes on; only a failing storage engine ends
//! it. Nothing is repaired here.

use std::fmt;
use std::ops::Range;

use super::block::{HashRule, Transaction};
use super::error::{Error, Result};
use super::reader::{read_body, read_stored, read_tip, read_transaction};
use super::records::StoredBlock;
use crate::ids::{ChainId, Hash};
use crate::storage::{self, LogReader};

/// Something that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Where; 0 for the tip before the first block.
    pub height: u64,
    /// What is wrong, e.g. `data hash`.
    pub what: &'static str,
    /// What it must be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { height, what, expected, found } = self;
        write!(f, "block {height}: {what} is {found}, expected {expected}")
    }
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Blocks.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Findings reported.
    pub findings: u64,
}

/// Checks the blocks at `heights` as far as the tip, and the tip itself if the range reaches it. Findings are
/// given to `report` in ascending order of heights.
///
/// # Errors
/// The storage engine's; what is damaged or contradictory is a finding.
pub fn verify_chain(
    store: &dyn LogReader,
    chain: ChainId,
    genesis: Hash,
    rule: HashRule,
    heights: Range<u64>,
    report: &mut dyn FnMut(Finding),
) -> Result<Verified> {
    let mut check =
        Check { store, chain, rule, report, verified: Verified::default(), previous: None, height: 0 };
    let tip = match finding_or(read_tip(store, chain, genesis))? {
        Ok(tip) => tip,
        Err(cause) => {
            check.find("tip", "readable".into(), cause);
            return Ok(check.verified);
        }
    };
    let first = heights.start.max(1);
    check.start(first, genesis)?;
    for height in first..heights.end.min(tip.height.saturating_add(1)) {
        check.block(height)?;
    }
    if heights.end > tip.height && first <= tip.height.max(1) {
        check.height = tip.height;
        let whole_chain = (first == 1).then_some(check.verified.transactions);
        check.tip(&tip, genesis, whole_chain)?;
    }
    Ok(check.verified)
}

/// What the next block must agree with.
struct Previous {
    hash: Hash,
    timestamp_ms: u64,
    log_index: u64,
}

struct Check<'a> {
    store: &'a dyn LogReader,
    chain: ChainId,
    rule: HashRule,
    report: &'a mut dyn FnMut(Finding),
    verified: Verified,
    /// `None` after a block that could not be read.
    previous: Option<Previous>,
    height: u64,
}

impl Check<'_> {
    fn find(&mut self, what: &'static str, expected: String, found: String) {
        self.verified.findings += 1;
        (self.report)(Finding { height: self.height, what, expected, found });
    }

    fn equal<V: PartialEq + fmt::Display>(&mut self, what: &'static str, expected: V, found: V) {
        if expected != found {
            self.find(what, expected.to_string(), found.to_string());
        }
    }

    /// Takes what the block before the first one says as given.
    fn start(&mut self, first: u64, genesis: Hash) -> Result<()> {
        if first == 1 {
            self.previous = Some(Previous { hash: genesis, timestamp_ms: 0, log_index: 0 });
        } else if let Ok(Some(stored)) = finding_or(read_stored(self.store, self.chain, first - 1))? {
            self.previous = Some(self.as_previous(&stored));
        }
        Ok(())
    }

    fn as_previous(&self, stored: &StoredBlock) -> Previous {
        Previous {
            hash: self.rule.header_hash(&stored.header),
            timestamp_ms: stored.header.timestamp_ms,
            log_index: stored.log_index,
        }
    }

    fn block(&mut self, height: u64) -> Result<()> {
        self.height = height;
        self.verified.blocks += 1;
        let stored = match finding_or(read_stored(self.store, self.chain, height))? {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                self.previous = None;
                self.find("record", "present".into(), "missing".into());
                return Ok(());
            }
            Err(cause) => {
                self.previous = None;
                self.find("record", "readable".into(), cause);
                return Ok(());
            }
        };
        self.verified.transactions += u64::from(stored.transactions);
        if let Some(previous) = self.previous.take() {
            self.follows(&stored, &previous);
        }
        self.previous = Some(self.as_previous(&stored));
        if !stored.skipped.is_sorted_by(|one, next| one < next) {
            self.find("skipped positions", "ascending".into(), format!("{:?}", stored.skipped));
        }
        match finding_or(read_body(self.store, self.chain, &stored))? {
            Ok(transactions) => self.body(&stored, &transactions),
            Err(cause) => {
                self.find("body", "readable".into(), cause);
                Ok(())
            }
        }
    }

    fn follows(&mut self, stored: &StoredBlock, previous: &Previous) {
        self.equal("previous hash", previous.hash, stored.header.previous_hash);
        if stored.header.timestamp_ms < previous.timestamp_ms {
            let expected = format!("at least {}", previous.timestamp_ms);
            self.find("timestamp", expected, stored.header.timestamp_ms.to_string());
        }
        if stored.log_index <= previous.log_index {
            self.find("entry", format!("above {}", previous.log_index), stored.log_index.to_string());
        }
    }

    fn body(&mut self, stored: &StoredBlock, transactions: &[Transaction]) -> Result<()> {
        self.equal("data hash", stored.header.data_hash, self.rule.data_hash(transactions));
        let bytes = transactions.iter().map(|transaction| transaction.payload.len() as u64).sum();
        self.equal("payload bytes", bytes, stored.bytes);
        if transactions.is_empty() {
            self.find("transactions", "at least 1".into(), "0".into());
        }
        for (index, transaction) in transactions.iter().enumerate() {
            self.indexed(index as u32, transaction)?;
        }
        Ok(())
    }

    /// The record under a transaction's id must lead here, or to a later block that has the id again.
    fn indexed(&mut self, index: u32, transaction: &Transaction) -> Result<()> {
        let expected = format!("{index} of block {}", self.height);
        let found = match finding_or(read_transaction(self.store, self.chain, &transaction.id))? {
            Ok(Some(record)) if (record.height, record.index) == (self.height, index) => return Ok(()),
            Ok(Some(record)) => {
                let later = record.height > self.height;
                if later && self.has(record.height, record.index, &transaction.id)? {
                    return Ok(());
                }
                format!("{} of block {}", record.index, record.height)
            }
            Ok(None) => "missing".into(),
            Err(cause) => cause,
        };
        self.find("transaction record", expected, format!("{found} for {}", hex::encode(&transaction.id)));
        Ok(())
    }

    fn has(&self, height: u64, index: u32, id: &[u8]) -> Result<bool> {
        let Ok(Some(stored)) = finding_or(read_stored(self.store, self.chain, height))? else {
            return Ok(false);
        };
        let Ok(transactions) = finding_or(read_body(self.store, self.chain, &stored))? else {
            return Ok(false);
        };
        Ok(transactions.get(index as usize).is_some_and(|transaction| transaction.id == id))
    }

    fn tip(&mut self, tip: &super::Tip, genesis: Hash, transactions: Option<u64>) -> Result<()> {
        if tip.height == 0 {
            self.equal("tip hash", genesis, tip.hash);
        }
        // Without a readable last block its own finding is enough.
        if let Some(Previous { hash, timestamp_ms, log_index }) = self.previous.take() {
            self.equal("tip hash", hash, tip.hash);
            self.equal("tip timestamp", timestamp_ms, tip.timestamp_ms);
            if tip.log_index < log_index {
                self.find("tip entry", format!("at least {log_index}"), tip.log_index.to_string());
            }
        }
        if let Some(transactions) = transactions {
            self.equal("transactions in the chain", transactions, tip.transactions);
        }
        self.height = tip.height + 1;
        if !matches!(finding_or(read_stored(self.store, self.chain, self.height))?, Ok(None)) {
            self.find("record", "none above the tip".into(), "present".into());
        }
        Ok(())
    }
}

/// Keeps a failure of the engine an error and makes anything else words for a finding.
fn finding_or<V>(result: Result<V>) -> Result<std::result::Result<V, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error @ Error::Storage(storage::Error::Engine { .. })) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}
