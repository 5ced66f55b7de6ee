//! Transactions that wait for a block, in memory only: a process that ends forgets them.
//!
//! The newest ones that are in a block are kept for a while, because other pools may still ask for them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::block::hash;

/// Bodies of transactions in blocks that are kept for others.
const RECENT_MAX: usize = 20_000;
/// Transactions that wait.
const WAITING_MAX: usize = 1_000_000;

/// A controller's transactions.
#[derive(Debug, Default)]
pub struct Pool {
    bodies: HashMap<Bytes, Bytes>,
    /// Hashes in the order in which they came; those that have left are skipped.
    order: VecDeque<Bytes>,
    recent: HashMap<Bytes, Bytes>,
    recent_order: VecDeque<Bytes>,
}

impl Pool {
    /// Takes a body, unless it is here or in a recent block, or the pool is full. Returns its hash.
    pub fn insert(&mut self, body: Bytes) -> Bytes {
        let hash = hash(&body);
        let is_new = !self.bodies.contains_key(&hash) && !self.recent.contains_key(&hash);
        if is_new && self.bodies.len() < WAITING_MAX {
            self.bodies.insert(hash.clone(), body);
            self.order.push_back(hash.clone());
        }
        hash
    }

    /// Whether a transaction waits here.
    pub fn contains(&self, hash: &Bytes) -> bool {
        self.bodies.contains_key(hash)
    }

    /// The body of a transaction that waits or is in a recent block.
    pub fn body(&self, hash: &Bytes) -> Option<Bytes> {
        self.bodies.get(hash).or_else(|| self.recent.get(hash)).cloned()
    }

    /// The hashes of at most `count` transactions that wait, oldest first.
    pub fn oldest(&mut self, count: usize) -> Vec<Bytes> {
        let Self { bodies, order, .. } = self;
        order.retain(|hash| bodies.contains_key(hash));
        order.iter().take(count).cloned().collect()
    }

    /// Takes out what a block contains.
    pub fn remove(&mut self, hashes: &[Bytes]) {
        for hash in hashes {
            let Some(body) = self.bodies.remove(hash) else { continue };
            self.recent.insert(hash.clone(), body);
            self.recent_order.push_back(hash.clone());
            if self.recent_order.len() > RECENT_MAX
                && let Some(oldest) = self.recent_order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Transactions that wait.
    pub fn len(&self) -> usize {
        self.bodies.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_of_a_block_leaves_and_does_not_come_back_but_can_be_asked_for() {
        let mut pool = Pool::default();
        let hashes = ["a", "b", "c"].map(|text| pool.insert(Bytes::from(text)));
        assert_eq!(pool.oldest(2), hashes[..2]);
        pool.remove(&hashes[..1]);
        pool.insert(Bytes::from("a"));
        assert_eq!(pool.oldest(9), hashes[1..]);
        assert_eq!(pool.body(&hashes[0]), Some(Bytes::from("a")));
        assert!(!pool.contains(&hashes[0]));
    }

    #[test]
    fn a_pool_that_is_cleared_knows_nothing() {
        let mut pool = Pool::default();
        let hash = pool.insert(Bytes::from("a"));
        pool.clear();
        assert_eq!((pool.len(), pool.body(&hash)), (0, None));
    }
}
