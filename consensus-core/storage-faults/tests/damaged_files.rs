//! Every kind of file of a data directory, damaged, cut, emptied, removed or older than the rest: what opens then
//! is the state that was written, or a refusal that names the place.
//!
//! What cannot be noticed from within: a whole directory that is older, its mark of the newest sync with it. The
//! peers notice that (a leader that knows of more than the log has). The mark notices an older `db` beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use consensus_core::ids::{ChainId, NodeId};
use consensus_core::storage::conformance::{append, applied, identity, members};
use consensus_core::storage::raw::RawReader;
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{
    ApplicationWrite, Error, HardState, LogReader, LogWriter, WriteBatch, inspect,
};
use tempfile::TempDir;

fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn chain() -> ChainId {
    identity("main").chain_id()
}

fn open(path: &Path) -> Result<RocksStore, Error> {
    RocksStore::open(path, &RocksOptions::default())
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files of a directory, by their paths in it.
fn files(directory: &Path) -> Files {
    let mut found = Files::new();
    for room in ["", "db"] {
        for file in fs::read_dir(directory.join(room)).expect("a directory") {
            let path = file.expect("a file").path();
            if path.is_file() {
                let name = path.strip_prefix(directory).expect("below it").to_owned();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

fn put(files: &Files) -> TempDir {
    let directory = directory();
    fs::create_dir(directory.path().join("db")).expect("a directory");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("written");
    }
    directory
}

/// A killed process's directory: entries 1 to 40 in data files, 41 to 60 in the write-ahead log; and as it was
/// in front of the last write.
fn killed() -> [Files; 2] {
    let directory = directory();
    let store = open(directory.path()).expect("opens");
    store.create_chain(&identity("main"), &members()).expect("a new chain");
    store.write(&[append(chain(), 1, 40, 1)]).expect("written");
    store.write(&[applied(chain(), 20, 1)]).expect("written");
    drop(store);
    let store = open(directory.path()).expect("opens");
    store.open_chain(chain()).expect("sound");
    let mut more = append(chain(), 41, 50, 1);
    more.hard_state = None;
    store.write(&[more.clone()]).expect("written");
    let older = files(directory.path());
    more.entries = append(chain(), 51, 60, 1).entries;
    store.write(&[more]).expect("written");
    [older, files(directory.path())]
}

/// All that a server would find.
fn look(files: &Files) -> Result<String, String> {
    let directory = put(files);
    let words = |error: Error| error.to_string().replace(&directory.path().display().to_string(), "DIR");
    let store = open(directory.path()).map_err(words)?;
    let state = store.open_chain(chain()).map_err(words)?;
    let verification = inspect::verify_chain(&store, chain());
    if let Some(finding) = verification.findings.first() {
        return Err(format!("{}: {finding:?}", finding.key));
    }
    let entries = store.entries(chain(), 1, state.last.index + 1, u64::MAX).map_err(words)?;
    let application = store.application_records(chain(), &[], &[0xff], usize::MAX).map_err(words)?;
    Ok(format!("{state:?} {entries:?} {application:?}"))
}

/// A refusal says where: a file, a record of a chain, or the directory whose synced writes are gone.
fn names_a_place(error: &str) -> bool {
    ["DIR/", "DIR: ", "data files in DIR", "of chain", "chain main", "block of a data file"]
        .iter()
        .any(|place| error.contains(place))
}

/// Looks at the files after `damage` to each of those that count; how many were refused.
fn refused(what: &str, mut damage: impl FnMut(&Path, &[u8]) -> Vec<Option<Vec<u8>>>) -> usize {
    let [_, files] = killed();
    let sound = look(&files).expect("sound");
    let mut refused = 0;
    for (name, bytes) in &files {
        // RocksDB's text log is written, never read.
        if name.starts_with("db/LOG") || name.to_string_lossy().contains("LOG.old") {
            continue;
        }
        for (number, damaged) in damage(name, bytes).into_iter().enumerate() {
            let mut files = files.clone();
            match damaged {
                Some(damaged) => files.insert(name.clone(), damaged),
                None => files.remove(name),
            };
            let name = name.display();
            match look(&files) {
                Ok(found) => assert!(found == sound, "{name}, {what} {number}: another state, silently"),
                Err(error) => {
                    assert!(names_a_place(&error), "{name}, {what} {number}: {error}");
                    refused += 1;
                }
            }
        }
    }
    refused
}

#[test]
fn a_removed_or_emptied_file_is_refused_or_not_needed() {
    assert!(refused("removed", |_, _| vec![None]) >= 4);
    assert!(refused("emptied", |_, _| vec![Some(Vec::new())]) >= 4);
}

#[test]
fn a_file_cut_anywhere_is_refused_or_what_was_cut_is_not_needed() {
    let cut = |_: &Path, bytes: &[u8]| {
        let step = (bytes.len() / 12).max(1);
        (0..bytes.len()).step_by(step).map(|length| Some(bytes[..length].to_vec())).collect()
    };
    assert!(refused("cut", cut) > 20);
}

#[test]
fn a_flipped_bit_in_every_kind_of_file_is_refused_or_harmless() {
    let flip = |_: &Path, bytes: &[u8]| {
        let bits = bytes.len() * 8;
        let flipped = |bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Some(bytes)
        };
        (0..bits).step_by((bits / 24).max(1) | 1).map(flipped).collect()
    };
    assert!(refused("flipped", flip) > 20);
}

#[test]
fn an_older_engine_beside_the_mark_is_refused_and_an_older_mark_is_harmless() {
    let [older, files] = killed();
    let sound = look(&files).expect("sound");
    let mut rolled_back = older.clone();
    rolled_back.insert("synced".into(), files[Path::new("synced")].clone());
    let error = look(&rolled_back).expect_err("synced writes are gone");
    assert!(error.contains("synced writes were lost"), "{error}");
    let mut late = files;
    late.insert("synced".into(), older[Path::new("synced")].clone());
    assert_eq!(look(&late), Ok(sound.clone()));
    // The limit of the mark: nothing within a directory says that all of it is older.
    assert!(look(&older).is_ok_and(|found| found != sound));
}

/// Where the records of a manifest end (of one block; RocksDB's log format).
fn record_ends(manifest: &[u8]) -> Vec<usize> {
    assert!(manifest.len() < 32 << 10, "one block");
    let mut ends = vec![0];
    while let Some(header) = manifest.get(ends[ends.len() - 1]..).and_then(|rest| rest.first_chunk::<7>()) {
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        ends.push(ends[ends.len() - 1] + 7 + length);
    }
    ends
}

/// A directory whose every round is in a data file but for those of the last start: what the manifest forgets, no
/// write-ahead log has.
fn flushed(rounds: &[WriteBatch]) -> Files {
    let directory = directory();
    for round in rounds {
        let store = open(directory.path()).expect("opens");
        if store.chains().expect("readable").is_empty() {
            store.create_chain(&identity("main"), &members()).expect("a new chain");
        }
        store.open_chain(chain()).expect("sound");
        store.write(std::slice::from_ref(round)).expect("written");
    }
    files(directory.path())
}

fn record(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new(chain());
    batch.sync = true;
    batch.application.push(ApplicationWrite { key: key.into(), value: Some(b"value".to_vec().into()) });
    batch
}

#[test]
fn a_manifest_that_lost_synced_records_is_refused_and_never_shows_older_promises() {
    let mut vote = record("with the vote");
    vote.hard_state = Some(HardState { term: 7, vote: NodeId::new(2), commit: 0 });
    let mut missed = 0;
    // What the forgotten data files have: of all families, of one, of another.
    for forgotten in [vote.clone(), WriteBatch { application: Vec::new(), ..vote }, record("alone")] {
        let files = flushed(&[append(chain(), 1, 40, 1), forgotten, record("last")]);
        let sound = look(&files).expect("sound");
        let current = String::from_utf8(files[Path::new("db/CURRENT")].clone()).expect("a name");
        let manifest = Path::new("db").join(current.trim_end());
        let ends = record_ends(&files[&manifest]);
        let mut refused = 0;
        for end in &ends {
            let mut cut = files.clone();
            cut.get_mut(&manifest).expect("the manifest").truncate(*end);
            match look(&cut) {
                Ok(found) => assert_eq!(found, sound, "cut to {end} bytes of {ends:?}"),
                Err(error) => {
                    assert!(names_a_place(&error), "{end}: {error}");
                    missed += usize::from(error.contains("writes were lost"));
                    refused += 1;
                }
            }
        }
        assert!(refused > 5, "{refused} refused");
    }
    assert!(missed >= 6, "{missed} times the writes between were missed");
}

#[test]
fn writes_that_are_missing_are_told_to_who_looks_without_a_server_too() {
    let files = flushed(&[append(chain(), 1, 40, 1), record("one"), record("last")]);
    let current = String::from_utf8(files[Path::new("db/CURRENT")].clone()).expect("a name");
    let manifest = Path::new("db").join(current.trim_end());
    let told = |end: usize| {
        let mut cut = files.clone();
        cut.get_mut(&manifest).expect("the manifest").truncate(end);
        let directory = put(&cut);
        RocksStore::open_read_only(directory.path()).ok().and_then(|reader| reader.lost())
    };
    let ends = record_ends(&files[&manifest]);
    assert_eq!(told(ends[ends.len() - 1]), None);
    assert!(ends.iter().any(|end| told(*end).is_some_and(|words| words.contains("writes were lost"))));
}
