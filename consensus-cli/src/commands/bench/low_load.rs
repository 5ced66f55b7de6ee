//! B3: low load, submission to delivery on another node.
//!
//! Open loop: transactions leave at fixed times whatever happens to those before, and latency counts from
//! the time at which one was due, so that a stall is not hidden by sending less. Closed loop: the next
//! leaves when the one before has been delivered.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use consensus_proto::ordering::{Acknowledgement, Block, SubmitRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::Streaming;

use super::{
    Errors, Generator, Phases, Report, TransactionId, addresses, client_cores, open_delivery, parameters,
    rate,
};
use crate::args::bench::{B3Args, Pace};
use crate::latency::Latencies;
use crate::remote::{Access, Node, Patience, request};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed call, so that failing fast is no load.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// How late the runtime's timer may be.
const TIMER_SLACK: Duration = Duration::from_millis(3);

/// Deliveries noted and not yet looked at.
const DELIVERIES_MAX: usize = 4096;

/// Number of a transaction of this run, and when it was delivered.
type Delivery = (u64, Instant);

pub(super) async fn run(args: &B3Args) -> anyhow::Result<Report> {
    let seed = args.load.seed.unwrap_or_else(rand::random);
    let generator = Generator::new(seed, 0, args.load.payload);
    let address = args.load.nodes.first().context("a node is required")?;
    let access = Access::new(&args.load.tls)?;
    let node = access.connect(address, CALL_TIMEOUT, Patience::Alone).await?;
    let blocks = open_delivery(&access, &args.deliver).await?;
    let (deliveries, delivered) = mpsc::channel(DELIVERIES_MAX);
    let receiver = tokio::spawn(receive(blocks, generator.run, deliveries));
    let phases = Phases::from_now(&args.load);
    let cores = tokio::spawn(client_cores(phases));
    let load = Load { node, generator, phases, delivered, outcome: Outcome::new() };
    let outcome = match args.pace {
        Pace::Open => load.open(args.rate).await,
        Pace::Closed => load.closed().await,
    };
    receiver.abort();
    let operations = outcome.latencies.summary().count;
    Ok(Report {
        schema: "consensus-cli/bench/1",
        workload: "b3",
        target: "consensus",
        nodes: vec![address.to_string()],
        deliver: addresses(std::slice::from_ref(&args.deliver)).pop(),
        parameters: match args.pace {
            Pace::Open => parameters([("pace", "open".into()), ("rate", args.rate.into())]),
            Pace::Closed => parameters([("pace", "closed".into())]),
        },
        blocks: None,
        payload_bytes: args.load.payload,
        seed,
        measured_ms: args.load.measure.as_millis() as u64,
        operations,
        rate_per_s: rate(operations, args.load.measure),
        latency: outcome.latencies.summary(),
        acknowledgement: Some(outcome.acknowledged.summary()),
        errors: outcome.errors.count,
        first_error: outcome.errors.first,
        client_cores: cores.await.context("measuring processor time")?,
        problems: outcome.problems,
    })
}

/// Notes this run's transactions as they arrive, until the stream or the interest in it ends.
async fn receive(mut blocks: Streaming<Block>, run: u64, deliveries: mpsc::Sender<Delivery>) {
    while let Ok(Some(block)) = blocks.message().await {
        let now = Instant::now();
        for transaction in &block.transactions {
            let id = TransactionId::parse(&transaction.id).filter(|id| id.run == run);
            if let Some(id) = id
                && deliveries.send((id.number, now)).await.is_err()
            {
                return;
            }
        }
    }
}

struct Outcome {
    /// Submission to delivery.
    latencies: Latencies,
    /// Submission to acknowledgement.
    acknowledged: Latencies,
    errors: Errors,
    problems: Vec<String>,
}

impl Outcome {
    fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            acknowledged: Latencies::new(),
            errors: Errors::default(),
            problems: Vec::new(),
        }
    }
}

struct Load {
    node: Node,
    generator: Generator,
    phases: Phases,
    delivered: mpsc::Receiver<Delivery>,
    outcome: Outcome,
}

/// Submits one transaction; when it was acknowledged.
async fn submit(node: Node, id: Bytes, payload: Bytes) -> anyhow::Result<Instant> {
    let wanted = SubmitRequest { id, payload, acknowledgement: Acknowledgement::Committed.into() };
    let answer = node.ordering().submit(request(wanted, CALL_TIMEOUT)).await;
    answer.map_err(|status| node.explain(&status))?;
    Ok(Instant::now())
}

impl Load {
    async fn open(mut self, per_second: u32) -> Outcome {
        let interval = Duration::from_secs(1) / per_second;
        let due = |number: u64| self.phases.start + interval.mul_f64(number as f64);
        let mut calls = JoinSet::new();
        let mut arrived = 0;
        let mut sent = 0;
        while due(sent) < self.phases.end {
            tokio::select! {
                () = exactly_at(due(sent)) => {
                    let (id, payload) = self.generator.one();
                    let (node, at) = (self.node.clone(), due(sent));
                    calls.spawn(async move { (at, submit(node, id, payload).await) });
                    sent += 1;
                }
                delivery = self.delivered.recv() => {
                    let Some((number, at)) = delivery else { break };
                    arrived += 1;
                    if self.phases.measures(at) {
                        self.outcome.latencies.record(at.saturating_duration_since(due(number)));
                    }
                }
                Some(call) = calls.join_next() => note(&mut self.outcome, self.phases, call),
            }
        }
        while let Some(call) = calls.join_next().await {
            note(&mut self.outcome, self.phases, call);
        }
        let expected = sent - self.outcome.errors.count.min(sent);
        while arrived < expected {
            match timeout_at(self.phases.end + CALL_TIMEOUT, self.delivered.recv()).await {
                Ok(Some(_)) => arrived += 1,
                Ok(None) | Err(_) => {
                    self.outcome.problems.push(format!("{expected} acknowledged, {arrived} delivered"));
                    break;
                }
            }
        }
        self.outcome
    }

    async fn closed(mut self) -> Outcome {
        let mut number = 0;
        while Instant::now() < self.phases.end {
            let (id, payload) = self.generator.one();
            let sent = Instant::now();
            match submit(self.node.clone(), id, payload).await {
                // Delivery may well have come before; its time was noted when it came.
                Ok(acknowledged) => match next(&mut self.delivered, number, sent + CALL_TIMEOUT).await {
                    Ok(at) if self.phases.measures(at) => {
                        self.outcome.latencies.record(at - sent);
                        self.outcome.acknowledged.record(acknowledged - sent);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.outcome.problems.push(format!("acknowledged and not delivered: {error:#}"));
                        break;
                    }
                },
                Err(error) => {
                    self.outcome.errors.add(1, || format!("{error:#}"));
                    sleep(ERROR_PAUSE).await;
                }
            }
            number += 1;
        }
        self.outcome
    }
}

/// Waits until `due` to the microsecond: the runtime's timer alone is a millisecond or two late, which would
/// count as latency of the service.
async fn exactly_at(due: Instant) {
    sleep_until(due - TIMER_SLACK).await;
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

/// When the transaction of that number was delivered.
async fn next(
    delivered: &mut mpsc::Receiver<Delivery>,
    number: u64,
    deadline: Instant,
) -> anyhow::Result<Instant> {
    loop {
        match timeout_at(deadline, delivered.recv()).await {
            Ok(Some((arrived, at))) if arrived == number => return Ok(at),
            Ok(Some(_)) => {}
            Ok(None) => return Err(anyhow!("the node ended the delivery")),
            Err(_) => return Err(anyhow!("not delivered in time")),
        }
    }
}

type Call = Result<(Instant, anyhow::Result<Instant>), tokio::task::JoinError>;

fn note(outcome: &mut Outcome, phases: Phases, call: Call) {
    match call {
        Ok((due, Ok(at))) if phases.measures(at) => {
            outcome.acknowledged.record(at.saturating_duration_since(due))
        }
        Ok((_, Ok(_))) => {}
        Ok((_, Err(error))) => outcome.errors.add(1, || format!("{error:#}")),
        Err(error) => outcome.errors.add(1, || format!("a call failed: {error}")),
    }
}
