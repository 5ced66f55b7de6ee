//! The ids of the chain's last transactions, and where they are.
//!
//! The window is a function of the chain alone: after each block it holds the last N transactions, so it is
//! equal on all nodes, and a restart finds it again from the records of the blocks it covers.
//!
//! Ids are kept as keys of fixed size. An id of up to 32 bytes is its own key, tagged with its length; a longer
//! one is represented by its SHA-256 under a tag of its own. Two ids share a key only if both are longer than
//! 32 bytes and collide under SHA-256, which nobody can bring about. The hash table is seeded by whoever opens
//! the ledger, so that nobody can choose ids that fall into one bucket; its order is never observed, so the
//! seed never shows in a result.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, DefaultHasher, Hash as StdHash, Hasher};
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::ledger::Location;
use crate::ids::Hash;

/// An id at a fixed size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct IdKey {
    /// Length of an id that is its own key; 0 for the digest of a longer one.
    tag: u8,
    bytes: [u8; 32],
}

impl IdKey {
    pub(super) fn of(id: &[u8]) -> Self {
        if id.is_empty() || id.len() > 32 {
            return Self { tag: 0, bytes: Sha256::digest(id).into() };
        }
        let mut bytes = [0; 32];
        bytes[..id.len()].copy_from_slice(id);
        Self { tag: id.len() as u8, bytes }
    }

    /// Appends the key's encoding: the tag, then as many bytes as it says (32 for a digest).
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.push(self.tag);
        buffer.extend_from_slice(&self.bytes[..self.encoded_bytes()]);
    }

    /// Reads one key from the front of `input` and moves on; `None` if it is not one.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let (&tag, rest) = input.split_first()?;
        let mut key = Self { tag, bytes: [0; 32] };
        if tag > 32 {
            return None;
        }
        let (content, rest) = rest.split_at_checked(key.encoded_bytes())?;
        key.bytes[..content.len()].copy_from_slice(content);
        *input = rest;
        Some(key)
    }

    fn encoded_bytes(&self) -> usize {
        if self.tag == 0 { 32 } else { usize::from(self.tag) }
    }
}

impl StdHash for IdKey {
    /// Without the tag: the hasher is fastest on whole words, and at most 33 keys share their bytes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.bytes);
    }
}

/// Builds hashers that all start from one seed.
#[derive(Clone)]
pub(super) struct Seeded(DefaultHasher);

impl Seeded {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed[0]);
        hasher.write_u64(seed[1]);
        Self(hasher)
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        self.0.clone()
    }
}

/// Where a transaction is, without the block's hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) height: u64,
    pub(super) index: u32,
}

/// A block that still has transactions in the window.
struct RecentBlock {
    hash: Hash,
    /// Its transactions that are still in the window.
    transactions: u32,
}

pub(super) struct Window {
    capacity: usize,
    places: HashMap<IdKey, Place, Seeded>,
    /// The keys in the chain's order.
    order: VecDeque<IdKey>,
    blocks: VecDeque<RecentBlock>,
    /// Height of the first of `blocks`.
    first_height: u64,
}

impl Window {
    /// An empty window before block 1 for `capacity` > 0 transactions.
    pub(super) fn new(capacity: usize, seed: [u64; 2]) -> Self {
        assert!(capacity > 0, "a window holds at least one transaction");
        Self {
            capacity,
            places: HashMap::with_hasher(Seeded::new(seed)),
            order: VecDeque::new(),
            blocks: VecDeque::new(),
            first_height: 1,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn place(&self, key: &IdKey) -> Option<Place> {
        self.places.get(key).copied()
    }

    pub(super) fn locate(&self, key: &IdKey) -> Option<Location> {
        let place = self.place(key)?;
        let block_hash = self.block_hash(place.height)?;
        Some(Location { height: place.height, index: place.index, block_hash })
    }

    /// Hash of a block that has transactions in the window.
    pub(super) fn block_hash(&self, height: u64) -> Option<Hash> {
        let offset = usize::try_from(height.checked_sub(self.first_height)?).ok()?;
        self.blocks.get(offset).map(|block| block.hash)
    }

    /// Makes room ahead of a block.
    pub(super) fn reserve(&mut self, transactions: usize) {
        self.places.reserve(transactions);
        self.order.reserve(transactions);
    }

    /// Adds the next transaction of the block that [`Window::seal`] will end; returns where the id is already, in
    /// which case nothing is added.
    pub(super) fn insert(&mut self, key: IdKey, place: Place) -> Option<Place> {
        match self.places.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => Some(*entry.get()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(place);
                self.order.push_back(key);
                None
            }
        }
    }

    /// Ends a block whose `transactions` > 0 transactions were inserted, and forgets what is beyond the capacity.
    /// Returns the heights that have nothing in the window any more.
    pub(super) fn seal(&mut self, height: u64, hash: Hash, transactions: u32) -> Range<u64> {
        if self.blocks.is_empty() {
            self.first_height = height;
        }
        assert_eq!(height, self.first_height + self.blocks.len() as u64, "blocks are sealed in order");
        self.blocks.push_back(RecentBlock { hash, transactions });
        let from = self.first_height;
        while self.order.len() > self.capacity {
            let key = self.order.pop_front().expect("longer than the capacity");
            self.places.remove(&key);
            let oldest = self.blocks.front_mut().expect("each transaction in the window has its block");
            oldest.transactions -= 1;
            if oldest.transactions == 0 {
                self.blocks.pop_front();
                self.first_height += 1;
            }
        }
        from..self.first_height
    }

    /// The keys of the last `transactions` transactions, in order.
    pub(super) fn newest(&self, transactions: usize) -> impl Iterator<Item = &IdKey> {
        self.order.range(self.order.len() - transactions..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u64; 2] = [1, 2];

    fn seal(window: &mut Window, height: u64, ids: &[&[u8]]) -> Range<u64> {
        for (index, id) in ids.iter().enumerate() {
            assert!(window.insert(IdKey::of(id), Place { height, index: index as u32 }).is_none());
        }
        window.seal(height, Hash([height as u8; 32]), ids.len() as u32)
    }

    #[test]
    fn a_key_is_injective_for_short_ids_and_apart_from_digests() {
        let long = [7u8; 40];
        let digest: [u8; 32] = Sha256::digest(long).into();
        let ids: [&[u8]; 7] = [b"a", b"a\0", b"a\0\0", &[0; 32], &[0; 31], &long, &digest];
        for (n, one) in ids.iter().enumerate() {
            for (m, other) in ids.iter().enumerate() {
                assert_eq!(IdKey::of(one) == IdKey::of(other), n == m, "{n} {m}");
            }
        }
    }

    #[test]
    fn encoded_keys_are_read_back_and_broken_ones_refused() {
        let ids: [&[u8]; 4] = [b"a", &[3; 32], &[4; 33], &[5; 64]];
        let mut encoded = Vec::new();
        for id in ids {
            IdKey::of(id).encode(&mut encoded);
        }
        let mut input = encoded.as_slice();
        for id in ids {
            assert!(IdKey::decode(&mut input).unwrap() == IdKey::of(id));
        }
        assert!(IdKey::decode(&mut input).is_none());
        assert!(IdKey::decode(&mut [33u8, 0].as_slice()).is_none());
        assert!(IdKey::decode(&mut [5u8, 0].as_slice()).is_none());
    }

    #[test]
    fn the_oldest_transactions_leave_one_by_one_and_blocks_when_they_are_empty() {
        let mut window = Window::new(4, SEED);
        assert_eq!(seal(&mut window, 1, &[b"a", b"b"]), 1..1);
        assert_eq!(seal(&mut window, 2, &[b"c"]), 1..1);
        assert_eq!(seal(&mut window, 3, &[b"d", b"e"]), 1..1);
        assert!(window.locate(&IdKey::of(b"a")).is_none());
        let b = window.locate(&IdKey::of(b"b")).unwrap();
        assert_eq!((b.height, b.index, b.block_hash), (1, 1, Hash([1; 32])));
        assert_eq!(seal(&mut window, 4, &[b"f", b"g"]), 1..3);
        assert_eq!(window.block_hash(2), None);
        assert_eq!(window.block_hash(3), Some(Hash([3; 32])));
        assert_eq!(seal(&mut window, 5, &[b"1", b"2", b"3", b"4", b"5", b"6"]), 3..5);
        assert_eq!(window.len(), 4);
        assert_eq!(window.locate(&IdKey::of(b"3")).unwrap().index, 2);
    }

    #[test]
    fn an_id_that_left_the_window_may_come_again() {
        let mut window = Window::new(1, SEED);
        seal(&mut window, 1, &[b"a"]);
        assert!(window.insert(IdKey::of(b"a"), Place { height: 2, index: 0 }).is_some());
        seal(&mut window, 2, &[b"b"]);
        seal(&mut window, 3, &[b"a"]);
        assert_eq!(window.locate(&IdKey::of(b"a")).unwrap().height, 3);
    }
}
