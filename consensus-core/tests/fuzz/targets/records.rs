//! Arbitrary and damaged values under arbitrary keys: nothing panics, what decodes says the same when it is
//! encoded again, and a flipped bit is found by the checksum.
//!
//! Protobuf has more than one form for the same message, so such records are compared as values; entries,
//! fixed records and keys byte by byte.

use std::fmt::Debug;

use bytes::Bytes;
use consensus_core::ids::{ChainId, Hash};
use consensus_core::ledger::records::StoredBlock;
use consensus_core::ledger::{Transaction, decode_proposal, encode_proposal};
use consensus_core::storage::keys::{self, Family, Meta};
use consensus_core::storage::records::{self, Record};
use consensus_core::storage::{
    Applied, ConfState, EntryKind, HardState, Identity, LogEntry, PeerRecord, Position, Snapshot,
};

use super::draws::Draws;

/// How many of the values decoded.
pub(crate) fn records(bytes: &[u8]) -> u64 {
    let mut draws = Draws::new(bytes);
    let mut decoded = 0;
    while !draws.is_empty() {
        let index = draws.near(&[1]);
        let key = keys::log(ChainId::derive("main", 1), index);
        let content = content(&mut draws, index);
        decoded += u64::from(framed(&key, index, &records::frame(&key, &content).into()));
        flipped(&mut draws, &key, &content);
        unframed(&key, index, &draws.bytes());
        application(index, &content);
        name(&draws.bytes());
    }
    decoded
}

/// Made up, or a valid one in which a byte may be another.
fn content(draws: &mut Draws<'_>, index: u64) -> Bytes {
    let conf_state = ConfState {
        voters: vec![1, 2, draws.number()],
        auto_leave: draws.chance(128),
        ..ConfState::default()
    };
    let position = Position { index, term: draws.number() };
    let whole = |record: Vec<u8>| record[records::FRAME_BYTES..].to_vec();
    let mut content = match draws.below(8) {
        0 => whole(HardState { term: draws.number(), vote: None, commit: index }.encode(b"")),
        1 => whole(Snapshot { position, conf_state, data: draws.bytes() }.encode(b"")),
        2 => whole(Applied { index, conf_state }.encode(b"")),
        3 => whole(position.encode(b"")),
        4 => {
            let (context, data) = (draws.bytes(), draws.bytes());
            let entry = LogEntry { index, term: position.term, kind: EntryKind::Normal, context, data };
            let mut buffer = Vec::new();
            records::encode_entry(b"", &entry, &mut buffer);
            whole(buffer)
        }
        5 => {
            let transactions = [Transaction { id: draws.bytes(), payload: draws.bytes() }];
            encode_proposal(draws.number(), &transactions).to_vec()
        }
        _ => draws.bytes().to_vec(),
    };
    if draws.chance(128) && !content.is_empty() {
        let at = draws.number() as usize % content.len();
        content[at] = draws.byte();
    }
    if draws.chance(32) {
        content.truncate(draws.below(content.len().min(256)));
    }
    content.into()
}

/// Reads a sound value as every kind of record; whether it is one.
fn framed(key: &[u8], index: u64, value: &Bytes) -> bool {
    let entry = records::decode_entry(key, index, value);
    if let Ok(entry) = &entry {
        let mut again = Vec::new();
        records::encode_entry(key, entry, &mut again);
        assert_eq!(again, value[..], "an entry has one form");
    }
    if let Ok(version) = records::decode_format(value) {
        assert_eq!(records::decode_format(&records::encode_format(version).into()), Ok(version));
    }
    if let Ok(round) = records::decode_round(value) {
        assert_eq!(records::decode_round(&records::encode_round(round).into()), Ok(round));
    }
    let read = [
        same::<Identity>(key, value),
        same::<HardState>(key, value),
        same::<ConfState>(key, value),
        same::<Position>(key, value),
        same::<Snapshot>(key, value),
        same::<Applied>(key, value),
        same::<PeerRecord>(key, value),
    ];
    entry.is_ok() || read.contains(&true)
}

fn same<R: Record + PartialEq + Debug>(key: &[u8], value: &Bytes) -> bool {
    let Ok(record) = R::decode(key, value) else { return false };
    let again = R::decode(key, &record.encode(key).into());
    assert_eq!(again.as_ref(), Ok(&record));
    true
}

/// One bit of the value or of its key is another.
fn flipped(draws: &mut Draws<'_>, key: &[u8], content: &[u8]) {
    let (mut key, mut value) = (key.to_vec(), records::frame(key, content));
    let bits = 8 * (key.len() + value.len());
    let bit = draws.number() as usize % bits;
    match value.get_mut(bit / 8) {
        Some(byte) => *byte ^= 1 << (bit % 8),
        None => key[bit / 8 - value.len()] ^= 1 << (bit % 8),
    }
    let read = records::unframe(&key, &value.into());
    assert!(read.is_err(), "bit {bit} of {bits} is another, and nothing shows it");
}

/// Values that no store has written.
fn unframed(key: &[u8], index: u64, value: &Bytes) {
    if records::unframe(key, value).is_err() {
        assert!(records::decode_entry(key, index, value).is_err());
        assert!(HardState::decode(key, value).is_err());
    }
}

/// The ledger's records and the payload of an entry.
fn application(height: u64, content: &Bytes) {
    if let Ok(block) = StoredBlock::decode(height, content.clone()) {
        assert_eq!(block.header.number, height);
        assert_ne!(block.header.hash(), Hash::default());
    }
    if let Ok(proposal) = decode_proposal(content.clone()) {
        let again = encode_proposal(proposal.timestamp_ms, &proposal.transactions);
        assert_eq!(decode_proposal(again).as_ref(), Ok(&proposal));
    }
}

/// A key names what it was made for and nothing else.
fn name(key: &[u8]) {
    for family in [Family::Log, Family::Meta, Family::Ledger] {
        assert!(!keys::describe(family, key, Some("main")).is_empty());
        assert!(!keys::describe(family, key, None).is_empty());
    }
    let Some(chain) = keys::chain_of(key) else { return };
    if let Some(index) = keys::log_index(chain, key) {
        assert_eq!(keys::log(chain, index), key);
    }
    let suffix = &key[8..];
    if let Some(record) = Meta::parse(suffix) {
        assert_eq!(keys::meta(chain, record), key);
    }
}
