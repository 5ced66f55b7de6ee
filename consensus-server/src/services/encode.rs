//! The ledger's types in the schema's form.

use bytes::Bytes;
use consensus_core::ids::Hash;
use consensus_core::ledger::{Block, InclusionProof};
use consensus_proto::ordering::{self as wire, TipReply, TransactionStatus, transaction_status};

use crate::application::ledger::{Tip, TransactionState};

fn hash(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

/// A block; payloads keep their buffer.
pub(super) fn block(block: &Block, headers_only: bool) -> wire::Block {
    wire::Block {
        header: Some(block.header.to_record()),
        hash: hash(&block.hash),
        transactions: if headers_only { Vec::new() } else { block.transactions.clone() },
        transaction_count: block.transactions.len() as u32,
    }
}

/// A tip.
pub(super) fn tip(tip: &Tip) -> TipReply {
    TipReply {
        height: tip.height,
        hash: hash(&tip.hash),
        timestamp_ms: tip.timestamp_ms,
        transactions: tip.transactions,
    }
}

/// What is known of a transaction.
pub(super) fn transaction(state: TransactionState) -> TransactionStatus {
    use transaction_status::State;
    let only = |state: State| TransactionStatus { state: state.into(), ..TransactionStatus::default() };
    match state {
        TransactionState::Unknown => only(State::Unknown),
        TransactionState::Pending => only(State::Pending),
        TransactionState::Committed(location) => TransactionStatus {
            state: State::Committed.into(),
            height: location.height,
            index: location.index,
            block_hash: hash(&location.block_hash),
        },
    }
}

/// A proof.
pub(super) fn proof(proof: InclusionProof) -> wire::Proof {
    wire::Proof {
        id: proof.transaction.id,
        payload: proof.transaction.payload,
        index: proof.index,
        transactions: proof.transactions,
        path: proof.path.iter().map(hash).collect(),
        header: Some(proof.header.to_record()),
        block_hash: hash(&proof.block_hash),
    }
}
