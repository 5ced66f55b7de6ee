//! `peers`: what a node last knew of its peers, without asking any of them.
//!
//! The server records this now and then, so it is as old as `recorded` says.

use std::io::Write;

use serde::Serialize;

use crate::args::StoreArgs;
use crate::cita;
use crate::offline::{self, Problem, Problems, Store};
use crate::output::text::NodeName;
use crate::output::{Verdict, json, table, text};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    directory: String,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    identity: Option<json::Identity>,
    peers: Vec<json::Peer>,
    problems: Vec<Problem>,
}

/// Runs the command; a damaged record is a finding.
///
/// # Errors
/// If the directory cannot be opened or read.
pub(crate) fn run(args: &StoreArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let store = Store::open(&args.directory, args.chain.as_deref())?;
    let mut chains = Vec::new();
    for chain in &store.chains {
        let mut problems = Problems::default();
        problems.require("identity", &chain.identity);
        for (node, peer) in &chain.peers {
            problems.allow(&format!("peer {node}"), peer);
        }
        let peers: Vec<json::Peer> =
            chain.peers.iter().filter_map(|(_, peer)| peer.present()).map(json::Peer::from).collect();
        if !args.json {
            writeln!(out, "{}", offline::heading(chain))?;
            print(out, &peers, cita::is_cita(chain))?;
            problems.print(out)?;
        }
        chains.push(Chain { identity: offline::identity(chain), peers, problems: problems.0 });
    }
    let verdict = Verdict::finding_if(chains.iter().any(|chain| !chain.problems.is_empty()));
    if args.json {
        json::line(out, &Document { schema: "consensus-cli/peers/1", directory: store.shown(), chains })?;
    }
    Ok(verdict)
}

fn print(out: &mut dyn Write, peers: &[json::Peer], by_address: bool) -> std::io::Result<()> {
    if peers.is_empty() {
        return writeln!(out, "  no peers are recorded");
    }
    let mut rows = table::table(&[
        ">node",
        "address",
        "connected",
        "progress",
        ">matched",
        ">next",
        "last heard",
        "recorded",
    ]);
    for peer in peers {
        rows.add_row([
            NodeName::new(peer.node_id, by_address).to_string(),
            peer.address.clone(),
            if peer.connected { "yes".to_owned() } else { "no".to_owned() },
            peer.progress.clone(),
            peer.matched.to_string(),
            peer.next.to_string(),
            text::time(peer.last_heard_ms),
            text::time(peer.recorded_at_ms),
        ]);
    }
    table::print(out, &rows)
}
