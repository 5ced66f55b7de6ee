//! The store on the real RocksDB: its power cut behind every change of the disk, its disk failing at every one.
//!
//! What may be found afterwards is what the store in memory, which is the simulator's disk, allows.
//! `STORAGE_CUTS=10000` cuts the power so often in random scripts; `STORAGE_SEED=17` runs one script alone. A
//! failure prints its seed.

#[path = "../../tests/storage_support/histories.rs"]
mod histories;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use consensus_core::error::Class;
use consensus_core::ids::ChainId;
use consensus_core::storage::conformance::identity;
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{Error, LogWriter, WriteBatch};
use histories::{Contents, Random, contents, create, draw};
use storage_faults::{Failure, Fault, Loss, Operation, Watched, env};
use tempfile::TempDir;

/// Power cuts of one script.
const CUTS: u64 = 8;

/// In memory where there is such a place: what is synced is decided by the recording.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

/// Small, so that histories reach data files.
fn options() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 64 << 10, ..RocksOptions::default() }
}

fn chains() -> [ChainId; 2] {
    ["main", "side"].map(|name| identity(name).chain_id())
}

fn both<S: LogWriter + consensus_core::storage::LogReader>(store: &S) -> [Contents; 2] {
    chains().map(|chain| contents(store, chain))
}

/// Rounds that fit each other.
fn script(seed: u64, rounds: usize) -> Vec<Vec<WriteBatch>> {
    let (mut random, memory) = (Random(seed), MemoryStore::new());
    let chains = create(&memory);
    let mut next = || {
        let round = draw(&mut random, &memory, chains);
        memory.write(&round).expect("a good round");
        round
    };
    (0..rounds).map(|_| next()).collect()
}

/// Every state that the simulator's disk may show if the power goes when `done` rounds are answered and, with
/// `begun`, one more is on its way; the oldest first.
fn allowed(script: &[Vec<WriteBatch>], done: usize, begun: bool) -> Vec<[Contents; 2]> {
    let mut states = VecDeque::new();
    loop {
        let memory = MemoryStore::new();
        create(&memory);
        script[..done].iter().for_each(|round| memory.write(round).expect("a good round"));
        if begun && let Some(round) = script.get(done) {
            memory.write_unsynced(round).expect("a good round");
        }
        let unsynced = memory.unsynced_len();
        memory.crash(unsynced - states.len());
        states.push_front(both(&memory));
        if states.len() > unsynced {
            return states.into();
        }
    }
}

/// A script that was run to its end, and the disk's account of it.
struct Run {
    directory: TempDir,
    watched: Watched,
    /// Operations begun when so many rounds were answered.
    answered: Vec<usize>,
    /// The mark of the newest sync at those moments.
    marks: Vec<Vec<u8>>,
}

fn mark(directory: &Path) -> Vec<u8> {
    fs::read(directory.join("synced")).expect("the mark")
}

/// Runs a script; every `reopen`th round the store is closed and opened in front of it.
fn record(script: &[Vec<WriteBatch>], reopen: usize) -> Run {
    let (directory, watched) = (directory(), Watched::default());
    let environment = env(Box::new(watched.clone()));
    let open = || RocksStore::open_in(directory.path(), &options(), Some(&environment)).expect("opens");
    let mut store = open();
    create(&store);
    let (mut answered, mut marks) = (vec![watched.done()], vec![mark(directory.path())]);
    for (number, round) in script.iter().enumerate() {
        if number % reopen == reopen - 1 {
            drop(store);
            store = open();
            both(&store);
        }
        store.write(round).expect("a good round");
        answered.push(watched.done());
        marks.push(mark(directory.path()));
    }
    drop(store);
    Run { directory, watched, answered, marks }
}

impl Run {
    /// Rounds that were answered when so many operations were begun.
    fn done(&self, at: usize) -> usize {
        self.answered.iter().rposition(|answered| *answered <= at).expect("behind the creation")
    }

    /// The directory after a power cut, opened; `marked` is the number of rounds that the mark knows of.
    fn cut(&self, at: usize, loss: Loss, marked: usize) -> Result<(RocksStore, TempDir), Error> {
        let left = directory();
        let recording = self.watched.recording();
        recording.after_power_loss(at, loss, self.directory.path(), left.path()).expect("built");
        fs::write(left.path().join("synced"), &self.marks[marked]).expect("written");
        RocksStore::open(left.path(), &options()).map(|store| (store, left))
    }

    fn check(&self, script: &[Vec<WriteBatch>], at: usize, loss: Loss, marked: usize, words: &str) {
        let done = self.done(at);
        let allowed = allowed(script, done, at > self.answered[done]);
        match self.cut(at, loss, marked.min(done)) {
            Ok((store, _left)) => {
                let found = both(&store);
                assert!(allowed.contains(&found), "{words}: {loss:?} behind operation {at}, {done} answered");
            }
            // Pages out of order look like damage; the refusal names the file.
            Err(error) if matches!(loss, Loss::Zeros(_)) => {
                assert!(error.to_string().contains("/db"), "{words}: {error}");
            }
            Err(error) => panic!("{words}: {loss:?} behind operation {at}: {error}"),
        }
    }
}

#[test]
fn a_power_cut_behind_every_operation_leaves_a_state_that_the_simulators_disk_allows() {
    let script = script(1, 24);
    let run = record(&script, 9);
    for at in run.answered[0]..=run.watched.done() {
        let done = run.done(at);
        for loss in [Loss::All, Loss::Nothing, Loss::Some(at as u64), Loss::Zeros(at as u64)] {
            run.check(&script, at, loss, done, "seed 1");
        }
        run.check(&script, at, Loss::All, 0, "seed 1, with the first mark");
    }
}

#[test]
fn random_scripts_and_power_cuts_leave_what_the_simulators_disk_allows() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cuts = number("STORAGE_CUTS").unwrap_or(1000);
    let seeds = number("STORAGE_SEED").map_or(1..=cuts.div_ceil(CUTS), |seed| seed..=seed);
    for seed in seeds {
        let mut random = Random(seed);
        let script = script(seed, random.within(4, 14) as usize);
        let run = record(&script, 100);
        for _ in 0..CUTS {
            let at = random.within(run.answered[0] as u64, run.watched.done() as u64) as usize;
            let marked = random.within(0, script.len() as u64) as usize;
            run.check(&script, at, Loss::Some(random.next()), marked, &format!("seed {seed}"));
        }
    }
}

#[test]
fn a_power_cut_while_a_directory_is_begun_leaves_one_that_opens() {
    let run = record(&[], 100);
    for at in 0..=run.answered[0] {
        for loss in [Loss::All, Loss::Nothing, Loss::Some(at as u64)] {
            let left = directory();
            let recording = run.watched.recording();
            recording.after_power_loss(at, loss, run.directory.path(), left.path()).expect("built");
            let opened = RocksStore::open(left.path(), &options());
            let store = opened.unwrap_or_else(|error| panic!("{loss:?} behind operation {at}: {error}"));
            let found = store.chains().expect("readable").len();
            assert!(
                found == 2 || at < run.answered[0],
                "{found} of 2 chains, {loss:?} behind operation {at}"
            );
        }
    }
}

/// Runs a script on a disk whose `fuse`th operation behind the creation fails: which one that was, if there are so many.
fn fail_at(script: &[Vec<WriteBatch>], fuse: usize, failure: Failure) -> Option<Operation> {
    let words = format!("{failure:?} at operation {fuse}");
    let (directory, watched) = (directory(), Watched::default());
    let environment = env(Box::new(watched.clone()));
    let open = || RocksStore::open_in(directory.path(), &options(), Some(&environment));
    let store = open().expect("opens");
    create(&store);
    watched.arm(Fault::after(fuse, failure));
    let (mut done, mut store) = (0, Some(store));
    while let Some(round) = script.get(done) {
        if done == script.len() / 2 {
            drop(store.take());
            store = open().ok().inspect(|store| drop(both(store)));
        }
        let Some(store) = &store else { break };
        if let Err(error) = store.write(round) {
            assert_eq!(error.class(), Class::Halt, "{words}: {error}");
            let begun = log_writes(&watched);
            assert_eq!(store.write(round), Err(error.clone()), "{words}");
            assert_eq!(store.write(&[WriteBatch::new(chains()[0])]), Err(error), "{words}");
            assert_eq!(log_writes(&watched), begun, "{words}: nothing is tried again");
            break;
        }
        done += 1;
    }
    drop(store);
    let met = watched.disarm().pop();
    let allowed = allowed(script, done, true);
    let left = self::directory();
    let recording = watched.recording();
    recording.after_power_loss(recording.len(), Loss::All, directory.path(), left.path()).expect("built");
    fs::write(left.path().join("synced"), mark(directory.path())).expect("written");
    let reopened = RocksStore::open(directory.path(), &options());
    let found = both(&reopened.unwrap_or_else(|error| panic!("{words}, reopened: {error}")));
    let newest = &allowed[allowed.len().saturating_sub(2)..];
    assert!(newest.contains(&found), "{words}: neither the state before nor that after round {done}");
    let cut = RocksStore::open(left.path(), &options());
    let found = both(&cut.unwrap_or_else(|error| panic!("{words}, then a power cut: {error}")));
    assert!(allowed.contains(&found), "{words}: a power cut loses more than what is unsynced");
    met
}

/// Operations on write-ahead logs.
fn log_writes(watched: &Watched) -> usize {
    let log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
    let writes = |operation: &&Operation| match operation {
        Operation::Append(path, _) | Operation::Sync(path) => log(path),
        _ => false,
    };
    watched.recording().operations().iter().filter(writes).count()
}

/// What a life and a start do to the disk, flushes and compactions aside (`failing_files.rs` has these).
const KINDS: [&str; 16] = [
    "append write-ahead log",
    "sync write-ahead log",
    "create write-ahead log",
    "delete write-ahead log",
    "create data file",
    "append data file",
    "sync data file",
    "create manifest",
    "append manifest",
    "sync manifest",
    "delete manifest",
    "create temporary file",
    "append temporary file",
    "sync temporary file",
    "rename temporary file",
    "sync directory",
];

#[test]
fn a_disk_that_fails_or_is_full_at_any_operation_stops_the_store_and_loses_nothing() {
    let script = script(3, 10);
    for failure in [Failure::InputOutput, Failure::NoSpace] {
        let met: Vec<_> = (0..).map_while(|fuse| fail_at(&script, fuse, failure)).collect();
        let kinds: BTreeSet<String> = met.iter().map(Operation::kind).collect();
        for kind in KINDS {
            assert!(kinds.contains(kind), "no {kind:?} met {failure:?}, only {kinds:?}");
        }
    }
}
