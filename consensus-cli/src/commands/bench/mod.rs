//! `bench`: load for `cargo xtask bench`, and what came of it.
//!
//! One client process on two threads, the same whatever is under load. Payloads are random and new for
//! each transaction; ids are 16 bytes that tell run, stream and place ([`TransactionId`]). Operations
//! count if they end within the measured time, which follows the warm-up.
//!
//! The JSON (schema `consensus-cli/bench/1`): `workload` (`b1` to `b4`), `target`, `nodes[]`,
//! `deliver` (or null), `parameters` (an object, by workload), `blocks` (delivered, or null), `payload_bytes`, `seed`, `measured_ms`,
//! `operations`, `rate_per_s`, `latency` (of an operation, microseconds), `acknowledgement` (latency from
//! submission to acknowledgement where that is not the operation, or null), `errors`, `first_error`,
//! `client_cores` (processor time of this process over the measured time), `problems[]` (of the gate: order,
//! repetition, loss; empty if it holds). A run with problems has no figures worth quoting; its exit code
//! is 1.

mod low_load;
mod overload;
mod stream;
mod unary;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{BufMut, Bytes, BytesMut};
use consensus_proto::ordering::{Block, DeliverRequest, TipRequest, deliver_request};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tonic::Streaming;

use crate::args::bench::{BenchArgs, LoadArgs, Workload};
use crate::latency::LatencySummary;
use crate::output::{Verdict, json, text};
use crate::remote::{Access, Address, Patience, request};

/// How long setting up may take, per step.
const SETUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a workload.
///
/// # Errors
/// If no load can be put on the nodes at all.
pub(crate) async fn run(args: BenchArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (report, as_json) = match args.workload {
        Workload::B1(args) => (unary::run(&args).await?, args.load.json),
        Workload::B2(args) => (stream::run(&args).await?, args.load.json),
        Workload::B3(args) => (low_load::run(&args).await?, args.load.json),
        Workload::B4(args) => (overload::run(&args).await?, args.load.json),
    };
    if as_json {
        json::line(out, &report)?;
    } else {
        print(out, &report)?;
    }
    Ok(Verdict::finding_if(!report.problems.is_empty() || report.operations == 0))
}

/// What came of a workload.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    workload: &'static str,
    target: &'static str,
    nodes: Vec<String>,
    deliver: Option<String>,
    parameters: BTreeMap<&'static str, Value>,
    blocks: Option<u64>,
    payload_bytes: u32,
    seed: u64,
    measured_ms: u64,
    operations: u64,
    rate_per_s: u64,
    latency: LatencySummary,
    acknowledgement: Option<LatencySummary>,
    errors: u64,
    first_error: Option<String>,
    client_cores: f64,
    problems: Vec<String>,
}

fn parameters<const N: usize>(named: [(&'static str, Value); N]) -> BTreeMap<&'static str, Value> {
    BTreeMap::from(named)
}

fn addresses(nodes: &[Address]) -> Vec<String> {
    nodes.iter().map(Address::to_string).collect()
}

/// A Deliver stream that begins right behind the tip.
async fn open_delivery(access: &Access, address: &Address) -> anyhow::Result<Streaming<Block>> {
    let node = access.connect(address, SETUP_TIMEOUT, Patience::Alone).await?;
    let tip = node.ordering().tip(request(TipRequest::default(), SETUP_TIMEOUT)).await;
    let tip = tip.map_err(|status| node.explain(&status))?.into_inner();
    let from = deliver_request::From::Number.into();
    let wanted = DeliverRequest { from, number: tip.height + 1, ..DeliverRequest::default() };
    let opening = tokio::time::timeout(SETUP_TIMEOUT, async { node.ordering().deliver(wanted).await }).await;
    let blocks = opening.with_context(|| format!("{address}: no answer in time"))?;
    Ok(blocks.map_err(|status| node.explain(&status))?.into_inner())
}

fn rate(operations: u64, measured: Duration) -> u64 {
    (operations as f64 / measured.as_secs_f64()).round() as u64
}

fn print(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    let parameters: Vec<String> =
        report.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let latency = &report.latency;
    writeln!(
        out,
        "{} {:<9} {} node(s)  {}  {} B | {}/s | p50 {}  p99 {}  p99.9 {}  max {} | errors {} | client {:.2} cores",
        report.workload,
        report.target,
        report.nodes.len(),
        parameters.join(" "),
        report.payload_bytes,
        text::thousands(report.rate_per_s),
        text::micros(latency.p50_us),
        text::micros(latency.p99_us),
        text::micros(latency.p999_us),
        text::micros(latency.max_us),
        report.errors,
        report.client_cores
    )?;
    if let Some(acknowledgement) = &report.acknowledgement {
        let (p50, p99) = (text::micros(acknowledgement.p50_us), text::micros(acknowledgement.p99_us));
        writeln!(out, "   acknowledged after p50 {p50}  p99 {p99}")?;
    }
    if let Some(error) = &report.first_error {
        writeln!(out, "   first error: {error}")?;
    }
    for problem in &report.problems {
        writeln!(out, "   PROBLEM {problem}")?;
    }
    Ok(())
}

/// When a run warms up, measures and ends.
#[derive(Clone, Copy, Debug)]
struct Phases {
    start: Instant,
    measure: Instant,
    end: Instant,
}

impl Phases {
    fn from_now(load: &LoadArgs) -> Self {
        let start = Instant::now();
        let measure = start + load.warm_up;
        Self { start, measure, end: measure + load.measure }
    }

    fn measures(&self, at: Instant) -> bool {
        self.measure <= at && at < self.end
    }
}

/// Processor time of this process within the measured phase, in cores.
async fn client_cores(phases: Phases) -> f64 {
    tokio::time::sleep_until(phases.measure).await;
    let before = cpu_time();
    tokio::time::sleep_until(phases.end).await;
    (cpu_time() - before).as_secs_f64() / (phases.end - phases.measure).as_secs_f64()
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Length of a transaction's id.
const ID_BYTES: usize = 16;

/// The id of a generated transaction: which run (8 bytes), which stream (2 bytes) and which of its
/// transactions from 0 on (6 bytes), all big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TransactionId {
    run: u64,
    stream: u16,
    number: u64,
}

impl TransactionId {
    fn put(self, buffer: &mut BytesMut) {
        buffer.put_u64(self.run);
        buffer.put_u16(self.stream);
        buffer.put_uint(self.number, 6);
    }

    fn parse(id: &[u8]) -> Option<Self> {
        let id: &[u8; ID_BYTES] = id.try_into().ok()?;
        let number =
            |from: usize, to: usize| id[from..to].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        Some(Self { run: number(0, 8), stream: number(8, 10) as u16, number: number(10, 16) })
    }
}

/// Makes the transactions of one stream. Ids and payloads of one call share one allocation.
#[derive(Debug)]
struct Generator {
    random: SmallRng,
    run: u64,
    stream: u16,
    next: u64,
    payload_bytes: usize,
}

impl Generator {
    fn new(seed: u64, stream: u16, payload_bytes: u32) -> Self {
        let mut run = SmallRng::seed_from_u64(seed);
        let run = run.next_u64();
        let random = SmallRng::seed_from_u64(run ^ (u64::from(stream) + 1));
        Self { random, run, stream, next: 0, payload_bytes: payload_bytes as usize }
    }

    /// The next id and payload.
    fn one(&mut self) -> (Bytes, Bytes) {
        let mut made = (Bytes::new(), Bytes::new());
        self.many(1, |id, payload| made = (id, payload));
        made
    }

    /// The next `count` ids and payloads.
    fn many(&mut self, count: usize, mut each: impl FnMut(Bytes, Bytes)) {
        let size = ID_BYTES + self.payload_bytes;
        let mut buffer = BytesMut::with_capacity(count * size);
        for _ in 0..count {
            TransactionId { run: self.run, stream: self.stream, number: self.next }.put(&mut buffer);
            self.next += 1;
            let payload_start = buffer.len();
            buffer.resize(payload_start + self.payload_bytes, 0);
            self.random.fill_bytes(&mut buffer[payload_start..]);
        }
        let buffer = buffer.freeze();
        for at in (0..count).map(|n| n * size) {
            each(buffer.slice(at..at + ID_BYTES), buffer.slice(at + ID_BYTES..at + size));
        }
    }
}

/// Failures, counted, with the words of the first.
#[derive(Debug, Default)]
struct Errors {
    count: u64,
    first: Option<String>,
}

impl Errors {
    fn add(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.count += count;
        if count > 0 {
            self.first.get_or_insert_with(what);
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_run_stream_and_number() {
        let id = TransactionId { run: 0x0102_0304_0506_0708, stream: 7, number: 0xffff_ffff_ffff };
        let mut buffer = BytesMut::new();
        id.put(&mut buffer);
        assert_eq!(buffer.len(), ID_BYTES);
        assert_eq!(TransactionId::parse(&buffer), Some(id));
        assert_eq!(TransactionId::parse(b"short"), None);
    }

    #[test]
    fn transactions_repeat_with_the_seed_and_differ_within_a_run() {
        let (mut one, mut same, mut other) =
            (Generator::new(5, 0, 64), Generator::new(5, 0, 64), Generator::new(5, 1, 64));
        let first = one.one();
        assert_eq!(first, same.one());
        assert_ne!(first.1, other.one().1);
        assert_ne!(first.0, one.one().0);
        let mut rest = Vec::new();
        one.many(3, |id, _| rest.push(TransactionId::parse(&id).expect("16 bytes").number));
        assert_eq!(rest, [2, 3, 4]);
    }

    #[test]
    fn processor_time_goes_forward() {
        let before = cpu_time();
        let mut sum = 0u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time() > before);
    }
}
