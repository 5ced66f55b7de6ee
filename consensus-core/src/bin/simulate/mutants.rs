//! `simulate --mutants`: breaks each rule in turn and looks for the seed that shows it.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use consensus_core::mutant::Proof;
use consensus_core::sim::{Failure, Mutant, Options, hunt, run};

/// What a search found.
struct Search {
    /// Runs until the end.
    runs: u64,
    failure: Option<Failure>,
}

/// Searches for all mutants of this build, prints a table and fails if one escapes.
///
/// # Errors
/// A build without mutants, or those that escaped.
pub(crate) fn run_all(threads: usize) -> Result<()> {
    if Mutant::ALL.is_empty() {
        bail!("this build has no mutants: build it with the feature `mutants`");
    }
    println!("{:<34} {:>6} {:>6} {:>8}  found by", "mutant", "seed", "runs", "seconds");
    let mut escaped = Vec::new();
    for mutant in Mutant::ALL {
        let Proof::Seeds(budget) = mutant.proof() else {
            println!("{:<34} {:>6} {:>6} {:>8}  cargo test", mutant.name(), "-", "-", "-");
            continue;
        };
        let began = Instant::now();
        let search = search(*mutant, budget, threads)?;
        let seconds = began.elapsed().as_secs_f64();
        let (seed, by) = search.failure.map_or_else(
            || ("-".to_owned(), format!("ESCAPED {budget} seeds")),
            |failure| (failure.swarm.seed.to_string(), failure.violation.invariant.to_owned()),
        );
        if by.starts_with("ESCAPED") {
            escaped.push(mutant.name());
        }
        println!("{:<34} {seed:>6} {:>6} {seconds:>8.1}  {by}", mutant.name(), search.runs);
    }
    if !escaped.is_empty() {
        bail!("{} mutants escaped: {}", escaped.len(), escaped.join(", "));
    }
    println!("{} mutants, none escaped", Mutant::ALL.len());
    Ok(())
}

fn search(mutant: Mutant, budget: u64, threads: usize) -> Result<Search> {
    let seeds = Mutex::new(hunt::seeds(mutant, 0).take(usize::try_from(budget)?));
    let found = Mutex::new(Search { runs: 0, failure: None });
    let next = || {
        let over = found.lock().ok()?.failure.is_some();
        if over { None } else { seeds.lock().ok()?.next() }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let failure = run(Options { mutant: Some(mutant), ..Options::seed(seed) }).failure;
                    let Ok(mut found) = found.lock() else { return };
                    found.runs += 1;
                    let earlier = |known: &Failure| known.swarm.seed < seed;
                    if failure.is_some() && !found.failure.as_ref().is_some_and(earlier) {
                        found.failure = failure;
                    }
                }
            });
        }
    });
    found.into_inner().ok().context("a thread of the search panicked")
}
