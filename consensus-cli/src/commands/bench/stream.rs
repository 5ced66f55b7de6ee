//! B2: submit streams with a window, submission to delivery on another node.
//!
//! Each stream keeps a fixed number of messages in flight and sends the next when one is answered; a
//! refused message is counted and not repeated. One task follows a Deliver stream and counts what arrives,
//! with the time since the message was handed to its stream. The bookkeeping is per message: when it was
//! sent is one store into a ring, and a run of delivered transactions of one message is one record.
//!
//! The gate: each stream's transactions arrive in order and once, and every acknowledged one arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use consensus_proto::ordering::{Acknowledgement, Block, SubmitBatch, SubmitBatchReply, outcome};
use consensus_proto::records::Transaction;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Errors, Generator, Phases, Report, SETUP_TIMEOUT, TransactionId, addresses, client_cores, open_delivery,
    parameters, rate,
};
use crate::args::bench::B2Args;
use crate::latency::Latencies;
use crate::remote::{Access, Address, Patience};

/// How long answers and deliveries are awaited after the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Messages of one stream whose time of sending is remembered: more than can be on their way between
/// acknowledgement on one node and delivery on another.
const RING: usize = 1 << 14;

/// When the messages of a stream were sent, in microseconds since the start.
#[derive(Debug)]
struct SentTimes(Box<[AtomicU64]>);

impl SentTimes {
    fn new() -> Self {
        Self((0..RING).map(|_| AtomicU64::new(0)).collect())
    }

    fn set(&self, message: u64, start: Instant) {
        self.0[message as usize % RING].store(start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    fn at(&self, message: u64) -> u64 {
        self.0[message as usize % RING].load(Ordering::Relaxed)
    }
}

pub(super) async fn run(args: &B2Args) -> anyhow::Result<Report> {
    let seed = args.load.seed.unwrap_or_else(rand::random);
    let sent_times: Arc<[SentTimes]> = (0..args.streams).map(|_| SentTimes::new()).collect();
    let access = Access::new(&args.load.tls)?;
    let blocks = open_delivery(&access, &args.deliver).await?;
    let mut submitters = Vec::new();
    for (stream, address) in (0..args.streams).zip(args.load.nodes.iter().cycle()) {
        let generator = Generator::new(seed, stream as u16, args.load.payload);
        let opening = Submitter::open(&access, address, generator, stream as usize, args, sent_times.clone());
        submitters.push(opening.await?);
    }
    let phases = Phases::from_now(&args.load);
    let (expected, awaited) = watch::channel(u64::MAX);
    let run = Generator::new(seed, 0, 1).run;
    let receiver = Receiver::new(run, args, sent_times, phases);
    let receiver = tokio::spawn(receiver.follow(blocks, awaited));
    let mut tasks = JoinSet::new();
    for submitter in submitters {
        tasks.spawn(submitter.drive(phases));
    }
    let cores = client_cores(phases).await;
    let mut total = Submitted::new();
    while let Some(submitted) = tasks.join_next().await {
        total.merge(submitted.context("a submitter failed")?);
    }
    expected.send(total.acknowledged).context("the delivery ended early")?;
    let received = receiver.await.context("the receiver failed")?;
    Ok(report(args, seed, cores, total, received))
}

fn report(args: &B2Args, seed: u64, cores: f64, submitted: Submitted, received: Received) -> Report {
    let mut problems = received.problems;
    if received.total < submitted.acknowledged {
        problems.push(format!("{} acknowledged, {} delivered", submitted.acknowledged, received.total));
    }
    Report {
        schema: "consensus-cli/bench/1",
        workload: "b2",
        target: "consensus",
        nodes: addresses(&args.load.nodes),
        deliver: Some(args.deliver.to_string()),
        parameters: parameters([
            ("streams", args.streams.into()),
            ("window", args.window.into()),
            ("batch", args.batch.min(args.window).into()),
        ]),
        blocks: Some(received.blocks),
        payload_bytes: args.load.payload,
        seed,
        measured_ms: args.load.measure.as_millis() as u64,
        operations: received.measured,
        rate_per_s: rate(received.measured, args.load.measure),
        latency: received.latencies.summary(),
        acknowledgement: Some(submitted.latencies.summary()),
        errors: submitted.errors.count,
        first_error: submitted.errors.first,
        client_cores: cores,
        problems,
    }
}

/// What the submit streams bring home.
struct Submitted {
    acknowledged: u64,
    latencies: Latencies,
    errors: Errors,
}

impl Submitted {
    fn new() -> Self {
        Self { acknowledged: 0, latencies: Latencies::new(), errors: Errors::default() }
    }

    fn merge(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.latencies.merge(&other.latencies);
        self.errors.merge(other.errors);
    }
}

/// One submit stream.
struct Submitter {
    messages: mpsc::Sender<SubmitBatch>,
    answers: Streaming<SubmitBatchReply>,
    generator: Generator,
    stream: usize,
    batch: usize,
    in_flight_max: usize,
    next_message: u64,
    sent_times: Arc<[SentTimes]>,
}

impl Submitter {
    async fn open(
        access: &Access,
        address: &Address,
        generator: Generator,
        stream: usize,
        args: &B2Args,
        sent_times: Arc<[SentTimes]>,
    ) -> anyhow::Result<Self> {
        let batch = args.batch.min(args.window) as usize;
        let in_flight_max = (args.window as usize / batch).min(RING / 4);
        let node = access.connect(address, SETUP_TIMEOUT, Patience::Alone).await?;
        let (messages, requests) = mpsc::channel(in_flight_max);
        let mut client = node.ordering();
        let opening = client.submit_stream(ReceiverStream::new(requests));
        let answers =
            timeout(SETUP_TIMEOUT, opening).await.map_err(|_| anyhow!("{address}: no answer in time"))?;
        let answers = answers.map_err(|status| node.explain(&status))?.into_inner();
        Ok(Self { messages, answers, generator, stream, batch, in_flight_max, next_message: 0, sent_times })
    }

    async fn drive(mut self, phases: Phases) -> Submitted {
        let mut submitted = Submitted::new();
        let mut in_flight = 0;
        while in_flight < self.in_flight_max {
            in_flight += usize::from(self.send(phases));
        }
        while in_flight > 0 {
            let answer = match timeout(DRAIN_TIMEOUT, self.answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => {
                    submitted
                        .errors
                        .add((in_flight * self.batch) as u64, || "the node ended a stream".to_owned());
                    break;
                }
                Ok(Err(status)) => {
                    let words = || format!("{:?}: {}", status.code(), status.message());
                    submitted.errors.add((in_flight * self.batch) as u64, words);
                    break;
                }
                Err(_) => {
                    submitted.errors.add((in_flight * self.batch) as u64, || "no answer in time".to_owned());
                    break;
                }
            };
            in_flight -= 1;
            let pause = self.on_answer(&answer, phases, &mut submitted);
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            if Instant::now() < phases.end {
                in_flight += usize::from(self.send(phases));
            }
        }
        submitted
    }

    /// Sends the next message; the channel has room for all that may be in flight.
    fn send(&mut self, phases: Phases) -> bool {
        let mut transactions = Vec::with_capacity(self.batch);
        self.generator.many(self.batch, |id, payload| transactions.push(Transaction { id, payload }));
        let message = SubmitBatch {
            sequence: self.next_message,
            transactions,
            acknowledgement: Acknowledgement::Committed.into(),
        };
        self.sent_times[self.stream].set(self.next_message, phases.start);
        self.next_message += 1;
        self.messages.try_send(message).is_ok()
    }

    /// Counts an answer; how long to wait if it was a refusal.
    fn on_answer(
        &self,
        answer: &SubmitBatchReply,
        phases: Phases,
        submitted: &mut Submitted,
    ) -> Option<Duration> {
        let now = Instant::now();
        let mut committed = 0;
        let mut pause = None;
        for run in &answer.outcomes {
            match &run.outcome {
                Some(outcome::Outcome::Committed(_)) => committed += u64::from(run.count),
                Some(outcome::Outcome::Refused(refused)) => {
                    submitted.errors.add(u64::from(run.count), || {
                        format!("{}: {}", refused.reason().as_str_name(), refused.message)
                    });
                    pause = Some(Duration::from_millis(u64::from(refused.retry_after_ms.clamp(1, 1000))));
                }
                other => submitted.errors.add(u64::from(run.count), || format!("not committed: {other:?}")),
            }
        }
        submitted.acknowledged += committed;
        if committed > 0 && phases.measures(now) {
            let sent = phases.start + Duration::from_micros(self.sent_times[self.stream].at(answer.sequence));
            submitted.latencies.record_many(now.saturating_duration_since(sent), committed);
        }
        pause
    }
}

/// What the Deliver stream brought.
struct Received {
    /// Transactions of this run.
    total: u64,
    /// Those within the measured time.
    measured: u64,
    /// Blocks within the measured time.
    blocks: u64,
    latencies: Latencies,
    problems: Vec<String>,
}

struct Receiver {
    run: u64,
    batch: u64,
    sent_times: Arc<[SentTimes]>,
    /// Per stream, one above the last number that arrived.
    next: Vec<u64>,
    phases: Phases,
    received: Received,
}

impl Receiver {
    fn new(run: u64, args: &B2Args, sent_times: Arc<[SentTimes]>, phases: Phases) -> Self {
        let received =
            Received { total: 0, measured: 0, blocks: 0, latencies: Latencies::new(), problems: Vec::new() };
        let batch = u64::from(args.batch.min(args.window));
        Self { run, batch, sent_times, next: vec![0; args.streams as usize], phases, received }
    }

    /// Receives until all that was acknowledged has arrived, or too long after the end.
    async fn follow(mut self, mut blocks: Streaming<Block>, mut expected: watch::Receiver<u64>) -> Received {
        let deadline = self.phases.end + 2 * DRAIN_TIMEOUT;
        loop {
            if self.received.total >= *expected.borrow_and_update() {
                return self.received;
            }
            tokio::select! {
                block = blocks.message() => match block {
                    Ok(Some(block)) => self.on_block(&block),
                    Ok(None) => return self.ended("the node ended the delivery".to_owned()),
                    Err(status) => {
                        return self.ended(format!("delivery: {:?}: {}", status.code(), status.message()));
                    }
                },
                changed = expected.changed() => if changed.is_err() {
                    return self.ended("the submitters failed".to_owned());
                },
                () = tokio::time::sleep_until(deadline) => return self.ended("the delivery is late".to_owned()),
            }
        }
    }

    fn ended(mut self, problem: String) -> Received {
        self.received.problems.push(problem);
        self.received
    }

    fn on_block(&mut self, block: &Block) {
        let now = Instant::now();
        let measures = self.phases.measures(now);
        let mut ours = 0;
        // The run of transactions of one message.
        let mut current = None;
        let mut count = 0;
        for transaction in &block.transactions {
            let Some(id) = TransactionId::parse(&transaction.id).filter(|id| id.run == self.run) else {
                continue;
            };
            ours += 1;
            self.check(id);
            let message = Some((id.stream, id.number / self.batch));
            if message == current {
                count += 1;
                continue;
            }
            self.record(now, measures, current, count);
            (current, count) = (message, 1);
        }
        self.record(now, measures, current, count);
        self.received.total += ours;
        if measures {
            self.received.measured += ours;
            self.received.blocks += 1;
        }
    }

    /// Numbers of a stream only ever grow; a gap is a refused message.
    fn check(&mut self, id: TransactionId) {
        match self.next.get_mut(id.stream as usize) {
            Some(next) if id.number >= *next => *next = id.number + 1,
            Some(next) if self.received.problems.len() < 10 => {
                let problem = format!("stream {}: {} arrived after {}", id.stream, id.number, *next - 1);
                self.received.problems.push(problem);
            }
            _ => {}
        }
    }

    fn record(&mut self, now: Instant, measures: bool, message: Option<(u16, u64)>, count: u64) {
        let Some((stream, message)) = message.filter(|_| measures) else { return };
        let sent = self.phases.start + Duration::from_micros(self.sent_times[stream as usize].at(message));
        self.received.latencies.record_many(now.saturating_duration_since(sent), count);
    }
}
