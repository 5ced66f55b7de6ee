//! This node's seat: looked for, taken, kept and left.
//!
//! Without a store the node asks the other validators (`founding`) and becomes a founder or, once it is
//! admitted, a newcomer of their group; a node that is no validator only watches its controller. With a
//! store it runs the chain. It leaves its seat, and sets its store aside, when the group has gone on without
//! it or has no chance any more; what it does then begins again from nothing. All of that is decided here
//! and nowhere else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::limits::{Limits, MESSAGE_OVERHEAD_BYTES};
use consensus_core::replica::{ReplicaConfig, Role, SnapshotPolicy};
use consensus_core::storage::group_commit::GroupCommitLimits;
use consensus_core::storage::{LogReader, LogWriter};
use consensus_proto::cita::exchange as wire;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::founding::{HEARD_FRESH, Heard, HeardAll};
use super::group::{Group, Home};
use super::view::CitaView;
use crate::application::controller::agreement::Roster;
use crate::application::controller::{Controller, ControllerApplication, Post};
use crate::chain::{self, ChainHandle, ChainStart, NodeWriter, RunningChain};
use crate::config::CitaConfig;
use crate::config::cita::Reconfigured;
use crate::config::cita::address::peer_ids;
use crate::peer_records::{self, PeerRecorder};
use crate::store_watch::StoreWatch;
use crate::telemetry::metrics::{ChainMetrics, ControllerMetrics, StoreMetrics, WriterMetrics};
use crate::transport::cita::{Exchange, Letter, Mail};

mod keeping;
mod looking;

/// How often a node that looks for its seat asks.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The same once it has asked for a while.
const ASK_SELDOM: Duration = Duration::from_millis(1000);
/// How long a stopping leader waits for another to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(1000);
/// How long a stopping chain waits for its application.
const APPLICATION_PATIENCE: Duration = Duration::from_millis(300);
/// How long the store's last user may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Letters that wait for the application.
const LETTERS_MAX: usize = 1024;
/// Nodes that were heard and are kept in mind at most.
const HEARD_MAX: usize = 1024;
/// Decisions of operators that wait for it.
const COMMANDS_MAX: usize = 16;
/// A snapshot is little more than the newest block; one that is not acknowledged by then is lost.
const SNAPSHOT_TIMEOUT_TICKS: u64 = 50;
/// Bytes that an entry needs beyond its block.
const ENTRY_OVERHEAD_BYTES: u64 = 1024;

/// What a seat is made of.
pub(super) struct Seat {
    pub(super) config: Arc<CitaConfig>,
    pub(super) controller: Arc<dyn Controller>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) letters: mpsc::Receiver<Letter>,
    pub(super) hints: watch::Receiver<Option<Reconfigured>>,
    pub(super) view: Arc<CitaView>,
    pub(super) chain_metrics: Arc<ChainMetrics>,
    pub(super) controller_metrics: ControllerMetrics,
    pub(super) writer_metrics: WriterMetrics,
    pub(super) store_metrics: StoreMetrics,
    pub(super) stop: CancellationToken,
}

/// The bounds that follow from the largest block.
pub(super) fn limits(config: &CitaConfig) -> Limits {
    let entry = config.block_bytes_max + ENTRY_OVERHEAD_BYTES;
    let defaults = Limits::default();
    Limits {
        entry_bytes_max: entry,
        uncommitted_bytes_max: defaults.uncommitted_bytes_max.max(entry),
        apply_backlog_bytes_max: defaults.apply_backlog_bytes_max.max(entry),
        unpersisted_bytes_max: defaults.unpersisted_bytes_max.max(entry),
        // Blocks that are agreed on are kept by the application; this is for peers that lag a little.
        tail_bytes_max: (8 << 20).max(entry),
        ..defaults
    }
}

/// Largest message between two services.
pub(super) fn message_bytes_max(config: &CitaConfig) -> u64 {
    limits(config).message_bytes_max() + MESSAGE_OVERHEAD_BYTES
}

/// Lets the application reach the others.
struct Mailer(Arc<Exchange>);

impl Post for Mailer {
    fn mail(&self, to: NodeId, mail: Mail) {
        self.0.mail(to, mail);
    }

    fn set_roster(&self, roster: &Roster) {
        // A newcomer has none before its snapshot.
        self.0.set_roster((!roster.is_empty()).then(|| roster.clone()));
    }
}

/// What a node does, beside what its seat is made of.
struct Keeper {
    seat: Seat,
    own: NodeId,
    home: Home,
    /// Of the store that this node has or will make.
    incarnation: StoreIncarnation,
    heard: HeardAll,
    /// What this node founded, told to those that have not heard it yet.
    founding: Option<wire::Founding>,
    /// When everybody was asked last.
    announced_at: Option<Instant>,
}

/// A controller's configuration with its validators as members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Known {
    height: u64,
    /// Ascending.
    validators: Vec<NodeId>,
}

impl Seat {
    /// Until the node stops.
    ///
    /// # Errors
    /// Why it cannot go on: a store that cannot be used.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut keeper = Keeper {
            own: self.config.node_id,
            home: Home::new(&self.config.data_dir),
            incarnation: StoreIncarnation(rand::random()),
            heard: HeardAll::new(),
            founding: None,
            announced_at: None,
            seat: self,
        };
        loop {
            let (home, own) = (keeper.home.clone(), keeper.own);
            let group = match blocking(move || home.open(own)).await? {
                Some(group) => group,
                None => match keeper.look_for_seat().await? {
                    Some(group) => group,
                    None => return Ok(()),
                },
            };
            match keeper.sit(group).await? {
                None => return Ok(()),
                Some(reason) => keeper.leave(&reason).await?,
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("work on the data directory panicked")?
}

impl Keeper {
    /// A question, from a node without a seat; what else it may be is set by those that are something else.
    fn hello(&self, known: &Known) -> wire::Hello {
        let validators = known.validators.iter().map(|id| id.get()).collect();
        wire::Hello { validators, height: known.height, ..wire::Hello::default() }
    }

    fn note(&mut self, letter: &Letter) {
        if self.heard.len() >= HEARD_MAX {
            self.heard.retain(|_, heard| heard.at.elapsed() <= HEARD_FRESH);
        }
        if let Mail::Hello(hello) = &letter.mail
            && self.heard.len() < HEARD_MAX
        {
            let heard = Heard {
                at: Instant::now(),
                incarnation: letter.incarnation,
                group: letter.group,
                seated: hello.seated,
                led: hello.led,
                validators: hello.validators.iter().filter_map(|id| NodeId::new(*id)).collect(),
                height: hello.height,
            };
            self.heard.insert(letter.from, heard);
        }
    }

    /// Runs the chain; `None`: the node stops; otherwise why the seat is to be left.
    async fn sit(&mut self, group: Group) -> anyhow::Result<Option<String>> {
        let id = group.id;
        self.incarnation = group.identity.store_incarnation;
        self.seat.exchange.take_seat(self.incarnation, Some(id));
        self.seat.exchange.set_roster(None);
        let (letters, app_letters) = mpsc::channel(LETTERS_MAX);
        let (commands, app_commands) = mpsc::channel(COMMANDS_MAX);
        let store = group.store.clone();
        let writer_metrics = self.seat.writer_metrics.clone();
        let writer =
            NodeWriter::start(store.clone(), self.writer_limits(), move |round| writer_metrics.wrote(round))
                .context("starting the writer")?;
        let running = self.start_chain(&group, &writer, app_letters, app_commands)?;
        drop(group);
        let watch = StoreWatch::start(&store, self.seat.store_metrics.clone());
        let handle = running.handle().clone();
        self.seat.exchange.attach(Some(handle.clone()));
        self.seat.view.seated(id, handle.clone(), commands);
        let recorder =
            PeerRecorder::new(handle.clone(), self.seat.exchange.clone(), writer.chain(handle.id()));
        let recorder = tokio::spawn(peer_records::run(vec![recorder]));
        let reason = self.keep_seat(id, &handle, &letters).await;
        if reason.is_none() {
            hand_over(&handle).await;
        }
        drop(handle);
        recorder.abort();
        // It has the store open until it has ended.
        let _ = recorder.await;
        self.seat.view.unseated();
        running.stop(APPLICATION_PATIENCE).await;
        self.seat.exchange.attach(None);
        self.seat.exchange.take_seat(self.incarnation, None);
        // A blocking task that panicked has nothing to tell.
        let _ = tokio::task::spawn_blocking(move || writer.shutdown()).await;
        watch.stop().await;
        closed(store).await?;
        Ok(reason)
    }

    fn writer_limits(&self) -> GroupCommitLimits {
        let limits = limits(&self.seat.config);
        let defaults = GroupCommitLimits::default();
        GroupCommitLimits {
            queue_batches_max: defaults.queue_batches_max.max(4 * limits.unpersisted_rounds_max),
            queue_bytes_max: defaults.queue_bytes_max.max(4 * limits.unpersisted_bytes_max),
            ..defaults
        }
    }

    fn start_chain(
        &self,
        group: &Group,
        writer: &Arc<NodeWriter>,
        letters: mpsc::Receiver<Letter>,
        commands: mpsc::Receiver<crate::application::controller::Command>,
    ) -> anyhow::Result<RunningChain> {
        let config = &self.seat.config;
        let state = group.store.open_chain(group.identity.chain_id())?;
        let every_entries = config.snapshot_every_entries;
        let replica = ReplicaConfig {
            heartbeat_ticks: config.raft.heartbeat_ticks,
            election_ticks: config.raft.election_ticks,
            election_ticks_min: config.raft.election_ticks_min,
            election_ticks_max: config.raft.election_ticks_max,
            seed: rand::random(),
            snapshots: Some(SnapshotPolicy { every_entries, keep_entries: every_entries }),
            limits: limits(config),
            snapshot_timeout_ticks: SNAPSHOT_TIMEOUT_TICKS,
        };
        let start = ChainStart {
            state,
            replica,
            tick: config.raft.tick,
            reader: group.store.clone() as Arc<dyn LogReader>,
            writer: writer.chain(group.identity.chain_id()),
            transport: self.seat.exchange.transport(),
            observer: self.seat.chain_metrics.clone(),
        };
        let application = ControllerApplication {
            own: self.own,
            controller: self.seat.controller.clone(),
            post: Arc::new(Mailer(self.seat.exchange.clone())),
            letters,
            hints: self.seat.hints.clone(),
            commands,
            status: self.seat.view.controller(),
            metrics: self.seat.controller_metrics.clone(),
            group: group.id,
        };
        let (running, ()) = chain::start(start, |_| Ok::<_, std::convert::Infallible>((application, ())))
            .map_err(|error| anyhow::anyhow!("the consensus state cannot be used: {error}"))?;
        Ok(running)
    }

    /// What the controller has said to the application.
    fn known(&self) -> Known {
        let status = self.seat.view.controller_status();
        let addresses: Vec<Vec<u8>> =
            status.validators.iter().filter_map(|address| hex::decode(address).ok()).collect();
        let mut validators = peer_ids(&addresses).unwrap_or_default();
        validators.sort_unstable();
        Known { height: status.height.unwrap_or(0), validators }
    }

    /// Sets the store aside: the next one is another.
    async fn leave(&mut self, reason: &str) -> anyhow::Result<()> {
        tracing::warn!(reason, "leaving the group: this node's consensus state is set aside");
        let home = self.home.clone();
        blocking(move || home.retire()).await?;
        self.incarnation = StoreIncarnation(rand::random());
        self.founding = None;
        self.heard.clear();
        Ok(())
    }
}

/// A stopping leader lets another lead.
async fn hand_over(handle: &ChainHandle) {
    let status = handle.status();
    if status.role != Role::Leader || status.voters.len() < 2 || status.halted.is_some() {
        return;
    }
    match tokio::time::timeout(TRANSFER_PATIENCE, handle.transfer_leader(None)).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => tracing::warn!(%refusal, "leadership stays"),
        Err(_) => tracing::warn!("nobody took leadership over in time"),
    }
}

/// Waits until nobody else has the store open.
async fn closed<T>(store: Arc<T>) -> anyhow::Result<()> {
    let start = Instant::now();
    while Arc::strong_count(&store) > 1 {
        if start.elapsed() > CLOSE_PATIENCE {
            bail!("the store is still in use after {} s", CLOSE_PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
