//! A node with a long log dies by SIGKILL and comes back: how long until it serves, and in how much memory.
//!
//! Blocks hold one transaction each, so the log has as many entries as transactions are submitted.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::e2e::Stage;
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::e2e::report::{Phases, spoken_precisely, thousands};
use crate::workspace::spoken;

/// From start to serving, at most.
const SERVING_LIMIT: Duration = Duration::from_secs(3);

/// Resident memory once it serves, at most.
const MEMORY_LIMIT_BYTES: u64 = 300 << 20;

/// How long is waited for a node before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// One transaction per block, and many blocks in flight, so that a long log is made quickly.
const ONE_PER_BLOCK: &str = "[block]\nmessages_max = 1\ninflight_max = 256\n";

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Entries in the log
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    entries: u64,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Runs the scenario.
///
/// # Errors
/// When the node takes too long or too much, or does not come back.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let phases = Phases::start(false);
    let directory = stage.run_directory("restart")?;
    let mut random = Random::new(Random::fresh_seed());
    let mut cluster = Cluster::create(stage.server(), &directory, options.nodes, &mut random, ONE_PER_BLOCK)?;
    let result = play(stage, options, &phases, &mut cluster);
    drop(cluster);
    match result {
        Ok(()) => std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string()),
        Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
    }
}

fn play(stage: &Stage, options: &Options, phases: &Phases, cluster: &mut Cluster) -> Result<()> {
    phases.say(&format!("starting {} nodes, one transaction per block", options.nodes));
    cluster.start_all()?;
    let leader = cluster.leader(stage.cli(), stage.interrupt(), PATIENCE)?;
    submit(stage, options.entries, &cluster.addresses_from(leader), cluster.directory())?;
    let victim = cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
    let address = cluster.node(victim)?.address();
    wait_for_height(stage, cluster, &address, options.entries)?;
    // What a node says of its log follows what it serves by a moment.
    let long_enough =
        || Ok(Some(log_entries(stage, &address)?).filter(|entries| *entries >= options.entries));
    let entries = stage.interrupt().poll(PATIENCE, Duration::from_millis(100), long_enough)?;
    let entries = entries.with_context(|| format!("the log is shorter than {} entries", options.entries))?;
    phases.say(&format!("node {victim} has {} entries in its log; kill -9", thousands(entries)));

    cluster.kill(victim)?;
    let started = Instant::now();
    cluster.start(victim)?;
    wait_for_height(stage, cluster, &address, options.entries)?;
    let serving = started.elapsed();
    let memory = cluster.node(victim)?.resident_bytes();
    let shown = memory.map_or_else(|| "unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    phases.say(&format!("serving after {}, resident memory {shown}", spoken_precisely(serving)));
    for stop in cluster.stop_all()? {
        ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
    }
    if let Some(damage) = stage.cli().verify(&cluster.node(victim)?.data())? {
        bail!("verify: {damage}");
    }
    ensure!(serving <= SERVING_LIMIT, "serving after {}, at most {}", spoken(serving), spoken(SERVING_LIMIT));
    ensure!(
        memory.is_none_or(|bytes| bytes <= MEMORY_LIMIT_BYTES),
        "{shown}, at most {} MiB",
        MEMORY_LIMIT_BYTES >> 20
    );
    println!(
        "\nrestart with a log of {} entries: serving after {}, {shown}; fine",
        thousands(entries),
        spoken_precisely(serving)
    );
    Ok(())
}

fn submit(stage: &Stage, entries: u64, nodes: &str, directory: &Path) -> Result<()> {
    let input = directory.join("input");
    let text = (1..=entries).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "transaction {number}");
        text
    });
    std::fs::write(&input, text).with_context(|| input.display().to_string())?;
    let mut command = stage.cli().command(["submit", "--json", "--to", nodes, "--lines"]);
    command.arg(&input);
    let answer = stage.cli().ask(&mut command)?;
    ensure!(answer.code == Some(0), "submitting failed: {}{}", answer.stdout, answer.stderr);
    Ok(())
}

/// Waits until the node is ready and has the chain up to `height`.
fn wait_for_height(stage: &Stage, cluster: &mut Cluster, address: &str, height: u64) -> Result<()> {
    let reached = stage.interrupt().poll(PATIENCE, Duration::from_millis(10), || {
        cluster.expect_running()?;
        let Ok(status) = stage.cli().status(address) else { return Ok(None) };
        let there = status
            .nodes
            .iter()
            .all(|node| node.ready && node.chains.iter().all(|chain| chain.height >= height));
        Ok(there.then_some(()))
    })?;
    reached.with_context(|| format!("{address} has not reached height {height} after {}", spoken(PATIENCE)))
}

fn log_entries(stage: &Stage, address: &str) -> Result<u64> {
    let status = stage.cli().status(address)?;
    let chain =
        status.nodes.first().and_then(|node| node.chains.first()).context("the node shows no chain")?;
    Ok((chain.last_index + 1).saturating_sub(chain.first_index))
}
