//! `consensus-cli`: inspects a consensus node's data offline and operates a live cluster.
//!
//! * Offline commands (`offline`, `commands/{dump,hard_state,snapshot,peers,verify,audit}.rs`) read a data
//!   directory without ever writing to it, whether its node is running, stopped or was killed.
//! * Remote commands (`remote`, `submission`, the other files of `commands`) talk to nodes over gRPC,
//!   in plaintext or with TLS. `certs` makes the certificates for that.
//!
//! The exit code is 0 if all is fine, 1 if something was found or refused, 2 if neither can be said. What
//! is printed for programs is described in `output/json.rs`.

mod args;
mod cita;
mod commands;
mod entry;
#[cfg(test)]
mod fake_node;
mod latency;
mod offline;
mod output;
mod remote;
mod submission;

/// The load generator's view of etcd's API.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations)]
mod etcd {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::output::{Verdict, text};

fn main() -> ExitCode {
    if is_probe() {
        return probe();
    }
    let cli = Cli::parse();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let verdict = run(cli.command, &mut out).and_then(|verdict| {
        out.flush()?;
        Ok(verdict)
    });
    match verdict {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Finding) => ExitCode::from(1),
        Ok(Verdict::CannotTell) => ExitCode::from(2),
        Err(error) => {
            if !is_broken_pipe(&error) {
                eprintln!("consensus-cli: {}", text::one_line(&format!("{error:#}")));
            }
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    match command {
        Command::Dump(args) => commands::dump::run(&args, out),
        Command::HardState(args) => commands::hard_state::run(&args, out),
        Command::Snapshot(args) => commands::snapshot::run(&args, out),
        Command::Peers(args) => commands::peers::run(&args, out),
        Command::Verify(args) => commands::verify::run(&args, out),
        Command::Blocks(args) => commands::blocks::run(&args, out),
        Command::Audit(args) => commands::audit::run(&args, out),
        Command::Certs(args) => commands::certs::run(&args, out),
        Command::Submit(args) => block_on(commands::submit::run(args, out)),
        Command::Deliver(args) => block_on(commands::deliver::run(args, out)),
        Command::Block(args) => block_on(commands::block::run(args, out)),
        Command::Tx(args) => block_on(commands::tx::run(args, out)),
        Command::Prove(args) => block_on(commands::tx::run_prove(args, out)),
        Command::Tip(args) => block_on(commands::block::run_tip(args, out)),
        Command::Status(args) => block_on(commands::status::run(args, out)),
        Command::Health(args) => block_on(commands::health::run(args, out)),
        Command::TransferLeader(args) => block_on(commands::transfer::run(args, out)),
        Command::LogFilter(args) => block_on(commands::transfer::run_log_filter(args, out)),
        Command::VoidBlock(args) => block_on(commands::void::run(args, out)),
        Command::Bench(args) => block_on(commands::bench::run(args, out)),
    }
}

/// Whether the program was started under the name of the health probe.
fn is_probe() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name == commands::health::PROBE_NAME)
}

/// Runs as the health probe, with its flags and exit codes.
fn probe() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::health::run_probe(arguments)),
        Err(error) => {
            eprintln!("{}: starting the runtime: {error}", commands::health::PROBE_NAME);
            ExitCode::from(commands::health::PROBE_UNREACHABLE)
        }
    }
}

/// Runs a command that talks to nodes, on two threads: enough for a client, and little enough to leave the
/// machine to what is measured.
fn block_on(command: impl Future<Output = anyhow::Result<Verdict>>) -> anyhow::Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let verdict = runtime.block_on(command);
    runtime.shutdown_background();
    verdict
}

/// Whether whoever read our output has gone, which is nobody's failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    error.chain().any(is)
}
