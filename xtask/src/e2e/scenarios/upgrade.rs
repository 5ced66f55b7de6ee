//! A rolling upgrade and the way back: four nodes of an older build get this one, one after the other and under load,
//! and then the older again.
//!
//! The older build is that of the newest tag, of a revision that is named, or binaries that somebody has kept. At
//! every step nodes of both builds order transactions together, each opens what the other has left on disk, and no
//! acknowledgement may fail. At both turning points the command line of each build looks through all data.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::e2e::Stage;
use crate::e2e::assertions::judge;
use crate::e2e::cli::{Block, Cli, Tip};
use crate::e2e::clients::{self, Client, Finished, Share};
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::e2e::report::{Phases, thousands};
use crate::workspace::{self, Workspace, output, spoken};

const NODES: u64 = 4;

/// How long the clients would go on; they are told when it is enough.
const LOAD_MAX: Duration = Duration::from_secs(600);

/// Transactions that each client hands out in a second.
const RATE: u64 = 100;

/// From a start to nodes that agree on a leader, and from a leader to the next block.
const PATIENCE: Duration = Duration::from_secs(60);

/// Load between two steps.
const BETWEEN: Duration = Duration::from_secs(1);

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory with the older programs, consensus-server and consensus-cli
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Build the older programs from this revision [default: the newest tag]
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["from", "no_build"])]
    revision: Option<String>,
    /// Go forward only: for a build that has raised the format of the data
    #[arg(long)]
    one_way: bool,
    /// Use the binaries as they are
    #[arg(long, requires = "from")]
    pub(crate) no_build: bool,
}

/// The older programs.
#[derive(Debug)]
pub(crate) struct Older {
    server: PathBuf,
    cli: Cli,
    name: String,
}

impl Older {
    fn in_directory(directory: &Path, name: String) -> Result<Self> {
        let directory = std::path::absolute(directory)?;
        let (server, cli) = (directory.join("consensus-server"), directory.join("consensus-cli"));
        for binary in [&server, &cli] {
            ensure!(binary.is_file(), "{} is not there", binary.display());
        }
        Ok(Self { server, cli: Cli::new(cli), name })
    }

    /// Finds or builds them, before anything else is built; `None` if there is nothing to upgrade from.
    ///
    /// # Errors
    /// When they cannot be built.
    pub(crate) fn provide(workspace: &Workspace, options: &Options) -> Result<Option<Self>> {
        if let Some(directory) = &options.from {
            return Self::in_directory(directory, directory.display().to_string()).map(Some);
        }
        let mut describe = workspace.command("git");
        let revision = match &options.revision {
            Some(revision) => revision.clone(),
            None => match output(describe.args(["describe", "--tags", "--abbrev=0"])) {
                Ok(tag) => tag.trim().to_owned(),
                Err(_) => return Ok(None),
            },
        };
        let commit = format!("{revision}^{{commit}}");
        let commit = output(workspace.command("git").args(["rev-parse", "--verify", "--quiet", &commit]))
            .with_context(|| format!("there is no revision {revision}"))?;
        let commit = commit.trim();
        let target = workspace.target()?;
        let kept = target.join("e2e-older").join(commit);
        if !kept.join("consensus-cli").is_file() {
            build(workspace, &target, commit, &kept)?;
        }
        Self::in_directory(&kept, revision).map(Some)
    }
}

/// Builds a commit beside this one, with the same build directory, so that RocksDB is not compiled again unless it
/// differs, and takes the programs out of it.
fn build(workspace: &Workspace, target: &Path, commit: &str, kept: &Path) -> Result<()> {
    let tree = target.join("e2e-older").join(format!("{commit}.source"));
    let shown = tree.display().to_string();
    // What an interrupted run left behind.
    let _ = output(workspace.command("git").args(["worktree", "remove", "--force", &shown]));
    output(workspace.command("git").args(["worktree", "add", "--force", "--detach", &shown, commit]))?;
    let mut cargo = workspace.cargo();
    cargo.current_dir(&tree).env("CARGO_TARGET_DIR", target);
    let built = workspace::run(cargo.args(["build", "-p", "consensus-server", "-p", "consensus-cli"]));
    let copied = built.and_then(|()| {
        std::fs::create_dir_all(kept).with_context(|| kept.display().to_string())?;
        // The one that is looked for goes last.
        for name in ["consensus-server", "consensus-cli"] {
            let from = target.join("debug").join(name);
            std::fs::copy(&from, kept.join(name)).with_context(|| from.display().to_string())?;
        }
        Ok(())
    });
    output(workspace.command("git").args(["worktree", "remove", "--force", &shown]))?;
    copied
}

/// Runs the scenario.
///
/// # Errors
/// When something does not hold, or a node does not do as it should.
pub(crate) fn run(stage: &Stage, older: &Older, options: &Options) -> Result<()> {
    let directory = stage.run_directory("upgrade")?;
    let mut random = Random::new(Random::fresh_seed());
    let cluster = Cluster::create(&older.server, &directory, NODES, &mut random, "")?;
    let phases = Phases::start(false);
    let mut run = Run { stage, older, directory: directory.clone(), cluster, phases };
    match run.play(options) {
        Ok(()) => {
            drop(run);
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
        }
        Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
    }
}

struct Run<'a> {
    stage: &'a Stage,
    older: &'a Older,
    directory: PathBuf,
    cluster: Cluster,
    phases: Phases,
}

impl Run<'_> {
    fn play(&mut self, options: &Options) -> Result<()> {
        self.cluster.start_all()?;
        let leader = self.leader()?;
        self.phases
            .say(&format!("{NODES} nodes of {}; node {leader} leads, clients submit", self.older.name));
        let clients = self.start_clients()?;
        self.stage.interrupt().pause(BETWEEN)?;
        let present = self.stage.server().clone();
        self.roll(&present, "this build")?;
        if !options.one_way {
            let older = self.older.server.clone();
            self.roll(&older, &self.older.name.clone())?;
        }
        let finished = self.finish(clients)?;
        let tip = self.level()?;
        let verdict = judge(&finished, &self.chains()?);
        println!(
            "\n  {} sent, {} acknowledged, {} in the chain at height {}; {} lost, {} doubled",
            thousands(verdict.sent as u64),
            thousands(verdict.acknowledged as u64),
            thousands(verdict.in_chain as u64),
            thousands(tip.height),
            verdict.lost,
            verdict.doubled
        );
        ensure!(verdict.findings.is_empty(), "{}", verdict.findings.join("\n  "));
        let without = verdict.sent - verdict.acknowledged;
        ensure!(without == 0, "{without} of {} transactions were not acknowledged", verdict.sent);
        self.cluster.stop_all()?;
        self.verify(options)
    }

    /// Gives all nodes other programs, one node after the other, the leader last.
    fn roll(&mut self, server: &Path, name: &str) -> Result<()> {
        let leader = self.leader()?;
        let order = self.cluster.ids().into_iter().filter(|id| *id != leader).chain([leader]);
        self.cluster.serve_with(server);
        let (started, mut slowest) = (Instant::now(), Duration::ZERO);
        for id in order {
            let stop = self.cluster.stop(id)?;
            ensure!(stop.status.success(), "node {id} ended with {} after SIGTERM", stop.status);
            slowest = slowest.max(stop.took);
            self.cluster.start(id)?;
            let leads = self.leader().with_context(|| format!("after node {id} was started with {name}"))?;
            self.next_block(id)?;
            self.phases.say(&format!("node {id} runs {name} and follows the chain; node {leads} leads"));
            self.stage.interrupt().pause(BETWEEN)?;
        }
        let (took, slowest) = (spoken(started.elapsed()), spoken(slowest));
        self.phases.say(&format!("all nodes run {name} after {took}; slowest stop {slowest}"));
        Ok(())
    }

    /// The leader that all nodes know, once they are ready.
    fn leader(&mut self) -> Result<u64> {
        self.cluster.leader(self.stage.cli(), self.stage.interrupt(), PATIENCE)
    }

    /// Waits until a node has a block that it had not.
    fn next_block(&self, id: u64) -> Result<()> {
        let address = self.cluster.node(id)?.address();
        let before = self.stage.cli().tip(&address)?.height;
        let grown = || Ok(self.stage.cli().tip(&address).ok().filter(|tip| tip.height > before).map(drop));
        let grown = self.stage.interrupt().poll(PATIENCE, Duration::from_millis(50), grown)?;
        grown.with_context(|| format!("node {id} has no new block after {}", spoken(PATIENCE)))
    }

    fn start_clients(&self) -> Result<Vec<Client>> {
        let start = |node: u64| {
            let client = format!("client-{node}");
            let lines = (1..=RATE * LOAD_MAX.as_secs()).map(|line| format!("{client}: {line}").into_bytes());
            let share = Share { client: client.clone(), lines: std::sync::Arc::new(lines.collect()) };
            let addresses = self.cluster.addresses_from(node);
            Client::start(self.stage.cli(), &share, &addresses, LOAD_MAX, &self.directory)
        };
        self.cluster.ids().into_iter().map(start).collect()
    }

    fn finish(&self, clients: Vec<Client>) -> Result<Vec<Finished>> {
        let (finished, longest) = clients::finish_all(clients, self.stage.interrupt())?;
        self.phases.say(&format!("all clients have their answers, the longest wait of one was {longest} ms"));
        Ok(finished)
    }

    /// Waits until all nodes have the same newest block.
    fn level(&self) -> Result<Tip> {
        let level = || {
            let tips: Vec<Tip> = self
                .cluster
                .nodes()
                .iter()
                .filter_map(|node| self.stage.cli().tip(&node.address()).ok())
                .collect();
            let same = tips.len() as u64 == NODES && tips.windows(2).all(|pair| pair[0] == pair[1]);
            Ok(tips.first().filter(|_| same).cloned())
        };
        let tip = self.stage.interrupt().poll(PATIENCE, Duration::from_millis(100), level)?;
        tip.with_context(|| format!("the nodes' chains are not level after {}", spoken(PATIENCE)))
    }

    fn chains(&self) -> Result<Vec<(u64, Vec<Block>)>> {
        let nodes = self.cluster.nodes().iter();
        nodes.map(|node| Ok((node.id(), self.stage.cli().chain(&node.address())?))).collect()
    }

    /// Both command lines find all data directories clean; the older one only what it can read.
    fn verify(&self, options: &Options) -> Result<()> {
        let mut lines = vec![("this build", self.stage.cli())];
        if !options.one_way {
            lines.push((&self.older.name, &self.older.cli));
        }
        for (name, cli) in lines {
            for node in self.cluster.nodes() {
                if let Some(damage) = cli.verify(&node.data())? {
                    anyhow::bail!("consensus-cli of {name}: node {}: {damage}", node.id());
                }
            }
            self.phases.say(&format!("consensus-cli of {name} finds all data directories clean"));
        }
        Ok(())
    }
}
