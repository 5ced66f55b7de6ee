//! B1: unary calls in a closed loop, call to acknowledgement.
//!
//! The loop is one piece of code over the trait [`Service`]; the ordering service and etcd's KV differ in
//! the call only, and share connections, payloads, ids (etcd: keys) and bookkeeping.

use std::time::Duration;

use bytes::Bytes;
use consensus_proto::ordering::ordering_client::OrderingClient;
use consensus_proto::ordering::{Acknowledgement, SubmitRequest, submit_reply};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use super::{Errors, Generator, Phases, Report, addresses, client_cores, parameters, rate};
use crate::args::bench::{B1Args, Target};
use crate::etcd::PutRequest;
use crate::etcd::kv_client::KvClient;
use crate::latency::Latencies;
use crate::remote::{Access, Node, Patience};

/// A call that takes longer counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause of a worker after a failed call, so that failing fast is no load.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What B1 needs of a service.
trait Service: Clone + Send + 'static {
    /// Makes one transaction durable.
    fn call(&mut self, id: Bytes, payload: Bytes) -> impl Future<Output = Result<(), Status>> + Send;
}

#[derive(Clone)]
struct Consensus(OrderingClient<Channel>);

impl Service for Consensus {
    async fn call(&mut self, id: Bytes, payload: Bytes) -> Result<(), Status> {
        let request = SubmitRequest { id, payload, acknowledgement: Acknowledgement::Committed.into() };
        match self.0.submit(request).await?.into_inner().outcome {
            Some(submit_reply::Outcome::Committed(committed)) if committed.height > 0 => Ok(()),
            other => Err(Status::internal(format!("not committed: {other:?}"))),
        }
    }
}

#[derive(Clone)]
struct Etcd(KvClient<Channel>);

impl Service for Etcd {
    async fn call(&mut self, id: Bytes, payload: Bytes) -> Result<(), Status> {
        self.0.put(PutRequest { key: id, value: payload }).await?;
        Ok(())
    }
}

pub(super) async fn run(args: &B1Args) -> anyhow::Result<Report> {
    let connections = args.connections.unwrap_or(args.concurrency.min(8));
    let access = Access::new(&args.load.tls)?;
    let mut nodes = Vec::with_capacity(connections as usize);
    for address in args.load.nodes.iter().cycle().take(connections as usize) {
        nodes.push(access.connect(address, CALL_TIMEOUT, Patience::Alone).await?);
    }
    let seed = args.load.seed.unwrap_or_else(rand::random);
    let clients = nodes.iter().map(Node::channel);
    let (outcome, cores) = match args.target {
        Target::Consensus => {
            measure(args, seed, clients.map(|c| Consensus(OrderingClient::new(c))).collect()).await
        }
        Target::Etcd => measure(args, seed, clients.map(|c| Etcd(KvClient::new(c))).collect()).await,
    };
    let mut latencies = Latencies::new();
    for us in &outcome.latencies_us {
        latencies.record(Duration::from_micros(u64::from(*us)));
    }
    let operations = outcome.latencies_us.len() as u64;
    Ok(Report {
        schema: "consensus-cli/bench/1",
        workload: "b1",
        target: match args.target {
            Target::Consensus => "consensus",
            Target::Etcd => "etcd",
        },
        nodes: addresses(&args.load.nodes),
        deliver: None,
        parameters: parameters([
            ("concurrency", args.concurrency.into()),
            ("connections", connections.into()),
        ]),
        blocks: None,
        payload_bytes: args.load.payload,
        seed,
        measured_ms: args.load.measure.as_millis() as u64,
        operations,
        rate_per_s: rate(operations, args.load.measure),
        latency: latencies.summary(),
        acknowledgement: None,
        errors: outcome.errors.count,
        first_error: outcome.errors.first,
        client_cores: cores,
        problems: Vec::new(),
    })
}

/// What workers bring home.
#[derive(Debug, Default)]
struct Outcome {
    latencies_us: Vec<u32>,
    errors: Errors,
}

async fn measure<S: Service>(args: &B1Args, seed: u64, clients: Vec<S>) -> (Outcome, f64) {
    let phases = Phases::from_now(&args.load);
    let mut workers = JoinSet::new();
    for worker in 0..args.concurrency {
        let client = clients[worker as usize % clients.len()].clone();
        // Streams are numbered in 16 bits; beyond that, workers take further seeds.
        let generator =
            Generator::new(seed.wrapping_add(u64::from(worker >> 16)), worker as u16, args.load.payload);
        workers.spawn(work(client, generator, phases));
    }
    let cores = client_cores(phases).await;
    let mut total = Outcome::default();
    while let Some(outcome) = workers.join_next().await {
        match outcome {
            Ok(outcome) => {
                total.latencies_us.extend_from_slice(&outcome.latencies_us);
                total.errors.merge(outcome.errors);
            }
            Err(error) => total.errors.add(1, || format!("a worker failed: {error}")),
        }
    }
    (total, cores)
}

async fn work<S: Service>(mut client: S, mut generator: Generator, phases: Phases) -> Outcome {
    let mut outcome = Outcome::default();
    while Instant::now() < phases.end {
        let (id, payload) = generator.one();
        let called = Instant::now();
        let answer = timeout(CALL_TIMEOUT, client.call(id, payload)).await;
        let answered = Instant::now();
        match answer {
            Ok(Ok(())) if phases.measures(answered) => {
                outcome.latencies_us.push((answered - called).as_micros() as u32);
            }
            Ok(Ok(())) => {}
            Ok(Err(status)) => {
                outcome.errors.add(1, || format!("{:?}: {}", status.code(), status.message()));
                sleep(ERROR_PAUSE).await;
            }
            Err(_) => outcome.errors.add(1, || "no answer in time".to_owned()),
        }
    }
    outcome
}
