//! The writer of a node, and each chain's way to it.
//!
//! All chains of a process share one queue and one thread (`GroupCommit` of the core). The replica's rounds
//! and the application's own records go through it in the order in which they are handed over, so whatever
//! of them survives a crash is a prefix. Rounds are bounded by the replicas' limits; applications wait here
//! while the queue is half full, so that there is always room for rounds. Batches are counted: the number
//! of those handed over and of those written says what the store has, whether it was synced or not.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use consensus_core::ids::ChainId;
use consensus_core::replica::Refusal;
use consensus_core::storage::group_commit::{
    Completion, GroupCommit, GroupCommitCounters, GroupCommitLimits, RoundReport, SubmitError,
};
use consensus_core::storage::{ApplicationWrite, LogWriter, PeerRecord, WriteBatch};
use tokio::sync::Notify;

use super::inbox::Inbox;

/// The writer of all chains of a node.
pub struct NodeWriter {
    commit: GroupCommit,
    limits: GroupCommitLimits,
    /// Batches handed over; held while one is, so that counting has the order of the queue.
    handed: Mutex<u64>,
    news: Arc<News>,
}

/// What the writer's thread tells.
#[derive(Default)]
struct News {
    chains: RwLock<BTreeMap<ChainId, Arc<Inbox>>>,
    /// Batches written.
    written: AtomicU64,
    failed: AtomicBool,
    room: Notify,
}

impl NodeWriter {
    /// Starts the writer's thread. `on_round` is called on it after each write and must not block.
    ///
    /// # Errors
    /// The operating system's, if there can be no thread.
    pub fn start(
        store: Arc<dyn LogWriter>,
        limits: GroupCommitLimits,
        on_round: impl Fn(&RoundReport) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let news = Arc::new(News::default());
        let told = news.clone();
        let commit = GroupCommit::start(store, limits, move |completion| told.take(completion, &on_round))?;
        Ok(Arc::new(Self { commit, limits, handed: Mutex::new(0), news }))
    }

    /// A chain's way to this writer.
    pub fn chain(self: &Arc<Self>, chain: ChainId) -> ChainWriter {
        ChainWriter { chain, writer: self.clone() }
    }

    /// Sums since the start.
    pub fn counters(&self) -> &GroupCommitCounters {
        self.commit.counters()
    }

    /// Writes what is queued, makes everything durable and ends the thread. Blocks.
    pub fn shutdown(&self) {
        self.commit.shutdown();
    }

    /// Hands a batch over; returns how many were, including it.
    fn submit(&self, batch: WriteBatch) -> Result<u64, SubmitError> {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit.submit(batch)?;
        *handed += 1;
        Ok(*handed)
    }

    /// Whether rounds would still have half of the queue for themselves.
    fn has_room(&self) -> bool {
        let handed = *self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = handed.saturating_sub(self.news.written.load(Ordering::Acquire));
        let bytes = self.counters().queued_bytes.load(Ordering::Relaxed);
        batches < self.limits.queue_batches_max as u64 / 2 && bytes < self.limits.queue_bytes_max / 2
    }

    /// Hands a batch over when there is room.
    async fn submit_patiently(&self, batch: WriteBatch) -> Result<u64, Refusal> {
        loop {
            let mut room = std::pin::pin!(self.news.room.notified());
            room.as_mut().enable();
            if self.news.failed.load(Ordering::Acquire) {
                return Err(Refusal::Halted);
            }
            if self.has_room() {
                return self.submit(batch).map_err(|_| Refusal::Halted);
            }
            room.await;
        }
    }
}

impl News {
    /// On the writer's thread.
    fn take(&self, completion: Completion, on_round: &impl Fn(&RoundReport)) {
        match completion {
            Completion::Round(report) => {
                self.written.fetch_add(report.batches as u64, Ordering::Release);
                self.room.notify_waiters();
                on_round(&report);
            }
            // Batches are counted as they come in rounds, whether they are synced or not.
            Completion::Written { .. } => {}
            Completion::Durable { chain, number } => {
                if let Some(inbox) = self.inbox(chain) {
                    inbox.persisted(number);
                }
            }
            Completion::Failed { chain, error } => {
                self.failed.store(true, Ordering::Release);
                self.room.notify_waiters();
                if let Some(inbox) = self.inbox(chain) {
                    inbox.fail(format!("writing failed: {error}"));
                }
            }
        }
    }

    fn inbox(&self, chain: ChainId) -> Option<Arc<Inbox>> {
        self.chains.read().unwrap_or_else(PoisonError::into_inner).get(&chain).cloned()
    }
}

impl std::fmt::Debug for NodeWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeWriter").field("commit", &self.commit).finish_non_exhaustive()
    }
}

/// Hands one chain's batches to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChainWriter {
    chain: ChainId,
    writer: Arc<NodeWriter>,
}

impl ChainWriter {
    /// From now on news of this chain reach this inbox.
    pub(super) fn tell(&self, inbox: Arc<Inbox>) {
        self.writer.news.chains.write().unwrap_or_else(PoisonError::into_inner).insert(self.chain, inbox);
    }

    /// Takes a round; never waits.
    pub(super) fn submit(&self, batch: WriteBatch) -> Result<(), SubmitError> {
        self.writer.submit(batch).map(drop)
    }

    /// The application's records, unsynced; returns the position that `written` reaches with them.
    pub(super) async fn write(&self, application: Vec<ApplicationWrite>) -> Result<u64, Refusal> {
        self.writer.submit_patiently(WriteBatch { application, ..WriteBatch::new(self.chain) }).await
    }

    /// The application's records; returns when they are durable.
    pub(super) async fn write_durably(&self, application: Vec<ApplicationWrite>) -> Result<(), Refusal> {
        let batch = WriteBatch { application, sync: true, ..WriteBatch::new(self.chain) };
        let position = self.writer.submit_patiently(batch).await?;
        let news = &self.writer.news;
        loop {
            let mut round = std::pin::pin!(news.room.notified());
            round.as_mut().enable();
            if news.failed.load(Ordering::Acquire) {
                return Err(Refusal::Halted);
            }
            if self.written() >= position {
                return Ok(());
            }
            round.await;
        }
    }

    /// Records about peers, unsynced.
    pub(crate) async fn write_peers(&self, peers: Vec<PeerRecord>) -> Result<(), Refusal> {
        self.writer.submit_patiently(WriteBatch { peers, ..WriteBatch::new(self.chain) }).await.map(drop)
    }

    /// How far the store has what was handed over.
    pub(super) fn written(&self) -> u64 {
        self.writer.news.written.load(Ordering::Acquire)
    }
}
