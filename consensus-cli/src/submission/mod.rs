//! Gets transactions into the chain whatever happens to nodes on the way.
//!
//! Transactions come from a bounded source, go out in messages over one SubmitStream with a bounded
//! window, and each is reported once with its fate. A refusal that may pass, a broken stream and a silent
//! node lead to the same answer: what is not acknowledged is submitted again, under the same ids and in
//! the order of the source, to the leader if it is among the known addresses and to the next address
//! otherwise. The service recognises ids that are in the chain already, so nothing is there twice.
//!
//! It does not promise order across failures unless [`Options::ordered`] is set: a message that was sent
//! before a refusal became known may be committed before the refused one is sent again.

pub(crate) mod source;
mod trouble;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason, SubmitBatch, SubmitBatchReply, outcome};
use consensus_proto::records::Transaction;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use self::source::Chunk;
use self::trouble::Trouble;
use crate::remote::{Access, Address, Node, Patience};

/// Payload bytes of one message; a single larger transaction still goes alone.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A node that answers nothing for so long is given up for the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers are awaited from a node that is being left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest pause after trouble without progress.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How to submit.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where to; never empty.
    pub(crate) nodes: Vec<Address>,
    /// With which certificates.
    pub(crate) access: Access,
    /// When a transaction counts as done.
    pub(crate) acknowledgement: Acknowledgement,
    /// Transactions sent and not answered, at most.
    pub(crate) window: usize,
    /// Transactions per message, at most.
    pub(crate) batch: usize,
    /// One message at a time.
    pub(crate) ordered: bool,
    /// Longest time without any acknowledgement.
    pub(crate) timeout: Duration,
}

/// A transaction on its way.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Its place in the source, from 1 on: the order to keep.
    pub(crate) line: u64,
    pub(crate) transaction: Transaction,
    /// When it was first handed to a stream.
    first_sent: Option<Instant>,
}

impl Item {
    pub(crate) fn new(line: u64, id: Bytes, payload: Bytes) -> Self {
        Self { line, transaction: Transaction { id, payload }, first_sent: None }
    }
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// In the chain, at this place.
    Committed { height: u64, index: u32, block_hash: Bytes, duplicate: bool },
    /// In the leader's queue, which is what was asked for.
    Accepted,
    /// Never in the chain, for this reason.
    Refused(String),
    /// Given up; sent or not, whether it is in the chain is not known.
    Unacknowledged,
}

/// Told what happens, from one task, in order of happening.
pub(crate) trait Observer {
    /// A transaction's fate, told once for each; `latency` runs from its first sending.
    fn on_fate(&mut self, item: &Item, fate: Fate, latency: Option<Duration>) -> anyhow::Result<()>;
    /// A round of fates is complete.
    fn on_round(&mut self) -> anyhow::Result<()>;
    /// The source has been read on.
    fn on_read(&mut self, bytes: u64, blank_lines: u64);
    /// Something went wrong that will be tried again, at another node if one is named.
    fn on_trouble(&mut self, what: &str, next: Option<&Address>);
}

/// How a submission ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Every transaction of the source has met its fate.
    Complete,
    /// Nothing was acknowledged for the whole timeout; the last trouble.
    GaveUp(String),
    /// This user may not submit; what the node said.
    NotAllowed(String),
    /// All nodes speak TLS and this side does not, or the other way round; what was heard last.
    WrongProtocol(String),
    /// The user stopped it.
    Interrupted,
}

/// Submits all that the source has.
///
/// # Errors
/// The source's, or the observer's.
pub(crate) async fn run(
    options: Options,
    source: mpsc::Receiver<anyhow::Result<Chunk>>,
    observer: &mut dyn Observer,
) -> anyhow::Result<Ending> {
    let mut submitter = Submitter::new(options, source);
    let ending = tokio::select! {
        ending = submitter.drive(observer) => ending?,
        _ = tokio::signal::ctrl_c() => Ending::Interrupted,
    };
    submitter.abandon(observer)?;
    Ok(ending)
}

/// A message that was sent and not answered.
struct Parcel {
    items: Vec<Item>,
    sent: Instant,
}

/// Why a session with a node ended.
enum SessionEnd {
    Done,
    GaveUp,
    NotAllowed(String),
    Trouble(Trouble),
}

impl SessionEnd {
    fn of_status(node: &Node, status: &Status) -> Self {
        let trouble = Trouble::from_status(node, status);
        match status.code() {
            // The same everywhere and for ever, unless somebody gives this user another certificate.
            Code::PermissionDenied | Code::Unauthenticated => Self::NotAllowed(trouble.what),
            _ => Self::Trouble(trouble),
        }
    }
}

struct Submitter {
    options: Options,
    source: mpsc::Receiver<anyhow::Result<Chunk>>,
    source_done: bool,
    /// Read and not on its way, by line.
    backlog: BTreeMap<u64, Item>,
    /// On its way, by the sequence of its message.
    outstanding: BTreeMap<u64, Parcel>,
    outstanding_items: usize,
    next_sequence: u64,
    /// Index of the node in use.
    node: usize,
    /// Index of the last node that was not asked because another one had named it.
    turn: usize,
    /// When a fate was last learned, or when there was last nothing to do.
    last_progress: Instant,
    last_trouble: String,
    /// Sessions in a row that ended because one side speaks TLS and the other does not.
    wrong_protocols: usize,
    backoff: Duration,
}

impl Submitter {
    fn new(options: Options, source: mpsc::Receiver<anyhow::Result<Chunk>>) -> Self {
        assert!(
            !options.nodes.is_empty() && options.window > 0 && options.batch > 0,
            "checked by the arguments"
        );
        Self {
            options,
            source,
            source_done: false,
            backlog: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            outstanding_items: 0,
            next_sequence: 1,
            node: 0,
            turn: 0,
            last_progress: Instant::now(),
            last_trouble: "nothing was tried".to_owned(),
            wrong_protocols: 0,
            backoff: BACKOFF_MIN,
        }
    }

    async fn drive(&mut self, observer: &mut dyn Observer) -> anyhow::Result<Ending> {
        loop {
            let trouble = match self.session(observer).await? {
                SessionEnd::Done => return Ok(Ending::Complete),
                SessionEnd::GaveUp => return Ok(Ending::GaveUp(self.last_trouble.clone())),
                SessionEnd::NotAllowed(what) => return Ok(Ending::NotAllowed(what)),
                SessionEnd::Trouble(trouble) => trouble,
            };
            self.wrong_protocols = if trouble.wrong_protocol { self.wrong_protocols + 1 } else { 0 };
            if self.wrong_protocols == self.options.nodes.len() {
                return Ok(Ending::WrongProtocol(trouble.what));
            }
            self.reclaim();
            let last_node = self.node;
            self.choose_node(trouble.leader.as_deref());
            observer.on_trouble(
                &trouble.what,
                self.options.nodes.get(self.node).filter(|_| self.node != last_node),
            );
            self.last_trouble = trouble.what;
            if self.out_of_time() {
                return Ok(Ending::GaveUp(self.last_trouble.clone()));
            }
            sleep(self.next_pause(trouble.retry_after)).await;
        }
    }

    /// One stream to one node, until all is done or there is trouble.
    async fn session(&mut self, observer: &mut dyn Observer) -> anyhow::Result<SessionEnd> {
        while self.backlog.is_empty() && !self.source_done {
            let chunk = self.source.recv().await;
            self.on_chunk(chunk, observer)?;
            self.last_progress = Instant::now();
        }
        if self.is_done() {
            return Ok(SessionEnd::Done);
        }
        let address = self.options.nodes[self.node].clone();
        let patience = Patience::among(&self.options.nodes);
        let node = match self.options.access.connect(&address, self.options.timeout, patience).await {
            Ok(node) => node,
            Err(error) => return Ok(SessionEnd::Trouble(Trouble::of(&error))),
        };
        // Every message carries at least one transaction, so a channel of the window's size is never full.
        let (messages, requests) = mpsc::channel(self.options.window);
        // A node may wait for the first message before it answers the call at all.
        let mut flow = Flow { messages, resume_at: None, leaving: None };
        self.fill(&mut flow);
        let mut client = node.ordering();
        let mut answers = match timeout(ANSWER_TIMEOUT, client.submit_stream(ReceiverStream::new(requests)))
            .await
        {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(SessionEnd::of_status(&node, &status)),
            Err(_) => return Ok(SessionEnd::Trouble(Trouble::new(format!("{address}: no answer in time")))),
        };
        loop {
            let wake = match self.step(&mut flow) {
                Ok(wake) => wake,
                Err(end) => return Ok(end),
            };
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.on_answer(answer, &address, &mut flow, observer)?,
                    Ok(None) => return Ok(SessionEnd::Trouble(Trouble::new(format!("{address}: ended the stream")))),
                    Err(status) => {
                        self.on_broken_stream(&status, observer)?;
                        return Ok(SessionEnd::of_status(&node, &status));
                    }
                },
                chunk = self.source.recv(), if !self.source_done && self.backlog.len() < self.options.window => {
                    self.on_chunk(chunk, observer)?;
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Sends what may be sent and judges the clock: when to look again, or why the session ends.
    fn step(&mut self, flow: &mut Flow) -> Result<Instant, SessionEnd> {
        let now = Instant::now();
        if flow.resume_at.is_some_and(|at| at <= now) {
            flow.resume_at = None;
        }
        self.fill(flow);
        if self.outstanding.is_empty() {
            if let Some((_, trouble)) = flow.leaving.take() {
                return Err(SessionEnd::Trouble(trouble));
            }
            if self.is_done() {
                return Err(SessionEnd::Done);
            }
        }
        if self.outstanding.is_empty() && self.backlog.is_empty() {
            self.last_progress = now;
        }
        if self.out_of_time() {
            return Err(SessionEnd::GaveUp);
        }
        let mut wake = self.last_progress + self.options.timeout;
        if let Some(parcel) = self.outstanding.values().next() {
            let due = parcel.sent + ANSWER_TIMEOUT;
            if due <= now {
                let node = &self.options.nodes[self.node];
                return Err(SessionEnd::Trouble(Trouble::new(format!("{node}: no answer in time"))));
            }
            wake = wake.min(due);
        }
        if let Some(at) = flow.resume_at {
            wake = wake.min(at);
        }
        if let Some((since, _)) = &flow.leaving {
            wake = wake.min(*since + LEAVE_TIMEOUT);
        }
        if let Some((_, trouble)) = flow.leaving.take_if(|(since, _)| *since + LEAVE_TIMEOUT <= now) {
            return Err(SessionEnd::Trouble(trouble));
        }
        Ok(wake)
    }

    /// Sends from the backlog as far as the window allows.
    fn fill(&mut self, flow: &mut Flow) {
        while flow.may_send() && !self.backlog.is_empty() {
            let room = self.options.window - self.outstanding_items;
            if room == 0 || (self.options.ordered && !self.outstanding.is_empty()) {
                return;
            }
            let items = self.take(room.min(self.options.batch));
            let sequence = self.next_sequence;
            let message = SubmitBatch {
                sequence,
                transactions: items.iter().map(|item| item.transaction.clone()).collect(),
                acknowledgement: self.options.acknowledgement.into(),
            };
            self.next_sequence += 1;
            self.outstanding_items += items.len();
            self.outstanding.insert(sequence, Parcel { items, sent: Instant::now() });
            if flow.messages.try_send(message).is_err() {
                let node = &self.options.nodes[self.node];
                flow.leave(Trouble::new(format!("{node}: ended the stream")));
            }
        }
    }

    /// The next transactions in order, at most `count` and not above the size of a message.
    fn take(&mut self, count: usize) -> Vec<Item> {
        let mut items = Vec::with_capacity(count.min(self.backlog.len()));
        let mut bytes = 0;
        while items.len() < count
            && let Some(first) = self.backlog.first_entry()
        {
            let size = first.get().transaction.payload.len();
            if !items.is_empty() && bytes + size > MESSAGE_BYTES_MAX {
                break;
            }
            bytes += size;
            let mut item = first.remove();
            item.first_sent.get_or_insert_with(Instant::now);
            items.push(item);
        }
        items
    }

    fn on_chunk(
        &mut self,
        chunk: Option<anyhow::Result<Chunk>>,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<()> {
        let Some(chunk) = chunk else {
            self.source_done = true;
            return Ok(());
        };
        let chunk = chunk?;
        observer.on_read(chunk.bytes, chunk.blank_lines);
        self.backlog.extend(chunk.items.into_iter().map(|item| (item.line, item)));
        Ok(())
    }

    /// Settles a message's transactions, or puts them back.
    fn on_answer(
        &mut self,
        answer: SubmitBatchReply,
        address: &Address,
        flow: &mut Flow,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<()> {
        let Some(parcel) = self.outstanding.remove(&answer.sequence) else {
            flow.leave(Trouble::new(format!(
                "{address}: answered message {}, which is not open",
                answer.sequence
            )));
            return Ok(());
        };
        self.outstanding_items -= parcel.items.len();
        let mut items = parcel.items.into_iter();
        for Outcome { count, outcome } in answer.outcomes {
            let run = items.by_ref().take(count as usize);
            let trouble = match outcome {
                Some(outcome::Outcome::Refused(refused)) if refused.reason() != Reason::Invalid => {
                    self.backlog.extend(run.map(|item| (item.line, item)));
                    Some((refused.reason(), Trouble::from_refusal(address, refused)))
                }
                Some(settled) => {
                    self.last_progress = Instant::now();
                    self.backoff = BACKOFF_MIN;
                    settle(run, &settled, observer)?;
                    None
                }
                None => {
                    self.backlog.extend(run.map(|item| (item.line, item)));
                    Some((
                        Reason::Unspecified,
                        Trouble::new(format!("{address}: an answer without an outcome")),
                    ))
                }
            };
            match trouble {
                // The node is fine and busy: stay, slower.
                Some((Reason::Overloaded, trouble)) => {
                    let pause = self.next_pause(trouble.retry_after);
                    flow.resume_at = Some(Instant::now() + pause);
                    self.last_trouble = trouble.what;
                }
                Some((_, trouble)) => flow.leave(trouble),
                None => {}
            }
        }
        let left: BTreeMap<u64, Item> = items.map(|item| (item.line, item)).collect();
        if !left.is_empty() {
            flow.leave(Trouble::new(format!(
                "{address}: left {} transactions of a message unanswered",
                left.len()
            )));
            self.backlog.extend(left);
        }
        observer.on_round()
    }

    /// A node breaks a stream off where a message is larger than it takes. Small messages never are, so it was a
    /// single large transaction, and if any, the largest; without this it would be sent for ever.
    fn on_broken_stream(&mut self, status: &Status, observer: &mut dyn Observer) -> anyhow::Result<()> {
        if status.code() != Code::OutOfRange {
            return Ok(());
        }
        let size = |parcel: &Parcel| match parcel.items.as_slice() {
            [single] => single.transaction.payload.len(),
            _ => 0,
        };
        let largest = self.outstanding.iter().max_by_key(|(_, parcel)| size(parcel));
        let Some((&sequence, _)) = largest.filter(|(_, parcel)| size(parcel) > MESSAGE_BYTES_MAX) else {
            return Ok(());
        };
        let parcel = self.outstanding.remove(&sequence).expect("it was found just now");
        self.outstanding_items -= parcel.items.len();
        self.last_progress = Instant::now();
        for item in &parcel.items {
            observer.on_fate(item, Fate::Refused(status.message().to_owned()), None)?;
        }
        observer.on_round()
    }

    /// Puts back everything that is on its way.
    fn reclaim(&mut self) {
        for parcel in std::mem::take(&mut self.outstanding).into_values() {
            self.backlog.extend(parcel.items.into_iter().map(|item| (item.line, item)));
        }
        self.outstanding_items = 0;
    }

    /// Reports whatever is not settled as given up.
    fn abandon(&mut self, observer: &mut dyn Observer) -> anyhow::Result<()> {
        self.reclaim();
        for item in std::mem::take(&mut self.backlog).into_values() {
            observer.on_fate(&item, Fate::Unacknowledged, None)?;
        }
        observer.on_round()
    }

    fn is_done(&self) -> bool {
        self.source_done && self.backlog.is_empty() && self.outstanding.is_empty()
    }

    fn out_of_time(&self) -> bool {
        self.last_progress.elapsed() >= self.options.timeout
    }

    /// To the leader if its address is known, otherwise to the next address.
    fn choose_node(&mut self, leader: Option<&str>) {
        let known =
            leader.and_then(|leader| self.options.nodes.iter().position(|node| node.to_string() == leader));
        self.node = known.filter(|&known| known != self.node).unwrap_or_else(|| self.next_in_turn());
    }

    /// The next node, whoever was named meanwhile: one that goes on naming a leader that is gone is not asked again
    /// before all others.
    fn next_in_turn(&mut self) -> usize {
        let count = self.options.nodes.len();
        self.turn = (self.turn + 1) % count;
        if self.turn == self.node {
            self.turn = (self.turn + 1) % count;
        }
        self.turn
    }

    /// A pause that grows with each trouble in a row, not shorter than the node's advice within bounds.
    fn next_pause(&mut self, advice: Duration) -> Duration {
        let pause = self.backoff.max(advice.min(BACKOFF_MAX));
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        pause
    }
}

/// Tells the fates of a run of transactions of one message.
fn settle(
    run: impl Iterator<Item = Item>,
    outcome: &outcome::Outcome,
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    for (offset, item) in (0..).zip(run) {
        let fate = match outcome {
            outcome::Outcome::Committed(committed) => Fate::Committed {
                height: committed.height,
                index: committed.index + offset,
                block_hash: committed.block_hash.clone(),
                duplicate: committed.duplicate,
            },
            outcome::Outcome::Accepted(_) => Fate::Accepted,
            outcome::Outcome::Refused(refused) => Fate::Refused(refused.message.clone()),
        };
        let latency = item.first_sent.map(|sent| sent.elapsed());
        observer.on_fate(&item, fate, latency)?;
    }
    Ok(())
}

/// The sending half of a session.
struct Flow {
    messages: mpsc::Sender<SubmitBatch>,
    /// Nothing is sent before this time.
    resume_at: Option<Instant>,
    /// Nothing is sent any more; since when, and why.
    leaving: Option<(Instant, Trouble)>,
}

impl Flow {
    fn may_send(&self) -> bool {
        self.resume_at.is_none() && self.leaving.is_none()
    }

    /// Stops sending; the first reason counts.
    fn leave(&mut self, trouble: Trouble) {
        self.leaving.get_or_insert_with(|| (Instant::now(), trouble));
    }
}

#[cfg(test)]
mod tests;
