//! Brings faults about and heals them.
//!
//! Who is hit is decided here, from the fault's dice and from who leads at this moment. A fault counts as
//! having happened only when there is evidence of its effect: a process that is gone or stopped, bytes that
//! were held, a new leader on the other side of a partition, a chain that met the end of its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::chronicle::{Chronicle, Lane, SpanId, State};
use super::disk::{Frozen, SmallDisk};
use super::kind::Kind;
use super::network::{Effects, Network, Passage, Rule, Spoiled};
use super::observer::{Observer, Role};
use super::schedule::Fault;
use crate::e2e::cli::Cli;
use crate::e2e::cluster::Cluster;
use crate::e2e::process::tail;
use crate::e2e::random::Random;
use crate::workspace::spoken;

/// SIGTERM to exit, at most, on a machine that has other things to do.
pub(crate) const STOP_BOUND: Duration = Duration::from_secs(15);

/// What the log says when the disk is full.
const NO_SPACE: &str = "No space left on device";

/// Bytes per second of a slow link: 64 kbit/s.
const SLOW_BYTES_PER_S: u64 = 8_000;

/// Longest time between two resets, in milliseconds.
const RESET_MS_MAX: u64 = 800;

/// So often a node has crashed in a loop, and links have gone down or up, that are evident.
const CRASHES_MIN: u64 = 2;
const FLAPS_MIN: u64 = 3;

/// Shortest and longest time for which flapping links stay as they are, in milliseconds.
const FLAP_MS: (u64, u64) = (300, 2_000);

/// Shortest and longest life of a node in a crash loop, in milliseconds; some end before they are ready.
const LIFE_MS: (u64, u64) = (50, 2_000);

/// A fault that is there.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) kind: Kind,
    /// Who is hit; the others can be expected to go on.
    pub(crate) victims: Vec<u64>,
    undo: Undo,
    spans: Vec<SpanId>,
    before: Effects,
    /// The term before a leader was cut off.
    term: u64,
    /// How often it has struck again.
    again: u64,
}

#[derive(Debug)]
enum Undo {
    Start(Vec<u64>),
    Thaw(u64),
    /// Rules for links, by the number of the fault.
    Links(u64),
    HalfOpen,
    /// Strikes again from time to time.
    Again(Again),
    Free(u64),
    ThawDisk(Frozen),
}

/// What is to be done again, and when.
#[derive(Debug)]
struct Again {
    what: Repeated,
    next: Instant,
    random: Random,
}

#[derive(Debug)]
enum Repeated {
    Resets,
    CrashLoop(u64),
    /// Links that are cut and healed in turn, by the number of the fault.
    Flap {
        fault: u64,
        links: Spoiled,
    },
}

impl Again {
    fn soon(what: Repeated, random: &Random) -> Undo {
        Undo::Again(Self { what, next: Instant::now(), random: random.clone() })
    }

    /// Sets the next moment between these milliseconds from now.
    fn postpone(&mut self, (ms_min, ms_max): (u64, u64)) {
        let wait = ms_min + self.random.below(ms_max - ms_min);
        self.next = Instant::now() + Duration::from_millis(wait);
    }
}

/// Everything that can be broken.
#[derive(Debug)]
pub(crate) struct Injector {
    // Before the network and the disk, which the nodes stand on.
    cluster: Cluster,
    network: Network,
    disk: Option<SmallDisk>,
    cli: Cli,
    chronicle: Arc<Chronicle>,
    frozen: BTreeSet<u64>,
    spoiled: BTreeMap<u64, Spoiled>,
    faults: u64,
    /// Nodes whose disk has been full: their logs may say so.
    filled: BTreeSet<u64>,
    /// Whether it is full now.
    is_full: bool,
    /// Nodes whose present process has had a full disk, and may end because of it.
    spent: BTreeSet<u64>,
}

impl Injector {
    pub(crate) fn new(
        cluster: Cluster,
        network: Network,
        disk: Option<SmallDisk>,
        cli: Cli,
        chronicle: Arc<Chronicle>,
    ) -> Self {
        Self {
            cluster,
            network,
            disk,
            cli,
            chronicle,
            frozen: BTreeSet::new(),
            spoiled: BTreeMap::new(),
            faults: 0,
            filled: BTreeSet::new(),
            is_full: false,
            spent: BTreeSet::new(),
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Nodes whose disk has been full.
    pub(crate) fn filled(&self) -> &BTreeSet<u64> {
        &self.filled
    }

    /// Brings a fault about; nothing if there is nobody to hit.
    pub(crate) fn begin(&mut self, fault: &Fault, observer: &Observer) -> Result<Option<Active>> {
        self.look_after()?;
        let before = self.network.effects()?;
        let mut random = Random::new(fault.dice);
        let leader = observer.leader(&self.up());
        let Some(victims) = self.victims(fault.kind, leader, &mut random) else {
            self.chronicle.note(format!("{}: there is nobody to hit", fault.kind));
            return Ok(None);
        };
        let term = leader.and_then(|leader| observer.newest(leader)).map_or(0, |seen| seen.term);
        let was = |id: &u64| format!("{id}{}", if leader == Some(*id) { " (leader)" } else { "" });
        let names = victims.iter().map(was).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "all links".to_owned() } else { format!("node {names}") };
        self.chronicle.note(format!("{}: {names}", fault.kind));
        let (undo, spans) = self.strike(fault.kind, &victims, &mut random)?;
        Ok(Some(Active { kind: fault.kind, victims, undo, spans, before, term, again: 0 }))
    }

    /// Nodes that run and do not stand still.
    pub(crate) fn up(&self) -> Vec<u64> {
        let nodes = self.cluster.nodes().iter().filter(|node| node.is_running());
        nodes.map(|node| node.id()).filter(|id| !self.frozen.contains(id)).collect()
    }

    fn victims(&self, kind: Kind, leader: Option<u64>, random: &mut Random) -> Option<Vec<u64>> {
        let up = self.up();
        let mut one_of = |nodes: Vec<u64>| {
            let place = random.below(nodes.len() as u64) as usize;
            nodes.get(place).copied()
        };
        let followers = || up.iter().copied().filter(|id| Some(*id) != leader).collect::<Vec<_>>();
        Some(match kind {
            Kind::KillLeader | Kind::PauseLeader | Kind::RestartLeader | Kind::LeaderMinority => {
                vec![leader?]
            }
            Kind::KillFollower | Kind::PauseFollower | Kind::RestartFollower | Kind::LeaderMajority => {
                leader?;
                vec![one_of(followers())?]
            }
            Kind::KillRandom
            | Kind::OneWay
            | Kind::CutNode
            | Kind::CrashLoop
            | Kind::Flap
            | Kind::HalfOpen
            | Kind::Slow => {
                vec![one_of(up.clone())?]
            }
            Kind::PowerCut => self.cluster.ids(),
            Kind::NoMajority => vec![leader?, one_of(followers())?],
            Kind::Delay | Kind::Reset | Kind::Loss => Vec::new(),
            Kind::DiskFull | Kind::DiskHangs => vec![self.disk.as_ref()?.node()],
        })
    }

    fn strike(&mut self, kind: Kind, victims: &[u64], random: &mut Random) -> Result<(Undo, Vec<SpanId>)> {
        match kind {
            Kind::KillLeader | Kind::KillFollower | Kind::KillRandom | Kind::PowerCut => {
                victims.iter().try_for_each(|id| self.kill(*id))?;
                Ok((Undo::Start(victims.to_vec()), self.nodes(victims, State::Down, kind)))
            }
            Kind::RestartLeader | Kind::RestartFollower => {
                victims.iter().try_for_each(|id| self.terminate(*id))?;
                Ok((Undo::Start(victims.to_vec()), self.nodes(victims, State::Down, kind)))
            }
            Kind::PauseLeader | Kind::PauseFollower => {
                let id = *victims.first().context("a pause of nobody")?;
                self.cluster.freeze(id)?;
                self.frozen.insert(id);
                Ok((Undo::Thaw(id), self.nodes(victims, State::Paused, kind)))
            }
            Kind::HalfOpen => {
                let id = *victims.first().context("half-open connections of nobody")?;
                self.network.half_open(id)?;
                Ok((Undo::HalfOpen, self.nodes(victims, State::HalfOpen, kind)))
            }
            Kind::Reset => {
                let span = self.chronicle.begin(Lane::Cluster, State::Resets, "random resets");
                Ok((Again::soon(Repeated::Resets, random), vec![span]))
            }
            Kind::CrashLoop => {
                let id = *victims.first().context("a crash loop of nobody")?;
                let spans = self.nodes(victims, State::Down, kind);
                Ok((Again::soon(Repeated::CrashLoop(id), random), spans))
            }
            Kind::Flap => {
                let links = spoiled(kind, victims, &self.cluster.ids(), random);
                self.faults += 1;
                let spans = self.nodes(victims, State::Silent, kind);
                Ok((Again::soon(Repeated::Flap { fault: self.faults, links }, random), spans))
            }
            Kind::DiskFull => {
                let disk = self.disk.as_ref().context("there is no small disk")?;
                disk.fill()?;
                self.filled.insert(disk.node());
                self.spent.insert(disk.node());
                self.is_full = true;
                Ok((Undo::Free(disk.node()), self.nodes(victims, State::DiskFull, kind)))
            }
            Kind::DiskHangs => {
                let disk = self.disk.as_ref().context("there is no small disk")?;
                // Whoever leads in the end, the fault is one.
                self.cli.transfer_leader(disk.node(), &self.cluster.addresses_from(disk.node()))?;
                let frozen = disk.freeze()?;
                Ok((Undo::ThawDisk(frozen), self.nodes(victims, State::DiskHangs, kind)))
            }
            Kind::Delay
            | Kind::OneWay
            | Kind::CutNode
            | Kind::LeaderMinority
            | Kind::LeaderMajority
            | Kind::NoMajority
            | Kind::Slow
            | Kind::Loss => {
                let spoiled = spoiled(kind, victims, &self.cluster.ids(), random);
                self.spoil(kind, spoiled)
            }
        }
    }

    fn spoil(&mut self, kind: Kind, spoiled: Spoiled) -> Result<(Undo, Vec<SpanId>)> {
        let span = |(link, rule): (&(u64, u64), &Rule)| {
            self.chronicle.begin(Lane::Link(*link), State::of_rule(*rule), kind.to_string())
        };
        let spans = spoiled.iter().map(span).collect();
        self.faults += 1;
        self.spoiled.insert(self.faults, spoiled);
        self.network.apply(&self.spoiled.values().collect::<Vec<_>>())?;
        Ok((Undo::Links(self.faults), spans))
    }

    fn nodes(&self, nodes: &[u64], state: State, kind: Kind) -> Vec<SpanId> {
        nodes.iter().map(|id| self.chronicle.begin(Lane::Node(*id), state, kind.to_string())).collect()
    }

    /// SIGKILL. A node that has ended before by itself is a finding, but on a full disk.
    fn kill(&mut self, id: u64) -> Result<()> {
        self.frozen.remove(&id);
        if !self.cluster.node(id)?.is_running() {
            return Ok(());
        }
        if let Err(error) = self.cluster.kill(id)
            && !self.spent.contains(&id)
        {
            self.chronicle.violation(format!("{error:#}"));
        }
        Ok(())
    }

    /// SIGTERM; the exit must be a good one and in time.
    fn terminate(&mut self, id: u64) -> Result<()> {
        let stop = match self.cluster.stop(id) {
            Ok(stop) => stop,
            Err(error) => {
                self.chronicle.violation(format!("SIGTERM: {error:#}"));
                return Ok(());
            }
        };
        let took = spoken(stop.took);
        if !stop.status.success() {
            self.chronicle.violation(format!("SIGTERM: node {id} ended with {} after {took}", stop.status));
        } else if stop.took > STOP_BOUND {
            self.chronicle.violation(format!("SIGTERM: node {id} took {took}, bound {STOP_BOUND:?}"));
        }
        Ok(())
    }

    /// What a fault does from time to time.
    pub(crate) fn tick(&mut self, active: &mut Active) -> Result<()> {
        let Undo::Again(again) = &mut active.undo else { return Ok(()) };
        if Instant::now() < again.next {
            return Ok(());
        }
        active.again += 1;
        match &again.what {
            Repeated::Resets => {
                let ids = self.cluster.ids();
                let one = again.random.below(ids.len() as u64) as usize;
                let other = (one + 1 + again.random.below(ids.len() as u64 - 1) as usize) % ids.len();
                self.network.reset(ids[one], ids[other])?;
                again.postpone((0, RESET_MS_MAX));
            }
            Repeated::CrashLoop(id) => {
                let id = *id;
                again.postpone(LIFE_MS);
                self.kill(id)?;
                self.start(id)?;
            }
            Repeated::Flap { fault, links } => {
                if self.spoiled.remove(fault).is_none() {
                    self.spoiled.insert(*fault, links.clone());
                }
                again.postpone(FLAP_MS);
                self.network.apply(&self.spoiled.values().collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Whether the fault has had its effect.
    pub(crate) fn is_evident(&self, active: &Active, observer: &Observer) -> Result<bool> {
        let now = self.network.effects()?;
        let before = active.before;
        let is_held = now.held > before.held;
        Ok(match active.kind {
            Kind::KillLeader
            | Kind::KillFollower
            | Kind::KillRandom
            | Kind::RestartLeader
            | Kind::RestartFollower
            | Kind::PowerCut => true,
            Kind::PauseLeader | Kind::PauseFollower => {
                active.victims.iter().all(|id| self.cluster.node(*id).is_ok_and(|node| node.is_frozen()))
            }
            Kind::Delay => now.delayed > before.delayed,
            Kind::Slow => now.slowed > before.slowed,
            Kind::HalfOpen => now.half_opened > before.half_opened,
            Kind::Loss => is_held,
            Kind::Reset => now.reset > before.reset,
            Kind::CrashLoop => active.again >= CRASHES_MIN,
            Kind::Flap => active.again >= FLAPS_MIN && (is_held || now.reset > before.reset),
            Kind::OneWay | Kind::CutNode | Kind::LeaderMajority | Kind::NoMajority => {
                is_held || now.reset > before.reset
            }
            Kind::LeaderMinority => {
                let others = self.others(&active.victims);
                let leads = |id: &u64| {
                    let seen = observer.newest(*id);
                    seen.is_some_and(|seen| seen.role == Role::Leader && seen.term > active.term)
                };
                (is_held || now.reset > before.reset) && others.iter().any(leads)
            }
            // The others lead and go on, and it does not.
            Kind::DiskHangs => {
                let others = self.others(&active.victims);
                let is_passed = |id: &u64| {
                    let seen = observer.newest(*id);
                    seen.is_some_and(|seen| {
                        seen.role != Role::Leader && seen.height < observer.height(&others)
                    })
                };
                active.victims.iter().all(is_passed)
            }
            Kind::DiskFull => active.victims.iter().any(|id| {
                observer.newest(*id).is_some_and(|seen| seen.halted.is_some())
                    || self.cluster.node(*id).is_ok_and(|node| tail(&node.log(), 20).contains(NO_SPACE))
            }),
        })
    }

    /// The nodes that are not among these.
    pub(crate) fn others(&self, victims: &[u64]) -> Vec<u64> {
        self.cluster.ids().into_iter().filter(|id| !victims.contains(id)).collect()
    }

    /// Heals a fault.
    pub(crate) fn end(&mut self, active: Active) -> Result<()> {
        match active.undo {
            Undo::Start(nodes) => nodes.into_iter().try_for_each(|id| self.start(id))?,
            Undo::Thaw(id) => {
                if self.frozen.remove(&id) && self.cluster.node(id)?.is_running() {
                    self.cluster.thaw(id)?;
                }
            }
            Undo::Links(fault) => {
                self.spoiled.remove(&fault);
                self.network.apply(&self.spoiled.values().collect::<Vec<_>>())?;
            }
            Undo::HalfOpen => self.network.close_half_open(),
            Undo::Again(Again { what: Repeated::Resets, .. }) => {}
            Undo::Again(Again { what: Repeated::CrashLoop(id), .. }) => self.start(id)?,
            Undo::Again(Again { what: Repeated::Flap { fault, .. }, .. }) => {
                self.spoiled.remove(&fault);
                self.network.apply(&self.spoiled.values().collect::<Vec<_>>())?;
            }
            Undo::Free(id) => self.free(id)?,
            Undo::ThawDisk(frozen) => frozen.thaw()?,
        }
        active.spans.into_iter().for_each(|span| self.chronicle.end(span));
        self.chronicle.note(format!("{}: healed", active.kind));
        Ok(())
    }

    fn free(&mut self, id: u64) -> Result<()> {
        self.disk.as_ref().context("there is no small disk")?.free()?;
        self.is_full = false;
        self.start(id)
    }

    /// A chain that met the end of its disk has halted and stays so until it is started again, which it may
    /// say only long after the disk was freed.
    pub(crate) fn revive(&mut self, observer: &Observer) -> Result<()> {
        if self.is_full {
            return Ok(());
        }
        for id in self.spent.clone() {
            let halted = observer.newest(id).and_then(|seen| seen.halted);
            if let Some(reason) = halted.filter(|reason| reason.contains(NO_SPACE))
                && self.up().contains(&id)
            {
                self.chronicle.note(format!("node {id} has halted ({reason}): it is started again"));
                self.terminate(id)?;
                self.start(id)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, id: u64) -> Result<()> {
        if self.cluster.node(id)?.is_running() {
            return Ok(());
        }
        if self.is_full && self.filled.contains(&id) {
            self.spent.insert(id);
        } else {
            self.spent.remove(&id);
        }
        self.cluster.start(id)
    }

    /// Nodes that have ended by themselves: a violation, but on a full disk. They are started again.
    pub(crate) fn look_after(&mut self) -> Result<()> {
        for (id, status) in self.cluster.take_ended()? {
            let end = tail(&self.cluster.node(id)?.log(), 6);
            self.frozen.remove(&id);
            let is_explained = self.spent.contains(&id) && end.contains(NO_SPACE);
            if is_explained {
                self.chronicle.note(format!("node {id} ended ({status}): its disk is full"));
            } else {
                self.chronicle.violation(format!("node {id} ended by itself ({status}):\n{end}"));
            }
            // On a disk that is still full it would only end again.
            if !is_explained || !self.is_full {
                self.start(id)?;
            }
        }
        Ok(())
    }
}

/// The links that a fault spoils, and how.
fn spoiled(kind: Kind, victims: &[u64], nodes: &[u64], random: &mut Random) -> Spoiled {
    let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to).collect::<Vec<_>>();
    let is_victim = |id: u64| victims.contains(&id);
    let across = |&(from, to): &(u64, u64)| is_victim(from) != is_victim(to);
    let cut = [Passage::Silent, Passage::Refused][random.below(2) as usize];
    let is_outward = random.below(2) == 0;
    let rule = match kind {
        Kind::Delay => Rule {
            delay: Duration::from_millis(10 + random.below(140)),
            jitter: Duration::from_millis(10 + random.below(140)),
            ..Rule::default()
        },
        Kind::Loss => Rule { loss_percent: 5 + random.below(25), ..Rule::default() },
        Kind::Slow => Rule { bytes_per_s: Some(SLOW_BYTES_PER_S), ..Rule::default() },
        Kind::OneWay => Rule::passage(Passage::Silent),
        Kind::CutNode => Rule::passage(Passage::Refused),
        _ => Rule::passage(cut),
    };
    let is_spoiled = |link: &(u64, u64)| match kind {
        Kind::Delay | Kind::Loss => true,
        Kind::OneWay => is_victim(if is_outward { link.0 } else { link.1 }),
        _ => across(link),
    };
    pairs.into_iter().filter(is_spoiled).map(|link| (link, rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [u64; 4] = [1, 2, 3, 4];

    fn of(kind: Kind, victims: &[u64]) -> Spoiled {
        spoiled(kind, victims, &NODES, &mut Random::new(1))
    }

    #[test]
    fn a_partition_spoils_the_links_across_it_both_ways_and_no_other() {
        let alone = of(Kind::LeaderMinority, &[2]);
        assert_eq!(alone.len(), 6);
        assert!(alone.keys().all(|(from, to)| (*from == 2) != (*to == 2)));
        let halves = of(Kind::NoMajority, &[1, 3]);
        assert_eq!(halves.len(), 8);
        assert!(!halves.contains_key(&(1, 3)) && !halves.contains_key(&(4, 2)));
    }

    #[test]
    fn a_one_way_fault_spoils_one_direction() {
        let links = of(Kind::OneWay, &[3]);
        assert_eq!(links.len(), 3);
        let outward = links.keys().filter(|(from, _)| *from == 3).count();
        assert!(outward == 0 || outward == 3);
        assert!(links.values().all(|rule| rule.passage == Passage::Silent));
    }

    #[test]
    fn a_delay_is_everywhere_and_slow_links_are_one_nodes() {
        assert_eq!(of(Kind::Delay, &[]).len(), 12);
        assert!(of(Kind::Delay, &[]).values().all(|rule| !rule.delay.is_zero()));
        assert_eq!(of(Kind::Slow, &[4]).len(), 6);
    }
}
