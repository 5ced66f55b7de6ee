//! The application of a simulated node: the simulator's own chain of hashes, or the production ledger.
//!
//! Both turn entries into numbered, hashed blocks, keep their records in the node's store and know where a
//! client's transaction is. The ledger builds no snapshots.

use std::sync::Arc;

use bytes::Bytes;

use super::hash_chain::{self, HashChain};
use super::invariants::CanonicalBlock;
use super::swarm::ApplicationKind;
use crate::ids::{ChainId, Hash};
use crate::ledger::{Block, Ledger, LedgerConfig, Transaction, encode_proposal};
use crate::storage::{ApplicationWrite, LogEntry, LogReader, Snapshot};

/// Ids that the simulated ledger remembers: more than any run submits.
const WINDOW_TRANSACTIONS: usize = 1 << 16;

/// Admissions of stores are transactions of clients from here on, one for each node: their number is that of the
/// store.
pub const ADMISSIONS: u64 = 1 << 32;

/// The number of a founder's first store.
pub const FIRST_STORE: u64 = 1;

/// The client that admits the stores of a node, by id.
pub fn admission(node: u64) -> u64 {
    ADMISSIONS + node
}

/// What a client wants in the chain. Its content follows from these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submission {
    /// The client.
    pub client: u64,
    /// Its transaction, counted from 1.
    pub number: u64,
    /// Length of the payload.
    pub bytes: u64,
}

/// Where a transaction is in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The block.
    pub height: u64,
    /// Within the block.
    pub position: u64,
    /// The block's hash.
    pub hash: Hash,
}

/// A block that an application made.
#[derive(Debug)]
pub struct TakenBlock {
    /// Its height.
    pub height: u64,
    /// The hash that it carries of the block before.
    pub previous: Hash,
    /// What others must have at this height.
    pub canonical: CanonicalBlock,
    /// The whole of it, if the production ledger made it.
    pub sealed: Option<Arc<Block>>,
}

/// What entries led to.
#[derive(Debug, Default)]
pub struct Taken {
    /// Blocks in order.
    pub blocks: Vec<TakenBlock>,
    /// Records to write.
    pub writes: Vec<ApplicationWrite>,
}

/// An application on its node's store.
#[derive(Debug)]
pub enum Application {
    /// The simulator's.
    HashChain(HashChainApplication),
    /// Production's.
    Ledger(Box<Ledger>),
}

/// Wraps the small application, so that its parts stay private to the simulator.
#[derive(Debug)]
pub struct HashChainApplication(HashChain);

impl Application {
    /// The application as the store has it.
    ///
    /// # Errors
    /// What is wrong with its records.
    pub fn open(kind: ApplicationKind, chain: ChainId, reader: &Arc<dyn LogReader>) -> Result<Self, String> {
        match kind {
            ApplicationKind::HashChain => {
                let record = reader.application_record(chain, hash_chain::STATE_KEY);
                let record = record.map_err(|error| error.to_string())?;
                Ok(Self::HashChain(HashChainApplication(HashChain::open(record)?)))
            }
            ApplicationKind::Ledger => {
                let config = LedgerConfig {
                    dedup_window_transactions: WINDOW_TRANSACTIONS,
                    ..LedgerConfig::default()
                };
                let ledger = Ledger::open(reader.as_ref(), chain, Hash::default(), config);
                Ok(Self::Ledger(Box::new(ledger.map_err(|error| error.to_string())?)))
            }
        }
    }

    /// The application of a chain that is founded by a snapshot at this index: its state, as a snapshot and as its
    /// record.
    pub fn founding(index: u64) -> (Bytes, ApplicationWrite) {
        let state = HashChain::founding(index);
        (state.encode(), state.record())
    }

    /// The application from the state that it kept by itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reopen(state: Bytes) -> Result<Self, String> {
        Ok(Self::HashChain(HashChainApplication(HashChain::open(Some(state))?)))
    }

    /// The newest store of a node that was admitted; 0 if the chain tells of none.
    pub fn admitted(&self, node: u64) -> u64 {
        match self {
            Self::HashChain(chain) => chain.0.last(admission(node)),
            Self::Ledger(_) => 0,
        }
    }

    /// Takes the committed entries up to `to` from the store, if it is behind.
    ///
    /// # Errors
    /// The store's, and an entry that it cannot take.
    pub fn catch_up(&mut self, chain: ChainId, reader: &dyn LogReader, to: u64) -> Result<Taken, String> {
        let mut taken = Taken::default();
        let Self::Ledger(ledger) = self else { return Ok(taken) };
        let mut applied = Vec::new();
        let replayed = ledger.replay::<crate::ledger::Error>(reader, chain, to, &mut |entry| {
            applied.push(entry);
            Ok(())
        });
        replayed.map_err(|error| error.to_string())?;
        for entry in applied {
            taken.writes.extend(entry.writes);
            if let Some(block) = entry.block {
                let transactions =
                    block.transactions.iter().map(parse_id).collect::<Result<Vec<_>, String>>()?;
                let canonical = CanonicalBlock { hash: block.hash, index: entry.index, transactions };
                let (height, previous) = (block.header.number, block.header.previous_hash);
                taken.blocks.push(TakenBlock { height, previous, canonical, sealed: Some(block) });
            }
        }
        Ok(taken)
    }

    /// The last entry taken.
    pub fn index(&self) -> u64 {
        match self {
            Self::HashChain(chain) => chain.0.index(),
            Self::Ledger(ledger) => ledger.tip().log_index,
        }
    }

    /// Height and hash of the last block; height 0 before the first.
    pub fn tip(&self) -> (u64, Hash) {
        match self {
            Self::HashChain(chain) => (chain.0.height(), chain.0.tip()),
            Self::Ledger(ledger) => (ledger.tip().height, ledger.tip().hash),
        }
    }

    /// Where a client's transaction is, unless the application has forgotten it for a later one.
    pub fn find(&self, client: u64, number: u64) -> Option<Place> {
        match self {
            Self::HashChain(chain) => chain.0.find(client, number),
            Self::Ledger(ledger) => ledger.position(&transaction_id(client, number)).map(|location| Place {
                height: location.height,
                position: u64::from(location.index),
                hash: location.block_hash,
            }),
        }
    }

    /// Takes entries; those it has already are ignored.
    ///
    /// # Errors
    /// An entry that it cannot take.
    pub fn apply(&mut self, entries: &[LogEntry]) -> Result<Taken, String> {
        let mut taken = Taken::default();
        for entry in entries {
            let before = self.tip().1;
            let (transactions, previous, sealed) = match self {
                // Its owner compares indexes; the ledger ignores by itself what it has.
                Self::HashChain(chain) if entry.index <= chain.0.index() => continue,
                Self::HashChain(chain) => (chain.0.apply(entry)?, before, None),
                Self::Ledger(ledger) => {
                    let applied = ledger.apply(entry).map_err(|error| error.to_string())?;
                    taken.writes.extend(applied.writes);
                    let Some(block) = applied.block else { continue };
                    let ids = block.transactions.iter().map(parse_id).collect::<Result<Vec<_>, String>>()?;
                    (Some(ids), block.header.previous_hash, Some(block))
                }
            };
            if let Some(transactions) = transactions {
                let (height, hash) = self.tip();
                let canonical = CanonicalBlock { hash, index: entry.index, transactions };
                taken.blocks.push(TakenBlock { height, previous, canonical, sealed });
            }
        }
        if let Self::HashChain(chain) = self {
            taken.writes.push(chain.0.record());
        }
        Ok(taken)
    }

    /// The state as a snapshot, if this application builds any.
    pub fn snapshot(&self) -> Option<Bytes> {
        match self {
            Self::HashChain(chain) => Some(chain.0.encode()),
            Self::Ledger(_) => None,
        }
    }

    /// Replaces the state; the records that make it durable.
    ///
    /// # Errors
    /// A snapshot that is not one of this application.
    pub fn install(&mut self, snapshot: &Snapshot) -> Result<Vec<ApplicationWrite>, String> {
        match self {
            Self::HashChain(chain) => {
                chain.0.install(snapshot.position.index, snapshot.data.clone())?;
                Ok(vec![chain.0.record()])
            }
            Self::Ledger(_) => Err("the ledger has no snapshots".to_owned()),
        }
    }

    /// A block's transactions as the payload of an entry.
    pub fn encode(&self, now_us: u64, submissions: &[Submission]) -> Bytes {
        match self {
            Self::HashChain(_) => hash_chain::encode_transactions(submissions),
            Self::Ledger(_) => {
                let transactions: Vec<Transaction> = submissions
                    .iter()
                    .map(|submission| Transaction {
                        id: transaction_id(submission.client, submission.number),
                        payload: vec![submission.number as u8; submission.bytes as usize].into(),
                    })
                    .collect();
                encode_proposal(now_us / 1_000, &transactions)
            }
        }
    }

    /// An upper bound of what a transaction adds to an entry's payload.
    pub fn framed_bytes(submission: &Submission) -> u64 {
        submission.bytes + hash_chain::FRAMING_BYTES + 16
    }
}

/// Client and number, eight bytes each.
fn transaction_id(client: u64, number: u64) -> Bytes {
    let mut id = client.to_be_bytes().to_vec();
    id.extend(number.to_be_bytes());
    id.into()
}

fn parse_id(transaction: &Transaction) -> Result<(u64, u64), String> {
    let id: [u8; 16] =
        transaction.id[..].try_into().map_err(|_| format!("id of {} bytes", transaction.id.len()))?;
    let id = u128::from_be_bytes(id);
    Ok(((id >> 64) as u64, id as u64))
}
