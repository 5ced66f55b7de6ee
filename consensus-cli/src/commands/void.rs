//! `void-block`: an operator's decision about a block that was agreed on and that no controller can commit.
//!
//! The node judges whether there is anything to decide, and refuses in its own words; here the operator is
//! told what he vouches for, and asked.

use std::io::{BufRead, Write};

use bytes::Bytes;
use consensus_proto::admin::VoidBlockRequest;
use serde::Serialize;
use tonic::Code;

use super::transfer::leading_node;
use crate::args::VoidBlockArgs;
use crate::output::{Verdict, json};
use crate::remote::request;

#[derive(Serialize)]
struct Decided {
    schema: &'static str,
    node: String,
    height: u64,
    /// Addresses as typed.
    without: Vec<String>,
    counts_for_ms: u64,
}

/// Runs the command; a decision that is not confirmed or that the node refuses is a finding.
///
/// # Errors
/// If no node is found to lead, or it does not answer.
pub(crate) async fn run(args: VoidBlockArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let without = names(&args.without);
    eprintln!("{}", risk(args.height, &without));
    if !args.yes && !confirmed(&mut std::io::stdin().lock(), args.height)? {
        eprintln!("not confirmed, nothing was done");
        return Ok(Verdict::Finding);
    }
    let (leader, _) = leading_node(&args.nodes).await?;
    let wanted = VoidBlockRequest { height: args.height, without: args.without };
    let reply = match leader.admin().void_block(request(wanted, args.nodes.timeout)).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument) => {
            eprintln!("{:#}", leader.explain(&status));
            return Ok(Verdict::Finding);
        }
        Err(status) => return Err(leader.explain(&status)),
    };
    let done = Decided {
        schema: "consensus-cli/void-block/1",
        node: leader.address.to_string(),
        height: args.height,
        without,
        counts_for_ms: reply.counts_for_ms,
    };
    if args.nodes.json {
        json::line(out, &done)?;
    } else {
        writeln!(
            out,
            "taken up: block {} is given up once all other validators have promised never to commit it; the decision \
             counts for {} s, `status` tells whom it waits for",
            done.height,
            done.counts_for_ms / 1000
        )?;
    }
    Ok(Verdict::Fine)
}

fn names(addresses: &[Bytes]) -> Vec<String> {
    addresses.iter().map(hex::encode).collect()
}

/// What the operator says by it, in two lines.
fn risk(height: u64, without: &[String]) -> String {
    format!(
        "Block {height} will be given up without asking {}: you vouch that no controller of theirs has committed it.\n\
         If one has, the chain forks at this height, and that node must be restored from the others. There is no undo.",
        without.join(", ")
    )
}

/// The height must be typed again; the end of the input is a no.
fn confirmed(input: &mut dyn BufRead, height: u64) -> std::io::Result<bool> {
    eprint!("Type the height to go on: ");
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim() == height.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_height_itself_confirms() {
        let answer = |text: &str| confirmed(&mut text.as_bytes(), 12).expect("reads");
        assert!(answer("12\n") && answer(" 12 "));
        assert!(!answer("") && !answer("y\n") && !answer("yes\n") && !answer("13\n12\n"));
    }

    #[test]
    fn the_risk_is_told_in_two_lines_and_by_name() {
        let told = risk(12, &["c1bcd410636e5ece".to_owned(), "a5169863d5692516".to_owned()]);
        assert_eq!(told.lines().count(), 2);
        assert!(told.contains("c1bcd410636e5ece, a5169863d5692516") && told.contains("forks"), "{told}");
    }
}
