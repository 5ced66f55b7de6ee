//! Blocks: what a transaction, a header and a block are, and how they are hashed and put into log entries.
//!
//! A log entry of a ledger chain is one encoded `BlockProposal`: the body of a block before it has a
//! number. Everything else of a block is derived when the entry is applied, the same on every node.
//!
//! **Header hash** (`native`): SHA-256 over 96 bytes.
//!
//! | bytes  | content                                |
//! |--------|----------------------------------------|
//! | 0..16  | the ASCII text `consensus/block1`      |
//! | 16..24 | number, big-endian                     |
//! | 24..56 | previous hash                          |
//! | 56..88 | data hash, see [`proof`]              |
//! | 88..96 | timestamp in milliseconds, big-endian  |
//!
//! **Genesis hash**, the previous hash of block 1: SHA-256 over the ASCII text `consensus/genes1`, one
//! byte for the hash rule (`native`: 1), the rule's window of transaction ids (8 bytes), the length of the
//! cluster's name (4 bytes) and the name, the same for the chain's name, the incarnation (8 bytes), the number
//! of voters (4 bytes) and each voter (8 bytes) in ascending order. All numbers are big-endian.

use bytes::{Bytes, BytesMut};
use consensus_proto::records;
use prost::Message as _;
use prost::encoding;
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use consensus_proto::records::{BlockProposal, Transaction};

use super::proof;
use crate::ids::Hash;
use crate::limits::TRANSACTION_ID_BYTES_MAX;

const BLOCK_DOMAIN: &[u8; 16] = b"consensus/block1";
const GENESIS_DOMAIN: &[u8; 16] = b"consensus/genes1";

/// How many of the chain's last transactions are remembered by id under [`HashRule::Native`].
pub const DEDUP_WINDOW_TRANSACTIONS: usize = 1 << 18;

/// How a chain's blocks are hashed, and which rules their content follows. A parameter of the chain, fixed for
/// its life and part of the genesis hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashRule {
    /// SHA-256 over fixed layouts, a Merkle data hash with inclusion proofs, and transaction ids that are unique
    /// among the last [`DEDUP_WINDOW_TRANSACTIONS`] transactions.
    #[default]
    Native,
}

impl HashRule {
    /// The rule's name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
        }
    }

    /// The rule of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        (name == Self::Native.as_str()).then_some(Self::Native)
    }

    /// Commits to a block's transactions and their order.
    pub fn data_hash(self, transactions: &[Transaction]) -> Hash {
        match self {
            Self::Native => proof::data_hash(transactions),
        }
    }

    /// Commits to a header and thereby to everything before it.
    pub fn header_hash(self, header: &Header) -> Hash {
        match self {
            Self::Native => header.hash(),
        }
    }
}

/// What a block says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Height; 1 is the first block.
    pub number: u64,
    /// Hash of the block before; of block 1 the genesis hash.
    pub previous_hash: Hash,
    /// Commits to the transactions.
    pub data_hash: Hash,
    /// The proposer's Unix time in milliseconds, never below the previous block's.
    pub timestamp_ms: u64,
}

impl Header {
    /// The native header hash; layout in the module's documentation.
    pub fn hash(&self) -> Hash {
        let mut layout = [0; 96];
        layout[..16].copy_from_slice(BLOCK_DOMAIN);
        layout[16..24].copy_from_slice(&self.number.to_be_bytes());
        layout[24..56].copy_from_slice(self.previous_hash.as_bytes());
        layout[56..88].copy_from_slice(self.data_hash.as_bytes());
        layout[88..].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        Hash(Sha256::digest(layout).into())
    }

    /// The record of this header.
    pub fn to_record(&self) -> records::BlockHeader {
        records::BlockHeader {
            number: self.number,
            previous_hash: Bytes::copy_from_slice(self.previous_hash.as_bytes()),
            data_hash: Bytes::copy_from_slice(self.data_hash.as_bytes()),
            timestamp_ms: self.timestamp_ms,
        }
    }

    /// The header in a record; `None` if a hash does not have 32 bytes.
    pub fn from_record(record: &records::BlockHeader) -> Option<Self> {
        Some(Self {
            number: record.number,
            previous_hash: Hash::from_slice(&record.previous_hash)?,
            data_hash: Hash::from_slice(&record.data_hash)?,
            timestamp_ms: record.timestamp_ms,
        })
    }
}

/// A block of the chain. Its transactions share the buffer of the log entry that they came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The header's hash.
    pub hash: Hash,
    /// The transactions in order; never empty.
    pub transactions: Vec<Transaction>,
}

/// Why a transaction can never be in a block.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidTransaction {
    /// The id is empty or too long.
    #[error("transaction id of {bytes} bytes, must be between 1 and {TRANSACTION_ID_BYTES_MAX}")]
    IdLength {
        /// Its length.
        bytes: u64,
    },
    /// There is nothing to order.
    #[error("transaction payload is empty")]
    PayloadEmpty,
    /// Id and payload together are too long.
    #[error("transaction of {bytes} bytes, must be at most {bound} (absolute_bytes)")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The bound.
        bound: u64,
    },
}

/// Why an entry's payload is no block proposal.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ProposalError {
    /// Not an encoded `BlockProposal`.
    #[error("{bytes} bytes do not decode as a block proposal: {cause}")]
    Undecodable {
        /// Length of the payload.
        bytes: u64,
        /// The decoder's words.
        cause: String,
    },
    /// One of its transactions breaks a rule.
    #[error("transaction {position} of the proposal: {cause}")]
    Transaction {
        /// Position within the proposal, from 0.
        position: u32,
        /// The rule.
        cause: InvalidTransaction,
    },
}

/// Checks what every transaction in a chain must satisfy, whatever the chain's size limits.
///
/// # Errors
/// The rule that it breaks.
pub fn check_transaction(transaction: &Transaction) -> Result<(), InvalidTransaction> {
    let bytes = transaction.id.len();
    if bytes == 0 || bytes > TRANSACTION_ID_BYTES_MAX {
        return Err(InvalidTransaction::IdLength { bytes: bytes as u64 });
    }
    if transaction.payload.is_empty() {
        return Err(InvalidTransaction::PayloadEmpty);
    }
    Ok(())
}

/// Bytes of a transaction as every size limit counts them: id and payload.
pub fn transaction_bytes(transaction: &Transaction) -> u64 {
    (transaction.id.len() + transaction.payload.len()) as u64
}

/// The id of a transaction that was submitted without one: SHA-256 of its payload.
pub fn id_of_payload(payload: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(payload))
}

/// What all nodes of a chain agree on before the first entry; layout in the module's documentation.
///
/// `voters` are the chain's first members, in any order.
pub fn genesis_hash(cluster: &str, chain: &str, incarnation: u64, voters: &[u64], rule: HashRule) -> Hash {
    let (rule_byte, window) = match rule {
        HashRule::Native => (1u8, DEDUP_WINDOW_TRANSACTIONS as u64),
    };
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    voters.dedup();
    let mut hasher = Sha256::new();
    hasher.update(GENESIS_DOMAIN);
    hasher.update([rule_byte]);
    hasher.update(window.to_be_bytes());
    for name in [cluster, chain] {
        hasher.update((name.len() as u32).to_be_bytes());
        hasher.update(name.as_bytes());
    }
    hasher.update(incarnation.to_be_bytes());
    hasher.update((voters.len() as u32).to_be_bytes());
    for voter in voters {
        hasher.update(voter.to_be_bytes());
    }
    Hash(hasher.finalize().into())
}

/// The payload of the log entry for one batch: an encoded `BlockProposal`, in one allocation of its exact size
/// and one copy of each transaction. `timestamp_ms` is the proposer's Unix time.
pub fn encode_proposal(timestamp_ms: u64, transactions: &[Transaction]) -> Bytes {
    let timestamp = if timestamp_ms == 0 { 0 } else { encoding::uint64::encoded_len(1, &timestamp_ms) };
    let bytes = timestamp + encoding::message::encoded_len_repeated(2, transactions);
    let mut buffer = BytesMut::with_capacity(bytes);
    if timestamp_ms != 0 {
        encoding::uint64::encode(1, &timestamp_ms, &mut buffer);
    }
    encoding::message::encode_repeated(2, transactions, &mut buffer);
    assert_eq!(buffer.len(), bytes, "the computed size is the encoded size");
    buffer.freeze()
}

/// Reads an entry's payload; ids and payloads share its buffer.
///
/// # Errors
/// [`ProposalError`] if it does not decode or holds a transaction that breaks a rule.
pub fn decode_proposal(data: Bytes) -> Result<BlockProposal, ProposalError> {
    let bytes = data.len() as u64;
    let proposal = BlockProposal::decode(data)
        .map_err(|error| ProposalError::Undecodable { bytes, cause: error.to_string() })?;
    for (position, transaction) in proposal.transactions.iter().enumerate() {
        check_transaction(transaction)
            .map_err(|cause| ProposalError::Transaction { position: position as u32, cause })?;
    }
    Ok(proposal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(id: &'static str, payload: &'static str) -> Transaction {
        Transaction { id: Bytes::from_static(id.as_bytes()), payload: Bytes::from_static(payload.as_bytes()) }
    }

    #[test]
    fn a_proposal_is_encoded_exactly_like_its_schema_in_one_exact_allocation() {
        for (timestamp_ms, count) in [(0, 0), (0, 3), (1, 0), (1_700_000_000_000, 600)] {
            let transactions: Vec<_> = (0..count)
                .map(|n| Transaction {
                    id: format!("id-{n}").into(),
                    payload: vec![n as u8; 1 + n * 3].into(),
                })
                .collect();
            let expected = BlockProposal { timestamp_ms, transactions: transactions.clone() };
            let encoded = encode_proposal(timestamp_ms, &transactions);
            assert_eq!(encoded, expected.encode_to_vec());
            assert_eq!(decode_proposal(encoded).unwrap(), expected);
        }
    }

    #[test]
    fn a_decoded_transaction_shares_the_entrys_buffer() {
        let encoded = encode_proposal(7, &[transaction("a", "first"), transaction("b", "second")]);
        let range = encoded.as_ptr() as usize..encoded.as_ptr() as usize + encoded.len();
        for transaction in decode_proposal(encoded).unwrap().transactions {
            assert!(range.contains(&(transaction.id.as_ptr() as usize)));
            assert!(range.contains(&(transaction.payload.as_ptr() as usize)));
        }
    }

    #[test]
    fn garbage_and_broken_rules_do_not_decode_and_say_why() {
        let error = decode_proposal(Bytes::from_static(b"\xff\xff\xff")).unwrap_err().to_string();
        assert!(error.starts_with("3 bytes do not decode as a block proposal: "), "{error}");
        let bad_id = encode_proposal(1, &[transaction("a", "x"), transaction("", "x")]);
        assert_eq!(
            decode_proposal(bad_id).unwrap_err().to_string(),
            "transaction 1 of the proposal: transaction id of 0 bytes, must be between 1 and 64"
        );
        let empty = encode_proposal(1, &[transaction("a", "")]);
        assert_eq!(
            decode_proposal(empty).unwrap_err().to_string(),
            "transaction 0 of the proposal: transaction payload is empty"
        );
    }

    #[test]
    fn the_header_hash_covers_every_field_in_the_documented_layout() {
        let header =
            Header { number: 3, previous_hash: Hash([1; 32]), data_hash: Hash([2; 32]), timestamp_ms: 9 };
        let mut layout = b"consensus/block1".to_vec();
        layout.extend(3u64.to_be_bytes());
        layout.extend([1; 32]);
        layout.extend([2; 32]);
        layout.extend(9u64.to_be_bytes());
        assert_eq!(header.hash().0, <[u8; 32]>::from(Sha256::digest(&layout)));
        let others = [
            Header { number: 4, ..header },
            Header { previous_hash: Hash([3; 32]), ..header },
            Header { data_hash: Hash([3; 32]), ..header },
            Header { timestamp_ms: 10, ..header },
        ];
        for other in others {
            assert_ne!(other.hash(), header.hash());
        }
        assert_eq!(Header::from_record(&header.to_record()), Some(header));
    }

    #[test]
    fn the_genesis_hash_depends_on_every_part_and_not_on_the_order_of_voters() {
        let hash = genesis_hash("c", "main", 1, &[1, 2, 3], HashRule::Native);
        assert_eq!(hash, genesis_hash("c", "main", 1, &[3, 1, 2], HashRule::Native));
        let others = [
            genesis_hash("d", "main", 1, &[1, 2, 3], HashRule::Native),
            genesis_hash("c", "mair", 1, &[1, 2, 3], HashRule::Native),
            genesis_hash("cm", "ain", 1, &[1, 2, 3], HashRule::Native),
            genesis_hash("c", "main", 2, &[1, 2, 3], HashRule::Native),
            genesis_hash("c", "main", 1, &[1, 2], HashRule::Native),
        ];
        for other in others {
            assert_ne!(hash, other);
        }
    }

    #[test]
    fn a_rule_is_found_by_its_name() {
        assert_eq!(HashRule::parse(HashRule::Native.as_str()), Some(HashRule::Native));
        assert_eq!(HashRule::parse("fabric"), None);
    }
}
