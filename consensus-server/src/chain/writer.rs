//! One chain's way to the writer of the process.
//!
//! The replica's rounds and the application's own records go through one queue, in the order in which they
//! are handed over, so whatever of them survives a crash is a prefix. Rounds are bounded by the replica;
//! the application's records are bounded here: a hand-over waits while too many bytes of earlier ones are
//! not written yet.

use std::sync::{Arc, OnceLock};

use consensus_core::ids::ChainId;
use consensus_core::replica::Refusal;
use consensus_core::storage::{ApplicationWrite, PeerRecord, WriteBatch};
use tokio::sync::Semaphore;

use super::inbox::Inbox;

/// Bytes of application records that are handed over and not written at most.
const APPLICATION_BYTES_MAX: u32 = 64 << 20;

/// The process's writer as chains see it: first in, first out. Taking a batch never waits.
pub trait WriteQueue: Send + Sync + 'static {
    /// Takes a batch; what becomes of it is told to the [`WriterNews`] of its chain.
    ///
    /// # Errors
    /// In words, if the writer has failed or stopped.
    fn submit(&self, batch: WriteBatch) -> Result<(), String>;
}

/// What the writer tells a chain, from its own thread. Cheap to clone; never waits.
#[derive(Clone, Debug)]
pub struct WriterNews {
    shared: Arc<News>,
}

#[derive(Debug)]
struct News {
    inbox: OnceLock<Arc<Inbox>>,
    application_room: Semaphore,
}

impl WriterNews {
    /// For a chain that is about to start.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let application_room = Semaphore::new(APPLICATION_BYTES_MAX as usize);
        Self { shared: Arc::new(News { inbox: OnceLock::new(), application_room }) }
    }

    /// Every synced batch of the chain up to `number` is durable.
    pub fn persisted(&self, number: u64) {
        if let Some(inbox) = self.shared.inbox.get() {
            inbox.persisted(number);
        }
    }

    /// An unsynced batch with so many bytes ([`WriteBatch::bytes`]) is written.
    pub fn written(&self, bytes: u64) {
        self.shared.application_room.add_permits(permits(bytes) as usize);
    }

    /// A write failed: nothing of the chain will be written any more.
    pub fn failed(&self, reason: &str) {
        self.shared.application_room.close();
        if let Some(inbox) = self.shared.inbox.get() {
            inbox.fail(format!("writing failed: {reason}"));
        }
    }
}

/// Hands one chain's batches to the writer. Cheap to clone.
#[derive(Clone)]
pub struct ChainWriter {
    chain: ChainId,
    queue: Arc<dyn WriteQueue>,
    news: WriterNews,
}

impl ChainWriter {
    /// `queue` tells `news` about this chain's batches, and about no other chain's.
    pub fn new(chain: ChainId, queue: Arc<dyn WriteQueue>, news: WriterNews) -> Self {
        Self { chain, queue, news }
    }

    /// From now on news reach this inbox. Nothing was submitted before.
    pub(super) fn tell(&self, inbox: Arc<Inbox>) {
        assert!(self.news.shared.inbox.set(inbox).is_ok(), "a chain starts once on its writer");
    }

    /// Takes a round.
    pub(super) fn submit(&self, batch: WriteBatch) -> Result<(), String> {
        self.queue.submit(batch)
    }

    /// The application's records, unsynced.
    pub(super) async fn write(&self, application: Vec<ApplicationWrite>) -> Result<(), Refusal> {
        if application.is_empty() {
            return Ok(());
        }
        self.submit_bounded(WriteBatch { application, ..WriteBatch::new(self.chain) }).await
    }

    /// Records about peers, unsynced.
    pub(crate) async fn write_peers(&self, peers: Vec<PeerRecord>) -> Result<(), Refusal> {
        self.submit_bounded(WriteBatch { peers, ..WriteBatch::new(self.chain) }).await
    }

    async fn submit_bounded(&self, batch: WriteBatch) -> Result<(), Refusal> {
        let room = &self.news.shared.application_room;
        let permit = room.acquire_many(permits(batch.bytes())).await.map_err(|_| Refusal::Halted)?;
        // Given back by the writer's news.
        permit.forget();
        self.queue.submit(batch).map_err(|_| Refusal::Halted)
    }
}

impl std::fmt::Debug for ChainWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainWriter").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// What a batch of so many bytes holds of the room: a larger one than all of it passes alone.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(APPLICATION_BYTES_MAX)
}
