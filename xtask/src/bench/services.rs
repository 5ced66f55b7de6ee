//! The services under load: ours and etcd, each as several processes on loopback ports with fresh data.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::machine::Counters;
use super::points::{Point, To};
use crate::e2e::Stage;
use crate::e2e::cli::Cli;
use crate::e2e::cluster::{Cluster, free_ports};
use crate::e2e::process::Process;
use crate::e2e::random::Random;
use crate::workspace::shown;

/// How long a service may take to elect its leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);

/// How long the chains may take to become equal after a load.
const LEVEL_PATIENCE: Duration = Duration::from_secs(30);

/// What one measurement gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) rate_per_s: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) errors: u64,
    /// Processor time of all nodes together, in cores.
    pub(super) node_cores: f64,
    /// The same in seconds, of the whole load.
    pub(super) node_seconds: f64,
    /// Processor time of all nodes together for each transaction of the whole load, in microseconds.
    pub(super) node_us_per_transaction: f64,
    pub(super) client_cores: f64,
    /// Of everything else on the machine.
    pub(super) foreign_cores: f64,
    /// Of the node with most, in bytes.
    pub(super) resident_bytes: u64,
    /// Bytes written to disk per node and byte of payload; 0 where it is not known.
    pub(super) write_amplification: f64,
}

/// What `consensus-cli bench --json` prints.
#[derive(Debug, Deserialize)]
struct Report {
    operations: u64,
    rate_per_s: f64,
    payload_bytes: u64,
    latency: Latency,
    errors: u64,
    first_error: Option<String>,
    client_cores: f64,
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50_us: u64,
    p99_us: u64,
}

/// Runs the load and counts what the processes `ids` used meanwhile.
fn load(cli: &Cli, point: &Point, quick: bool, extra: &[&str], ids: &[u32]) -> Result<(Report, Sample)> {
    let mut command = cli.command(["bench", point.workload()]);
    command.args(point.flags(quick)).args(extra);
    let before = Counters::read(ids)?;
    let answer = cli.ask(&mut command)?;
    let used = Counters::read(ids)?.since(&before);
    let report: Report = serde_json::from_str(answer.stdout.trim())
        .with_context(|| format!("`{}`: {}{}", shown(&command), answer.stdout, answer.stderr))?;
    ensure!(
        report.problems.is_empty(),
        "{}: the run does not hold: {}",
        point.name,
        report.problems.join("; ")
    );
    let first_error = report.first_error.as_deref().unwrap_or_default();
    ensure!(report.operations > 0, "{}: nothing was measured: {first_error}", point.name);
    if report.errors > 0 {
        println!("        {} errors, the first: {first_error}", report.errors);
    }
    let sample = Sample {
        rate_per_s: report.rate_per_s,
        p50_us: report.latency.p50_us,
        p99_us: report.latency.p99_us,
        errors: report.errors,
        node_cores: used.node_cores(),
        node_seconds: used.node_seconds(),
        node_us_per_transaction: 0.0,
        client_cores: report.client_cores,
        foreign_cores: used.foreign_cores(),
        resident_bytes: used.resident_bytes_max,
        write_amplification: 0.0,
    };
    Ok((report, sample))
}

/// Our nodes.
#[derive(Debug)]
pub(super) struct Ours {
    cluster: Cluster,
    leader: u64,
}

impl Ours {
    pub(super) fn start(
        stage: &Stage,
        top: &Path,
        nodes: u64,
        random: &mut Random,
        extra: &str,
    ) -> Result<Self> {
        let directory = fresh(top, "ours")?;
        let mut cluster = Cluster::create(stage.server(), &directory, nodes, random, extra)?;
        cluster.start_all()?;
        let leader = cluster.leader(stage.cli(), stage.interrupt(), LEADER_PATIENCE)?;
        Ok(Self { cluster, leader })
    }

    /// Measures one point; everything acknowledged must be on all nodes afterwards.
    pub(super) fn measure(&mut self, stage: &Stage, point: &Point, quick: bool) -> Result<Sample> {
        stage.interrupt().check()?;
        let addresses = self.cluster.addresses_from(1);
        let status = stage.cli().status(&addresses)?;
        self.leader = status.agreed_leader().context("our nodes have no leader")?;
        let others = self.cluster.ids().into_iter().filter(|id| *id != self.leader).collect::<Vec<_>>();
        let address = |id: u64| self.cluster.node(id).map(|node| node.address());
        let nodes = match point.to() {
            To::Leader => address(self.leader)?,
            To::Follower => address(others[0])?,
            To::All => addresses,
        };
        // Neither the leader nor the node that is loaded, where there is one.
        let deliver = address(others[others.len() - 1])?;
        let mut extra = vec!["--nodes", &nodes];
        if point.workload() != "b1" {
            extra.extend(["--deliver", &deliver]);
        }
        let ids = self.cluster.nodes().iter().filter_map(|node| node.process_id()).collect::<Vec<_>>();
        let transactions_before = stage.cli().tip(&deliver)?.transactions;
        let written_before = Counters::written_bytes(&ids);
        let (report, mut sample) = load(stage.cli(), point, quick, &extra, &ids)?;
        let transactions = self.level(stage)? - transactions_before;
        ensure!(
            transactions >= report.operations,
            "{}: {} acknowledged, {transactions} in the chain",
            point.name,
            report.operations
        );
        let payload = (transactions * report.payload_bytes * ids.len() as u64) as f64;
        let written = Counters::written_bytes(&ids).saturating_sub(written_before) as f64;
        sample.write_amplification = written / payload.max(1.0);
        sample.node_us_per_transaction = sample.node_seconds * 1e6 / (transactions as f64).max(1.0);
        Ok(sample)
    }

    /// Waits until all nodes have the same tip; returns the number of transactions in the chain.
    fn level(&mut self, stage: &Stage) -> Result<u64> {
        let cluster = &mut self.cluster;
        let level = stage.interrupt().poll(LEVEL_PATIENCE, Duration::from_millis(100), || {
            cluster.expect_running()?;
            let tip = |node: &crate::e2e::cluster::Node| stage.cli().tip(&node.address());
            let tips = cluster.nodes().iter().map(tip).collect::<Result<Vec<_>>>()?;
            Ok(tips.iter().all(|tip| *tip == tips[0]).then(|| tips[0].transactions))
        })?;
        level.with_context(|| format!("the nodes' tips differ {LEVEL_PATIENCE:?} after the load"))
    }

    pub(super) fn stop(mut self) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        Ok(())
    }
}

/// The version of etcd on PATH, if it is there.
pub(super) fn etcd_version() -> Option<String> {
    let output = Command::new("etcd").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.split(": ").nth(1)?;
    Some(format!("etcd {version}"))
}

/// Three etcd members.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    process: Process,
    client_port: u16,
}

impl Etcd {
    pub(super) fn start(stage: &Stage, top: &Path, nodes: u64, random: &mut Random) -> Result<Self> {
        let directory = fresh(top, "etcd")?;
        let ports = free_ports(usize::try_from(nodes)? * 2, random)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let pairs = ports.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>();
        let named = pairs.iter().enumerate().map(|(number, (peer, _))| format!("m{number}={}", url(*peer)));
        let initial = named.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (number, (peer, client)) in pairs.iter().enumerate() {
            let name = format!("m{number}");
            let mut command = Command::new("etcd");
            command.args(["--name", &name, "--initial-cluster", &initial, "--initial-cluster-state", "new"]);
            command.arg("--data-dir").arg(directory.join(&name));
            command.args(["--listen-peer-urls", &url(*peer), "--initial-advertise-peer-urls", &url(*peer)]);
            command.args(["--listen-client-urls", &url(*client), "--advertise-client-urls", &url(*client)]);
            let process = Process::start(
                &format!("etcd {name}"),
                &mut command,
                &directory.join(format!("{name}.log")),
            )?;
            members.push(Member { process, client_port: *client });
        }
        let mut etcd = Self { members };
        let leader = stage.interrupt().poll(LEADER_PATIENCE, Duration::from_millis(50), || {
            etcd.members.iter_mut().try_for_each(|member| member.process.expect_running())?;
            Ok(etcd.leader())
        })?;
        leader.context("etcd has no leader")?;
        Ok(etcd)
    }

    /// The client port of the member that leads, once all members know a leader.
    fn leader(&self) -> Option<u16> {
        let metrics = self.members.iter().map(|member| http_get(member.client_port, "/metrics"));
        let metrics = metrics.collect::<Result<Vec<_>>>().ok()?;
        let says = |text: &str, name: &str| text.lines().any(|line| line == format!("{name} 1"));
        if !metrics.iter().all(|text| says(text, "etcd_server_has_leader")) {
            return None;
        }
        let position = metrics.iter().position(|text| says(text, "etcd_server_is_leader"))?;
        Some(self.members[position].client_port)
    }

    pub(super) fn measure(&self, stage: &Stage, point: &Point, quick: bool) -> Result<Sample> {
        stage.interrupt().check()?;
        let leader = self.leader().context("etcd has no leader")?;
        let all =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect::<Vec<_>>();
        let nodes = match point.to() {
            To::Leader | To::Follower => format!("127.0.0.1:{leader}"),
            To::All => all.join(","),
        };
        let ids = self.members.iter().map(|member| member.process.id()).collect::<Vec<_>>();
        let (_, sample) = load(stage.cli(), point, quick, &["--nodes", &nodes, "--target", "etcd"], &ids)?;
        Ok(sample)
    }
}

/// An empty directory of this name.
fn fresh(top: &Path, name: &str) -> Result<std::path::PathBuf> {
    let directory = top.join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

/// The body of a page on a loopback port.
fn http_get(port: u16, path: &str) -> Result<String> {
    let limit = Duration::from_secs(2);
    let started = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if started.elapsed() > limit {
        bail!("port {port} took {:?} for {path}", started.elapsed());
    }
    let (_, body) =
        text.split_once("\r\n\r\n").with_context(|| format!("port {port} does not speak HTTP"))?;
    Ok(body.to_owned())
}
