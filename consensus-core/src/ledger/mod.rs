//! The built-in application as pure logic: transactions in, one hash-chained sequence of blocks out.
//!
//! On the leader a [`Pipeline`] takes frames of transactions, and its [`Cutter`] decides where one block
//! ends; each batch becomes one log entry ([`encode_proposal`]). On every node the [`Ledger`] turns
//! committed entries into blocks: it numbers them, leaves out what the chain has already, and derives the
//! hashes ([`block`], [`proof`]). [`LedgerReader`] serves what is in the chain, and [`verify_chain`] checks it.
//!
//! Nothing here knows a clock, a network or Raft: time and positions are arguments. The same entries give
//! the same blocks on every node, however they are split and however often a node restarts. A
//! transaction's bytes are on disk once, in the log entry; what the ledger writes beside it ([`records`])
//! can be rebuilt from the log.

pub mod block;
pub mod cutter;
mod error;
#[allow(clippy::module_inception)]
mod ledger;
mod pipeline;
mod pool;
pub mod proof;
mod reader;
pub mod records;
mod verify;
mod window;

pub use block::{
    Block, BlockProposal, HashRule, Header, InvalidTransaction, ProposalError, Transaction,
    check_transaction, decode_proposal, encode_proposal, genesis_hash, id_of_payload,
};
pub use cutter::{Cut, Cutter, CutterConfig};
pub use error::{Error, Result};
pub use ledger::{AppliedEntry, Ledger, LedgerConfig, Location, Skipped, Tip};
pub use pipeline::{Batch, Frame, Pipeline, PipelineConfig};
pub use pool::{Completion, Outcome, Refusal, Run};
pub use proof::InclusionProof;
pub use reader::{LedgerReader, SealedHeader};
pub use verify::{Finding, Verified, verify_chain};
