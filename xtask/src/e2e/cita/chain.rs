//! A chain of CITA-Cloud nodes on this machine: three processes a node, started and stopped one by one.
//!
//! The consensus process is started exactly as the original is, through a link of its name in the node's
//! directory. Controller and network are the stand-ins, or other programs that take their place.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::config::{self, Genesis};
use crate::e2e::cluster::free_ports;
use crate::e2e::http;
use crate::e2e::process::Process;
use crate::e2e::random::Random;

/// How long a stop is waited for before it is called a hang.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Ports of one node.
const PORTS: usize = 13;

/// A process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Network,
    Consensus,
    Controller,
}

impl Service {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Network, Self::Consensus, Self::Controller];

    fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Consensus => "consensus",
            Self::Controller => "controller",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// Where a node listens on the loopback interface.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) network: u16,
    /// Of the network, for other networks.
    pub(crate) peer: u16,
    pub(crate) consensus: u16,
    pub(crate) metrics: u16,
    pub(crate) controller: u16,
    pub(crate) network_control: u16,
    pub(crate) controller_control: u16,
    /// Named in the configuration, but nobody listens: executor, its metrics, metrics of storage, storage,
    /// metrics of controller and network.
    pub(crate) others: [u16; 6],
}

impl Ports {
    /// Deals out [`PORTS`] ports.
    pub(crate) fn from_free(free: &[u16]) -> Self {
        Self {
            network: free[0],
            peer: free[1],
            consensus: free[2],
            metrics: free[3],
            controller: free[4],
            network_control: free[5],
            controller_control: free[6],
            others: [free[7], free[8], free[9], free[10], free[11], free[12]],
        }
    }
}

/// What is started.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The consensus service's binary.
    pub(crate) consensus: PathBuf,
    /// The stand-ins' binary.
    pub(crate) peer: PathBuf,
    /// Started in a node's directory in place of the stand-in controller.
    pub(crate) controller: Option<String>,
    /// Started in a node's directory in place of the stand-in network.
    pub(crate) network: Option<String>,
    /// Whether the consensus processes reach each other directly instead of through the network.
    pub(crate) is_direct: bool,
}

/// One node: its directory, its address, its processes.
#[derive(Debug)]
pub(crate) struct Node {
    directory: PathBuf,
    address: String,
    ports: Ports,
    /// By [`Service`].
    processes: [Option<Process>; 3],
}

impl Node {
    /// 40 hexadecimal digits.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Where consensus keeps its state.
    pub(crate) fn consensus_data(&self) -> PathBuf {
        self.directory.join("raft-data-dir")
    }

    pub(crate) fn process(&self, service: Service) -> Option<&Process> {
        self.processes[service as usize].as_ref()
    }

    /// All that a process has written since the node was made, whatever happened to it.
    pub(crate) fn log(&self, service: Service) -> Result<String> {
        let path = self.directory.join(format!("{service}.log"));
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn ledger(&self) -> Result<(PathBuf, String)> {
        let path = self.directory.join(LEDGER);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok((path, text))
    }

    /// Height of the controller's ledger, while the controller does not run.
    pub(crate) fn ledger_height(&self) -> Result<u64> {
        Ok(self.ledger()?.1.matches('\n').count() as u64)
    }

    /// Takes the newest blocks away, while the controller does not run. Returns the height that is left.
    pub(crate) fn drop_blocks(&self, count: u64) -> Result<u64> {
        ensure!(self.process(Service::Controller).is_none(), "the controller runs");
        let (path, text) = self.ledger()?;
        let height = (text.matches('\n').count() as u64).saturating_sub(count);
        let kept = text.split_inclusive('\n').take(height as usize).collect::<String>();
        std::fs::write(&path, kept).with_context(|| path.display().to_string())?;
        Ok(height)
    }

    /// Gives the stand-in controller an order.
    pub(crate) fn order(&self, path: &str, body: &Value) -> Result<Value> {
        http::post(self.ports.controller_control, path, body)
    }
}

/// The stand-in controller's file in a node's directory: one line a block, from height 1 on.
const LEDGER: &str = "controller-ledger.jsonl";

/// How a chain is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nodes with processes.
    pub(crate) nodes: usize,
    /// How many of them are validators at first.
    pub(crate) validators: usize,
    /// Seconds.
    pub(crate) block_interval: u32,
}

/// Who leads, and since which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Position of the node.
    pub(crate) node: usize,
    pub(crate) term: u64,
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Chain {
    programs: Programs,
    nodes: Vec<Node>,
}

impl Chain {
    /// Writes the directories of a new chain.
    pub(crate) fn create(
        programs: &Programs,
        directory: &Path,
        plan: &Plan,
        random: &mut Random,
    ) -> Result<Self> {
        let free = free_ports(plan.nodes * PORTS, random)?;
        let ports = free.chunks_exact(PORTS).map(Ports::from_free).collect::<Vec<_>>();
        let mut digits = |count: usize| {
            let numbers = std::iter::repeat_with(|| format!("{:016x}", random.next()));
            let text = numbers.take(count.div_ceil(16)).collect::<String>();
            text[..count].to_owned()
        };
        let addresses = (0..plan.nodes).map(|_| digits(40)).collect::<Vec<_>>();
        let genesis = Genesis {
            chain_id: digits(64),
            block_interval: plan.block_interval,
            validators: addresses[..plan.validators].to_vec(),
            timestamp_ms: now_ms(),
        };
        let mut nodes = Vec::new();
        let direct = |own: usize| {
            let others = addresses.iter().zip(&ports).enumerate().filter(|(node, _)| *node != own);
            let lines = others
                .map(|(_, (address, ports))| format!("\"{address}\" = \"127.0.0.1:{}\"\n", ports.consensus));
            format!("\n[consensus_raft.peers]\n{}", lines.collect::<String>())
        };
        for (number, address) in addresses.iter().enumerate() {
            let directory = directory.join(format!("node{number}"));
            let extra = if programs.is_direct { direct(number) } else { String::new() };
            config::write(&directory, &genesis, number, address, &ports, &extra)?;
            let link = directory.join("consensus");
            std::os::unix::fs::symlink(&programs.consensus, &link)
                .with_context(|| link.display().to_string())?;
            let ports = ports[number].clone();
            let address = address.clone();
            nodes.push(Node { directory, address, ports, processes: [None, None, None] });
        }
        Ok(Self { programs: programs.clone(), nodes })
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    fn command(&self, node: usize, service: Service) -> Result<Command> {
        let Node { directory, ports, .. } = &self.nodes[node];
        let (other, control) = match service {
            Service::Consensus => {
                let mut command = Command::new(directory.join("consensus"));
                command.args(["run", "-c", "config.toml", "--stdout"]).current_dir(directory);
                return Ok(command);
            }
            Service::Controller => (&self.programs.controller, ports.controller_control),
            Service::Network => (&self.programs.network, ports.network_control),
        };
        let mut command = match other {
            Some(text) => {
                let mut words = text.split_whitespace();
                let mut command = Command::new(words.next().context("an empty command")?);
                command.args(words);
                command
            }
            None => {
                let mut command = Command::new(&self.programs.peer);
                command.args([service.name(), "--config", "config.toml", "--control"]);
                command.arg(format!("127.0.0.1:{control}"));
                command
            }
        };
        command.current_dir(directory);
        Ok(command)
    }

    /// Starts one process; it need not be ready when this returns.
    pub(crate) fn start(&mut self, node: usize, service: Service) -> Result<()> {
        let mut command = self.command(node, service)?;
        let Node { directory, processes, .. } = &mut self.nodes[node];
        let process = &mut processes[service as usize];
        ensure!(process.is_none(), "{service} of node {node} runs already");
        let log = directory.join(format!("{service}.log"));
        *process = Some(Process::start(&format!("{service} of node {node}"), &mut command, &log)?);
        Ok(())
    }

    /// Starts one service on all nodes on which it does not run.
    pub(crate) fn start_service(&mut self, service: Service) -> Result<()> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].process(service).is_none() {
                self.start(node, service)?;
            }
        }
        Ok(())
    }

    /// Starts everything that does not run.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        Service::ALL.into_iter().try_for_each(|service| self.start_service(service))
    }

    /// The process, which runs.
    pub(crate) fn process_mut(&mut self, node: usize, service: Service) -> Result<&mut Process> {
        self.nodes[node].processes[service as usize]
            .as_mut()
            .with_context(|| format!("{service} of node {node} does not run"))
    }

    /// SIGKILL to one process.
    pub(crate) fn kill(&mut self, node: usize, service: Service) -> Result<()> {
        self.process_mut(node, service)?.expect_running()?;
        self.reap(node, service)
    }

    /// SIGKILL to one process that may have ended by itself, as a script wanted.
    pub(crate) fn reap(&mut self, node: usize, service: Service) -> Result<()> {
        self.process_mut(node, service)?.kill()?;
        self.nodes[node].processes[service as usize] = None;
        Ok(())
    }

    /// SIGKILL to everything of `services` that runs.
    pub(crate) fn kill_all(&mut self, services: &[Service]) -> Result<()> {
        for node in 0..self.nodes.len() {
            for service in services {
                if self.nodes[node].process(*service).is_some() {
                    self.kill(node, *service)?;
                }
            }
        }
        Ok(())
    }

    /// SIGTERM to everything of `service`; the longest time from there to the exit.
    pub(crate) fn stop_service(&mut self, service: Service) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(mut process) = node.processes[service as usize].take() {
                let (status, took) = process.terminate(STOP_PATIENCE)?;
                ensure!(status.success(), "{service} of node {number} ended with {status} after SIGTERM");
                longest = longest.max(took);
            }
        }
        Ok(longest)
    }

    /// SIGTERM to everything; the longest time that a consensus process took.
    pub(crate) fn stop_all(&mut self) -> Result<Duration> {
        let took = self.stop_service(Service::Consensus)?;
        self.stop_service(Service::Controller)?;
        self.stop_service(Service::Network)?;
        Ok(took)
    }

    /// Fails if a process has ended by itself.
    pub(crate) fn expect_running(&mut self) -> Result<()> {
        let processes = self.nodes.iter_mut().flat_map(|node| node.processes.iter_mut().flatten());
        processes.into_iter().try_for_each(Process::expect_running)
    }

    /// The leader of the highest term, as the consensus processes say.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let statuses = self.nodes.iter().map(consensus_status).enumerate();
        let leaders = statuses.filter_map(|(node, status)| {
            let status = status.ok()?;
            let chain = &status["chains"][0];
            let term = chain["term"].as_u64()?;
            (chain["role"] == "leader").then_some(Leader { node, term })
        });
        leaders.max_by_key(|leader| leader.term)
    }

    /// The highest term that a consensus process knows.
    pub(crate) fn term(&self) -> Option<u64> {
        let statuses = self.nodes.iter().map(consensus_status);
        statuses.filter_map(|status| status.ok()?["chains"][0]["term"].as_u64()).max()
    }

    /// A line for each node: what its consensus process says of itself.
    pub(crate) fn described(&self) -> String {
        let mut text = String::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let line = consensus_status(node).map_or_else(
                |error| format!("{error:#}"),
                |status| {
                    let chain = &status["chains"][0];
                    let names = ["state", "halt_reason", "role", "term", "height", "applied_index"];
                    let chain = names.map(|name| format!("{name} {}", chain[name])).join(", ");
                    format!("{chain}; waits {}; not ready {}", status["waits"], status["not_ready_reason"])
                },
            );
            let _ = writeln!(text, "  node {number}: {line}");
        }
        text
    }

    /// How many lines with `text` all processes of a service have logged.
    pub(crate) fn logged(&self, service: Service, text: &str) -> Result<usize> {
        let logs = self.nodes.iter().map(|node| node.log(service));
        let lines = logs.map(|log| Ok(log?.lines().filter(|line| line.contains(text)).count()));
        lines.sum()
    }

    /// What the health service of a node's consensus process answers, as a probe in a container asks it.
    pub(crate) fn health(&self, node: usize, service: &str) -> Result<String> {
        let address = format!("127.0.0.1:{}", self.nodes[node].ports.consensus);
        let mut command = Command::new(&self.programs.peer);
        let output = command.args(["health", &address, service]).output().context("cita-peer health")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Processor time of all processes of a service so far.
    pub(crate) fn processor_time(&self, service: Service) -> Duration {
        self.nodes.iter().filter_map(|node| node.process(service)).map(Process::processor_time).sum()
    }
}

/// What a node's consensus process says of itself.
pub(crate) fn consensus_status(node: &Node) -> Result<Value> {
    http::get(node.ports.metrics, "/status")
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(directory: &Path) -> Chain {
        let programs = Programs {
            consensus: "/bin/true".into(),
            peer: "/bin/true".into(),
            controller: None,
            network: Some("net --fast".into()),
            is_direct: true,
        };
        let plan = Plan { nodes: 3, validators: 2, block_interval: 3 };
        Chain::create(&programs, directory, &plan, &mut Random::new(5)).expect("is created")
    }

    #[test]
    fn consensus_is_started_with_the_originals_command_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let chain = chain(directory.path());
        let command = chain.command(1, Service::Consensus).expect("is there");
        assert_eq!(crate::workspace::shown(&command), "consensus run -c config.toml --stdout");
        assert_eq!(command.get_current_dir(), Some(directory.path().join("node1").as_path()));
    }

    #[test]
    fn another_network_takes_the_place_of_the_stand_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let chain = chain(directory.path());
        let network = chain.command(0, Service::Network).expect("is there");
        assert_eq!(crate::workspace::shown(&network), "net --fast");
        let controller = chain.command(0, Service::Controller).expect("is there");
        assert!(crate::workspace::shown(&controller).contains("controller --config config.toml --control"));
    }

    #[test]
    fn addresses_are_written_without_a_newline_and_only_validators_are_listed() {
        let directory = tempfile::tempdir().expect("a directory");
        let chain = chain(directory.path());
        let address = std::fs::read_to_string(directory.path().join("node2/node_address")).expect("is there");
        assert_eq!((address.len(), address.as_str()), (40, chain.node(2).address()));
        let text = std::fs::read_to_string(directory.path().join("node0/config.toml")).expect("is there");
        let (_, list) = text.split_once("\nvalidators = [").expect("is there");
        assert!(list.contains(chain.node(1).address()) && !list.contains(&address));
        let direct = format!("\"{address}\" = \"127.0.0.1:{}\"", chain.node(2).ports().consensus);
        assert!(text.contains(&direct), "{text}");
    }
}
