//! The troupe with certificates: four nodes over TLS, somebody whose certificate nobody trusts, and clients that take
//! more or less than they should.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::act::Act;
use super::load::{Load, Pace};
use super::prometheus::Target;
use crate::e2e::Stage;
use crate::e2e::cli::Cli;
use crate::e2e::cluster::{Cluster, Node};
use crate::e2e::random::Random;
use crate::e2e::scenarios::papers::{self, Authority};

const NODES: u64 = 4;

/// Until all nodes are ready and agree on a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each node is told; the files are beside its configuration.
const SECURITY: &str = "[security]\ncertificate = \"node.crt\"\nkey = \"node.key\"\nca = \"ca.crt\"\n";

/// Little for each client, and no patience with readers.
const LIMITS: &str = "\
[limits]
deliver_stall_ms = 1000
[limits.client]
transactions_per_s = 500
";

/// Far more than a client may.
const GREED: Pace = Pace { per_second: 5_000, bytes: 100 };

/// What a client may, in blocks that soon fill the buffers on the way to a reader.
const FEED: Pace = Pace { per_second: 400, bytes: 10_000 };

/// More than the alert counts.
const READERS: usize = 6;

/// Less than both alerts ask for.
const DAYS: u32 = 5;

/// Between two attempts of the stranger.
const AGAIN: Duration = Duration::from_millis(200);

/// The nodes and their certificates.
#[derive(Debug)]
pub(super) struct Secured<'a> {
    stage: &'a Stage,
    directory: PathBuf,
    cluster: Cluster,
    authority: Authority,
    /// Who is let in.
    reader: Cli,
}

impl<'a> Secured<'a> {
    /// Makes the certificates; nothing runs yet.
    pub(super) fn create(stage: &'a Stage, directory: &Path, random: &mut Random) -> Result<Self> {
        let nodes = directory.join("nodes");
        let extra = format!("{SECURITY}{LIMITS}");
        let mut cluster = Cluster::create(stage.server(), &nodes, NODES, random, &extra)?;
        let authority = Authority::create(stage.cli(), &directory.join("ca"), "the CA")?;
        authority.equip(&mut cluster)?;
        let reader = authority.issue_client("reader", &["read"])?.cli(stage.cli(), &authority.ca());
        Ok(Self { stage, directory: directory.to_path_buf(), cluster, authority, reader })
    }

    /// Where the nodes are scraped.
    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |node: &Node| Target {
            name: format!("node{}", node.id()),
            cluster: "secured",
            address: node.ops_address(),
        };
        self.cluster.nodes().iter().map(target).collect()
    }

    /// Starts what does not run, and waits until all nodes are ready and agree.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.cluster.start_all()?;
        self.cluster.leader(&self.reader, self.stage.interrupt(), PATIENCE).map(drop)
    }

    /// Stops all nodes; each has to end well.
    pub(super) fn stop(&mut self) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        Ok(())
    }

    fn home(&self, node: u64) -> Result<PathBuf> {
        Ok(self.cluster.node(node)?.directory().to_path_buf())
    }

    /// A client with a certificate of its own.
    fn client(&self, name: &str) -> Result<Cli> {
        let papers = self.authority.issue_client(name, &["submit", "read"])?;
        Ok(papers.cli(self.stage.cli(), &self.authority.ca()))
    }

    /// Submits until what it returns is dropped.
    fn load(&self, cli: &Cli, pace: Pace) -> Result<Load> {
        Load::start(cli, &self.cluster.addresses_from(1), pace, &self.directory.join("load.log"))
    }

    fn reconfigure(&mut self, id: u64, from: &str, to: &str) -> Result<()> {
        let file = self.cluster.node(id)?.config();
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        std::fs::write(&file, text.replace(from, to)).with_context(|| file.display().to_string())?;
        self.cluster.stop(id)?;
        self.cluster.start(id)
    }
}

/// A client that submits ten times what it may.
pub(super) fn limited(troupe: &mut Secured<'_>, act: &mut Act<'_>) -> Result<()> {
    let greedy = troupe.client("greedy")?;
    act.begins();
    let load = troupe.load(&greedy, GREED)?;
    act.fired()?;
    drop(load);
    act.ends();
    Ok(())
}

/// Readers that ask for blocks and take none.
pub(super) fn readers(troupe: &mut Secured<'_>, act: &mut Act<'_>) -> Result<()> {
    let (writer, reader) = (troupe.client("writer")?, troupe.client("idle")?);
    let nodes = troupe.cluster.addresses_from(1);
    let load = troupe.load(&writer, FEED)?;
    act.begins();
    let readers: Vec<Idle> = (0..READERS)
        .map(|_| Idle::start(&mut reader.command(["deliver", "--follow", "--nodes", &nodes])))
        .collect::<Result<_>>()?;
    act.fired()?;
    drop((readers, load));
    act.ends();
    Ok(())
}

/// A program that nobody reads from; it is killed when it is dropped.
#[derive(Debug)]
struct Idle(Child);

impl Idle {
    fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot start a reader")?))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A certificate that ends within days on one node, files that do not fit each other on the second, ended
/// certificates accepted by the third, and a stranger who tries again and again at the fourth.
pub(super) fn all_at_once(troupe: &mut Secured<'_>, act: &mut Act<'_>) -> Result<()> {
    let stranger = Authority::create(troupe.stage.cli(), &troupe.directory.join("stranger"), "a stranger")?;
    let mallory = stranger.issue_client("mallory", &["admin"])?;
    let mallory = mallory.cli(troupe.stage.cli(), &troupe.authority.ca());
    let [ends, unfit, expired, visited] = [1, 2, 3, 4];
    act.begins();
    troupe.authority.renew_for(ends, DAYS)?.install(&troupe.home(ends)?)?;
    let key = troupe.home(unfit)?.join("node.key");
    let aside = key.with_extension("aside");
    papers::install_file(&key, &aside)?;
    papers::install_file(&troupe.home(visited)?.join("node.key"), &key)?;
    let accepts = format!("{SECURITY}accept_expired = true\n");
    troupe.reconfigure(expired, SECURITY, &accepts)?;
    let address = troupe.cluster.node(visited)?.address();
    let end = std::time::Instant::now() + 2 * PATIENCE;
    while !act.have_fired() && std::time::Instant::now() < end {
        let answer = mallory.ask(&mut mallory.command(["tip", "--timeout", "2s", "--nodes", &address]))?;
        ensure!(answer.code != Some(0), "a stranger was served");
        troupe.stage.interrupt().pause(AGAIN)?;
    }
    troupe.authority.renew(ends)?.install(&troupe.home(ends)?)?;
    papers::install_file(&aside, &key)?;
    troupe.reconfigure(expired, &accepts, SECURITY)?;
    act.ends();
    Ok(())
}
