//! `simulate --shrink` and `simulate --replay`: failing runs as small files.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use consensus_core::sim::scenario::Scenario;
use consensus_core::sim::shrink::Shrink;
use consensus_core::sim::{Failure, Mutant, Options, Report, hunt, run};

/// Runs that a reduction may take.
const RUNS_MAX: usize = 3_000;

/// Seeds in which a failure is looked for, if none is given.
const SEEDS_MAX: usize = 1_000;

/// Reduces the failure of a seed, or of the first seed that fails, and writes it to a file.
///
/// # Errors
/// No failure, or the file's.
pub(crate) fn shrink(seed: Option<u64>, mutant: Option<Mutant>, path: &Path) -> Result<ExitCode> {
    let failure = find(seed, mutant).context("no run fails")?;
    let found = Scenario::of(&failure, mutant);
    let before = found.faults.as_ref().map_or(0, Vec::len);
    let failed_us = failure.last_steps.last().map_or(failure.swarm.safety_us, |last| last.at_us);
    let (mut small, runs) = Shrink::new(found, mutant, RUNS_MAX).smallest(failed_us);
    let report = small.run(mutant, false);
    let failure = report.failure.context("the smallest scenario does not fail again")?;
    small.about = format!("from seed {}: {}", failure.swarm.seed, failure.violation);
    let text = serde_json::to_string_pretty(&small)? + "\n";
    fs::write(path, text).with_context(|| path.display().to_string())?;
    let after = small.faults.as_ref().map_or(0, Vec::len);
    println!(
        "{}: {before} faults are now {after}, {} steps, after {runs} runs\n{}",
        path.display(),
        report.counters.steps,
        failure.violation
    );
    Ok(ExitCode::SUCCESS)
}

fn find(seed: Option<u64>, mutant: Option<Mutant>) -> Option<Failure> {
    let fails = |seed| run(Options { mutant, ..Options::seed(seed) }).failure;
    match (seed, mutant) {
        (Some(seed), _) => fails(seed),
        (None, Some(mutant)) => hunt::seeds(mutant, 0).take(SEEDS_MAX).find_map(fails),
        (None, None) => (0..SEEDS_MAX as u64).find_map(fails),
    }
}

/// Runs a scenario from a file, with its rule broken if this build has it.
///
/// # Errors
/// The file's.
pub(crate) fn replay(path: &Path, verbose: bool) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let scenario: Scenario =
        serde_json::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))?;
    let mutant = scenario.mutant.as_deref().map(super::find_mutant).transpose()?;
    println!("{}", scenario.swarm);
    Ok(scenario.run(mutant, verbose))
}
