//! The built-in application: transactions become a hash-chained sequence of blocks.
//!
//! One task per chain owns the pure ledger of the core; [`LedgerHandle`] is what services hold of it. A
//! submission is a frame of transactions with one answer. On the leader it goes through the queue into the
//! pipeline, where it is deduplicated and cut into blocks; elsewhere the whole frame is forwarded to the
//! leader once. Blocks are served from memory while they are new and from the store afterwards.
//!
//! The wall clock is read here and only here: for block timestamps, which the ledger makes monotonic, and
//! for the time at which a partly filled block is cut.

mod arrivals;
mod frames;
mod handle;
mod recent;
mod task;
mod traced;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use consensus_core::ids::{Hash, NodeId};
use consensus_core::ledger::{self, Ledger, LedgerConfig, LedgerReader, Location, Pipeline, PipelineConfig};
use consensus_core::limits::{Limits, LimitsError};
use consensus_core::replica::Refusal;
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason, Refused, outcome};
use consensus_proto::records::Transaction;
use thiserror::Error;
use tokio::sync::watch;

use self::arrivals::Arrivals;
use self::frames::Frames;
use self::recent::Recent;
use crate::chain::ChainHandle;
use crate::telemetry::trace::TraceContext;
use crate::transport::Forwarder;

pub use handle::LedgerHandle;
pub use task::LedgerApplication;

/// When a client that was refused may try again, in milliseconds.
const RETRY_AFTER_MS: u32 = 50;

/// How the ledger of one chain runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// The chain's rules: hashes and the window of known ids. Equal on all nodes of the chain.
    pub ledger: LedgerConfig,
    /// When blocks are cut, and what waits for its outcome at most.
    pub pipeline: PipelineConfig,
    /// Transactions that wait for the pipeline at most; the same number may be forwarded at a time, of as many bytes.
    pub queue_transactions_max: usize,
    /// Bytes of transactions that wait at most.
    pub queue_bytes_max: u64,
    /// How long a submission waits for its outcome before it is answered with `REASON_TIMEOUT`.
    pub submit_timeout: Duration,
    /// How long a submission that has lost its leader waits for a new one: long enough to bridge a planned change
    /// of leader, short enough for a fast failure.
    pub leader_grace: Duration,
    /// Bytes of recent blocks kept in memory for readers.
    pub recent_bytes_max: u64,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            ledger: LedgerConfig::default(),
            pipeline: PipelineConfig::default(),
            queue_transactions_max: 50_000,
            queue_bytes_max: 64 << 20,
            submit_timeout: Duration::from_secs(10),
            leader_grace: Duration::from_millis(500),
            recent_bytes_max: 64 << 20,
        }
    }
}

/// A frame of transactions to be ordered.
#[derive(Clone, Debug)]
pub struct Submission {
    /// In the client's order. An empty id is not valid here: services fill it in.
    pub transactions: Vec<Transaction>,
    /// When to answer; unspecified means committed.
    pub acknowledgement: Acknowledgement,
    /// How often the frame was forwarded; one that was is never forwarded again.
    pub hops: u32,
    /// The span above, if the frame is sampled.
    pub trace: Option<TraceContext>,
}

/// The end of the ledger on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tip {
    /// Height of the newest block; 0 before the first.
    pub height: u64,
    /// Its hash; the genesis hash at height 0.
    pub hash: Hash,
    /// Its timestamp, Unix time in milliseconds.
    pub timestamp_ms: u64,
    /// Transactions in the whole chain.
    pub transactions: u64,
    /// The log index up to which everything is taken.
    pub index: u64,
}

/// What is known of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionState {
    /// Not in the chain as this node knows it, and not in its queue.
    Unknown,
    /// In the queue or in flight on this node.
    Pending,
    /// In the chain.
    Committed(Location),
}

/// Why the ledger cannot answer a question.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The store failed, or the ledger's records contradict each other.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// Two bounds contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Linearizability could not be confirmed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl LedgerOptions {
    /// Checks each bound and those that depend on each other.
    ///
    /// # Errors
    /// The first that does not hold, with its value and what it must be.
    pub fn validate(&self, limits: &Limits) -> Result<(), LimitsError> {
        self.pipeline.validate()?;
        let at_least = |name, value: u64, least: u64, what: &str| {
            let bound = format!("at least {least}{what}");
            if value >= least { Ok(()) } else { Err(LimitsError { name, value, bound }) }
        };
        let block = self.pipeline.cutter.entry_bytes_max();
        at_least("entry_bytes_max", limits.entry_bytes_max, block, " (a block of absolute_bytes)")?;
        at_least("queue_transactions_max", self.queue_transactions_max as u64, 1, "")?;
        let absolute = self.pipeline.cutter.absolute_bytes;
        at_least("queue_bytes_max", self.queue_bytes_max, absolute, " (absolute_bytes)")
    }
}

/// Opens the ledger of a chain on its store: the application to run, and the handle for everybody else.
///
/// # Errors
/// [`LedgerError::Ledger`] if the store fails or the records do not fit together; [`LedgerError::Limits`].
pub fn open(
    chain: &ChainHandle,
    forwarder: Arc<dyn Forwarder>,
    options: LedgerOptions,
) -> Result<(LedgerApplication, LedgerHandle), LedgerError> {
    options.validate(chain.limits())?;
    let genesis = chain.identity().genesis_hash;
    let ledger = Ledger::open(&**chain.reader(), chain.id(), genesis, options.ledger)?;
    let pipeline = Pipeline::new(options.pipeline)?;
    let tip = task::tip_of(&ledger);
    let shared = Arc::new(handle::Shared {
        chain: chain.clone(),
        forwarder,
        frames: Frames::new(options.queue_transactions_max, options.queue_bytes_max),
        tip: watch::Sender::new(tip),
        arrivals: Arrivals::new(tip.height),
        recent: Recent::new(options.recent_bytes_max, tip.height),
        reader: LedgerReader::new(chain.reader().clone(), chain.id(), genesis, options.ledger.rule),
        waiting: AtomicU64::new(0),
        forwarded: AtomicU64::new(0),
        forwarded_bytes: AtomicU64::new(0),
        options,
    });
    Ok((LedgerApplication { shared: shared.clone(), ledger, pipeline }, LedgerHandle::new(shared)))
}

/// An outcome for `count` transactions that were not taken. `leader_address` is left to the services.
pub fn refused(count: usize, reason: Reason, message: impl Into<String>, leader: Option<NodeId>) -> Outcome {
    let retry_after_ms = match reason {
        Reason::NoLeader | Reason::NotLeader | Reason::Overloaded | Reason::LeadershipLost => RETRY_AFTER_MS,
        Reason::Unspecified | Reason::Invalid | Reason::Timeout | Reason::Halted | Reason::ShuttingDown => 0,
    };
    let refused = Refused {
        reason: reason.into(),
        message: message.into(),
        leader_id: leader.map_or(0, NodeId::get),
        leader_address: String::new(),
        retry_after_ms,
    };
    Outcome { count: count as u32, outcome: Some(outcome::Outcome::Refused(refused)) }
}

/// Nobody leads, or the leader (a hint) cannot be reached.
pub fn no_leader(count: usize, leader: Option<NodeId>) -> Outcome {
    let message = match leader {
        Some(leader) => format!("the leader, node {leader}, cannot be reached"),
        None => "no leader is known".to_owned(),
    };
    refused(count, Reason::NoLeader, message, leader)
}
