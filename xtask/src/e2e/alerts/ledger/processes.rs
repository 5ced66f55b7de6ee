//! Processes that die, stand still, start again and again, or lack something of the machine.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{FLOOD, Ledger, STEADY};
use crate::e2e::alerts::act::Act;
use crate::e2e::http;
use crate::workspace;

/// Starts in a row.
const STARTS: usize = 5;

/// Longer than from one scrape to the next.
const SCRAPED: Duration = Duration::from_millis(1_600);

/// File descriptors that a node may have, and how many of them are open in the end, in per cent.
const FILES_MAX: usize = 400;
const FILES_PERCENT: usize = 88;

/// A follower is killed and stays away.
pub(crate) fn node_down(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.followers()?[0];
    let load = troupe.load(node, STEADY)?;
    act.begins();
    troupe.cluster.kill(node)?;
    act.fired()?;
    troupe.cluster.start(node)?;
    act.ends();
    drop(load);
    Ok(())
}

/// Two of four stand still.
pub(crate) fn no_majority(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let nodes = troupe.followers()?[..2].to_vec();
    act.begins();
    nodes.iter().try_for_each(|node| troupe.cluster.freeze(*node))?;
    act.fired()?;
    nodes.iter().try_for_each(|node| troupe.cluster.thaw(*node))?;
    act.ends();
    Ok(())
}

/// A process that ends soon after each start.
pub(crate) fn restarts(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.followers()?[0];
    let ops = troupe.cluster.node(node)?.ops_address();
    act.begins();
    for _ in 0..STARTS {
        troupe.cluster.kill(node)?;
        troupe.cluster.start(node)?;
        let serves = troupe
            .interrupt()
            .poll(super::PATIENCE, Duration::from_millis(20), || Ok(http::text_at(ops, "/metrics").ok()))?;
        serves.context("a node that was started serves no metrics")?;
        troupe.pause(SCRAPED)?;
    }
    act.ends();
    act.fired()
}

/// Leadership goes from node to node.
pub(crate) fn restless(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    troupe.settle()?;
    act.begins();
    for turn in 0..60 {
        if act.have_fired() {
            break;
        }
        troupe.transfer(turn % super::NODES + 1)?;
        troupe.interrupt().check()?;
    }
    act.ends();
    act.fired()
}

/// Connections that nobody ends, and few file descriptors.
pub(crate) fn files(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let id = troupe.followers()?[0];
    let node = troupe.cluster.node(id)?;
    let process = node.process_id().context("it runs")?;
    let limit = |files: String| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={process}")).arg(format!("--nofile={files}"));
        workspace::output(&mut command)
    };
    let before = workspace::output(Command::new("prlimit").args([
        &format!("--pid={process}"),
        "--nofile",
        "--noheadings",
        "--output=SOFT",
    ]))?;
    let open = || {
        let files = format!("/proc/{process}/fd");
        Ok::<_, anyhow::Error>(std::fs::read_dir(&files).with_context(|| files.clone())?.count())
    };
    act.begins();
    limit(format!("{FILES_MAX}:"))?;
    let mut held = Vec::new();
    while open()? < FILES_MAX * FILES_PERCENT / 100 {
        // That of clients would close those beyond the bound of one client.
        held.push(TcpStream::connect(node.ops_address()).context("a connection that is only held")?);
        std::thread::sleep(Duration::from_millis(5));
    }
    act.fired()?;
    drop(held);
    limit(format!("{}:", before.trim()))?;
    act.ends();
    Ok(())
}

/// More than the pool takes, and nobody who slows down.
pub(crate) fn overload(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let leader = troupe.settle()?;
    act.begins();
    let load = (0..3).map(|_| troupe.load(leader, FLOOD)).collect::<Result<Vec<_>>>()?;
    act.fired()?;
    drop(load);
    act.ends();
    Ok(())
}
