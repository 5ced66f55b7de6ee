//! The story of certificates: four nodes under load renew theirs one after the other, then all of them and
//! all clients change to another CA, and nobody notices; then everybody who must be refused is.
//!
//! Held to be true: no acknowledgement fails, no process is restarted, no call of a newcomer fails in between,
//! a new certificate is in use within [`IN_USE_LIMIT`], and each refusal has a line that names its reason, at
//! the caller and in the node's log, and is counted. At last one node is restarted and comes back with nothing
//! but the new CA.

mod refusals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::papers::{self, Authority, Papers};
use crate::e2e::Stage;
use crate::e2e::assertions::judge;
use crate::e2e::cli::{Block, Cli};
use crate::e2e::clients::{Client, Share};
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::e2e::report::{Phases, spoken_precisely, thousands};
use crate::workspace::spoken;

/// From new files to their use in new connections, at most.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);

/// How long is waited for anything before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// The clients hand out lines for so long, or until the story ends.
const LOAD: Duration = Duration::from_secs(300);

/// Lines of one client: 40 a second.
const LINES: usize = 12_000;

const NODES: u64 = 4;

/// What each node is told; the files are beside its configuration.
const SECURITY: &str = "[security]\ncertificate = \"node.crt\"\nkey = \"node.key\"\nca = \"ca.crt\"\n";

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Runs the scenario.
///
/// # Errors
/// When something does not hold.
pub(crate) fn run(stage: &Stage, _: &Options) -> Result<()> {
    let directory = stage.run_directory("certs")?;
    let story = Story::new(stage, directory.clone());
    match story.and_then(Story::play) {
        Ok(()) => std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string()),
        Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
    }
}

struct Story<'a> {
    stage: &'a Stage,
    phases: Phases,
    directory: PathBuf,
    cluster: Cluster,
    first: Authority,
    /// A client that came first and stays.
    alice: Papers,
    /// What newcomers trust: both CAs for a while.
    trusted: PathBuf,
    /// Whoever asks in between.
    newcomer: Cli,
    newcomers_served: u64,
}

impl<'a> Story<'a> {
    fn new(stage: &'a Stage, directory: PathBuf) -> Result<Self> {
        let mut random = Random::new(Random::fresh_seed());
        let nodes = directory.join("nodes");
        let mut cluster = Cluster::create(stage.server(), &nodes, NODES, &mut random, SECURITY)?;
        let first = Authority::create(stage.cli(), &directory.join("first"), "first CA")?;
        first.equip(&mut cluster)?;
        let alice = first.issue_client("alice", &["submit", "read"])?;
        let trusted = directory.join("trusted.crt");
        papers::install_file(&first.ca(), &trusted)?;
        let newcomer = alice.cli(stage.cli(), &trusted);
        let phases = Phases::start(false);
        Ok(Self { stage, phases, directory, cluster, first, alice, trusted, newcomer, newcomers_served: 0 })
    }

    fn play(mut self) -> Result<()> {
        self.phases.say(&format!("starting {NODES} nodes with certificates of their own"));
        self.cluster.start_all()?;
        self.leader()?;
        let processes = self.processes();
        let clients = self.start_clients()?;
        self.renew_all()?;
        let second = self.change_authority()?;
        clients.iter().for_each(Client::enough);
        let interrupt = self.stage.interrupt();
        let finished =
            clients.into_iter().map(|client| client.finish(interrupt)).collect::<Result<Vec<_>>>()?;
        ensure!(self.processes() == processes, "a node was restarted: {processes:?}, {:?}", self.processes());
        let chains = self.chains()?;
        let verdict = judge(&finished, &chains);
        let failed = verdict.sent - verdict.acknowledged;
        let (acknowledged, served) = (thousands(verdict.acknowledged as u64), self.newcomers_served);
        self.phases.say(&format!(
            "{acknowledged} acknowledgements, {failed} failed; {served} calls of newcomers, 0 failed; 0 restarts"
        ));
        ensure!(
            failed == 0 && verdict.findings.is_empty(),
            "{failed} failed; {}",
            verdict.findings.join("; ")
        );
        refusals::check(&self, &second)?;
        self.operate(&second)?;
        self.restart_one()?;
        self.stop()
    }

    /// Waits until all nodes know the same leader.
    fn leader(&mut self) -> Result<u64> {
        self.cluster.leader(&self.newcomer, self.stage.interrupt(), PATIENCE)
    }

    fn processes(&self) -> Vec<Option<u32>> {
        self.cluster.nodes().iter().map(crate::e2e::cluster::Node::process_id).collect()
    }

    fn start_clients(&self) -> Result<Vec<Client>> {
        let cli = self.alice.cli(self.stage.cli(), &self.trusted);
        let start = |node: u64| {
            let lines = (1..=LINES).map(|line| format!("line {line} at node {node}").into_bytes()).collect();
            let share = Share { client: format!("client-{node}"), lines: Arc::new(lines) };
            Client::start(&cli, &share, &self.cluster.addresses_from(node), LOAD, &self.directory)
        };
        self.phases.say(&format!("{NODES} clients submit, each at a node of its own"));
        (1..=NODES).map(start).collect()
    }

    /// New certificates of the same CA for the same keys, one node after the other.
    fn renew_all(&mut self) -> Result<()> {
        let mut longest = Duration::ZERO;
        for id in self.cluster.ids() {
            let papers = self.first.renew(id)?;
            longest = longest.max(self.take_up(id, &papers)?);
        }
        self.phases
            .say(&format!("all certificates renewed; in use after {} at most", spoken_precisely(longest)));
        Ok(())
    }

    /// Gives a node new papers, and waits until it shows them to clients and to other nodes.
    fn take_up(&mut self, id: u64, papers: &Papers) -> Result<Duration> {
        let node = self.cluster.node(id)?;
        let places = [node.address(), node.peer_address().to_string()];
        papers.install(node.directory())?;
        let installed = Instant::now();
        for place in places {
            self.wait(&format!("node {id} shows its new certificate at {place}"), |story| {
                let shown = papers::presented(story.stage.cli(), &place)?;
                Ok(shown.serial == papers.certificate.serial)
            })?;
        }
        let took = installed.elapsed();
        let limit = spoken(IN_USE_LIMIT);
        ensure!(took <= IN_USE_LIMIT, "node {id} used its certificate after {took:?}, at most {limit}");
        Ok(took)
    }

    /// To another CA: first both are trusted, then all change their certificates, then the old one goes.
    fn change_authority(&mut self) -> Result<Authority> {
        let second = Authority::create(self.stage.cli(), &self.directory.join("second"), "second CA")?;
        let both = self.directory.join("both.crt");
        papers::bundle(&[self.first.ca(), second.ca()], &both)?;
        let bob = second.issue_client("bob", &["submit", "read"])?;
        papers::install_file(&both, &self.trusted)?;
        let trusting = self.trust(&both, &bob, true)?;
        self.phases.say(&format!("both CAs are trusted by all nodes after {}", spoken_precisely(trusting)));
        let mut longest = Duration::ZERO;
        for id in self.cluster.ids() {
            let papers = second.renew_of(&self.first, id)?;
            longest = longest.max(self.take_up(id, &papers)?);
        }
        self.newcomer = bob.cli(self.stage.cli(), &self.trusted);
        self.phases.say(&format!(
            "all nodes have certificates of the new CA after {} at most",
            spoken_precisely(longest)
        ));
        papers::install_file(&second.ca(), &self.trusted)?;
        let alice = self.alice.clone();
        let dropping = self.trust(&second.ca(), &alice, false)?;
        self.phases.say(&format!("the old CA opens nothing any more after {}", spoken_precisely(dropping)));
        Ok(second)
    }

    /// Has all nodes trust the CAs of a file, until they serve a client or serve it no more.
    fn trust(&mut self, ca: &std::path::Path, client: &Papers, served: bool) -> Result<Duration> {
        let cli = client.cli(self.stage.cli(), &self.trusted);
        for node in self.cluster.nodes() {
            papers::install_file(ca, &node.directory().join("ca.crt"))?;
        }
        let installed = Instant::now();
        for address in self.addresses() {
            self.wait(&format!("{address} has the new CAs"), |_| Ok(cli.tip(&address).is_ok() == served))?;
        }
        let took = installed.elapsed();
        ensure!(took <= IN_USE_LIMIT, "it took {took:?}, at most {}", spoken(IN_USE_LIMIT));
        Ok(took)
    }

    fn addresses(&self) -> Vec<String> {
        self.cluster.nodes().iter().map(crate::e2e::cluster::Node::address).collect()
    }

    /// Waits until something is so; meanwhile newcomers call all nodes, and each must be served.
    fn wait(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.stage.interrupt().check()?;
            self.cluster.expect_running()?;
            if is_so(self)? {
                return Ok(());
            }
            for address in self.addresses() {
                self.newcomer
                    .tip(&address)
                    .with_context(|| format!("a newcomer, while {what} is awaited"))?;
                self.newcomers_served += 1;
            }
            if Instant::now() >= end {
                bail!("not so after {}: {what}", spoken(PATIENCE));
            }
            self.stage.interrupt().pause(Duration::from_millis(20))?;
        }
    }

    /// Every node's chain, once all tips are equal.
    fn chains(&mut self) -> Result<Vec<(u64, Vec<Block>)>> {
        let (cli, addresses) = (self.newcomer.clone(), self.addresses());
        let equal = self.stage.interrupt().poll(PATIENCE, Duration::from_millis(100), || {
            let tips = addresses.iter().map(|address| cli.tip(address)).collect::<Result<Vec<_>>>()?;
            Ok(tips.iter().all(|tip| *tip == tips[0]).then_some(()))
        })?;
        equal.with_context(|| format!("tips differ {} after the last answer", spoken(PATIENCE)))?;
        self.cluster.nodes().iter().map(|node| Ok((node.id(), cli.chain(&node.address())?))).collect()
    }

    /// What an operator does is written down with the operator's name.
    fn operate(&self, authority: &Authority) -> Result<()> {
        let operator = authority.issue_client("operator", &["admin"])?;
        let (cli, node) = (operator.cli(self.stage.cli(), &self.trusted), self.cluster.node(1)?);
        let answer = cli.ask(cli.command(["log-filter", "info", "--nodes"]).arg(node.address()))?;
        ensure!(answer.code == Some(0), "the operator was refused: {}{}", answer.stdout, answer.stderr);
        let audit = cli.ask(cli.command(["audit", "--json"]).arg(node.data()))?;
        let written = |line: &str| {
            ["CN=operator", "log-filter", "\"outcome\":\"done\""].iter().all(|word| line.contains(word))
        };
        ensure!(audit.stdout.lines().any(written), "the audit log has no such line: {}", audit.stdout);
        self.phases.say("an operator's change is in the audit log under the name in the certificate");
        Ok(())
    }

    /// A node that starts anew knows nothing of the old CA, and must be let in.
    fn restart_one(&mut self) -> Result<()> {
        let leader = self.leader()?;
        let id = self.cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
        self.cluster.kill(id)?;
        self.cluster.start(id)?;
        self.leader()?;
        self.phases.say(&format!("node {id} killed and restarted: back among the others"));
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        for node in self.cluster.nodes() {
            if let Some(damage) = self.stage.cli().verify(&node.data())? {
                bail!("node {}: {damage}", node.id());
            }
        }
        self.phases.say("all nodes stopped; all data directories and audit logs verified");
        Ok(())
    }
}
