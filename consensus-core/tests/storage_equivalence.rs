//! Random histories, run on the store in memory and on the store on disk, leave the same.
//!
//! Every seed is one history. `STORAGE_SEED=17 cargo test --test storage_equivalence` runs that one alone;
//! a failure prints its seed and its step.

#![cfg(feature = "rocksdb")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use consensus_core::ids::{ChainId, NodeId};
use consensus_core::storage::conformance::{entry, identity, members};
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{
    ApplicationWrite, Applied, ChainState, Error, HardState, LogEntry, LogReader, LogWriter, PeerRecord,
    Position, Snapshot, WriteBatch,
};
use tempfile::TempDir;

/// SplitMix64: enough randomness for a test, from one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Within `from..=to`.
    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// Everything that can be read of a chain.
#[derive(Clone, PartialEq, Debug)]
struct Contents {
    state: ChainState,
    entries: Vec<LogEntry>,
    peers: Vec<PeerRecord>,
    application: Vec<(Vec<u8>, Bytes)>,
}

fn contents<S: LogReader + LogWriter>(store: &S, chain: ChainId) -> Contents {
    let state = store.open_chain(chain).expect("a sound chain");
    let (from, to) = (state.truncated.index + 1, state.last.index + 1);
    let mut entries = Vec::new();
    while from + (entries.len() as u64) < to {
        let next = from + entries.len() as u64;
        entries.extend(store.entries(chain, next, to, 500).expect("kept entries"));
    }
    Contents {
        entries,
        peers: store.peers(chain).expect("readable"),
        application: store.application_records(chain, &[], &[0xff], usize::MAX).expect("readable"),
        state,
    }
}

/// A batch that a replica in this state could write.
fn batch(random: &mut Random, state: &ChainState, chain: ChainId) -> WriteBatch {
    let mut batch = WriteBatch::new(chain);
    batch.sync = random.one_in(3);
    let mut promised = state.hard_state;
    let mut end = state.last;
    let mut applied = state.applied.index;
    let mut base = state.truncated.index;
    if random.one_in(4) {
        let vote = random.within(0, 3);
        promised =
            HardState { term: promised.term + random.within(1, 2), vote: NodeId::new(vote), ..promised };
    }
    if random.one_in(25) && promised.term > 0 {
        let index = applied.max(promised.commit) + random.within(1, 40);
        end = Position { index, term: random.within(end.term.max(1), promised.term.max(end.term)) };
        batch.install = Some(Snapshot {
            position: end,
            conf_state: members(),
            data: Bytes::from(format!("snapshot {index}")),
        });
        (applied, base) = (index, index);
        promised.commit = promised.commit.max(index);
    } else if random.one_in(5) && end.index > promised.commit.max(applied) {
        let from = random.within(promised.commit.max(applied) + 1, end.index);
        batch.truncate_from = Some(from);
        promised = HardState { term: promised.term.max(end.term) + 1, vote: None, ..promised };
        end = Position { index: from - 1, term: promised.term };
        batch.entries.push(entry(from, promised.term));
        end.index = from;
    }
    if promised.term > 0 && !random.one_in(3) {
        let count = if random.one_in(10) { 150 } else { random.within(1, 6) };
        let term = random.within(end.term.max(1), promised.term.max(1));
        for index in end.index + 1..=end.index + count {
            batch.entries.push(entry(index, term));
        }
        end = Position { index: end.index + count, term };
    }
    if random.one_in(2) {
        promised.commit = random.within(promised.commit, end.index);
    }
    batch.hard_state = (promised != state.hard_state).then_some(promised);
    if random.one_in(3) && promised.commit > applied {
        applied = random.within(applied, promised.commit);
        batch.applied = Some(Applied { index: applied, conf_state: members() });
    }
    let compactable = state.applied.index.min(state.last.index);
    if random.one_in(8) && batch.install.is_none() && compactable > base {
        let index = random.within(base, compactable);
        let term = state.terms.iter().rev().find(|start| start.index <= index).map(|start| start.term);
        batch.compact_to = term.map(|term| Position { index, term });
    }
    batch.installed = batch.install.is_none() && random.one_in(6);
    beside_the_log(random, &mut batch, applied);
    batch
}

fn beside_the_log(random: &mut Random, batch: &mut WriteBatch, applied: u64) {
    if random.one_in(10) && batch.install.is_none() {
        let position = Position { index: applied, term: 1 };
        batch.snapshot = Some(Snapshot { position, conf_state: members(), data: Bytes::from_static(b"own") });
    }
    if random.one_in(6) {
        batch.peers.push(PeerRecord {
            node_id: NodeId::new(random.within(1, 4)).expect("not 0"),
            address: format!("node:{}", random.within(1, 9)),
            store_incarnation: None,
            last_heard_ms: random.next(),
            matched: 0,
            next: 0,
            progress: "unknown".to_owned(),
            connected: random.one_in(2),
            recorded_at_ms: random.next(),
        });
    }
    for _ in 0..random.within(0, 3) {
        let key = format!("key {}", random.within(1, 20)).into_bytes();
        let value = (!random.one_in(4)).then(|| Bytes::from(format!("value {}", random.next())));
        batch.application.push(ApplicationWrite { key, value });
    }
}

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

/// One round of both chains, the second one only sometimes, after what `memory` has.
fn draw(random: &mut Random, memory: &MemoryStore, chains: [ChainId; 2]) -> Vec<WriteBatch> {
    let mut round = Vec::new();
    for chain in chains {
        if chain == chains[0] || random.one_in(3) {
            let state = memory.visible_view(chain, |image| image.state()).expect("created");
            round.push(batch(random, &state, chain));
        }
    }
    round
}

fn create(store: &dyn LogWriter) -> [ChainId; 2] {
    ["main", "side"].map(|name| {
        store.create_chain(&identity(name), &members()).expect("a new chain");
        identity(name).chain_id()
    })
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
