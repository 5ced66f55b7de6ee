//! Runs seeds of the simulator.
//!
//! `simulate --seeds 200` runs the seeds 0 to 199 on all cores and ends with a summary; the first violation
//! is printed with its seed, its configuration and the last steps, and the exit code is 1.
//! `simulate --coverage` prints how often each mark was reached, and fails if one never was.
//! `simulate --seed 17` repeats one seed and prints its trace hash; `--verbose` prints each of its steps.
//! `simulate --seed 17 --shrink small.json` reduces its failure to a small scenario, `simulate --replay small.json`
//! runs that. `simulate --mutants` breaks each rule on purpose and fails if one of them is not found.

mod mutants;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use consensus_core::reach::Mark;
use consensus_core::sim::{Counters, Failure, Mutant, Options, Report, Sight, Swarm, run};

/// Runs a simulated cluster under many seeds and checks its safety and recovery.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Run only this seed and print its trace hash.
    #[arg(long, conflicts_with_all = ["seeds", "start", "minutes"])]
    seed: Option<u64>,
    /// Print every step of the seed or the scenario.
    #[arg(long)]
    verbose: bool,
    /// Reduce the failure of the seed, or of the first that fails, to a small scenario in this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "start", "minutes", "outside"])]
    shrink: Option<PathBuf>,
    /// Run the scenario in this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "start", "minutes", "shrink", "mutant"])]
    replay: Option<PathBuf>,
    /// Run new seeds for so many minutes instead of a number of them.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// Threads; by default one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Break a rule (only in a build with the feature `mutants`).
    #[arg(long)]
    mutant: Option<String>,
    /// Break each rule in turn and look for a seed that shows it (only in a build with the feature `mutants`).
    #[arg(long, conflicts_with_all = ["seeds", "start", "minutes", "seed", "mutant", "outside", "keep_going"])]
    mutants: bool,
    /// Judge only what leaves the nodes: find broken rules by the harm that they do.
    #[arg(long)]
    outside: bool,
    /// Print how often each mark in the code was reached, and fail if one never was.
    #[arg(long)]
    coverage: bool,
    /// Go on after a violation, and print only the first lines of each.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mutant = arguments.mutant.as_deref().map(find_mutant).transpose()?;
    let sight = if arguments.outside { Sight::Outside } else { Sight::Inside };
    let options = Options { mutant, sight, verbose: arguments.verbose, ..Options::seed(arguments.start) };
    if arguments.seed.is_none() {
        // A panic is a finding like others: it is reported with its seed, which repeats it with its place.
        std::panic::set_hook(Box::new(|_| {}));
    }
    if arguments.mutants {
        mutants::run_all(threads(&arguments))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &arguments.shrink {
        std::panic::set_hook(Box::new(|_| {}));
        return scenarios::shrink(arguments.seed, mutant, path);
    }
    if let Some(path) = &arguments.replay {
        return Ok(print_one(scenarios::replay(path, arguments.verbose)?));
    }
    match arguments.seed {
        Some(seed) => Ok(run_one(Options { seed, ..options })),
        None => run_many(&arguments, options),
    }
}

fn find_mutant(name: &str) -> Result<Mutant> {
    Mutant::by_name(name).with_context(|| {
        let known: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("no mutant {name} in this build, there are [{}]", known.join(", "))
    })
}

fn threads(arguments: &Arguments) -> usize {
    let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
    arguments.threads.unwrap_or_else(cores).max(1)
}

fn run_one(options: Options) -> ExitCode {
    println!("{}", Swarm::derive(options.seed));
    print_one(run(options))
}

fn print_one(report: Report) -> ExitCode {
    println!("{}", report.counters);
    println!("trace {:032x}", report.trace);
    match report.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What all threads share.
struct Shared {
    next: AtomicU64,
    end: u64,
    deadline: Option<Instant>,
    stop: AtomicBool,
    keep_going: bool,
    options: Options,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    seeds: u64,
    counters: Counters,
    marks: Vec<u64>,
    failures: Vec<Failure>,
}

fn run_many(arguments: &Arguments, options: Options) -> Result<ExitCode> {
    let threads = threads(arguments);
    let began = Instant::now();
    let shared = Shared {
        next: AtomicU64::new(options.seed),
        end: if arguments.minutes.is_some() { u64::MAX } else { arguments.start + arguments.seeds },
        deadline: arguments.minutes.map(|minutes| began + Duration::from_secs(60 * minutes)),
        stop: AtomicBool::new(false),
        keep_going: arguments.keep_going,
        options,
        results: Mutex::default(),
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&shared));
        }
    });
    let results = shared.results.into_inner().context("a thread of the simulator panicked")?;
    print_results(&results, began.elapsed(), threads, arguments.keep_going);
    let covered = !arguments.coverage || print_marks(&results.marks);
    Ok(if results.failures.is_empty() && covered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn work(shared: &Shared) {
    loop {
        let late = shared.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if late || seed >= shared.end || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let report = run(Options { seed, ..shared.options });
        let mut results = shared.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.seeds += 1;
        results.counters.add(&report.counters);
        results.marks.resize(report.marks.len(), 0);
        results.marks.iter_mut().zip(&report.marks).for_each(|(sum, more)| *sum += more);
        if let Some(failure) = report.failure {
            shared.stop.store(!shared.keep_going, Ordering::Relaxed);
            results.failures.push(failure);
        }
    }
}

/// Prints how often each mark was reached; whether all were.
fn print_marks(counts: &[u64]) -> bool {
    let mut by_count: Vec<(u64, &str)> =
        Mark::ALL.iter().zip(counts).map(|(mark, count)| (*count, mark.name())).collect();
    by_count.sort_unstable();
    for (count, name) in &by_count {
        println!("{count:>12} {name}");
    }
    let never = by_count.iter().filter(|(count, _)| *count == 0).count();
    println!("{} of {} marks reached", by_count.len() - never, Mark::ALL.len());
    never == 0 && counts.len() == Mark::ALL.len()
}

fn print_results(results: &Results, elapsed: Duration, threads: usize, keep_going: bool) {
    let seconds = elapsed.as_secs_f64();
    println!("{}", results.counters);
    println!(
        "{} seeds in {seconds:.1} s on {threads} threads: {:.0} seeds/min, {:.0} steps/s, {} failed",
        results.seeds,
        60.0 * results.seeds as f64 / seconds,
        results.counters.steps as f64 / seconds,
        results.failures.len()
    );
    let mut failures: Vec<&Failure> = results.failures.iter().collect();
    failures.sort_by_key(|failure| failure.swarm.seed);
    for failure in failures {
        if keep_going {
            println!("VIOLATED in seed {}: {}", failure.swarm.seed, failure.violation);
        } else {
            println!("{failure}");
        }
    }
}
