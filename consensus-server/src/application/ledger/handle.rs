//! What services hold of a ledger: submit, follow, read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::ledger::{self, Block, InclusionProof, LedgerReader, Location, proof};
use consensus_core::replica::{Refusal, Status};
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason, outcome};
use consensus_proto::records::{Transaction, TransactionRecord};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::arrivals::Arrivals;
use super::frames::{Frame, Frames, NotTaken, Question, bytes_of};
use super::recent::Recent;
use super::task::halted;
use super::{LedgerError, LedgerOptions, Submission, Tip, TransactionState, no_leader, refused};
use crate::chain::ChainHandle;
use crate::telemetry::trace::{Span, TraceContext, Tracer};
use crate::transport::Forwarder;

/// How often a draining ledger is looked at.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// How long a submission that has lost its leader waits for news before it is offered again; doubles each time.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// A ledger, as seen from outside of its task. Cheap to clone.
#[derive(Clone)]
pub struct LedgerHandle {
    shared: Arc<Shared>,
}

/// What all clones of a handle share with the task.
pub(super) struct Shared {
    pub(super) chain: ChainHandle,
    pub(super) forwarder: Arc<dyn Forwarder>,
    pub(super) options: LedgerOptions,
    pub(super) reader: LedgerReader,
    pub(super) frames: Frames,
    pub(super) tip: watch::Sender<Tip>,
    pub(super) arrivals: Arrivals,
    pub(super) recent: Recent,
    /// Transactions in the pipeline.
    pub(super) waiting: AtomicU64,
    /// Transactions that are with the leader right now.
    pub(super) forwarded: AtomicU64,
    /// Their bytes.
    pub(super) forwarded_bytes: AtomicU64,
}

impl LedgerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The chain that this ledger lives on.
    pub fn chain(&self) -> &ChainHandle {
        &self.shared.chain
    }

    /// What makes the spans of the chain's process.
    pub fn tracer(&self) -> Tracer {
        self.shared.chain.traces().tracer()
    }

    /// How the ledger runs.
    pub fn options(&self) -> &LedgerOptions {
        &self.shared.options
    }

    /// Transactions that wait in the leader's queue on this node.
    pub fn queued(&self) -> usize {
        self.shared.frames.len()
    }

    /// Transactions in the leader's pipeline on this node: waiting for a block, or in one that is not applied yet.
    pub fn in_pipeline(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Transactions of this node that are with the leader right now.
    pub fn forwarded(&self) -> usize {
        self.shared.forwarded.load(Ordering::Relaxed) as usize
    }

    /// Orders transactions, here if this node leads, else by forwarding the frame to the leader. While
    /// leadership moves, a frame without all of its outcomes is offered again for
    /// [`LedgerOptions::leader_grace`]; what the chain has by then is answered with its place as a duplicate. The outcomes' counts add up to the number of transactions, in their order.
    /// Never waits longer than [`LedgerOptions::submit_timeout`]; dropping the future gives up the answer, not the
    /// transactions.
    pub async fn submit(&self, submission: Submission) -> Vec<Outcome> {
        let count = submission.transactions.len();
        if count == 0 {
            return Vec::new();
        }
        let deadline = Instant::now() + self.shared.options.submit_timeout;
        match timeout_at(deadline, self.submit_until(submission)).await {
            Ok(outcomes) => outcomes,
            Err(_) => vec![self.timed_out(count)],
        }
    }

    /// Tries again for a moment while leadership moves.
    async fn submit_until(&self, submission: Submission) -> Vec<Outcome> {
        let Submission { transactions, acknowledgement, hops, trace } = submission;
        let mut status = self.shared.chain.watch_status();
        let seen = status.borrow_and_update().clone();
        if hops > 0 {
            return self.attempt(&seen, transactions, acknowledgement, hops, trace).await;
        }
        let grace = Instant::now() + self.shared.options.leader_grace;
        let (mut seen, mut pause) = (seen, RETRY_PAUSE);
        loop {
            let outcomes = self.attempt(&seen, transactions.clone(), acknowledgement, hops, trace).await;
            let now = Instant::now();
            if now >= grace || !outcomes.iter().any(is_leaderless) {
                return outcomes;
            }
            // A leader may be known here before it knows of its leadership itself: then nothing changes here.
            let news = status.wait_for(|now| (now.leader, now.term) != (seen.leader, seen.term));
            let news = timeout_at(grace.min(now + pause), news).await.map(|news| news.map(|now| now.clone()));
            match news {
                Ok(Ok(now)) => seen = now,
                Ok(Err(_)) => return outcomes,
                Err(_) => seen = status.borrow_and_update().clone(),
            }
            pause *= 2;
        }
    }

    /// Hands a frame to whoever leads as far as `status` knows.
    async fn attempt(
        &self,
        status: &Status,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        hops: u32,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        let count = transactions.len();
        if status.halted.is_some() {
            return vec![halted(count, status)];
        }
        match status.leader {
            Some(leader) if leader == status.node_id => {
                self.submit_here(transactions, acknowledgement, trace).await
            }
            Some(leader) if hops == 0 => {
                self.submit_there(leader, transactions, acknowledgement, trace).await
            }
            Some(leader) => {
                vec![refused(count, Reason::NotLeader, "this node is not the leader", Some(leader))]
            }
            None => vec![no_leader(count, None)],
        }
    }

    async fn submit_here(
        &self,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        let count = transactions.len();
        let (answer, outcomes) = oneshot::channel();
        match self.shared.frames.push(Frame { transactions, acknowledgement, trace, answer }) {
            Ok(()) => outcomes.await.unwrap_or_else(|_| vec![unknown(count)]),
            Err(NotTaken::Full(what, bound)) => {
                vec![refused(
                    count,
                    Reason::Overloaded,
                    format!("the queue is at its bound of {bound} {what}"),
                    None,
                )]
            }
            Err(NotTaken::Closed) => vec![stopping(count)],
        }
    }

    async fn submit_there(
        &self,
        leader: NodeId,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        trace: Option<TraceContext>,
    ) -> Vec<Outcome> {
        let count = transactions.len();
        let LedgerOptions { queue_transactions_max, queue_bytes_max, .. } = self.shared.options;
        let bytes = bytes_of(&transactions);
        let Some(_transactions) =
            Held::hold(&self.shared.forwarded, count as u64, queue_transactions_max as u64)
        else {
            let message = format!("{queue_transactions_max} transactions are on their way to the leader");
            return vec![refused(count, Reason::Overloaded, message, Some(leader))];
        };
        let Some(_bytes) = Held::hold(&self.shared.forwarded_bytes, bytes, queue_bytes_max) else {
            let message = format!(
                "transactions of {queue_bytes_max} bytes are on their way to the leader, at most that many"
            );
            return vec![refused(count, Reason::Overloaded, message, Some(leader))];
        };
        let span = trace.and_then(|above| self.tracer().child("forward", Some(above)));
        let span = span.map(|span| span.calling().with("consensus.peer", leader.to_string()));
        let trace = span.as_ref().map(Span::context);
        let outcomes = self.shared.forwarder.forward(leader, transactions, acknowledgement, trace).await;
        drop(span);
        let height = outcomes.iter().filter_map(committed_height).max();
        if let Some(height) = height
            && !self.shared.arrivals.reached(height).await
        {
            return vec![unknown(count)];
        }
        outcomes
    }

    fn timed_out(&self, count: usize) -> Outcome {
        let waited = self.shared.options.submit_timeout;
        let message = format!("no outcome within {} ms", waited.as_millis());
        refused(count, Reason::Timeout, message, self.shared.chain.status().leader)
    }

    /// The end of the ledger on this node.
    pub fn tip(&self) -> Tip {
        *self.shared.tip.borrow()
    }

    /// Follows the end of the ledger.
    pub fn watch_tip(&self) -> watch::Receiver<Tip> {
        self.shared.tip.subscribe()
    }

    /// A tip at least as new as any acknowledgement that was given anywhere before this call.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] if the leader cannot confirm it.
    pub async fn linearizable_tip(&self) -> Result<Tip, LedgerError> {
        let wait = self.shared.options.submit_timeout;
        let refusal = Refusal::TimedOut { ticks: 0 };
        tokio::time::timeout(wait, self.confirm_tip()).await.unwrap_or(Err(refusal.into()))
    }

    async fn confirm_tip(&self) -> Result<Tip, LedgerError> {
        let chain = &self.shared.chain;
        let own = chain.identity().node_id;
        let index = match chain.read_index().await {
            Err(Refusal::NotLeader { leader: Some(leader) }) if leader != own => {
                self.shared.forwarder.read_index(leader).await?
            }
            outcome => outcome?,
        };
        let mut tip = self.watch_tip();
        let reached = tip.wait_for(|tip| tip.index >= index).await.map_err(|_| LedgerError::Stopping)?;
        Ok(*reached)
    }

    /// The block at `height`; `None` above the tip.
    ///
    /// # Errors
    /// The store's.
    pub async fn block(&self, height: u64) -> Result<Option<Arc<Block>>, LedgerError> {
        if height == 0 || height > self.tip().height {
            return Ok(None);
        }
        if let Some(block) = self.shared.recent.block(height) {
            return Ok(Some(block));
        }
        self.read(move |ledger| ledger.block(height)).await.map(|block| block.map(Arc::new))
    }

    /// Blocks from `heights` in order, as far as they exist: those in memory at once, else from the store at most
    /// `bytes_max` bytes of entries; at least one if there is one. Ask again from where the answer ended.
    ///
    /// # Errors
    /// The store's.
    pub async fn blocks(&self, heights: Range<u64>, bytes_max: u64) -> Result<Vec<Arc<Block>>, LedgerError> {
        let end = heights.end.min(self.tip().height + 1);
        let heights = heights.start.max(1)..end;
        if heights.is_empty() {
            return Ok(Vec::new());
        }
        let recent = self.shared.recent.blocks(heights.clone(), bytes_max);
        if !recent.is_empty() {
            return Ok(recent);
        }
        let blocks = self.read(move |ledger| ledger.blocks(heights, bytes_max)).await?;
        Ok(blocks.into_iter().map(Arc::new).collect())
    }

    /// What is known of a transaction: in the chain, in the queue or in flight on this node, or unknown.
    ///
    /// # Errors
    /// The store's.
    pub async fn transaction(&self, id: Bytes) -> Result<TransactionState, LedgerError> {
        let (answer, known) = oneshot::channel();
        if self.shared.frames.ask(Question { id: id.clone(), answer }).is_ok()
            && let Ok(Some(state)) = known.await
        {
            return Ok(state);
        }
        let found = self.read(move |ledger| ledger.transaction(&id)).await?;
        Ok(found.map_or(TransactionState::Unknown, |(record, block_hash)| {
            let TransactionRecord { height, index } = record;
            TransactionState::Committed(Location { height, index, block_hash })
        }))
    }

    /// The proof that a transaction is in the chain; `None` if it is not, as this node knows it.
    ///
    /// # Errors
    /// The store's.
    pub async fn prove(&self, id: Bytes) -> Result<Option<InclusionProof>, LedgerError> {
        let TransactionState::Committed(location) = self.transaction(id).await? else { return Ok(None) };
        let Some(block) = self.block(location.height).await? else { return Ok(None) };
        // Hashing a large block is no work for an async thread.
        self.read(move |_| Ok(prove(&block, location.index))).await
    }

    /// Reads off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&LedgerReader) -> ledger::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let reader = self.shared.reader.clone();
        let answer = tokio::task::spawn_blocking(move || question(&reader));
        Ok(answer.await.map_err(|_| LedgerError::Stopping)??)
    }

    /// Takes no more submissions: those that wait are still answered.
    pub fn close(&self) {
        self.shared.frames.close();
    }

    /// Waits until no submission is in the queue, in flight or on its way to the leader, at most `patience`;
    /// returns whether it came to that.
    pub async fn drained(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut looks = tokio::time::interval(DRAIN_INTERVAL);
        while !self.is_idle() {
            if timeout_at(deadline, looks.tick()).await.is_err() {
                return false;
            }
        }
        true
    }

    fn is_idle(&self) -> bool {
        let Shared { frames, waiting, forwarded, .. } = &*self.shared;
        frames.len() == 0 && waiting.load(Ordering::Acquire) == 0 && forwarded.load(Ordering::Acquire) == 0
    }
}

impl std::fmt::Debug for LedgerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerHandle").field("chain", &self.shared.chain).finish_non_exhaustive()
    }
}

/// Counts something that is with the leader, as long as it lives.
struct Held<'a> {
    counter: &'a AtomicU64,
    count: u64,
}

impl<'a> Held<'a> {
    /// `None` if it would not fit beside others.
    fn hold(counter: &'a AtomicU64, count: u64, bound: u64) -> Option<Self> {
        let fits = |held: u64| (held == 0 || held + count <= bound).then_some(held + count);
        counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Self { counter, count })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.count, Ordering::AcqRel);
    }
}

fn prove(block: &Block, index: u32) -> Option<InclusionProof> {
    Some(InclusionProof {
        transaction: block.transactions.get(index as usize)?.clone(),
        index,
        transactions: block.transactions.len() as u32,
        path: proof::path(&block.transactions, index)?,
        header: block.header,
        block_hash: block.hash,
    })
}

/// Nothing was taken: the node takes no submissions any more.
pub(super) fn stopping(count: usize) -> Outcome {
    refused(count, Reason::ShuttingDown, "the node is stopping", None)
}

/// The ledger has ended with the frame in its pipeline.
fn unknown(count: usize) -> Outcome {
    refused(count, Reason::Timeout, "the node stopped before the outcome was known", None)
}

/// Whether a new leader may have a better answer. Offering a frame twice is harmless: the chain has each id once.
fn is_leaderless(outcome: &Outcome) -> bool {
    let Some(outcome::Outcome::Refused(refused)) = &outcome.outcome else { return false };
    match refused.reason() {
        Reason::NotLeader | Reason::NoLeader | Reason::LeadershipLost | Reason::ShuttingDown => true,
        Reason::Unspecified | Reason::Invalid | Reason::Overloaded | Reason::Timeout | Reason::Halted => {
            false
        }
    }
}

fn committed_height(outcome: &Outcome) -> Option<u64> {
    match &outcome.outcome {
        Some(outcome::Outcome::Committed(committed)) => Some(committed.height),
        Some(outcome::Outcome::Accepted(_) | outcome::Outcome::Refused(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_with_the_leader_is_bounded_and_what_is_larger_passes_alone() {
        let counter = AtomicU64::new(0);
        let held = Held::hold(&counter, 60, 100).expect("room");
        assert!(Held::hold(&counter, 41, 100).is_none());
        let rest = Held::hold(&counter, 40, 100).expect("just fits");
        drop((held, rest));
        let large = Held::hold(&counter, 500, 100).expect("alone");
        assert!(Held::hold(&counter, 1, 100).is_none());
        drop(large);
        assert_eq!(counter.load(Ordering::Acquire), 0, "all is returned");
    }
}
