//! The Ready contract of the `raft` crate: the only file that knows it.
//!
//! A Ready becomes at most one synced write. Until that write is durable, every message that promises
//! something is held ([`Round::held`]); a leader's appends may leave at once, but only if its term and vote
//! are durable. Rounds become durable in their order.
//!
//! Three rules are not in the crate's documentation and cost data or a panic when broken:
//! * A notice of durability below the last round that replaced a tail is withheld: the crate would take the
//!   replacement for durable ([`Rounds::barrier`]).
//! * A notice is given to the crate before the messages it releases leave, so that no answer to them can be
//!   stepped first.
//! * A Ready with a snapshot is taken alone: nothing else is asked of the crate until it is durable
//!   ([`super::Phase::Installing`]).

use std::collections::VecDeque;

use raft::Ready;
use raft::eraftpb::MessageType;

use super::{CommittedEntry, Effect, Effects, Halt, Installing, Message, Phase, Replica};
use crate::mutant::{self, Mutant};
use crate::reach::reach;
use crate::storage::{Applied, HardState, LogEntry, Snapshot, WriteBatch};

/// The same acknowledgement leaves again after this long.
const REPEAT_TICKS: u64 = 2;

/// A write that is not durable yet.
#[derive(Debug)]
struct Round {
    /// Its number, also that of its Ready.
    number: u64,
    /// The newest Ready without a write of its own that came after it: becomes durable with it.
    report: u64,
    /// The tick in which it was handed to the writer.
    since: u64,
    /// Promises that it makes durable.
    hard_state: HardState,
    /// Index of its first entry.
    first: Option<u64>,
    bytes: u64,
    held: Vec<Message>,
}

/// What became durable.
#[derive(Debug, Default)]
struct Durable {
    /// To be reported to the crate.
    report: u64,
    released: Vec<Message>,
}

/// The writes that are not durable yet, oldest first.
#[derive(Debug)]
pub(super) struct Rounds {
    list: VecDeque<Round>,
    bytes: u64,
    /// The last Ready that replaced a tail or carried a snapshot.
    barrier: u64,
    /// Promises that are durable.
    durable: HardState,
    /// The newest promises, durable or not.
    latest: HardState,
    /// `latest` has a commit index that no write carries yet.
    commit_pending: bool,
    acknowledged: Acknowledged,
}

/// The last acknowledgement that left.
#[derive(Debug, Default)]
struct Acknowledged {
    to: u64,
    term: u64,
    index: u64,
    tick: u64,
}

impl Acknowledged {
    /// A leader tells of each commit with an append without entries, and the crate answers it with the
    /// acknowledgement that has just left. It is repeated only after a while, in case the first one was lost.
    fn drop_repetitions(&mut self, messages: &mut Vec<Message>, tick: u64) {
        messages.retain(|message| {
            if message.get_msg_type() != MessageType::MsgAppendResponse || message.reject {
                return true;
            }
            let same = (message.to, message.term, message.index) == (self.to, self.term, self.index);
            let soon = tick < self.tick + REPEAT_TICKS || mutant::is(Mutant::AcknowledgementNeverRepeated);
            if same && soon {
                reach!(AcknowledgementNotRepeated);
                return false;
            }
            let Message { to, term, index, .. } = *message;
            *self = Self { to, term, index, tick };
            true
        });
    }
}

impl Rounds {
    pub(super) fn new(durable: HardState) -> Self {
        Self {
            list: VecDeque::new(),
            bytes: 0,
            barrier: 0,
            durable,
            latest: durable,
            commit_pending: false,
            acknowledged: Acknowledged::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The tick since which the oldest is under way.
    pub(super) fn oldest_since(&self) -> Option<u64> {
        self.list.front().map(|round| round.since)
    }

    /// Everything below is visible in the store.
    fn stored_below(&self) -> Option<u64> {
        self.list.iter().filter_map(|round| round.first).min()
    }

    /// Takes the rounds up to `number`.
    fn durable_to(&mut self, number: u64) -> Durable {
        let mut durable = Durable::default();
        while let Some(mut round) = self.list.pop_front_if(|round| round.number <= number) {
            self.bytes -= round.bytes;
            self.durable = round.hard_state;
            durable.report = round.report;
            durable.released.append(&mut round.held);
        }
        durable
    }
}

impl Replica {
    /// Takes Readys until there is none, or until something must become durable first.
    pub(super) fn take_readys(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        while self.raw.has_ready() {
            let full = self.rounds.len() >= self.config.limits.unpersisted_rounds_max
                || self.rounds.bytes >= self.config.limits.unpersisted_bytes_max;
            if full && !mutant::is(Mutant::WriterUnbounded) {
                reach!(WriterQueueFull);
                break;
            }
            if self.raw.snap().is_some() && !self.rounds.is_empty() {
                reach!(SnapshotWaitedForRounds);
                break;
            }
            let full = self.backlog_full();
            self.raw.mut_store().set_hold_back(full);
            let ready = self.raw.ready();
            if full && is_empty(&ready) {
                reach!(CommittedHeldBack);
                self.raw.advance_append_async(ready);
                break;
            }
            if !ready.snapshot().is_empty() {
                self.take_snapshot_ready(ready, effects);
                break;
            }
            self.take_ready(ready, effects)?;
            self.pin();
        }
        Ok(())
    }

    fn take_ready(&mut self, mut ready: Ready, effects: &mut Effects) -> Result<(), Halt> {
        let number = ready.number();
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        if let Some(hard_state) = ready.hs() {
            self.rounds.latest = hard_state.into();
            self.rounds.commit_pending = true;
        }
        let committed = ready.take_committed_entries();
        let mut early = ready.take_messages();
        let mut held = ready.take_persisted_messages();
        if mutant::is(Mutant::PromisesNotHeld) {
            early.append(&mut held);
        }
        self.snapshots.note_sent(&early, self.ticks);
        if !self.promises_durable() && !mutant::is(Mutant::LeaderSpeaksEarly) {
            reach!(LeaderHeldItsTongue, !early.is_empty());
            // A leader may speak in its term only when the term and its vote for itself are durable.
            held.append(&mut early);
        }
        if ready.must_sync() {
            let entries: Vec<LogEntry> = ready.take_entries().into_iter().map(LogEntry::from).collect();
            send(early, effects);
            self.persist(number, entries, held, effects);
            self.raw.advance_append_async(ready);
        } else if let Some(last) = self.rounds.list.back_mut() {
            reach!(ReadyRodeOnEarlierWrite, !held.is_empty());
            last.report = number;
            last.held.append(&mut held);
            send(early, effects);
            self.raw.advance_append_async(ready);
        } else {
            early.append(&mut held);
            self.rounds.acknowledged.drop_repetitions(&mut early, self.ticks);
            send(early, effects);
            self.raw.advance_append_async(ready);
            self.raw.on_persist_ready(number);
        }
        self.hand_out(committed, effects)
    }

    fn promises_durable(&self) -> bool {
        let durable = &self.rounds.durable;
        self.raw.raft.term == durable.term && self.rounds.latest.vote == durable.vote
    }

    fn persist(&mut self, number: u64, entries: Vec<LogEntry>, held: Vec<Message>, effects: &mut Effects) {
        let replaced = self.raw.mut_store().append(&entries);
        if replaced.is_some() {
            reach!(TailReplaced);
            reach!(TailReplacedUnderWay, self.rounds.list.iter().any(|round| round.first.is_some()));
            self.rounds.barrier = number;
        }
        let mut batch = WriteBatch::new(self.chain);
        batch.number = number;
        batch.sync = true;
        batch.truncate_from = replaced.filter(|_| !mutant::is(Mutant::ReplacedTailKept));
        batch.hard_state = Some(self.rounds.latest);
        batch.applied = self.take_pending_applied();
        self.rounds.commit_pending = false;
        let round = Round {
            number,
            report: number,
            since: self.ticks,
            hard_state: self.rounds.latest,
            first: entries.first().map(|entry| entry.index),
            bytes: entries.iter().map(|entry| entry.data.len() as u64).sum(),
            held,
        };
        batch.entries = entries;
        if mutant::is(Mutant::PayloadNotStored) && self.role() != super::Role::Leader {
            batch
                .entries
                .iter_mut()
                .filter(|entry| entry.index % 8 == 0)
                .for_each(|entry| entry.data.clear());
        }
        if mutant::is(Mutant::CommitSavedBeforeLog) {
            let hard_state = batch.hard_state.take();
            effects.push(Effect::Persist { batch: WriteBatch { hard_state, ..WriteBatch::new(self.chain) } });
        }
        self.rounds.bytes += round.bytes;
        self.rounds.list.push_back(round);
        effects.push(Effect::Persist { batch });
    }

    /// What needs no sync and found no synced write to ride with.
    pub(super) fn persist_lazily(&mut self, effects: &mut Effects) {
        if self.has_lazy_write() {
            reach!(WrittenLazily);
            let batch = self.lazy_batch();
            effects.push(Effect::Persist { batch });
        }
    }

    /// Whether there is something that the next tick writes.
    pub(super) fn has_lazy_write(&self) -> bool {
        self.applied_pending || self.rounds.commit_pending
    }

    /// A batch that needs no sync, with the newest promises and the applied index.
    pub(super) fn lazy_batch(&mut self) -> WriteBatch {
        let mut batch = WriteBatch::new(self.chain);
        batch.hard_state = Some(self.rounds.latest);
        batch.applied = self.take_pending_applied();
        self.rounds.commit_pending = false;
        batch
    }

    fn take_pending_applied(&mut self) -> Option<Applied> {
        if !std::mem::take(&mut self.applied_pending) {
            return None;
        }
        let early = mutant::is(Mutant::AppliedSavedBeforeApplication);
        let index = if early { self.handed_out } else { self.applied };
        Some(Applied { index, conf_state: self.raw.store().conf_state().clone() })
    }

    pub(super) fn on_persisted(&mut self, number: u64, effects: &mut Effects) {
        if let Phase::Installing(installing) = &self.phase
            && installing.ready.number() <= number
        {
            self.snapshot_durable(effects);
            return;
        }
        let durable = self.rounds.durable_to(number);
        let stored = self.rounds.stored_below().map_or(u64::MAX, |first| first - 1);
        self.raw.mut_store().stored_to(stored);
        let replaced = durable.report < self.rounds.barrier && !mutant::is(Mutant::LateNoticeCounts);
        if durable.report > 0 && !replaced {
            self.raw.on_persist_ready(durable.report);
            self.pin();
        }
        reach!(NoticeWithheld, durable.report > 0 && durable.report < self.rounds.barrier);
        let mut released = durable.released;
        self.rounds.acknowledged.drop_repetitions(&mut released, self.ticks);
        send(released, effects);
    }

    fn hand_out(&mut self, committed: Vec<raft::eraftpb::Entry>, effects: &mut Effects) -> Result<(), Halt> {
        if committed.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(committed.len());
        for entry in committed {
            let entry = LogEntry::from(entry);
            if entry.index != self.handed_out + 1 {
                return Err(Halt(format!(
                    "committed entry {} follows {}: the log has a gap",
                    entry.index, self.handed_out
                )));
            }
            self.handed_out = entry.index;
            if mutant::is(Mutant::CommittedEntrySkipped) && self.backlog.bytes() > 0 {
                continue;
            }
            self.backlog.push(&entry);
            self.membership.committed(&entry);
            let ticket = self.proposals.committed(&entry, effects);
            entries.push(CommittedEntry { entry, ticket });
        }
        effects.push(Effect::Apply { entries });
        Ok(())
    }

    fn take_snapshot_ready(&mut self, mut ready: Ready, effects: &mut Effects) {
        let snapshot = Snapshot::from(ready.snapshot().clone());
        if let Some(hard_state) = ready.hs() {
            self.rounds.latest = hard_state.into();
        }
        let entries: Vec<LogEntry> = ready.take_entries().into_iter().map(LogEntry::from).collect();
        let mut held = ready.take_messages();
        held.append(&mut ready.take_persisted_messages());
        if mutant::is(Mutant::SnapshotAcknowledgedEarly) {
            send(std::mem::take(&mut held), effects);
        }
        reach!(SnapshotReplacedLongerLog, self.handed_out > 0);
        self.raw.mut_store().install(&snapshot);
        self.raw.mut_store().append(&entries);
        let mut batch = WriteBatch::new(self.chain);
        batch.number = ready.number();
        batch.sync = true;
        batch.install = Some(snapshot.clone());
        batch.hard_state = Some(self.rounds.latest);
        batch.entries = entries;
        self.rounds.barrier = ready.number();
        self.rounds.commit_pending = false;
        self.applied_pending = false;
        self.heard.forget_commit(self.ticks);
        self.phase = Phase::Installing(Box::new(Installing { ready, held, snapshot }));
        effects.push(Effect::Persist { batch });
    }

    /// The received snapshot is durable: the crate goes on at once, the application is told to follow.
    fn snapshot_durable(&mut self, effects: &mut Effects) {
        let Phase::Installing(installing) = std::mem::replace(&mut self.phase, Phase::Running) else {
            return;
        };
        let Installing { ready, held, snapshot } = *installing;
        let (number, index) = (ready.number(), snapshot.position.index);
        self.rounds.durable = self.rounds.latest;
        self.raw.advance_append_async(ready);
        self.raw.on_persist_ready(number);
        self.raw.advance_apply_to(index);
        self.pin();
        self.applied = index;
        self.handed_out = index;
        self.backlog.clear();
        self.membership.clear();
        // Only the acknowledgement waits for the application; what else was promised is durable now.
        let (held, now) =
            held.into_iter().partition(|message| message.get_msg_type() == MessageType::MsgAppendResponse);
        send(now, effects);
        self.phase = Phase::CatchingUp { index, held };
        effects.push(Effect::InstallSnapshot { snapshot });
    }
}

/// Whether a Ready asks for nothing: committed entries that are held back make the crate offer such ones.
fn is_empty(ready: &Ready) -> bool {
    ready.ss().is_none()
        && ready.hs().is_none()
        && ready.read_states().is_empty()
        && ready.entries().is_empty()
        && ready.snapshot().is_empty()
        && ready.committed_entries().is_empty()
        && ready.messages().is_empty()
        && ready.persisted_messages().is_empty()
}

pub(super) fn send(messages: Vec<Message>, effects: &mut Effects) {
    if !messages.is_empty() {
        effects.push(Effect::Send { messages });
    }
}
