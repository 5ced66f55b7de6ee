//! A disk that fails or is full while a particular file is written: a further write-ahead log, a data file of a flush or
//! of a compaction, the manifest or its successor, a snapshot.
//!
//! Each test arms one kind of operation and writes on until it was met, so that none passes without its fault. Then the
//! store has stopped or goes on, but everything that it acknowledged is there, after a restart and after a power cut.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/storage_support/histories.rs"]
mod histories;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use consensus_core::error::Class;
use consensus_core::ids::ChainId;
use consensus_core::storage::conformance::{identity, members};
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{
    ApplicationWrite, Applied, EntryKind, HardState, LogEntry, LogWriter, Position, Snapshot, WriteBatch,
};
use histories::contents;
use storage_faults::{Actor, Failure, Fault, Loss, Operation, Watched, env};
use tempfile::TempDir;

/// A fault that is not met in so many rounds is never met: long before, the engine stops writes until it has flushed
/// and compacted.
const ROUNDS_MAX: u64 = 4000;

/// Rounds behind the fault: what it did to the engine comes to light.
const ROUNDS_AFTER: u64 = 30;

/// A snapshot is larger than all that is written otherwise.
const SNAPSHOT_BYTES: usize = 20 << 10;

fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

/// Small, so that all kinds of files are written soon.
fn options() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 64 << 10, manifest_bytes_max: 4 << 10, ..RocksOptions::default() }
}

fn chain() -> ChainId {
    identity("main").chain_id()
}

/// The round of an index: an entry, what is applied, records of the application, and now and then a snapshot.
fn round(index: u64) -> WriteBatch {
    let mut batch = WriteBatch::new(chain());
    (batch.sync, batch.number) = (true, index);
    // Different enough that compression leaves something.
    let text = |bytes: usize| -> Bytes {
        let mut state = index;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    };
    let (context, data) = (Bytes::new(), text(6 << 10));
    batch.entries.push(LogEntry { index, term: 1, kind: EntryKind::Normal, context, data });
    batch.hard_state = Some(HardState { term: 1, vote: None, commit: index });
    batch.applied = Some(Applied { index, conf_state: members() });
    let key = format!("key {}", index % 40).into_bytes();
    batch.application.push(ApplicationWrite { key, value: Some(text(5 << 10)) });
    if index.is_multiple_of(8) {
        let position = Position { index: index - 1, term: 1 };
        batch.snapshot = Some(Snapshot { position, conf_state: members(), data: text(SNAPSHOT_BYTES) });
        batch.compact_to = Some(position);
    }
    batch
}

/// Which operations a test is about.
type Choice = fn(&Operation, Actor) -> bool;

/// Arms a fault in a life and writes until it was met and a while longer; then everything acknowledged must be there.
fn meet(words: &str, fault: Fault) {
    println!("{words}");
    let (directory, watched, memory) = (directory(), Watched::default(), MemoryStore::new());
    let environment = env(Box::new(watched.clone()));
    let store = RocksStore::open_in(directory.path(), &options(), Some(&environment)).expect("opens");
    store.create_chain(&identity("main"), &members()).expect("a new chain");
    memory.create_chain(&identity("main"), &members()).expect("a new chain");
    watched.arm(fault);
    let (mut index, mut after, mut failed) = (1, 0, None);
    while after < ROUNDS_AFTER && failed.is_none() {
        assert!(index < ROUNDS_MAX, "{words}: not met in {ROUNDS_MAX} rounds");
        after += u64::from(!watched.met().is_empty());
        match store.write(&[round(index)]) {
            Ok(()) => memory.write(&[round(index)]).expect("a good round"),
            Err(error) => failed = Some(error),
        }
        index += 1;
    }
    if let Some(error) = &failed {
        assert!(!watched.met().is_empty(), "{words}: {error}, and nothing has failed");
        assert_eq!(error.class(), Class::Halt, "{words}: {error}");
        assert_eq!(store.write(&[round(index)]).as_ref(), Err(error), "{words}: nothing is tried again");
    }
    drop(store);
    watched.disarm();
    let acknowledged = contents(&memory, chain());
    // What failed may be there or not.
    let begun = failed.map(|_| {
        memory.write(&[round(index - 1)]).expect("a good round");
        contents(&memory, chain())
    });
    let left = self::directory();
    let recording = watched.recording();
    recording.after_power_loss(recording.len(), Loss::All, directory.path(), left.path()).expect("built");
    fs::copy(directory.path().join("synced"), left.path().join("synced")).expect("copied");
    for (what, path) in [("a restart", directory.path()), ("a power cut", left.path())] {
        let store =
            RocksStore::open(path, &options()).unwrap_or_else(|error| panic!("{words}, {what}: {error}"));
        let found = contents(&store, chain());
        assert!(
            found == acknowledged || Some(&found) == begun.as_ref(),
            "{words}: {what} loses or invents something"
        );
        store
            .write(&[round(found.state.last.index + 1)])
            .unwrap_or_else(|error| panic!("{words}, {what}: {error}"));
    }
}

/// Every way to fail, at the first such operation.
fn meet_each(words: &str, choice: Choice) {
    meet(&format!("{words}: input/output error"), Fault::once(Failure::InputOutput, choice));
    meet(&format!("{words}: no space once"), Fault::once(Failure::NoSpace, choice));
    meet(&format!("{words}: full from there on"), Fault::full_from(choice));
}

fn is(operation: &Operation, kind: &str) -> bool {
    operation.kind() == kind
}

#[test]
fn a_fault_where_a_further_write_ahead_log_begins_loses_nothing() {
    meet_each("its creation", |operation, _| is(operation, "create write-ahead log"));
    meet_each("the old one's removal", |operation, _| is(operation, "delete write-ahead log"));
    meet_each("its directory", |operation, actor| is(operation, "sync directory") && actor == Actor::Caller);
}

#[test]
fn a_fault_in_a_flush_loses_nothing() {
    meet_each("its file's creation", |operation, actor| {
        is(operation, "create data file") && actor == Actor::Flush
    });
    meet_each("its file", |operation, actor| is(operation, "append data file") && actor == Actor::Flush);
    meet_each("its file's sync", |operation, actor| is(operation, "sync data file") && actor == Actor::Flush);
    meet_each("its directory", |operation, actor| is(operation, "sync directory") && actor == Actor::Flush);
}

#[test]
fn a_fault_in_a_compaction_loses_nothing() {
    meet_each("its file's creation", |operation, actor| {
        is(operation, "create data file") && actor == Actor::Compaction
    });
    meet_each("its file", |operation, actor| is(operation, "append data file") && actor == Actor::Compaction);
    meet_each("its file's sync", |operation, actor| {
        is(operation, "sync data file") && actor == Actor::Compaction
    });
    meet_each("the manifest", |operation, actor| {
        is(operation, "append manifest") && actor == Actor::Compaction
    });
    meet_each("the manifest's sync", |operation, actor| {
        is(operation, "sync manifest") && actor == Actor::Compaction
    });
    meet_each("the removal of what it merged", |operation, _| is(operation, "delete data file"));
}

#[test]
fn a_fault_in_the_manifest_or_its_successor_loses_nothing() {
    meet_each("the manifest", |operation, actor| is(operation, "append manifest") && actor == Actor::Flush);
    meet_each("the manifest's sync", |operation, actor| {
        is(operation, "sync manifest") && actor == Actor::Flush
    });
    meet_each("its successor's creation", |operation, _| is(operation, "create manifest"));
    meet_each("the file that names it", |operation, _| is(operation, "append temporary file"));
    meet_each("its naming", |operation, _| is(operation, "rename temporary file"));
    meet_each("the old one's removal", |operation, _| is(operation, "delete manifest"));
}

#[test]
fn a_fault_in_a_snapshot_loses_nothing() {
    meet_each(
        "its record",
        |operation, _| matches!(operation, Operation::Append(_, bytes) if bytes.len() > SNAPSHOT_BYTES && is(operation, "append write-ahead log")),
    );
}
