//! `consensus-cli`: inspects a consensus node's data offline and operates a live cluster.
//!
//! * Offline commands (`offline`, `commands/{dump,hard_state,snapshot,peers,verify}.rs`) read a data
//!   directory without ever writing to it, whether its node is running, stopped or was killed.
//! * Remote commands (`remote`, `submission`, the other files of `commands`) talk to nodes over gRPC.
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
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::output::Verdict;

fn main() -> ExitCode {
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
                eprintln!("consensus-cli: {error:#}");
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
        Command::Submit(args) => block_on(commands::submit::run(args, out)),
        Command::Deliver(args) => block_on(commands::deliver::run(args, out)),
        Command::Block(args) => block_on(commands::block::run(args, out)),
        Command::Tx(args) => block_on(commands::tx::run(args, out)),
        Command::Prove(args) => block_on(commands::tx::run_prove(args, out)),
        Command::Tip(args) => block_on(commands::block::run_tip(args, out)),
        Command::Status(args) => block_on(commands::status::run(args, out)),
        Command::TransferLeader(args) => block_on(commands::transfer::run(args, out)),
        Command::LogFilter(args) => block_on(commands::transfer::run_log_filter(args, out)),
        Command::VoidBlock(args) => block_on(commands::void::run(args, out)),
        Command::Bench(args) => block_on(commands::bench::run(args, out)),
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
