//! The state machine: what entries become, and that restarts never show.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ledger_support;

use std::sync::Mutex;

use bytes::Bytes;
use consensus_core::error::Class;
use consensus_core::ids::{ChainId, Hash};
use consensus_core::ledger::{
    AppliedEntry, Error, Ledger, LedgerConfig, Tip, Transaction, encode_proposal, records,
};
use consensus_core::storage::{self, EntryKind, LogEntry, LogReader, PeerRecord};
use ledger_support::{Chain, entry, genesis, transaction, transactions, window};
use proptest::prelude::*;

#[test]
fn the_first_block_follows_the_genesis_hash_and_each_block_the_one_before() {
    let mut chain = Chain::new(LedgerConfig::default());
    assert_eq!(chain.ledger.tip(), Tip::genesis(genesis()));
    let first = chain.block(100, &["a", "b"]).block.unwrap();
    let second = chain.block(200, &["c"]).block.unwrap();
    assert_eq!((first.header.number, first.header.previous_hash), (1, genesis()));
    assert_eq!((second.header.number, second.header.previous_hash), (2, first.hash));
    assert_eq!(first.hash, first.header.hash());
    assert_eq!(first.transactions, transactions(&["a", "b"]));
    let tip = Tip { height: 2, hash: second.hash, log_index: 2, timestamp_ms: 200, transactions: 3 };
    assert_eq!(chain.ledger.tip(), tip);
}

#[test]
fn timestamps_never_go_back() {
    let mut chain = Chain::new(LedgerConfig::default());
    let timestamps: Vec<_> = [500, 100, 500, 600, 0]
        .into_iter()
        .enumerate()
        .map(|(n, now)| chain.block(now, &[&n.to_string()]).block.unwrap().header.timestamp_ms)
        .collect();
    assert_eq!(timestamps, [500, 500, 500, 600, 600]);
}

#[test]
fn a_known_id_is_left_out_and_its_position_is_told() {
    let mut chain = Chain::new(LedgerConfig::default());
    let first = chain.block(1, &["a", "b", "c"]).block.unwrap();
    let applied = chain.block(2, &["x", "b", "y", "x", "a"]);
    let second = applied.block.clone().unwrap();
    assert_eq!(second.transactions, transactions(&["x", "y"]));
    let skipped: Vec<_> = applied
        .skipped
        .iter()
        .map(|skipped| (skipped.position, skipped.at.height, skipped.at.index, skipped.at.block_hash))
        .collect();
    assert_eq!(skipped, [(1, 1, 1, first.hash), (3, 2, 0, second.hash), (4, 1, 0, first.hash)]);
    assert_eq!(chain.ledger.tip().transactions, 5);
    let y = chain.ledger.position(b"y").unwrap();
    assert_eq!((y.height, y.index, y.block_hash), (2, 1, second.hash));
    assert_eq!(chain.ledger.position(b"z"), None);
}

#[test]
fn the_payload_does_not_make_an_id_another_one() {
    let mut chain = Chain::new(LedgerConfig::default());
    chain.block(1, &["a"]);
    let other = Transaction { id: "a".into(), payload: "something else".into() };
    let applied = chain.entry(&entry(2, encode_proposal(2, &[other])));
    assert!(applied.block.is_none());
}

#[test]
fn an_entry_left_empty_makes_no_block_and_moves_the_log_index() {
    let mut chain = Chain::new(LedgerConfig::default());
    let block = chain.block(1, &["a"]).block.unwrap();
    let applied = chain.block(2, &["a", "a"]);
    assert!(applied.block.is_none());
    assert_eq!(applied.skipped.len(), 2);
    let tip = Tip { height: 1, hash: block.hash, log_index: 2, timestamp_ms: 1, transactions: 1 };
    assert_eq!(chain.ledger.tip(), tip);
    chain.reopen();
    assert_eq!(chain.ledger.tip(), tip);
}

#[test]
fn empty_entries_and_membership_changes_only_move_the_log_index() {
    let mut chain = Chain::new(LedgerConfig::default());
    chain.entry(&entry(1, Bytes::new()));
    let change =
        LogEntry { kind: EntryKind::ConfChangeV2, ..entry(2, Bytes::from_static(b"not for the ledger")) };
    assert!(chain.entry(&change).block.is_none());
    assert_eq!(chain.ledger.tip(), Tip { log_index: 2, ..Tip::genesis(genesis()) });
    chain.reopen();
    assert_eq!(chain.ledger.tip().log_index, 2);
    assert_eq!(chain.block(1, &["a"]).block.unwrap().header.number, 1);
}

#[test]
fn an_entry_applied_again_changes_nothing_and_writes_nothing() {
    let mut chain = Chain::new(LedgerConfig::default());
    chain.block(1, &["a"]);
    chain.block(2, &["b"]);
    let tip = chain.ledger.tip();
    for index in [1, 2] {
        let again = chain.ledger.apply(&entry(index, encode_proposal(9, &transactions(&["z"])))).unwrap();
        assert_eq!(again, AppliedEntry { index, block: None, skipped: Vec::new(), writes: Vec::new() });
    }
    assert_eq!(chain.ledger.tip(), tip);
}

#[test]
fn a_gap_and_an_undecodable_entry_halt_and_change_nothing() {
    let mut chain = Chain::new(LedgerConfig::default());
    chain.block(1, &["a"]);
    let tip = chain.ledger.tip();
    let cases = [
        (entry(3, Bytes::new()), "entry 3 was applied, expected entry 2"),
        (entry(2, Bytes::from_static(b"\x12\x05")), "entry 2: 2 bytes do not decode as a block proposal"),
        (
            entry(2, encode_proposal(1, &[transaction("b"), transaction("")])),
            "entry 2: transaction 1 of the proposal: transaction id of 0 bytes, must be between 1 and 64",
        ),
    ];
    for (entry, expected) in cases {
        let error = chain.ledger.apply(&entry).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.class(), Class::Halt);
        assert_eq!(chain.ledger.tip(), tip);
    }
    assert_eq!(chain.ledger.position(b"b"), None);
}

#[test]
fn an_id_is_known_for_as_many_transactions_as_the_window_has_and_no_longer() {
    let mut chain = Chain::new(window(3));
    chain.block(1, &["a"]);
    chain.block(2, &["b", "c"]);
    assert!(chain.block(3, &["a"]).block.is_none());
    chain.block(4, &["d"]);
    assert_eq!(chain.ledger.position(b"a"), None);
    assert_eq!(chain.block(5, &["a"]).block.unwrap().header.number, 4);
    assert_eq!(chain.ledger.position(b"a").unwrap().height, 4);
}

#[test]
fn the_order_of_entries_within_one_block_larger_than_the_window_is_no_exception() {
    let mut chain = Chain::new(window(2));
    let block = chain.block(1, &["a", "b", "c", "a"]).block.unwrap();
    assert_eq!(block.transactions.len(), 3);
    assert_eq!(chain.ledger.position(b"a"), None);
    chain.reopen();
    assert_eq!(chain.ledger.position(b"a"), None);
    assert_eq!(chain.ledger.position(b"c").unwrap().index, 2);
}

#[test]
fn long_ids_are_known_like_short_ones() {
    let mut chain = Chain::new(LedgerConfig::default());
    let long = "l".repeat(64);
    chain.block(1, &[&long, &long[1..]]);
    chain.reopen();
    assert_eq!(chain.ledger.position(long.as_bytes()).unwrap().index, 0);
    assert_eq!(chain.ledger.position(&long.as_bytes()[1..]).unwrap().index, 1);
    assert!(chain.block(2, &[&long]).block.is_none());
}

#[test]
fn records_of_blocks_that_left_the_window_are_removed() {
    let mut chain = Chain::new(window(5));
    for n in 0..100 {
        chain.block(n, &[&format!("{n}")]);
    }
    let kept = chain.store.application_records(chain.id, b"w", b"x", 1000).unwrap();
    assert_eq!(kept.len(), 5);
}

#[test]
fn payloads_are_in_the_log_and_nowhere_else() {
    let mut chain = Chain::new(LedgerConfig::default());
    let payload = b"a payload that would be found";
    let transactions = [Transaction { id: "a".into(), payload: Bytes::from_static(payload) }];
    chain.entry(&entry(1, encode_proposal(1, &transactions)));
    for (_, value) in chain.store.application_records(chain.id, b"", b"\xff", 1000).unwrap() {
        assert!(!value.windows(payload.len()).any(|window| window == payload));
    }
}

#[test]
fn a_foreign_genesis_is_refused_at_every_height() {
    let mut chain = Chain::new(LedgerConfig::default());
    chain.entry(&entry(1, Bytes::new()));
    chain.genesis = Hash([9; 32]);
    let error = chain.try_open().unwrap_err();
    assert!(error.to_string().contains("genesis hash is"), "{error}");
    chain.block(1, &["a"]);
    let error = chain.try_open().unwrap_err();
    assert!(error.to_string().starts_with("ledger record block 1: genesis hash is"), "{error}");
}

#[test]
fn records_that_do_not_fit_together_are_refused_at_open_and_say_what() {
    let mut reference = Chain::new(LedgerConfig::default());
    for n in 0..4 {
        reference.block(n, &[&format!("{n}"), &format!("{n}'")]);
    }
    let window_key = |height: u64| [b"w".as_slice(), &height.to_be_bytes()].concat();
    let record =
        |key: &[u8]| reference.store.application_record(reference.id, key).unwrap().unwrap().to_vec();
    let mut short_window = record(&window_key(2));
    short_window.truncate(32 + 2);
    type Damage = (Vec<u8>, Option<Vec<u8>>, &'static str);
    let cases: [Damage; 9] = [
        (records::TIP_KEY.to_vec(), Some(b"\xff".to_vec()), "tip: "),
        (records::block_key(4), None, "block 4: missing, and the tip is there"),
        (records::block_key(4), Some(record(&records::block_key(3))), "block 4: it says number 3"),
        (window_key(2), None, "window 3: the one before it is missing"),
        (window_key(1), None, "window: 6 transactions, expected 8"),
        (window_key(4), None, "window: 6 transactions, expected 8"),
        (window_key(2), Some(short_window), "window: 7 transactions, expected 8"),
        (window_key(3), Some(record(&window_key(2))), "window 3: transaction 0 is there twice"),
        (window_key(3), Some(b"short".to_vec()), "window 3: it does not decode"),
    ];
    for (key, value, expected) in cases {
        let before = record(&key);
        reference.tamper(&key, value);
        let error = reference.try_open().unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("ledger record {expected}")),
            "{error}, expected {expected}"
        );
        assert_eq!(error.class(), Class::Halt);
        reference.tamper(&key, Some(before));
    }
    reference.try_open().unwrap();
}

/// Counts what is read.
struct Counting<'a> {
    store: &'a dyn LogReader,
    calls: Mutex<u64>,
    bytes: Mutex<u64>,
}

impl LogReader for Counting<'_> {
    fn entries(&self, _: ChainId, from: u64, _: u64, _: u64) -> storage::Result<Vec<LogEntry>> {
        panic!("entry {from} is read");
    }

    fn application_record(&self, chain: ChainId, key: &[u8]) -> storage::Result<Option<Bytes>> {
        *self.calls.lock().unwrap() += 1;
        self.store.application_record(chain, key)
    }

    fn application_records(
        &self,
        chain: ChainId,
        from: &[u8],
        to: &[u8],
        count_max: usize,
    ) -> storage::Result<Vec<(Vec<u8>, Bytes)>> {
        let found = self.store.application_records(chain, from, to, count_max)?;
        *self.calls.lock().unwrap() += 1;
        *self.bytes.lock().unwrap() += found.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        Ok(found)
    }

    fn peers(&self, chain: ChainId) -> storage::Result<Vec<PeerRecord>> {
        self.store.peers(chain)
    }
}

#[test]
fn opening_reads_no_bodies_and_few_bytes_for_each_transaction_of_the_window() {
    let mut chain = Chain::new(window(10_000));
    for n in 0..20_000 {
        chain.block(n, &[&format!("{n:032}")]);
    }
    let counting = Counting { store: &*chain.store, calls: Mutex::new(0), bytes: Mutex::new(0) };
    let ledger = Ledger::open(&counting, chain.id, chain.genesis, chain.config).unwrap();
    assert_eq!(ledger.tip(), chain.ledger.tip());
    assert_eq!(ledger.window(), (10_000, 10_000));
    assert_eq!(*counting.bytes.lock().unwrap(), 10_000 * (32 + 33));
    assert!(*counting.calls.lock().unwrap() < 10);
}

#[test]
fn a_ledger_whose_records_are_lost_is_replayed_from_the_log() {
    let mut chain = Chain::new(window(4));
    for n in 0..50u64 {
        chain.block(n, &[&format!("{}", n % 7)]);
    }
    let expected = chain.ledger.tip();
    for (key, _) in chain.store.application_records(chain.id, b"", b"\xff", 1000).unwrap() {
        chain.tamper(&key, None);
    }
    chain.reopen();
    assert_eq!(chain.ledger.tip(), Tip::genesis(genesis()));
    let mut entries = 0;
    let store = chain.store.clone();
    let mut ledger = chain.try_open().unwrap();
    ledger
        .replay(&*store, chain.id, chain.last, &mut |applied| {
            entries += 1;
            chain.write(applied.writes);
            Ok::<(), Error>(())
        })
        .unwrap();
    assert_eq!((ledger.tip(), entries), (expected, 50));
    chain.reopen();
    assert_eq!(chain.ledger.tip(), expected);
}

/// One entry of a generated log: ids out of a few, so that duplicates are common.
#[derive(Clone, Debug)]
enum Generated {
    Empty,
    Change,
    Block(u64, Vec<u16>),
}

fn generated() -> impl Strategy<Value = Vec<Generated>> {
    let block = (0u64..50, proptest::collection::vec(0u16..40, 0..6));
    let one = prop_oneof![
        1 => Just(Generated::Empty),
        1 => Just(Generated::Change),
        8 => block.prop_map(|(now, ids)| Generated::Block(now, ids)),
    ];
    proptest::collection::vec(one, 1..60)
}

fn log_of(generated: &[Generated]) -> Vec<LogEntry> {
    let log = (1..).zip(generated).map(|(index, one)| match one {
        Generated::Empty => entry(index, Bytes::new()),
        Generated::Change => {
            LogEntry { kind: EntryKind::ConfChangeV2, ..entry(index, Bytes::from_static(b"x")) }
        }
        Generated::Block(now, ids) => {
            let transactions: Vec<_> = ids
                .iter()
                .map(|id| transaction(&format!("{id}").repeat(if id % 5 == 0 { 20 } else { 1 })))
                .collect();
            entry(index, encode_proposal(*now, &transactions))
        }
    });
    log.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Restarts lose any suffix of the unsynced records; the entries above the tip that is left are applied again.
    #[test]
    fn restarts_never_show_in_the_chain(
        log in generated(),
        capacity in 1usize..12,
        restarts in proptest::collection::vec((1u64..60, 0usize..40), 0..6),
    ) {
        let log = log_of(&log);
        let mut straight = Chain::new(window(capacity));
        let expected: Vec<_> = log.iter().map(|entry| straight.entry(entry)).collect();

        let mut restarted = Chain::new(window(capacity));
        for entry in &log {
            restarted.append(entry);
        }
        let mut restarts = restarts.into_iter().peekable();
        let mut steps = 0;
        while restarted.ledger.tip().log_index < log.len() as u64 {
            let entry = &log[restarted.ledger.tip().log_index as usize];
            let applied = restarted.ledger.apply(entry).unwrap();
            prop_assert_eq!(&applied, &expected[entry.index as usize - 1]);
            restarted.store.write_unsynced(&[batch(&restarted, applied)]).unwrap();
            steps += 1;
            if let Some((_, keep)) = restarts.next_if(|(at, _)| *at <= steps) {
                restarted.store.crash(keep);
                restarted.reopen();
            }
        }
        prop_assert_eq!(restarted.ledger.tip(), straight.ledger.tip());
        restarted.reopen();
        prop_assert_eq!(restarted.ledger.window(), straight.ledger.window());
        for id in 0..40u16 {
            let id = format!("{id}").repeat(if id % 5 == 0 { 20 } else { 1 });
            prop_assert_eq!(restarted.ledger.position(id.as_bytes()), straight.ledger.position(id.as_bytes()));
        }
        let all = |chain: &Chain| chain.store.application_records(chain.id, b"", b"\xff", 10_000).unwrap();
        prop_assert_eq!(all(&restarted), all(&straight));
    }
}

fn batch(chain: &Chain, applied: AppliedEntry) -> storage::WriteBatch {
    let mut batch = storage::WriteBatch::new(chain.id);
    batch.application = applied.writes;
    batch
}
