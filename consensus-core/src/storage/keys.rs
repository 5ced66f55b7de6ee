//! Where each record is: the layout of keys in the three column families.
//!
//! Every key of a chain is led by its [`ChainId`] (8 bytes), so that chains never mix and one range covers
//! a chain. Numbers are big-endian, so that byte order is numeric order.
//!
//! | family | key | record |
//! |---|---|---|
//! | `log` | chain, index | log entry |
//! | `meta` | chain, tag | identity `I`, hard state `H`, applied `A`, snapshot `S`, installing `N`, truncated `U`, high-water mark `W` |
//! | `meta` | chain, `T`, first index | the term that begins at that index |
//! | `meta` | chain, `P`, node | peer record |
//! | `meta` | `format` | format version of the whole store |
//! | `meta` | `round` | number of the newest round of writes of the whole store |
//! | `ledger` | chain, application's key | application's record |
//! | `ledger` | `round` | the same number again, the last write of each round |

use std::fmt;

use crate::ids::{ChainId, NodeId};

/// Length of the chain in front of each key.
pub const CHAIN_BYTES: usize = 8;

/// The store-wide record of the format version; shorter than any chain's key.
pub const FORMAT_KEY: &[u8] = b"format";

/// The store-wide record that numbers the rounds of writes; shorter than any chain's key.
pub const ROUND_KEY: &[u8] = b"round";

/// A column family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Log entries.
    Log,
    /// Everything else that Raft needs.
    Meta,
    /// The application's own records.
    Ledger,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::Ledger];

    /// The name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Ledger => "ledger",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record of the `meta` family within a chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Meta {
    /// [`Identity`](super::Identity).
    Identity,
    /// [`HardState`](super::HardState).
    HardState,
    /// [`Applied`](super::Applied).
    Applied,
    /// [`Snapshot`](super::Snapshot).
    Snapshot,
    /// Position of the snapshot that is durable and not yet installed.
    Installing,
    /// Position before the first kept entry.
    Truncated,
    /// Position of the last entry, as the newest change of the log's end recorded it.
    HighWater,
    /// Position at which a term begins.
    TermStart(u64),
    /// [`PeerRecord`](super::PeerRecord).
    Peer(NodeId),
}

impl Meta {
    const TERM_START: u8 = b'T';
    const PEER: u8 = b'P';

    const fn tag(self) -> u8 {
        match self {
            Self::Identity => b'I',
            Self::HardState => b'H',
            Self::Applied => b'A',
            Self::Snapshot => b'S',
            Self::Installing => b'N',
            Self::Truncated => b'U',
            Self::HighWater => b'W',
            Self::TermStart(_) => Self::TERM_START,
            Self::Peer(_) => Self::PEER,
        }
    }

    /// The record that a key (without its chain) names; `None` if it names none.
    pub fn parse(suffix: &[u8]) -> Option<Self> {
        let (&tag, rest) = suffix.split_first()?;
        let number = || rest.try_into().ok().map(u64::from_be_bytes);
        match tag {
            Self::TERM_START => Some(Self::TermStart(number()?)),
            Self::PEER => Some(Self::Peer(NodeId::new(number()?)?)),
            _ if !rest.is_empty() => None,
            b'I' => Some(Self::Identity),
            b'H' => Some(Self::HardState),
            b'A' => Some(Self::Applied),
            b'S' => Some(Self::Snapshot),
            b'N' => Some(Self::Installing),
            b'U' => Some(Self::Truncated),
            b'W' => Some(Self::HighWater),
            _ => None,
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::HardState => f.write_str("hard state"),
            Self::Applied => f.write_str("applied"),
            Self::Snapshot => f.write_str("snapshot"),
            Self::Installing => f.write_str("installing mark"),
            Self::Truncated => f.write_str("truncated"),
            Self::HighWater => f.write_str("high-water mark"),
            Self::TermStart(index) => write!(f, "term start {index}"),
            Self::Peer(node) => write!(f, "peer {node}"),
        }
    }
}

/// Key of a log entry.
pub fn log(chain: ChainId, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..CHAIN_BYTES].copy_from_slice(&chain.to_be_bytes());
    key[CHAIN_BYTES..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index of a log key; `None` if it is no log key of `chain`.
pub fn log_index(chain: ChainId, key: &[u8]) -> Option<u64> {
    let suffix = key.strip_prefix(&chain.to_be_bytes())?;
    suffix.try_into().ok().map(u64::from_be_bytes)
}

/// Key of a `meta` record.
pub fn meta(chain: ChainId, record: Meta) -> Vec<u8> {
    let mut key = Vec::with_capacity(CHAIN_BYTES + 9);
    key.extend_from_slice(&chain.to_be_bytes());
    key.push(record.tag());
    match record {
        Meta::TermStart(index) => key.extend_from_slice(&index.to_be_bytes()),
        Meta::Peer(node) => key.extend_from_slice(&node.get().to_be_bytes()),
        _ => {}
    }
    key
}

/// Range of a chain's term starts, end exclusive.
pub fn term_starts(chain: ChainId) -> (Vec<u8>, Vec<u8>) {
    tag_range(chain, Meta::TERM_START)
}

/// Range of a chain's peer records, end exclusive.
pub fn peers(chain: ChainId) -> (Vec<u8>, Vec<u8>) {
    tag_range(chain, Meta::PEER)
}

/// Range of all keys of a chain in any family; `None` as end means "to the end of the family".
pub fn chain_range(chain: ChainId) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = chain.to_be_bytes();
    let end = u64::from_be_bytes(start).checked_add(1).map(|next| next.to_be_bytes().to_vec());
    (start.to_vec(), end)
}

/// Key of an application's record.
pub fn ledger(chain: ChainId, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(CHAIN_BYTES + key.len());
    full.extend_from_slice(&chain.to_be_bytes());
    full.extend_from_slice(key);
    full
}

/// The chain that leads a key; `None` for store-wide records.
pub fn chain_of(key: &[u8]) -> Option<ChainId> {
    key.first_chunk().copied().map(ChainId::from_be_bytes)
}

/// A key as people read it, e.g. `log 17 of chain main`. Without a name the chain's id stands for it.
pub fn describe(family: Family, key: &[u8], chain_name: Option<&str>) -> String {
    let Some(chain) = chain_of(key) else {
        return match (family, key) {
            (Family::Meta, FORMAT_KEY) => "format of the store".to_owned(),
            (Family::Meta | Family::Ledger, ROUND_KEY) => "round of the store".to_owned(),
            _ => format!("{family} key {}", hex::encode(key)),
        };
    };
    let suffix = &key[CHAIN_BYTES..];
    let record = match family {
        Family::Log => match log_index(chain, key) {
            Some(index) => format!("log {index}"),
            None => format!("log key {}", hex::encode(suffix)),
        },
        Family::Meta => match Meta::parse(suffix) {
            Some(record) => record.to_string(),
            None => format!("meta key {}", hex::encode(suffix)),
        },
        Family::Ledger => format!("ledger key {}", hex::encode(suffix)),
    };
    match chain_name {
        Some(name) => format!("{record} of chain {name}"),
        None => format!("{record} of chain {chain}"),
    }
}

fn tag_range(chain: ChainId, tag: u8) -> (Vec<u8>, Vec<u8>) {
    let bound = |tag| {
        let mut key = chain.to_be_bytes().to_vec();
        key.push(tag);
        key
    };
    (bound(tag), bound(tag + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_meta_key_parses_back() {
        let chain = ChainId::derive("main", 1);
        let node = NodeId::new(7).expect("not 0");
        for record in [
            Meta::Identity,
            Meta::HardState,
            Meta::Applied,
            Meta::Snapshot,
            Meta::Installing,
            Meta::Truncated,
            Meta::HighWater,
            Meta::TermStart(u64::MAX),
            Meta::Peer(node),
        ] {
            let key = meta(chain, record);
            assert_eq!(chain_of(&key), Some(chain));
            assert_eq!(Meta::parse(&key[CHAIN_BYTES..]), Some(record));
        }
    }

    #[test]
    fn log_keys_order_as_their_indexes() {
        let chain = ChainId::derive("main", 1);
        assert!(log(chain, 255) < log(chain, 256));
        assert_eq!(log_index(chain, &log(chain, 256)), Some(256));
        assert_eq!(log_index(ChainId::derive("other", 1), &log(chain, 256)), None);
    }

    #[test]
    fn people_read_the_index_and_the_name_of_the_chain() {
        let chain = ChainId::derive("main", 1);
        assert_eq!(describe(Family::Log, &log(chain, 17), Some("main")), "log 17 of chain main");
        assert_eq!(
            describe(Family::Meta, &meta(chain, Meta::HardState), None),
            format!("hard state of chain {chain}")
        );
        assert_eq!(describe(Family::Meta, FORMAT_KEY, None), "format of the store");
        assert_eq!(describe(Family::Log, b"ab", None), "log key 6162");
    }
}
