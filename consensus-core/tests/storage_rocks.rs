//! What only the store on disk can get wrong: directories, locks, damage and failing writes.

#![cfg(feature = "rocksdb")]

mod storage_support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus_core::error::Class;
use consensus_core::ids::NodeId;
use consensus_core::storage::conformance::{append, entry, identity, members};
use consensus_core::storage::keys::{self, FORMAT_KEY, Meta};
use consensus_core::storage::records::encode_format;
use consensus_core::storage::rocks::{RocksOptions, RocksStore, free_bytes};
use consensus_core::storage::{
    Error, FORMAT_VERSION, Identity, LogReader, LogWriter, Position, WriteBatch, inspect, open_or_create,
};
use storage_support::{chain, copy, edit, fill, fill_store, flip, open, try_open};
use tempfile::tempdir;

fn damaged_key(error: Error) -> String {
    match error {
        Error::Damaged { key, .. } => key,
        other => panic!("not damage: {other}"),
    }
}

#[test]
fn a_flipped_bit_in_an_entry_is_found_at_open_and_at_reading() {
    for byte in [0, 3, 5, 6, 20, 30] {
        let directory = tempdir().expect("a temporary directory");
        fill(directory.path(), 20);
        flip(directory.path(), "log", &keys::log(chain(), 7), byte);
        let store = open(directory.path());
        let error = store.open_chain(chain()).expect_err("damaged");
        assert_eq!(error.class(), Class::Halt);
        assert_eq!(damaged_key(error), "log 7 of chain main");
        let error = store.entries(chain(), 1, 21, u64::MAX).expect_err("damaged");
        assert_eq!(damaged_key(error), "log 7 of chain main");
        assert_eq!(store.entries(chain(), 1, 7, u64::MAX).expect("sound in front of it").len(), 6);
    }
}

#[test]
fn a_flipped_bit_in_any_required_record_is_found_at_open() {
    let records = [
        (Meta::HardState, "hard state of chain main"),
        (Meta::Applied, "applied of chain main"),
        (Meta::Truncated, "truncated of chain main"),
        (Meta::HighWater, "high-water mark of chain main"),
        (Meta::TermStart(11), "term start 11 of chain main"),
    ];
    for (record, name) in records {
        let directory = tempdir().expect("a temporary directory");
        fill(directory.path(), 20);
        flip(directory.path(), "meta", &keys::meta(chain(), record), 4);
        let error = open(directory.path()).open_chain(chain()).expect_err("damaged");
        assert_eq!(damaged_key(error), name);
    }
}

#[test]
fn a_missing_entry_or_record_is_named() {
    let delete = |family: &str, key: &[u8]| -> String {
        let directory = tempdir().expect("a temporary directory");
        fill(directory.path(), 20);
        edit(directory.path(), |db| {
            db.delete_cf(db.cf_handle(family).expect("a family"), key).expect("deleted");
        });
        open(directory.path()).open_chain(chain()).expect_err("incomplete").to_string()
    };
    let log = |index| delete("log", &keys::log(chain(), index));
    assert_eq!(log(13), "inconsistent store: chain main: log 13 is missing");
    assert_eq!(log(1), "inconsistent store: chain main: the log begins at 2, must begin at 1");
    assert!(log(20).contains("ends at 19 (term 2), the high-water mark says 20 (term 2): entries were lost"));
    let hard_state = delete("meta", &keys::meta(chain(), Meta::HardState));
    assert_eq!(hard_state, "damaged record hard state of chain main: it is missing");
    let start = delete("meta", &keys::meta(chain(), Meta::TermStart(11)));
    assert!(
        start.contains("the newest term start is term 1 at 1, but the last entry is 20 (term 2)"),
        "{start}"
    );
}

#[test]
fn a_directory_in_use_is_refused_with_the_owners_pid() {
    let directory = tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let error = try_open(directory.path()).expect_err("in use");
    let (path, pid) = (directory.path().display(), std::process::id());
    assert_eq!(error.to_string(), format!("data directory {path} is in use by pid {pid}"));
    assert_eq!(error.class(), Class::Reject);
    drop(store);
    open(directory.path());
}

#[test]
fn a_new_directory_is_for_its_owner_alone() {
    let parent = tempdir().expect("a temporary directory");
    let path = parent.path().join("deep/data");
    let store = open(&path);
    let mode = fs::metadata(&path).expect("created").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(store.path(), path);
    assert!(store.free_bytes().expect("known") > 0);
    assert!(free_bytes(Path::new("/does/not/exist")).is_err());
}

#[test]
fn a_report_of_the_store_counts_its_files_and_the_room_that_is_left() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    let store = open(directory.path());
    let report = store.report().expect("readable");
    let sizes = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let files =
            fs::read_dir(directory.path().join("db")).expect("there").map(|file| file.expect("readable"));
        files
            .filter(|file| wanted(&file.file_name().to_string_lossy()))
            .map(|file| file.metadata().expect("there").len())
            .sum()
    };
    assert_eq!(report.file_bytes, sizes(&|_| true));
    assert_eq!(report.wal_bytes, sizes(&|name| name.ends_with(".log")));
    assert!(report.file_bytes > report.wal_bytes, "{report:?}");
    assert!((1..=report.capacity_bytes).contains(&report.free_bytes), "{report:?}");
    assert!(report.level0_files > 0, "opening has brought the log into data files: {report:?}");
    assert_eq!((report.background_errors, report.stalled), (0, Duration::ZERO), "{report:?}");
}

#[test]
fn a_newer_format_is_refused_by_everyone() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    edit(directory.path(), |db| {
        let meta = db.cf_handle("meta").expect("a family");
        db.put_cf(meta, FORMAT_KEY, encode_format(FORMAT_VERSION + 1)).expect("written");
    });
    let newer = Error::NewerFormat { found: FORMAT_VERSION + 1 };
    assert_eq!(try_open(directory.path()).expect_err("newer"), newer);
    assert_eq!(RocksStore::open_read_only(directory.path()).expect_err("newer"), newer);
    assert_eq!(newer.to_string(), "data directory has format 2, this program reads up to 1");
}

#[test]
fn a_directory_without_a_store_is_named_by_a_reader_and_left_alone() {
    let directory = tempdir().expect("a temporary directory");
    for path in [directory.path().to_owned(), directory.path().join("missing"), PathBuf::from("/dev/null")] {
        let error = RocksStore::open_read_only(&path).expect_err("nothing there");
        assert!(matches!(error, Error::NotADataDirectory { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0, "nothing was created");
    try_open(Path::new("/dev/null/data")).expect_err("no directory can be there");
}

#[test]
fn somebody_elses_database_is_not_taken_over() {
    let directory = tempdir().expect("a temporary directory");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = rocksdb::DB::open_cf(&options, directory.path().join("db"), ["meta"]).expect("created");
    db.put_cf(db.cf_handle("meta").expect("a family"), b"theirs", b"1").expect("written");
    drop(db);
    let error = try_open(directory.path()).expect_err("not ours");
    assert!(matches!(error, Error::NotADataDirectory { .. }), "{error}");
}

#[test]
fn data_files_without_their_current_file_are_not_begun_anew() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    fs::remove_file(directory.path().join("db/CURRENT")).expect("removed");
    let error = try_open(directory.path()).expect_err("damaged");
    assert!(error.to_string().contains("db/CURRENT is missing"), "{error}");
    fs::write(directory.path().join("db/CURRENT"), b"").expect("emptied");
    let error = try_open(directory.path()).expect_err("damaged");
    assert!(error.to_string().contains("db/CURRENT: it says \"\", must name a manifest"), "{error}");
}

#[test]
fn a_log_that_ends_before_what_was_synced_is_refused_and_reported() {
    let directory = tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill_store(&store, 4);
    let killed = tempdir().expect("a temporary directory");
    copy(directory.path(), killed.path());
    let log = killed.path().join(format!("db/{:06}.log", newest_log(killed.path())));
    let length = fs::metadata(&log).expect("a file").len();
    fs::OpenOptions::new().write(true).open(&log).expect("a file").set_len(length - 1).expect("torn");
    let verification =
        inspect::verify_chain(&RocksStore::open_read_only(killed.path()).expect("readable"), chain());
    assert_eq!(verification.findings.len(), 1, "{:?}", verification.findings);
    assert_eq!(verification.findings[0].key, "write-ahead log");
    let error = try_open(killed.path()).expect_err("the last synced round is gone");
    assert!(error.to_string().contains("synced writes were lost"), "{error}");
    assert_eq!(error.class(), Class::Halt);
}

#[test]
fn a_record_type_that_would_keep_the_engine_reading_for_ever_is_refused() {
    let directory = tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill_store(&store, 4);
    for file in ["log", "manifest"] {
        let killed = tempdir().expect("a temporary directory");
        copy(directory.path(), killed.path());
        let current = fs::read_to_string(killed.path().join("db/CURRENT")).expect("readable");
        let path = match file {
            "log" => killed.path().join(format!("db/{:06}.log", newest_log(killed.path()))),
            _ => killed.path().join("db").join(current.trim_end()),
        };
        let mut bytes = fs::read(&path).expect("readable");
        let second = 7 + usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        assert_eq!(bytes[second + 6], 1, "a whole record");
        bytes[second + 6] ^= 4;
        fs::write(&path, bytes).expect("written");
        for error in [
            try_open(killed.path()).map(drop).expect_err("damaged"),
            RocksStore::open_read_only(killed.path()).map(drop).expect_err("damaged"),
        ] {
            let expected = format!("the record at {second} has the unknown type 5");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

#[test]
fn a_database_that_was_wiped_is_not_begun_anew_beside_the_mark_of_the_old_one() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    fs::remove_dir_all(directory.path().join("db")).expect("removed");
    let error = try_open(directory.path()).expect_err("everything is gone");
    assert!(error.to_string().contains("synced writes were lost"), "{error}");
}

#[test]
fn a_directory_without_its_mark_opens_and_has_one_again() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    fs::remove_file(directory.path().join("synced")).expect("removed");
    assert_eq!(open(directory.path()).open_chain(chain()).expect("sound").last.index, 4);
    assert!(directory.path().join("synced").exists());
}

#[test]
fn a_copied_directory_of_another_node_is_refused() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 4);
    let store = open(directory.path());
    let other = Identity { node_id: NodeId::new(2).expect("not 0"), ..identity("main") };
    let error = open_or_create(&store, &other, &members()).expect_err("foreign");
    assert_eq!(error.to_string(), "foreign data directory: node id is 1, expected 2");
    assert_eq!(open_or_create(&store, &identity("main"), &members()).expect("ours").state.last.index, 4);
}

#[test]
fn a_failed_write_is_not_tried_again_and_poisons_the_store() {
    let directory = tempdir().expect("a temporary directory");
    let options = RocksOptions { write_buffer_bytes: 64 << 10, ..RocksOptions::default() };
    let store = RocksStore::open(directory.path(), &options).expect("the directory opens");
    fill_store(&store, 4);
    // Every file that the engine can choose as its next write-ahead log leads to a device that is full.
    let next = newest_number(directory.path()) + 1;
    let traps: Vec<PathBuf> =
        (next..next + 100).map(|number| directory.path().join(format!("db/{number:06}.log"))).collect();
    traps.iter().for_each(|trap| symlink("/dev/full", trap).expect("linked"));
    let mut good = 4;
    let failed = loop {
        let mut batch = append(chain(), good + 1, good + 1, 2);
        batch.hard_state = None;
        batch.entries[0].data = vec![b'x'; 30_000].into();
        match store.write(&[batch]) {
            Ok(()) => good += 1,
            Err(error) => break error,
        }
        assert!(good < 1000, "the engine never begins another write-ahead log");
    };
    assert!(matches!(failed, Error::Engine { operation: "write", .. }), "{failed}");
    assert_eq!(failed.class(), Class::Halt);
    traps.iter().for_each(|trap| fs::remove_file(trap).expect("removed"));
    let later = store.write(&[WriteBatch::new(chain())]);
    assert_eq!(later, Err(failed.clone()), "even what writes nothing, with the disk in order again");
    assert_eq!(store.create_chain(&identity("side"), &members()), Err(failed));
    assert_eq!(store.entries(chain(), 1, good + 1, u64::MAX).expect("reading goes on").len() as u64, good);
    drop(store);
    let state = open(directory.path()).open_chain(chain()).expect("sound again");
    assert_eq!(state.last, Position { index: good, term: 2 }, "all that was acknowledged, and no more");
}

/// The number of the newest write-ahead log.
fn newest_log(directory: &Path) -> u64 {
    numbers(directory, |name| name.ends_with(".log"))
}

/// The highest number in the names of the engine's files.
fn newest_number(directory: &Path) -> u64 {
    numbers(directory, |_| true)
}

fn numbers(directory: &Path, wanted: impl Fn(&str) -> bool) -> u64 {
    let files = fs::read_dir(directory.join("db")).expect("a directory");
    let number = |name: String| name.split(['.', '-']).filter_map(|part| part.parse().ok()).max();
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| wanted(name)).filter_map(number).max().expect("numbered files")
}

/// Every file under a directory with its bytes.
fn bytes_of(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in fs::read_dir(directory).expect("a directory") {
        let path = file.expect("a file").path();
        if path.is_dir() {
            found.extend(bytes_of(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("readable"));
        }
    }
    found
}

#[test]
fn a_reader_changes_nothing_in_the_directory() {
    let directory = tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill_store(&store, 50);
    // A killed process leaves its write-ahead log behind.
    let killed = tempdir().expect("a temporary directory");
    copy(directory.path(), killed.path());
    let before = bytes_of(killed.path());
    {
        let reader = RocksStore::open_read_only(killed.path()).expect("readable");
        assert!(!reader.beside_writer());
        assert_eq!(reader.chain_ids().expect("readable"), [chain()]);
        assert_eq!(reader.entries(chain(), 1, 51, u64::MAX).expect("kept").len(), 50);
        assert!(inspect::verify_chain(&reader, chain()).clean());
    }
    assert!(before == bytes_of(killed.path()), "the files are as they were");
    open(killed.path());
}

#[test]
fn a_reader_works_beside_a_running_writer() {
    let directory = tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill_store(&store, 50);
    let reader = RocksStore::open_read_only(directory.path()).expect("readable");
    assert!(reader.beside_writer());
    assert_eq!(reader.identity(chain()).expect("readable"), identity("main"));
    assert_eq!(reader.entries(chain(), 50, 51, 1).expect("the newest").pop(), Some(entry(50, 2)));
    assert!(inspect::verify_chain(&reader, chain()).clean());
    store.write(&[append(chain(), 51, 60, 2)]).expect_err("a commit taken back");
    drop(store);
    // The writer has ended: what the reader has open stays readable.
    assert_eq!(reader.entries(chain(), 1, 51, u64::MAX).expect("kept").len(), 50);
}

#[test]
fn damage_older_than_what_open_verifies_is_found_when_it_is_read_and_by_verification() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 10_300);
    flip(directory.path(), "log", &keys::log(chain(), 200), 9);
    let store = open(directory.path());
    assert_eq!(store.open_chain(chain()).expect("opens").last, Position { index: 10_300, term: 2 });
    let error = store.entries(chain(), 199, 202, u64::MAX).expect_err("damaged");
    assert_eq!(damaged_key(error), "log 200 of chain main");
    let verification = inspect::verify_chain(&store, chain());
    assert_eq!(verification.entries, 10_300);
    assert_eq!(verification.findings_total, 1);
    assert_eq!(verification.findings[0].key, "log 200 of chain main");
}

/// Flips bits all over the files of a small store: each is found or changes nothing that can be read.
/// `STORAGE_FLIPS=log` flips every bit of the files with that in their name instead of a sample of all.
#[test]
fn a_flipped_bit_in_any_file_is_found_or_harmless() {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 40);
    // Opened once more, so that the entries are in a data file, with more in the write-ahead log behind it.
    let store = open(directory.path());
    store.open_chain(chain()).expect("sound");
    let mut more = append(chain(), 41, 60, 2);
    more.hard_state = None;
    store.write(&[more]).expect("written");
    let original = tempdir().expect("a temporary directory");
    copy(directory.path(), original.path());
    // Of a copy: opening moves what is in the write-ahead log into a data file.
    let opened = tempdir().expect("a temporary directory");
    copy(original.path(), opened.path());
    let sound = look(opened.path()).expect("sound");
    let chosen = std::env::var("STORAGE_FLIPS").ok();
    let (mut found, mut harmless, mut silent) = (0, 0, Vec::new());
    for (path, bytes) in bytes_of(original.path()) {
        let name = path.strip_prefix(original.path()).expect("below it").to_owned();
        if name.starts_with("db/LOG") || name.starts_with("db/OPTIONS") || bytes.is_empty() {
            continue;
        }
        let every = match &chosen {
            Some(part) if !name.to_string_lossy().contains(part) => continue,
            Some(_) => 1,
            None => (bytes.len() * 8 / 40) | 1,
        };
        for bit in (0..bytes.len() * 8).step_by(every) {
            let copied = tempdir().expect("a temporary directory");
            copy(original.path(), copied.path());
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(copied.path().join(&name), flipped).expect("written");
            match look(copied.path()) {
                Err(_) => found += 1,
                Ok(contents) if contents == sound => harmless += 1,
                Ok(_) => silent.push(format!("{} bit {bit}", name.display())),
            }
        }
    }
    eprintln!("{found} found, {harmless} harmless, {} silent: {silent:?}", silent.len());
    assert!(silent.is_empty(), "{silent:?}");
}

/// What a server would find: the state and all entries, or the first error.
fn look(path: &Path) -> Result<String, String> {
    let store = try_open(path).map_err(|error| error.to_string())?;
    let state = store.open_chain(chain()).map_err(|error| error.to_string())?;
    let verification = inspect::verify_chain(&store, chain());
    if !verification.clean() {
        return Err(format!("{:?}", verification.findings));
    }
    let entries =
        store.entries(chain(), 1, state.last.index + 1, u64::MAX).map_err(|error| error.to_string())?;
    Ok(format!("{state:?} {entries:?}"))
}
