//! `tx` and `prove`: where a transaction is, and the proof that it is there.
//!
//! `prove` trusts the node for one thing only, that the block's hash is in the chain; that the transaction
//! is in this block is computed here. Compare the hash with another node's `block N` to trust neither.

use std::io::Write;

use consensus_core::ids::Hash;
use consensus_core::ledger::{Header, InclusionProof};
use consensus_proto::ordering::{
    GetTransactionRequest, Proof, ProveRequest, TransactionStatus, transaction_status,
};
use consensus_proto::records;
use serde::Serialize;
use tonic::Code;

use crate::args::TxArgs;
use crate::output::{Verdict, json, table, text};
use crate::remote::{Access, NoAnswer, first_answer, request};

#[derive(Serialize)]
struct Transaction {
    schema: &'static str,
    node: String,
    id: String,
    state: &'static str,
    height: Option<u64>,
    index: Option<u32>,
    block_hash: Option<String>,
}

/// Runs `tx`; an unknown transaction is a finding.
///
/// # Errors
/// If no node answers.
pub(crate) async fn run(args: TxArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (access, timeout) = (Access::new(&args.nodes.tls)?, args.nodes.timeout);
    let answer = first_answer(&access, &args.nodes.nodes, timeout, async |node| {
        let wanted = GetTransactionRequest { id: args.id.clone() };
        Ok(node.ordering().get_transaction(request(wanted, timeout)).await?.into_inner())
    });
    let (node, status): (_, TransactionStatus) = answer.await.map_err(NoAnswer::into_error)?;
    let state = match status.state() {
        transaction_status::State::Committed => "committed",
        transaction_status::State::Pending => "pending",
        transaction_status::State::Unknown | transaction_status::State::Unspecified => "unknown",
    };
    let committed = state == "committed";
    let transaction = Transaction {
        schema: "consensus-cli/transaction/1",
        node: node.address.to_string(),
        id: text::show(&args.id),
        state,
        height: committed.then_some(status.height),
        index: committed.then_some(status.index),
        block_hash: committed.then(|| json::hexadecimal(&status.block_hash)),
    };
    if args.nodes.json {
        json::line(out, &transaction)?;
    } else if committed {
        let hash = transaction.block_hash.as_deref().unwrap_or_default();
        writeln!(out, "committed: height {}, index {}, block {hash}", status.height, status.index)?;
    } else {
        writeln!(out, "{state} at {}", transaction.node)?;
    }
    Ok(Verdict::finding_if(state == "unknown"))
}

#[derive(Serialize)]
struct ProofView {
    schema: &'static str,
    node: String,
    id: String,
    valid: bool,
    problem: Option<String>,
    height: u64,
    index: u32,
    transactions: u32,
    block_hash: String,
    data_hash: String,
    path: Vec<String>,
    payload: String,
}

/// Runs `prove`; a missing transaction or a proof that does not hold is a finding.
///
/// # Errors
/// If no node answers.
pub(crate) async fn run_prove(args: TxArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (access, timeout) = (Access::new(&args.nodes.tls)?, args.nodes.timeout);
    let answer = first_answer(&access, &args.nodes.nodes, timeout, async |node| {
        let wanted = ProveRequest { id: args.id.clone() };
        Ok(node.ordering().prove(request(wanted, timeout)).await?.into_inner())
    })
    .await;
    let (node, proof) = match answer {
        Ok(answer) => answer,
        Err(NoAnswer::Refused(address, status)) if status.code() == Code::NotFound => {
            eprintln!("{}", crate::remote::explain(&address, &status));
            return Ok(Verdict::Finding);
        }
        Err(no_answer) => return Err(no_answer.into_error()),
    };
    let problem = check(&proof, &args.id).err();
    let header = proof.header.clone().unwrap_or_default();
    let view = ProofView {
        schema: "consensus-cli/proof/1",
        node: node.address.to_string(),
        id: text::show(&proof.id),
        valid: problem.is_none(),
        problem,
        height: header.number,
        index: proof.index,
        transactions: proof.transactions,
        block_hash: json::hexadecimal(&proof.block_hash),
        data_hash: json::hexadecimal(&header.data_hash),
        path: proof.path.iter().map(|hash| json::hexadecimal(hash)).collect(),
        payload: text::show(&proof.payload),
    };
    if args.nodes.json {
        json::line(out, &view)?;
    } else {
        print_proof(out, &view)?;
    }
    Ok(Verdict::finding_if(!view.valid))
}

fn print_proof(out: &mut dyn Write, proof: &ProofView) -> std::io::Result<()> {
    let heading = match &proof.problem {
        None => format!("the proof from {} holds", proof.node),
        Some(problem) => format!("the proof from {} does NOT hold: {problem}", proof.node),
    };
    let rows = [
        ("id", proof.id.clone()),
        ("payload", text::shorten(&proof.payload, 100)),
        ("position", format!("height {}, index {} of {}", proof.height, proof.index, proof.transactions)),
        ("block", proof.block_hash.clone()),
        ("data hash", proof.data_hash.clone()),
        ("path", format!("{} hashes", proof.path.len())),
    ];
    table::fields(out, &heading, &rows)
}

/// Whether the proof shows that the transaction asked for is in its block.
fn check(proof: &Proof, id: &[u8]) -> Result<(), String> {
    if proof.id != id {
        return Err(format!("it is about transaction {}", text::show(&proof.id)));
    }
    let hash = |bytes: &[u8]| {
        Hash::from_slice(bytes).ok_or_else(|| format!("a hash of {} bytes, must have 32", bytes.len()))
    };
    let header = proof.header.as_ref().ok_or("it has no header")?;
    let proof = InclusionProof {
        transaction: records::Transaction { id: proof.id.clone(), payload: proof.payload.clone() },
        index: proof.index,
        transactions: proof.transactions,
        path: proof.path.iter().map(|sibling| hash(sibling)).collect::<Result<_, _>>()?,
        header: Header::from_record(header).ok_or("its header has a hash that does not have 32 bytes")?,
        block_hash: hash(&proof.block_hash)?,
    };
    proof.verify().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use consensus_core::ledger::proof::{data_hash, path};

    use super::*;

    fn proof_of(index: u32) -> Proof {
        let transaction =
            |n: u32| records::Transaction { id: format!("id-{n}").into(), payload: vec![n as u8; 9].into() };
        let transactions: Vec<_> = (0..5).map(transaction).collect();
        let header = Header {
            number: 3,
            previous_hash: Hash([7; 32]),
            data_hash: data_hash(&transactions),
            timestamp_ms: 99,
        };
        let siblings = path(&transactions, index).expect("within the block");
        let of = &transactions[index as usize];
        Proof {
            id: of.id.clone(),
            payload: of.payload.clone(),
            index,
            transactions: 5,
            path: siblings.iter().map(|hash| Bytes::copy_from_slice(hash.as_bytes())).collect(),
            header: Some(header.to_record()),
            block_hash: Bytes::copy_from_slice(header.hash().as_bytes()),
        }
    }

    #[test]
    fn a_proof_holds_for_its_own_transaction_only() {
        assert_eq!(check(&proof_of(3), b"id-3"), Ok(()));
        assert_eq!(check(&proof_of(3), b"id-2"), Err("it is about transaction id-3".to_owned()));
    }

    #[test]
    fn a_proof_with_anything_changed_does_not_hold() {
        let changes: [fn(&mut Proof); 6] = [
            |proof| proof.payload = Bytes::from_static(b"other"),
            |proof| proof.index = 2,
            |proof| proof.path.truncate(1),
            |proof| proof.block_hash = Bytes::from_static(&[0; 32]),
            |proof| proof.block_hash = Bytes::from_static(&[0; 31]),
            |proof| proof.header = None,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut proof = proof_of(3);
            change(&mut proof);
            assert!(check(&proof, b"id-3").is_err(), "change {number}");
        }
    }
}
