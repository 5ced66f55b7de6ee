//! What a chain's driver tells: the series of the subsystems `raft` and `storage`, and its log lines.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerReport, Refusal, Report, Role, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;

use super::followers::Followers;
use super::outcomes::Outcomes;
use super::{ChainLabel, Metrics, PeerLabel, PeerReasonLabel, ReasonLabel, Room, Subsystem};
use crate::chain::{ChainObserver, PersistStats, RoundStats, SnapshotStep};
use crate::telemetry::trace::{BlockTraces, Tracer};
use crate::telemetry::{Throttle, unix_time_ms};

/// How often a line that peers can provoke is written.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Changes of the leader that are remembered.
const CHANGES_MAX: usize = 8;
/// Share of one measurement in the mean of sync times.
const SYNC_TIME_SHARE: u64 = 8;

/// This node came to know another leader, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderChange {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The term.
    pub term: u64,
    /// Who leads from then on.
    pub leader: Option<NodeId>,
}

/// When a driver has turned over last, for whoever scrapes.
#[derive(Debug)]
struct TurnedOver {
    created: Instant,
    /// Milliseconds after `created`.
    at_ms: AtomicU64,
}

impl TurnedOver {
    fn age(&self) -> Duration {
        let last = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        self.created.elapsed().saturating_sub(last)
    }
}

/// Tells the age at each scrape: a driver that hangs cannot.
#[derive(Debug)]
struct AgeCollector {
    label: ChainLabel,
    turned_over: Arc<TurnedOver>,
}

impl Collector for AgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let age = ConstGauge::new(self.turned_over.age().as_secs_f64());
        let help =
            "Time since the driver turned over, which it does each second at least while the chain runs";
        let name = "raft_round_age_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, age.metric_type())?;
        age.encode(metric.encode_family(&self.label)?)
    }
}

/// One chain's series.
#[derive(Debug)]
pub struct ChainMetrics {
    chain: String,
    name: fn(u64) -> String,
    gauges: Gauges,
    leader_changes: Counter,
    elections: Counter,
    disk_hand_overs: Counter,
    gate_refused: Family<PeerReasonLabel, Counter>,
    inbox_dropped: Family<PeerLabel, Counter>,
    followers: Followers,
    outcomes: Outcomes,
    rounds: Counter,
    round_seconds: Histogram,
    events: Counter,
    proposals: Counter,
    messages_sent: Counter,
    entries_written: Counter,
    bytes_written: Counter,
    entries_committed: Counter,
    persist_seconds: Histogram,
    persisted_rounds: Counter,
    ticks_skipped: Counter,
    changes: Mutex<VecDeque<LeaderChange>>,
    /// Mean of the times until rounds were durable, weighted towards the newest, in microseconds.
    sync_time_us: AtomicU64,
    traces: BlockTraces,
    turned_over: Arc<TurnedOver>,
    refused_log: Throttle,
    dropped_log: Throttle,
    behind_log: Throttle,
    disk_log: Throttle,
}

/// What the published status says.
#[derive(Debug)]
struct Gauges {
    is_leader: Gauge,
    has_leader: Gauge,
    leader_id: Gauge<u64, AtomicU64>,
    term: Gauge,
    voters: Gauge,
    learners: Gauge,
    active_voters: Gauge,
    commit: Gauge,
    applied: Gauge,
    persisted: Gauge,
    first: Gauge,
    last: Gauge,
    proposals_inflight: Gauge,
    apply_backlog_bytes: Gauge,
    unpersisted_rounds: Gauge,
    inbox_left: Gauge,
    joint: Gauge,
    installing: Gauge,
    halted: Gauge,
    role: Family<RoleLabel, Gauge>,
}

/// Labels `chain` and `role`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    chain: String,
    role: &'static str,
}

const ROLES: [Role; 4] = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];

impl Gauges {
    fn set_role(&self, chain: &str, now: Role) {
        for role in ROLES {
            let label = RoleLabel { chain: chain.to_owned(), role: role.as_str() };
            self.role.get_or_create(&label).set(i64::from(role == now));
        }
        self.is_leader.set(i64::from(now == Role::Leader));
    }

    fn new(raft: &mut Subsystem<'_>) -> Self {
        Self {
            is_leader: raft.gauge("is_leader", "1 if this node leads the chain"),
            has_leader: raft.gauge("has_leader", "1 if this node knows a leader"),
            leader_id: raft.id("leader_id", "The leader's node id; 0: none known"),
            term: raft.gauge("term", "Current term"),
            voters: raft.gauge("voters", "Voting members"),
            learners: raft.gauge("learners", "Members that do not vote"),
            active_voters: raft.gauge(
                "active_voters",
                "Voters heard within the election timeout, this node included; leader only",
            ),
            commit: raft.gauge("commit_index", "Highest index known to be committed"),
            applied: raft.gauge("applied_index", "Highest index the application has taken"),
            persisted: raft.gauge("persisted_index", "Highest index on this node's disk"),
            first: raft.gauge("first_index", "First index kept"),
            last: raft.gauge("last_index", "Last index, durable or not"),
            proposals_inflight: raft.gauge("proposals_inflight", "Proposals not yet applied; leader only"),
            apply_backlog_bytes: raft.gauge("apply_backlog_bytes", "Committed payload bytes not yet applied"),
            unpersisted_rounds: raft
                .gauge("unpersisted_rounds", "Rounds handed to the writer and not yet durable"),
            inbox_left: raft.gauge("inbox_left", "Events that the last round left waiting"),
            joint: raft.gauge("joint", "1 while a membership change is in its joint phase"),
            installing: raft.gauge("installing", "1 while a received snapshot is put in place"),
            role: raft.family("role", "1 for the role of this node in the chain"),
            halted: raft.gauge("halted", "1 if the chain has halted on this node"),
        }
    }
}

impl ChainMetrics {
    /// Nodes are called so in log lines, instead of by their numbers; 0 is nobody.
    pub fn naming(self, name: fn(u64) -> String) -> Self {
        Self { name, ..self }
    }

    /// Sampled blocks of the chain are followed by these.
    pub fn tracing(self, tracer: &Tracer) -> Self {
        Self { traces: BlockTraces::new(tracer, &self.chain, self.name), ..self }
    }

    /// Registers the chain's series. Once for each chain of a process.
    pub fn new(metrics: &Metrics, chain: &str) -> Self {
        let turned_over = Arc::new(TurnedOver { created: Instant::now(), at_ms: AtomicU64::new(0) });
        let label = ChainLabel { chain: chain.to_owned() };
        let age = AgeCollector { label, turned_over: turned_over.clone() };
        metrics.registry(|registry| {
            registry.register_collector(Box::new(age));
            Self::register(registry, chain, turned_over)
        })
    }

    fn register(registry: &mut Room<'_>, chain: &str, turned_over: Arc<TurnedOver>) -> Self {
        let mut raft = Subsystem::new(registry, "raft", chain);
        let gauges = Gauges::new(&mut raft);
        gauges.set_role(chain, Role::Follower);
        let outcomes = Outcomes::new(&mut raft);
        let followers = Followers::new(&mut raft);
        let leader_changes = raft.counter("leader_changes", "Changes of the leader this node knows");
        let elections = raft.counter("elections_started", "Times this node stood for election");
        let disk_hand_overs = raft.counter(
            "disk_hand_overs",
            "Times this node led and offered leadership to another as its disk hung",
        );
        let gate_refused =
            raft.family("gate_refused", "Messages of peers refused before the protocol saw them");
        let inbox_dropped =
            raft.family("inbox_dropped", "Messages of peers dropped because the inbox was full");
        let rounds = raft.counter("rounds", "Rounds of the driver");
        let round_seconds = raft.seconds("round_duration_seconds", "Length of a round of the driver");
        let events = raft.counter("events", "Events handled");
        let proposals = raft.counter("proposals", "Proposals taken into the log");
        let messages_sent = raft.counter("messages_sent", "Messages handed to the transport");
        let ticks_skipped = raft.counter("ticks_skipped", "Ticks that passed while the driver stood still");
        let entries_committed = raft.counter("entries_committed", "Entries handed to the application");
        let mut storage = Subsystem::new(registry, "storage", chain);
        Self {
            chain: chain.to_owned(),
            name: |id| id.to_string(),
            gauges,
            leader_changes,
            elections,
            disk_hand_overs,
            gate_refused,
            inbox_dropped,
            followers,
            outcomes,
            ticks_skipped,
            rounds,
            round_seconds,
            events,
            proposals,
            messages_sent,
            entries_committed,
            entries_written: storage.counter("entries_written", "Log entries handed to the writer"),
            bytes_written: storage.counter("entry_bytes_written", "Payload bytes of those entries"),
            persist_seconds: storage.seconds(
                "persist_duration_seconds",
                "From handing a round to the writer until it is durable",
            ),
            persisted_rounds: storage.counter("persisted_rounds", "Rounds that became durable"),
            changes: Mutex::default(),
            sync_time_us: AtomicU64::new(0),
            traces: BlockTraces::off(),
            turned_over,
            refused_log: Throttle::new(LOG_EVERY),
            dropped_log: Throttle::new(LOG_EVERY),
            behind_log: Throttle::new(LOG_EVERY),
            disk_log: Throttle::new(LOG_EVERY),
        }
    }

    /// How long ago the driver turned over. It does so once a second or a tick, whichever is longer, at least.
    pub fn stalled(&self) -> Duration {
        self.turned_over.age()
    }

    /// Changes of the leader since the process started.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.get()
    }

    /// The last changes of the leader, newest last.
    pub fn recent_leader_changes(&self) -> Vec<LeaderChange> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// From handing a round to the writer until it is durable, of late; 0: none yet.
    pub fn sync_time_us(&self) -> u64 {
        self.sync_time_us.load(Ordering::Relaxed)
    }

    fn remember(&self, change: LeaderChange) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() == CHANGES_MAX {
            changes.pop_front();
        }
        changes.push_back(change);
    }

    fn peer(&self, peer: NodeId) -> PeerLabel {
        PeerLabel { chain: self.chain.clone(), peer: peer.get() }
    }

    fn refused(&self, refusal: &Refusal) -> ReasonLabel {
        ReasonLabel { chain: self.chain.clone(), reason: refusal.reason() }
    }

    fn leadership(&self, role: Role, term: u64, leader: Option<NodeId>) {
        let leader_id = leader.map_or(0, NodeId::get);
        if matches!(role, Role::Candidate) {
            self.elections.inc();
        }
        let before = self.gauges.leader_id.set(leader_id);
        if before != leader_id {
            if leader_id != 0 {
                self.leader_changes.inc();
            }
            self.remember(LeaderChange { at_ms: unix_time_ms(), term, leader });
            tracing::info!(
                chain = self.chain,
                role = role.as_str(),
                term,
                leader = (self.name)(leader_id),
                "leadership changed"
            );
        } else {
            tracing::debug!(
                chain = self.chain,
                role = role.as_str(),
                term,
                leader = leader_id,
                "role or term changed"
            );
        }
        self.gauges.has_leader.set(i64::from(leader_id != 0));
        self.gauges.set_role(&self.chain, role);
        self.gauges.term.set(term as i64);
    }
}

impl ChainObserver for ChainMetrics {
    fn report(&self, report: &Report) {
        match report {
            Report::Leadership { role, term, leader } => self.leadership(*role, *term, *leader),
            Report::GateRefused { from, reason } => {
                let label = PeerReasonLabel { chain: self.chain.clone(), peer: from.get(), reason };
                self.gate_refused.get_or_create(&label).inc();
                if let Some(held_back) = self.refused_log.pass() {
                    let chain = &self.chain;
                    tracing::warn!(chain, peer = from.get(), reason, held_back, "message of a peer refused");
                }
            }
            Report::StoreBehind { from, claimed, last } => {
                if let Some(held_back) = self.behind_log.pass() {
                    let (chain, peer) = (&self.chain, from.get());
                    tracing::error!(
                        chain,
                        peer,
                        claimed,
                        last,
                        held_back,
                        "this store has lost entries it had"
                    );
                }
            }
            Report::DiskHangs { ticks, to } => {
                self.disk_hand_overs.inc();
                // Again after each election timeout in which nobody has taken over.
                if let Some(held_back) = self.disk_log.pass() {
                    let (chain, to) = (&self.chain, (self.name)(to.get()));
                    tracing::warn!(
                        chain,
                        ticks,
                        to,
                        held_back,
                        "a write to the disk hangs, leadership is offered to another node"
                    );
                }
            }
            Report::Membership { voters, learners } => {
                tracing::info!(chain = self.chain, ?voters, ?learners, "membership changed");
            }
            Report::Removed => {
                tracing::warn!(chain = self.chain, "this node is no member of the chain any more")
            }
        }
    }

    fn round(&self, stats: RoundStats) {
        let turned_over = &self.turned_over;
        turned_over.at_ms.store(turned_over.created.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.rounds.inc();
        self.round_seconds.observe(stats.elapsed.as_secs_f64());
        self.events.inc_by(stats.events as u64);
        self.proposals.inc_by(stats.proposals as u64);
        self.messages_sent.inc_by(stats.messages_sent as u64);
        self.entries_written.inc_by(stats.entries_written as u64);
        self.bytes_written.inc_by(stats.bytes_written);
        self.entries_committed.inc_by(stats.entries_committed as u64);
        self.gauges.inbox_left.set(stats.left as i64);
        if stats.ticks_skipped > 0 {
            self.ticks_skipped.inc_by(stats.ticks_skipped);
        }
    }

    fn committed(&self, after: Duration) {
        self.outcomes.commit_seconds.observe(after.as_secs_f64());
    }

    fn proposal_ended(&self, outcome: Result<Duration, &Refusal>) {
        match outcome {
            Ok(after) => self.outcomes.apply_seconds.observe(after.as_secs_f64()),
            Err(refusal) => {
                self.outcomes.proposals_failed.get_or_create(&self.refused(refusal)).inc();
            }
        }
    }

    fn reads_began(&self, callers: usize) {
        self.outcomes.reads_pending.inc_by(callers as i64);
    }

    fn reads_ended(&self, callers: usize, outcome: Result<(), &Refusal>) {
        self.outcomes.reads_pending.dec_by(callers as i64);
        match outcome {
            Ok(()) => self.outcomes.reads.inc_by(callers as u64),
            Err(refusal) => {
                self.outcomes.reads_failed.get_or_create(&self.refused(refusal)).inc_by(callers as u64)
            }
        };
    }

    fn snapshot(&self, step: SnapshotStep, took: Duration) {
        let histogram = match step {
            SnapshotStep::Built => &self.outcomes.snapshot_build_seconds,
            SnapshotStep::Installed => &self.outcomes.snapshot_install_seconds,
        };
        histogram.observe(took.as_secs_f64());
    }

    fn peer_report(&self, peer: NodeId, report: PeerReport) {
        let family = match report {
            PeerReport::Unreachable => &self.outcomes.unreachable,
            PeerReport::SnapshotDelivered => &self.outcomes.snapshots_sent,
            PeerReport::SnapshotFailed => &self.outcomes.snapshots_failed,
        };
        family.get_or_create(&self.peer(peer)).inc();
    }

    fn persisted(&self, stats: PersistStats) {
        self.persist_seconds.observe(stats.elapsed.as_secs_f64());
        let (newest, mean) = (stats.elapsed.as_micros() as u64, self.sync_time_us());
        // Only the driver writes it.
        let weighted = (mean * (SYNC_TIME_SHARE - 1) + newest) / SYNC_TIME_SHARE;
        self.sync_time_us.store(if mean == 0 { newest } else { weighted }, Ordering::Relaxed);
        self.persisted_rounds.inc_by(stats.rounds as u64);
    }

    fn dropped(&self, from: NodeId, messages: usize) {
        self.inbox_dropped.get_or_create(&self.peer(from)).inc_by(messages as u64);
        if let Some(held_back) = self.dropped_log.pass() {
            let (chain, peer) = (&self.chain, from.get());
            tracing::warn!(chain, peer, messages, held_back, "inbox full, messages of a peer dropped");
        }
    }

    fn status(&self, status: &Status) {
        let gauges = &self.gauges;
        gauges.set_role(&self.chain, status.role);
        gauges.has_leader.set(i64::from(status.leader.is_some()));
        gauges.term.set(status.term as i64);
        gauges.voters.set(status.voters.len() as i64);
        gauges.learners.set(status.learners.len() as i64);
        let others =
            status.peers.iter().filter(|p| p.voter && p.active && p.node_id != status.node_id).count();
        gauges.active_voters.set(if status.role == Role::Leader { others as i64 + 1 } else { 0 });
        gauges.commit.set(status.commit as i64);
        gauges.applied.set(status.applied as i64);
        gauges.persisted.set(status.persisted as i64);
        gauges.first.set(status.first as i64);
        gauges.last.set(status.last as i64);
        gauges.proposals_inflight.set(status.proposals as i64);
        gauges.apply_backlog_bytes.set(status.apply_backlog_bytes as i64);
        gauges.unpersisted_rounds.set(status.unpersisted_rounds as i64);
        gauges.joint.set(i64::from(status.joint));
        gauges.installing.set(i64::from(status.installing));
        gauges.halted.set(i64::from(status.halted.is_some()));
        self.followers.status(&self.chain, status);
    }

    fn traces(&self) -> BlockTraces {
        self.traces.clone()
    }

    fn halted(&self, reason: &str) {
        self.gauges.halted.set(1);
        tracing::error!(chain = self.chain, reason, "the chain has halted on this node");
    }
}
