//! The project's own commands, `cargo xtask …`.
//!
//! This crate builds in seconds and depends on neither RocksDB nor tonic, so that the first command on a
//! fresh machine starts at once and can bring what is missing. Everything it learns about a running
//! cluster it learns from `consensus-cli --json` and from the operating system, as a user would.

mod bench;
mod ci;
mod dependencies;
mod dist;
mod e2e;
mod fuzz;
mod interrupt;
mod room;
mod setup;
mod sim;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts four nodes, submits real input, kills the leader with -9 and checks what is left.
    E2e(e2e::Arguments),
    /// Everything a change must pass but the end-to-end run: format, lints, house rules, tests, simulation.
    Test(ci::Arguments),
    /// What continuous integration runs: `test`, then a short end-to-end run.
    Ci(ci::Arguments),
    /// Brings what a build needs beyond Rust (libclang, a C++ compiler), or says what to install.
    Setup,
    /// Checks the house rules that neither the compiler nor clippy knows.
    Tidy,
    /// Runs the simulator: four replicas under one seed, with faults; flags go to `simulate`.
    Sim(sim::Arguments),
    /// Runs a fuzz target under libFuzzer (takes cargo-fuzz).
    Fuzz(fuzz::Arguments),
    /// Measures throughput, latency and their ratio to etcd on this machine.
    Bench(bench::Arguments),
    /// Makes what is handed out: stripped programs, their materials and sums, on demand the image.
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            // A run that has not tested what it was to test is neither a pass nor a failure.
            if error.is::<e2e::NotCovered>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::E2e(arguments) => e2e::run(&workspace, &arguments),
        Command::Test(arguments) => ci::test(&workspace, &arguments),
        Command::Ci(arguments) => ci::ci(&workspace, &arguments),
        Command::Setup => setup::run(&workspace),
        Command::Tidy => tidy::run(&workspace),
        Command::Sim(arguments) => sim::run(&workspace, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Command::Bench(arguments) => bench::run(&workspace, &arguments),
        Command::Dist(arguments) => dist::run(&workspace, &arguments),
    }
}
