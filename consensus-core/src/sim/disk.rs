//! A node's disk and writer: batches become durable in their order, in groups, after some time.
//!
//! The writer takes all batches that are waiting, writes them as a group and syncs once if any of them asks
//! for it; what is written without a sync becomes durable with the next one. A crash keeps everything that
//! was synced and a random prefix of the rest, in flight or not. A failed write is the last one before a crash.
//! Beside the store the disk keeps an image of what is durable; a reopened store must equal it.
//!
//! That RocksDB shows nothing else is tested in `storage-faults/tests/simulated_disk.rs`, on the same scripts.

use std::collections::VecDeque;
use std::sync::Arc;

use super::image::{EntryDigest, LogImage};
use super::invariants::{Promises, Violation};
use super::mutant::Mutant;
use super::rng::{Rng, Stream};
use super::swarm::Latencies;
use crate::ids::ChainId;
use crate::storage::memory::MemoryStore;
use crate::storage::{HardState, LogReader, LogWriter, WriteBatch};

/// Time of a write without a sync.
const UNSYNCED_US: u64 = 20;

/// How much longer a slow disk takes.
const SLOW_FACTOR: u64 = 20;

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Write {
    batch: WriteBatch,
    digests: Vec<EntryDigest>,
    height: Option<u64>,
    answer: Option<Completion>,
}

/// What the writer reports of a batch when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// A round of the replica.
    Persisted {
        /// Its number.
        number: u64,
    },
    /// The application's records of a snapshot.
    Installed {
        /// The snapshot's index.
        index: u64,
    },
}

impl Write {
    /// A round of the replica with the digests of its entries. If it is synced and `answered`, its
    /// durability is reported.
    pub fn of_replica(batch: WriteBatch, digests: Vec<EntryDigest>, answered: bool) -> Self {
        let answer = (batch.sync && answered).then_some(Completion::Persisted { number: batch.number });
        Self { digests, batch, height: None, answer }
    }

    /// What the replica waits for, if anything.
    pub fn awaited(&self) -> Option<Completion> {
        self.batch.sync.then_some(Completion::Persisted { number: self.batch.number })
    }

    /// Records of the application that stands at `height` with them.
    pub fn of_application(batch: WriteBatch, height: u64, answer: Option<Completion>) -> Self {
        Self { digests: Vec::new(), batch, height: Some(height), answer }
    }
}

/// What became of a group of batches.
#[derive(Debug)]
pub enum Group {
    /// It is written: what to report, and the time until the next group is done.
    Done(Vec<Completion>, Option<u64>),
    /// The write failed, and what of it is on the disk is unknown: the chain has to halt.
    Failed(&'static str),
}

/// Result of a crash.
#[derive(Clone, Copy, Debug)]
pub struct Wreck {
    /// Batches that were not synced and are there.
    pub kept: usize,
    /// Batches that are gone.
    pub lost: usize,
}

/// One node's disk.
#[derive(Debug)]
pub struct Disk {
    chain: ChainId,
    store: Arc<MemoryStore>,
    latencies: Latencies,
    slow: bool,
    latency: Rng,
    stall: Rng,
    crash: Rng,
    mutant: Option<Mutant>,
    quiet: bool,
    waiting: VecDeque<Write>,
    in_flight: usize,
    unsynced: VecDeque<Write>,
    /// How many of them are promised already; only a broken rule leaves any.
    promised_unsynced: usize,
    durable: LogImage,
    /// What was reported durable, true or not.
    promised: Promises,
    late_promises: Option<HardState>,
    syncs: u64,
    /// The next write fails.
    failing: bool,
    /// Every write fails.
    full: bool,
    /// Why a write failed; every later one fails alike until the crash.
    failed: Option<&'static str>,
}

impl Disk {
    /// A disk with a store in which the chain exists and has this log.
    pub fn new(
        seed: u64,
        node: u64,
        chain: ChainId,
        store: Arc<MemoryStore>,
        durable: LogImage,
        latencies: &Latencies,
        mutant: Option<Mutant>,
    ) -> Self {
        Self {
            chain,
            store,
            latencies: latencies.clone(),
            slow: latencies.slow_disk == Some(node),
            latency: Rng::new(seed, Stream::DiskLatency, node),
            stall: Rng::new(seed, Stream::DiskStall, node),
            crash: Rng::new(seed, Stream::DiskCrash, node),
            mutant,
            quiet: false,
            waiting: VecDeque::new(),
            in_flight: 0,
            unsynced: VecDeque::new(),
            promised_unsynced: 0,
            durable,
            promised: Promises::default(),
            late_promises: None,
            syncs: 0,
            failing: false,
            full: false,
            failed: None,
        }
    }

    /// An empty store replaces the old one; nothing was ever promised by it. Returns what was durable.
    pub fn begin_anew(&mut self) -> LogImage {
        self.promised = Promises::default();
        std::mem::take(&mut self.durable)
    }

    /// The next write fails.
    pub fn fail(&mut self) {
        self.failing = true;
    }

    /// No write succeeds from now on, or they do again.
    pub fn fill(&mut self, full: bool) {
        self.full = full;
    }

    /// The store.
    pub fn store(&self) -> &Arc<MemoryStore> {
        &self.store
    }

    /// What is durable.
    pub fn durable(&self) -> &LogImage {
        &self.durable
    }

    /// The lowest index whose durable entry is not what it was at the last call.
    pub fn take_changed_from(&mut self) -> Option<u64> {
        self.durable.take_changed_from()
    }

    /// What was reported durable.
    pub fn promised(&self) -> Promises {
        self.promised
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Ends stalls and failures for ever.
    pub fn quieten(&mut self) {
        self.quiet = true;
        self.failing = false;
        self.full = false;
    }

    /// Takes a batch; if the writer was idle, the time until it is done with a group that begins now.
    pub fn submit(&mut self, write: Write) -> Option<u64> {
        self.waiting.push_back(write);
        if self.in_flight == 0 { self.begin() } else { None }
    }

    /// Promises a batch that is not written yet, as a broken rule does.
    pub fn promise_early(&mut self) {
        if let Some(write) = self.waiting.back() {
            fold(&mut self.promised, write);
        }
    }

    fn begin(&mut self) -> Option<u64> {
        self.in_flight = self.waiting.len();
        if self.in_flight == 0 {
            return None;
        }
        if !self.waiting.iter().any(|write| write.batch.sync) {
            return Some(UNSYNCED_US);
        }
        let mut time_us = self.latencies.sync_min_us + self.latency.exponential(self.latencies.sync_mean_us);
        let stalls = self.stall.chance(self.latencies.stall);
        let stall_us = self.stall.below(self.latencies.stall_max_us);
        if self.slow && !self.quiet {
            time_us *= SLOW_FACTOR;
        }
        if stalls && !self.quiet {
            time_us += stall_us;
        }
        Some(time_us)
    }

    /// The group in flight is done.
    ///
    /// # Errors
    /// A batch that the store or the image refuses.
    pub fn complete(&mut self) -> Result<Group, Violation> {
        if std::mem::take(&mut self.failing) {
            self.failed.get_or_insert("write error");
        }
        if self.full {
            self.failed.get_or_insert("no space");
        }
        if let Some(why) = self.failed {
            return Ok(Group::Failed(why));
        }
        let mut completions = Vec::new();
        let mut group: Vec<Write> = self.waiting.drain(..self.in_flight).collect();
        self.reorder(&mut group);
        let synced = group.iter().any(|write| write.batch.sync);
        if synced {
            let earlier = self.unsynced.range(self.promised_unsynced..);
            earlier.chain(&group).for_each(|write| fold(&mut self.promised, write));
            self.promised_unsynced = self.unsynced.len() + group.len();
        }
        for mut write in group {
            self.keep_back_promises(&mut write.batch);
            self.store_unsynced(&write)?;
            completions.extend(write.answer);
            self.unsynced.push_back(write);
        }
        if synced && self.mutant != Some(Mutant::LogNotSynced) {
            self.sync()?;
        }
        Ok(Group::Done(completions, self.begin()))
    }

    fn sync(&mut self) -> Result<(), Violation> {
        self.syncs += 1;
        self.promised_unsynced = 0;
        self.store.sync_oldest(self.unsynced.len());
        while let Some(write) = self.unsynced.pop_front() {
            self.settle(&write)?;
        }
        Ok(())
    }

    fn settle(&mut self, write: &Write) -> Result<(), Violation> {
        let followed = self.durable.write(&write.batch, &write.digests);
        followed.map_err(|how| Violation::new("S9 log", format!("n{}: {how}", self.owner())))
    }

    fn store_unsynced(&self, write: &Write) -> Result<(), Violation> {
        let written = self.store.write_unsynced(std::slice::from_ref(&write.batch));
        written.map_err(|error| Violation::new("S9 log", format!("n{}: {error}", self.owner())))
    }

    fn owner(&self) -> String {
        let owner = self.store.durable_view(self.chain, |image| image.identity().node_id.to_string());
        owner.unwrap_or_default()
    }

    /// A broken rule: the promises of a batch that has nothing else come with the next batch.
    fn keep_back_promises(&mut self, batch: &mut WriteBatch) {
        if self.mutant != Some(Mutant::VoteNotSynced) {
            return;
        }
        if batch.hard_state.is_some() {
            self.late_promises = None;
        }
        if batch.sync && batch.entries.is_empty() && batch.install.is_none() {
            self.late_promises = batch.hard_state.take();
        }
    }

    /// A broken rule: the application's records of a batch that is not synced are written before those of the
    /// batch in front of it.
    fn reorder(&self, group: &mut [Write]) {
        if self.mutant != Some(Mutant::UnsyncedReordered) || group.iter().any(|write| write.batch.sync) {
            return;
        }
        if let [.., one, other] = group {
            std::mem::swap(&mut one.batch.application, &mut other.batch.application);
        }
    }

    /// How many batches a crash may take: those that are not synced, in flight or waiting.
    pub fn at_risk(&self) -> usize {
        self.unsynced.len() + self.waiting.len()
    }

    /// The machine loses its power or the process dies, and what is left of the unsynced is a matter of luck. The
    /// store can be opened again.
    ///
    /// # Errors
    /// A batch that the store or the image refuses.
    pub fn crash(&mut self) -> Result<Wreck, Violation> {
        let all = self.at_risk();
        let kept = match self.crash.below(4) {
            0 => 0,
            1 => all,
            _ => self.crash.below(all as u64 + 1) as usize,
        };
        self.crash_keeping(kept)
    }

    /// A crash that keeps the oldest `kept` of the batches that it may take.
    ///
    /// # Errors
    /// A batch that the store or the image refuses.
    pub fn crash_keeping(&mut self, kept: usize) -> Result<Wreck, Violation> {
        while let Some(mut write) = self.waiting.pop_front() {
            self.keep_back_promises(&mut write.batch);
            self.store_unsynced(&write)?;
            self.unsynced.push_back(write);
        }
        self.in_flight = 0;
        self.promised_unsynced = 0;
        self.late_promises = None;
        self.failed = None;
        let all = self.unsynced.len();
        let kept = kept.min(all);
        for write in self.unsynced.drain(..kept).collect::<Vec<_>>() {
            self.settle(&write)?;
        }
        self.unsynced.clear();
        self.store.crash(kept);
        Ok(Wreck { kept, lost: all - kept })
    }

    /// Whether the store shows after a crash what the image says; `height` is the application's. What is
    /// there is promised from now on.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_reopened(&mut self, height: u64) -> Result<(), Violation> {
        let refused = |detail: String| Violation::new("S9 log", detail);
        let state = self.store.open_chain(self.chain).map_err(|error| refused(error.to_string()))?;
        let snapshot = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.position.index);
        let mut found = LogImage::new(state.truncated, state.hard_state, state.applied.index, snapshot);
        let (from, to) = (state.truncated.index + 1, state.last.index + 1);
        let entries =
            self.store.entries(self.chain, from, to, u64::MAX).map_err(|error| refused(error.to_string()))?;
        entries.iter().for_each(|entry| found.push(EntryDigest::of(entry)));
        self.durable.settle();
        if found != self.durable {
            let (base, last) = (self.durable.base(), self.durable.last());
            return Err(refused(format!(
                "n{}: the store has {:?}..={} {:?}, durable is {base:?}..={last} {:?}",
                self.owner(),
                found.base(),
                found.last(),
                found.hard_state(),
                self.durable.hard_state(),
            )));
        }
        self.promised = Promises { hard_state: state.hard_state, applied: state.applied.index, height };
        Ok(())
    }
}

/// Adds a batch to what is promised.
fn fold(promised: &mut Promises, write: &Write) {
    let batch = &write.batch;
    if let Some(snapshot) = &batch.install {
        promised.applied = snapshot.position.index;
    }
    if let Some(hard_state) = batch.hard_state {
        promised.hard_state = hard_state;
    }
    if let Some(applied) = &batch.applied {
        promised.applied = applied.index;
    }
    if let Some(height) = write.height {
        promised.height = height;
    }
}
