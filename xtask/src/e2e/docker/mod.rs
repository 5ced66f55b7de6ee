//! What ships, in containers: the image, the compose file and its configurations, under load.
//!
//! Four containers come up from `deploy/compose/compose.yaml` with mutual TLS, clients submit through the published
//! ports with the operator's certificate, and meanwhile the leader's container is killed, another is cut off from
//! its network and brought back, a node's certificate is renewed, and all are restarted one after the other. No acknowledgement may fail, and every promise of the default scenario
//! holds. Only what carries the run's project name is touched, and it is removed at the end.

mod certs;
mod engine;
pub(crate) mod image;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::engine::{Container, Engine, Project, docker, docker_logged};
use crate::e2e::Stage;
use crate::e2e::assertions::{Verdict, judge};
use crate::e2e::cli::{Block, Cli, Tip};
use crate::e2e::clients::{self, Client, Finished, Share};
use crate::e2e::cluster::free_ports;
use crate::e2e::random::Random;
use crate::e2e::report::{Phases, spoken_precisely, thousands};
use crate::workspace::{Workspace, output, shown, spoken};

/// Nodes in the compose file.
const NODES: u64 = 4;

/// How long the clients would go on; they are told when it is enough.
const LOAD_MAX: Duration = Duration::from_secs(600);

/// Transactions that each client hands out in a second.
const RATE: u64 = 100;

/// From the containers' start, or a node's return, to four nodes that agree on a leader.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// From a fault to the next block.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// How long a node is cut off.
const CUT_OFF: Duration = Duration::from_secs(5);

/// Load between two faults.
const BETWEEN: Duration = Duration::from_secs(2);

/// From a certificate that is handed out to a node that presents it.
const RELOAD_PATIENCE: Duration = Duration::from_secs(15);

/// The network of the compose file.
const NETWORK: &str = "nodes";

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Base of the image, one that is here or can be pulled [default: made from this machine's files]
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// Leave the containers running at the end
    #[arg(long)]
    keep: bool,
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Why no containers can be run here, if so.
pub(crate) fn missing() -> Option<String> {
    Engine::find().err().map(|error| format!("{error:#}"))
}

/// Runs the scenario.
///
/// # Errors
/// When something does not hold, or a container does not do as it should.
pub(crate) fn run(workspace: &Workspace, stage: &Stage, options: &Options) -> Result<()> {
    let engine = Engine::find()?;
    let phases = Phases::start(false);
    let name = format!("consensus-e2e-{}", std::process::id());
    let directory = stage.run_directory("docker")?;
    let file = workspace.root().join("deploy/compose/compose.yaml");
    phases.say(&format!("{}; project {name}", engine.shown()));
    let mut project = Project::new(engine, &name, file);
    let mut run = Run {
        workspace,
        stage,
        cli: stage.cli().clone(),
        options,
        phases,
        directory: directory.clone(),
        image: String::new(),
        ports: Vec::new(),
    };
    let result = run.play(&mut project);
    if let Err(error) = &result {
        // The logs go with the containers.
        let _ = docker_logged(&mut project.compose(&["logs", "--no-color"]), &directory.join("nodes.log"));
        if !stage.interrupt().requested() {
            println!("  {error:#}");
        }
    }
    if options.keep {
        project.keep();
        println!("project {name} is left running: {}", shown(&project.compose(&["run", "--rm", "client"])));
    }
    drop(project);
    match result {
        Ok(()) => std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string()),
        Err(error) => Err(error.context(format!("logs are in {}", directory.display()))),
    }
}

/// One project from its start to its end.
struct Run<'a> {
    workspace: &'a Workspace,
    stage: &'a Stage,
    /// With the operator's certificate, once there is one.
    cli: Cli,
    options: &'a Options,
    phases: Phases,
    directory: PathBuf,
    image: String,
    /// Published ports of the nodes' client services, in the order of their ids.
    ports: Vec<u16>,
}

impl Run<'_> {
    fn play(&mut self, project: &mut Project) -> Result<()> {
        self.image(project)?;
        self.up(project)?;
        let leader = self.agreed_leader()?;
        self.phases.say(&format!("node {leader} leads; {NODES} clients submit, each at a node of its own"));
        let clients = self.start_clients()?;
        self.stage.interrupt().pause(BETWEEN)?;
        self.kill(project, leader)?;
        self.cut_off(project)?;
        self.renew(project)?;
        self.rolling_restart(project)?;
        let finished = self.finish(clients)?;
        let tip = self.level()?;
        let verdict = judge(&finished, &self.chains()?);
        report(&verdict, &tip);
        ensure!(verdict.findings.is_empty(), "{}", verdict.findings.join("\n  "));
        ensure!(
            verdict.acknowledged == verdict.sent,
            "{} of {} transactions were not acknowledged",
            verdict.sent - verdict.acknowledged,
            verdict.sent
        );
        // Behind the verdict, which knows what its clients have sent.
        certs::documented_commands(project, &self.directory.join("commands.log"))?;
        self.phases
            .say("what the README types works: run --rm client, and consensus-cli in a node's container");
        if self.options.keep { Ok(()) } else { self.verify(project) }
    }

    /// Builds the image that the services are started from.
    fn image(&mut self, project: &mut Project) -> Result<()> {
        let started = Instant::now();
        let binaries = self.stage.server().parent().context("binaries without a directory")?.to_path_buf();
        let tag = format!("{}:image", project.name());
        let base = match &self.options.base {
            Some(base) => base.clone(),
            None => {
                let base = format!("{}:base", project.name());
                project.owns_image(&base);
                image::base_from_machine(self.workspace, &base, &binaries, &self.directory)?;
                base
            }
        };
        project.owns_image(&tag);
        image::build(self.workspace.root(), &tag, Some(&base), &binaries, &self.directory)?;
        let size = docker(["image", "inspect", "--format", "{{.Size}}", &tag])?.parse::<u64>().unwrap_or(0);
        project.set("CONSENSUS_IMAGE".to_owned(), tag.clone());
        self.image = tag;
        let what = if self.options.base.is_some() { base } else { "a base from this machine".to_owned() };
        let took = spoken(started.elapsed());
        self.phases.say(&format!("image on {what} in {took}, {} MiB", size >> 20));
        Ok(())
    }

    /// Starts the compose file's services and looks whether the containers are as they should be.
    fn up(&mut self, project: &mut Project) -> Result<()> {
        let mut random = Random::new(Random::fresh_seed());
        let ports = free_ports(2 * usize::try_from(NODES)?, &mut random)?;
        for (id, pair) in (1..=NODES).zip(ports.chunks_exact(2)) {
            project.set(format!("NODE{id}_PORT"), pair[0].to_string());
            project.set(format!("NODE{id}_OPS_PORT"), pair[1].to_string());
            self.ports.push(pair[0]);
        }
        let mut command = project.compose(&["up", "-d", "--no-build"]);
        docker_logged(&mut command, &self.directory.join("up.log"))?;
        self.cli = certs::operator(project, &self.cli, &self.directory)?;
        self.agreed_leader().context("after `up`")?;
        for id in 1..=NODES {
            let container = node(project, id)?;
            let healthy = || {
                let found = container.inspect("{{.State.Health.Status}}")?;
                Ok((found == "healthy").then_some(()))
            };
            let waited = self.stage.interrupt().poll(READY_PATIENCE, Duration::from_millis(500), healthy)?;
            waited.with_context(|| format!("node {id} is not healthy after {}", spoken(READY_PATIENCE)))?;
            for (template, expected) in [
                ("{{.Config.User}}", "1000:1000"),
                ("{{.Config.StopSignal}}", "SIGTERM"),
                ("{{.HostConfig.ReadonlyRootfs}}", "true"),
                ("{{.HostConfig.CapDrop}}", "[ALL]"),
            ] {
                let found = container.inspect(template)?;
                ensure!(found == expected, "node {id}: {template} is {found}, must be {expected}");
            }
            let written = container.exec(&["sh", "-c", ": > /usr/bin/x"])?;
            ensure!(written != Some(0), "node {id} can write outside its data");
            certs::apart(&container, id, NODES)?;
        }
        self.phases.say("four containers are up and healthy, as user 1000, read-only, without capabilities");
        certs::closed_to_plaintext(&self.cli, &self.address(1)?)?;
        certs::scraped(project, &self.image, &project.network(NETWORK))?;
        self.phases
            .say("mutual TLS: each node has its own key only, plaintext is refused, Prometheus may read");
        Ok(())
    }

    /// Renews the certificate of a node that runs, with the compose file's own service.
    fn renew(&self, project: &Project) -> Result<()> {
        let id = self.agreed_leader()?;
        let (container, address) = (node(project, id)?, self.address(id)?);
        let started = || container.inspect("{{.State.StartedAt}} {{.RestartCount}}");
        let (old, before) = (certs::presented(&self.cli, &address)?, started()?);
        certs::renew(project, id, &self.directory.join("renew.log"))?;
        let handed_out = Instant::now();
        let renewed =
            || Ok(certs::presented(&self.cli, &address).ok().filter(|new| new.renews(&old)).map(drop));
        let renewed = self.stage.interrupt().poll(RELOAD_PATIENCE, Duration::from_millis(100), renewed)?;
        renewed.with_context(|| {
            format!("node {id} presents no renewed certificate of its key after {}", spoken(RELOAD_PATIENCE))
        })?;
        let took = spoken_precisely(handed_out.elapsed());
        ensure!(started()? == before, "node {id} was restarted");
        self.next_block(id, "the renewal")?;
        self.phases
            .say(&format!("certificate of node {id}, which leads, renewed and presented {took} later"));
        self.stage.interrupt().pause(BETWEEN)
    }

    /// Client addresses of all nodes, `first`'s leading.
    fn addresses_from(&self, first: u64) -> String {
        let addresses = (1..).zip(&self.ports).map(|(id, port)| (id, format!("127.0.0.1:{port}")));
        let (leading, others): (Vec<_>, Vec<_>) = addresses.partition(|(id, _)| *id == first);
        leading.into_iter().chain(others).map(|(_, address)| address).collect::<Vec<_>>().join(",")
    }

    fn address(&self, id: u64) -> Result<String> {
        let port = usize::try_from(id - 1).ok().and_then(|place| self.ports.get(place));
        port.map(|port| format!("127.0.0.1:{port}")).with_context(|| format!("there is no node {id}"))
    }

    /// The leader among `ids` on which all of them agree, once they are ready. One that is gone counts as their
    /// leader until they miss it.
    fn leader_of(&self, ids: &[u64], limit: Duration) -> Result<u64> {
        let addresses = ids.iter().map(|id| self.address(*id)).collect::<Result<Vec<_>>>()?.join(",");
        let asked = || {
            let leader = self.cli.status(&addresses).ok().and_then(|status| status.agreed_leader());
            Ok(leader.filter(|leader| ids.contains(leader)))
        };
        let leader = self.stage.interrupt().poll(limit, Duration::from_millis(100), asked)?;
        leader.with_context(|| format!("nodes {ids:?} do not agree on a leader after {}", spoken(limit)))
    }

    fn agreed_leader(&self) -> Result<u64> {
        self.leader_of(&(1..=NODES).collect::<Vec<_>>(), READY_PATIENCE)
    }

    fn start_clients(&self) -> Result<Vec<Client>> {
        let start = |node: u64| {
            let client = format!("client-{node}");
            let lines = (1..=RATE * LOAD_MAX.as_secs()).map(|line| format!("{client}: {line}").into_bytes());
            let share = Share { client: client.clone(), lines: std::sync::Arc::new(lines.collect()) };
            Client::start(&self.cli, &share, &self.addresses_from(node), LOAD_MAX, &self.directory)
        };
        (1..=NODES).map(start).collect()
    }

    /// Waits until one of `ids` has a block that it had not.
    fn next_block(&self, id: u64, what: &str) -> Result<Duration> {
        let started = Instant::now();
        let address = self.address(id)?;
        let before = self.cli.tip(&address)?.height;
        let grown = || Ok(self.cli.tip(&address).ok().filter(|tip| tip.height > before).map(drop));
        let grown = self.stage.interrupt().poll(RECOVERY_PATIENCE, Duration::from_millis(50), grown)?;
        grown.with_context(|| format!("no block {} after {what}", spoken(RECOVERY_PATIENCE)))?;
        Ok(started.elapsed())
    }

    /// Kills the leader's container and starts it again.
    fn kill(&self, project: &Project, leader: u64) -> Result<()> {
        let container = node(project, leader)?;
        let others: Vec<u64> = (1..=NODES).filter(|id| *id != leader).collect();
        let killed = Instant::now();
        container.kill()?;
        let successor = self.leader_of(&others, RECOVERY_PATIENCE)?;
        self.next_block(successor, "the kill")?;
        let recovery = spoken_precisely(killed.elapsed());
        self.phases.say(&format!(
            "container of node {leader} killed; node {successor} leads and blocks go on, {recovery}"
        ));
        let started = Instant::now();
        container.start()?;
        self.agreed_leader().with_context(|| format!("after the return of node {leader}"))?;
        self.phases.say(&format!("node {leader} started again and back after {}", spoken(started.elapsed())));
        self.stage.interrupt().pause(BETWEEN)
    }

    /// Takes the leader's container off the network and puts it back.
    fn cut_off(&self, project: &Project) -> Result<()> {
        let leader = self.agreed_leader()?;
        let container = node(project, leader)?;
        let network = project.network(NETWORK);
        let others: Vec<u64> = (1..=NODES).filter(|id| *id != leader).collect();
        let cut = Instant::now();
        container.cut_off(&network)?;
        let successor = self.leader_of(&others, RECOVERY_PATIENCE)?;
        self.next_block(successor, "the cut")?;
        let recovery = spoken_precisely(cut.elapsed());
        let ready = ["consensus-cli", "health", "--ops", "127.0.0.1:7402", "--ready"];
        let steps_down = || Ok((container.exec(&ready)? == Some(1)).then_some(()));
        let limit = RECOVERY_PATIENCE;
        let stepped_down = self.stage.interrupt().poll(limit, Duration::from_millis(200), steps_down)?;
        stepped_down.with_context(|| format!("node {leader} calls itself ready, cut off from all others"))?;
        let live = container.exec(&ready[..4])?;
        ensure!(live == Some(0), "node {leader}, cut off, is not live: nobody is to restart it");
        self.phases.say(&format!(
            "node {leader} cut off from its network, not ready and live; node {successor} leads, {recovery}"
        ));
        self.stage.interrupt().pause(CUT_OFF.saturating_sub(cut.elapsed()))?;
        let back = Instant::now();
        container.bring_back(&network, &format!("node{leader}"))?;
        self.agreed_leader().with_context(|| format!("after node {leader} was brought back"))?;
        self.phases
            .say(&format!("node {leader} on its network again and back after {}", spoken(back.elapsed())));
        self.stage.interrupt().pause(BETWEEN)
    }

    /// Stops and starts all containers one after the other, the leader's last.
    fn rolling_restart(&self, project: &Project) -> Result<()> {
        let leader = self.agreed_leader()?;
        let order = (1..=NODES).filter(|id| *id != leader).chain([leader]);
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        for id in order {
            let container = node(project, id)?;
            let stopped = Instant::now();
            let code = container.stop()?;
            slowest = slowest.max(stopped.elapsed());
            ensure!(code == "0", "node {id} ended with exit code {code} after SIGTERM");
            container.start()?;
            self.agreed_leader().with_context(|| format!("after the restart of node {id}"))?;
        }
        let (took, slowest) = (spoken(started.elapsed()), spoken(slowest));
        self.phases.say(&format!(
            "all restarted one after the other, the leader last, in {took}; slowest stop {slowest}"
        ));
        self.stage.interrupt().pause(BETWEEN)
    }

    fn finish(&self, clients: Vec<Client>) -> Result<Vec<Finished>> {
        let (finished, longest) = clients::finish_all(clients, self.stage.interrupt())?;
        self.phases.say(&format!("all clients have their answers, the longest wait of one was {longest} ms"));
        Ok(finished)
    }

    /// Waits until all nodes have the same newest block.
    fn level(&self) -> Result<Tip> {
        let level = || {
            let tips: Vec<Tip> =
                (1..=NODES).filter_map(|id| self.cli.tip(&self.address(id).ok()?).ok()).collect();
            let same = tips.len() as u64 == NODES && tips.windows(2).all(|pair| pair[0] == pair[1]);
            Ok(tips.first().filter(|_| same).cloned())
        };
        let tip = self.stage.interrupt().poll(RECOVERY_PATIENCE, Duration::from_millis(100), level)?;
        tip.with_context(|| format!("the nodes' chains are not level after {}", spoken(RECOVERY_PATIENCE)))
    }

    fn chains(&self) -> Result<Vec<(u64, Vec<Block>)>> {
        (1..=NODES).map(|id| Ok((id, self.cli.chain(&self.address(id)?)?))).collect()
    }

    /// Stops everything and has the image's own command line look through each data volume.
    fn verify(&self, project: &Project) -> Result<()> {
        output(&mut project.compose(&["stop", "-t", "15"]))?;
        for id in 1..=NODES {
            let (service, log) = (format!("node{id}"), self.directory.join(format!("verify-{id}.log")));
            let verify = ["run", "--rm", "--no-deps", &service, "consensus-cli", "verify", "/data"];
            docker_logged(&mut project.compose(&verify), &log)?;
        }
        self.phases.say("all nodes stopped; the image's consensus-cli finds all data volumes clean");
        Ok(())
    }
}

fn node(project: &Project, id: u64) -> Result<Container> {
    project.container(&format!("node{id}")).map(|id| Container { id })
}

fn report(verdict: &Verdict, tip: &Tip) {
    println!(
        "\n  {} sent, {} acknowledged, {} in the chain at height {}; {} lost, {} doubled",
        thousands(verdict.sent as u64),
        thousands(verdict.acknowledged as u64),
        thousands(verdict.in_chain as u64),
        thousands(tip.height),
        verdict.lost,
        verdict.doubled
    );
}
