//! The arguments of `bench`, as typed: the workloads and what they have in common. What they do is in
//! `crate::commands::bench`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::certs::TlsArgs;
use super::duration;
use crate::remote::Address;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) workload: Workload,
}

/// What kind of load.
#[derive(Debug, Subcommand)]
pub(crate) enum Workload {
    /// Unary submissions, closed loop: call to acknowledgement
    #[command(visible_alias = "unary")]
    B1(B1Args),
    /// Submit streams with a window: submission to delivery on another node
    #[command(visible_alias = "stream")]
    B2(B2Args),
    /// Low load: submission to delivery, 20 tx/s or one client after the other
    #[command(visible_alias = "low-load")]
    B3(B3Args),
    /// More than a chain takes: submit streams at a fixed rate, whatever the answers do
    #[command(visible_alias = "overload")]
    B4(B4Args),
}

/// What every workload needs to know.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Nodes that the load is spread over
    #[arg(
        long,
        visible_alias = "node",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) nodes: Vec<Address>,
    /// Random bytes per transaction
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) payload: u32,
    /// Time before the measurement
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// Time measured
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = duration)]
    pub(crate) measure: Duration,
    /// Seed of ids and payloads [default: random]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Print JSON instead of a line of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whom B1 loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The ordering service
    Consensus,
    /// etcd's KV.Put, by the same loop
    Etcd,
}

/// Arguments of `bench b1`.
#[derive(Debug, Args)]
pub(crate) struct B1Args {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Calls in flight
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// Connections, spread over the nodes [default: the lesser of 8 and the concurrency]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) connections: Option<u32>,
    /// Service under load
    #[arg(long, value_enum, default_value = "consensus")]
    pub(crate) target: Target,
}

/// Arguments of `bench b2`.
#[derive(Debug, Args)]
pub(crate) struct B2Args {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Node whose Deliver stream is counted
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) deliver: Address,
    /// Submit streams, each on its own connection, spread over the nodes
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) streams: u32,
    /// Transactions of one stream that are not yet acknowledged, at most
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Transactions per message
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
}

/// How B3 paces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pace {
    /// A fixed rate, whatever the answers do
    Open,
    /// The next submission when the one before is delivered
    Closed,
}

/// Arguments of `bench b3`.
#[derive(Debug, Args)]
pub(crate) struct B3Args {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Node whose Deliver stream is awaited
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) deliver: Address,
    /// Open or closed loop
    #[arg(long, value_enum, default_value = "open")]
    pub(crate) pace: Pace,
    /// Transactions per second of the open loop
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
}

/// Arguments of `bench b4`.
#[derive(Debug, Args)]
pub(crate) struct B4Args {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Transactions per second, over all streams
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(crate) rate: u32,
    /// Submit streams, each on its own connection, spread over the nodes
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) streams: u32,
    /// Transactions per message
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
}
