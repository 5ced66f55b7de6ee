//! Faults: when they strike, and crashes.
//!
//! Each class has a stream of its own, so that a run without one class is otherwise the same. Crashes by the
//! clock find little; most of them happen right after an effect ([`Boundary`]).

use super::cluster::{Cluster, Happening};
use super::cut::Cut;
use super::invariants::Verdict;
use super::node::Question;
use super::rng::{Rng, Stream};
use super::script::Class;
use super::swarm::{Boundary, Swarm};
use super::trace::Step;
use crate::ids::NodeId;
use crate::reach::reach;
use crate::replica::{Control, Role};

/// A fault by the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// One node crashes.
    Crash,
    /// All nodes crash at once.
    PowerCut,
    /// The network is cut.
    Partition,
    /// The cut ends.
    Heal,
    /// A link holds everything for a while.
    Clog,
    /// An old message arrives again.
    Replay,
    /// A peer's transport delivers garbage.
    Garbage,
    /// A process is stopped for a while.
    Pause,
    /// A write fails.
    WriteError,
    /// A disk is full for a while.
    DiskFull,
    /// A store is damaged.
    Damage,
    /// An application hangs.
    Hang,
    /// An application fails, and its chain halts.
    Failure,
    /// The operator moves the leadership.
    Transfer,
    /// The operator wants another membership.
    Reshape,
    /// The operator makes a mistake.
    Mistake,
    /// The operator looks at the cluster; it does so when faults have ended, too.
    Look,
}

impl Fault {
    /// Those that strike by themselves from the beginning.
    const ALL: [Self; 16] = [
        Self::Crash,
        Self::PowerCut,
        Self::Pause,
        Self::Transfer,
        Self::Partition,
        Self::Clog,
        Self::Replay,
        Self::Garbage,
        Self::WriteError,
        Self::DiskFull,
        Self::Damage,
        Self::Hang,
        Self::Failure,
        Self::Reshape,
        Self::Mistake,
        Self::Look,
    ];
}

/// The streams that faults are drawn from.
#[derive(Debug)]
pub(super) struct FaultStreams {
    timed_crash: Rng,
    power_cut: Rng,
    partition: Rng,
    clog: Rng,
    replay: Rng,
    garbage: Rng,
    pause: Rng,
    transfer: Rng,
    operator: Rng,
    application: Rng,
    pub(super) disk_failure: Rng,
    pub(super) damage: Rng,
    downtime: Vec<Rng>,
    boundary: Vec<Rng>,
}

impl FaultStreams {
    pub(super) fn new(seed: u64, nodes: u64) -> Self {
        let boundaries = Boundary::ALL.len() as u64;
        let one = |stream| Rng::new(seed, stream, 0);
        Self {
            timed_crash: one(Stream::TimedCrash),
            power_cut: one(Stream::PowerCut),
            partition: one(Stream::Partition),
            clog: one(Stream::Clog),
            replay: one(Stream::Replay),
            garbage: one(Stream::Garbage),
            pause: one(Stream::Pause),
            transfer: one(Stream::Transfer),
            operator: Rng::new(seed, Stream::Operator, 1),
            application: one(Stream::ApplicationFault),
            disk_failure: one(Stream::DiskFailure),
            damage: one(Stream::Damage),
            downtime: (0..nodes).map(|node| Rng::new(seed, Stream::Downtime, node)).collect(),
            boundary: (0..nodes * boundaries).map(|n| Rng::new(seed, Stream::BoundaryCrash, n)).collect(),
        }
    }
}

impl Cluster {
    /// Schedules the first fault of each class.
    pub(super) fn schedule_faults(&mut self) {
        Fault::ALL.iter().for_each(|fault| self.schedule_fault(*fault));
    }

    fn schedule_fault(&mut self, fault: Fault) {
        let Swarm { faults, network, disks, operations, applications, .. } = &self.swarm;
        let streams = &mut self.faults;
        let connected = self.nodes.len() > 1;
        let (every_us, rng) = match fault {
            Fault::Crash => (faults.timed_crash_every_us, &mut streams.timed_crash),
            Fault::PowerCut => (faults.power_cut_every_us, &mut streams.power_cut),
            Fault::Partition => (network.partition_every_us.filter(|_| connected), &mut streams.partition),
            Fault::Heal => (Some(network.partition_for_us), &mut streams.partition),
            Fault::Clog => (network.clog_every_us.filter(|_| connected), &mut streams.clog),
            Fault::Replay => (network.replay_every_us, &mut streams.replay),
            Fault::Garbage => (network.garbage_every_us, &mut streams.garbage),
            Fault::Pause => (faults.pause_every_us, &mut streams.pause),
            Fault::WriteError => (disks.error_every_us, &mut streams.disk_failure),
            Fault::DiskFull => (disks.full_every_us, &mut streams.disk_failure),
            Fault::Damage => (disks.damage_every_us, &mut streams.damage),
            Fault::Hang => (applications.hang_every_us, &mut streams.application),
            Fault::Failure => (applications.failure_every_us, &mut streams.application),
            Fault::Transfer => (faults.transfer_every_us, &mut streams.transfer),
            Fault::Reshape => (operations.reshape_every_us, &mut streams.operator),
            Fault::Mistake => (operations.mistake_every_us, &mut streams.operator),
            Fault::Look => {
                (Some(operations.look_every_us).filter(|every_us| *every_us > 0), &mut streams.operator)
            }
        };
        if let Some(every_us) = every_us {
            let delay_us = rng.exponential(every_us);
            self.schedule.after(delay_us, Happening::Fault(fault));
        }
    }

    /// A fault strikes.
    pub(super) fn fault(&mut self, fault: Fault) -> Verdict {
        if self.quiet && fault != Fault::Look {
            return Ok(());
        }
        match fault {
            Fault::Partition => self.schedule_fault(Fault::Heal),
            Fault::Heal => self.schedule_fault(Fault::Partition),
            other => self.schedule_fault(other),
        }
        let count = self.nodes.len() as u64;
        match fault {
            Fault::Crash => {
                let node = self.faults.timed_crash.below(count) as usize;
                return if self.happens(Class::Crash) { self.crash(node, "clock") } else { Ok(()) };
            }
            Fault::PowerCut => {
                let nodes = if self.happens(Class::PowerCut) { self.nodes.len() } else { 0 };
                return (0..nodes).try_for_each(|node| self.crash(node, "power cut"));
            }
            Fault::Damage => return self.damage_any(),
            Fault::Failure => {
                let node = self.faults.application.below(count) as usize;
                let happens = self.happens(Class::Failure);
                return if happens { self.crash(node, "application") } else { Ok(()) };
            }
            Fault::Look => return self.look(),
            Fault::Partition => self.partition(),
            Fault::Heal => {
                self.trace.record(self.schedule.now_us(), 0, Step::Heal);
                self.network.heal();
            }
            Fault::Clog => self.clog(),
            Fault::Replay => self.replay(),
            Fault::Garbage => {
                let mut rng = Rng::new(self.faults.garbage.draw(), Stream::Garbage, 1);
                if self.happens(Class::Garbage) {
                    self.throw_garbage(&mut rng);
                }
            }
            Fault::Pause => self.pause(),
            Fault::WriteError => self.fail_write(),
            Fault::DiskFull => self.fill_disk(),
            Fault::Hang => self.hang(),
            Fault::Transfer => self.transfer(),
            Fault::Reshape => self.reshape(),
            Fault::Mistake => self.mistake(),
        }
        Ok(())
    }

    fn clog(&mut self) {
        let (count, rng) = (self.nodes.len() as u64, &mut self.faults.clog);
        let from = rng.below(count);
        let to = (from + 1 + rng.below(count - 1)) % count;
        let until_us = self.schedule.now_us() + rng.exponential(self.swarm.network.clog_for_us);
        if !self.happens(Class::Clog) {
            return;
        }
        self.network.clog(from as usize, to as usize, until_us);
        self.counters.clogs += 1;
        self.note(from as usize, Step::Fault { what: "clog" });
    }

    fn hang(&mut self) {
        let node = self.faults.application.below(self.swarm.nodes) as usize;
        let for_us = self.faults.application.exponential(self.swarm.applications.hang_for_us);
        let until_us = self.schedule.now_us() + for_us;
        if !self.happens(Class::Hang) {
            return;
        }
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.hangs_until_us = until_us;
            self.counters.hangs += 1;
            self.note(node, Step::Fault { what: "hang" });
        }
    }

    fn partition(&mut self) {
        let leader = self.leader();
        let cut = Cut::draw(&mut self.faults.partition, self.nodes.len(), leader);
        if !self.happens(Class::Partition) {
            return;
        }
        self.trace.record(self.schedule.now_us(), 0, Step::Partition { kind: cut.as_str() });
        self.counters.partitions += 1;
        self.network.cut(cut);
        if self.faults.partition.below(4) == 0 {
            let second = Cut::draw(&mut self.faults.partition, self.nodes.len(), leader);
            self.trace.record(self.schedule.now_us(), 0, Step::Partition { kind: second.as_str() });
            self.network.cut(second);
        }
    }

    /// The node that leads the highest term, by its own word.
    pub(super) fn leader(&self) -> Option<usize> {
        let statuses = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(node, state)| Some((node, &state.running.as_ref()?.status)));
        let leaders = statuses.filter(|(_, status)| status.role == Role::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(node, _)| node)
    }

    fn pause(&mut self) {
        let node = self.faults.pause.below(self.nodes.len() as u64) as usize;
        let until_us = self.schedule.now_us() + self.faults.pause.exponential(self.swarm.faults.pause_for_us);
        if !self.happens(Class::Pause) {
            return;
        }
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.busy_until_us = running.busy_until_us.max(until_us);
            self.counters.pauses += 1;
            self.note(node, Step::Pause { until_us });
        }
    }

    fn transfer(&mut self) {
        let target = self.faults.transfer.below(self.nodes.len() as u64 + 1);
        if !self.happens(Class::Transfer) {
            return;
        }
        let Some(node) = self.leader() else { return };
        self.counters.transfers += 1;
        self.note(node, Step::Transfer { to: target });
        self.command(node, Question::Control, Control::TransferLeader { to: NodeId::new(target) });
    }

    /// Whether a node crashes at this boundary.
    pub(super) fn crashes_at(&mut self, node: usize, boundary: Boundary) -> bool {
        let parts = self.swarm.faults.boundary_crashes[boundary as usize];
        let stream = node * Boundary::ALL.len() + boundary as usize;
        let class = Class::Boundary { node: node as u64 + 1, at: boundary };
        self.faults.boundary[stream].chance(parts) && !self.quiet && self.happens(class)
    }

    /// A fault is drawn: whether it happens in this run.
    pub(super) fn happens(&mut self, class: Class) -> bool {
        self.script.happens(class, self.schedule.now_us())
    }

    /// A node crashes, unless it is down, and will start again.
    pub(super) fn crash(&mut self, node: usize, boundary: &'static str) -> Verdict {
        let Some(running) = self.nodes[node].running.take() else { return Ok(()) };
        self.invariants.stops(node);
        reach!(CrashInTheMiddleOfASnapshot, running.status.installing);
        let wreck = self.nodes[node].disk.crash()?;
        reach!(CrashLostSomeAndKeptSome, wreck.kept > 0 && wreck.lost > 0);
        *self.counters.crashes.entry(boundary).or_default() += 1;
        self.note(node, Step::Crash { boundary, kept: wreck.kept, lost: wreck.lost });
        self.forget_blocks(node);
        let changes = self.nodes[node].changes_above(self.invariants.agreed_membership.newest());
        self.invariants.agreed_membership.crashes(node, changes);
        let delay_us = 1_000 + self.faults.downtime[node].exponential(self.swarm.faults.downtime_us);
        self.schedule.after(delay_us, Happening::Start(node));
        Ok(())
    }
}
