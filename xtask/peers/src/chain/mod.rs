//! A controller's chain as pure logic: which verdict a proposal gets, what follows from a block.
//!
//! The rules and codes are those of the real controller: an own proposal that stays the same until a block
//! is taken, candidates, missing transactions, heights too low and too high, clocks. It knows no file, no
//! network, no clock and no lock; [`crate::controller`] has those.

pub mod block;
pub mod code;
pub mod pool;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use self::block::{Block, Change, Settings, hash};
use self::pool::Pool;
use crate::config::ControllerConfig;

/// Transactions of one block.
const BLOCK_TRANSACTIONS_MAX: usize = 51_000;

/// How a block came to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// It is the first one.
    Genesis,
    /// Consensus committed it.
    Commit,
    /// From another controller.
    Sync,
}

/// A block that is here.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The block.
    pub block: Block,
    /// Its encoding.
    pub data: Bytes,
    /// Of the encoding.
    pub hash: Bytes,
    /// How it came.
    pub arrival: Arrival,
    /// When it had come and was stored, in microseconds since 1970.
    pub arrived_us: u64,
    /// What is in force from the next height on.
    pub settings: Arc<Settings>,
}

/// What becomes of a block that is to be committed or imported.
#[derive(Debug)]
pub enum Judgement {
    /// It extends the chain.
    Next(Block),
    /// A block of its height is here.
    Here,
    /// It cannot be taken now, or never.
    Refused(Refusal),
}

/// Why a proposal is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`code`].
    pub code: u32,
    /// Transactions that are not in the pool.
    pub missing: Vec<Bytes>,
    /// Who made the block, if it can be told.
    pub proposer: Bytes,
}

impl From<u32> for Refusal {
    fn from(code: u32) -> Self {
        Self { code, missing: Vec::new(), proposer: Bytes::new() }
    }
}

/// A chain, its pool and its candidates.
#[derive(Debug)]
pub struct Chain {
    own: Bytes,
    /// By height, from 0.
    blocks: Vec<Stored>,
    proposal: Option<Bytes>,
    candidates: HashSet<Bytes>,
    /// Transactions.
    pub pool: Pool,
    /// What the next own proposal changes.
    pub change: Option<Change>,
    /// Bytes that are added to own proposals.
    pub padding: usize,
}

impl Chain {
    /// With its first block only.
    pub fn new(config: &ControllerConfig) -> Self {
        let block =
            Block { timestamp_ms: config.genesis_ms, prevhash: hash(&config.chain_id), ..Block::default() };
        let settings =
            Settings { block_interval: config.block_interval, validators: config.validators.clone() };
        let data = Bytes::from(block.encode_to_vec());
        let hash = hash(&data);
        let first = Stored {
            block,
            data,
            hash,
            arrival: Arrival::Genesis,
            arrived_us: 0,
            settings: Arc::new(settings),
        };
        Self {
            own: config.address.clone(),
            blocks: vec![first],
            proposal: None,
            candidates: HashSet::new(),
            pool: Pool::default(),
            change: None,
            padding: 0,
        }
    }

    /// All blocks, by height.
    pub fn blocks(&self) -> &[Stored] {
        &self.blocks
    }

    /// The newest block.
    pub fn tip(&self) -> &Stored {
        self.blocks.last().expect("there is always the first block")
    }

    /// Height of the newest block.
    pub fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    /// What is in force for the next block.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.tip().settings
    }

    /// Whether a proposal for the next height was made or found good since the newest block.
    pub fn has_candidate(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// The own proposal for the next height: the same bytes until a block is taken.
    pub fn propose(&mut self, now_ms: u64) -> (u64, Bytes) {
        let height = self.height() + 1;
        if let Some(data) = &self.proposal {
            return (height, data.clone());
        }
        let block = Block {
            height,
            prevhash: self.tip().hash.clone(),
            timestamp_ms: now_ms.max(self.tip().block.timestamp_ms),
            proposer: self.own.clone(),
            transactions: self.pool.oldest(BLOCK_TRANSACTIONS_MAX),
            change: self.change.clone(),
            padding: Bytes::from(vec![0x5a; self.padding]),
        };
        let data = Bytes::from(block.encode_to_vec());
        self.candidates.insert(hash(&data));
        self.proposal = Some(data.clone());
        (height, data)
    }

    /// Whether a proposal could be committed; if so, it becomes a candidate.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&mut self, height: u64, data: &Bytes, now_ms: u64) -> Result<(), Refusal> {
        if self.proposal.as_ref() == Some(data) {
            return Ok(());
        }
        let Ok(block) = Block::decode(data.clone()) else { return Err(code::DECODE_ERROR.into()) };
        if block.height != height {
            return Err(code::PROPOSAL_CHECK_ERROR.into());
        }
        if height <= self.height() {
            return Err(code::PROPOSAL_TOO_LOW.into());
        }
        if height > self.height() + 1 {
            return Err(code::PROPOSAL_TOO_HIGH.into());
        }
        let latest_ms = now_ms + u64::from(self.settings().block_interval) * 1000;
        let is_timely = (self.tip().block.timestamp_ms..=latest_ms).contains(&block.timestamp_ms);
        let is_validator = self.settings().validators.contains(&block.proposer);
        if block.prevhash != self.tip().hash || !is_timely || !is_validator {
            return Err(code::PROPOSAL_CHECK_ERROR.into());
        }
        self.all_known(&block)?;
        self.candidates.insert(hash(data));
        Ok(())
    }

    fn all_known(&self, block: &Block) -> Result<(), Refusal> {
        let missing = block.transactions.iter().filter(|hash| !self.pool.contains(hash));
        let missing = missing.cloned().collect::<Vec<_>>();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Refusal { code: code::NONE_RAW_TX, missing, proposer: block.proposer.clone() })
    }

    /// What becomes of a block that consensus commits. Its contents are not compared if its height is here.
    pub fn judge_commit(&self, height: u64, data: &Bytes) -> Judgement {
        if height <= self.height() {
            return Judgement::Here;
        }
        if height > self.height() + 1 {
            return Judgement::Refused(code::PROPOSAL_TOO_HIGH.into());
        }
        match self.extending(height, data) {
            Ok(block) => match self.all_known(&block) {
                Ok(()) => Judgement::Next(block),
                Err(refusal) => Judgement::Refused(refusal),
            },
            Err(code) => Judgement::Refused(code.into()),
        }
    }

    /// What becomes of a block from another controller, which comes with everything that it needs.
    pub fn judge_import(&self, height: u64, data: &Bytes) -> Judgement {
        if height <= self.height() {
            return Judgement::Here;
        }
        if height > self.height() + 1 {
            return Judgement::Refused(code::PROPOSAL_TOO_HIGH.into());
        }
        match self.extending(height, data) {
            Ok(block) => Judgement::Next(block),
            Err(code) => Judgement::Refused(code.into()),
        }
    }

    fn extending(&self, height: u64, data: &Bytes) -> Result<Block, u32> {
        let block = Block::decode(data.clone()).map_err(|_| code::DECODE_ERROR)?;
        if block.height != height || block.prevhash != self.tip().hash {
            return Err(code::PROPOSAL_CHECK_ERROR);
        }
        Ok(block)
    }

    /// Takes a block that was judged to be the next one, or that the ledger has.
    ///
    /// # Panics
    /// If it does not extend the chain.
    pub fn append(&mut self, block: Block, data: Bytes, arrival: Arrival, arrived_us: u64) {
        assert_eq!(block.height, self.height() + 1, "a block extends the chain");
        assert_eq!(block.prevhash, self.tip().hash, "a block names the one before");
        let settings = match &block.change {
            Some(change) => Arc::new(self.settings().after(change)),
            None => self.settings().clone(),
        };
        self.pool.remove(&block.transactions);
        if block.change.is_some() && block.change == self.change {
            self.change = None;
        }
        self.forget_proposals();
        let hash = hash(&data);
        self.blocks.push(Stored { block, data, hash, arrival, arrived_us, settings });
    }

    /// Takes away the newest blocks, but not the first one, and everything that waits. Returns the height.
    pub fn roll_back(&mut self, count: u64) -> u64 {
        let height = self.height().saturating_sub(count);
        self.blocks.truncate(height as usize + 1);
        self.forget_proposals();
        self.pool.clear();
        height
    }

    /// Forgets the own proposal and the candidates, as sync does.
    pub fn forget_proposals(&mut self) {
        self.proposal = None;
        self.candidates.clear();
    }
}

#[cfg(test)]
mod tests;
