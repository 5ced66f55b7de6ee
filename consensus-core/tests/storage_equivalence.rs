//! Random histories, run on the store in memory and on the store on disk, leave the same.
//!
//! Every seed is one history. `STORAGE_SEED=17 cargo test --test storage_equivalence` runs that one alone;
//! a failure prints its seed and its step.

#![cfg(feature = "rocksdb")]

#[path = "storage_support/histories.rs"]
mod histories;

use std::fs;
use std::path::{Path, PathBuf};

use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{Error, LogWriter};
use histories::{Random, contents, create, draw};
use tempfile::TempDir;

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("STORAGE_SEED") {
        Ok(seed) => vec![seed.parse().expect("STORAGE_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

/// Small, so that histories reach data files.
fn small() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 64 << 10, ..RocksOptions::default() }
}

fn open_rocks(path: &Path, options: &RocksOptions) -> RocksStore {
    RocksStore::open(path, options).expect("the directory opens")
}

#[test]
fn random_histories_with_reopens_leave_the_same_in_memory_and_on_disk() {
    for seed in seeds(16) {
        let mut random = Random(seed);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let memory = MemoryStore::new();
        let mut rocks = open_rocks(directory.path(), &small());
        let chains = create(&memory);
        create(&rocks);
        for step in 0..120 {
            let round = draw(&mut random, &memory, chains);
            memory.write(&round).expect("a good round");
            if let Err(error) = rocks.write(&round) {
                panic!("seed {seed} step {step}: {error}\n{round:#?}");
            }
            let reopened = random.one_in(20);
            if reopened {
                drop(rocks);
                rocks = open_rocks(directory.path(), &small());
                memory.crash(usize::MAX);
            }
            if reopened || random.one_in(5) {
                for chain in chains {
                    let (expected, found) = (contents(&memory, chain), contents(&rocks, chain));
                    assert_eq!(expected, found, "seed {seed} step {step}");
                }
            }
        }
    }
}

#[test]
fn a_torn_write_ahead_log_leaves_a_prefix_with_all_synced_rounds_or_is_refused() {
    for seed in seeds(6) {
        let mut random = Random(seed);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let memory = MemoryStore::new();
        // All of it stays in one write-ahead log.
        let rocks = open_rocks(directory.path(), &RocksOptions::default());
        let chains = create(&memory);
        create(&rocks);
        let both = |memory: &MemoryStore| chains.map(|chain| contents(memory, chain));
        let mut prefixes = vec![both(&memory)];
        let mut synced = (0, wal(directory.path()).1);
        for step in 1..=40 {
            let mut round = draw(&mut random, &memory, chains);
            if step > 30 {
                // Something must be left that a crash may take.
                round.iter_mut().for_each(|batch| batch.sync = false);
            }
            memory.write(&round).expect("a good round");
            rocks.write(&round).expect("a good round");
            prefixes.push(both(&memory));
            if round.iter().any(|batch| batch.sync) {
                synced = (step, wal(directory.path()).1);
            }
        }
        // The directory as a killed process leaves it, with ever more of the log's end torn off.
        let (name, length) = wal(directory.path());
        let mut newest = prefixes.len() - 1;
        let mut left = length;
        while left >= synced.1 {
            let reopened = torn(directory.path(), &name, left).expect("what is synced is whole");
            let found = chains.map(|chain| contents(&reopened.0, chain));
            let prefix = prefixes.iter().rposition(|prefix| *prefix == found);
            let prefix = prefix.unwrap_or_else(|| panic!("seed {seed}: {left} bytes leave no prefix"));
            assert!(prefix <= newest, "seed {seed}: more torn off leaves no more");
            assert!(prefix >= synced.0, "seed {seed}: {left} bytes lose synced rounds");
            newest = prefix;
            left -= random.within(1, (length - synced.1) / 8);
        }
        for _ in 0..10 {
            let left = random.within(0, synced.1 - 1);
            let refused = torn(directory.path(), &name, left).map(|(store, _)| store);
            let error = refused.expect_err("synced rounds are gone");
            assert!(error.to_string().contains("synced writes were lost"), "seed {seed}: {error}");
        }
        assert!(newest < prefixes.len() - 1, "seed {seed}: something was lost");
    }
}

/// The store after all but the first `left` bytes of its write-ahead log are gone.
fn torn(directory: &Path, log: &Path, left: u64) -> Result<(RocksStore, TempDir), Error> {
    let torn = tempfile::tempdir().expect("a temporary directory");
    copy(directory, torn.path());
    let file = fs::OpenOptions::new().write(true).open(torn.path().join("db").join(log));
    file.expect("the log").set_len(left).expect("torn");
    RocksStore::open(torn.path(), &RocksOptions::default()).map(|store| (store, torn))
}

/// Name and length of the newest write-ahead log.
fn wal(directory: &Path) -> (PathBuf, u64) {
    let files = fs::read_dir(directory.join("db")).expect("a directory");
    let logs = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension() == Some("log".as_ref()));
    let newest = logs.max().expect("a write-ahead log");
    let length = fs::metadata(&newest).expect("a file").len();
    (newest.file_name().expect("a name").into(), length)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        let target = to.join(file.file_name());
        if file.file_type().expect("a type").is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}
