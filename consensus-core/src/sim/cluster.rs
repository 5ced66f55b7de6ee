//! One run: a cluster, its network, its clients and its faults under one seed.
//!
//! A run has two phases. In the first one faults happen and the safety properties are checked after every
//! step; in the second one all faults end and the cluster has to recover ([`super::liveness`]). The
//! rest of the run is in [`super::rounds`] (the driver and its effects), [`super::work`] (disk and
//! application) and [`super::faults`].

use super::application::FIRST_STORE;
use super::clients::{Attempt, Clients, Next, Reply};
use super::disk::Completion;
use super::faults::{Fault, FaultStreams};
use super::invariants::{Invariants, NoPanic, Verdict};
use super::letters::{Letter, Memory};
use super::mutant::{self, Mutant};
use super::network::Network;
use super::node::{self, Node, Question};
use super::operator::Operator;
use super::report::{Counters, Failure, Report};
use super::rng::{Rng, Stream};
use super::schedule::{SECOND, Schedule};
use super::script::Script;
use super::swarm::Swarm;
use super::trace::{Step, Trace};
use crate::ids::NodeId;
use crate::reach::{self, reach};
use crate::replica::{Event, PeerReport};

/// What the checks may look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sight {
    /// Everything, the disks too: a broken rule shows before it does harm.
    #[default]
    Inside,
    /// Only what leaves the nodes and what they hand to their applications: a broken rule shows by the harm that
    /// it does.
    Outside,
}

/// What a run is made from.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// A rule to break.
    pub mutant: Option<Mutant>,
    /// What is judged.
    pub sight: Sight,
    /// Print every step.
    pub verbose: bool,
}

impl Options {
    /// The run of a seed.
    pub fn seed(seed: u64) -> Self {
        Self { seed, mutant: None, sight: Sight::Inside, verbose: false }
    }
}

/// Names an incarnation of a node by the node's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub(super) node: usize,
    pub(super) incarnation: u64,
}

/// Everything that can happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// A node's clock ticks.
    Tick(Process),
    /// A node's driver begins a round.
    Round(Process),
    /// A message arrives at its receiver.
    Arrive(Box<Letter>),
    /// A transport has learnt something.
    Report { process: Process, peer: usize, report: PeerReport },
    /// The writer is done with a group.
    Written(Process),
    /// The application is done with its first task.
    Worked(Process),
    /// A node that was down starts.
    Start(usize),
    /// Somebody has made room on a node's disk.
    Freed(usize),
    /// A fault is due.
    Fault(Fault),
    /// A client begins its next transaction.
    Begin { client: usize },
    /// A submission arrives.
    Submit { attempt: Attempt },
    /// A reply arrives.
    Reply { client: usize, number: u64, node: usize, reply: Reply },
    /// A client tries again.
    Retry { client: usize, attempt: u64 },
    /// A client's patience ends.
    Patience { client: usize, attempt: u64 },
    /// A client reads.
    Read { client: usize },
    /// The canary lies.
    Lie,
}

/// A run.
#[derive(Debug)]
pub struct Cluster {
    pub(super) swarm: Swarm,
    pub(super) schedule: Schedule<Happening>,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Clients,
    pub(super) invariants: Invariants,
    pub(super) trace: Trace,
    pub(super) faults: FaultStreams,
    pub(super) script: Script,
    pub(super) counters: Counters,
    pub(super) mutant: Option<Mutant>,
    pub(super) sight: Sight,
    /// Faults have ended.
    pub(super) quiet: bool,
    /// Nodes that stay down, as a mask.
    pub(super) left_down: u64,
    /// More is lost than the cluster survives: nothing may go on.
    pub(super) stands_still: bool,
    pub(super) memory: Memory,
    pub(super) operator: Operator,
    /// Each node's newest store that the chain has admitted.
    pub(super) admitted: Vec<u64>,
    clocks: Vec<Rng>,
    pub(super) rounds: Vec<Rng>,
    pub(super) work: Vec<Rng>,
    readers: Vec<Rng>,
    tick_us: Vec<u64>,
    /// How far each node's wall clock is ahead of time.
    wall_ahead_us: Vec<u64>,
}

impl Cluster {
    /// A cluster whose nodes have empty stores and are down.
    ///
    /// # Errors
    /// The store's, as text; a fresh one in memory has none.
    pub fn new(options: Options, swarm: Swarm, script: Script) -> Result<Self, String> {
        let (seed, count) = (swarm.seed, swarm.nodes);
        let streams = |stream| (0..count).map(|node| Rng::new(seed, stream, node)).collect::<Vec<_>>();
        let nodes: Result<Vec<Node>, String> =
            (1..=count).map(|id| Node::create(&swarm, id, options.mutant)).collect();
        let readers =
            (0..swarm.workload.clients).map(|client| Rng::new(seed, Stream::Workload, 1_000 + client));
        let mut clocks = streams(Stream::Clock);
        let drift = swarm.faults.drift;
        let tick_us = clocks.iter_mut().map(|clock| {
            let drifted = swarm.tick_us * clock.between(950, 1050) / 1000;
            if drift { drifted } else { swarm.tick_us }
        });
        Ok(Self {
            schedule: Schedule::default(),
            network: Network::new(seed, count as usize, &swarm.latencies, &swarm.network),
            nodes: nodes?,
            clients: Clients::new(seed, count, &swarm.workload, swarm.network.loss),
            invariants: Invariants::new(
                count as usize,
                &node::founders(&swarm),
                node::founded_at(&swarm),
                &swarm.limits,
            ),
            trace: Trace::new(options.verbose),
            faults: FaultStreams::new(seed, count),
            script,
            counters: Counters::default(),
            mutant: options.mutant,
            sight: options.sight,
            quiet: false,
            left_down: 0,
            stands_still: false,
            memory: Memory::new(seed, swarm.network.remembered),
            operator: Operator::new(&swarm),
            admitted: (0..count)
                .map(|node| if node < swarm.voters + swarm.learners { FIRST_STORE } else { 0 })
                .collect(),
            rounds: streams(Stream::Driver),
            work: streams(Stream::Application),
            readers: readers.collect(),
            tick_us: tick_us.collect(),
            wall_ahead_us: (0..count)
                .map(|node| Rng::new(seed, Stream::Clock, 1_000 + node).below(WALL_AHEAD_MAX_US))
                .collect(),
            clocks,
            swarm,
        })
    }

    /// Runs both phases.
    pub fn run(mut self) -> Report {
        let verdict = self.run_phases();
        let failure = verdict.err().map(|violation| Failure {
            violation,
            swarm: self.swarm.clone(),
            faults: std::mem::take(&mut self.script).into_happened(),
            last_steps: self.trace.last().copied().collect(),
        });
        self.counters.steps = self.trace.steps();
        self.counters.simulated_us = self.schedule.now_us();
        self.counters.elections = self.invariants.one_leader_per_term.elections();
        self.counters.blocks = self.invariants.one_content_per_position.blocks().len() as u64;
        self.counters.acknowledged = self.invariants.client_history.count();
        self.counters.reads = self.invariants.fresh_reads.reads();
        self.counters.overfull = self.network.overfull();
        self.counters.membership_changes = self.invariants.agreed_membership.count();
        self.counters.syncs = self.nodes.iter().map(|node| node.disk.syncs()).sum();
        let marks = reach::take();
        Report { seed: self.swarm.seed, trace: self.trace.hash(), counters: self.counters, marks, failure }
    }

    fn run_phases(&mut self) -> Verdict {
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        for client in 0..self.clients.len() {
            let pause_us = self.clients.pause_us(client);
            self.schedule.after(pause_us, Happening::Begin { client });
            self.schedule_read(client);
        }
        self.schedule_faults();
        self.schedule_lie();
        let end_us = self.swarm.safety_us;
        self.run_until(end_us)?;
        self.recover()?;
        self.check_end()
    }

    /// Lets everything happen up to a time.
    pub(super) fn run_until(&mut self, until_us: u64) -> Verdict {
        while let Some(happening) = self.schedule.next(until_us) {
            self.happen(happening)?;
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Verdict {
        match happening {
            Happening::Tick(process) => {
                if self.give(process, Event::Tick) {
                    let tick_us = self.tick_us[process.node];
                    self.schedule.after(tick_us, Happening::Tick(process));
                }
                Ok(())
            }
            Happening::Round(process) => self.round(process),
            Happening::Arrive(letter) => {
                self.arrive(*letter);
                Ok(())
            }
            Happening::Freed(node) => {
                self.nodes[node].disk.fill(false);
                Ok(())
            }
            Happening::Report { process, peer, report } => {
                self.report(process, peer, report);
                Ok(())
            }
            Happening::Written(process) => self.written(process),
            Happening::Worked(process) => self.worked(process),
            Happening::Start(node) => self.start(node),
            Happening::Fault(fault) => self.fault(fault),
            Happening::Begin { client } => {
                if let Some(attempt) = self.clients.begin(client, self.schedule.now_us()) {
                    self.submit(attempt);
                }
                Ok(())
            }
            Happening::Submit { attempt } => {
                self.take_submission(attempt);
                Ok(())
            }
            Happening::Reply { client, number, node, reply } => {
                self.take_reply(client, number, node, reply);
                Ok(())
            }
            Happening::Retry { client, attempt } => {
                let again = self.clients.retry(client, attempt, self.schedule.now_us());
                again.into_iter().for_each(|attempt| self.submit(attempt));
                Ok(())
            }
            Happening::Patience { client, attempt } => {
                let again = self.clients.lose_patience(client, attempt, self.schedule.now_us());
                again.into_iter().for_each(|attempt| self.submit(attempt));
                Ok(())
            }
            Happening::Read { client } => {
                self.read(client);
                Ok(())
            }
            Happening::Lie => self.lie(),
        }
    }

    /// Adds a step of a node, by position, to the history.
    pub(super) fn note(&mut self, node: usize, step: Step) {
        self.trace.record(self.schedule.now_us(), node as u64 + 1, step);
    }

    /// The running incarnation of a node.
    pub(super) fn process(&self, node: usize) -> Process {
        Process { node, incarnation: self.nodes[node].incarnation }
    }

    /// Puts an event into a node's inbox and sees to it that a round comes; `false` if that process is gone.
    pub(super) fn give(&mut self, process: Process, event: Event) -> bool {
        let Some(running) = self.nodes[process.node].running_as(process.incarnation) else { return false };
        running.receive(event);
        self.schedule_round(process);
        true
    }

    /// Sees to it that a node's driver wakes up.
    pub(super) fn schedule_round(&mut self, process: Process) {
        let Some(running) = self.nodes[process.node].running_as(process.incarnation) else { return };
        if !running.round_due {
            running.round_due = true;
            let at_us = running.busy_until_us;
            self.schedule.at(at_us, Happening::Round(process));
        }
    }

    /// Starts a node on what its disk has.
    fn start(&mut self, node: usize) -> Verdict {
        if self.nodes[node].running.is_some()
            || self.nodes[node].refused.is_some()
            || (self.left_down >> node) & 1 == 1
        {
            return Ok(());
        }
        let id = node as u64 + 1;
        let incarnation = self.nodes[node].incarnation + 1;
        let replica_seed = Rng::new(self.swarm.seed, Stream::Election, (id << 32) | incarnation).draw();
        let found = self.nodes[node].start(&self.swarm, replica_seed);
        let found = match found {
            Err(why) if self.nodes[node].damage.is_some() => return self.refuse(node, why),
            found => self.invariants.no_panic.starts(id, found)?,
        };
        self.check_noticed(node)?;
        self.remember_disk(node);
        self.forgotten(node, found.caught_up)?;
        let promises = found.promises;
        reach!(ApplicationAheadAtStart, found.application > promises.applied);
        self.note(
            node,
            Step::Start { term: promises.hard_state.term, last: found.last, applied: promises.applied },
        );
        let reopened = self.invariants.monotonic.reopened(node, promises);
        let same = self.nodes[node].disk.check_reopened(promises.height);
        if self.sight == Sight::Inside {
            reopened.and(same)?;
        }
        self.check_durable(node)?;
        self.invariants.leadership_told.starts(node, promises.hard_state.term);
        let order = &mut self.invariants.apply_order;
        order.starts(node, promises.applied, found.application, promises.height, found.installing)?;
        if let Some(running) = &self.nodes[node].running {
            let (height, hash) = running.application.tip();
            self.invariants.one_content_per_position.tip(id, height, hash)?;
        }
        let process = self.process(node);
        self.schedule_round(process);
        let phase_us = self.clocks[node].below(self.swarm.tick_us);
        self.schedule.after(phase_us, Happening::Tick(process));
        Ok(())
    }

    fn report(&mut self, process: Process, peer: usize, report: PeerReport) {
        let peer_id = NodeId::new(peer as u64 + 1).expect("ids begin with 1");
        if self.give(process, Event::PeerReport { peer: peer_id, report }) {
            let report = match report {
                PeerReport::Unreachable => "unreachable",
                PeerReport::SnapshotDelivered => "snapshot delivered",
                PeerReport::SnapshotFailed => "snapshot failed",
            };
            self.note(process.node, Step::PeerReport { peer: peer_id.get(), report });
        }
    }

    fn submit(&mut self, attempt: Attempt) {
        let Attempt { client, submission, .. } = attempt;
        let now_us = self.schedule.now_us();
        self.invariants.client_history.submits(submission.client, submission.number, now_us);
        self.trace.record(
            self.schedule.now_us(),
            0,
            Step::Submit { client: client as u64, number: submission.number, node: attempt.node as u64 + 1 },
        );
        if let Some(at_us) = attempt.arrives_us {
            self.schedule.at(at_us, Happening::Submit { attempt });
        }
        self.schedule.at(attempt.patience_us, Happening::Patience { client, attempt: attempt.attempt });
    }

    fn take_submission(&mut self, attempt: Attempt) {
        let Attempt { client, submission, node, .. } = attempt;
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        if let Some(place) = running.application.find(submission.client, submission.number) {
            self.reply(client, submission.number, node, Reply::Committed(place));
            if self.readers[client].below(4) == 0 {
                // A careless proposer: the chain has to leave the transaction out by itself.
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.pool.slip_in(submission);
                }
                self.propose(node);
            }
        } else if running.pool.take(submission) {
            self.propose(node);
        } else {
            let hint = running.status.leader.map(NodeId::get).filter(|id| *id != node as u64 + 1);
            self.reply(client, submission.number, node, Reply::Refused(hint));
        }
    }

    /// Lets a node's application propose what it can.
    pub(super) fn propose(&mut self, node: usize) {
        let now_us = self.schedule.now_us();
        let process = self.process(node);
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let (proposals, bytes) = running.propose(now_us + self.wall_ahead_us[node], &self.swarm);
        let term = running.status.term;
        if proposals > 0 {
            self.counters.proposals += proposals as u64;
            self.note(node, Step::Propose { term, proposals, bytes });
            self.schedule_round(process);
        }
    }

    /// A node answers a client.
    pub(super) fn reply(&mut self, client: usize, number: u64, node: usize, reply: Reply) {
        if let Some(at_us) = self.clients.reply_arrives_us(client, self.schedule.now_us()) {
            self.schedule.at(at_us, Happening::Reply { client, number, node, reply });
        }
    }

    fn take_reply(&mut self, client: usize, number: u64, node: usize, reply: Reply) {
        let attempt = self.clients.attempt(client);
        match self.clients.reply(client, number, node, reply, self.schedule.now_us()) {
            Next::Nothing => {}
            Next::RetryAt(at_us) => self.schedule.at(at_us, Happening::Retry { client, attempt }),
            Next::Acknowledged(told, at_us) => {
                let step = Step::Reply { client: told.client, number, height: told.height };
                self.trace.record(self.schedule.now_us(), 0, step);
                let blocks = self.invariants.one_content_per_position.blocks();
                let index = blocks.get((told.height as usize).wrapping_sub(1)).map_or(u64::MAX, |b| b.index);
                self.invariants.fresh_reads.acknowledged(index);
                self.invariants.client_history.acknowledged(told);
                self.schedule.at(at_us, Happening::Begin { client });
            }
        }
    }

    fn schedule_read(&mut self, client: usize) {
        if let Some(every_us) = self.swarm.workload.read_every_us {
            let delay_us = self.readers[client].exponential(every_us);
            self.schedule.after(delay_us, Happening::Read { client });
        }
    }

    fn read(&mut self, client: usize) {
        if !self.clients.retired() {
            self.schedule_read(client);
        }
        let node = self.readers[client].below(self.swarm.nodes) as usize;
        let least = self.invariants.fresh_reads.begin();
        let process = self.process(node);
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let ticket = running.ask(Question::Read(least));
        self.note(node, Step::ReadIndex { ticket: ticket.0 });
        self.give(process, Event::ReadIndex { ticket });
    }

    /// How a completion of the writer reaches the replica.
    pub(super) fn completed(&mut self, process: Process, completion: Completion) {
        let (event, step) = match completion {
            Completion::Persisted { number } => (Event::Persisted { number }, Step::Persisted { number }),
            Completion::Installed { index } => {
                let running = self.nodes[process.node].running.as_ref();
                let height = running.map_or(0, |running| running.application.tip().0);
                (Event::SnapshotInstalled { index }, Step::SnapshotInstalled { index, height })
            }
        };
        if self.give(process, event) {
            self.note(process.node, step);
        }
    }
}

/// Runs one seed.
///
/// # Panics
/// Never by itself; a panic inside the code under test becomes a failure of the run.
pub fn run(options: Options) -> Report {
    run_script(options, Swarm::derive(options.seed), Script::default())
}

/// Runs a configuration with some of its faults.
pub(super) fn run_script(options: Options, swarm: Swarm, script: Script) -> Report {
    let configuration = swarm.clone();
    // What this thread reached before belongs to nobody.
    reach::take();
    let guarded = std::panic::catch_unwind(|| {
        mutant::broken(options.mutant, || Cluster::new(options, swarm, script).map(Cluster::run))
    });
    let why = match guarded {
        Ok(Ok(report)) => return report,
        Ok(Err(why)) => why,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default(),
    };
    let failure = Failure {
        violation: NoPanic::panicked(&why),
        swarm: configuration,
        faults: Vec::new(),
        last_steps: Vec::new(),
    };
    let marks = reach::take();
    Report { seed: options.seed, trace: 0, counters: Counters::default(), marks, failure: Some(failure) }
}

/// How far wall clocks may be apart.
const WALL_AHEAD_MAX_US: u64 = 5 * SECOND;

/// How long the recovery may take.
pub(super) const RECOVERY_US: u64 = 60 * SECOND;
