//! `consensus-server run …`: the node of a cluster with the built-in ledger, and the way to the other command
//! line.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use consensus_server::config::{CLIENT_PORT, Config, Listen, LogFormat, OPS_PORT, PEER_PORT};
use consensus_server::lifecycle::{Listeners, Server};
use consensus_server::security;
use consensus_server::telemetry::logging;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EXIT_USAGE, cita, serve, told};

/// A second signal while the node stops.
const EXIT_IMPATIENT: i32 = 1;

/// Orders transactions into one hash-chained sequence of blocks, the same on every node of a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "consensus-server",
    version,
    after_help = "\
Examples:
  consensus-server run --dev             a one-node chain in ./data, nothing to configure
  consensus-server run -c node.toml      a node of a cluster
  consensus-server config check node.toml
  consensus-server cita run -c config.toml    the consensus service of a CITA-Cloud node

Exit codes: 0 fine, 1 the node could not start or go on, 2 wrong usage or configuration"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node until SIGTERM or SIGINT; a second signal ends it at once. SIGHUP reads the certificates again
    Run(Run),
    /// Looks at configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Is the consensus service of a CITA-Cloud node, as it is under the name `consensus`
    Cita {
        #[command(subcommand)]
        command: cita::Command,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The node's configuration (TOML)
    #[arg(short, long, value_name = "FILE", required_unless_present = "dev", conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// A one-node chain with all defaults, kept in DIR; ports that are taken are replaced by free ones
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "./data")]
    dev: Option<PathBuf>,
    /// What to log, as in RUST_LOG [default: log.filter of the configuration]
    #[arg(long, value_name = "FILTER", env = "CONSENSUS_LOG")]
    log: Option<String>,
    /// How to log [default: log.format of the configuration]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says what is wrong with a configuration, with lines; exit code 2 if anything is
    Check {
        /// The configuration (TOML)
        file: PathBuf,
    },
}

/// Does what the command line says.
pub(super) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Run(run) => run_node(run),
        Command::Config { command: ConfigCommand::Check { file } } => check(&file),
        Command::Cita { command } => command.run(),
    }
}

fn check(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(config) => {
            if let Err(error) = security::check(&config) {
                eprintln!("{error}");
                return ExitCode::from(EXIT_USAGE);
            }
            let (node, cluster, members) = (config.node_id, &config.cluster, config.members.len());
            println!("{}: fine: node {node} of cluster {cluster}, {members} member(s)", file.display());
            let parts = config.memory().map(|part| format!("{} {}", part.what, mebibytes(part.bytes)));
            println!("memory: at most {} MiB: {}", mebibytes(config.memory_bytes_max()), parts.join(", "));
            ExitCode::SUCCESS
        }
        Err(mistakes) => told(&mistakes),
    }
}

/// Rounded up.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn run_node(run: Run) -> ExitCode {
    let config = match (&run.config, &run.dev) {
        (Some(file), _) => match Config::load(file) {
            Ok(config) => config,
            Err(mistakes) => return told(&mistakes),
        },
        (None, dev) => Config::dev(dev.as_deref().unwrap_or(Path::new("./data")), dev_listen()),
    };
    let filter = run.log.as_deref().unwrap_or(&config.log.filter);
    let log = match logging::init(filter, run.log_format.unwrap_or(config.log.format)) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // What a node writes is for its owner alone: it holds everything that clients have submitted.
    umask(Mode::RWXG | Mode::RWXO);
    let (threads, dev) = (config.worker_threads, run.dev.is_some());
    match serve(threads, &log, serve_node(config, log.clone(), dev)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs a node until a signal comes.
async fn serve_node(config: Config, log: logging::LogControl, dev: bool) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals cannot be received")?;
    let listeners = Listeners::bind(&config.listen).await?;
    let server = Server::start(config, listeners, log).await?;
    if dev {
        print!("{}", welcome(server.config()));
    }
    let name = signals.stop(&server).await;
    tracing::info!(signal = name, "asked to stop");
    tokio::select! {
        () = server.stop() => Ok(()),
        name = signals.stop_again() => {
            tracing::warn!(signal = name, "asked to stop again, ending at once");
            std::process::exit(EXIT_IMPATIENT);
        }
    }
}

/// The signals that a node understands.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the one that stops the node. SIGHUP makes it look at its certificate files until then.
    async fn stop(&mut self, server: &Server) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => server.reload(),
            }
        }
    }

    /// The name of a further one that stops it.
    async fn stop_again(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The default ports, or free ones where they are taken.
fn dev_listen() -> Listen {
    let free_or_any = |port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(_) => address,
            Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    };
    Listen { client: free_or_any(CLIENT_PORT), peer: free_or_any(PEER_PORT), ops: free_or_any(OPS_PORT) }
}

/// How to talk to a node that was started without a configuration.
fn welcome(config: &Config) -> String {
    let Listen { client, ops, .. } = config.listen;
    let (chain, data) = (&config.chain.name, config.data_dir.display());
    format!(
        "\
consensus-server {version}: chain {chain:?}, one node, data in {data}

  submit    consensus-cli submit --to {client} 'hello, chain'
  read      consensus-cli deliver --nodes {client}
  follow    consensus-cli deliver --nodes {client} --from live --follow
  look      consensus-cli status --nodes {client}
  offline   consensus-cli dump {data}
  metrics   curl http://{ops}/metrics

Ctrl-C stops it; the chain stays in {data}.
",
        version = env!("CARGO_PKG_VERSION"),
    )
}
