//! B4: more than a chain takes, by the clock and not by the answers.
//!
//! Each stream sends its messages when they are due. What the node does not read is not sent later: it is counted
//! as held back, which is how a node that has enough slows its clients down. A stream that breaks, or that the node
//! does not take, is opened again after a pause for as long as the run lasts.
//!
//! Operations are transactions committed within the measured time, their latency runs from when they were due;
//! errors are those that were refused or whose stream broke. `offered`, `sent` and `refused` among the parameters
//! are of the whole run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use consensus_proto::ordering::{Acknowledgement, SubmitBatch, SubmitBatchReply, outcome};
use consensus_proto::records::Transaction;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Errors, Generator, Phases, Report, SETUP_TIMEOUT, addresses, client_cores, parameters, rate};
use crate::args::bench::B4Args;
use crate::latency::Latencies;
use crate::remote::{Access, Address, Patience};

/// Messages that wait for the connection; what comes on top is held back.
const QUEUED_MAX: usize = 16;

/// Until a stream that broke is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &B4Args) -> anyhow::Result<Report> {
    let seed = args.load.seed.unwrap_or_else(rand::random);
    let access = Access::new(&args.load.tls)?;
    let phases = Phases::from_now(&args.load);
    let every = Duration::from_secs_f64(f64::from(args.streams * args.batch) / f64::from(args.rate));
    let mut tasks = JoinSet::new();
    for (stream, address) in (0..args.streams).zip(args.load.nodes.iter().cycle()) {
        let flow = Flow {
            access: access.clone(),
            address: address.clone(),
            generator: Generator::new(seed, stream as u16, args.load.payload),
            batch: args.batch as usize,
            every,
            // Spread over one interval, so that streams take turns.
            due: phases.start + every.mul_f64(f64::from(stream) / f64::from(args.streams)),
            phases,
            tally: Tally::new(),
        };
        tasks.spawn(flow.drive());
    }
    let cores = client_cores(phases).await;
    let mut total = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        total.merge(tally.context("a stream failed")?);
    }
    Ok(report(args, seed, cores, total))
}

fn report(args: &B4Args, seed: u64, cores: f64, total: Tally) -> Report {
    Report {
        schema: "consensus-cli/bench/1",
        workload: "b4",
        target: "consensus",
        nodes: addresses(&args.load.nodes),
        deliver: None,
        parameters: parameters([
            ("streams", args.streams.into()),
            ("batch", args.batch.into()),
            ("rate", args.rate.into()),
            ("offered", total.offered.into()),
            ("sent", total.sent.into()),
            ("refused", total.refused.into()),
        ]),
        blocks: None,
        payload_bytes: args.load.payload,
        seed,
        measured_ms: args.load.measure.as_millis() as u64,
        operations: total.committed,
        rate_per_s: rate(total.committed, args.load.measure),
        latency: total.latencies.summary(),
        acknowledgement: None,
        errors: total.errors.count,
        first_error: total.errors.first,
        client_cores: cores,
        problems: Vec::new(),
    }
}

/// What came of transactions.
struct Tally {
    offered: u64,
    sent: u64,
    refused: u64,
    committed: u64,
    latencies: Latencies,
    errors: Errors,
}

impl Tally {
    fn new() -> Self {
        Self {
            offered: 0,
            sent: 0,
            refused: 0,
            committed: 0,
            latencies: Latencies::new(),
            errors: Errors::default(),
        }
    }

    fn merge(&mut self, other: Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.refused += other.refused;
        self.committed += other.committed;
        self.latencies.merge(&other.latencies);
        self.errors.merge(other.errors);
    }
}

/// One stream's share of the rate.
struct Flow {
    access: Access,
    address: Address,
    generator: Generator,
    batch: usize,
    every: Duration,
    /// When the next message is.
    due: Instant,
    phases: Phases,
    tally: Tally,
}

/// An open stream.
struct Open {
    messages: mpsc::Sender<SubmitBatch>,
    answers: Streaming<SubmitBatchReply>,
    next: u64,
    /// When the messages that are not answered were due.
    unanswered: HashMap<u64, Instant>,
}

impl Flow {
    async fn drive(mut self) -> Tally {
        while Instant::now() < self.phases.end {
            let broke = match self.open().await {
                Ok(open) => self.stream(open).await,
                Err(error) => Some(format!("{error:#}")),
            };
            let Some(why) = broke else { break };
            self.tally.errors.add(1, || why);
            self.skip();
            sleep(REOPEN_PAUSE).await;
        }
        self.skip();
        self.tally
    }

    /// What is due and has nowhere to go.
    fn skip(&mut self) {
        let now = Instant::now().min(self.phases.end);
        while self.due < now {
            self.due += self.every;
            self.tally.offered += self.batch as u64;
        }
    }

    async fn open(&self) -> anyhow::Result<Open> {
        let node = self.access.connect(&self.address, SETUP_TIMEOUT, Patience::Alone).await?;
        let (messages, requests) = mpsc::channel(QUEUED_MAX);
        let mut client = node.ordering();
        let opening = timeout(SETUP_TIMEOUT, client.submit_stream(ReceiverStream::new(requests))).await;
        let answers = opening.map_err(|_| anyhow!("{}: no answer in time", self.address))?;
        let answers = answers.map_err(|status| node.explain(&status))?.into_inner();
        Ok(Open { messages, answers, next: 0, unanswered: HashMap::new() })
    }

    /// Sends until the end, or says why the stream broke.
    async fn stream(&mut self, mut open: Open) -> Option<String> {
        loop {
            tokio::select! {
                answer = open.answers.message() => match answer {
                    Ok(Some(answer)) => self.on_answer(&mut open, &answer),
                    Ok(None) => return self.broke(&open, "the node ended the stream".to_owned()),
                    Err(status) => return self.broke(&open, format!("{:?}: {}", status.code(), status.message())),
                },
                () = sleep_until(self.due), if self.due < self.phases.end => self.send(&mut open),
                () = sleep_until(self.phases.end) => return None,
            }
        }
    }

    fn broke(&mut self, open: &Open, why: String) -> Option<String> {
        self.tally.errors.count += (open.unanswered.len() * self.batch) as u64;
        Some(why)
    }

    fn send(&mut self, open: &mut Open) {
        let due = self.due;
        self.due += self.every;
        self.tally.offered += self.batch as u64;
        let Ok(place) = open.messages.try_reserve() else { return };
        let mut transactions = Vec::with_capacity(self.batch);
        self.generator.many(self.batch, |id, payload| transactions.push(Transaction { id, payload }));
        let acknowledgement = Acknowledgement::Committed.into();
        place.send(SubmitBatch { sequence: open.next, transactions, acknowledgement });
        open.unanswered.insert(open.next, due);
        open.next += 1;
        self.tally.sent += self.batch as u64;
    }

    fn on_answer(&mut self, open: &mut Open, answer: &SubmitBatchReply) {
        let now = Instant::now();
        let due = open.unanswered.remove(&answer.sequence);
        for run in &answer.outcomes {
            let count = u64::from(run.count);
            match &run.outcome {
                Some(outcome::Outcome::Committed(_)) => {
                    if let Some(due) = due.filter(|_| self.phases.measures(now)) {
                        self.tally.committed += count;
                        self.tally.latencies.record_many(now.saturating_duration_since(due), count);
                    }
                }
                Some(outcome::Outcome::Refused(refused)) => {
                    self.tally.refused += count;
                    let words = || format!("{}: {}", refused.reason().as_str_name(), refused.message);
                    self.tally.errors.add(count, words);
                }
                other => self.tally.errors.add(count, || format!("not committed: {other:?}")),
            }
        }
    }
}
