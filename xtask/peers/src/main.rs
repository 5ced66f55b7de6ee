//! `cita-peer`: a stand-in for the controller or the network of one node of a CITA-Cloud chain.
//!
//! Reads the node's own configuration, serves until SIGTERM and then ends at once. What it does wrong, and
//! what it has seen, is asked of its control listener. Two more commands ask any service for its health, and play a
//! collector of traces.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cita_peers::config::{ControllerConfig, NetworkConfig};
use cita_peers::{Timing, call, collector, controller, network};
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing_subscriber::EnvFilter;

/// Threads of a controller: one may wait for the disk.
const CONTROLLER_THREADS: usize = 2;

/// Plays a CITA-Cloud service for end-to-end runs
#[derive(Debug, Parser)]
#[command(name = "cita-peer", version)]
struct Cli {
    /// What to log, as in RUST_LOG
    #[arg(long, value_name = "FILTER", env = "CITA_PEER_LOG", default_value = "warn", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keeps a chain of blocks, judges proposals, syncs with other controllers
    Controller(ControllerArguments),
    /// Carries messages between the nodes of a chain
    Network(NetworkArguments),
    /// Takes traces over OTLP and looks at none
    Collector(CollectorArguments),
    /// Asks a service for its health, as a probe does, and prints the answer
    Health(HealthArguments),
}

#[derive(Debug, Args)]
struct Common {
    /// The node's configuration, in the original format
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Where the control listener is
    #[arg(long, value_name = "ADDRESS")]
    control: SocketAddr,
    /// The node's directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct ControllerArguments {
    #[command(flatten)]
    common: Common,
    /// Blocks are not synced to disk
    #[arg(long)]
    no_fsync: bool,
}

#[derive(Debug, Args)]
struct NetworkArguments {
    #[command(flatten)]
    common: Common,
    /// Of what is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
struct CollectorArguments {
    /// Where
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct HealthArguments {
    /// Whom to ask
    address: SocketAddr,
    /// A named service
    #[arg(default_value = "")]
    service: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("log filter {:?}", cli.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut runtime = match cli.command {
        Command::Controller(_) => tokio::runtime::Builder::new_multi_thread(),
        Command::Network(_) | Command::Collector(_) | Command::Health(_) => {
            tokio::runtime::Builder::new_current_thread()
        }
    };
    let runtime = runtime.worker_threads(CONTROLLER_THREADS).enable_all().build().context("runtime")?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::terminate()).context("SIGTERM")?;
        tokio::select! {
            served = serve(cli.command) => served,
            _ = ended.recv() => std::process::exit(0),
        }
    })
}

async fn serve(command: Command) -> Result<()> {
    match command {
        Command::Controller(ControllerArguments { common, no_fsync }) => {
            let config = ControllerConfig::read(&common.config, &common.dir)?;
            let options = controller::Options {
                directory: &common.dir,
                is_synced: !no_fsync,
                timing: Timing::default(),
                control: bound(common.control).await?,
                listener: None,
            };
            controller::run(config, options).await
        }
        Command::Network(NetworkArguments { common, seed }) => {
            let config = NetworkConfig::read(&common.config, &common.dir)?;
            let options =
                network::Options { control: bound(common.control).await?, listener: None, peers: None, seed };
            network::run(config, options).await
        }
        Command::Collector(CollectorArguments { listen }) => collector::run(listen).await,
        Command::Health(arguments) => print_health(arguments).await,
    }
}

async fn print_health(HealthArguments { address, service }: HealthArguments) -> Result<()> {
    let channel = call::channel(&address.ip().to_string(), address.port())?;
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel).check(request).await?.into_inner();
    println!("{}", answer.status().as_str_name());
    Ok(())
}

async fn bound(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("control listener on {address}"))
}
