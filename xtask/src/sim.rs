//! `cargo xtask sim`: the deterministic simulator of consensus-core, built and run.
//!
//! Flags go to `simulate` as they are; `cargo xtask sim -- --help` lists them. A failure prints its seed, which
//! `--seed` repeats and `--shrink` makes small; `--mutants` shows that each check can fail.

use anyhow::Result;
use clap::Args;

use crate::setup;
use crate::workspace::{self, Workspace};

/// Seeds that the tests and continuous integration run.
pub(crate) const SEEDS_IN_TESTS: u32 = 300;

/// The flags of `simulate`, passed through.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Flags for the simulator, such as `--seeds 200` or `--seed 17`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
    flags: Vec<String>,
}

/// Builds the simulator and runs it with the user's flags.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    setup::ensure(workspace)?;
    simulate(workspace, &arguments.flags)
}

/// Runs the simulator over the seeds that the tests ask for.
pub(crate) fn run_seeds(workspace: &Workspace, seeds: u32) -> Result<()> {
    simulate(workspace, &["--seeds".to_owned(), seeds.to_string()])
}

fn simulate(workspace: &Workspace, flags: &[String]) -> Result<()> {
    workspace::run(
        workspace
            .cargo()
            .args(["build", "--quiet", "--workspace", "--bins"])
            .args(["--features", workspace::FEATURES]),
    )?;
    let binary = workspace.target()?.join("debug/simulate");
    workspace::run(workspace.command(binary).args(flags))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn flags_reach_the_simulator_as_they_are() {
        for line in [&["sim", "--mutants"][..], &["sim", "--seed", "17", "--shrink", "small.json"]] {
            let parsed = Line::try_parse_from(line).expect("they are passed through");
            assert_eq!(parsed.arguments.flags, line[1..]);
        }
    }
}
