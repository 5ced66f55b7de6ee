//! The simulator's disk is compared with the store on the real RocksDB: what a crash of the one leaves, the other must
//! allow.
//!
//! Both are given the same random scripts: batches that are synced or not, handed over in groups, and then a kill, a
//! power cut in the middle of anything (files cut at any byte, torn last records), a write that fails, a full disk, a
//! fault somewhere in the background, and another life of what is left. After every group both must answer alike and
//! show the same; behind every cut the engine must show one of the states that [`Disk`] may leave; where all is synced
//! there is one such state only.
//!
//! `STORAGE_SCRIPTS=20000` runs so many scripts, `STORAGE_SEED=17` that one alone. A failure prints its seed. That the
//! comparison can fail is shown with broken rules of the simulator's disk.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/storage_support/histories.rs"]
mod histories;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use consensus_core::error::Class;
use consensus_core::ids::ChainId;
use consensus_core::sim::Mutant;
use consensus_core::sim::disk::{Disk, Group, Write};
use consensus_core::sim::image::{EntryDigest, LogImage};
use consensus_core::sim::swarm::Latencies;
use consensus_core::storage::conformance::{identity, members};
use consensus_core::storage::memory::{DiskImage, MemoryStore};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{ApplicationWrite, Error, LogWriter, Snapshot, WriteBatch};
use histories::{Contents, Random, batch, contents};
use storage_faults::{Actor, Failure, Fault, Loss, Operation, Recording, Watched, env};
use tempfile::TempDir;

/// Power cuts of one life.
const CUTS: u64 = 2;

/// A record of the application that fills a good part of a write buffer.
const LARGE_BYTES: usize = 24 << 10;

type Outcome<T> = Result<T, String>;

/// In memory where there is such a place: what is synced is decided by the recording.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

/// Small, so that scripts reach data files and more than one write-ahead log.
fn options() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 64 << 10, ..RocksOptions::default() }
}

fn chain() -> ChainId {
    identity("main").chain_id()
}

fn mark(directory: &Path) -> Vec<u8> {
    fs::read(directory.join("synced")).expect("the mark")
}

/// What is done to the simulator's disk.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a script has few steps")]
enum Step {
    Submit(WriteBatch),
    Complete,
    Fail,
    Fill,
}

/// The simulator's disk, and what it takes to have it again.
struct Model {
    broken: Option<Mutant>,
    /// As the life began.
    base: DiskImage,
    image: LogImage,
    disk: Disk,
}

impl Model {
    fn begin(broken: Option<Mutant>) -> Self {
        let store = MemoryStore::new();
        store.create_chain(&identity("main"), &members()).expect("a new chain");
        let (base, image) = (store.disk_image(), LogImage::default());
        let disk = disk(&base, &image, broken);
        Self { broken, base, image, disk }
    }

    /// The life that begins with what a crash left.
    fn after(crashed: &Disk, broken: Option<Mutant>) -> Self {
        let (base, image) = (crashed.store().disk_image(), crashed.durable().clone());
        let disk = disk(&base, &image, broken);
        Self { broken, base, image, disk }
    }

    fn step(&mut self, step: Step) -> Outcome<Option<Group>> {
        play(&mut self.disk, step)
    }

    /// Every disk that a crash behind these steps of the life may leave: the one that keeps least first.
    fn crashed(&self, steps: &[Step]) -> Outcome<Vec<Disk>> {
        let mut crashed = Vec::new();
        loop {
            let mut disk = disk(&self.base, &self.image, self.broken);
            for step in steps {
                play(&mut disk, step.clone())?;
            }
            let at_risk = disk.at_risk();
            disk.crash_keeping(crashed.len()).map_err(|violation| violation.to_string())?;
            disk.check_reopened(0).map_err(|violation| violation.to_string())?;
            crashed.push(disk);
            if crashed.len() > at_risk {
                return Ok(crashed);
            }
        }
    }
}

fn disk(base: &DiskImage, image: &LogImage, broken: Option<Mutant>) -> Disk {
    let store = Arc::new(MemoryStore::new());
    store.restore(base.clone());
    store.open_chain(chain()).expect("a sound chain");
    Disk::new(1, 1, chain(), store, image.clone(), &Latencies::default(), broken)
}

fn play(disk: &mut Disk, step: Step) -> Outcome<Option<Group>> {
    match step {
        Step::Submit(batch) => {
            let digests = EntryDigest::of_batch(&batch);
            disk.submit(Write::of_replica(batch, digests, true));
        }
        Step::Complete => return disk.complete().map(Some).map_err(|violation| violation.to_string()),
        Step::Fail => disk.fail(),
        Step::Fill => disk.fill(true),
    }
    Ok(None)
}

/// What was seen in how many scripts: a comparison that never came there says nothing.
#[derive(Default, Debug)]
struct Tally {
    cuts: u64,
    kept_all: u64,
    kept_some: u64,
    kept_none: u64,
    nothing_at_risk: u64,
    cut_at_open: u64,
    in_flight: u64,
    refused_zeros: u64,
    failed_writes: u64,
    failed_elsewhere: u64,
    full_at_open: u64,
    refused_at_open: u64,
    logs_rolled: u64,
    data_files: u64,
}

impl Tally {
    /// How often there was what a comparison may miss.
    fn rare(&self) -> [(&'static str, u64); 12] {
        [
            ("all of the unsynced kept", self.kept_all),
            ("some of the unsynced kept", self.kept_some),
            ("none of the unsynced kept", self.kept_none),
            ("nothing unsynced", self.nothing_at_risk),
            ("cut while opening", self.cut_at_open),
            ("cut with a group in flight", self.in_flight),
            ("a failed write", self.failed_writes),
            ("a write refused for what failed elsewhere", self.failed_elsewhere),
            ("full while opening", self.full_at_open),
            ("refused while opening", self.refused_at_open),
            ("a second write-ahead log", self.logs_rolled),
            ("a data file", self.data_files),
        ]
    }
}

/// A group's write as the recording has it.
struct Written {
    /// Steps in front of its completion.
    steps: usize,
    /// Operations when it began and when it was answered.
    begun: usize,
    answered: usize,
}

/// One life of both, from an open to a crash.
struct Life<'a> {
    random: &'a mut Random,
    tally: &'a mut Tally,
    begin: Begin,
    steps: Vec<Step>,
    /// What is handed over and not written: the group in flight, and what waits behind it.
    flying: Vec<WriteBatch>,
    waiting: VecDeque<WriteBatch>,
    /// All that was handed over, to draw the next batch from.
    drawn: MemoryStore,
    number: u64,
    /// Operations in front of the first group.
    opened: usize,
    written: Vec<Written>,
    /// The mark of the newest sync, by operations.
    marks: Vec<(usize, Vec<u8>)>,
    halted: bool,
}

/// What a life begins with.
struct Begin {
    model: Model,
    directory: TempDir,
    watched: Watched,
    store: RocksStore,
    /// Operations in front of the open: behind them the power may be cut.
    from: usize,
    /// An operation of the open failed; more may come of it.
    faulted: bool,
}

impl Begin {
    /// A new directory with a chain.
    fn anew(broken: Option<Mutant>) -> Outcome<Self> {
        let (directory, watched) = (directory(), Watched::default());
        let environment = env(Box::new(watched.clone()));
        let opened = RocksStore::open_in(directory.path(), &options(), Some(&environment));
        let store = opened.map_err(|error| error.to_string())?;
        store.create_chain(&identity("main"), &members()).map_err(|error| error.to_string())?;
        let from = watched.done();
        Ok(Self { model: Model::begin(broken), directory, watched, store, from, faulted: false })
    }
}

/// Opens on a disk that is full, that fails somewhere, or mostly on one that is well; whether an operation failed.
fn open(
    directory: &Path,
    watched: &Watched,
    random: &mut Random,
    tally: &mut Tally,
) -> Outcome<(RocksStore, bool)> {
    let environment = env(Box::new(watched.clone()));
    let open = || RocksStore::open_in(directory, &options(), Some(&environment));
    match random.within(0, 11) {
        0 => {
            tally.full_at_open += 1;
            watched.arm(Fault::full_from(|_, _| true));
        }
        1 => watched.arm(Fault::after(random.within(0, 30) as usize, Failure::InputOutput)),
        _ => {}
    }
    let opened = open();
    let met = watched.disarm();
    match opened {
        Ok(store) => Ok((store, !met.is_empty())),
        Err(error) if met.is_empty() => Err(format!("a sound disk does not open: {error}")),
        Err(error @ Error::Engine { .. }) if error.class() == Class::Halt => {
            tally.refused_at_open += 1;
            let again = open().map_err(|error| format!("the disk is well again and does not open: {error}"));
            again.map(|store| (store, false))
        }
        Err(error) => Err(format!("a disk that is full or fails is called something else: {error}")),
    }
}

impl<'a> Life<'a> {
    fn begin(random: &'a mut Random, tally: &'a mut Tally, begin: Begin) -> Outcome<Self> {
        let drawn = MemoryStore::new();
        drawn.restore(begin.model.base.clone());
        begin.store.open_chain(chain()).map_err(|error| error.to_string())?;
        let opened = begin.watched.done();
        let marks = vec![(opened, mark(begin.directory.path()))];
        Ok(Self {
            random,
            tally,
            begin,
            steps: Vec::new(),
            flying: Vec::new(),
            waiting: VecDeque::new(),
            drawn,
            number: 0,
            opened,
            written: Vec::new(),
            marks,
            halted: false,
        })
    }

    /// The next batch that a replica could write.
    fn draw(&mut self) -> WriteBatch {
        let state = self.drawn.visible_view(chain(), |image| image.state()).expect("created");
        let mut batch = batch(self.random, &state, chain());
        self.number += 1;
        batch.number = self.number;
        // The simulator's disk insists that a snapshot stands for what is compacted.
        if let Some(position) = batch.compact_to {
            batch.snapshot = Some(Snapshot { position, conf_state: members(), data: bytes::Bytes::new() });
        }
        if self.random.one_in(6) {
            let value = vec![self.random.next() as u8; LARGE_BYTES];
            batch.application.push(ApplicationWrite { key: b"large".to_vec(), value: Some(value.into()) });
        }
        self.drawn.write_unsynced(std::slice::from_ref(&batch)).expect("a good batch");
        batch
    }

    fn submit(&mut self) -> Outcome<()> {
        let batch = self.draw();
        self.steps.push(Step::Submit(batch.clone()));
        self.begin.model.step(Step::Submit(batch.clone()))?;
        if self.flying.is_empty() {
            self.flying.push(batch)
        } else {
            self.waiting.push_back(batch)
        }
        Ok(())
    }

    /// Writes the group in flight on both.
    fn complete(&mut self) -> Outcome<()> {
        if self.flying.is_empty() {
            return Ok(());
        }
        let group = std::mem::take(&mut self.flying);
        let must_fail = self.halted || self.strike(&group)?;
        let (steps, begun) = (self.steps.len(), self.begin.watched.done());
        let answer = self.begin.store.write(&group);
        if answer.is_err() && !must_fail {
            // What failed in the background comes to light here.
            if self.begin.watched.met().is_empty() && !self.begin.faulted {
                return Err(format!("the engine refuses a write of its own accord: {answer:?}"));
            }
            self.tally.failed_elsewhere += 1;
            self.step(Step::Fail)?;
        }
        self.steps.push(Step::Complete);
        let told = self.begin.model.step(Step::Complete)?;
        let wanted = group.iter().filter(|batch| batch.sync).count();
        match (answer, told) {
            (Ok(()), Some(Group::Done(completions, _))) if completions.len() == wanted => {
                let answered = self.begin.watched.done();
                self.written.push(Written { steps, begun, answered });
                self.marks.push((answered, mark(self.begin.directory.path())));
                self.flying.extend(self.waiting.drain(..));
                self.compare_visible(wanted > 0)
            }
            (Err(error), Some(Group::Failed(_))) if error.class() == Class::Halt => {
                self.written.push(Written { steps, begun, answered: usize::MAX });
                self.halted = true;
                self.flying = group;
                Ok(())
            }
            (answer, told) => Err(format!("the engine answers {answer:?}, the simulator's disk {told:?}")),
        }
    }

    fn step(&mut self, step: Step) -> Outcome<()> {
        self.steps.push(step.clone());
        self.begin.model.step(step).map(|_| ())
    }

    /// Sometimes the write of this group fails: on the log, where it cannot be missed, and in the thread that writes
    /// (the one in the background syncs a log that was closed, about which this write need not know).
    fn strike(&mut self, group: &[WriteBatch]) -> Outcome<bool> {
        let bare = |batch: &WriteBatch| {
            let nothing = WriteBatch::new(batch.chain);
            *batch == WriteBatch { number: batch.number, sync: batch.sync, ..nothing }
        };
        if !self.random.one_in(25) || group.iter().all(bare) || !self.begin.watched.met().is_empty() {
            return Ok(false);
        }
        let of_log = |operation: &Operation| {
            let path = match operation {
                Operation::Append(path, _) | Operation::Sync(path) => path,
                _ => return false,
            };
            path.extension().is_some_and(|extension| extension == "log")
        };
        self.tally.failed_writes += 1;
        if self.random.one_in(2) {
            self.begin.watched.arm(Fault::once(Failure::InputOutput, move |operation, actor| {
                actor == Actor::Caller && of_log(operation)
            }));
            self.step(Step::Fail)?;
        } else {
            self.begin.watched.arm(Fault::full_from(move |operation, _| {
                of_log(operation) && matches!(operation, Operation::Append(..))
            }));
            self.step(Step::Fill)?;
        }
        Ok(true)
    }

    /// Both show the same, and where all is synced the simulator's disk has nothing left to lose.
    fn compare_visible(&mut self, synced: bool) -> Outcome<()> {
        if synced && self.flying.is_empty() && self.begin.model.disk.at_risk() > 0 {
            return Err(format!("{} synced batches may be lost", self.begin.model.disk.at_risk()));
        }
        if self.random.one_in(3) {
            let (found, expected) =
                (contents(&self.begin.store, chain()), contents(&**self.begin.model.disk.store(), chain()));
            if found != expected {
                return Err(format!("{found:#?}\nis visible, the simulator's disk shows\n{expected:#?}"));
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Outcome<()> {
        if self.random.one_in(5) {
            let skipped = self.random.within(0, 80) as usize;
            let failure = if self.random.one_in(2) { Failure::InputOutput } else { Failure::NoSpace };
            self.begin.watched.arm(Fault::after(skipped, failure));
        }
        for _ in 0..self.random.within(2, 10) {
            for _ in 0..self.random.within(1, 3) {
                if !self.halted {
                    self.submit()?;
                }
            }
            for _ in 0..self.random.within(0, 3) {
                self.complete()?;
            }
        }
        Ok(())
    }

    /// The steps of the simulator's disk when so many operations were begun, and whether a group was in flight.
    fn steps_at(&self, at: usize) -> (&[Step], bool) {
        let Some(next) = self.written.iter().position(|written| written.answered > at) else {
            return (&self.steps, false);
        };
        let written = &self.written[next];
        if written.begun < at {
            return (&self.steps[..written.steps], true);
        }
        let steps = next.checked_sub(1).map_or(0, |before| self.written[before].steps + 1);
        (&self.steps[..steps], false)
    }

    /// A moment and what of the unsynced survives it.
    fn moment(&mut self) -> (usize, Loss) {
        let all = self.begin.watched.done();
        let least = if self.random.one_in(4) { self.begin.from } else { self.opened };
        let at = self.random.within(least as u64, all as u64) as usize;
        match self.random.within(0, 9) {
            0 => (all, Loss::Nothing),
            1 => (all, Loss::All),
            2 => (at, Loss::All),
            3 => (at, Loss::Zeros(self.random.next())),
            _ => (at, Loss::Some(self.random.next())),
        }
    }

    /// One crash: what the next life begins with, unless what is left is refused as it may be.
    fn crash(&mut self) -> Outcome<Option<Begin>> {
        let (at, loss) = self.moment();
        let recording = self.begin.watched.recording();
        let (left, source) = (directory(), self.begin.directory.path());
        let io = |error: std::io::Error| error.to_string();
        recording.after_power_loss(at, loss, source, left.path()).map_err(io)?;
        let marks: Vec<_> = self.marks.iter().filter(|(done, _)| *done <= at.max(self.opened)).collect();
        let oldest = if loss == Loss::Nothing { marks.len() as u64 - 1 } else { 0 };
        let marked = self.random.within(oldest, marks.len() as u64 - 1) as usize;
        fs::write(left.path().join("synced"), &marks[marked].1).map_err(io)?;
        let (steps, in_flight) = self.steps_at(at);
        let crashed = self.begin.model.crashed(if at < self.opened { &[] } else { steps })?;
        let made = |end: &str| {
            let created = |operation: &&Operation| matches!(operation, Operation::Create(path) if path.extension().is_some_and(|e| e == end));
            recording.operations()[self.opened..].iter().filter(created).count() as u64
        };
        self.tally.cuts += 1;
        self.tally.logs_rolled += made("log");
        self.tally.data_files += made("sst");
        self.tally.cut_at_open += u64::from(at < self.opened);
        self.tally.in_flight += u64::from(in_flight);
        let watched = Watched::beginning_with(Recording::of(left.path()).map_err(io)?);
        let from = watched.done();
        let (store, faulted) = match open(left.path(), &watched, self.random, self.tally) {
            Ok(opened) => opened,
            // Pages out of order look like damage; the refusal names the file.
            Err(error) if matches!(loss, Loss::Zeros(_)) && error.contains("/db") => {
                self.tally.refused_zeros += 1;
                return Ok(None);
            }
            Err(error) => return Err(format!("{loss:?} behind operation {at}: {error}")),
        };
        let disk = self.judge(crashed, &store, &format!("{loss:?} behind operation {at}"))?;
        let model = Model::after(&disk, self.begin.model.broken);
        Ok(Some(Begin { model, directory: left, watched, store, from, faulted }))
    }

    /// Which of the disks the store shows.
    fn judge(&mut self, crashed: Vec<Disk>, store: &RocksStore, words: &str) -> Outcome<Disk> {
        let found: Contents = contents(store, chain());
        let most = crashed.len() - 1;
        let kept = crashed.iter().rposition(|disk| contents(&**disk.store(), chain()) == found);
        let Some(kept) = kept else {
            return Err(format!("{words}: none of {} allowed states: {found:#?}", crashed.len()));
        };
        let tally = match (kept, most) {
            (_, 0) => &mut self.tally.nothing_at_risk,
            (0, _) => &mut self.tally.kept_none,
            (kept, most) if kept == most => &mut self.tally.kept_all,
            _ => &mut self.tally.kept_some,
        };
        *tally += 1;
        Ok(crashed.into_iter().nth(kept).expect("it was found there"))
    }
}

/// Runs the script of a seed to its end; what parts the two.
fn compare(seed: u64, broken: Option<Mutant>, tally: &mut Tally) -> Outcome<()> {
    let mut random = Random(seed);
    let lives = random.within(1, 2);
    let mut next = Some(Begin::anew(broken)?);
    for _ in 0..lives {
        let Some(begin) = next.take() else { break };
        let mut life = Life::begin(&mut random, tally, begin)?;
        life.run()?;
        for _ in 0..CUTS {
            next = life.crash()?.or(next);
        }
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn the_engine_leaves_nothing_that_the_simulators_disk_does_not_allow() {
    let scripts = number("STORAGE_SCRIPTS").unwrap_or(600);
    let seeds = number("STORAGE_SEED").map_or(1..=scripts, |seed| seed..=seed);
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        if let Err(words) = compare(seed, None, &mut tally) {
            panic!("STORAGE_SEED={seed}: {words}");
        }
    }
    println!("{tally:?}");
    if seeds.count() >= 600 {
        for (what, times) in tally.rare() {
            assert!(times >= 5, "{what}: {times} times only, the comparison says little");
        }
    }
}

#[test]
fn each_broken_rule_of_the_simulators_disk_is_found() {
    for mutant in [Mutant::LogNotSynced, Mutant::VoteNotSynced, Mutant::UnsyncedReordered] {
        let mut found = (1..=300).filter_map(|seed| {
            let told = compare(seed, Some(mutant), &mut Tally::default()).err()?;
            Some((seed, told.chars().take(200).collect::<String>()))
        });
        let (seed, words) = found.next().unwrap_or_else(|| panic!("{} escaped", mutant.name()));
        println!("{}: seed {seed}: {words}", mutant.name());
    }
}
