//! The story of a flood: four nodes over TLS and clients who are content, and beside them one who sends ten times
//! what the cluster can take, opens more connections than it may, reads nothing, and knocks without a certificate.
//!
//! Held to be true: each node stays within the memory that its configuration bounds (and a tenth), the leader
//! leads on, every transaction of the content clients is acknowledged, and what was refused is counted, and is in
//! the audit logs in a few lines.

mod strangers;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use self::strangers::Strangers;
use self::watch::{Memory, Metrics};
use super::papers::{Authority, Papers};
use crate::e2e::Stage;
use crate::e2e::cli::Cli;
use crate::e2e::clients::{Client, Finished, Share};
use crate::e2e::cluster::{Cluster, Node};
use crate::e2e::process::Process;
use crate::e2e::random::Random;
use crate::e2e::report::{Phases, thousands};
use crate::workspace::spoken;

/// How long is waited for anything before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The content clients submit alone for so long, to compare.
const QUIET: Duration = Duration::from_secs(5);

/// The flood is this many times what the cluster can take.
const EXCESS: u64 = 10;

/// Lines of one content client in a second.
const LINES_PER_S: u64 = 40;

/// Most lines that refusals may have made in one audit log.
const AUDIT_LINES_MAX: usize = 40;

const NODES: u64 = 4;

const SECURITY: &str = "[security]\ncertificate = \"node.crt\"\nkey = \"node.key\"\nca = \"ca.crt\"\n";

/// Bounds of a small node, as in deploy/docs/sizing.md; the rate follows.
const LIMITS: &str = "
[block]
absolute_bytes = 1048576
preferred_bytes = 524288
[limits]
entry_bytes_max = 2097152
uncommitted_bytes_max = 16777216
apply_backlog_bytes_max = 16777216
unpersisted_bytes_max = 16777216
tail_bytes_max = 16777216
peer_queue_bytes_max = 16777216
pool_transactions_max = 20000
pool_bytes_max = 16777216
client_connections_max = 64
client_receive_bytes_max = 16777216
deliver_streams_max = 16
deliver_stall_ms = 3000
[limits.client]
connections_max = 32
";

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long the flood lasts
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub(crate) seconds: u64,
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Runs the scenario.
///
/// # Errors
/// When something does not hold.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let directory = stage.run_directory("flood")?;
    let story = Story::new(stage, directory.clone(), Duration::from_secs(options.seconds));
    match story.and_then(Story::play) {
        Ok(()) => std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string()),
        Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
    }
}

/// What `consensus-cli bench --json` prints, of that what matters here.
#[derive(Debug, Deserialize)]
struct Bench {
    rate_per_s: u64,
    parameters: BTreeMap<String, u64>,
}

struct Story<'a> {
    stage: &'a Stage,
    phases: Phases,
    directory: PathBuf,
    cluster: Cluster,
    lasts: Duration,
    trusted: PathBuf,
    /// Content.
    alice: Papers,
    /// Not.
    mallory: Papers,
}

impl<'a> Story<'a> {
    fn new(stage: &'a Stage, directory: PathBuf, lasts: Duration) -> Result<Self> {
        let mut random = Random::new(Random::fresh_seed());
        let nodes = directory.join("nodes");
        let extra = format!("{SECURITY}{LIMITS}");
        let mut cluster = Cluster::create(stage.server(), &nodes, NODES, &mut random, &extra)?;
        let authority = Authority::create(stage.cli(), &directory.join("authority"), "CA")?;
        authority.equip(&mut cluster)?;
        let alice = authority.issue_client("alice", &["submit", "read"])?;
        let mallory = authority.issue_client("mallory", &["submit", "read"])?;
        let trusted = authority.ca();
        Ok(Self { stage, phases: Phases::start(false), directory, cluster, lasts, trusted, alice, mallory })
    }

    fn play(mut self) -> Result<()> {
        self.phases.say(&format!("starting {NODES} nodes with certificates"));
        self.cluster.start_all()?;
        self.leader()?;
        let capacity = self.capacity()?;
        let rate = (capacity / 2 / NODES).max(1);
        self.phases.say(&format!(
            "it can take {} transactions a second; a client may send {} to each node from now on",
            thousands(capacity),
            thousands(rate)
        ));
        self.restart_with_rate(rate)?;
        let leader = self.leader()?;
        let before = self.metrics()?;
        let bound = before.iter().map(|node| node.memory_bound).max().unwrap_or(0);
        let clients = self.start_content()?;
        self.stage.interrupt().pause(QUIET)?;
        self.phases.say(&format!(
            "node {leader} leads; the flood begins: {} transactions a second for {}",
            thousands(EXCESS * capacity),
            spoken(self.lasts)
        ));
        let began_ms = unix_ms();
        let memory = self.flood(EXCESS * capacity, leader)?;
        let ended_ms = unix_ms();
        self.phases.say("the flood is over");
        let after = self.metrics()?;
        clients.iter().for_each(Client::enough);
        let interrupt = self.stage.interrupt();
        let finished = clients.into_iter().map(|client| client.finish(interrupt));
        let finished = finished.collect::<Result<Vec<_>>>()?;
        self.judge_memory(&memory, bound)?;
        self.judge_leader(leader, &before, &after)?;
        self.judge_content(&finished, began_ms, ended_ms)?;
        self.judge_refusals(&before, &after)?;
        self.stop()
    }

    fn content(&self) -> Cli {
        self.alice.cli(self.stage.cli(), &self.trusted)
    }

    fn addresses(&self) -> String {
        self.cluster.nodes().iter().map(Node::address).collect::<Vec<_>>().join(",")
    }

    /// Waits until all nodes know the same leader.
    fn leader(&mut self) -> Result<u64> {
        let cli = self.content();
        self.cluster.leader(&cli, self.stage.interrupt(), PATIENCE)
    }

    /// Transactions a second that a client gets committed who waits for the answers.
    fn capacity(&self) -> Result<u64> {
        let cli = self.content();
        let deliver = self.cluster.node(1)?.address();
        let mut command = cli.command(["bench", "b2", "--json", "--measure", "4s", "--streams", "16"]);
        command.args([
            "--batch",
            "50",
            "--window",
            "100",
            "--nodes",
            &self.addresses(),
            "--deliver",
            &deliver,
        ]);
        let Bench { rate_per_s, .. } = cli.document(&mut command)?;
        ensure!(rate_per_s > 0, "nothing was committed while the capacity was measured");
        Ok(rate_per_s)
    }

    /// From now on a client's rate is bounded.
    fn restart_with_rate(&mut self, rate: u64) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        for node in self.cluster.nodes() {
            let text = std::fs::read_to_string(node.config())
                .with_context(|| node.config().display().to_string())?;
            let text = format!("{text}transactions_per_s = {rate}\n");
            std::fs::write(node.config(), text).with_context(|| node.config().display().to_string())?;
        }
        self.cluster.start_all()
    }

    /// One client at each node, steady.
    fn start_content(&self) -> Result<Vec<Client>> {
        // More than will be handed out: they are told when it is enough.
        let duration = QUIET + self.lasts + PATIENCE;
        let count = LINES_PER_S * duration.as_secs();
        let start = |node: u64| {
            let lines = (1..=count).map(|line| format!("line {line} at node {node}").into_bytes()).collect();
            let share = Share { client: format!("client-{node}"), lines: Arc::new(lines) };
            let nodes = self.cluster.addresses_from(node);
            Client::start(&self.content(), &share, &nodes, duration, &self.directory)
        };
        (1..=NODES).map(start).collect()
    }

    /// Everything at once, for the given time; the most that each node took.
    fn flood(&mut self, rate: u64, leader: u64) -> Result<Memory> {
        let cli = self.mallory.cli(self.stage.cli(), &self.trusted);
        let (addresses, seconds) = (self.addresses(), format!("{}s", self.lasts.as_secs()));
        let (rate, leads) = (rate.to_string(), self.cluster.node(leader)?.address());
        let bench = |name: &str, arguments: &[&str]| {
            let mut command =
                cli.command(["bench", "b4", "--json", "--warm-up", "1ms", "--measure", &seconds]);
            command.args(arguments);
            Process::start(name, &mut command, &self.directory.join(format!("{name}.log")))
        };
        let mut flood = vec![
            // Many small ones everywhere, large ones to the leader, and more connections than it may have.
            bench("small", &["--rate", &rate, "--streams", "48", "--batch", "100", "--nodes", &addresses])?,
            bench(
                "large",
                &[
                    "--rate",
                    "200",
                    "--streams",
                    "8",
                    "--batch",
                    "2",
                    "--payload",
                    "524288",
                    "--nodes",
                    &leads,
                ],
            )?,
            bench("crowd", &["--rate", "200", "--streams", "160", "--batch", "1", "--nodes", &addresses])?,
        ];
        let mut readers = Vec::new();
        for node in self.cluster.nodes() {
            let mut command = cli.command(["deliver", "--from", "oldest", "--follow", "--json", "--nodes"]);
            command.arg(node.address()).stdin(Stdio::null()).stderr(Stdio::null());
            // Nobody reads its output, so it reads nothing any more.
            readers.push(Reader(command.stdout(Stdio::piped()).spawn().context("cannot start a reader")?));
        }
        let strangers = Strangers::start(self.cluster.nodes());
        let mut memory = Memory::default();
        let end = Instant::now() + self.lasts;
        while Instant::now() < end {
            self.cluster.expect_running()?;
            memory.look(self.cluster.nodes());
            self.stage.interrupt().pause(Duration::from_millis(200))?;
        }
        let knocked = strangers.stop();
        self.phases.say(&format!(
            "strangers: {} connections without a word or a whole handshake",
            thousands(knocked)
        ));
        for process in &mut flood {
            if process.wait(PATIENCE)?.is_none() {
                bail!("the flood has not ended {} after its time", spoken(PATIENCE));
            }
        }
        memory.look(self.cluster.nodes());
        drop(readers);
        self.tell_of_flood(&["small", "large", "crowd"])?;
        Ok(memory)
    }

    /// What came of each part, as it tells itself.
    fn tell_of_flood(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let path = self.directory.join(format!("{name}.log"));
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let Bench { rate_per_s, parameters } = serde_json::from_str(text.trim())
                .with_context(|| format!("{name} printed a document of another form: {}", text.trim()))?;
            let of = |name: &str| thousands(parameters.get(name).copied().unwrap_or(0));
            self.phases.say(&format!(
                "{name}: {} offered, {} taken from it, {} refused, {} a second committed",
                of("offered"),
                of("sent"),
                of("refused"),
                thousands(rate_per_s)
            ));
        }
        Ok(())
    }

    fn metrics(&self) -> Result<Vec<Metrics>> {
        self.cluster.nodes().iter().map(|node| Metrics::read(node.id(), node.ops_address())).collect()
    }

    fn judge_memory(&self, memory: &Memory, bound: u64) -> Result<()> {
        let allowed = bound + bound / 10;
        let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
        let most: Vec<String> = memory.most().map(|(_, bytes)| mebibytes(bytes)).collect();
        self.phases.say(&format!("memory: {}; the bound is {}", most.join(", "), mebibytes(bound)));
        ensure!(bound > 0 && most.len() as u64 == NODES, "memory is not known of all nodes");
        for (node, bytes) in memory.most() {
            ensure!(
                bytes <= allowed,
                "node {node} took {}, at most {}",
                mebibytes(bytes),
                mebibytes(allowed)
            );
        }
        Ok(())
    }

    fn judge_leader(&mut self, leader: u64, before: &[Metrics], after: &[Metrics]) -> Result<()> {
        let terms = |all: &[Metrics]| all.iter().map(|node| node.term).collect::<Vec<_>>();
        let now = self.leader()?;
        self.phases.say(&format!("node {now} leads; terms {:?}, before {:?}", terms(after), terms(before)));
        ensure!(now == leader && terms(before) == terms(after), "there was an election");
        Ok(())
    }

    fn judge_content(&self, finished: &[Finished], began_ms: u64, ended_ms: u64) -> Result<()> {
        let mut sent = 0;
        let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
        for client in finished {
            let name = &client.share.client;
            ensure!(client.complaint.is_none(), "{}", client.complaint.as_deref().unwrap_or_default());
            let committed = client.receipts.iter().filter(|receipt| receipt.is_committed()).count();
            ensure!(committed == client.sent, "{name}: {committed} of {} acknowledged", client.sent);
            sent += client.sent;
            for receipt in &client.receipts {
                let latency = Duration::from_micros(receipt.latency_us.unwrap_or(0));
                match receipt.at_ms {
                    at if at < began_ms => quiet.push(latency),
                    at if at <= ended_ms => flooded.push(latency),
                    _ => {}
                }
            }
        }
        ensure!(!quiet.is_empty() && !flooded.is_empty(), "nothing to compare");
        let [quiet, flooded] = [quiet, flooded].map(|mut all| {
            all.sort_unstable();
            let at = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)].as_millis();
            format!("p50 {} ms, p99 {} ms", at(50), at(99))
        });
        self.phases.say(&format!(
            "content clients: {} sent, all acknowledged; {quiet}, in the flood {flooded}",
            thousands(sent as u64)
        ));
        Ok(())
    }

    fn judge_refusals(&self, before: &[Metrics], after: &[Metrics]) -> Result<()> {
        let sum = |all: &[Metrics], of: &dyn Fn(&Metrics) -> u64| all.iter().map(of).sum::<u64>();
        let mut said = Vec::new();
        for limit in watch::LIMITS {
            let count = |all| sum(all, &|node: &Metrics| node.limits.get(limit).copied().unwrap_or(0));
            let refused = count(after) - count(before);
            said.push(format!("{limit} {}", thousands(refused)));
            ensure!(refused > 0, "nothing was refused because of {limit}");
        }
        for reason in ["limit", "timed-out"] {
            let count = |all| sum(all, &|node: &Metrics| node.reasons.get(reason).copied().unwrap_or(0));
            let refused = count(after) - count(before);
            said.push(format!("connections ({reason}) {}", thousands(refused)));
            ensure!(refused > 0, "no connection was refused as {reason}");
        }
        let cut =
            sum(after, &|node: &Metrics| node.readers_cut) - sum(before, &|node: &Metrics| node.readers_cut);
        self.phases.say(&format!("refused: {}; {cut} readers cut", said.join(", ")));
        ensure!(cut >= NODES, "{cut} readers that took nothing were cut, must be at least {NODES}");
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        let cli = self.stage.cli();
        let mut most = 0;
        for node in self.cluster.nodes() {
            let audit = cli.ask(cli.command(["audit", "--json"]).arg(node.data()))?;
            let lines = audit.stdout.lines().filter(|line| line.contains("refused: ")).count();
            ensure!(
                (1..=AUDIT_LINES_MAX).contains(&lines),
                "the audit log of node {} has {lines} lines about refusals, must have 1 to {AUDIT_LINES_MAX}",
                node.id()
            );
            most = most.max(lines);
            if let Some(damage) = cli.verify(&node.data())? {
                bail!("node {}: {damage}", node.id());
            }
        }
        self.phases.say(&format!(
            "audit logs: at most {most} lines about refusals; all nodes stopped, directories and audit logs verified"
        ));
        Ok(())
    }
}

/// A process that is killed in the end.
struct Reader(std::process::Child);

impl Drop for Reader {
    fn drop(&mut self) {
        // Ended already, or killed now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
