//! The leader's side of the ledger: from frames of transactions to batches in flight, and back to answers.
//!
//! A caller that leads offers frames, asks for batches while the replica takes proposals, and reports what became
//! of each batch; completions say whom to answer. The cutter's rules decide what a batch is; in addition a batch
//! is cut at once when nothing is in flight, so that a lone transaction never waits for the timeout, and under
//! load batches grow while others are on their way.
//!
//! A transaction whose id is in the chain's window is answered from there; one whose id is in the pipeline
//! already attaches to the outcome of the first. This saves log space and answers early, nothing more: the
//! [`Ledger`] alone decides what is in the chain, and an id names one transaction, whatever its payload.
//!
//! Memory is bounded by `transactions_max` and `bytes_max` over everything that waits for an outcome. Per
//! transaction there are two hash lookups and a few moves; frames, batches and answers are handled as ranges.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::block::{InvalidTransaction, Transaction, check_transaction, transaction_bytes};
use super::cutter::{Cutter, CutterConfig};
use super::ledger::{AppliedEntry, Ledger, Location};
use super::pool::{Completion, Outcome, Pool, Refusal, Run, Slots, push_run};
use super::window::{IdKey, Seeded};
use crate::limits::LimitsError;

/// Bounds of a pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PipelineConfig {
    /// When batches are cut.
    pub cutter: CutterConfig,
    /// Transactions that wait for an outcome at most, 1..=16777216.
    pub transactions_max: u64,
    /// Bytes of their ids and payloads at most, at least `absolute_bytes`.
    pub bytes_max: u64,
    /// Seeds the hash table of ids; see [`LedgerConfig::hash_seed`](super::LedgerConfig::hash_seed).
    pub hash_seed: [u64; 2],
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            cutter: CutterConfig::default(),
            transactions_max: 1 << 17,
            bytes_max: 64 << 20,
            hash_seed: [0; 2],
        }
    }
}

impl PipelineConfig {
    /// Checks each bound and those that depend on each other.
    ///
    /// # Errors
    /// The first bound that does not hold, with its value and what it must be.
    pub fn validate(&self) -> Result<(), LimitsError> {
        self.cutter.validate()?;
        if !(1..=1 << 24).contains(&self.transactions_max) {
            let bound = format!("between 1 and {}", 1 << 24);
            return Err(LimitsError { name: "transactions_max", value: self.transactions_max, bound });
        }
        let least = self.cutter.absolute_bytes;
        if self.bytes_max < least {
            let bound = format!("at least {least} (absolute_bytes)");
            return Err(LimitsError { name: "bytes_max", value: self.bytes_max, bound });
        }
        Ok(())
    }
}

/// What one submission brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame<T> {
    /// Comes back with the frame's completion.
    pub token: T,
    /// In the order in which they shall be in the chain.
    pub transactions: Vec<Transaction>,
}

/// Transactions to be proposed as one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Names the batch towards the pipeline; never used again.
    pub number: u64,
    /// Ordinal of the first transaction among all that were accepted, see [`Pipeline::accepted`]; the others follow.
    pub first_ordinal: u64,
    /// What to give to [`encode_proposal`](super::encode_proposal); never empty.
    pub transactions: Vec<Transaction>,
}

/// A batch whose outcome is awaited.
struct InFlight {
    number: u64,
    /// Ordinal of the first transaction; the others follow.
    first_ordinal: u64,
    keys: Vec<IdKey>,
    slots: Vec<Slots>,
    bytes: u64,
}

/// A transaction that waits for the outcome of an earlier one with its id.
struct Attached {
    frame: u32,
    position: u32,
}

/// Transactions of one leader from submission to answer. `T` is the caller's token of a frame.
pub struct Pipeline<T> {
    config: PipelineConfig,
    cutter: Cutter<Transaction>,
    /// Batches that the cutter's rules completed, in order.
    cut: VecDeque<Vec<Transaction>>,
    in_flight: VecDeque<InFlight>,
    /// Whose transactions are cut or pending in the cutter, in order.
    slots: VecDeque<Slots>,
    /// Everything that waits for an outcome, by id, with the ordinal of its acceptance.
    ordinals: HashMap<IdKey, u64, Seeded>,
    /// By the ordinal of what they are attached to.
    attached: BTreeMap<u64, Vec<Attached>>,
    pool: Pool<T>,
    /// Of the next transaction that is accepted.
    next_ordinal: u64,
    /// Of the oldest transaction that was not given out in a batch.
    queued_ordinal: u64,
    next_number: u64,
    /// Waiting transactions, attached ones included.
    waiting: u64,
    /// Bytes of the waiting transactions, attached ones excluded.
    bytes: u64,
}

impl<T> fmt::Debug for Pipeline<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("waiting", &self.waiting)
            .field("bytes", &self.bytes)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

impl<T> Pipeline<T> {
    /// An empty pipeline.
    ///
    /// # Errors
    /// The bound of the configuration that does not hold.
    pub fn new(config: PipelineConfig) -> Result<Self, LimitsError> {
        config.validate()?;
        Ok(Self {
            config,
            cutter: Cutter::new(config.cutter)?,
            cut: VecDeque::new(),
            in_flight: VecDeque::new(),
            slots: VecDeque::new(),
            ordinals: HashMap::with_hasher(Seeded::new(config.hash_seed)),
            attached: BTreeMap::new(),
            pool: Pool::new(),
            next_ordinal: 0,
            queued_ordinal: 0,
            next_number: 1,
            waiting: 0,
            bytes: 0,
        })
    }

    /// Takes a frame and says at once what is known of its transactions, as runs in their order. A frame of which
    /// nothing was accepted is complete; in any case exactly one completion comes from
    /// [`Pipeline::take_completions`].
    ///
    /// When a bound is reached, all further new transactions of the frame are refused, so that order is kept.
    pub fn offer(&mut self, frame: Frame<T>, now_ms: u64, ledger: &Ledger) -> Vec<Run> {
        let number = self.pool.next_frame();
        let Frame { token, transactions } = frame;
        self.cutter.reserve(transactions.len());
        self.ordinals.reserve(transactions.len().min((self.config.transactions_max - self.waiting) as usize));
        let mut verdicts = Vec::new();
        let mut full = None;
        for (position, transaction) in transactions.into_iter().enumerate() {
            let slot = Slots { frame: number, first: position as u32, count: 1 };
            let verdict = self.offer_one(transaction, slot, now_ms, ledger, &mut full);
            push_run(&mut verdicts, 1, verdict);
        }
        self.pool.open(token, &verdicts);
        verdicts
    }

    fn offer_one(
        &mut self,
        transaction: Transaction,
        slot: Slots,
        now_ms: u64,
        ledger: &Ledger,
        full: &mut Option<Refusal>,
    ) -> Outcome {
        let bytes = match self.check(&transaction) {
            Ok(bytes) => bytes,
            Err(invalid) => return Outcome::Refused(invalid.into()),
        };
        let key = IdKey::of(&transaction.id);
        if let Some(at) = ledger.locate(&key) {
            return Outcome::committed(at, true);
        }
        let overload = full.take().or_else(|| self.overload(bytes));
        match self.ordinals.entry(key) {
            Entry::Occupied(earlier) if self.waiting < self.config.transactions_max => {
                let attached = Attached { frame: slot.frame, position: slot.first };
                self.attached.entry(*earlier.get()).or_default().push(attached);
            }
            Entry::Vacant(vacant) if overload.is_none() => {
                vacant.insert(self.next_ordinal);
                self.next_ordinal += 1;
                self.bytes += bytes;
                self.queue(transaction, bytes, slot, now_ms);
            }
            _ => {
                let refusal = overload.expect("refused because a bound is reached");
                *full = Some(refusal.clone());
                return Outcome::Refused(refusal);
            }
        }
        self.waiting += 1;
        Outcome::Accepted
    }

    fn queue(&mut self, transaction: Transaction, bytes: u64, slot: Slots, now_ms: u64) {
        match self.slots.back_mut() {
            Some(last) if last.frame == slot.frame && last.first + last.count == slot.first => {
                last.count += 1
            }
            _ => self.slots.push_back(slot),
        }
        let cut = self.cutter.push(transaction, bytes, now_ms);
        self.cut.extend(cut.into_batches());
    }

    /// The next batch to propose, if the replica has `room` for one and there is reason to cut: a rule of the cutter
    /// held, the deadline has passed, or nothing is in flight. `in_flight` counts this leader's entries that are
    /// proposed and not yet applied. The batch is in flight from now on: every number must come back through
    /// [`Pipeline::applied`], [`Pipeline::lost`] or [`Pipeline::clear`].
    pub fn next_batch(&mut self, now_ms: u64, room: usize, in_flight: usize) -> Option<Batch> {
        if room == 0 {
            return None;
        }
        if self.cut.is_empty() {
            let due = self.cutter.deadline_ms().is_some_and(|deadline| deadline <= now_ms);
            if in_flight == 0 || due {
                self.cut.extend(self.cutter.cut());
            }
        }
        let transactions = self.cut.pop_front()?;
        let number = self.next_number;
        self.next_number += 1;
        let first_ordinal = self.queued_ordinal;
        self.queued_ordinal += transactions.len() as u64;
        let keys = transactions.iter().map(|transaction| IdKey::of(&transaction.id)).collect();
        let bytes = transactions.iter().map(transaction_bytes).sum();
        let slots = self.take_slots(transactions.len() as u32);
        self.in_flight.push_back(InFlight { number, first_ordinal, keys, slots, bytes });
        Some(Batch { number, first_ordinal, transactions })
    }

    /// When [`Pipeline::next_batch`] would cut at the latest; matters only while there is room and something in
    /// flight.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.cutter.deadline_ms()
    }

    /// A batch was applied. Returns whether it was in flight; one that was cleared is not.
    pub fn applied(&mut self, number: u64, entry: &AppliedEntry) -> bool {
        let Some(batch) = self.remove(number) else { return false };
        let in_block = entry.block.as_ref().map_or(0, |block| block.transactions.len());
        assert_eq!(
            in_block + entry.skipped.len(),
            batch.keys.len(),
            "entry {} is batch {number}",
            entry.index
        );
        let transactions = batch.keys.len() as u32;
        let mut outcomes: Vec<Run> = Vec::with_capacity(1 + 2 * entry.skipped.len());
        let (mut position, mut index) = (0, 0);
        let mut skipped = entry.skipped.iter();
        while position < transactions {
            let next = skipped.next();
            let end = next.map_or(transactions, |skipped| skipped.position);
            if position < end {
                let block = entry.block.as_ref().expect("what is not skipped is in the entry's block");
                let at = Location { height: block.header.number, index, block_hash: block.hash };
                push_run(&mut outcomes, end - position, Outcome::committed(at, false));
                index += end - position;
            }
            if let Some(skipped) = next {
                push_run(&mut outcomes, 1, Outcome::committed(skipped.at, true));
            }
            position = end + 1;
        }
        self.answer(batch, &outcomes);
        true
    }

    /// A batch will not be heard of again. Returns whether it was in flight.
    pub fn lost(&mut self, number: u64, refusal: Refusal) -> bool {
        let Some(batch) = self.remove(number) else { return false };
        let count = batch.keys.len() as u32;
        self.answer(batch, &[Run { count, outcome: Outcome::Refused(refusal) }]);
        true
    }

    /// Ends everything: leadership is lost. What was not proposed is refused with [`Refusal::NotProposed`], what is in
    /// flight with `in_flight`, usually [`Refusal::OutcomeUnknown`]. Returns the completions of all frames.
    pub fn clear(&mut self, in_flight: Refusal) -> Vec<Completion<T>> {
        while let Some(batch) = self.in_flight.pop_front() {
            let count = batch.keys.len() as u32;
            self.answer(batch, &[Run { count, outcome: Outcome::Refused(in_flight.clone()) }]);
        }
        while let Some(batch) = self.next_batch(0, 1, 0) {
            self.lost(batch.number, Refusal::NotProposed);
        }
        assert!(self.waiting == 0 && self.bytes == 0 && self.pool.waiting() == 0, "every frame is answered");
        self.take_completions()
    }

    /// The frames whose last outcome is known since the last call.
    pub fn take_completions(&mut self) -> Vec<Completion<T>> {
        self.pool.take_completed()
    }

    /// Whether a transaction of this id waits for its outcome.
    pub fn is_waiting(&self, id: &[u8]) -> bool {
        self.ordinals.contains_key(&IdKey::of(id))
    }

    /// Transactions that were accepted so far: the ordinal of the next one. Those that attach to an earlier one of their
    /// id have none.
    pub fn accepted(&self) -> u64 {
        self.next_ordinal
    }

    /// Transactions that wait for their outcome, queued or in flight.
    pub fn waiting_transactions(&self) -> u64 {
        self.waiting
    }

    /// Bytes of ids and payloads that wait for their outcome.
    pub fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// Transactions that were not given out in a batch yet.
    pub fn queued_transactions(&self) -> usize {
        self.cutter.pending_count() + self.cut.iter().map(Vec::len).sum::<usize>()
    }

    /// Batches that were given out and not answered.
    pub fn batches_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn check(&self, transaction: &Transaction) -> Result<u64, InvalidTransaction> {
        check_transaction(transaction)?;
        let bytes = transaction_bytes(transaction);
        let bound = self.config.cutter.absolute_bytes;
        if bytes > bound {
            return Err(InvalidTransaction::TooLarge { bytes, bound });
        }
        Ok(bytes)
    }

    fn overload(&self, bytes: u64) -> Option<Refusal> {
        let PipelineConfig { transactions_max, bytes_max, .. } = self.config;
        if self.waiting >= transactions_max {
            return Some(Refusal::Overloaded { what: "transactions_max", bound: transactions_max });
        }
        if self.bytes + bytes > bytes_max {
            return Some(Refusal::Overloaded { what: "bytes_max", bound: bytes_max });
        }
        None
    }

    /// Takes the oldest `count` queued transactions' slots.
    fn take_slots(&mut self, mut count: u32) -> Vec<Slots> {
        let mut taken = Vec::new();
        while count > 0 {
            let front = self.slots.front_mut().expect("each queued transaction has its slot");
            if front.count > count {
                taken.push(Slots { count, ..*front });
                front.first += count;
                front.count -= count;
                break;
            }
            count -= front.count;
            taken.extend(self.slots.pop_front());
        }
        taken
    }

    fn remove(&mut self, number: u64) -> Option<InFlight> {
        let position = self.in_flight.iter().position(|batch| batch.number == number)?;
        self.in_flight.remove(position)
    }

    /// Gives a batch's transactions their outcomes, and those that are attached to them.
    fn answer(&mut self, batch: InFlight, outcomes: &[Run]) {
        let InFlight { first_ordinal, keys, slots, bytes, .. } = batch;
        for key in &keys {
            self.ordinals.remove(key);
        }
        self.bytes -= bytes;
        self.waiting -= keys.len() as u64;
        let mut slots = slots.into_iter();
        let mut open: Option<Slots> = None;
        let mut ordinal = first_ordinal;
        for run in outcomes {
            let mut done = 0;
            while done < run.count {
                let slot = open.take().or_else(|| slots.next()).expect("as many slots as outcomes");
                let count = slot.count.min(run.count - done);
                self.pool.resolve(Slots { count, ..slot }, run.outcome.advanced(done));
                if count < slot.count {
                    open = Some(Slots { first: slot.first + count, count: slot.count - count, ..slot });
                }
                done += count;
            }
            self.answer_attached(ordinal, run);
            ordinal += u64::from(run.count);
        }
    }

    fn answer_attached(&mut self, first_ordinal: u64, run: &Run) {
        let end = first_ordinal + u64::from(run.count);
        while let Some((&ordinal, _)) = self.attached.range(first_ordinal..end).next() {
            let attached = self.attached.remove(&ordinal).expect("it was there a moment ago");
            let outcome = run.outcome.advanced((ordinal - first_ordinal) as u32).for_duplicate();
            self.waiting -= attached.len() as u64;
            for Attached { frame, position } in attached {
                self.pool.resolve(Slots { frame, first: position, count: 1 }, outcome.clone());
            }
        }
    }
}
