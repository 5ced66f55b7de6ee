//! The default story: four nodes take real input from four clients, the leader dies by SIGKILL in the
//! middle and comes back, and every promise to the clients is checked on every node.
//!
//! With `--power-cut` all nodes die at once instead. The moment comes from the seed; round n of many uses
//! the seed plus n, so that any one round can be repeated by itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::e2e::Stage;
use crate::e2e::assertions::judge;
use crate::e2e::cli::{Block, Tip};
use crate::e2e::clients::{Client, Finished, Probes, Share, Watcher, deal};
use crate::e2e::cluster::{Cluster, STOP_LIMIT};
use crate::e2e::random::Random;
use crate::e2e::report::{Fault, NodeEnd, Outcome, Phases, median_and_max, spoken_precisely, thousands};
use crate::workspace::spoken;

/// How long the clients take to hand out their lines.
const LOAD: Duration = Duration::from_secs(8);

/// From the last start to a leader that all nodes know.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);

/// From a fault to the next committed block, beyond which the chain is called stuck.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// From the last acknowledgement to equal tips.
const CONVERGENCE_PATIENCE: Duration = Duration::from_secs(30);

/// How long all power stays off.
const POWER_OFF: Duration = Duration::from_millis(300);

/// Flags of the default scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run so many rounds with different kill moments
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Transactions, one per line; empty lines are left out [default: the workspace's own source text]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Leave the cluster running at the end and print how to talk to it
    #[arg(long, conflicts_with = "rounds")]
    keep: bool,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,
    /// Seed of the kill moments [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Kill all nodes at once instead of the leader
    #[arg(long)]
    power_cut: bool,
}

impl Options {
    /// One round with the default input.
    pub(crate) fn one_round(power_cut: bool) -> Self {
        Self { rounds: 1, input: None, keep: false, nodes: 4, seed: None, power_cut }
    }
}

/// Runs all rounds.
///
/// # Errors
/// When something does not hold in one of them, or a round could not be run to its end.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let (lines, source) = input(stage, options.input.as_deref())?;
    let shares = deal(lines, usize::try_from(options.nodes)?);
    println!(
        "{} transactions: {source}; seed {seed}",
        thousands(shares.iter().map(|s| s.lines.len() as u64).sum())
    );
    let mut recoveries = Vec::new();
    let mut failed = 0;
    for round in 1..=options.rounds {
        let seed = seed + u64::from(round) - 1;
        let many = options.rounds > 1;
        match Round::new(stage, options, &shares, seed, many)?.run() {
            Ok(outcome) => {
                recoveries.push(outcome.fault.recovery);
                failed += u32::from(!outcome.holds());
                println!("{}", if many { outcome.line(round, seed) } else { outcome.table() });
                if many && !outcome.holds() {
                    println!("  {}", outcome.verdict.findings.join("\n  "));
                }
            }
            Err(error) if many && !stage.interrupt().requested() => {
                failed += 1;
                println!("round {round:>3}  seed {seed:<7}  FAILED: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    if options.rounds > 1
        && let Some((median, max)) = median_and_max(&mut recoveries)
    {
        let (median, max) = (spoken_precisely(median), spoken_precisely(max));
        println!(
            "\n{} rounds, {failed} failed; next block after {median} (median), {max} (longest)",
            options.rounds
        );
    }
    ensure!(failed == 0, "{failed} of {} rounds failed", options.rounds);
    Ok(())
}

/// The lines to submit and where they come from.
fn input(stage: &Stage, file: Option<&Path>) -> Result<(Vec<Vec<u8>>, String)> {
    let mut files = Vec::new();
    match file {
        Some(file) => files.push(file.to_path_buf()),
        None => source_files(&stage.root, &mut files)?,
    }
    files.sort();
    let mut lines = Vec::new();
    for path in &files {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let kept =
            text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty());
        lines.extend(kept.map(<[u8]>::to_vec));
    }
    let source = match file {
        Some(file) => format!("the lines of {}", file.display()),
        None => format!("the source text of this workspace, {} files", files.len()),
    };
    ensure!(!lines.is_empty(), "{source}: no line that is not empty");
    Ok((lines, source))
}

/// The workspace's Rust files and schemas.
fn source_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry.with_context(|| directory.display().to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            source_files(&path, files)?;
        } else if name.ends_with(".rs") || name.ends_with(".proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// One cluster from its start to its end.
struct Round<'a> {
    stage: &'a Stage,
    options: &'a Options,
    shares: &'a [Share],
    random: Random,
    phases: Phases,
    directory: PathBuf,
    cluster: Cluster,
    all_addresses: String,
}

impl<'a> Round<'a> {
    fn new(
        stage: &'a Stage,
        options: &'a Options,
        shares: &'a [Share],
        seed: u64,
        silent: bool,
    ) -> Result<Self> {
        let mut random = Random::new(seed);
        let directory = stage.run_directory(&format!("seed-{seed}"))?;
        let cluster = Cluster::create(stage.server(), &directory, options.nodes, &mut random, "")?;
        let all_addresses = cluster.addresses_from(1);
        Ok(Self {
            stage,
            options,
            shares,
            random,
            phases: Phases::start(silent),
            directory,
            cluster,
            all_addresses,
        })
    }

    /// Runs the round; its directory stays if anything does not hold.
    fn run(mut self) -> Result<Outcome> {
        let directory = self.directory.clone();
        let result = self.play();
        if self.stage.interrupt().requested() {
            return result;
        }
        match result {
            Ok(outcome) if outcome.holds() => {
                if !self.options.keep {
                    drop(self);
                    std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
                }
                Ok(outcome)
            }
            Ok(outcome) => {
                println!("logs and data are in {}", directory.display());
                Ok(outcome)
            }
            Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
        }
    }

    fn play(&mut self) -> Result<Outcome> {
        let directory = self.stage.shown(&self.directory);
        self.phases.say(&format!("starting {} nodes in {directory}", self.options.nodes));
        self.cluster.start_all()?;
        let leader = self.leader()?;
        let clients = self.start_clients(leader)?;
        self.await_moment(&clients)?;
        let (fault, probes, hit) =
            if self.options.power_cut { self.power_cut()? } else { self.kill_leader()? };
        let finished = self.finish(clients, probes)?;
        let tips = self.converge()?;
        let chains = self.chains()?;
        let mut verdict = judge(&finished, &chains);
        let acknowledged = thousands(verdict.acknowledged as u64);
        self.phases.say(&format!(
            "all tips equal; {acknowledged} acknowledgements compared with {} chains",
            chains.len()
        ));
        let mut nodes = Vec::new();
        for (id, tip) in tips {
            let fate = if hit.contains(&id) { "killed and restarted" } else { "" };
            nodes.push(NodeEnd { id, height: tip.height, tip: tip.hash, stop: None, fate, clean: true });
        }
        if self.options.keep {
            self.cluster.leave_running();
        } else {
            self.stop(&mut nodes, &mut verdict.findings)?;
        }
        self.verify(&mut nodes, &mut verdict.findings)?;
        let epilogue = self.options.keep.then(|| self.how_to_talk());
        Ok(Outcome { verdict, nodes, fault, epilogue })
    }

    /// Waits until all running nodes know the same leader, and returns it.
    fn leader(&mut self) -> Result<u64> {
        self.cluster.leader(self.stage.cli(), self.stage.interrupt(), LEADER_PATIENCE)
    }

    fn start_clients(&self, leader: u64) -> Result<Vec<Client>> {
        let text =
            format!("node {leader} leads; {} clients submit, each at a node of its own", self.shares.len());
        self.phases.say(&text);
        let start = |(share, node): (&Share, u64)| {
            let nodes = self.cluster.addresses_from(node);
            Client::start(self.stage.cli(), share, &nodes, LOAD, &self.directory)
        };
        self.shares.iter().zip(self.cluster.ids()).map(start).collect()
    }

    /// Waits until a share of the lines between a quarter and a half has been handed out.
    fn await_moment(&mut self, clients: &[Client]) -> Result<()> {
        let total = self.shares.iter().map(|share| share.lines.len()).sum::<usize>();
        let share = 25 + self.random.below(26) as usize;
        let moment = total * share / 100;
        let handed_out = || clients.iter().map(Client::handed_out).sum::<usize>();
        let cluster = &mut self.cluster;
        self.stage
            .interrupt()
            .poll(LOAD * 10, Duration::from_millis(5), || {
                cluster.expect_running()?;
                Ok((handed_out() >= moment).then_some(()))
            })?
            .context("the clients do not get rid of their lines")?;
        // A moment that does not fall on the feeders' beat.
        self.stage.interrupt().pause(Duration::from_micros(self.random.below(100_000)))?;
        self.phases.say(&format!("{} transactions handed out", thousands(handed_out() as u64)));
        Ok(())
    }

    fn kill_leader(&mut self) -> Result<(Fault, Probes, Vec<u64>)> {
        let leader = self.leader()?;
        let survivors = self.addresses(|id| id != leader);
        let watchers = self.watch(&survivors)?;
        let process = self.cluster.node(leader)?.process_id().context("the leader does not run")?;
        let killed = Instant::now();
        self.cluster.kill(leader)?;
        let mut probes = Probes::start(self.stage.cli(), survivors, &self.directory);
        self.phases.say(&format!("kill -9 of node {leader}, the leader (process {process})"));
        let recovery = self.next_block(&watchers, killed)?;
        probes.stop();
        self.phases.say(&format!("next block committed {} after the kill", spoken_precisely(recovery)));
        self.cluster.start(leader)?;
        let next = self.leader()?;
        self.phases.say(&format!("node {leader} restarted and back; node {next} leads"));
        let what = format!("kill -9 of node {leader}, the leader");
        Ok((Fault { what, recovery }, probes, vec![leader]))
    }

    fn power_cut(&mut self) -> Result<(Fault, Probes, Vec<u64>)> {
        self.cluster.kill_all()?;
        self.phases.say("kill -9 of all nodes at once");
        self.stage.interrupt().pause(POWER_OFF)?;
        let restarted = Instant::now();
        self.cluster.start_all()?;
        let addresses = self.addresses(|_| true);
        let mut probes = Probes::start(self.stage.cli(), addresses.clone(), &self.directory);
        let leader = self.leader()?;
        let watchers = self.watch(&addresses)?;
        let recovery = self.next_block(&watchers, restarted)?;
        probes.stop();
        let text =
            format!("all restarted; node {leader} leads, next block after {}", spoken_precisely(recovery));
        self.phases.say(&text);
        Ok((Fault { what: "kill -9 of all nodes, restart".to_owned(), recovery }, probes, self.cluster.ids()))
    }

    fn addresses(&self, wanted: impl Fn(u64) -> bool) -> Vec<String> {
        self.cluster.nodes().iter().filter(|node| wanted(node.id())).map(|node| node.address()).collect()
    }

    fn watch(&self, addresses: &[String]) -> Result<Vec<Watcher>> {
        let log = self.directory.join("watchers.log");
        addresses.iter().map(|address| Watcher::start(self.stage.cli(), address, &log)).collect()
    }

    /// Waits for the first block with a probe at any watcher; probes are submitted after the fault only.
    fn next_block(&mut self, watchers: &[Watcher], since: Instant) -> Result<Duration> {
        let cluster = &mut self.cluster;
        let seen = self.stage.interrupt().poll(RECOVERY_PATIENCE, Duration::from_millis(10), || {
            cluster.expect_running()?;
            Ok(watchers.iter().filter_map(Watcher::first_probe).min())
        })?;
        match seen {
            Some(at) => Ok(at.saturating_duration_since(since)),
            None => bail!("no block within {} of the fault", spoken(RECOVERY_PATIENCE)),
        }
    }

    fn finish(&self, clients: Vec<Client>, probes: Probes) -> Result<Vec<Finished>> {
        let interrupt = self.stage.interrupt();
        let mut finished =
            clients.into_iter().map(|client| client.finish(interrupt)).collect::<Result<Vec<_>>>()?;
        let longest =
            finished.iter().filter_map(|client| client.summary.as_ref()).map(|s| s.longest_gap_ms).max();
        let gap = longest.map_or_else(String::new, |gap| format!(", the longest wait of one was {gap} ms"));
        self.phases.say(&format!("all clients have their answers{gap}"));
        finished.extend(probes.finish()?);
        Ok(finished)
    }

    /// Waits until all nodes have the same newest block.
    fn converge(&mut self) -> Result<Vec<(u64, Tip)>> {
        let stage = self.stage;
        let cluster = &mut self.cluster;
        let mut tips = Vec::new();
        let equal = stage.interrupt().poll(CONVERGENCE_PATIENCE, Duration::from_millis(100), || {
            cluster.expect_running()?;
            tips.clear();
            for node in cluster.nodes() {
                tips.push((node.id(), stage.cli().tip(&node.address())?));
            }
            Ok(tips.iter().all(|(_, tip)| *tip == tips[0].1).then_some(()))
        })?;
        match equal {
            Some(()) => Ok(tips),
            None => {
                bail!("tips differ {} after the last acknowledgement: {tips:?}", spoken(CONVERGENCE_PATIENCE))
            }
        }
    }

    /// Every node's chain. The command line checks each block against its hashes while it reads, so for all
    /// nodes but the first the hashes are enough.
    fn chains(&self) -> Result<Vec<(u64, Vec<Block>)>> {
        let mut chains: Vec<(u64, Vec<Block>)> = Vec::new();
        for node in self.cluster.nodes() {
            let mut chain = self.stage.cli().chain(&node.address())?;
            if !chains.is_empty() {
                chain.iter_mut().for_each(|block| block.transactions = None);
            }
            chains.push((node.id(), chain));
        }
        Ok(chains)
    }

    /// SIGTERM to all; each must exit with 0 in time.
    fn stop(&mut self, nodes: &mut [NodeEnd], findings: &mut Vec<String>) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            if !stop.status.success() {
                findings.push(format!("stop: node {} ended with {}", stop.node, stop.status));
            }
            if stop.took > STOP_LIMIT {
                let limit = spoken(STOP_LIMIT);
                findings.push(format!(
                    "stop: node {} took {}, at most {limit}",
                    stop.node,
                    spoken(stop.took)
                ));
            }
            nodes.iter_mut().filter(|node| node.id == stop.node).for_each(|node| node.stop = Some(stop.took));
        }
        self.phases.say("all nodes stopped");
        Ok(())
    }

    /// Every data directory is whole, also while its node runs.
    fn verify(&self, nodes: &mut [NodeEnd], findings: &mut Vec<String>) -> Result<()> {
        for node in nodes {
            let directory = self.cluster.node(node.id)?.data();
            if let Some(damage) = self.stage.cli().verify(&directory)? {
                node.clean = false;
                findings.push(format!("verify: node {}: {damage}", node.id));
            }
        }
        self.phases.say("all data directories verified");
        Ok(())
    }

    fn how_to_talk(&self) -> String {
        let cli = self.stage.shown(self.stage.cli().path());
        let mut lines = vec![
            "\nthe cluster is running; try".to_owned(),
            format!("  export CONSENSUS_NODES={}", self.all_addresses),
            format!("  {cli} status"),
            format!("  {cli} submit 'hello'"),
            format!("  {cli} deliver --from newest --follow"),
        ];
        for node in self.cluster.nodes() {
            lines.push(format!("  curl http://127.0.0.1:{}/status", node.ports().ops));
        }
        let ids = self.cluster.nodes().iter().filter_map(|node| node.process_id()).map(|id| id.to_string());
        lines.push(format!("stop it with  kill {}", ids.collect::<Vec<_>>().join(" ")));
        lines.push(format!("logs and data are in {}", self.stage.shown(&self.directory)));
        lines.join("\n")
    }
}
