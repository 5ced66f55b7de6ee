//! What waits for a chain's driver, bounded in count and bytes.
//!
//! One short lock for each batch that arrives and one for each round that is taken. What can be merged is
//! merged while it waits: durable and applied positions are numbers, reads of one round share one answer,
//! a peer's reports are a set. Messages of peers that do not fit are dropped and counted; requests that do
//! not fit are refused. Nobody ever waits here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::limits::Limits;
use consensus_core::replica::{Control, Message, PeerReport, Proposal, Refusal};
use tokio::sync::{Notify, oneshot};

/// Messages of peers that wait at most; those that carry entries or a snapshot may fill half of it.
const MESSAGES_MAX: usize = 8192;
/// Callers of `read_index` that wait at most for the next round.
const READS_MAX: usize = 65_536;
/// Control commands that wait at most.
const CONTROLS_MAX: usize = 64;
/// Reports about peers that wait at most: far more than three kinds for each peer of a large chain.
const REPORTS_MAX: usize = 1024;
/// What an entry costs beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// Where the answer to a read goes.
pub(super) type ReadAnswer = oneshot::Sender<Result<u64, Refusal>>;
/// Where the answer to a control command goes.
pub(super) type ControlAnswer = oneshot::Sender<Result<(), Refusal>>;

/// The queue between everybody and the driver.
#[derive(Debug)]
pub(super) struct Inbox {
    durable: AtomicU64,
    queue: Mutex<Queue>,
    wake: Notify,
    message_bytes_max: u64,
    proposals_max: usize,
    proposal_bytes_max: u64,
}

/// Everything that waits.
#[derive(Debug, Default)]
struct Queue {
    waiting: Waiting,
    message_bytes: u64,
    proposal_bytes: u64,
    closed: Option<Refusal>,
    ended: bool,
}

/// What a round takes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) messages: VecDeque<(NodeId, Message)>,
    pub(super) proposals: Vec<Proposal>,
    pub(super) applied: Option<u64>,
    pub(super) snapshot_built: Option<(u64, Option<Bytes>)>,
    pub(super) snapshot_installed: Option<u64>,
    pub(super) reads: Vec<ReadAnswer>,
    pub(super) controls: Vec<(Control, ControlAnswer)>,
    pub(super) reports: Vec<(NodeId, PeerReport)>,
    pub(super) failure: Option<String>,
    pub(super) stop: Vec<oneshot::Sender<()>>,
    /// Messages left for the next round.
    pub(super) left: usize,
}

impl Inbox {
    /// An empty one, sized by the replica's limits.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            durable: AtomicU64::new(0),
            queue: Mutex::default(),
            wake: Notify::new(),
            message_bytes_max: limits.unpersisted_bytes_max.max(limits.message_bytes_max()),
            proposals_max: limits.inflight_proposals_max,
            proposal_bytes_max: limits.uncommitted_bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held; a poisoned queue would still be whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue unless it is closed, then wakes the driver.
    fn put<T>(&self, change: impl FnOnce(&mut Queue) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let outcome = {
            let mut queue = self.lock();
            match &queue.closed {
                Some(refusal) => return Err(refusal.clone()),
                None => change(&mut queue)?,
            }
        };
        self.wake.notify_one();
        Ok(outcome)
    }

    /// The writer's news: everything up to `number` is durable.
    pub(super) fn persisted(&self, number: u64) {
        self.durable.fetch_max(number, Ordering::Release);
        self.wake.notify_one();
    }

    /// The highest number that is durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Something the chain depends on has failed for good; the first reason stays.
    pub(super) fn fail(&self, reason: String) {
        self.lock().waiting.failure.get_or_insert(reason);
        self.wake.notify_one();
    }

    /// Takes messages while they fit; returns how many did not. A closed inbox takes none, and that is no news.
    pub(super) fn messages(&self, from: NodeId, messages: Vec<Message>) -> usize {
        let count = messages.len();
        let taken = self.put(|queue| {
            let mut taken = 0;
            for message in messages {
                let bytes = message_bytes(&message);
                let heavy = bytes > 0;
                let room = if heavy { MESSAGES_MAX / 2 } else { MESSAGES_MAX };
                let fits = !heavy || queue.message_bytes + bytes <= self.message_bytes_max;
                if queue.waiting.messages.len() < room && fits {
                    queue.message_bytes += bytes;
                    queue.waiting.messages.push_back((from, message));
                    taken += 1;
                }
            }
            Ok(taken)
        });
        taken.map_or(0, |taken| count - taken)
    }

    /// Proposals for the next round, all or none.
    pub(super) fn propose(&self, proposals: Vec<Proposal>) -> Result<(), Refusal> {
        let bytes: u64 = proposals.iter().map(|p| p.data.len() as u64).sum();
        self.put(|queue| {
            let count = queue.waiting.proposals.len();
            if count + proposals.len() > self.proposals_max {
                return Err(overloaded("the queue of proposals", self.proposals_max as u64));
            }
            if count > 0 && queue.proposal_bytes + bytes > self.proposal_bytes_max {
                return Err(overloaded("the queue of proposals in bytes", self.proposal_bytes_max));
            }
            queue.proposal_bytes += bytes;
            if count == 0 {
                queue.waiting.proposals = proposals;
            } else {
                queue.waiting.proposals.extend(proposals);
            }
            Ok(())
        })
    }

    /// The application has taken everything up to `index`.
    pub(super) fn applied(&self, index: u64) {
        let _ = self.put(|queue| {
            queue.waiting.applied = queue.waiting.applied.max(Some(index));
            Ok(())
        });
    }

    /// The application's snapshot.
    pub(super) fn snapshot_built(&self, index: u64, data: Option<Bytes>) {
        let _ = self.put(|queue| {
            queue.waiting.snapshot_built = Some((index, data));
            Ok(())
        });
    }

    /// The application has the state of a received snapshot.
    pub(super) fn snapshot_installed(&self, index: u64) {
        let _ = self.put(|queue| {
            queue.waiting.snapshot_installed = Some(index);
            Ok(())
        });
    }

    /// A caller that wants to know which index a linearizable read must see.
    pub(super) fn read(&self, answer: ReadAnswer) -> Result<(), Refusal> {
        self.put(|queue| {
            if queue.waiting.reads.len() >= READS_MAX {
                return Err(overloaded("the queue of reads", READS_MAX as u64));
            }
            queue.waiting.reads.push(answer);
            Ok(())
        })
    }

    /// A command.
    pub(super) fn control(&self, control: Control, answer: ControlAnswer) -> Result<(), Refusal> {
        self.put(|queue| {
            if queue.waiting.controls.len() >= CONTROLS_MAX {
                return Err(overloaded("the queue of control commands", CONTROLS_MAX as u64));
            }
            queue.waiting.controls.push((control, answer));
            Ok(())
        })
    }

    /// What a transport learnt; a repetition of what waits already is merged with it.
    pub(super) fn report(&self, peer: NodeId, report: PeerReport) {
        let _ = self.put(|queue| {
            let reports = &mut queue.waiting.reports;
            if !reports.contains(&(peer, report)) && reports.len() < REPORTS_MAX {
                reports.push((peer, report));
            }
            Ok(())
        });
    }

    /// Asks the driver to end; the sender resolves (or is dropped) when it has.
    pub(super) fn stop(&self, done: oneshot::Sender<()>) {
        let mut queue = self.lock();
        if !queue.ended {
            queue.waiting.stop.push(done);
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Refuses everything but `stop` from now on and takes what waits.
    pub(super) fn close(&self, refusal: Refusal) -> Waiting {
        let mut queue = self.lock();
        queue.closed = Some(refusal);
        std::mem::take(&mut queue.waiting)
    }

    /// Nobody takes anything any more.
    pub(super) fn end(&self) -> Waiting {
        self.lock().ended = true;
        self.close(Refusal::Halted)
    }

    /// Resolves when something waits that has not been announced before.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes what waits: everything merged, and at most `messages_max` messages.
    pub(super) fn take(&self, messages_max: usize) -> Waiting {
        let mut queue = self.lock();
        queue.proposal_bytes = 0;
        let mut taken = std::mem::take(&mut queue.waiting);
        if taken.messages.len() <= messages_max {
            queue.message_bytes = 0;
            return taken;
        }
        queue.waiting.messages = taken.messages.split_off(messages_max);
        let bytes: u64 = taken.messages.iter().map(|(_, m)| message_bytes(m)).sum();
        queue.message_bytes = queue.message_bytes.saturating_sub(bytes);
        taken.left = queue.waiting.messages.len();
        taken
    }
}

fn overloaded(what: &'static str, bound: u64) -> Refusal {
    Refusal::Overloaded { what, bound }
}

/// Payload of a message as the queue counts it; 0 for those that carry neither entries nor a snapshot.
fn message_bytes(message: &Message) -> u64 {
    let entries: u64 = message
        .get_entries()
        .iter()
        .map(|e| (e.get_data().len() + e.get_context().len()) as u64 + ENTRY_OVERHEAD_BYTES)
        .sum();
    entries + message.get_snapshot().get_data().len() as u64
}

#[cfg(test)]
mod tests {
    use consensus_core::replica::eraftpb::Entry;

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    fn append(bytes: usize) -> Message {
        let entry = Entry { data: vec![0; bytes].into(), ..Entry::default() };
        let mut message = Message::default();
        message.set_entries(vec![entry].into());
        message
    }

    #[test]
    fn appends_beyond_the_bound_are_dropped_and_heartbeats_still_pass() {
        let limits = Limits::default();
        let inbox = Inbox::new(&limits);
        let big = (limits.unpersisted_bytes_max - ENTRY_OVERHEAD_BYTES) as usize;
        assert_eq!(inbox.messages(node(2), vec![append(big)]), 0, "exactly the bound fits");
        assert_eq!(inbox.messages(node(2), vec![append(1), Message::default()]), 1, "one byte more does not");
        assert_eq!(inbox.take(256).messages.len(), 2);
        assert_eq!(inbox.messages(node(2), vec![append(big)]), 0, "what was taken made room");
    }

    #[test]
    fn a_flood_of_small_messages_is_bounded_by_count() {
        let inbox = Inbox::new(&Limits::default());
        let flood = vec![Message::default(); MESSAGES_MAX + 10];
        assert_eq!(inbox.messages(node(2), flood), 10);
        let taken = inbox.take(256);
        assert_eq!((taken.messages.len(), taken.left), (256, MESSAGES_MAX - 256));
    }

    #[test]
    fn repeated_reports_and_positions_are_merged() {
        let inbox = Inbox::new(&Limits::default());
        for _ in 0..3 {
            inbox.report(node(2), PeerReport::Unreachable);
            inbox.report(node(3), PeerReport::SnapshotFailed);
        }
        inbox.applied(7);
        inbox.applied(5);
        let taken = inbox.take(256);
        assert_eq!(taken.reports.len(), 2);
        assert_eq!(taken.applied, Some(7));
    }

    #[test]
    fn a_closed_inbox_refuses_with_its_reason() {
        let inbox = Inbox::new(&Limits::default());
        inbox.close(Refusal::Halted);
        assert_eq!(inbox.propose(Vec::new()), Err(Refusal::Halted));
        assert_eq!(inbox.messages(node(2), vec![Message::default()]), 0, "it is not full");
    }
}
