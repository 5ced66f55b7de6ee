//! `blocks`: the blocks of the built-in ledger from a data directory, one JSON line each.

use std::io::Write;

use anyhow::bail;
use consensus_core::ledger;

use crate::args::BlocksArgs;
use crate::cita;
use crate::offline::{self, Store};
use crate::output::{Verdict, json};

/// Payload bytes of blocks read at a time.
const READ_BYTES_MAX: u64 = 8 << 20;

/// Runs the command; a damaged block ends it with a finding.
///
/// # Errors
/// If the directory cannot be opened or read, or the blocks are not kept any more.
pub(crate) fn run(args: &BlocksArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let store = Store::open(&args.directory, args.chain.as_deref())?;
    let chain = store.single()?;
    if cita::is_cita(chain) {
        bail!("{}: {}; `dump` shows what was agreed on", store.shown(), cita::BLOCKS_ELSEWHERE);
    }
    let Some(ledger) = store.ledger(chain) else {
        eprintln!("{}: the identity of the chain is missing or damaged", offline::heading(chain));
        return Ok(Verdict::Finding);
    };
    let mut next = args.from;
    let end = args.to.map_or(u64::MAX, |to| to.saturating_add(1));
    while next < end {
        let blocks = match ledger.blocks(next..end, READ_BYTES_MAX) {
            Ok(blocks) => blocks,
            Err(error) if is_damage(&error) => {
                out.flush()?;
                eprintln!("block {next} or one that follows: {error}");
                return Ok(Verdict::Finding);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(last) = blocks.last() else { break };
        next = last.header.number + 1;
        for block in &blocks {
            let header = block.header.to_record();
            json::line(out, &json::Block::new(&header, &block.hash, &block.transactions, !args.no_payloads))?;
        }
    }
    Ok(Verdict::Fine)
}

fn is_damage(error: &ledger::Error) -> bool {
    match error {
        ledger::Error::Storage(error) => offline::is_damage(error),
        _ => true,
    }
}
