//! A cluster on this machine: one directory with a configuration, a log and a data directory per node.
//!
//! Ports are free ones below the range from which the system takes ports for outgoing connections, so
//! that a killed node's port is still free when it comes back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cli::Cli;
use super::process::Process;
use super::random::Random;
use crate::interrupt::Interrupt;
use crate::workspace::spoken;

/// How often nodes are asked who leads.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// SIGTERM to exit, at most.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How long a stop is waited for before it is called a hang.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// First port that is tried.
const PORT_MIN: u16 = 10_000;

/// Where a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Where it listens.
    pub(crate) host: IpAddr,
    /// What its command is put behind to run there.
    pub(crate) enter: Vec<String>,
}

impl Site {
    /// This machine, on the loopback interface.
    pub(crate) fn loopback() -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::LOCALHOST), enter: Vec::new() }
    }
}

/// On which ports a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) client: u16,
    pub(crate) peer: u16,
    pub(crate) ops: u16,
}

/// A node: what it needs to be started, and its process if it runs.
#[derive(Debug)]
pub(crate) struct Node {
    id: u64,
    directory: PathBuf,
    site: Site,
    ports: Ports,
    process: Option<Process>,
}

impl Node {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// `host:port` of its client service.
    pub(crate) fn address(&self) -> String {
        self.at(self.ports.client).to_string()
    }

    /// Its peer service, as it listens.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.at(self.ports.peer)
    }

    /// Its pages for operations.
    pub(crate) fn ops_address(&self) -> SocketAddr {
        self.at(self.ports.ops)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.site.host, port)
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The process id, if it runs.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// True if it stands still after [`Cluster::freeze`].
    pub(crate) fn is_frozen(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_frozen)
    }

    /// Resident memory in bytes, if it runs and the system tells.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.process.as_ref().and_then(Process::resident_bytes)
    }
}

/// How a node ended after SIGTERM.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) node: u64,
    pub(crate) status: ExitStatus,
    pub(crate) took: Duration,
}

/// Several nodes of one chain.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: PathBuf,
    directory: PathBuf,
    /// Appended to each configuration.
    extra: String,
    /// Public keys of the nodes, where they talk over TLS.
    pins: BTreeMap<u64, String>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Chooses ports and writes a configuration for each of `count` nodes under `directory`. `extra` is
    /// appended to each configuration.
    pub(crate) fn create(
        server: &Path,
        directory: &Path,
        count: u64,
        random: &mut Random,
        extra: &str,
    ) -> Result<Self> {
        let sites = vec![Site::loopback(); usize::try_from(count)?];
        Self::create_at(server, directory, sites, random, extra)
    }

    /// The same with one node at each of `sites`.
    pub(crate) fn create_at(
        server: &Path,
        directory: &Path,
        sites: Vec<Site>,
        random: &mut Random,
        extra: &str,
    ) -> Result<Self> {
        let ports = free_ports(sites.len() * 3, random)?;
        let mut nodes = Vec::new();
        for ((id, site), ports) in (1..).zip(sites).zip(ports.chunks_exact(3)) {
            let directory = directory.join(format!("node-{id}"));
            std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
            let ports = Ports { client: ports[0], peer: ports[1], ops: ports[2] };
            nodes.push(Node { id, directory, site, ports, process: None });
        }
        let (server, directory) = (server.to_path_buf(), directory.to_path_buf());
        let cluster = Self { server, directory, extra: extra.to_owned(), pins: BTreeMap::new(), nodes };
        cluster.route(|_, to| to.peer_address())?;
        Ok(cluster)
    }

    /// Writes the configurations anew; `address` says where the first node reaches the peer service of the
    /// second.
    pub(crate) fn route(&self, address: impl Fn(&Node, &Node) -> SocketAddr) -> Result<()> {
        for node in &self.nodes {
            let text = config_text(node, &self.nodes, &address, &self.pins, &self.extra);
            std::fs::write(node.config(), text).with_context(|| node.config().display().to_string())?;
        }
        Ok(())
    }

    /// Writes the configurations anew with the nodes' public keys.
    pub(crate) fn pin(&mut self, pins: BTreeMap<u64, String>) -> Result<()> {
        self.pins = pins;
        self.route(|_, to| to.peer_address())
    }

    /// Nodes that are started from now on run this program.
    pub(crate) fn serve_with(&mut self, server: &Path) {
        self.server = server.to_path_buf();
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node(&self, id: u64) -> Result<&Node> {
        self.nodes.iter().find(|node| node.id == id).with_context(|| format!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id).with_context(|| format!("there is no node {id}"))
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(Node::id).collect()
    }

    /// Client addresses of all nodes, `first`'s leading, as the command line takes them.
    pub(crate) fn addresses_from(&self, first: u64) -> String {
        let (leading, others): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|node| node.id == first);
        leading.iter().chain(&others).map(|node| node.address()).collect::<Vec<_>>().join(",")
    }

    /// The command that runs a node.
    pub(crate) fn command(&self, id: u64) -> Result<Command> {
        let node = self.node(id)?;
        let mut command = match node.site.enter.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.server);
                command
            }
            None => Command::new(&self.server),
        };
        command.arg("run").arg("--config").arg(node.config());
        Ok(command)
    }

    /// Starts a node; it need not be ready when this returns.
    pub(crate) fn start(&mut self, id: u64) -> Result<()> {
        let mut command = self.command(id)?;
        let node = self.node_mut(id)?;
        ensure!(node.process.is_none(), "node {id} runs already");
        node.process = Some(Process::start(&format!("node {id}"), &mut command, &node.log())?);
        Ok(())
    }

    /// Starts every node that does not run.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        for id in self.ids() {
            if !self.node(id)?.is_running() {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Waits until all nodes know the same leader. A node that has ended is an error at once.
    pub(crate) fn leader(&mut self, cli: &Cli, interrupt: &Interrupt, patience: Duration) -> Result<u64> {
        let addresses = self.addresses_from(1);
        let mut last = "not all nodes know the same one".to_owned();
        let leader = interrupt.poll(patience, LOOK_EVERY, || {
            self.expect_running()?;
            match cli.status(&addresses) {
                Ok(status) => Ok(status.agreed_leader()),
                // A node that does not answer yet is no error.
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        })?;
        leader.with_context(|| format!("no leader after {}: {last}", spoken(patience)))
    }

    /// Fails if a node has ended by itself.
    pub(crate) fn expect_running(&mut self) -> Result<()> {
        self.nodes.iter_mut().filter_map(|node| node.process.as_mut()).try_for_each(Process::expect_running)
    }

    /// Nodes that have ended by themselves since they were started, and how. They do not run any more.
    pub(crate) fn take_ended(&mut self) -> Result<Vec<(u64, ExitStatus)>> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(status) = node.process.as_mut().map(Process::ended).transpose()?.flatten() {
                node.process = None;
                ended.push((node.id, status));
            }
        }
        Ok(ended)
    }

    /// SIGKILL to one node.
    pub(crate) fn kill(&mut self, id: u64) -> Result<()> {
        let mut process =
            self.node_mut(id)?.process.take().with_context(|| format!("node {id} does not run"))?;
        process.expect_running()?;
        process.kill()
    }

    /// SIGKILL to all nodes, as close together as one process can send them.
    pub(crate) fn kill_all(&mut self) -> Result<()> {
        for id in self.ids() {
            self.kill(id)?;
        }
        Ok(())
    }

    /// Lets one node stand still, with its connections open.
    pub(crate) fn freeze(&mut self, id: u64) -> Result<()> {
        self.process_mut(id)?.freeze()
    }

    /// Lets one node go on.
    pub(crate) fn thaw(&mut self, id: u64) -> Result<()> {
        self.process_mut(id)?.thaw()
    }

    fn process_mut(&mut self, id: u64) -> Result<&mut Process> {
        self.node_mut(id)?.process.as_mut().with_context(|| format!("node {id} does not run"))
    }

    /// SIGTERM to one node.
    pub(crate) fn stop(&mut self, id: u64) -> Result<Stop> {
        let mut process =
            self.node_mut(id)?.process.take().with_context(|| format!("node {id} does not run"))?;
        let (status, took) = process.terminate(STOP_PATIENCE)?;
        Ok(Stop { node: id, status, took })
    }

    /// SIGTERM to all nodes that run, one after the other.
    pub(crate) fn stop_all(&mut self) -> Result<Vec<Stop>> {
        let running = self.nodes.iter().filter(|node| node.is_running()).map(Node::id).collect::<Vec<_>>();
        running.into_iter().map(|id| self.stop(id)).collect()
    }

    /// Lets the nodes run on after this command ends.
    pub(crate) fn leave_running(&mut self) {
        self.nodes.iter_mut().filter_map(|node| node.process.as_mut()).for_each(Process::leave_running);
    }
}

fn config_text(
    node: &Node,
    nodes: &[Node],
    address: impl Fn(&Node, &Node) -> SocketAddr,
    pins: &BTreeMap<u64, String>,
    extra: &str,
) -> String {
    let (client, peer, ops) = (node.address(), node.peer_address(), node.ops_address());
    let mut text = format!(
        "[node]\nid = {}\ncluster = \"e2e\"\ndata_dir = \"data\"\n\n[chain]\nname = \"e2e\"\n\n\
         [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nops = \"{ops}\"\n",
        node.id
    );
    if !extra.contains("[security]") {
        text.push_str("\n[security]\ninsecure = true\n");
    }
    for member in nodes {
        let peer = if member.id == node.id { member.peer_address() } else { address(node, member) };
        let (id, client) = (member.id, member.address());
        let _ = write!(text, "\n[[peers]]\nid = {id}\npeer = \"{peer}\"\nclient = \"{client}\"\n");
        if let Some(pin) = pins.get(&member.id) {
            let _ = writeln!(text, "public_key = \"{pin}\"");
        }
    }
    if !extra.is_empty() {
        text.push('\n');
        text.push_str(extra);
    }
    text
}

/// `count` different ports that are free now.
pub(crate) fn free_ports(count: usize, random: &mut Random) -> Result<Vec<u16>> {
    let end = outgoing_range_start();
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..10_000 {
        if ports.len() == count {
            return Ok(ports);
        }
        let port = PORT_MIN + random.below(u64::from(end - PORT_MIN)) as u16;
        // Held until all are found, so that none is found twice.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
            ports.push(port);
        }
    }
    bail!("found only {} of {count} free ports between {PORT_MIN} and {end}", ports.len())
}

/// The first port that the system may give to an outgoing connection.
fn outgoing_range_start() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let start = text.split_whitespace().next().and_then(|word| word.parse::<u16>().ok());
    start.filter(|start| *start > PORT_MIN + 1000).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_all_different_and_can_be_bound() {
        let ports = free_ports(12, &mut Random::new(7)).expect("there are some");
        let different = ports.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(different.len(), 12);
        // A process that another test is just starting holds a copy of every socket for a moment.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        for port in ports {
            while let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                assert!(std::time::Instant::now() < end, "port {port}: {error}");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_client_is_given_its_own_node_first_and_then_all_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut random = Random::new(1);
        let cluster =
            Cluster::create(Path::new("server"), directory.path(), 3, &mut random, "").expect("is created");
        let addresses = cluster.addresses_from(2);
        let second = cluster.node(2).expect("exists").address();
        assert!(addresses.starts_with(&second), "{addresses}");
        assert_eq!(addresses.split(',').count(), 3);
    }
}
