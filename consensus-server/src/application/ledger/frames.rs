//! What waits for the ledger's task: frames of submitted transactions and questions about them.
//!
//! A frame is whatever a client (or a forwarding node) sent at once; it is answered at once, so nothing is
//! paid for a transaction that can be paid for its frame. The queue is bounded in transactions and bytes
//! and refuses what does not fit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use consensus_proto::ordering::{Acknowledgement, Outcome};
use consensus_proto::records::Transaction;
use tokio::sync::{Notify, oneshot};

use super::TransactionState;
use crate::telemetry::trace::TraceContext;

/// What a transaction costs beside its payload and id.
const TRANSACTION_OVERHEAD_BYTES: u64 = 64;
/// Questions that wait at most.
const QUESTIONS_MAX: usize = 4096;

/// Transactions that came together and are answered together.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) transactions: Vec<Transaction>,
    pub(super) acknowledgement: Acknowledgement,
    /// The span above, if the frame is sampled.
    pub(super) trace: Option<TraceContext>,
    pub(super) answer: oneshot::Sender<Vec<Outcome>>,
}

/// Where a transaction is, as the task knows it: its queue, what is in flight, and the window of ids.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: Bytes,
    pub(super) answer: oneshot::Sender<Option<TransactionState>>,
}

/// Why a frame was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The queue is full: what, and its bound.
    Full(&'static str, u64),
    /// The node stops.
    Closed,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Frames {
    queue: Mutex<Queue>,
    wake: Notify,
    transactions_max: usize,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    questions: Vec<Question>,
    transactions: usize,
    bytes: u64,
    closed: bool,
}

impl Frames {
    pub(super) fn new(transactions_max: usize, bytes_max: u64) -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), transactions_max, bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame if it fits beside what waits; a frame above the bounds passes alone.
    pub(super) fn push(&self, frame: Frame) -> Result<(), NotTaken> {
        let (count, bytes) = (frame.transactions.len(), frame_bytes(&frame));
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(NotTaken::Closed);
            }
            if queue.transactions > 0 {
                if queue.transactions + count > self.transactions_max {
                    return Err(NotTaken::Full("transactions", self.transactions_max as u64));
                }
                if queue.bytes + bytes > self.bytes_max {
                    return Err(NotTaken::Full("bytes", self.bytes_max));
                }
            }
            queue.transactions += count;
            queue.bytes += bytes;
            queue.frames.push_back(frame);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Takes a question if not too many wait.
    pub(super) fn ask(&self, question: Question) -> Result<(), NotTaken> {
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(NotTaken::Closed);
            }
            if queue.questions.len() >= QUESTIONS_MAX {
                return Err(NotTaken::Full("questions", QUESTIONS_MAX as u64));
            }
            queue.questions.push(question);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Resolves when something has come since the last time.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// All questions that wait.
    pub(super) fn take_questions(&self) -> Vec<Question> {
        std::mem::take(&mut self.lock().questions)
    }

    /// Frames from the front while `transactions_room` lasts; at least one if any waits and there is room.
    pub(super) fn take_frames(&self, mut transactions_room: usize) -> Vec<Frame> {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        while transactions_room > 0
            && let Some(frame) = queue.frames.pop_front()
        {
            queue.transactions -= frame.transactions.len();
            queue.bytes -= frame_bytes(&frame);
            transactions_room = transactions_room.saturating_sub(frame.transactions.len());
            taken.push(frame);
        }
        taken
    }

    /// Takes nothing more; what waits stays to be taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Transactions that wait.
    pub(super) fn len(&self) -> usize {
        self.lock().transactions
    }
}

fn frame_bytes(frame: &Frame) -> u64 {
    bytes_of(&frame.transactions)
}

/// What transactions cost in memory.
pub(super) fn bytes_of(transactions: &[Transaction]) -> u64 {
    let one = |transaction: &Transaction| (transaction.id.len() + transaction.payload.len()) as u64;
    transactions.iter().map(|transaction| one(transaction) + TRANSACTION_OVERHEAD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(count: usize, bytes: usize) -> Frame {
        let transactions = (0..count)
            .map(|i| Transaction { id: i.to_be_bytes().to_vec().into(), payload: vec![0; bytes].into() })
            .collect();
        let (acknowledgement, answer) = (Acknowledgement::Committed, oneshot::channel().0);
        Frame { transactions, acknowledgement, trace: None, answer }
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_with_the_bound() {
        let frames = Frames::new(10, 10_000);
        frames.push(frame(6, 1)).expect("fits");
        assert_eq!(frames.push(frame(5, 1)), Err(NotTaken::Full("transactions", 10)));
        assert_eq!(frames.push(frame(1, 10_000)), Err(NotTaken::Full("bytes", 10_000)));
        frames.push(frame(4, 1)).expect("fits");
        assert_eq!(frames.take_frames(1).len(), 1, "at least one");
        assert_eq!(frames.take_frames(100).len(), 1);
        frames.push(frame(50, 1)).expect("a large frame passes alone");
    }

    #[test]
    fn a_closed_queue_still_hands_out_what_waits() {
        let frames = Frames::new(10, 10_000);
        frames.push(frame(1, 1)).expect("fits");
        frames.close();
        assert_eq!(frames.push(frame(1, 1)), Err(NotTaken::Closed));
        assert_eq!(frames.take_frames(10).len(), 1);
    }
}
