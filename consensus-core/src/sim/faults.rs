//! Faults: when they strike, and crashes.
//!
//! Each class has a stream of its own, so that a run without one class is otherwise the same. Crashes by the
//! clock find little; most of them happen right after an effect ([`Boundary`]).

use super::cluster::{Cluster, Happening};
use super::invariants::Verdict;
use super::network::Cut;
use super::node::Question;
use super::rng::{Rng, Stream};
use super::script::Class;
use super::swarm::Boundary;
use super::trace::Step;
use crate::ids::NodeId;
use crate::replica::{Control, Event, Role};

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
    /// A process is stopped for a while.
    Pause,
    /// The operator moves the leadership.
    Transfer,
}

/// The streams that faults are drawn from.
#[derive(Debug)]
pub(super) struct FaultStreams {
    timed_crash: Rng,
    power_cut: Rng,
    partition: Rng,
    pause: Rng,
    transfer: Rng,
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
            pause: one(Stream::Pause),
            transfer: one(Stream::Transfer),
            downtime: (0..nodes).map(|node| Rng::new(seed, Stream::Downtime, node)).collect(),
            boundary: (0..nodes * boundaries).map(|n| Rng::new(seed, Stream::BoundaryCrash, n)).collect(),
        }
    }
}

impl Cluster {
    /// Schedules the first fault of each class.
    pub(super) fn schedule_faults(&mut self) {
        self.schedule_fault(Fault::Crash);
        self.schedule_fault(Fault::PowerCut);
        self.schedule_fault(Fault::Pause);
        self.schedule_fault(Fault::Transfer);
        if self.nodes.len() > 1 {
            self.schedule_fault(Fault::Partition);
        }
    }

    fn schedule_fault(&mut self, fault: Fault) {
        let faults = &self.swarm.faults;
        let (every_us, rng) = match fault {
            Fault::Crash => (faults.timed_crash_every_us, &mut self.faults.timed_crash),
            Fault::PowerCut => (faults.power_cut_every_us, &mut self.faults.power_cut),
            Fault::Partition => (self.swarm.network.partition_every_us, &mut self.faults.partition),
            Fault::Heal => (Some(self.swarm.network.partition_for_us), &mut self.faults.partition),
            Fault::Pause => (faults.pause_every_us, &mut self.faults.pause),
            Fault::Transfer => (faults.transfer_every_us, &mut self.faults.transfer),
        };
        if let Some(every_us) = every_us {
            let delay_us = rng.exponential(every_us);
            self.schedule.after(delay_us, Happening::Fault(fault));
        }
    }

    /// A fault strikes.
    pub(super) fn fault(&mut self, fault: Fault) -> Verdict {
        if self.quiet {
            return Ok(());
        }
        match fault {
            Fault::Partition => {
                self.partition();
                self.schedule_fault(Fault::Heal);
                return Ok(());
            }
            Fault::Heal => {
                self.trace.record(self.schedule.now_us(), 0, Step::Heal);
                self.network.heal();
                self.schedule_fault(Fault::Partition);
                return Ok(());
            }
            Fault::Crash | Fault::PowerCut | Fault::Pause | Fault::Transfer => self.schedule_fault(fault),
        }
        let count = self.nodes.len() as u64;
        match fault {
            Fault::Crash => {
                let node = self.faults.timed_crash.below(count) as usize;
                if self.happens(Class::Crash) { self.crash(node, "clock") } else { Ok(()) }
            }
            Fault::PowerCut => {
                let nodes = if self.happens(Class::PowerCut) { self.nodes.len() } else { 0 };
                (0..nodes).try_for_each(|node| self.crash(node, "power cut"))
            }
            Fault::Pause => {
                self.pause();
                Ok(())
            }
            Fault::Transfer => {
                self.transfer();
                Ok(())
            }
            Fault::Partition | Fault::Heal => Ok(()),
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
        let process = self.process(node);
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let ticket = running.ask(Question::Control);
        self.counters.transfers += 1;
        self.note(node, Step::Transfer { to: target });
        let command = Control::TransferLeader { to: NodeId::new(target) };
        self.give(process, Event::Control { ticket, command });
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
        if self.nodes[node].running.take().is_none() {
            return Ok(());
        }
        self.invariants.stops(node);
        let wreck = self.nodes[node].disk.crash()?;
        *self.counters.crashes.entry(boundary).or_default() += 1;
        self.note(node, Step::Crash { boundary, kept: wreck.kept, lost: wreck.lost });
        let delay_us = 1_000 + self.faults.downtime[node].exponential(self.swarm.faults.downtime_us);
        self.schedule.after(delay_us, Happening::Start(node));
        Ok(())
    }
}
