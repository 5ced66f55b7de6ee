//! `cargo xtask test` and `cargo xtask ci`: everything a change must pass, in the order in which it fails
//! fastest.
//!
//! Formatting and lints come before tests, tests before simulation, the end-to-end run last. All of it
//! builds with the one set of features of [`workspace::FEATURES`].

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::workspace::{self, Workspace, spoken, step};
use crate::{dependencies, e2e, room, setup, sim, tidy};

/// What to leave out.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seeds for the simulator.
    #[arg(long, default_value_t = sim::SEEDS_IN_TESTS, value_name = "N")]
    seeds: u32,
}

/// Format, lints, house rules, dependencies, tests, doc tests, simulation.
pub(crate) fn test(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let skipped = checks(workspace, arguments)?;
    passed(started, arguments, "", &skipped);
    Ok(())
}

/// [`test`], then a short end-to-end run.
pub(crate) fn ci(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let skipped = checks(workspace, arguments)?;
    step("end to end", || e2e::smoke(workspace))?;
    passed(started, arguments, ", end to end", &skipped);
    Ok(())
}

fn passed(started: Instant, arguments: &Arguments, more: &str, skipped: &[String]) {
    println!(
        "\npassed in {}: format, lints, house rules, dependencies, tests, doc tests, {} simulated seeds{more}",
        spoken(started.elapsed()),
        arguments.seeds
    );
    for line in skipped {
        println!("  SKIPPED: {line}");
    }
}

/// What was skipped, a line each.
fn checks(workspace: &Workspace, arguments: &Arguments) -> Result<Vec<String>> {
    step("setup", || {
        setup::ensure(workspace)?;
        room::make(workspace)
    })?;
    step("format", || workspace::run(workspace.cargo().args(["fmt", "--all", "--check"])))?;
    step("house rules", || tidy::run(workspace))?;
    let skipped = step("dependencies", || dependencies::check(workspace))?;
    step("lints", || {
        let mut command = workspace.cargo();
        command.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
        workspace::run(command.args(["--features", workspace::FEATURES, "--", "-D", "warnings"]))
    })?;
    step("tests", || tests(workspace))?;
    step("doc tests", || {
        let mut command = workspace.cargo();
        command.args(["test", "--quiet", "--workspace", "--doc"]);
        workspace::run(command.args(["--features", workspace::FEATURES]))
    })?;
    step("simulation", || sim::run_seeds(workspace, arguments.seeds))?;
    Ok(skipped)
}

/// All tests, through nextest where it is installed: it is faster and says which test hangs.
fn tests(workspace: &Workspace) -> Result<()> {
    let has_nextest = workspace::output(workspace.cargo().args(["nextest", "--version"])).is_ok();
    let mut command = workspace.cargo();
    if has_nextest {
        command.args(["nextest", "run", "--no-tests=pass", "--status-level=retry"]);
    } else {
        command.args(["test", "--quiet", "--lib", "--bins", "--tests"]);
    }
    workspace::run(command.args(["--workspace", "--features", workspace::FEATURES]))
}
