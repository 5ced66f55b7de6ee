//! What a chain's driver tells: the series of the subsystems `raft` and `storage`, and its log lines.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_core::replica::{Report, Role, Status};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, PeerLabel, PeerReasonLabel, Subsystem};
use crate::chain::{ChainObserver, PersistStats, RoundStats};
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

/// One chain's series.
#[derive(Debug)]
pub struct ChainMetrics {
    chain: String,
    name: fn(u64) -> String,
    gauges: Gauges,
    leader_changes: Counter,
    elections: Counter,
    gate_refused: Family<PeerReasonLabel, Counter>,
    inbox_dropped: Family<PeerLabel, Counter>,
    matched_lag: Family<PeerLabel, Gauge>,
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
    lagging: Mutex<Vec<NodeId>>,
    changes: Mutex<VecDeque<LeaderChange>>,
    /// Mean of the times until rounds were durable, weighted towards the newest, in microseconds.
    sync_time_us: AtomicU64,
    traces: BlockTraces,
    created: Instant,
    /// Milliseconds after `created` at which the driver turned over last.
    turned_over_ms: AtomicU64,
    refused_log: Throttle,
    dropped_log: Throttle,
    behind_log: Throttle,
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
    halted: Gauge,
}

impl Gauges {
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
        metrics.registry(|registry| {
            let mut raft = Subsystem::new(registry, "raft", chain);
            let gauges = Gauges::new(&mut raft);
            let leader_changes = raft.counter("leader_changes", "Changes of the leader this node knows");
            let elections = raft.counter("elections_started", "Times this node stood for election");
            let gate_refused =
                raft.family("gate_refused", "Messages of peers refused before the protocol saw them");
            let inbox_dropped =
                raft.family("inbox_dropped", "Messages of peers dropped because the inbox was full");
            let matched_lag = raft.family("peer_matched_lag_entries", "Entries a peer lacks; leader only");
            let rounds = raft.counter("rounds", "Rounds of the driver");
            let round_seconds = raft.seconds("round_duration_seconds", "Length of a round of the driver");
            let events = raft.counter("events", "Events handled");
            let proposals = raft.counter("proposals", "Proposals taken into the log");
            let messages_sent = raft.counter("messages_sent", "Messages handed to the transport");
            let entries_committed = raft.counter("entries_committed", "Entries handed to the application");
            let mut storage = Subsystem::new(registry, "storage", chain);
            Self {
                chain: chain.to_owned(),
                name: |id| id.to_string(),
                gauges,
                leader_changes,
                elections,
                gate_refused,
                inbox_dropped,
                matched_lag,
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
                lagging: Mutex::default(),
                changes: Mutex::default(),
                sync_time_us: AtomicU64::new(0),
                traces: BlockTraces::off(),
                created: Instant::now(),
                turned_over_ms: AtomicU64::new(0),
                refused_log: Throttle::new(LOG_EVERY),
                dropped_log: Throttle::new(LOG_EVERY),
                behind_log: Throttle::new(LOG_EVERY),
            }
        })
    }

    /// How long ago the driver turned over. It does so once a second or a tick, whichever is longer, at least.
    pub fn stalled(&self) -> Duration {
        let last = Duration::from_millis(self.turned_over_ms.load(Ordering::Relaxed));
        self.created.elapsed().saturating_sub(last)
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
        self.gauges.is_leader.set(i64::from(role == Role::Leader));
        self.gauges.term.set(term as i64);
    }

    /// Lag of each peer while this node leads; the series of others vanish with leadership.
    fn lag(&self, status: &Status) {
        let mut lagging = self.lagging.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in lagging.iter().filter(|known| status.peers.iter().all(|p| p.node_id != **known)) {
            self.matched_lag.remove(&self.peer(*gone));
        }
        lagging.clear();
        for progress in status.peers.iter().filter(|p| p.node_id != status.node_id) {
            let lag = status.last.saturating_sub(progress.matched);
            self.matched_lag.get_or_create(&self.peer(progress.node_id)).set(lag as i64);
            lagging.push(progress.node_id);
        }
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
            Report::Membership { voters, learners } => {
                tracing::info!(chain = self.chain, ?voters, ?learners, "membership changed");
            }
            Report::Removed => {
                tracing::warn!(chain = self.chain, "this node is no member of the chain any more")
            }
        }
    }

    fn round(&self, stats: RoundStats) {
        self.turned_over_ms.store(self.created.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.rounds.inc();
        self.round_seconds.observe(stats.elapsed.as_secs_f64());
        self.events.inc_by(stats.events as u64);
        self.proposals.inc_by(stats.proposals as u64);
        self.messages_sent.inc_by(stats.messages_sent as u64);
        self.entries_written.inc_by(stats.entries_written as u64);
        self.bytes_written.inc_by(stats.bytes_written);
        self.entries_committed.inc_by(stats.entries_committed as u64);
        self.gauges.inbox_left.set(stats.left as i64);
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
        gauges.is_leader.set(i64::from(status.role == Role::Leader));
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
        gauges.halted.set(i64::from(status.halted.is_some()));
        self.lag(status);
    }

    fn traces(&self) -> BlockTraces {
        self.traces.clone()
    }

    fn halted(&self, reason: &str) {
        self.gauges.halted.set(1);
        tracing::error!(chain = self.chain, reason, "the chain has halted on this node");
    }
}
