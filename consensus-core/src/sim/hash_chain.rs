//! A small application: a chain of hashes over blocks of transactions, with snapshots.
//!
//! Its whole state is one record: the tip, and each client's last transaction with its place. So it can do
//! what the production ledger does not: build a snapshot, be replaced by one, and let the log before it go.
//! A client has one transaction at a time, numbered from 1, so its last number tells repetitions apart.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::application::{Place, Submission};
use crate::ids::Hash;
use crate::mutant::{self, Mutant};
use crate::storage::{ApplicationWrite, EntryKind, LogEntry};

/// Key of the one record.
pub(super) const STATE_KEY: &[u8] = b"state";

/// Bytes of a transaction beside its payload.
pub(super) const FRAMING_BYTES: u64 = 20;

/// The application's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct HashChain {
    index: u64,
    height: u64,
    tip: Hash,
    clients: BTreeMap<u64, (u64, Place)>,
}

impl HashChain {
    /// From its record; the state before the first entry without one.
    pub(super) fn open(record: Option<Bytes>) -> Result<Self, String> {
        record.map_or_else(|| Ok(Self::default()), Self::decode)
    }

    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn height(&self) -> u64 {
        self.height
    }

    pub(super) fn tip(&self) -> Hash {
        self.tip
    }

    /// Where a transaction is, unless its client has a later one.
    pub(super) fn find(&self, client: u64, number: u64) -> Option<Place> {
        self.clients.get(&client).filter(|(last, _)| *last == number).map(|(_, place)| *place)
    }

    /// A client's last transaction; 0 before its first.
    pub(super) fn last(&self, client: u64) -> u64 {
        self.clients.get(&client).map_or(0, |(last, _)| *last)
    }

    /// The state of a chain that is founded at this index.
    pub(super) fn founding(index: u64) -> Self {
        Self { index, ..Self::default() }
    }

    /// Takes the next entry; the block's transactions if it makes one.
    pub(super) fn apply(&mut self, entry: &LogEntry) -> Result<Option<Vec<(u64, u64)>>, String> {
        if entry.index != self.index + 1 {
            return Err(format!("entry {} applied after {}", entry.index, self.index));
        }
        let fresh = match entry.kind {
            EntryKind::Normal => self.fresh(entry)?,
            EntryKind::ConfChange | EntryKind::ConfChangeV2 => Vec::new(),
        };
        self.index = entry.index;
        if fresh.is_empty() {
            return Ok(None);
        }
        self.height += 1;
        let mut hasher = Sha256::new();
        hasher.update(self.tip.as_bytes());
        hasher.update(self.height.to_be_bytes());
        for (client, number) in &fresh {
            hasher.update(client.to_be_bytes());
            hasher.update(number.to_be_bytes());
        }
        self.tip = Hash(hasher.finalize().into());
        for (position, (client, number)) in (0..).zip(&fresh) {
            let place = Place { height: self.height, position, hash: self.tip };
            self.clients.insert(*client, (*number, place));
        }
        Ok(Some(fresh))
    }

    fn fresh(&self, entry: &LogEntry) -> Result<Vec<(u64, u64)>, String> {
        let mut fresh: Vec<(u64, u64)> = Vec::new();
        for transaction in decode_transactions(&entry.data)? {
            let (client, number) = transaction;
            let known = self.clients.get(&client).is_some_and(|(last, _)| number <= *last);
            if !known && !fresh.contains(&transaction) {
                fresh.push(transaction);
            }
        }
        Ok(fresh)
    }

    /// Replaces the state by a snapshot's.
    pub(super) fn install(&mut self, index: u64, data: Bytes) -> Result<(), String> {
        *self = Self::decode(data)?;
        if self.index != index {
            return Err(format!("snapshot at {index} contains the state at {}", self.index));
        }
        Ok(())
    }

    /// The state as a snapshot and as a record.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(56 + self.clients.len() * 64);
        out.put_u64(self.index);
        out.put_u64(self.height);
        out.put_slice(self.tip.as_bytes());
        let forgets = mutant::is(Mutant::DedupNotInSnapshot);
        let clients = if forgets { &BTreeMap::new() } else { &self.clients };
        out.put_u64(clients.len() as u64);
        for (client, (number, place)) in clients {
            out.put_u64(*client);
            out.put_u64(*number);
            out.put_u64(place.height);
            out.put_u64(place.position);
            out.put_slice(place.hash.as_bytes());
        }
        out.freeze()
    }

    fn decode(mut data: Bytes) -> Result<Self, String> {
        let mut state = Self { index: word(&mut data)?, height: word(&mut data)?, ..Self::default() };
        state.tip = hash(&mut data)?;
        for _ in 0..word(&mut data)? {
            let (client, number) = (word(&mut data)?, word(&mut data)?);
            let (height, position) = (word(&mut data)?, word(&mut data)?);
            let place = Place { height, position, hash: hash(&mut data)? };
            state.clients.insert(client, (number, place));
        }
        Ok(state)
    }

    /// The record that makes this state durable.
    pub(super) fn record(&self) -> ApplicationWrite {
        ApplicationWrite { key: STATE_KEY.to_vec(), value: Some(self.encode()) }
    }
}

fn word(data: &mut Bytes) -> Result<u64, String> {
    data.try_get_u64().map_err(|error| format!("state record: {error}"))
}

fn hash(data: &mut Bytes) -> Result<Hash, String> {
    let mut hash = [0; 32];
    data.try_copy_to_slice(&mut hash).map_err(|error| format!("state record: {error}"))?;
    Ok(Hash(hash))
}

/// A block's transactions as the payload of an entry.
pub(super) fn encode_transactions(submissions: &[Submission]) -> Bytes {
    let mut out = BytesMut::new();
    for submission in submissions {
        out.put_u64(submission.client);
        out.put_u64(submission.number);
        out.put_u32(submission.bytes as u32);
        out.put_bytes(submission.number as u8, submission.bytes as usize);
    }
    out.freeze()
}

fn decode_transactions(mut data: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let mut transactions = Vec::new();
    while !data.is_empty() {
        if data.len() < FRAMING_BYTES as usize {
            return Err(format!("{} bytes after the last transaction", data.len()));
        }
        let (client, number, bytes) = (data.get_u64(), data.get_u64(), data.get_u32() as usize);
        if data.len() < bytes {
            return Err(format!("transaction of {bytes} bytes cut off at {}", data.len()));
        }
        data.advance(bytes);
        transactions.push((client, number));
    }
    Ok(transactions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, transactions: &[(u64, u64)]) -> LogEntry {
        let submissions: Vec<Submission> = transactions
            .iter()
            .map(|(client, number)| Submission { client: *client, number: *number, bytes: 3 })
            .collect();
        LogEntry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: encode_transactions(&submissions),
        }
    }

    #[test]
    fn a_repeated_transaction_is_left_out_and_found_where_it_was_first() {
        let mut chain = HashChain::default();
        assert_eq!(chain.apply(&entry(1, &[(1, 1), (2, 1)])).unwrap(), Some(vec![(1, 1), (2, 1)]));
        let place = chain.find(2, 1).unwrap();
        assert_eq!((place.height, place.position), (1, 1));
        assert_eq!(chain.apply(&entry(2, &[(2, 1)])).unwrap(), None);
        assert_eq!(chain.apply(&entry(3, &[(2, 1), (2, 2), (2, 2)])).unwrap(), Some(vec![(2, 2)]));
        assert_eq!(chain.height(), 2);
        assert_eq!(chain.find(2, 1), None, "its client has a later one");
        chain.apply(&entry(5, &[])).expect_err("a gap");
    }

    #[test]
    fn a_snapshot_gives_the_same_state_on_another_node() {
        let mut chain = HashChain::default();
        chain.apply(&entry(1, &[(1, 1), (2, 1)])).unwrap();
        let mut other = HashChain::default();
        other.install(1, chain.encode()).unwrap();
        assert_eq!(other, chain);
        other.install(2, chain.encode()).expect_err("it is the state at 1");
        HashChain::open(Some(chain.encode().slice(..40))).expect_err("cut off");
    }
}
