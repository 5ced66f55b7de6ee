//! `block` and `tip`: one block, and where the chain ends.

use std::io::Write;

use consensus_proto::ordering::{self, GetBlockRequest, TipRequest, get_block_request};
use serde::Serialize;
use tonic::Code;

use crate::args::{BlockArgs, BlockNumber, TipArgs};
use crate::output::{Verdict, json, table, text};
use crate::remote::{Access, NoAnswer, first_answer, request};

/// Runs `block`; a block that is not there is a finding.
///
/// # Errors
/// If no node answers.
pub(crate) async fn run(args: BlockArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let block = match args.number {
        BlockNumber::Newest => get_block_request::Block::Newest(true),
        BlockNumber::Height(height) => get_block_request::Block::Number(height),
    };
    let wanted = GetBlockRequest { block: Some(block) };
    let (access, timeout) = (Access::new(&args.nodes.tls)?, args.nodes.timeout);
    let answer = first_answer(&access, &args.nodes.nodes, timeout, async |node| {
        Ok(node.ordering().get_block(request(wanted, timeout)).await?.into_inner())
    })
    .await;
    let block = match answer {
        Ok((_, block)) => block,
        Err(NoAnswer::Refused(address, status)) if status.code() == Code::NotFound => {
            eprintln!("{}", crate::remote::explain(&address, &status));
            return Ok(Verdict::Finding);
        }
        Err(no_answer) => return Err(no_answer.into_error()),
    };
    if args.nodes.json {
        json::line(out, &json::Block::delivered(&block, false, true))?;
    } else {
        print(out, &json::Block::delivered(&block, false, true))?;
    }
    Ok(Verdict::Fine)
}

/// A block for people: its header, then a line per transaction.
pub(crate) fn print(out: &mut dyn Write, block: &json::Block) -> std::io::Result<()> {
    writeln!(
        out,
        "block {}  {}  {}  {}",
        block.height,
        block.hash,
        text::time(block.timestamp_ms),
        text::count(block.transaction_count, "transaction")
    )?;
    for (index, transaction) in block.transactions.iter().flatten().enumerate() {
        let payload = transaction.payload.as_deref().unwrap_or_default();
        let line = format!(
            "  {index:>5}  {}  {}  {}",
            transaction.id,
            text::size(transaction.bytes),
            text::shorten(payload, 100)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Tip {
    schema: &'static str,
    node: String,
    height: u64,
    hash: String,
    timestamp_ms: u64,
    transactions: u64,
    linearizable: bool,
}

/// Runs `tip`.
///
/// # Errors
/// If no node answers.
pub(crate) async fn run_tip(args: TipArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (access, timeout) = (Access::new(&args.nodes.tls)?, args.nodes.timeout);
    let linearizable = args.linearizable;
    let answer = first_answer(&access, &args.nodes.nodes, timeout, async |node| {
        Ok(node.ordering().tip(request(TipRequest { linearizable }, timeout)).await?.into_inner())
    });
    let (node, tip): (_, ordering::TipReply) = answer.await.map_err(NoAnswer::into_error)?;
    let tip = Tip {
        schema: "consensus-cli/tip/1",
        node: node.address.to_string(),
        height: tip.height,
        hash: json::hexadecimal(&tip.hash),
        timestamp_ms: tip.timestamp_ms,
        transactions: tip.transactions,
        linearizable,
    };
    if args.nodes.json {
        json::line(out, &tip)?;
        return Ok(Verdict::Fine);
    }
    let rows = [
        ("height", text::thousands(tip.height)),
        ("hash", tip.hash),
        ("time", text::time(tip.timestamp_ms)),
        ("transactions", text::thousands(tip.transactions)),
    ];
    table::fields(out, &format!("tip at {}", tip.node), &rows)?;
    Ok(Verdict::Fine)
}
