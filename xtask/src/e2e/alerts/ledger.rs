//! The troupe of the built-in ledger: four nodes in plaintext behind proxies, two of them on small disks of their
//! own, with small blocks and bounds, so that what takes hours in earnest takes seconds.

pub(super) mod disks;
pub(super) mod links;
pub(super) mod mistakes;
pub(super) mod processes;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::{Load, Pace};
use super::prometheus::Target;
use crate::e2e::Stage;
use crate::e2e::chaos::disk::{SmallDisk, is_root};
use crate::e2e::chaos::guardian::Guardian;
use crate::e2e::chaos::network::proxy::Proxies;
use crate::e2e::chaos::network::{Link, Network, Rule};
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::interrupt::Interrupt;
use crate::workspace::spoken;

pub(super) const NODES: u64 = 4;

/// The nodes with disks of their own: one of them too few to stop the chain, both enough.
const WITH_DISKS: [u64; 2] = [3, 4];

/// Size of such a disk: more than is called nearly full.
const DISK_BYTES: u64 = 2 << 30;

/// Until all nodes are ready and agree on a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// A block for each transaction, so that a node soon lacks a thousand; a pool that is soon full.
const SMALL: &str = "\
[block]
messages_max = 1
preferred_bytes = 65536
absolute_bytes = 65536

[limits]
entry_bytes_max = 131072
append_bytes_max = 65536
pool_transactions_max = 400

[submit]
deadline_ms = 5000
";

/// What a quiet chain does.
const STEADY: Pace = Pace { per_second: 50, bytes: 100 };

/// More than it can do.
const FLOOD: Pace = Pace { per_second: 20_000, bytes: 100 };

/// The nodes, their links and disks.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    stage: &'a Stage,
    cluster: Cluster,
    network: Network,
    disks: Vec<SmallDisk>,
}

impl<'a> Ledger<'a> {
    /// Writes the configurations; nothing runs yet.
    pub(super) fn create(
        stage: &'a Stage,
        directory: &Path,
        random: &mut Random,
        guardian: &mut Guardian,
    ) -> Result<Self> {
        let cluster = Cluster::create(stage.server(), directory, NODES, random, SMALL)?;
        let peers = cluster.nodes().iter().map(|node| (node.id(), node.peer_address())).collect::<Vec<_>>();
        let proxies = Proxies::start(&peers, random.next())?;
        let own = |from: u64, to: u64| proxies.address(from, to);
        cluster.route(|from, to| own(from.id(), to.id()).unwrap_or_else(|| to.peer_address()))?;
        let mut disks = Vec::new();
        for node in WITH_DISKS.into_iter().filter(|_| is_root()) {
            let data = cluster.node(node)?.data();
            disks.push(SmallDisk::mount(&data, node, DISK_BYTES, guardian)?);
        }
        Ok(Self { stage, cluster, network: Network::Proxies(proxies), disks })
    }

    /// Where the nodes are scraped.
    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |node: &crate::e2e::cluster::Node| Target {
            name: format!("node{}", node.id()),
            cluster: "ledger",
            address: node.ops_address(),
        };
        self.cluster.nodes().iter().map(target).collect()
    }

    /// Starts what does not run, and waits until all nodes are ready and agree. Returns the leader.
    pub(super) fn settle(&mut self) -> Result<u64> {
        self.cluster.start_all()?;
        self.cluster.leader(self.stage.cli(), self.stage.interrupt(), PATIENCE)
    }

    /// Stops all nodes; each has to end well.
    pub(super) fn stop(&mut self) -> Result<()> {
        for stop in self.cluster.stop_all()? {
            ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
        }
        Ok(())
    }

    fn interrupt(&self) -> &'a Interrupt {
        self.stage.interrupt()
    }

    fn pause(&self, duration: Duration) -> Result<()> {
        self.interrupt().pause(duration)
    }

    /// The height of a node's chain.
    fn height(&self, node: u64) -> Result<u64> {
        Ok(self.stage.cli().tip(&self.cluster.node(node)?.address())?.height)
    }

    /// Submits until what it returns is dropped, to one node first.
    fn load(&self, first: u64, pace: Pace) -> Result<Load> {
        let log = self.cluster.directory().join("load.log");
        Load::start(self.stage.cli(), &self.cluster.addresses_from(first), pace, &log)
    }

    /// Some nodes that do not lead.
    fn followers(&mut self) -> Result<Vec<u64>> {
        let leader = self.settle()?;
        Ok(self.cluster.ids().into_iter().filter(|id| *id != leader).collect())
    }

    /// Lets `node` lead.
    fn lead(&mut self, node: u64) -> Result<()> {
        let settled = self.interrupt().poll(PATIENCE, Duration::from_millis(200), || {
            if self.settle()? == node {
                return Ok(Some(()));
            }
            // A refusal is of the moment.
            self.transfer(node).map(|()| None)
        })?;
        settled.with_context(|| format!("node {node} does not lead within {}", spoken(PATIENCE)))
    }

    /// Asks for another leader, whatever the answer.
    fn transfer(&self, to: u64) -> Result<()> {
        self.stage.cli().transfer_leader(to, &self.cluster.addresses_from(to))
    }

    /// One rule for everything between `node` and the others, both ways.
    fn spoil(&mut self, node: u64, rule: Rule) -> Result<()> {
        let others = self.cluster.ids().into_iter().filter(|id| *id != node);
        let links = others.flat_map(|other| [(node, other), (other, node)]);
        self.spoil_links(links, rule)
    }

    fn spoil_links(&mut self, links: impl IntoIterator<Item = Link>, rule: Rule) -> Result<()> {
        self.network.apply(&[&links.into_iter().map(|link| (link, rule)).collect()])
    }

    fn heal(&mut self) -> Result<()> {
        self.network.apply(&[])
    }

    /// Restarts a node with another configuration. Returns the one before.
    fn reconfigure(&mut self, id: u64, change: impl FnOnce(&str) -> String) -> Result<String> {
        let file = self.cluster.node(id)?.config();
        let before = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        std::fs::write(&file, change(&before)).with_context(|| file.display().to_string())?;
        if self.cluster.node(id)?.is_running() {
            self.cluster.stop(id)?;
        }
        self.cluster.start(id)?;
        Ok(before)
    }
}
