//! Makes a failing scenario small.
//!
//! It tries simpler scenarios and keeps each that violates the same property: whole classes of faults off, then
//! single faults (delta debugging: halves, quarters, and so on), clients, nodes, duration, and at last plain
//! delays. What is tried is in [`Plan`]; how often, the caller says.

use super::scenario::Scenario;
use super::schedule::{MILLISECOND, SECOND};
use super::script::Occurrence;
use super::swarm::{Latencies, Swarm};
use crate::limits::Limits;
use crate::mutant::Mutant;

/// Clients that think longer than this do nothing in a run.
const THINK_MAX_US: u64 = 1_000 * SECOND;

/// A simplification of a configuration.
type Simpler = fn(&mut Swarm);

/// Simplifications that are tried one after the other, the most welcome first.
struct Plan;

impl Plan {
    const CLASSES: [Simpler; 29] = [
        |swarm| swarm.network.loss = 0,
        |swarm| swarm.network.duplicate = 0,
        |swarm| swarm.network.reorder = false,
        |swarm| swarm.network.partition_every_us = None,
        |swarm| swarm.faults.boundary_crashes = Default::default(),
        |swarm| swarm.faults.timed_crash_every_us = None,
        |swarm| swarm.faults.power_cut_every_us = None,
        |swarm| swarm.faults.pause_every_us = None,
        |swarm| swarm.faults.transfer_every_us = None,
        |swarm| swarm.network.replay_every_us = None,
        |swarm| swarm.network.clog_every_us = None,
        |swarm| swarm.network.capacity = None,
        |swarm| swarm.network.garbage_every_us = None,
        |swarm| swarm.disks.error_every_us = None,
        |swarm| swarm.disks.full_every_us = None,
        |swarm| swarm.disks.damage_every_us = None,
        |swarm| swarm.disks.beyond = false,
        |swarm| swarm.operations.reshape_every_us = None,
        |swarm| swarm.operations.mistake_every_us = None,
        |swarm| swarm.applications.hang_every_us = None,
        |swarm| swarm.applications.failure_every_us = None,
        |swarm| swarm.applications.ahead = false,
        |swarm| swarm.applications.behind = false,
        |swarm| swarm.core_first = false,
        |swarm| swarm.faults.drift = false,
        |swarm| swarm.latencies.stall = 0,
        |swarm| swarm.latencies.slow_disk = None,
        |swarm| swarm.workload.read_every_us = None,
        |swarm| swarm.workload.careless = false,
    ];

    const SIZES: [Simpler; 9] = [
        |swarm| swarm.workload.clients = 1,
        |swarm| swarm.workload.clients = swarm.workload.clients.div_ceil(2),
        |swarm| {
            swarm.nodes -= swarm.operations.spares;
            swarm.operations.spares = 0;
        },
        |swarm| {
            swarm.nodes -= swarm.learners;
            swarm.learners = 0;
        },
        |swarm| fewer_voters(swarm, 1),
        |swarm| fewer_voters(swarm, 3),
        |swarm| fewer_voters(swarm, 4),
        |swarm| swarm.safety_us = (swarm.safety_us / 2).max(SECOND),
        |swarm| swarm.workload.think_us = (swarm.workload.think_us * 4).min(THINK_MAX_US),
    ];

    const CONSTANTS: [Simpler; 5] = [
        |swarm| swarm.limits = Limits { entry_bytes_max: 64 << 10, ..Limits::default() },
        |swarm| swarm.latencies = plain_latencies(),
        |swarm| swarm.snapshot_every = 1_000_000,
        |swarm| swarm.workload.bytes_max = 16,
        |swarm| (swarm.heartbeat_ticks, swarm.election_ticks) = (1, 10),
    ];
}

fn fewer_voters(swarm: &mut Swarm, voters: u64) {
    let others = swarm.nodes - swarm.voters;
    swarm.voters = swarm.voters.min(voters);
    swarm.nodes = swarm.voters + others;
}

fn plain_latencies() -> Latencies {
    Latencies {
        link_min_us: MILLISECOND,
        sync_min_us: MILLISECOND,
        stall_max_us: SECOND,
        apply_mean_us: 20,
        ..Latencies::default()
    }
}

/// A search for the smallest scenario.
#[derive(Debug)]
pub struct Shrink {
    best: Scenario,
    mutant: Option<Mutant>,
    /// Runs so far, and how many there may be.
    runs: usize,
    runs_max: usize,
}

impl Shrink {
    /// From a scenario that fails with this rule broken, with at most so many runs.
    pub fn new(scenario: Scenario, mutant: Option<Mutant>, runs_max: usize) -> Self {
        Self { best: scenario, mutant, runs: 0, runs_max }
    }

    /// The smallest scenario that was found, and after how many runs; the failure was seen at `failed_us`.
    pub fn smallest(mut self, failed_us: u64) -> (Scenario, usize) {
        // Whatever does not fail by then need not run on for long.
        let mut short = self.best.clone();
        short.swarm.safety_us = short.swarm.safety_us.min(failed_us + 1);
        self.keep_if_failing(short);
        loop {
            let before = self.runs;
            let mut changed = false;
            for simpler in Plan::CLASSES {
                changed |= self.simplify(simpler);
            }
            changed |= self.fewer_faults();
            for simpler in Plan::SIZES.iter().chain(&Plan::CONSTANTS) {
                while self.simplify(*simpler) {
                    changed = true;
                }
            }
            if !changed || self.runs >= self.runs_max || self.runs == before {
                return (self.best, self.runs);
            }
        }
    }

    fn simplify(&mut self, simpler: Simpler) -> bool {
        let mut scenario = self.best.clone();
        simpler(&mut scenario.swarm);
        let same = format!("{:?}", scenario.swarm) == format!("{:?}", self.best.swarm);
        !same && self.keep_if_failing(scenario)
    }

    /// Delta debugging over single faults: leaves out ever smaller parts of the list.
    fn fewer_faults(&mut self) -> bool {
        let mut changed = false;
        let mut part = self.faults().len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < self.faults().len() {
                let mut faults = self.faults().to_vec();
                faults.drain(from..faults.len().min(from + part));
                if self.keep_if_failing(Scenario { faults: Some(faults), ..self.best.clone() }) {
                    changed = true;
                } else {
                    from += part;
                }
            }
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
        changed
    }

    fn faults(&self) -> &[Occurrence] {
        self.best.faults.as_deref().unwrap_or_default()
    }

    /// Takes a scenario over if it violates the same property; then without the faults that it does not come to.
    fn keep_if_failing(&mut self, scenario: Scenario) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let Some(failure) = scenario.run(self.mutant, false).failure else { return false };
        if Some(failure.violation.invariant) != self.best.violates.as_deref() {
            return false;
        }
        self.best = Scenario { faults: Some(failure.faults), ..scenario };
        true
    }
}
