//! The JSON that programs may rely on.
//!
//! Every document has a field `schema`, `consensus-cli/NAME/1`; fields are only ever added under the same
//! number. Conventions: hashes and incarnations are lower-case hexadecimal; ids and payloads are text, or
//! `hex:` and digits where they are not ([`super::text::show`]); times end in `_ms` and are Unix
//! milliseconds, 0 for never; what does not exist is `null`, never left out. A document is one line, and
//! commands that print many (`blocks`, `deliver`) print one per line.
//!
//! | schema | printed by | fields |
//! |---|---|---|
//! | `dump` | `dump` | `directory`, `chains[]`: `identity`, `hard_state`, `applied`, `installing`, `snapshot`, `cita`, `log`, `entries[]` |
//! | `hard-state` | `hard-state` | `directory`, `chains[]`: `identity`, `hard_state` |
//! | `snapshot` | `snapshot` | `directory`, `chains[]`: `identity`, `snapshot`, `cita` |
//! | `peers` | `peers` | `directory`, `chains[]`: `identity`, `peers[]` |
//! | `verify` | `verify` | `directory`, `clean`, `findings[]`, `audit`, `chains[]`: `identity`, `checked`, `note`, `findings[]` |
//! | `audit` | `audit` | see `commands::audit` |
//! | `certs`, `certs-made` | `certs` | see `commands::certs` |
//! | `block` | `blocks`, `deliver`, `block` | [`Block`] |
//! | `transaction` | `tx` | `node`, `id`, `state`, `height`, `index`, `block_hash` |
//! | `proof` | `prove` | `node`, `id`, `valid`, `problem`, `height`, `index`, `transactions`, `block_hash`, `data_hash`, `path[]`, `payload` |
//! | `tip` | `tip` | `node`, `height`, `hash`, `timestamp_ms`, `transactions`, `linearizable` |
//! | `status` | `status` | `nodes[]`, `leader`, `agree`, `compared_at_height`, `findings[]` |
//! | `void-block` | `void-block` | `node`, `height`, `without[]`, `counts_for_ms` |
//! | `submit` | `submit` | see `commands::submit` |
//! | `bench` | `bench` | see `commands::bench` |

use std::io::Write;

use consensus_core::ids::Hash;
use consensus_core::storage;
use consensus_proto::{ordering, records};
use serde::Serialize;

use super::text;

/// Writes one document on a line of its own.
pub(crate) fn line<T: Serialize>(out: &mut dyn Write, document: &T) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, document).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// Who owns a chain's data.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) chain: String,
    pub(crate) chain_incarnation: u64,
    pub(crate) chain_id: String,
    pub(crate) node_id: u64,
    pub(crate) store_incarnation: String,
    pub(crate) genesis_hash: String,
    pub(crate) created_at_ms: u64,
}

impl From<&storage::Identity> for Identity {
    fn from(identity: &storage::Identity) -> Self {
        Self {
            cluster: identity.cluster.clone(),
            chain: identity.chain.clone(),
            chain_incarnation: identity.chain_incarnation,
            chain_id: identity.chain_id().to_string(),
            node_id: identity.node_id.get(),
            store_incarnation: identity.store_incarnation.to_string(),
            genesis_hash: identity.genesis_hash.to_string(),
            created_at_ms: identity.created_at_ms,
        }
    }
}

/// Raft's promises; `vote` is null if none was given in this term.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HardState {
    pub(crate) term: u64,
    pub(crate) vote: Option<u64>,
    pub(crate) commit: u64,
}

impl From<&storage::HardState> for HardState {
    fn from(state: &storage::HardState) -> Self {
        Self {
            term: state.term,
            vote: state.vote.map(consensus_core::ids::NodeId::get),
            commit: state.commit,
        }
    }
}

/// Membership in joint-consensus form.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfState {
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    pub(crate) voters_outgoing: Vec<u64>,
    pub(crate) learners_next: Vec<u64>,
    pub(crate) auto_leave: bool,
}

impl From<&storage::ConfState> for ConfState {
    fn from(state: &storage::ConfState) -> Self {
        Self {
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            voters_outgoing: state.voters_outgoing.clone(),
            learners_next: state.learners_next.clone(),
            auto_leave: state.auto_leave,
        }
    }
}

/// Position of a log entry.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl From<storage::Position> for Position {
    fn from(position: storage::Position) -> Self {
        Self { index: position.index, term: position.term }
    }
}

/// A snapshot; `data` (hexadecimal) is null unless asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) conf_state: ConfState,
    pub(crate) bytes: u64,
    pub(crate) data: Option<String>,
}

impl Snapshot {
    pub(crate) fn new(snapshot: &storage::Snapshot, with_data: bool) -> Self {
        Self {
            index: snapshot.position.index,
            term: snapshot.position.term,
            conf_state: ConfState::from(&snapshot.conf_state),
            bytes: snapshot.data.len() as u64,
            data: with_data.then(|| hexadecimal(&snapshot.data)),
        }
    }
}

/// How far a replica has applied.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) conf_state: ConfState,
}

impl From<&storage::Applied> for Applied {
    fn from(applied: &storage::Applied) -> Self {
        Self { index: applied.index, conf_state: ConfState::from(&applied.conf_state) }
    }
}

/// What a node last knew of a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) node_id: u64,
    pub(crate) address: String,
    pub(crate) store_incarnation: Option<String>,
    pub(crate) connected: bool,
    pub(crate) progress: String,
    pub(crate) matched: u64,
    pub(crate) next: u64,
    pub(crate) last_heard_ms: u64,
    pub(crate) recorded_at_ms: u64,
}

impl From<&storage::PeerRecord> for Peer {
    fn from(peer: &storage::PeerRecord) -> Self {
        Self {
            node_id: peer.node_id.get(),
            address: peer.address.clone(),
            store_incarnation: peer.store_incarnation.map(|store| store.to_string()),
            connected: peer.connected,
            progress: peer.progress.clone(),
            matched: peer.matched,
            next: peer.next,
            last_heard_ms: peer.last_heard_ms,
            recorded_at_ms: peer.recorded_at_ms,
        }
    }
}

/// A transaction; `payload` is null where payloads are left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Transaction {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) payload: Option<String>,
}

impl Transaction {
    pub(crate) fn new(transaction: &records::Transaction, with_payload: bool) -> Self {
        Self {
            id: text::show(&transaction.id),
            bytes: transaction.payload.len() as u64,
            payload: with_payload.then(|| text::show(&transaction.payload)),
        }
    }
}

/// A block; `transactions` is null where only headers were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Block {
    pub(crate) schema: &'static str,
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) previous_hash: String,
    pub(crate) data_hash: String,
    pub(crate) timestamp_ms: u64,
    pub(crate) transaction_count: u64,
    pub(crate) transactions: Option<Vec<Transaction>>,
}

impl Block {
    /// From its parts, as the offline commands have them.
    pub(crate) fn new(
        header: &records::BlockHeader,
        hash: &Hash,
        transactions: &[records::Transaction],
        with_payloads: bool,
    ) -> Self {
        Self {
            schema: "consensus-cli/block/1",
            height: header.number,
            hash: hash.to_string(),
            previous_hash: hexadecimal(&header.previous_hash),
            data_hash: hexadecimal(&header.data_hash),
            timestamp_ms: header.timestamp_ms,
            transaction_count: transactions.len() as u64,
            transactions: Some(transactions.iter().map(|tx| Transaction::new(tx, with_payloads)).collect()),
        }
    }

    /// As a node delivered it.
    pub(crate) fn delivered(block: &ordering::Block, headers_only: bool, with_payloads: bool) -> Self {
        let header = block.header.clone().unwrap_or_default();
        let transactions = (!headers_only)
            .then(|| block.transactions.iter().map(|tx| Transaction::new(tx, with_payloads)).collect());
        Self {
            schema: "consensus-cli/block/1",
            height: header.number,
            hash: hexadecimal(&block.hash),
            previous_hash: hexadecimal(&header.previous_hash),
            data_hash: hexadecimal(&header.data_hash),
            timestamp_ms: header.timestamp_ms,
            transaction_count: u64::from(block.transaction_count),
            transactions,
        }
    }
}
