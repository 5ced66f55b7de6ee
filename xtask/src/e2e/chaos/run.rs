//! One run: the cluster is set up, goes through the episodes of its schedule under load, and is judged.
//!
//! While a fault leaves a majority, that majority has to commit; after every episode the whole cluster has
//! to recover, within bounds that are generous because the machine may have other things to do. How long it
//! really took is told at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::chronicle::{Chronicle, Lane, State};
use super::coverage::Coverage;
use super::disk::SmallDisk;
use super::figures::Figures;
use super::guardian::Guardian;
use super::inject::{Active, Injector};
use super::kind::{Kind, Medium};
use super::load::{BLOCK_BYTES_MAX, Load};
use super::network::Network;
use super::network::namespaces::Namespaces;
use super::network::proxy::Proxies;
use super::observer::{Observer, Role};
use super::schedule::{Episode, Fault};
use super::witnesses::Witnesses;
use crate::e2e::Stage;
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::workspace::spoken;

/// Nodes of the cluster.
pub(crate) const NODES: u64 = 4;

/// From the first start to a leader that all nodes know.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A majority that can talk commits within this.
const PROGRESS_BOUND: Duration = Duration::from_secs(30);

/// The whole cluster is one again within this after the last fault is healed.
const RECOVERY_BOUND: Duration = Duration::from_secs(60);

/// A fault that has not shown its effect by then will not.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(20);

/// What was under way when a fault struck has been committed by then.
const SETTLED: Duration = Duration::from_millis(500);

/// By then a leader without a majority commits nothing any more.
const CUT_OFF: Duration = Duration::from_millis(2_500);

/// How often this looks.
const TICK: Duration = Duration::from_millis(50);

/// What a run is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) medium: Medium,
    /// Transactions per second of the steady clients together.
    pub(crate) rate: u64,
    /// Size of the small disk in bytes; nothing without one.
    pub(crate) disk_bytes: Option<u64>,
}

/// A run under way. What it leaves behind is for [`super::finale`].
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(super) stage: &'a Stage,
    plan: &'a Plan,
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) observer: Observer,
    pub(super) injector: Injector,
    pub(super) directory: PathBuf,
    pub(super) coverage: Coverage,
    pub(super) figures: Figures,
    // Last: it tidies up after all the others.
    _guardian: Guardian,
}

/// A fault that is under way, and what is expected meanwhile.
#[derive(Debug)]
struct Held {
    active: Active,
    until: Duration,
    began: Duration,
    is_evident: bool,
    /// Whether the fault is the only one, so that something can be expected of the others.
    is_alone: bool,
    /// The commit index among those not hit, once what was under way has settled.
    settled: Option<u64>,
    /// Whether that index has risen since.
    has_progress: bool,
    /// The commit index among those not hit as it was seen last, and since when it is the same.
    newest: (u64, Duration),
    /// Longest time for which it was the same.
    longest_gap: Duration,
    /// When a leader that was cut off was first seen not to lead any more.
    stepped_down: Option<Duration>,
    /// The commit index among those that must not commit, once they are cut off.
    cut_off: Option<u64>,
}

impl<'a> Run<'a> {
    /// Starts the nodes behind their network.
    pub(crate) fn start(
        stage: &'a Stage,
        plan: &'a Plan,
        directory: &Path,
        chronicle: Arc<Chronicle>,
    ) -> Result<Self> {
        let mut guardian = Guardian::start(&directory.join("guardian.log"))?;
        let mut random = Random::new(plan.seed);
        let extra = format!("[block]\npreferred_bytes = 65536\nabsolute_bytes = {BLOCK_BYTES_MAX}\n");
        let (mut cluster, network) = match plan.medium {
            Medium::Proxy => {
                let cluster = Cluster::create(stage.server(), directory, NODES, &mut random, &extra)?;
                let peers = cluster.nodes().iter().map(|node| (node.id(), node.peer_address()));
                let proxies = Proxies::start(&peers.collect::<Vec<_>>(), plan.seed)?;
                let own = |from: u64, to: u64| proxies.address(from, to);
                cluster.route(|from, to| own(from.id(), to.id()).unwrap_or_else(|| to.peer_address()))?;
                (cluster, Network::Proxies(proxies))
            }
            Medium::Namespaces => {
                let run = format!("cx{:05x}", std::process::id() & 0xf_ffff);
                let namespaces = Namespaces::create(&run, NODES, &mut random, &mut guardian)?;
                chronicle.note(format!("network namespaces {run}n1 to {run}n{NODES}"));
                let sites = namespaces.sites();
                let cluster = Cluster::create_at(stage.server(), directory, sites, &mut random, &extra)?;
                (cluster, Network::Namespaces(namespaces))
            }
        };
        let disk = match plan.disk_bytes {
            Some(bytes) => {
                let node = 1 + random.below(NODES);
                let data = cluster.node(node)?.data();
                chronicle.note(format!("node {node} has a disk of {} MiB", bytes >> 20));
                Some(SmallDisk::mount(&data, node, bytes, &mut guardian)?)
            }
            None => None,
        };
        guardian.kill_processes_of(directory)?;
        chronicle.note(format!("starting {NODES} nodes in {}", stage.shown(directory)));
        cluster.start_all()?;
        let pages = cluster.nodes().iter().map(|node| (node.id(), node.ops_address())).collect::<Vec<_>>();
        let observer = Observer::start(&pages, Arc::clone(&chronicle));
        let injector = Injector::new(cluster, network, disk, stage.cli().clone(), Arc::clone(&chronicle));
        let directory = directory.to_path_buf();
        let (coverage, figures) = (Coverage::default(), Figures::default());
        Ok(Self {
            stage,
            plan,
            chronicle,
            observer,
            injector,
            directory,
            coverage,
            figures,
            _guardian: guardian,
        })
    }

    /// Starts the clients, and those who follow the nodes.
    pub(crate) fn load(&mut self) -> Result<(Load, Witnesses)> {
        let leader = self.stage.interrupt().poll(START_PATIENCE, TICK, || Ok(self.agreed()))?;
        let leader = leader.with_context(|| format!("no leader after {}", spoken(START_PATIENCE)))?;
        self.chronicle.note(format!("node {leader} leads; clients begin"));
        let clients = self.directory.join("clients");
        std::fs::create_dir_all(&clients).with_context(|| clients.display().to_string())?;
        let cluster = self.injector.cluster();
        let nodes = cluster.ids().into_iter().map(|id| cluster.addresses_from(id)).collect::<Vec<_>>();
        let followed = cluster.nodes().iter().map(|node| (node.id(), node.address())).collect::<Vec<_>>();
        let witnesses = Witnesses::start(self.stage.cli(), &followed, &self.directory);
        let load = Load::start(self.stage.cli(), &nodes, self.plan.rate, self.plan.seed, &clients)?;
        Ok((load, witnesses))
    }

    /// Goes through all episodes, or until the cluster does not recover.
    pub(crate) fn go_through(&mut self) -> Result<()> {
        for (number, episode) in (1_usize..).zip(&self.plan.episodes) {
            let count = self.plan.episodes.len();
            let span = self.chronicle.begin(Lane::Cluster, State::Episode, format!("{number}: {episode}"));
            self.chronicle.note(format!("episode {number} of {count}: {episode}"));
            self.episode(episode)?;
            self.chronicle.end(span);
            if !self.recover()? {
                return Ok(());
            }
            self.watch(episode.rest)?;
        }
        Ok(())
    }

    fn episode(&mut self, episode: &Episode) -> Result<()> {
        let started = self.chronicle.now();
        let mut due = episode.faults.iter().collect::<Vec<_>>();
        due.sort_by_key(|fault| fault.after);
        let mut due = due.into_iter().peekable();
        let is_alone = episode.faults.len() == 1;
        let mut held = Vec::new();
        while due.peek().is_some() || !held.is_empty() {
            let now = self.chronicle.now();
            while let Some(fault) = due.next_if(|fault| started + fault.after <= now) {
                held.extend(self.begin(fault, is_alone)?);
            }
            self.watch(TICK)?;
            let mut still = Vec::new();
            for mut fault in held {
                self.look(&mut fault)?;
                if self.is_over(&fault)? { self.end(fault)? } else { still.push(fault) }
            }
            held = still;
        }
        Ok(())
    }

    fn begin(&mut self, fault: &Fault, is_alone: bool) -> Result<Option<Held>> {
        self.coverage.plan(fault.kind);
        let began = self.chronicle.now();
        let active = self.injector.begin(fault, &self.observer)?;
        Ok(active.map(|active| Held {
            active,
            until: began + fault.hold,
            began,
            is_evident: false,
            is_alone,
            settled: None,
            has_progress: false,
            newest: (0, Duration::ZERO),
            longest_gap: Duration::ZERO,
            stepped_down: None,
            cut_off: None,
        }))
    }

    /// Keeps what is seen of a fault.
    fn look(&mut self, held: &mut Held) -> Result<()> {
        self.injector.tick(&mut held.active)?;
        let elapsed = self.chronicle.now() - held.began;
        if !held.is_evident && self.injector.is_evident(&held.active, &self.observer)? {
            held.is_evident = true;
        }
        let others = self.injector.others(&held.active.victims);
        let commit = self.observer.commit(&others);
        if commit > held.newest.0 {
            held.newest = (commit, elapsed);
        }
        held.longest_gap = held.longest_gap.max(elapsed - held.newest.1);
        if elapsed >= SETTLED {
            held.has_progress |= commit > *held.settled.get_or_insert(commit);
        }
        if held.active.kind == Kind::LeaderMinority && held.stepped_down.is_none() {
            let leads = |id: &u64| self.observer.newest(*id).is_none_or(|seen| seen.role == Role::Leader);
            if !held.active.victims.iter().any(leads) {
                held.stepped_down = Some(elapsed);
            }
        }
        if let Some(cut) = self.cut_off(held)
            && elapsed >= CUT_OFF
        {
            let commit = self.observer.commit(&cut);
            held.cut_off.get_or_insert(commit);
        }
        Ok(())
    }

    /// Nodes that have no majority to commit with.
    fn cut_off(&self, held: &Held) -> Option<Vec<u64>> {
        let is_alone = held.is_alone;
        match held.active.kind {
            Kind::NoMajority if is_alone => Some(self.injector.cluster().ids()),
            Kind::LeaderMinority if is_alone => Some(held.active.victims.clone()),
            _ => None,
        }
    }

    /// A fault is healed when its time is over, its effect was seen and those who can go on went on.
    fn is_over(&self, held: &Held) -> Result<bool> {
        let now = self.chronicle.now();
        if now < held.until {
            return Ok(false);
        }
        let elapsed = now - held.began;
        let waits_for_evidence = !held.is_evident && elapsed < EVIDENCE_PATIENCE;
        let is_expected = held.is_alone && held.active.kind.leaves_majority();
        let waits_for_progress = is_expected && !held.has_progress && elapsed < PROGRESS_BOUND;
        Ok(!waits_for_evidence && !waits_for_progress)
    }

    fn end(&mut self, held: Held) -> Result<()> {
        let kind = held.active.kind;
        if held.is_evident {
            self.coverage.happened(kind);
        } else {
            self.chronicle.note(format!("{kind}: it has left no trace"));
        }
        if let (Some(cut), Some(before)) = (self.cut_off(&held), held.cut_off) {
            let commit = self.observer.commit(&cut);
            if commit > before {
                self.chronicle.violation(format!(
                    "{kind}: nodes {cut:?} without a majority committed from index {before} to {commit}"
                ));
            }
        }
        if held.is_alone && kind.leaves_majority() {
            self.figures.gap(kind, held.longest_gap);
            if !held.has_progress {
                self.chronicle.violation(format!(
                    "{kind}: nodes {:?} can talk and have committed nothing for {}",
                    self.injector.others(&held.active.victims),
                    spoken(PROGRESS_BOUND)
                ));
            }
        }
        if let Some(after) = held.stepped_down {
            self.figures.stepped_down(after);
        }
        self.injector.end(held.active)
    }

    /// Waits until the cluster is whole and goes on. False if it does not in time.
    fn recover(&mut self) -> Result<bool> {
        let span = self.chronicle.begin(Lane::Cluster, State::Recovery, "recovery");
        let ids = self.injector.cluster().ids();
        let began = self.chronicle.now();
        let commit = self.observer.commit(&ids);
        let mut next = None;
        while self.chronicle.now() - began < RECOVERY_BOUND {
            self.watch(TICK)?;
            let elapsed = self.chronicle.now() - began;
            if next.is_none() && self.observer.commit(&ids) > commit {
                next = Some(elapsed);
            }
            let is_on = |id: &u64| self.observer.newest(*id).is_some_and(|seen| seen.commit > commit);
            if let Some(next) = next
                && self.agreed().is_some()
                && ids.iter().all(is_on)
            {
                self.chronicle.end(span);
                self.figures.recovery(next, elapsed);
                return Ok(true);
            }
        }
        let last = ids.iter().map(|id| match self.observer.newest(*id) {
            Some(seen) => format!(
                "node {id}: {:?} of term {}, follows {}, commit {}, {}",
                seen.role,
                seen.term,
                seen.leader,
                seen.commit,
                if seen.is_ready { "ready" } else { "not ready" }
            ),
            None => format!("node {id}: no answer"),
        });
        self.chronicle.violation(format!(
            "not recovered within {} of the last fault (commit index was {commit}): {}",
            spoken(RECOVERY_BOUND),
            last.collect::<Vec<_>>().join("; ")
        ));
        Ok(false)
    }

    /// The leader, if all nodes answer, are ready and agree.
    fn agreed(&self) -> Option<u64> {
        let ids = self.injector.cluster().ids();
        let seen = ids.iter().map(|id| self.observer.newest(*id)).collect::<Option<Vec<_>>>()?;
        let first = seen.first()?;
        let is_one =
            seen.iter().all(|seen| seen.is_ready && (seen.leader, seen.term) == (first.leader, first.term));
        (is_one && first.leader != 0).then_some(first.leader)
    }

    /// Lets time pass and looks after the processes.
    fn watch(&mut self, time: Duration) -> Result<()> {
        let end = self.chronicle.now() + time;
        loop {
            self.injector.look_after()?;
            self.injector.revive(&self.observer)?;
            let left = end.saturating_sub(self.chronicle.now());
            if left.is_zero() {
                return Ok(());
            }
            self.stage.interrupt().pause(left.min(TICK))?;
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        self.plan
    }
}
