//! What is durable: one chain's log, hard state, membership, snapshot, and its application's records.
//!
//! The replica describes each round as one [`WriteBatch`]; a [`LogWriter`] makes it durable as a whole
//! or not at all. [`rocks`] keeps all chains of a process in one RocksDB, [`memory`] keeps them in memory
//! with the crash semantics of a disk, and [`conformance`] is the suite that both pass. Values are framed
//! with a version byte and a CRC-32C over key and content ([`records`]); keys are in [`keys`].
//!
//! Nothing here decides: rules about what may be written when live in `replica`.

use bytes::Bytes;
use thiserror::Error;

use crate::error::Class;
use crate::ids::{ChainId, Hash, NodeId, StoreIncarnation};

pub mod conformance;
pub mod group_commit;
pub mod inspect;
pub mod keys;
pub mod memory;
mod owner;
#[cfg_attr(not(feature = "rocksdb"), allow(dead_code, reason = "chains are opened on disk"))]
pub mod raw;
pub mod records;
#[cfg(feature = "rocksdb")]
pub mod rocks;
#[cfg_attr(not(feature = "rocksdb"), allow(dead_code, reason = "chains are opened on disk"))]
mod shape;

pub use owner::{Opened, found, open_or_create};

/// Version of the layout on disk that this program writes and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What a log entry means to Raft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// Payload for the application; empty payloads are Raft's own.
    Normal,
    /// A membership change in the old form; read, never written.
    ConfChange,
    /// A membership change (protobuf `ConfChangeV2` of the `raft` crate's schema).
    ConfChangeV2,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Position; the first entry of a chain is 1.
    pub index: u64,
    /// Term of the leader that appended it.
    pub term: u64,
    /// What it means.
    pub kind: EntryKind,
    /// Small companion of the payload: what its proposal brought along, or the replica's own.
    pub context: Bytes,
    /// The payload.
    pub data: Bytes,
}

/// Raft's promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Whom this replica voted for in `term`.
    pub vote: Option<NodeId>,
    /// Highest index known to be committed.
    pub commit: u64,
}

/// Membership of a chain, in Raft's joint-consensus form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    /// Voters (of the incoming half while joint).
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing half; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint phase ends.
    pub learners_next: Vec<u64>,
    /// Whether the joint phase ends by itself.
    pub auto_leave: bool,
}

/// Position of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Position {
    /// Index; 0 stands before the first entry.
    pub index: u64,
    /// Term; 0 at index 0.
    pub term: u64,
}

/// A snapshot of the application at a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The last entry that it contains.
    pub position: Position,
    /// Membership at that entry.
    pub conf_state: ConfState,
    /// The application's bytes.
    pub data: Bytes,
}

/// How far the replica has applied, with the membership at that point.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Index.
    pub index: u64,
    /// Membership as of `index`.
    pub conf_state: ConfState,
}

/// Who owns a chain's data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the chain.
    pub chain: String,
    /// Distinguishes this chain from earlier ones of its name.
    pub chain_incarnation: u64,
    /// This node.
    pub node_id: NodeId,
    /// This store.
    pub store_incarnation: StoreIncarnation,
    /// Hash over what all nodes of the chain must agree on before the first entry.
    pub genesis_hash: Hash,
    /// Unix time in milliseconds of the store's creation; for people only.
    pub created_at_ms: u64,
}

impl Identity {
    /// The chain as keys name it.
    pub fn chain_id(&self) -> ChainId {
        ChainId::derive(&self.chain, self.chain_incarnation)
    }
}

/// What this node last knew of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// The peer.
    pub node_id: NodeId,
    /// Where it was reached.
    pub address: String,
    /// Its store, once it was heard.
    pub store_incarnation: Option<StoreIncarnation>,
    /// Unix time in milliseconds; 0: never heard.
    pub last_heard_ms: u64,
    /// Highest index known to be on its disk; known only to a leader.
    pub matched: u64,
    /// Next index to send; known only to a leader.
    pub next: u64,
    /// `probe`, `replicate`, `snapshot` or `unknown`.
    pub progress: String,
    /// Whether a stream to it was open.
    pub connected: bool,
    /// Unix time in milliseconds of this record.
    pub recorded_at_ms: u64,
}

/// Everything durable of a chain but its entries and its application's records, as found at open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainState {
    /// Owner.
    pub identity: Identity,
    /// Promises.
    pub hard_state: HardState,
    /// Applied index and membership.
    pub applied: Applied,
    /// Newest snapshot, if any.
    pub snapshot: Option<Snapshot>,
    /// A snapshot was made durable and the application has not reported it installed.
    pub installing: bool,
    /// The entry before the first one that is kept.
    pub truncated: Position,
    /// The last entry; equals `truncated` when the log is empty.
    pub last: Position,
    /// Where terms begin: ascending (first index, term) of all kept entries.
    pub terms: Vec<Position>,
    /// The last entry as the newest batch recorded it that changed the log's end; differs from `last` only if
    /// entries were lost, which open refuses.
    pub high_water: Position,
}

/// One put into (or removal from) an application's own records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplicationWrite {
    /// Key within the chain.
    pub key: Vec<u8>,
    /// `None` removes.
    pub value: Option<Bytes>,
}

/// One chain's writes of one round: all of it becomes durable, or nothing.
///
/// Applied in this order: `install`, `truncate_from`, `entries`, then the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteBatch {
    /// The chain.
    pub chain: ChainId,
    /// The replica's number of this write, strictly increasing among those with `sync`; 0 otherwise.
    pub number: u64,
    /// Whether anything leaves the node that depends on this write.
    pub sync: bool,
    /// Replaces log, membership and applied index by a received snapshot and marks it as installing.
    pub install: Option<Snapshot>,
    /// The application has installed the snapshot: clears the mark.
    pub installed: bool,
    /// First index of an old tail to remove.
    pub truncate_from: Option<u64>,
    /// Entries to append, contiguous.
    pub entries: Vec<LogEntry>,
    /// New promises.
    pub hard_state: Option<HardState>,
    /// New applied index and membership.
    pub applied: Option<Applied>,
    /// A snapshot built here.
    pub snapshot: Option<Snapshot>,
    /// Entries up to here may go.
    pub compact_to: Option<Position>,
    /// Records about peers, each replacing the former one of its node.
    pub peers: Vec<PeerRecord>,
    /// The application's own records.
    pub application: Vec<ApplicationWrite>,
}

impl WriteBatch {
    /// A batch that writes nothing yet.
    pub fn new(chain: ChainId) -> Self {
        Self {
            chain,
            number: 0,
            sync: false,
            install: None,
            installed: false,
            truncate_from: None,
            entries: Vec::new(),
            hard_state: None,
            applied: None,
            snapshot: None,
            compact_to: None,
            peers: Vec::new(),
            application: Vec::new(),
        }
    }

    /// Payload bytes, as queues count them.
    pub fn bytes(&self) -> u64 {
        let entries: usize = self.entries.iter().map(|e| e.data.len() + e.context.len() + 64).sum();
        let application: usize =
            self.application.iter().map(|w| w.key.len() + w.value.as_ref().map_or(0, Bytes::len) + 16).sum();
        (entries + application) as u64
    }
}

/// A failure of the storage.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// The engine failed. After a failed write or sync the outcome is unknown: never retried.
    #[error("storage: {operation}: {cause}")]
    Engine {
        /// What was being done.
        operation: &'static str,
        /// The engine's words.
        cause: String,
    },
    /// A record's checksum, framing or content is wrong.
    #[error("damaged record {key}: {cause}")]
    Damaged {
        /// The key as people read it, e.g. `log 17 of chain main`.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// Records contradict each other.
    #[error("inconsistent store: {0}")]
    Inconsistent(String),
    /// The directory belongs to somebody else.
    #[error("foreign data directory: {what} is {found}, expected {expected}")]
    Foreign {
        /// The field of the identity.
        what: &'static str,
        /// What the directory says.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The directory is in use by a running process.
    #[error("data directory {path} is in use by {owner}")]
    InUse {
        /// The directory.
        path: String,
        /// `pid 123`, or `another process`.
        owner: String,
    },
    /// There is no store in the directory.
    #[error("{path} is not a data directory: {cause}")]
    NotADataDirectory {
        /// The directory.
        path: String,
        /// What is missing.
        cause: String,
    },
    /// The directory's format is newer than this program.
    #[error("data directory has format {found}, this program reads up to {FORMAT_VERSION}")]
    NewerFormat {
        /// The directory's format.
        found: u32,
    },
    /// Entries that are not kept any more.
    #[error("entries from {from} are compacted, the first kept is {first}")]
    Compacted {
        /// What was asked for.
        from: u64,
        /// What there is.
        first: u64,
    },
    /// Entries that are not there yet.
    #[error("entries up to {to} asked for, the last is {last}")]
    Unavailable {
        /// What was asked for, exclusive.
        to: u64,
        /// What there is.
        last: u64,
    },
    /// No such chain in this store.
    #[error("no chain {0} in this store")]
    NoChain(ChainId),
}

impl Error {
    /// What the consumer may do.
    pub fn class(&self) -> Class {
        match self {
            Self::Engine { .. } | Self::Damaged { .. } | Self::Inconsistent(_) => Class::Halt,
            Self::Foreign { .. }
            | Self::InUse { .. }
            | Self::NotADataDirectory { .. }
            | Self::NewerFormat { .. }
            | Self::NoChain(_) => Class::Reject,
            Self::Compacted { .. } | Self::Unavailable { .. } => Class::Retry,
        }
    }
}

/// Result of a storage operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Reads what is durable, and what is written and not yet durable.
pub trait LogReader: Send + Sync {
    /// Entries `from..to` (to exclusive), checked, cut off before the one that would bring the payloads above
    /// `bytes_max`; at least one.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::Unavailable`], [`Error::Damaged`] or the engine's.
    fn entries(&self, chain: ChainId, from: u64, to: u64, bytes_max: u64) -> Result<Vec<LogEntry>>;

    /// One of the application's own records.
    ///
    /// # Errors
    /// [`Error::Damaged`] or the engine's.
    fn application_record(&self, chain: ChainId, key: &[u8]) -> Result<Option<Bytes>>;

    /// The application's records with keys in `from..to`, ascending, at most `count_max`.
    ///
    /// # Errors
    /// [`Error::Damaged`] or the engine's.
    fn application_records(
        &self,
        chain: ChainId,
        from: &[u8],
        to: &[u8],
        count_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>>;

    /// What is known of the peers.
    ///
    /// # Errors
    /// [`Error::Damaged`] or the engine's.
    fn peers(&self, chain: ChainId) -> Result<Vec<PeerRecord>>;
}

/// Makes rounds durable and opens chains.
pub trait LogWriter: Send + Sync {
    /// Writes all batches atomically; durable on return if any of them asks for `sync`. Visible to the
    /// reader on return in any case. Each chain must have been opened or created before.
    ///
    /// # Errors
    /// The engine's: the outcome is then unknown and the chains concerned must halt. [`Error::Inconsistent`]
    /// if a batch contradicts what is written already (a gap or a falling term in the log, an overwritten entry
    /// that is not truncated, a term, vote or commit index taken back, anything above the log's end): nothing
    /// is written then. After any failure every later write fails alike.
    fn write(&self, batches: &[WriteBatch]) -> Result<()>;

    /// Creates a chain with its first membership at index 0. Durable on return.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] if it exists, or the engine's.
    fn create_chain(&self, identity: &Identity, members: &ConfState) -> Result<()>;

    /// The chain as it is durable now, its invariants checked: checksums of all of its records but the
    /// entries, contiguity of the log's keys against `truncated` and `high_water`, checksums of the newest
    /// entries, `commit` and `applied` within the log.
    ///
    /// # Errors
    /// [`Error::NoChain`], [`Error::Damaged`], [`Error::Inconsistent`] or the engine's.
    fn open_chain(&self, chain: ChainId) -> Result<ChainState>;

    /// The chains of this store.
    ///
    /// # Errors
    /// [`Error::Damaged`] or the engine's.
    fn chains(&self) -> Result<Vec<Identity>>;
}
