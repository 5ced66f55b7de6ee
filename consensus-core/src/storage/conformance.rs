//! What every store must do: one claim a function, for any [`LogReader`] and [`LogWriter`] that can be reopened.
//!
//! The stores of this crate run all of [`claims`] in their tests, and so can a store of an embedder. A claim
//! panics if it does not hold. What a crash may lose is not claimed here: a reopen in between is a clean one.

use std::fmt::Debug;

use bytes::Bytes;

use super::{
    ApplicationWrite, Applied, ChainState, ConfState, EntryKind, Error, HardState, Identity, LogEntry,
    LogReader, LogWriter, PeerRecord, Position, Snapshot, WriteBatch,
};
use crate::ids::{ChainId, Hash, NodeId, StoreIncarnation};

/// A store under test.
pub trait Subject {
    /// Its type.
    type Store: LogReader + LogWriter;

    /// The store as it is open now.
    fn store(&self) -> &Self::Store;

    /// Closes it and opens it again; everything written stays.
    fn reopen(&mut self);
}

/// A claim's name and its check.
pub type Claim<S> = (&'static str, fn(&mut S));

/// All claims, each to be run on a fresh and empty subject.
pub fn claims<S: Subject>() -> Vec<Claim<S>> {
    vec![
        ("a created chain is empty and has its members", a_created_chain_is_empty_and_has_its_members),
        ("a chain is created once", a_chain_is_created_once),
        ("an unknown chain is named", an_unknown_chain_is_named),
        ("entries read back", entries_read_back),
        ("a read is cut at its bytes but never empty", a_read_is_cut_at_its_bytes_but_never_empty),
        ("reads outside the log are named", reads_outside_the_log_are_named),
        ("an overwritten tail is gone", an_overwritten_tail_is_gone),
        ("a long overwritten tail is gone", a_long_overwritten_tail_is_gone),
        ("terms begin at their first entry", terms_begin_at_their_first_entry),
        ("every record survives a reopen", every_record_survives_a_reopen),
        ("an installed snapshot replaces the log", an_installed_snapshot_replaces_the_log),
        ("compaction moves the beginning", compaction_moves_the_beginning),
        ("a fully compacted log goes on", a_fully_compacted_log_goes_on),
        ("one write covers several chains", one_write_covers_several_chains),
        ("the last of a write wins", the_last_of_a_write_wins),
        ("application records are ranged and removed", application_records_are_ranged_and_removed),
        ("commit is raised to applied at open", commit_is_raised_to_applied_at_open),
        ("a bare wish for durability is no error", a_bare_wish_for_durability_is_no_error),
        ("a contradicting batch is refused", a_contradicting_batch_is_refused),
    ]
}

/// An identity of a chain of this name, for tests.
pub fn identity(chain: &str) -> Identity {
    Identity {
        cluster: "test".to_owned(),
        chain: chain.to_owned(),
        chain_incarnation: 1,
        node_id: NodeId::new(1).expect("not 0"),
        store_incarnation: StoreIncarnation([7; 16]),
        genesis_hash: Hash([9; 32]),
        created_at_ms: 1_700_000_000_000,
    }
}

/// Three voters, for tests.
pub fn members() -> ConfState {
    ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
}

/// An entry whose payload names its position, for tests.
pub fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        index,
        term,
        kind: if index.is_multiple_of(5) { EntryKind::ConfChangeV2 } else { EntryKind::Normal },
        context: if index.is_multiple_of(2) { Bytes::from_static(b"context") } else { Bytes::new() },
        data: Bytes::from(format!("payload of {index} in term {term}")),
    }
}

/// A synced batch with entries `from..=to` of one term and a hard state of that term, for tests.
pub fn append(chain: ChainId, from: u64, to: u64, term: u64) -> WriteBatch {
    let mut batch = WriteBatch::new(chain);
    batch.sync = true;
    batch.entries = (from..=to).map(|index| entry(index, term)).collect();
    batch.hard_state = Some(HardState { term, vote: None, commit: 0 });
    batch
}

/// A batch that says how far is committed and applied, for tests.
pub fn applied(chain: ChainId, index: u64, term: u64) -> WriteBatch {
    let mut batch = WriteBatch::new(chain);
    batch.sync = true;
    batch.hard_state = Some(HardState { term, vote: None, commit: index });
    batch.applied = Some(Applied { index, conf_state: members() });
    batch
}

fn position(index: u64, term: u64) -> Position {
    Position { index, term }
}

fn create<S: Subject>(subject: &S, name: &str) -> ChainId {
    let identity = identity(name);
    subject.store().create_chain(&identity, &members()).expect("a new chain");
    identity.chain_id()
}

fn write<S: Subject>(subject: &S, batch: WriteBatch) {
    subject.store().write(&[batch]).expect("a good batch");
}

fn open<S: Subject>(subject: &S, chain: ChainId) -> ChainState {
    subject.store().open_chain(chain).expect("a sound chain")
}

fn reopen<S: Subject>(subject: &mut S, chain: ChainId) -> ChainState {
    subject.reopen();
    open(subject, chain)
}

fn log<S: Subject>(subject: &S, chain: ChainId) -> Vec<LogEntry> {
    let state = open(subject, chain);
    let (from, to) = (state.truncated.index + 1, state.last.index + 1);
    subject.store().entries(chain, from, to, u64::MAX).expect("kept entries")
}

fn expect_error<T: Debug>(outcome: super::Result<T>, expected: &Error) {
    assert_eq!(&outcome.expect_err("must fail"), expected);
}

fn a_created_chain_is_empty_and_has_its_members<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    for _ in 0..2 {
        let state = open(subject, chain);
        assert_eq!(state.identity, identity("main"));
        assert_eq!(state.hard_state, HardState::default());
        assert_eq!(state.applied, Applied { index: 0, conf_state: members() });
        assert_eq!(state.snapshot, None);
        assert!(!state.installing);
        assert_eq!((state.truncated, state.last, state.high_water), Default::default());
        assert_eq!(state.terms, []);
        assert_eq!(subject.store().chains().expect("readable"), [identity("main")]);
        assert_eq!(subject.store().peers(chain).expect("readable"), []);
        subject.reopen();
    }
}

fn a_chain_is_created_once<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 2, 1));
    let again = subject.store().create_chain(&identity("main"), &members());
    expect_error(again, &Error::Inconsistent("chain main exists already".to_owned()));
    assert_eq!(reopen(subject, chain).last, position(2, 1), "what was there is untouched");
}

fn an_unknown_chain_is_named<S: Subject>(subject: &mut S) {
    create(subject, "main");
    let unknown = identity("other").chain_id();
    expect_error(subject.store().open_chain(unknown), &Error::NoChain(unknown));
    expect_error(subject.store().entries(unknown, 1, 2, 1), &Error::NoChain(unknown));
    expect_error(subject.store().write(&[WriteBatch::new(unknown)]), &Error::NoChain(unknown));
}

fn entries_read_back<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 3, 1));
    write(subject, append(chain, 4, 300, 2));
    let expected: Vec<LogEntry> =
        (1..=300).map(|index| entry(index, if index <= 3 { 1 } else { 2 })).collect();
    for _ in 0..2 {
        assert_eq!(log(subject, chain), expected);
        let some = subject.store().entries(chain, 3, 6, u64::MAX).expect("kept");
        assert_eq!(some, expected[2..5]);
        assert_eq!(subject.store().entries(chain, 3, 3, 9).expect("an empty range"), []);
        subject.reopen();
    }
}

fn a_read_is_cut_at_its_bytes_but_never_empty<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    let mut batch = append(chain, 1, 4, 1);
    for entry in &mut batch.entries {
        entry.data = Bytes::from(vec![b'x'; 100]);
    }
    write(subject, batch);
    for (bytes_max, count) in [(0, 1), (100, 1), (199, 1), (200, 2), (399, 3), (400, 4), (u64::MAX, 4)] {
        let found = subject.store().entries(chain, 1, 5, bytes_max).expect("kept");
        assert_eq!(found.len(), count, "{bytes_max} bytes");
    }
}

fn reads_outside_the_log_are_named<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 9, 1));
    write(subject, applied(chain, 5, 1));
    write(subject, WriteBatch { compact_to: Some(position(4, 1)), ..WriteBatch::new(chain) });
    for _ in 0..2 {
        let store = subject.store();
        expect_error(store.entries(chain, 4, 6, 9), &Error::Compacted { from: 4, first: 5 });
        expect_error(store.entries(chain, 0, 6, 9), &Error::Compacted { from: 0, first: 5 });
        expect_error(store.entries(chain, 5, 11, 9), &Error::Unavailable { to: 11, last: 9 });
        assert_eq!(store.entries(chain, 5, 10, u64::MAX).expect("kept").len(), 5);
        reopen(subject, chain);
    }
}

fn an_overwritten_tail_is_gone<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 9, 1));
    write(subject, WriteBatch { truncate_from: Some(4), ..append(chain, 4, 5, 2) });
    for _ in 0..2 {
        let state = open(subject, chain);
        assert_eq!((state.last, state.high_water), (position(5, 2), position(5, 2)));
        assert_eq!(state.terms, [position(1, 1), position(4, 2)]);
        expect_error(subject.store().entries(chain, 6, 7, 9), &Error::Unavailable { to: 7, last: 5 });
        subject.reopen();
    }
    open(subject, chain);
    write(subject, append(chain, 6, 6, 2));
    assert_eq!(reopen(subject, chain).last, position(6, 2), "nothing of the old tail follows");
}

fn a_long_overwritten_tail_is_gone<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 500, 1));
    write(subject, WriteBatch { truncate_from: Some(100), ..append(chain, 100, 100, 2) });
    assert_eq!(reopen(subject, chain).last, position(100, 2));
    write(subject, append(chain, 101, 300, 2));
    assert_eq!(reopen(subject, chain).last, position(300, 2));
    assert_eq!(log(subject, chain).len(), 300);
}

fn terms_begin_at_their_first_entry<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 3, 2));
    write(subject, append(chain, 4, 4, 2));
    let mut mixed = append(chain, 5, 7, 5);
    mixed.entries.extend((8..=9).map(|index| entry(index, 6)));
    mixed.hard_state = Some(HardState { term: 6, vote: None, commit: 0 });
    write(subject, mixed);
    assert_eq!(reopen(subject, chain).terms, [position(1, 2), position(5, 5), position(8, 6)]);
    write(subject, WriteBatch { truncate_from: Some(7), ..append(chain, 7, 7, 9) });
    assert_eq!(reopen(subject, chain).terms, [position(1, 2), position(5, 5), position(7, 9)]);
    write(subject, applied(chain, 7, 9));
    write(subject, WriteBatch { compact_to: Some(position(5, 5)), ..WriteBatch::new(chain) });
    assert_eq!(reopen(subject, chain).terms, [position(6, 5), position(7, 9)]);
    write(subject, WriteBatch { compact_to: Some(position(6, 5)), ..WriteBatch::new(chain) });
    assert_eq!(reopen(subject, chain).terms, [position(7, 9)]);
}

fn every_record_survives_a_reopen<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    let conf_state = ConfState {
        voters: vec![1, 2],
        learners: vec![4],
        voters_outgoing: vec![1, 2, 3],
        learners_next: vec![3],
        auto_leave: true,
    };
    let peer = |node: u64, address: &str| PeerRecord {
        node_id: NodeId::new(node).expect("not 0"),
        address: address.to_owned(),
        store_incarnation: (node == 2).then_some(StoreIncarnation([node as u8; 16])),
        last_heard_ms: 17,
        matched: 3,
        next: 4,
        progress: "replicate".to_owned(),
        connected: true,
        recorded_at_ms: 18,
    };
    let mut batch = append(chain, 1, 4, 3);
    batch.hard_state = Some(HardState { term: 4, vote: NodeId::new(2), commit: 3 });
    batch.applied = Some(Applied { index: 3, conf_state: conf_state.clone() });
    let data = Bytes::from_static(b"application");
    let snapshot = Snapshot { position: position(2, 3), conf_state: conf_state.clone(), data };
    batch.snapshot = Some(snapshot.clone());
    batch.peers = vec![peer(2, "old:1"), peer(3, "there:2"), peer(2, "here:1")];
    let value = Some(Bytes::from_static(b"v"));
    batch.application = vec![ApplicationWrite { key: b"k".to_vec(), value }];
    write(subject, batch);
    for _ in 0..2 {
        let state = open(subject, chain);
        assert_eq!(state.hard_state, HardState { term: 4, vote: NodeId::new(2), commit: 3 });
        assert_eq!(state.applied, Applied { index: 3, conf_state: conf_state.clone() });
        assert_eq!(state.snapshot.as_ref(), Some(&snapshot));
        assert!(!state.installing);
        let peers = subject.store().peers(chain).expect("readable");
        assert_eq!(peers, [peer(2, "here:1"), peer(3, "there:2")]);
        let record = subject.store().application_record(chain, b"k").expect("readable");
        assert_eq!(record.as_deref(), Some(&b"v"[..]));
        assert_eq!(subject.store().application_record(chain, b"none").expect("readable"), None);
        subject.reopen();
    }
}

fn an_installed_snapshot_replaces_the_log<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 200, 1));
    let conf_state = ConfState { voters: vec![4, 5], ..ConfState::default() };
    let snapshot =
        Snapshot { position: position(150, 3), conf_state: conf_state.clone(), data: Bytes::new() };
    let mut batch = append(chain, 151, 152, 3);
    batch.hard_state = Some(HardState { term: 3, vote: None, commit: 150 });
    batch.install = Some(snapshot.clone());
    write(subject, batch);
    for _ in 0..2 {
        let state = open(subject, chain);
        assert!(state.installing);
        assert_eq!(state.snapshot.as_ref(), Some(&snapshot));
        assert_eq!((state.truncated, state.last), (position(150, 3), position(152, 3)));
        assert_eq!(state.high_water, position(152, 3));
        assert_eq!(state.terms, [position(151, 3)]);
        assert_eq!(state.applied, Applied { index: 150, conf_state: conf_state.clone() });
        assert_eq!(log(subject, chain), [entry(151, 3), entry(152, 3)]);
        let gone = subject.store().entries(chain, 150, 152, 9);
        expect_error(gone, &Error::Compacted { from: 150, first: 151 });
        subject.reopen();
    }
    open(subject, chain);
    write(subject, WriteBatch { installed: true, sync: true, ..WriteBatch::new(chain) });
    assert!(!reopen(subject, chain).installing);
}

fn compaction_moves_the_beginning<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 200, 1));
    write(subject, append(chain, 201, 300, 2));
    write(subject, applied(chain, 250, 2));
    for (to, term) in [(3, 1), (150, 1), (200, 1), (210, 2)] {
        write(subject, WriteBatch { compact_to: Some(position(to, term)), ..WriteBatch::new(chain) });
        let state = reopen(subject, chain);
        assert_eq!((state.truncated, state.last), (position(to, term), position(300, 2)));
        assert_eq!(state.terms.first().map(|start| start.index), Some(to + 1));
        assert_eq!(log(subject, chain).first().map(|entry| entry.index), Some(to + 1));
    }
    write(subject, WriteBatch { compact_to: Some(position(5, 1)), ..WriteBatch::new(chain) });
    assert_eq!(reopen(subject, chain).truncated, position(210, 2), "compaction never goes back");
}

fn a_fully_compacted_log_goes_on<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 5, 1));
    write(subject, applied(chain, 5, 1));
    write(subject, WriteBatch { compact_to: Some(position(5, 1)), ..WriteBatch::new(chain) });
    let state = reopen(subject, chain);
    assert_eq!(
        (state.truncated, state.last, state.high_water),
        (position(5, 1), position(5, 1), position(5, 1))
    );
    assert_eq!(state.terms, []);
    let mut next = append(chain, 6, 6, 1);
    next.hard_state = None;
    write(subject, next);
    let state = reopen(subject, chain);
    assert_eq!((state.last, state.terms.as_slice()), (position(6, 1), [position(6, 1)].as_slice()));
    assert_eq!(log(subject, chain), [entry(6, 1)]);
}

fn one_write_covers_several_chains<S: Subject>(subject: &mut S) {
    let (main, side) = (create(subject, "main"), create(subject, "side"));
    let unsynced = WriteBatch { sync: false, ..append(side, 1, 2, 7) };
    let written = subject.store().write(&[append(main, 1, 3, 1), unsynced, append(main, 4, 4, 2)]);
    written.expect("good batches");
    subject.reopen();
    assert_eq!(open(subject, main).last, position(4, 2));
    assert_eq!(open(subject, side).last, position(2, 7));
    assert_eq!(log(subject, side), [entry(1, 7), entry(2, 7)], "chains do not mix");
    assert_eq!(subject.store().chains().expect("readable").len(), 2);
}

fn the_last_of_a_write_wins<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    let promise = |term, vote| WriteBatch {
        hard_state: Some(HardState { term, vote: NodeId::new(vote), commit: 0 }),
        ..WriteBatch::new(chain)
    };
    subject.store().write(&[promise(1, 1), promise(2, 0), promise(2, 3)]).expect("good batches");
    assert_eq!(reopen(subject, chain).hard_state, HardState { term: 2, vote: NodeId::new(3), commit: 0 });
}

fn application_records_are_ranged_and_removed<S: Subject>(subject: &mut S) {
    let (main, side) = (create(subject, "main"), create(subject, "side"));
    let put = |chain, keys: &[&str]| {
        let mut batch = WriteBatch::new(chain);
        batch.application = keys
            .iter()
            .map(|key| ApplicationWrite {
                key: key.as_bytes().to_vec(),
                value: Some(Bytes::from(format!("value of {key}"))),
            })
            .collect();
        batch
    };
    let both = [put(main, &["b", "a", "c", "d"]), put(side, &["b"])];
    subject.store().write(&both).expect("good batches");
    let mut removal = WriteBatch::new(main);
    removal.application = vec![ApplicationWrite { key: b"c".to_vec(), value: None }];
    write(subject, removal);
    let range = |subject: &S, from: &str, to: &str, count_max| -> Vec<String> {
        let found = subject.store().application_records(main, from.as_bytes(), to.as_bytes(), count_max);
        let found = found.expect("readable").into_iter();
        found.map(|(key, value)| format!("{}={}", key.escape_ascii(), value.escape_ascii())).collect()
    };
    for _ in 0..2 {
        open(subject, main);
        assert_eq!(range(subject, "a", "z", 9), ["a=value of a", "b=value of b", "d=value of d"]);
        assert_eq!(range(subject, "b", "d", 9), ["b=value of b"]);
        assert_eq!(range(subject, "a", "z", 2), ["a=value of a", "b=value of b"]);
        assert!(range(subject, "a", "z", 0).is_empty());
        assert!(range(subject, "z", "a", 9).is_empty());
        subject.reopen();
    }
}

fn commit_is_raised_to_applied_at_open<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, append(chain, 1, 5, 1));
    let conf_state = members();
    let batch = WriteBatch { applied: Some(Applied { index: 4, conf_state }), ..WriteBatch::new(chain) };
    write(subject, batch);
    assert_eq!(reopen(subject, chain).hard_state.commit, 4);
}

fn a_bare_wish_for_durability_is_no_error<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    write(subject, WriteBatch { sync: false, ..append(chain, 1, 1, 1) });
    write(subject, WriteBatch { sync: true, ..WriteBatch::new(chain) });
    subject.store().write(&[]).expect("nothing to do");
    assert_eq!(reopen(subject, chain).last, position(1, 1));
}

/// Batches that contradict a log of entries 1..=5 (terms 1, 1, 2, 2, 3) with vote 1 in term 3, commit 3 and
/// applied 2.
fn contradictions(chain: ChainId) -> Vec<(&'static str, WriteBatch)> {
    let entries = |from, to, term| WriteBatch { hard_state: None, ..append(chain, from, to, term) };
    let promise = |term, vote, commit| {
        let hard_state = Some(HardState { term, vote: NodeId::new(vote), commit });
        WriteBatch { hard_state, ..WriteBatch::new(chain) }
    };
    let applied = |index| {
        let applied = Some(Applied { index, conf_state: members() });
        WriteBatch { applied, ..WriteBatch::new(chain) }
    };
    let compact =
        |index, term| WriteBatch { compact_to: Some(position(index, term)), ..WriteBatch::new(chain) };
    let snapshot =
        |index, term| Snapshot { position: position(index, term), conf_state: members(), data: Bytes::new() };
    let mut gap = entries(6, 8, 3);
    gap.entries.remove(1);
    vec![
        ("a gap after the log", entries(7, 7, 3)),
        ("a gap within the batch", gap),
        ("an overwritten entry that is not truncated", entries(5, 5, 3)),
        ("a falling term", entries(6, 6, 2)),
        ("term 0", WriteBatch { truncate_from: Some(4), ..entries(4, 4, 0) }),
        ("a term above the promised one", entries(6, 6, 4)),
        ("a truncation of what is committed", WriteBatch { truncate_from: Some(3), ..promise(4, 0, 3) }),
        ("a truncation beyond the end", WriteBatch { truncate_from: Some(7), ..promise(4, 0, 3) }),
        ("a term taken back", promise(2, 0, 3)),
        ("a vote changed", promise(3, 2, 3)),
        ("a vote forgotten", promise(3, 0, 3)),
        ("a commit taken back", promise(3, 1, 2)),
        ("a commit above the log", promise(3, 1, 6)),
        ("an applied index taken back", applied(1)),
        ("an applied index above the log", applied(6)),
        ("a compaction above the applied index", compact(3, 2)),
        ("a compaction that names another term", compact(2, 2)),
        ("a snapshot above the applied index", {
            WriteBatch { snapshot: Some(snapshot(3, 2)), ..WriteBatch::new(chain) }
        }),
        ("an installation of what is committed", {
            WriteBatch { install: Some(snapshot(3, 2)), ..WriteBatch::new(chain) }
        }),
    ]
}

fn a_contradicting_batch_is_refused<S: Subject>(subject: &mut S) {
    let chain = create(subject, "main");
    let mut batch = append(chain, 1, 2, 1);
    batch.entries.extend([entry(3, 2), entry(4, 2), entry(5, 3)]);
    batch.hard_state = Some(HardState { term: 3, vote: NodeId::new(1), commit: 3 });
    batch.applied = Some(Applied { index: 2, conf_state: members() });
    write(subject, batch);
    let good = open(subject, chain);
    for (what, bad) in contradictions(chain) {
        let promise = HardState { commit: 4, ..good.hard_state };
        let harmless = WriteBatch { hard_state: Some(promise), ..WriteBatch::new(chain) };
        let refused = subject.store().write(&[harmless, bad]);
        let error = refused.expect_err(what);
        assert!(matches!(error, Error::Inconsistent(_)), "{what}: {error}");
        let later = subject.store().write(&[append(chain, 6, 6, 3)]);
        assert_eq!(later, Err(error), "{what}: the store is poisoned");
        assert_eq!(reopen(subject, chain), good, "{what}: nothing was written");
    }
}
