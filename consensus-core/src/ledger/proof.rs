//! The data hash of a block, and proofs that a transaction is in it.
//!
//! The data hash is a Merkle tree over SHA-256. The first byte of what is hashed says what it is, so that a
//! leaf can never pass for an inner node; lengths stand before what they measure, so that an id and a payload
//! cannot be divided differently; and the number of transactions is part of the hash. All numbers are
//! big-endian.
//!
//! * leaf: `0`, id length (4 bytes), id, payload length (8 bytes), payload
//! * inner node: `1`, left hash, right hash
//! * data hash: `2`, number of transactions (8 bytes), hash of the root (32 zero bytes without transactions)
//!
//! A tree of n > 1 leaves has the largest power of two below n on its left side and the rest on its right
//! side. Nothing is ever hashed twice to fill a level.

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::block::{Header, Transaction};
use crate::ids::Hash;

const LEAF: u8 = 0;
const NODE: u8 = 1;
const ROOT: u8 = 2;

/// Everything that shows that a transaction is in a block, to a reader who trusts `block_hash`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InclusionProof {
    /// The transaction.
    pub transaction: Transaction,
    /// Its position within the block.
    pub index: u32,
    /// Transactions in the block.
    pub transactions: u32,
    /// Sibling hashes from the leaf up.
    pub path: Vec<Hash>,
    /// The block's header.
    pub header: Header,
    /// The header's hash.
    pub block_hash: Hash,
}

/// Why a proof shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProofError {
    /// The header is not the one of the block.
    #[error("header hashes to {found}, the proof is for block {expected}")]
    Header {
        /// The proof's block.
        expected: Hash,
        /// What the header hashes to.
        found: Hash,
    },
    /// The path does not lead from the transaction to the data hash.
    #[error("the path does not lead from the transaction at {index} of {transactions} to the data hash")]
    Path {
        /// Claimed position.
        index: u32,
        /// Claimed number of transactions.
        transactions: u32,
    },
}

impl InclusionProof {
    /// Checks the proof against its own `block_hash`, which the caller must know to be in the chain.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self) -> Result<(), ProofError> {
        let found = self.header.hash();
        if found != self.block_hash {
            return Err(ProofError::Header { expected: self.block_hash, found });
        }
        let Self { index, transactions, .. } = *self;
        if verify(&self.transaction, index, transactions, &self.path, &self.header.data_hash) {
            Ok(())
        } else {
            Err(ProofError::Path { index, transactions })
        }
    }
}

/// The data hash of a block.
pub fn data_hash(transactions: &[Transaction]) -> Hash {
    // Complete subtrees from left to right; their sizes are the binary digits of the number of leaves so far.
    let mut subtrees: Vec<Hash> =
        Vec::with_capacity(transactions.len().checked_ilog2().unwrap_or(0) as usize + 2);
    for (position, transaction) in transactions.iter().enumerate() {
        let mut hash = leaf_hash(&transaction.id, &transaction.payload);
        let mut before = position;
        while before & 1 == 1 {
            let left = subtrees.pop().expect("an odd number of leaves before means a subtree to the left");
            hash = node_hash(&left, &hash);
            before >>= 1;
        }
        subtrees.push(hash);
    }
    let mut root = subtrees.pop().unwrap_or_default();
    while let Some(left) = subtrees.pop() {
        root = node_hash(&left, &root);
    }
    root_hash(transactions.len() as u64, &root)
}

/// The sibling hashes of the leaf at `index`, from the leaf up; `None` beyond the last transaction.
pub fn path(transactions: &[Transaction], index: u32) -> Option<Vec<Hash>> {
    let mut index = index as usize;
    if index >= transactions.len() {
        return None;
    }
    let leaves: Vec<Hash> = transactions.iter().map(|t| leaf_hash(&t.id, &t.payload)).collect();
    let mut subtree = leaves.as_slice();
    let mut path = Vec::new();
    while subtree.len() > 1 {
        let (left, right) = subtree.split_at(left_leaves(subtree.len()));
        if index < left.len() {
            path.push(subtree_hash(right));
            subtree = left;
        } else {
            path.push(subtree_hash(left));
            index -= left.len();
            subtree = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` leads from the transaction at `index` of `transactions` to `data_hash`.
pub fn verify(
    transaction: &Transaction,
    index: u32,
    transactions: u32,
    path: &[Hash],
    data_hash: &Hash,
) -> bool {
    if index >= transactions {
        return false;
    }
    let (mut index, mut leaves) = (index as usize, transactions as usize);
    let mut turns = Vec::with_capacity(path.len());
    while leaves > 1 {
        let left = left_leaves(leaves);
        let turn_right = index >= left;
        turns.push(turn_right);
        (index, leaves) = if turn_right { (index - left, leaves - left) } else { (index, left) };
    }
    if turns.len() != path.len() {
        return false;
    }
    let mut hash = leaf_hash(&transaction.id, &transaction.payload);
    for (sibling, turn_right) in path.iter().zip(turns.into_iter().rev()) {
        hash = if turn_right { node_hash(sibling, &hash) } else { node_hash(&hash, sibling) };
    }
    root_hash(u64::from(transactions), &hash) == *data_hash
}

/// Leaves on the left side of a tree of `leaves` > 1: the largest power of two below it.
fn left_leaves(leaves: usize) -> usize {
    1 << (leaves - 1).ilog2()
}

fn subtree_hash(leaves: &[Hash]) -> Hash {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(left_leaves(leaves.len()));
    node_hash(&subtree_hash(left), &subtree_hash(right))
}

fn leaf_hash(id: &[u8], payload: &[u8]) -> Hash {
    let mut front = [LEAF; 5];
    front[1..].copy_from_slice(&(id.len() as u32).to_be_bytes());
    let mut hasher = Sha256::new();
    hasher.update(front);
    hasher.update(id);
    hasher.update((payload.len() as u64).to_be_bytes());
    hasher.update(payload);
    Hash(hasher.finalize().into())
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut layout = [NODE; 65];
    layout[1..33].copy_from_slice(left.as_bytes());
    layout[33..].copy_from_slice(right.as_bytes());
    Hash(Sha256::digest(layout).into())
}

fn root_hash(transactions: u64, root: &Hash) -> Hash {
    let mut layout = [ROOT; 41];
    layout[1..9].copy_from_slice(&transactions.to_be_bytes());
    layout[9..].copy_from_slice(root.as_bytes());
    Hash(Sha256::digest(layout).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transactions(count: usize) -> Vec<Transaction> {
        (0..count)
            .map(|n| Transaction { id: format!("id {n}").into(), payload: format!("payload {n}").into() })
            .collect()
    }

    fn proof_of(all: &[Transaction], index: u32) -> InclusionProof {
        let header = Header {
            number: 7,
            previous_hash: Hash([7; 32]),
            data_hash: data_hash(all),
            timestamp_ms: 1_700_000_000_000,
        };
        InclusionProof {
            transaction: all[index as usize].clone(),
            index,
            transactions: all.len() as u32,
            path: path(all, index).unwrap(),
            header,
            block_hash: header.hash(),
        }
    }

    /// The bytes of a proof that a verifier does not know already, and the way back.
    fn flip(proof: &InclusionProof, bit: usize) -> Option<InclusionProof> {
        let mut flipped = proof.clone();
        let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
        let mut id = proof.transaction.id.to_vec();
        let mut payload = proof.transaction.payload.to_vec();
        let id_bytes = id.len();
        let rest = byte.checked_sub(id_bytes + payload.len());
        match rest {
            None if byte < id_bytes => id[byte] ^= mask,
            None => payload[byte - id_bytes] ^= mask,
            Some(rest @ 0..4) => flipped.index ^= u32::from(mask) << (8 * rest),
            Some(rest @ 4..8) => flipped.transactions ^= u32::from(mask) << (8 * (rest - 4)),
            Some(rest @ 8..16) => flipped.header.number ^= u64::from(mask) << (8 * (rest - 8)),
            Some(rest @ 16..24) => flipped.header.timestamp_ms ^= u64::from(mask) << (8 * (rest - 16)),
            Some(rest @ 24..56) => flipped.header.previous_hash.0[rest - 24] ^= mask,
            Some(rest @ 56..88) => flipped.header.data_hash.0[rest - 56] ^= mask,
            Some(rest @ 88..120) => flipped.block_hash.0[rest - 88] ^= mask,
            Some(rest) => flipped.path.get_mut((rest - 120) / 32)?.0[(rest - 120) % 32] ^= mask,
        }
        flipped.transaction = Transaction { id: id.into(), payload: payload.into() };
        Some(flipped)
    }

    #[test]
    fn every_position_of_every_small_block_is_proved() {
        for count in 1..=70 {
            let all = transactions(count);
            assert_eq!(
                data_hash(&all),
                root_hash(
                    count as u64,
                    &subtree_hash(&all.iter().map(|t| leaf_hash(&t.id, &t.payload)).collect::<Vec<_>>())
                )
            );
            for index in 0..count as u32 {
                assert_eq!(proof_of(&all, index).verify(), Ok(()), "{index} of {count}");
            }
            assert_eq!(path(&all, count as u32), None);
        }
    }

    #[test]
    fn any_flipped_bit_of_a_proof_makes_it_fail() {
        for (count, index) in [(1, 0), (2, 1), (3, 2), (5, 4), (13, 6)] {
            let all = transactions(count);
            let proof = proof_of(&all, index);
            let mut bit = 0;
            while let Some(flipped) = flip(&proof, bit) {
                assert!(flipped.verify().is_err(), "bit {bit} of the proof of {index} of {count}");
                bit += 1;
            }
            assert!(bit > 8 * 120);
        }
    }

    #[test]
    fn a_proof_for_another_position_or_number_of_transactions_fails() {
        for count in 1..=20u32 {
            let all = transactions(count as usize);
            for index in 0..count {
                let proof = proof_of(&all, index);
                for other_count in 0..=24 {
                    for other_index in 0..=24 {
                        if (other_index, other_count) != (index, count) {
                            let other = InclusionProof {
                                index: other_index,
                                transactions: other_count,
                                ..proof.clone()
                            };
                            assert!(other.verify().is_err());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_path_that_is_too_short_or_too_long_fails() {
        let proof = proof_of(&transactions(9), 3);
        let mut short = proof.clone();
        short.path.pop();
        assert!(short.verify().is_err());
        let mut long = proof;
        long.path.push(Hash::default());
        assert!(long.verify().is_err());
    }

    #[test]
    fn the_border_between_id_and_payload_counts() {
        let one = [Transaction { id: "ab".into(), payload: "c".into() }];
        let other = [Transaction { id: "a".into(), payload: "bc".into() }];
        assert_ne!(data_hash(&one), data_hash(&other));
    }

    #[test]
    fn a_last_transaction_is_not_the_same_as_the_last_transaction_twice() {
        let mut all = transactions(3);
        let hash = data_hash(&all);
        all.push(all[2].clone());
        assert_ne!(hash, data_hash(&all));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn proofs_hold_for_any_content_and_fail_for_any_other(
            all in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 1..=64), proptest::collection::vec(any::<u8>(), 1..200)),
                1..=70,
            ),
            position: proptest::sample::Index,
            bit: proptest::sample::Index,
        ) {
            let all: Vec<_> = all
                .into_iter()
                .map(|(id, payload)| Transaction { id: id.into(), payload: payload.into() })
                .collect();
            let proof = proof_of(&all, position.index(all.len()) as u32);
            prop_assert_eq!(proof.verify(), Ok(()));
            let bytes = proof.transaction.id.len() + proof.transaction.payload.len() + 120 + 32 * proof.path.len();
            let flipped = flip(&proof, bit.index(8 * bytes)).expect("within the proof");
            prop_assert!(flipped.verify().is_err());
        }
    }
}
