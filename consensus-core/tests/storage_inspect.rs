//! The inspection describes whatever it finds and fails on none of it.

#![cfg(feature = "rocksdb")]

mod storage_support;

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::storage::conformance::{entry, identity};
use consensus_core::storage::inspect::{self, Field, FindingKind, Verification};
use consensus_core::storage::keys::{self, Meta};
use consensus_core::storage::records::{Record, encode_entry, frame};
use consensus_core::storage::rocks::RocksStore;
use consensus_core::storage::{ApplicationWrite, HardState, LogWriter, PeerRecord, Position, WriteBatch};
use rocksdb::DB;
use storage_support::{chain, edit, fill, flip, open};
use tempfile::{TempDir, tempdir};

fn filled() -> TempDir {
    let directory = tempdir().expect("a temporary directory");
    fill(directory.path(), 20);
    directory
}

fn verify(path: &Path) -> Verification {
    inspect::verify_chain(&RocksStore::open_read_only(path).expect("readable"), chain())
}

/// The findings after a change behind the store's back, as `kind key: cause`.
fn findings(change: impl FnOnce(&DB)) -> Vec<String> {
    let directory = filled();
    edit(directory.path(), change);
    let verification = verify(directory.path());
    assert_eq!(verification.findings_total, verification.findings.len() as u64);
    let line = |finding: &inspect::Finding| format!("{:?} {}: {}", finding.kind, finding.key, finding.cause);
    verification.findings.iter().map(line).collect()
}

fn put(db: &DB, family: &str, key: &[u8], value: &[u8]) {
    db.put_cf(db.cf_handle(family).expect("a family"), key, value).expect("written");
}

fn put_meta<R: Record>(db: &DB, record: Meta, value: &R) {
    let key = keys::meta(chain(), record);
    put(db, "meta", &key, &value.encode(&key));
}

fn put_entry(db: &DB, index: u64, term: u64) {
    let key = keys::log(chain(), index);
    let mut value = Vec::new();
    encode_entry(&key, &entry(index, term), &mut value);
    put(db, "log", &key, &value);
}

#[test]
fn a_sound_store_has_no_findings() {
    let directory = filled();
    let verification = verify(directory.path());
    assert!(verification.clean(), "{:?}", verification.findings);
    assert_eq!(verification.entries, 20);
    let reader = RocksStore::open_read_only(directory.path()).expect("readable");
    assert_eq!(inspect::format(&reader).expect("readable"), Field::Present(1));
    assert_eq!(inspect::chains(&reader).expect("readable"), [chain()]);
    let found = inspect::chain(&reader, chain()).expect("readable");
    assert_eq!(found.name(), Some("main"));
    assert_eq!(found.identity, Field::Present(identity("main")));
    assert_eq!(found.hard_state, Field::Present(HardState { term: 2, vote: None, commit: 10 }));
    assert_eq!((found.first_index, found.last_index), (Field::Present(1), Field::Present(20)));
    assert_eq!(found.snapshot, Field::Missing);
    let second = Position { index: 11, term: 2 };
    assert_eq!(found.terms.last(), Some(&(11, Field::Present(second))));
}

#[test]
fn a_scan_shows_sound_and_damaged_entries_side_by_side() {
    let directory = filled();
    flip(directory.path(), "log", &keys::log(chain(), 7), 20);
    let reader = RocksStore::open_read_only(directory.path()).expect("readable");
    let mut shown = Vec::new();
    let scan = inspect::scan_log(&reader, chain(), 6, Some(9), &mut |entry| {
        shown.push((entry.index, entry.entry.is_ok()));
        ControlFlow::Continue(())
    });
    scan.expect("readable");
    assert_eq!(shown, [(6, true), (7, false), (8, true)]);
    let mut count = 0;
    let scan = inspect::scan_log(&reader, chain(), 0, None, &mut |_| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    scan.expect("readable");
    assert_eq!(count, 3, "the visitor ends it");
}

#[test]
fn every_damaged_record_is_described_and_the_others_are_shown() {
    let directory = filled();
    for record in [Meta::Identity, Meta::HardState, Meta::Applied, Meta::TermStart(11)] {
        flip(directory.path(), "meta", &keys::meta(chain(), record), 7);
    }
    let reader = RocksStore::open_read_only(directory.path()).expect("readable");
    let found = inspect::chain(&reader, chain()).expect("described");
    assert!(matches!(found.identity, Field::Damaged(_)));
    assert!(matches!(found.hard_state, Field::Damaged(_)));
    assert!(matches!(found.applied, Field::Damaged(_)));
    assert!(matches!(found.terms[1], (11, Field::Damaged(_))));
    assert_eq!(found.high_water, Field::Present(Position { index: 20, term: 2 }));
    let verification = inspect::verify_chain(&reader, chain());
    let damaged = verification.findings.iter().filter(|finding| finding.kind == FindingKind::Damaged);
    assert_eq!(damaged.count(), 4, "{:?}", verification.findings);
}

#[test]
fn verification_names_each_kind_of_damage_in_the_log() {
    let log = |index| keys::log(chain(), index);
    let delete = |db: &DB, index| {
        db.delete_cf(db.cf_handle("log").expect("a family"), log(index)).expect("deleted");
    };
    assert_eq!(
        findings(|db| (5..=6).for_each(|index| delete(db, index))),
        ["Gap log 7 of chain main: entries 5..=6 are missing before it"]
    );
    assert_eq!(
        findings(|db| put_entry(db, 15, 1)),
        [
            "Term log 15 of chain main: term 1 after term 2",
            "Term log 15 of chain main: term 1, the term starts say 2"
        ]
    );
    assert_eq!(
        findings(|db| delete(db, 20)),
        [
            "Relation chain main: the log ends at 19 (term 2), the high-water mark says 20 (term 2): entries were lost"
        ]
    );
    assert_eq!(
        findings(|db| put(db, "log", &[&chain().to_be_bytes()[..], b"x"].concat(), b"y")),
        ["Stray log key 78 of chain main: no log key"]
    );
    let misplaced = findings(|db| {
        let family = db.cf_handle("log").expect("a family");
        let value = db.get_cf(family, log(8)).expect("readable").expect("a value");
        db.put_cf(family, log(9), value).expect("written");
    });
    assert_eq!(misplaced.len(), 1);
    assert!(misplaced[0].starts_with("Damaged log 9 of chain main: checksum"), "{misplaced:?}");
}

#[test]
fn verification_names_each_contradiction_between_records() {
    let delete = |db: &DB, record| {
        let key = keys::meta(chain(), record);
        db.delete_cf(db.cf_handle("meta").expect("a family"), key).expect("deleted");
    };
    let promise = |term, commit| HardState { term, vote: None, commit };
    type Change<'a> = Box<dyn FnOnce(&DB) + 'a>;
    let cases: [(Change, &str); 7] = [
        (
            Box::new(|db| put_meta(db, Meta::HardState, &promise(2, 21))),
            "Relation chain main: commit is 21, but the log ends at 20",
        ),
        (
            Box::new(|db| put_meta(db, Meta::HardState, &promise(1, 10))),
            "Relation chain main: the hard state has term 1, but the last entry 2",
        ),
        (Box::new(|db| delete(db, Meta::Applied)), "Missing applied of chain main: it is missing"),
        (
            Box::new(|db| put_meta(db, Meta::Installing, &Position { index: 9, term: 1 })),
            "Relation chain main: a snapshot is being installed, but there is none",
        ),
        (
            Box::new(|db| put(db, "meta", &[&chain().to_be_bytes()[..], b"?"].concat(), b"x")),
            "Stray meta key 3f of chain main: no record has such a key",
        ),
        (
            Box::new(|db| put_meta(db, Meta::TermStart(15), &Position { index: 15, term: 2 })),
            "Relation chain main: term 2 begins at 15, after term 2 at 11",
        ),
        (
            Box::new(|db| {
                let key = keys::ledger(chain(), b"k");
                put(db, "ledger", &key, &frame(b"another key", b"v"));
            }),
            "Damaged ledger key 6b of chain ",
        ),
    ];
    for (change, expected) in cases {
        let found = findings(change);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{} instead of {expected}", found[0]);
    }
}

#[test]
fn peers_and_application_records_are_counted_and_checked() {
    let directory = filled();
    let peer = PeerRecord {
        node_id: NodeId::new(2).expect("not 0"),
        address: "there:1".to_owned(),
        store_incarnation: None,
        last_heard_ms: 1,
        matched: 2,
        next: 3,
        progress: "probe".to_owned(),
        connected: false,
        recorded_at_ms: 4,
    };
    {
        let store = open(directory.path());
        store.open_chain(chain()).expect("sound");
        let mut batch = WriteBatch::new(chain());
        batch.sync = true;
        batch.peers.push(peer.clone());
        batch
            .application
            .push(ApplicationWrite { key: b"k".to_vec(), value: Some(Bytes::from_static(b"v")) });
        store.write(&[batch]).expect("written");
    }
    let reader = RocksStore::open_read_only(directory.path()).expect("readable");
    let found = inspect::chain(&reader, chain()).expect("readable");
    assert_eq!(found.peers, [(2, Field::Present(peer))]);
    let verification = inspect::verify_chain(&reader, chain());
    assert!(verification.clean());
    assert_eq!(verification.application_records, 1);
    drop(reader);
    flip(directory.path(), "meta", &keys::meta(chain(), Meta::Peer(NodeId::new(2).expect("not 0"))), 8);
    let findings = verify(directory.path()).findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].key, "peer 2 of chain main");
}
