//! The configuration that a seed stands for.
//!
//! Each class of faults is on or off with probability one half and then gets an intensity: runs that leave
//! classes out reach states that runs with everything never reach. Every field is drawn from a stream of
//! its own. The whole is printed with each failure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rng::{Rng, Stream};
use super::schedule::{MILLISECOND, SECOND};
use crate::limits::Limits;

/// Which application the replicas drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ApplicationKind {
    /// The simulator's own small chain of hashes.
    #[default]
    HashChain,
    /// The ledger that production runs.
    Ledger,
}

/// Where a node can crash: right after an effect was performed, or a completion took place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// After sending a granted vote.
    VoteSent,
    /// After sending an acceptance of entries.
    AcceptanceSent,
    /// After sending anything else.
    Sent,
    /// After handing a round to the writer.
    Persist,
    /// After a round became durable, before the replica hears of it.
    Written,
    /// After handing entries to the application.
    Apply,
    /// After the application took entries, before the replica hears of it.
    Applied,
    /// After ordering, building or installing a snapshot, or at its compaction.
    Snapshot,
    /// After anything else.
    Other,
}

impl Boundary {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::VoteSent,
        Self::AcceptanceSent,
        Self::Sent,
        Self::Persist,
        Self::Written,
        Self::Apply,
        Self::Applied,
        Self::Snapshot,
        Self::Other,
    ];

    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VoteSent => "vote-sent",
            Self::AcceptanceSent => "acceptance-sent",
            Self::Sent => "sent",
            Self::Persist => "persist",
            Self::Written => "written",
            Self::Apply => "apply",
            Self::Applied => "applied",
            Self::Snapshot => "snapshot",
            Self::Other => "other",
        }
    }

    /// Crashes in a million at full intensity: rare boundaries get more.
    const fn parts_max(self) -> u64 {
        match self {
            Self::VoteSent => 300_000,
            Self::Snapshot => 100_000,
            Self::AcceptanceSent | Self::Sent | Self::Persist | Self::Written => 2_000,
            Self::Apply | Self::Applied => 4_000,
            Self::Other => 1_000,
        }
    }
}

/// Messages that are lost, in parts of a million, and so on: the faults of the network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFaults {
    /// Lost messages in a million.
    pub loss: u32,
    /// Messages in a million that arrive twice.
    pub duplicate: u32,
    /// How long after the first the second copy arrives at most; long ones reach a later incarnation.
    pub duplicate_after_us: u64,
    /// Whether messages of one link may overtake each other.
    pub reorder: bool,
    /// Mean time between partitions; `None`: none.
    pub partition_every_us: Option<u64>,
    /// Mean duration of a partition.
    pub partition_for_us: u64,
    /// Messages in a million that are remembered and may arrive again at any later time.
    pub remembered: u32,
    /// Mean time between two such arrivals; `None`: none.
    pub replay_every_us: Option<u64>,
    /// Mean time between clogs of a link; `None`: none.
    pub clog_every_us: Option<u64>,
    /// Mean duration of a clog.
    pub clog_for_us: u64,
    /// Messages that a link carries at a time; `None`: any number.
    pub capacity: Option<usize>,
    /// Mean time between two pieces of garbage; `None`: none.
    pub garbage_every_us: Option<u64>,
}

/// The faults of disks. Every class strikes all nodes alike.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskFaults {
    /// Mean time between failed writes; `None`: none.
    pub error_every_us: Option<u64>,
    /// Mean time between full disks; `None`: none.
    pub full_every_us: Option<u64>,
    /// Mean time until somebody makes room.
    pub full_for_us: u64,
    /// Mean time between damaged stores; `None`: none.
    pub damage_every_us: Option<u64>,
    /// Damage at the end of the first phase what the cluster cannot survive: it has to stand still.
    pub beyond: bool,
}

/// What the operator does beside repairing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Operations {
    /// Mean time between two wishes for another membership; `None`: none.
    pub reshape_every_us: Option<u64>,
    /// Nodes that are no members at first.
    pub spares: u64,
    /// Mean time between commands that must be refused; `None`: none.
    pub mistake_every_us: Option<u64>,
    /// Mean time between the operator's looks at the cluster; 0: it never looks.
    pub look_every_us: u64,
}

/// The faults of applications.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplicationFaults {
    /// Mean time between hangs; `None`: none.
    pub hang_every_us: Option<u64>,
    /// Mean duration of a hang.
    pub hang_for_us: u64,
    /// Mean time between failures that halt the chain on a node; `None`: none.
    pub failure_every_us: Option<u64>,
    /// The hash chain keeps its own state durable at once, so that it is ahead of the store after a crash.
    pub ahead: bool,
    /// The ledger's records may fall back in a crash, further than the store's applied index.
    pub behind: bool,
}

/// A corner that plain draws do not reach often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Corner {
    /// None.
    #[default]
    Open,
    /// Snapshots all the time, and nothing is kept behind them.
    NothingRetained,
    /// One of everything in flight.
    OneInFlight,
    /// Hardly anything to do.
    Quiet,
    /// Stores are lost all the time.
    WipeHeavy,
    /// Disks stall all the time.
    StallHeavy,
}

/// The faults of nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFaults {
    /// Crashes in a million per boundary, in the order of [`Boundary::ALL`].
    pub boundary_crashes: [u32; Boundary::ALL.len()],
    /// Mean time between crashes by the clock; `None`: none.
    pub timed_crash_every_us: Option<u64>,
    /// Mean time between losses of power of all nodes; `None`: none.
    pub power_cut_every_us: Option<u64>,
    /// Mean time that a crashed node is down.
    pub downtime_us: u64,
    /// Mean time between pauses of a node; `None`: none.
    pub pause_every_us: Option<u64>,
    /// Mean duration of a pause.
    pub pause_for_us: u64,
    /// Mean time between transfers of leadership; `None`: none.
    pub transfer_every_us: Option<u64>,
    /// Whether clocks run up to a twentieth fast or slow.
    pub drift: bool,
}

/// Times of the machines.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latencies {
    /// Least time of a message.
    pub link_min_us: u64,
    /// Mean time above that.
    pub link_mean_us: u64,
    /// Least time of a sync.
    pub sync_min_us: u64,
    /// Mean time above that.
    pub sync_mean_us: u64,
    /// Syncs in a million that stall.
    pub stall: u32,
    /// Longest stall.
    pub stall_max_us: u64,
    /// The node whose syncs take twenty times as long, if there is one.
    pub slow_disk: Option<u64>,
    /// Mean time for the application to take entries.
    pub apply_mean_us: u64,
    /// Mean time of one round of the driver: what arrives meanwhile makes the next round.
    pub round_mean_us: u64,
}

/// What clients do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// How many clients, each with one transaction at a time.
    pub clients: u64,
    /// Mean pause of a client between two transactions.
    pub think_us: u64,
    /// How long a client waits for an answer.
    pub patience_us: u64,
    /// Longest payload of a transaction in bytes.
    pub bytes_max: u64,
    /// Most transactions of one block.
    pub block_transactions_max: usize,
    /// Mean pause between two linearizable reads of a client; `None`: no reads.
    pub read_every_us: Option<u64>,
    /// Whether applications propose what is in flight again, and more than there is room for.
    pub careless: bool,
}

/// Everything that a seed decides before the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Swarm {
    /// The seed.
    pub seed: u64,
    /// Nodes; the first ones vote.
    pub nodes: u64,
    /// How many of them vote at first.
    pub voters: u64,
    /// How many of the next ones learn at first; the rest waits to be added.
    pub learners: u64,
    /// What they run.
    pub application: ApplicationKind,
    /// Length of the safety phase.
    pub safety_us: u64,
    /// A tick of the replicas' clocks.
    pub tick_us: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Bounds of the replicas.
    pub limits: Limits,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot.
    pub retain: u64,
    /// Ticks after which a snapshot sent counts as lost.
    pub snapshot_timeout_ticks: u64,
    /// Machines.
    pub latencies: Latencies,
    /// Network.
    pub network: NetworkFaults,
    /// Nodes.
    pub faults: NodeFaults,
    /// Clients.
    pub workload: Workload,
    /// Disks.
    pub disks: DiskFaults,
    /// The operator.
    pub operations: Operations,
    /// Applications.
    pub applications: ApplicationFaults,
    /// At first only a majority has to recover, and the others later.
    pub core_first: bool,
    /// What was turned to an extreme.
    pub corner: Corner,
}

/// Draws fields, each from its own stream.
struct Fields {
    seed: u64,
    field: u64,
}

impl Fields {
    fn rng(&mut self) -> Rng {
        self.field += 1;
        Rng::new(self.seed, Stream::Swarm, self.field)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *self.rng().pick(from)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng().between(low, high)
    }

    /// A class of faults: on every second time.
    fn fault(&mut self, low: u64, high: u64) -> Option<u64> {
        let mut rng = self.rng();
        rng.coin().then(|| rng.between(low, high))
    }

    fn coin(&mut self) -> bool {
        self.rng().coin()
    }
}

impl Swarm {
    /// The configuration of a seed.
    pub fn derive(seed: u64) -> Self {
        let mut fields = Fields { seed, field: 0 };
        let voters = fields.pick(&[4, 4, 4, 4, 5, 5, 3, 3, 4, 1]);
        let learners = fields.pick(&[0, 0, 0, 1, 2]);
        let application = fields.pick(&[ApplicationKind::HashChain, ApplicationKind::Ledger]);
        let safety_us = fields.between(60, 240) * SECOND;
        let election_ticks = fields.pick(&[10, 10, 5, 20]);
        let heartbeat_ticks = fields.pick(&[1, 1, 2]);
        let limits = derive_limits(&mut fields);
        let snapshot_every = fields.pick(&[1_000_000, 100, 50, 20, 5]);
        let retain = fields.pick(&[1000, 50, 5, 0, 0]);
        let mut swarm = Self {
            seed,
            nodes: voters + learners,
            learners,
            voters,
            application,
            safety_us,
            tick_us: 100 * MILLISECOND,
            election_ticks,
            heartbeat_ticks,
            limits,
            snapshot_every,
            retain,
            snapshot_timeout_ticks: fields.pick(&[30, 100, 300]),
            latencies: derive_latencies(&mut fields),
            network: derive_network(&mut fields),
            faults: derive_faults(&mut fields),
            workload: derive_workload(&mut fields),
            disks: derive_disks(&mut fields),
            operations: derive_operations(&mut fields),
            applications: derive_applications(&mut fields),
            core_first: fields.coin(),
            corner: Corner::Open,
        };
        derive_more_network(&mut fields, &mut swarm.network);
        swarm.applications.behind = fields.coin();
        swarm.turn(&mut fields);
        if swarm.application == ApplicationKind::Ledger {
            // A newcomer needs a snapshot, which the ledger does not build.
            swarm.operations.spares = 0;
        }
        swarm.nodes += swarm.operations.spares;
        swarm
    }

    /// Turns something to its extreme in one seed of five.
    fn turn(&mut self, fields: &mut Fields) {
        let corners = [
            Corner::NothingRetained,
            Corner::OneInFlight,
            Corner::Quiet,
            Corner::WipeHeavy,
            Corner::StallHeavy,
        ];
        let one_in_five = fields.pick(&[true, false, false, false, false]);
        let corner = fields.pick(&corners);
        self.corner = if one_in_five { corner } else { Corner::Open };
        match self.corner {
            Corner::Open => {}
            Corner::NothingRetained => (self.snapshot_every, self.retain) = (5, 0),
            Corner::OneInFlight => {
                self.limits.inflight_appends_max = 1;
                self.limits.unpersisted_rounds_max = 1;
                self.limits.inflight_proposals_max = 1;
            }
            Corner::Quiet => {
                (self.workload.clients, self.workload.think_us) = (1, 20 * SECOND);
                self.workload.read_every_us = None;
            }
            Corner::WipeHeavy => self.disks.damage_every_us = Some(3 * SECOND),
            Corner::StallHeavy => {
                (self.latencies.stall, self.latencies.stall_max_us) = (50_000, 10 * SECOND);
            }
        }
    }
}

fn derive_disks(fields: &mut Fields) -> DiskFaults {
    let every = |seconds: u64| seconds * SECOND;
    DiskFaults {
        error_every_us: fields.fault(5, 60).map(every),
        full_every_us: fields.fault(20, 120).map(every),
        full_for_us: fields.pick(&[SECOND, 10 * SECOND]),
        damage_every_us: fields.fault(5, 60).map(every),
        beyond: fields.pick(&[false, false, false, false, false, false, false, false, false, true]),
    }
}

fn derive_operations(fields: &mut Fields) -> Operations {
    let every = |seconds: u64| seconds * SECOND;
    Operations {
        reshape_every_us: fields.fault(5, 60).map(every),
        spares: fields.pick(&[0, 0, 1, 2]),
        mistake_every_us: fields.fault(2, 20).map(every),
        look_every_us: fields.pick(&[100 * MILLISECOND, 500 * MILLISECOND, 2 * SECOND]),
    }
}

fn derive_applications(fields: &mut Fields) -> ApplicationFaults {
    let every = |seconds: u64| seconds * SECOND;
    ApplicationFaults {
        hang_every_us: fields.fault(10, 60).map(every),
        hang_for_us: fields.pick(&[SECOND, 10 * SECOND, 30 * SECOND]),
        failure_every_us: fields.fault(10, 60).map(every),
        ahead: fields.coin(),
        behind: false,
    }
}

/// What came to the network later, drawn after everything else so that the other fields stay as they were.
fn derive_more_network(fields: &mut Fields, network: &mut NetworkFaults) {
    network.remembered = fields.pick(&[1_000, 20_000]);
    network.replay_every_us = fields.fault(10, 2_000).map(|milliseconds| milliseconds * MILLISECOND);
    network.clog_every_us = fields.fault(1, 20).map(|seconds| seconds * SECOND);
    network.clog_for_us = fields.pick(&[200 * MILLISECOND, 2 * SECOND, 5 * SECOND]);
    network.capacity = fields.fault(2, 20).map(|messages| messages as usize);
    network.garbage_every_us = fields.fault(50, 2_000).map(|milliseconds| milliseconds * MILLISECOND);
}

/// Bounds at their corners, each by itself; every fourth time those of production.
fn derive_limits(fields: &mut Fields) -> Limits {
    let default = fields.pick(&[true, false, false, false]);
    let entry_bytes_max = fields.pick(&[1_024, 1_024, 2_048, 16_384]);
    let mut room = || entry_bytes_max * fields.pick(&[1, 2, 64]);
    let (uncommitted, backlog, unpersisted, tail) = (room(), room(), room(), room());
    let inflight_appends_max = fields.pick(&[1, 2, 64]);
    let unpersisted_rounds_max = fields.pick(&[1, 2, 64]);
    let inflight_proposals_max = fields.pick(&[1, 8, 256]);
    let append_bytes_max = fields.pick(&[1_024, 4_096, 1 << 20]);
    if default {
        return Limits { entry_bytes_max: 64 << 10, ..Limits::default() };
    }
    Limits {
        entry_bytes_max,
        append_bytes_max,
        inflight_appends_max,
        uncommitted_bytes_max: uncommitted,
        apply_bytes_max: entry_bytes_max,
        apply_backlog_bytes_max: backlog,
        unpersisted_rounds_max,
        unpersisted_bytes_max: unpersisted,
        tail_bytes_max: tail,
        inflight_proposals_max,
        pending_reads_max: 8,
    }
}

fn derive_latencies(fields: &mut Fields) -> Latencies {
    Latencies {
        link_min_us: fields.between(50, 1_000),
        link_mean_us: fields.pick(&[200, 1_000, 5_000, 30_000]),
        sync_min_us: fields.between(50, 3_000),
        sync_mean_us: fields.pick(&[100, 2_000, 10_000, 50_000]),
        stall: fields.fault(100, 20_000).unwrap_or(0) as u32,
        stall_max_us: fields.pick(&[500 * MILLISECOND, 3 * SECOND, 10 * SECOND]),
        slow_disk: fields.fault(1, 3),
        apply_mean_us: fields.pick(&[20, 500, 5_000, 100_000]),
        round_mean_us: fields.pick(&[0, 50, 500, 5_000]),
    }
}

fn derive_network(fields: &mut Fields) -> NetworkFaults {
    NetworkFaults {
        loss: fields.fault(1_000, 300_000).unwrap_or(0) as u32,
        duplicate: fields.fault(1_000, 300_000).unwrap_or(0) as u32,
        duplicate_after_us: fields.pick(&[10 * MILLISECOND, 500 * MILLISECOND, 20 * SECOND]),
        reorder: fields.coin(),
        partition_every_us: fields.fault(3, 40).map(|seconds| seconds * SECOND),
        partition_for_us: fields.pick(&[SECOND, 5 * SECOND, 20 * SECOND]),
        remembered: 0,
        replay_every_us: None,
        clog_every_us: None,
        clog_for_us: 0,
        capacity: None,
        garbage_every_us: None,
    }
}

fn derive_faults(fields: &mut Fields) -> NodeFaults {
    let crashes = fields.coin();
    let boundary_crashes = Boundary::ALL.map(|boundary| {
        let parts = fields.fault(boundary.parts_max() / 50, boundary.parts_max()).unwrap_or(0) as u32;
        if crashes { parts } else { 0 }
    });
    NodeFaults {
        boundary_crashes,
        timed_crash_every_us: fields.fault(3, 60).map(|seconds| seconds * SECOND),
        power_cut_every_us: fields.fault(20, 120).map(|seconds| seconds * SECOND),
        downtime_us: fields.pick(&[50 * MILLISECOND, SECOND, 8 * SECOND, 30 * SECOND]),
        pause_every_us: fields.fault(5, 60).map(|seconds| seconds * SECOND),
        pause_for_us: fields.pick(&[500 * MILLISECOND, 3 * SECOND, 15 * SECOND]),
        transfer_every_us: fields.fault(5, 60).map(|seconds| seconds * SECOND),
        drift: fields.coin(),
    }
}

fn derive_workload(fields: &mut Fields) -> Workload {
    Workload {
        clients: fields.pick(&[1, 3, 5, 5, 20]),
        think_us: fields.pick(&[20 * MILLISECOND, 200 * MILLISECOND, SECOND, 5 * SECOND]),
        patience_us: fields.pick(&[300 * MILLISECOND, SECOND, 5 * SECOND]),
        bytes_max: fields.pick(&[16, 200, 600, 900]),
        block_transactions_max: fields.pick(&[1, 4, 100]),
        read_every_us: fields.fault(100, 5_000).map(|milliseconds| milliseconds * MILLISECOND),
        careless: Fields { seed: fields.seed, field: 1_100 }.coin(),
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} voters, {} learners, {} spares, {:?}, {} s, corner {:?}, core first {}",
            self.seed,
            self.voters,
            self.learners,
            self.operations.spares,
            self.application,
            self.safety_us / SECOND,
            self.corner,
            self.core_first
        )?;
        writeln!(
            f,
            "  tick {} ms, election {} ticks, heartbeat {}, snapshot every {} entries, retain {}",
            self.tick_us / MILLISECOND,
            self.election_ticks,
            self.heartbeat_ticks,
            self.snapshot_every,
            self.retain
        )?;
        writeln!(f, "  {:?}", self.limits)?;
        writeln!(f, "  {:?}", self.latencies)?;
        writeln!(f, "  {:?}", self.network)?;
        writeln!(f, "  {:?}", self.faults)?;
        writeln!(f, "  {:?}", self.disks)?;
        writeln!(f, "  {:?}", self.operations)?;
        writeln!(f, "  {:?}", self.applications)?;
        write!(f, "  {:?}", self.workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_faults_is_on_in_some_seeds_and_off_in_others() {
        let swarms: Vec<Swarm> = (0..200).map(Swarm::derive).collect();
        let share = |what: &str, on: usize| {
            assert!((20..=180).contains(&on), "{what} is on in {on} of 200 seeds");
        };
        let count = |is_on: fn(&Swarm) -> bool| swarms.iter().filter(|swarm| is_on(swarm)).count();
        share("loss", count(|s| s.network.loss > 0));
        share("duplication", count(|s| s.network.duplicate > 0));
        share("reordering", count(|s| s.network.reorder));
        share("partitions", count(|s| s.network.partition_every_us.is_some()));
        share("boundary crashes", count(|s| s.faults.boundary_crashes.iter().any(|parts| *parts > 0)));
        share("timed crashes", count(|s| s.faults.timed_crash_every_us.is_some()));
        share("power cuts", count(|s| s.faults.power_cut_every_us.is_some()));
        share("pauses", count(|s| s.faults.pause_every_us.is_some()));
        share("transfers", count(|s| s.faults.transfer_every_us.is_some()));
        share("stalls", count(|s| s.latencies.stall > 0));
        share("learners", count(|s| s.nodes > s.voters));
        share("slow disks", count(|s| s.latencies.slow_disk.is_some()));
        share("reads", count(|s| s.workload.read_every_us.is_some()));
        share("replays", count(|s| s.network.replay_every_us.is_some()));
        share("clogs", count(|s| s.network.clog_every_us.is_some()));
        share("narrow links", count(|s| s.network.capacity.is_some()));
        share("garbage", count(|s| s.network.garbage_every_us.is_some()));
        share("write errors", count(|s| s.disks.error_every_us.is_some()));
        share("full disks", count(|s| s.disks.full_every_us.is_some()));
        share("damage", count(|s| s.disks.damage_every_us.is_some()));
        share("changes of membership", count(|s| s.operations.reshape_every_us.is_some()));
        share("mistakes", count(|s| s.operations.mistake_every_us.is_some()));
        share("hanging applications", count(|s| s.applications.hang_every_us.is_some()));
        share("failing applications", count(|s| s.applications.failure_every_us.is_some()));
        share("applications ahead", count(|s| s.applications.ahead));
        share("applications behind", count(|s| s.applications.behind));
        share("corners", count(|s| s.corner != Corner::Open));
        share("the hash chain", count(|s| s.application == ApplicationKind::HashChain));
    }

    #[test]
    fn the_limits_of_every_seed_are_valid() {
        for seed in 0..500 {
            let swarm = Swarm::derive(seed);
            swarm.limits.validate().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}
