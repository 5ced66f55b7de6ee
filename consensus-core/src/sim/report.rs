//! What a run leaves: its trace hash, its counters, and its failure if it had one.

use std::collections::BTreeMap;
use std::fmt;

use super::invariants::Violation;
use super::schedule::SECOND;
use super::script::Occurrence;
use super::swarm::Swarm;
use super::trace::Record;

/// The first violation of a run.
#[derive(Debug)]
pub struct Failure {
    /// What must never be and was.
    pub violation: Violation,
    /// The run's configuration.
    pub swarm: Swarm,
    /// The faults before, in order.
    pub faults: Vec<Occurrence>,
    /// The steps before, oldest first.
    pub last_steps: Vec<Record>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.swarm)?;
        for record in &self.last_steps {
            writeln!(f, "{record}")?;
        }
        write!(f, "VIOLATED in seed {}: {}", self.swarm.seed, self.violation)
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Hash over all steps; equal for equal runs.
    pub trace: u128,
    /// What happened how often.
    pub counters: Counters,
    /// How often each mark was reached, in the order of [`Mark::ALL`](crate::reach::Mark::ALL).
    pub marks: Vec<u64>,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// What happened how often, in one run or in many.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names are the words of what is counted")]
pub struct Counters {
    pub simulated_us: u64,
    pub steps: u64,
    pub rounds: u64,
    pub sent: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub partitions: u64,
    pub pauses: u64,
    pub transfers: u64,
    pub syncs: u64,
    pub elections: u64,
    pub proposals: u64,
    pub blocks: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub snapshots_built: u64,
    pub snapshots_installed: u64,
    pub replayed: u64,
    pub garbage: u64,
    pub clogs: u64,
    pub overfull: u64,
    pub refusals: u64,
    pub reshapes: u64,
    pub membership_changes: u64,
    pub hangs: u64,
    pub standstills: u64,
    pub cores: u64,
    /// By what became of a store.
    pub damages: BTreeMap<&'static str, u64>,
    /// By boundary.
    pub crashes: BTreeMap<&'static str, u64>,
    /// Messages refused at the gate, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.simulated_us += other.simulated_us;
        self.steps += other.steps;
        self.rounds += other.rounds;
        self.sent += other.sent;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.partitions += other.partitions;
        self.pauses += other.pauses;
        self.transfers += other.transfers;
        self.syncs += other.syncs;
        self.elections += other.elections;
        self.proposals += other.proposals;
        self.blocks += other.blocks;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.snapshots_built += other.snapshots_built;
        self.snapshots_installed += other.snapshots_installed;
        self.replayed += other.replayed;
        self.garbage += other.garbage;
        self.clogs += other.clogs;
        self.overfull += other.overfull;
        self.refusals += other.refusals;
        self.reshapes += other.reshapes;
        self.membership_changes += other.membership_changes;
        self.hangs += other.hangs;
        self.standstills += other.standstills;
        self.cores += other.cores;
        let maps = [
            (&mut self.crashes, &other.crashes),
            (&mut self.refused, &other.refused),
            (&mut self.damages, &other.damages),
        ];
        for (sum, more) in maps {
            more.iter().for_each(|(what, count)| *sum.entry(what).or_default() += count);
        }
    }

    /// All crashes.
    pub fn crashes(&self) -> u64 {
        self.crashes.values().sum()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        let hours = self.simulated_us as f64 / (3600 * SECOND) as f64;
        writeln!(
            f,
            "{hours:.1} simulated hours, {} steps, {} rounds, {} syncs",
            self.steps, self.rounds, self.syncs
        )?;
        writeln!(
            f,
            "{} messages ({} lost, {} twice), {} elections, {} partitions, {} pauses, {} transfers",
            self.sent,
            self.lost,
            self.duplicated,
            self.elections,
            self.partitions,
            self.pauses,
            self.transfers
        )?;
        writeln!(
            f,
            "{} proposals, {} blocks, {} acknowledged, {} reads, {} snapshots built, {} installed",
            self.proposals,
            self.blocks,
            self.acknowledged,
            self.reads,
            self.snapshots_built,
            self.snapshots_installed
        )?;
        writeln!(
            f,
            "{} replayed, {} pieces of garbage, {} clogs, {} beyond a link's capacity",
            self.replayed, self.garbage, self.clogs, self.overfull
        )?;
        writeln!(
            f,
            "{} wishes for another membership, {} changes of it, {} hangs, {} standstills, {} recoveries of a core",
            self.reshapes, self.membership_changes, self.hangs, self.standstills, self.cores
        )?;
        writeln!(f, "{} stores refused, damaged: {}", self.refusals, words(&self.damages))?;
        writeln!(f, "{} crashes: {}", self.crashes(), words(&self.crashes))?;
        write!(f, "refused at the gate: {}", words(&self.refused))
    }
}
