//! The writer: one thread that makes the rounds of all chains durable with as few syncs as possible.
//!
//! While one sync is under way, further batches gather in a bounded queue; the next write takes what is there
//! (bounded in count and bytes), in order, as one atomic batch with one sync, and answers each chain once.
//! Batches that ask for no sync ride along, and are written without one when nothing else waits.
//!
//! The first failure ends the writer: every chain that ever wrote is told, and nothing is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::{LogWriter, WriteBatch};
use crate::error::Class;
use crate::ids::ChainId;

/// Bounds of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupCommitLimits {
    /// Batches that wait, of all chains together.
    pub queue_batches_max: usize,
    /// Payload bytes that wait or are being written, of all chains together; a single larger batch passes alone.
    pub queue_bytes_max: u64,
    /// Batches in one write.
    pub round_batches_max: usize,
    /// Payload bytes after which a write takes no further batch.
    pub round_bytes_max: u64,
}

impl Default for GroupCommitLimits {
    fn default() -> Self {
        Self {
            queue_batches_max: 1024,
            queue_bytes_max: 256 << 20,
            round_batches_max: 256,
            round_bytes_max: 4 << 20,
        }
    }
}

/// One write, as the writer did it; for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoundReport {
    /// Batches in it.
    pub batches: usize,
    /// Entries in it.
    pub entries: usize,
    /// Payload bytes in it.
    pub bytes: u64,
    /// Whether it was synced.
    pub synced: bool,
    /// From the call of the store to its return.
    pub took: Duration,
}

/// What the writer tells. Called on its thread, in order; must not block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// All of this chain's writes up to `number` are durable.
    Durable {
        /// The chain.
        chain: ChainId,
        /// The highest [`WriteBatch::number`] of the chain in this write.
        number: u64,
    },
    /// Unsynced batches of this chain are written, visible, and durable by the next sync of any chain.
    Written {
        /// The chain.
        chain: ChainId,
        /// Their payload ([`WriteBatch::bytes`]).
        bytes: u64,
    },
    /// The writer has ended: none of this chain's writes that are not answered may be counted on.
    Failed {
        /// The chain.
        chain: ChainId,
        /// The failure, the same for all chains.
        error: super::Error,
    },
    /// A write has ended well; comes before the `Written` and `Durable` of its chains.
    Round(RoundReport),
}

/// A batch that the writer did not take; the caller has it back.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The queue is full; the same batch may be submitted again later.
    #[error("the writer's queue is full")]
    Full(Box<WriteBatch>),
    /// The writer has failed or was shut down.
    #[error("the writer has stopped")]
    Stopped(Box<WriteBatch>),
}

impl SubmitError {
    /// What the consumer may do.
    pub fn class(&self) -> Class {
        match self {
            Self::Full(_) => Class::Retry,
            Self::Stopped(_) => Class::Halt,
        }
    }

    /// The batch.
    pub fn into_batch(self) -> WriteBatch {
        match self {
            Self::Full(batch) | Self::Stopped(batch) => *batch,
        }
    }
}

/// Sums over the writer's life.
#[derive(Debug, Default)]
pub struct GroupCommitCounters {
    /// Writes.
    pub rounds: AtomicU64,
    /// Writes with a sync.
    pub syncs: AtomicU64,
    /// Batches written.
    pub batches: AtomicU64,
    /// Entries written.
    pub entries: AtomicU64,
    /// Payload bytes written.
    pub bytes: AtomicU64,
    /// Submissions that were turned away because the queue was full.
    pub full: AtomicU64,
    /// Payload bytes that wait or are being written now.
    pub queued_bytes: AtomicU64,
}

struct Shared {
    counters: GroupCommitCounters,
    /// Taken when the writer stops or shall stop.
    queue: Mutex<Option<SyncSender<WriteBatch>>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Option<SyncSender<WriteBatch>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of the writer; share it behind an [`Arc`]. Dropping it writes what is queued and ends the thread.
pub struct GroupCommit {
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    queue_bytes_max: u64,
}

impl fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").field("counters", &self.shared.counters).finish_non_exhaustive()
    }
}

impl GroupCommit {
    /// Starts the thread. `on_done` is called on it for each [`Completion`] and must not block.
    ///
    /// # Errors
    /// The operating system's, if there can be no thread.
    pub fn start(
        store: Arc<dyn LogWriter>,
        limits: GroupCommitLimits,
        on_done: impl Fn(Completion) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, batches) = sync_channel(limits.queue_batches_max.max(1));
        let counters = GroupCommitCounters::default();
        let shared = Arc::new(Shared { counters, queue: Mutex::new(Some(queue)) });
        let writer = Writer {
            store,
            limits,
            batches,
            on_done: Box::new(on_done),
            shared: Arc::clone(&shared),
            chains: BTreeSet::new(),
            unsynced: None,
        };
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn(move || writer.run())?;
        Ok(Self { thread: Mutex::new(Some(thread)), shared, queue_bytes_max: limits.queue_bytes_max })
    }

    /// Queues a batch; never blocks. Batches of one chain are written in the order of their submission.
    ///
    /// # Errors
    /// [`SubmitError`] with the batch.
    pub fn submit(&self, batch: WriteBatch) -> Result<(), SubmitError> {
        let bytes = batch.bytes();
        let queued = &self.shared.counters.queued_bytes;
        let queue = self.shared.queue();
        let Some(sender) = queue.as_ref() else {
            return Err(SubmitError::Stopped(Box::new(batch)));
        };
        let before = queued.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > self.queue_bytes_max {
            return Err(self.full(batch, bytes));
        }
        match sender.try_send(batch) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(batch)) => Err(self.full(batch, bytes)),
            Err(TrySendError::Disconnected(batch)) => {
                queued.fetch_sub(bytes, Ordering::Relaxed);
                Err(SubmitError::Stopped(Box::new(batch)))
            }
        }
    }

    /// Sums since the start.
    pub fn counters(&self) -> &GroupCommitCounters {
        &self.shared.counters
    }

    /// Takes no further batch, writes what is queued, makes everything durable and waits for the end of the
    /// thread. Must not be called from `on_done`.
    pub fn shutdown(&self) {
        self.shared.queue().take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }

    fn full(&self, batch: WriteBatch, bytes: u64) -> SubmitError {
        self.shared.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.counters.full.fetch_add(1, Ordering::Relaxed);
        SubmitError::Full(Box::new(batch))
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        self.shutdown();
    }
}

struct Writer {
    store: Arc<dyn LogWriter>,
    limits: GroupCommitLimits,
    batches: Receiver<WriteBatch>,
    on_done: Box<dyn Fn(Completion) + Send>,
    shared: Arc<Shared>,
    /// Every chain that ever wrote, so that all of them learn of a failure.
    chains: BTreeSet<ChainId>,
    /// A chain whose newest write is not synced.
    unsynced: Option<ChainId>,
}

impl Writer {
    fn run(mut self) {
        // However this thread ends, nobody shall go on submitting to it.
        let _stop = StopOnDrop(Arc::clone(&self.shared));
        while let Ok(first) = self.batches.recv() {
            let round = self.gather(first);
            if let Err(error) = self.write(&round) {
                return self.fail(&error);
            }
        }
        if let Some(chain) = self.unsynced
            && let Err(error) = self.store.write(&[WriteBatch { sync: true, ..WriteBatch::new(chain) }])
        {
            self.fail(&error);
        }
    }

    fn gather(&mut self, first: WriteBatch) -> Vec<WriteBatch> {
        let mut bytes = first.bytes();
        let mut round = vec![first];
        while round.len() < self.limits.round_batches_max && bytes < self.limits.round_bytes_max {
            match self.batches.try_recv() {
                Ok(batch) => {
                    bytes += batch.bytes();
                    round.push(batch);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        self.chains.extend(round.iter().map(|batch| batch.chain));
        round
    }

    fn write(&mut self, round: &[WriteBatch]) -> super::Result<()> {
        let mut numbers: BTreeMap<ChainId, u64> = BTreeMap::new();
        let mut written: BTreeMap<ChainId, u64> = BTreeMap::new();
        for batch in round {
            if batch.sync {
                let number = numbers.entry(batch.chain).or_default();
                *number = batch.number.max(*number);
            } else {
                *written.entry(batch.chain).or_default() += batch.bytes();
            }
        }
        let synced = !numbers.is_empty();
        let begun = Instant::now();
        self.store.write(round)?;
        let report = RoundReport {
            batches: round.len(),
            entries: round.iter().map(|batch| batch.entries.len()).sum(),
            bytes: round.iter().map(WriteBatch::bytes).sum(),
            synced,
            took: begun.elapsed(),
        };
        self.unsynced = if synced { None } else { round.last().map(|batch| batch.chain) };
        self.count(&report);
        (self.on_done)(Completion::Round(report));
        for (chain, bytes) in written {
            (self.on_done)(Completion::Written { chain, bytes });
        }
        for (chain, number) in numbers {
            (self.on_done)(Completion::Durable { chain, number });
        }
        Ok(())
    }

    fn count(&self, report: &RoundReport) {
        let counters = &self.shared.counters;
        counters.rounds.fetch_add(1, Ordering::Relaxed);
        counters.syncs.fetch_add(u64::from(report.synced), Ordering::Relaxed);
        counters.batches.fetch_add(report.batches as u64, Ordering::Relaxed);
        counters.entries.fetch_add(report.entries as u64, Ordering::Relaxed);
        counters.bytes.fetch_add(report.bytes, Ordering::Relaxed);
        counters.queued_bytes.fetch_sub(report.bytes, Ordering::Relaxed);
    }

    /// Closes the queue and tells every chain, also those whose batches are still in it.
    fn fail(&mut self, error: &super::Error) {
        self.shared.queue().take();
        self.chains.extend(self.batches.try_iter().map(|batch| batch.chain));
        for chain in std::mem::take(&mut self.chains) {
            (self.on_done)(Completion::Failed { chain, error: error.clone() });
        }
    }
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.queue().take();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::super::conformance::{append, identity, members};
    use super::super::memory::MemoryStore;
    use super::super::{ChainState, ConfState, Identity};
    use super::*;

    /// A store whose writes wait until the test lets them go on.
    struct Gated {
        store: MemoryStore,
        entered: Sender<usize>,
        permits: Mutex<Receiver<()>>,
    }

    impl LogWriter for Gated {
        fn write(&self, batches: &[WriteBatch]) -> super::super::Result<()> {
            self.entered.send(batches.len()).expect("the test listens");
            self.permits.lock().expect("one writer").recv().expect("the test lives");
            self.store.write(batches)
        }

        fn create_chain(&self, identity: &Identity, members: &ConfState) -> super::super::Result<()> {
            self.store.create_chain(identity, members)
        }

        fn open_chain(&self, chain: ChainId) -> super::super::Result<ChainState> {
            self.store.open_chain(chain)
        }

        fn chains(&self) -> super::super::Result<Vec<Identity>> {
            self.store.chains()
        }
    }

    struct Scene {
        // First, so that a failing test does not leave the writer waiting for it.
        permits: Sender<()>,
        writer: GroupCommit,
        store: Arc<Gated>,
        entered: Receiver<usize>,
        done: Receiver<Completion>,
    }

    fn scene(limits: GroupCommitLimits) -> Scene {
        let (entered_sender, entered) = channel();
        let (permits, permit_receiver) = channel();
        let store = MemoryStore::new();
        for name in ["main", "side", "third"] {
            store.create_chain(&identity(name), &members()).expect("a new chain");
        }
        let store = Arc::new(Gated { store, entered: entered_sender, permits: Mutex::new(permit_receiver) });
        let (done_sender, done) = channel();
        let writer = GroupCommit::start(store.clone(), limits, move |completion| {
            // The test may have ended.
            let _ = done_sender.send(completion);
        });
        Scene { permits, writer: writer.expect("a thread"), store, entered, done }
    }

    fn chain(name: &str) -> ChainId {
        identity(name).chain_id()
    }

    fn batch(name: &str, index: u64) -> WriteBatch {
        WriteBatch { number: index, ..append(chain(name), index, index, 1) }
    }

    fn unsynced(name: &str, index: u64) -> WriteBatch {
        WriteBatch { number: 0, sync: false, ..batch(name, index) }
    }

    impl Scene {
        fn submit(&self, batch: WriteBatch) {
            self.writer.submit(batch).expect("there is room");
        }

        /// Lets the next write pass and says how many batches it had.
        fn pass(&self) -> usize {
            let batches = self.entered.recv().expect("a write");
            self.permits.send(()).expect("the writer lives");
            batches
        }

        fn completions(&self, count: usize) -> Vec<Completion> {
            let next = || self.done.recv().expect("a completion");
            std::iter::repeat_with(next)
                .filter(|done| !matches!(done, Completion::Round(_)))
                .take(count)
                .collect()
        }
    }

    #[test]
    fn what_gathers_during_a_sync_goes_with_one_write_and_one_answer_per_chain() {
        let scene = scene(GroupCommitLimits::default());
        scene.submit(batch("main", 1));
        assert_eq!(scene.entered.recv().expect("a write"), 1);
        for batch in [batch("main", 2), batch("side", 1), unsynced("third", 1), batch("main", 3)] {
            scene.submit(batch);
        }
        scene.permits.send(()).expect("the writer lives");
        assert_eq!(scene.pass(), 4);
        let mut done = scene.completions(4);
        assert_eq!(done.remove(0), Completion::Durable { chain: chain("main"), number: 1 });
        assert!(
            matches!(done.remove(0), Completion::Written { chain: third, .. } if third == chain("third"))
        );
        done.sort_by_key(|done| format!("{done:?}"));
        let mut expected = vec![
            Completion::Durable { chain: chain("main"), number: 3 },
            Completion::Durable { chain: chain("side"), number: 1 },
        ];
        expected.sort_by_key(|done| format!("{done:?}"));
        assert_eq!(done, expected);
        let counters = scene.writer.counters();
        assert_eq!(counters.rounds.load(Ordering::Relaxed), 2);
        assert_eq!(counters.syncs.load(Ordering::Relaxed), 2);
        assert_eq!(counters.entries.load(Ordering::Relaxed), 5);
        assert_eq!(counters.queued_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(scene.store.store.unsynced_len(), 0, "the unsynced one rode along");
    }

    #[test]
    fn unsynced_batches_alone_cost_no_sync_until_the_writer_ends() {
        let scene = scene(GroupCommitLimits::default());
        scene.submit(unsynced("main", 1));
        assert_eq!(scene.pass(), 1);
        assert!(matches!(scene.completions(1)[0], Completion::Written { .. }));
        assert_eq!(scene.writer.counters().syncs.load(Ordering::Relaxed), 0);
        assert_eq!(scene.store.store.unsynced_len(), 1);
        scene.permits.send(()).expect("the writer lives");
        scene.writer.shutdown();
        assert_eq!(scene.store.store.unsynced_len(), 0, "durable at the end");
    }

    #[test]
    fn a_write_takes_no_more_than_its_bounds() {
        let scene = scene(GroupCommitLimits { round_batches_max: 2, ..GroupCommitLimits::default() });
        scene.submit(batch("main", 1));
        scene.entered.recv().expect("a write");
        (2..=6).for_each(|index| scene.submit(batch("main", index)));
        scene.permits.send(()).expect("the writer lives");
        assert_eq!([scene.pass(), scene.pass(), scene.pass()], [2, 2, 1]);
    }

    #[test]
    fn a_full_queue_gives_the_batch_back() {
        let small = GroupCommitLimits { queue_batches_max: 2, ..GroupCommitLimits::default() };
        let scene = scene(small);
        scene.submit(batch("main", 1));
        scene.entered.recv().expect("a write");
        (2..=3).for_each(|index| scene.submit(batch("main", index)));
        let refused = scene.writer.submit(batch("main", 4)).expect_err("the queue is full");
        assert_eq!(refused.class(), Class::Retry);
        assert_eq!(refused.into_batch(), batch("main", 4));
        assert_eq!(scene.writer.counters().full.load(Ordering::Relaxed), 1);
        (0..3).for_each(|_| scene.permits.send(()).expect("the writer lives"));
        scene.completions(2);
        scene.submit(batch("main", 4));
    }

    #[test]
    fn queued_bytes_are_bounded_but_one_large_batch_passes_alone() {
        let scene = scene(GroupCommitLimits { queue_bytes_max: 10, ..GroupCommitLimits::default() });
        scene.submit(batch("main", 1));
        assert!(matches!(scene.writer.submit(batch("main", 2)), Err(SubmitError::Full(_))));
        scene.pass();
        scene.completions(1);
        scene.submit(batch("main", 2));
        scene.pass();
    }

    #[test]
    fn a_failed_write_ends_the_writer_and_tells_every_chain() {
        let scene = scene(GroupCommitLimits::default());
        scene.submit(batch("side", 1));
        scene.pass();
        scene.completions(1);
        scene.store.store.fail_next_write("no space left");
        scene.submit(batch("main", 1));
        scene.entered.recv().expect("a write");
        scene.submit(batch("third", 1));
        scene.permits.send(()).expect("the writer lives");
        let mut told: Vec<ChainId> = scene
            .completions(3)
            .into_iter()
            .map(|done| match done {
                Completion::Failed { chain, error } => {
                    assert_eq!(error.to_string(), "storage: write: no space left");
                    chain
                }
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort_unstable();
        let mut all = ["main", "side", "third"].map(chain);
        all.sort_unstable();
        assert_eq!(told, all);
        let refused = scene.writer.submit(batch("main", 1)).expect_err("stopped");
        assert_eq!(refused.class(), Class::Halt);
        assert!(matches!(refused, SubmitError::Stopped(_)));
    }

    #[test]
    fn a_shutdown_writes_what_is_queued() {
        let scene = scene(GroupCommitLimits::default());
        (1..=5).for_each(|index| scene.submit(batch("main", index)));
        (0..5).for_each(|_| scene.permits.send(()).expect("the writer lives"));
        scene.writer.shutdown();
        assert_eq!(scene.store.store.durable_view(chain("main"), |image| image.last().index), Some(5));
        assert!(matches!(scene.writer.submit(batch("main", 6)), Err(SubmitError::Stopped(_))));
    }
}
