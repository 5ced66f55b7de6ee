//! One peer of the exchange, and the task that hands over what waits for it.
//!
//! The task is there while something waits, and for a while after. A carrier that hangs or fails holds up
//! only its own peer: what waits is lost then, because it is stale by the time the way is open again, which
//! is reported once for each outage, and the next attempt is made after a jittered back-off. An outage is over when
//! something is taken, or when nothing was due for a while: whether the way is broken is not known then. Every
//! snapshot message gets exactly one report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::{Message, PeerReport};
use tokio::sync::Notify;

use super::envelope::{Seat, Stamp};
use super::lanes::{Cargo, Packer, Waiting};
use super::sessions::Sessions;
use super::{Core, Mail};
use crate::config::cita::address::Short;
use crate::telemetry::metrics::{DropCause, PeerSeries};
use crate::telemetry::unix_time_ms;
use crate::transport::connect::Backoff;

/// A carrier that has not taken an envelope by then counts as failed.
pub(super) const CARRY_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait between attempts during an outage; short, because an election waits with them.
const BACKOFF_LAST: Duration = Duration::from_millis(400);
/// A task that had nothing to do for as long as so many attempts may take ends.
pub(super) const IDLE_ATTEMPTS: u32 = 10;

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    node: NodeId,
    waiting: Waiting,
    wake: Notify,
    packer: Mutex<Packer>,
    heard: Mutex<Heard>,
    last_heard_ms: AtomicU64,
    /// When it was last spoken to or heard, on the exchange's own count.
    touched: AtomicU64,
    out: AtomicBool,
    series: PeerSeries,
}

/// What a peer's envelopes told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) sessions: Sessions,
    /// The address that it is reached at, where it is not its id.
    pub(super) origin: Option<u64>,
    /// The seat that it spoke from last.
    pub(super) seat: Option<Seat>,
    /// The store that it led from, if the roster named another one.
    pub(super) led: Option<Led>,
    /// The store from which it last asked for a vote: the answer is for that one.
    pub(super) asked: Option<StoreIncarnation>,
}

/// A leader's store that the roster did not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Led {
    /// The store that the roster had instead.
    pub(super) admitted: StoreIncarnation,
    pub(super) store: StoreIncarnation,
}

impl Peer {
    /// Numbers go on after `sequence`.
    pub(super) fn new(node: NodeId, sequence: u64, series: PeerSeries) -> Self {
        // Until something is not taken.
        series.connected.set(1);
        Self {
            node,
            waiting: Waiting::default(),
            wake: Notify::new(),
            packer: Mutex::new(Packer::new(node, sequence)),
            heard: Mutex::default(),
            last_heard_ms: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            out: AtomicBool::new(false),
            series,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn series(&self) -> &PeerSeries {
        &self.series
    }

    /// What its envelopes told.
    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while the lock is held.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packer(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last number that an envelope for it had.
    pub(super) fn sequence(&self) -> u64 {
        self.packer().sequence()
    }

    /// An envelope of it was accepted.
    pub(super) fn on_heard(&self) {
        self.last_heard_ms.store(unix_time_ms(), Ordering::Relaxed);
    }

    /// Unix time in milliseconds; 0: never.
    pub(super) fn last_heard_ms(&self) -> u64 {
        self.last_heard_ms.load(Ordering::Relaxed)
    }

    /// Whether nothing can be handed over for it.
    pub(super) fn out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self, count: u64) {
        self.touched.store(count, Ordering::Relaxed);
    }

    pub(super) fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }

    /// Whether a task sends to it.
    pub(super) fn attended(&self) -> bool {
        self.waiting.lock().attended
    }

    /// The address that it is reached at.
    pub(super) fn origin(&self) -> u64 {
        self.heard().origin.unwrap_or(self.node.get())
    }

    /// The store to address Raft messages to: the roster's, unless the node has led from another one since the
    /// roster had that; for a node that it does not have the one that it spoke from last in this group.
    pub(super) fn store(
        &self,
        seat: Seat,
        roster: Option<&BTreeMap<NodeId, StoreIncarnation>>,
    ) -> Option<StoreIncarnation> {
        let known = roster.and_then(|roster| roster.get(&self.node).copied());
        let heard = self.heard();
        match known {
            Some(known) => Some(heard.led.filter(|led| led.admitted == known).map_or(known, |led| led.store)),
            None => heard.seat.filter(|heard| heard.group == seat.group).map(|heard| heard.incarnation),
        }
    }

    fn gauge(&self, (messages, bytes): (usize, u64)) {
        self.series.queue_messages.set(messages as i64);
        self.series.queue_bytes.set(bytes as i64);
    }

    /// Queues Raft messages, in order. Never waits.
    pub(super) fn push_raft(
        self: &Arc<Self>,
        core: &Arc<Core>,
        messages: impl IntoIterator<Item = Message>,
        stamp: impl Fn(&Message) -> Stamp,
    ) {
        let mut lost = Lost::default();
        let begin = {
            let mut lanes = self.waiting.lock();
            let stopped = core.stop.is_cancelled();
            for message in messages {
                let stamp = stamp(&message);
                let mut cargo = Cargo::default();
                cargo.add_raft(&message, stamp);
                let pushed = if stopped {
                    Err(DropCause::Disconnected)
                } else {
                    lanes.push_raft(&core.config, message, stamp)
                };
                if let Err(cause) = pushed {
                    lost.add(cause, cargo);
                }
            }
            self.gauge(lanes.size());
            !stopped && !std::mem::replace(&mut lanes.attended, !stopped)
        };
        self.attend(core, begin);
        if lost.any() {
            self.on_lost(core, lost);
        }
    }

    /// Queues mail. Never waits.
    pub(super) fn push_mail(self: &Arc<Self>, core: &Arc<Core>, mail: Mail, stamp: Stamp) {
        let (begin, pushed) = {
            let mut lanes = self.waiting.lock();
            let stopped = core.stop.is_cancelled();
            let pushed = if stopped {
                Err(DropCause::Disconnected)
            } else {
                lanes.push_mail(&core.config, mail, stamp)
            };
            self.gauge(lanes.size());
            (!stopped && !std::mem::replace(&mut lanes.attended, !stopped), pushed)
        };
        self.attend(core, begin);
        if let Err(cause) = pushed {
            self.series.dropped(cause, 1);
        }
    }

    fn attend(self: &Arc<Self>, core: &Arc<Core>, begin: bool) {
        if begin {
            tokio::spawn(run(core.clone(), self.clone()));
        } else {
            self.wake.notify_one();
        }
    }

    fn on_lost(&self, core: &Core, lost: Lost) {
        self.series.dropped(DropCause::QueueFull, lost.full.messages);
        self.series.dropped(DropCause::TooLarge, lost.too_large.messages);
        self.series.dropped(DropCause::Disconnected, lost.down.messages);
        let full = lost.full.messages + lost.too_large.messages > 0;
        for cargo in [lost.full, lost.too_large, lost.down] {
            core.report_snapshots(self.node, &cargo.snapshots, PeerReport::SnapshotFailed);
        }
        if full {
            core.report(self.node, PeerReport::Unreachable);
        }
    }

    /// Whether there may be more to send; false: the task ends.
    async fn wait(&self, core: &Core) -> bool {
        tokio::select! {
            () = core.stop.cancelled() => {}
            () = self.wake.notified() => return true,
            () = tokio::time::sleep(core.carry_timeout * IDLE_ATTEMPTS) => {}
        }
        let mut lanes = self.waiting.lock();
        lanes.attended = lanes.size().0 > 0 && !core.stop.is_cancelled();
        if !lanes.attended && self.out.swap(false, Ordering::Relaxed) {
            self.series.connected.set(1);
        }
        lanes.attended
    }

    fn on_carried(&self, core: &Core, cargo: &Cargo, piece: bool) {
        self.series.sent_frames.inc();
        self.series.sent_messages.inc_by(cargo.messages);
        if piece {
            core.metrics.part_sent();
        }
        core.report_snapshots(self.node, &cargo.snapshots, PeerReport::SnapshotDelivered);
        if self.out.swap(false, Ordering::Relaxed) {
            tracing::info!(peer = %Short(self.node), "messages for a peer are taken again");
        }
        self.series.connected.set(1);
    }

    /// A parcel failed, or the exchange stops: what it held, and everything that waits, is lost.
    fn give_up(&self, core: &Core, cargo: &Cargo) {
        let waited = self.packer().clear(&self.waiting);
        self.gauge((0, 0));
        self.series.dropped(DropCause::Disconnected, cargo.messages + waited.messages);
        for lost in [cargo, &waited] {
            core.report_snapshots(self.node, &lost.snapshots, PeerReport::SnapshotFailed);
        }
    }

    fn on_failed(&self, core: &Core, why: &str) {
        if self.out.swap(true, Ordering::Relaxed) {
            tracing::debug!(peer = %Short(self.node), why, "messages for a peer are still not taken");
            return;
        }
        tracing::warn!(peer = %Short(self.node), why, "messages for a peer are not taken, trying again");
        self.series.connected.set(0);
        core.metrics.outage();
        core.report(self.node, PeerReport::Unreachable);
    }
}

/// What did not fit, by cause.
#[derive(Debug, Default)]
struct Lost {
    full: Cargo,
    too_large: Cargo,
    down: Cargo,
}

impl Lost {
    fn add(&mut self, cause: DropCause, cargo: Cargo) {
        let lost = match cause {
            DropCause::QueueFull => &mut self.full,
            DropCause::TooLarge => &mut self.too_large,
            DropCause::Disconnected => &mut self.down,
        };
        lost.append(cargo);
    }

    fn any(&self) -> bool {
        self.full.messages + self.too_large.messages + self.down.messages > 0
    }
}

/// Hands over what waits for a peer until there was nothing for a while.
async fn run(core: Arc<Core>, peer: Arc<Peer>) {
    let mut backoff = Backoff::up_to(BACKOFF_LAST);
    while !core.stop.is_cancelled() {
        let parcel = peer.packer().next(&core.config, &peer.waiting);
        let Some(parcel) = parcel else {
            if peer.wait(&core).await {
                continue;
            }
            return;
        };
        let size = peer.waiting.lock().size();
        peer.gauge(size);
        let carried = carry(&core, &peer, parcel.envelope).await;
        if let Err(why) = carried {
            peer.give_up(&core, &parcel.cargo);
            if core.stop.is_cancelled() {
                return;
            }
            peer.on_failed(&core, &why);
            tokio::select! {
                () = core.stop.cancelled() => {}
                () = tokio::time::sleep(backoff.wait()) => {}
            }
        } else {
            peer.on_carried(&core, &parcel.cargo, parcel.piece);
            backoff.reset();
        }
    }
    peer.give_up(&core, &Cargo::default());
}

async fn carry(core: &Core, peer: &Peer, envelope: Bytes) -> Result<(), String> {
    let carried = core.carrier.carry(peer.node, peer.origin(), envelope);
    tokio::select! {
        () = core.stop.cancelled() => Err("stopped".to_owned()),
        carried = tokio::time::timeout(core.carry_timeout, carried) => match carried {
            Ok(carried) => carried,
            Err(_) => Err(format!("not taken within {} ms", core.carry_timeout.as_millis())),
        },
    }
}
