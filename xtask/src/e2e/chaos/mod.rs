//! `cargo xtask e2e chaos`: four nodes of the ordering service under a seeded schedule of faults, with
//! clients that are told of every outcome, and an oracle that compares all of it afterwards.
//!
//! [`schedule`] draws what is to happen, [`inject`] makes it happen, on [`network`]s and a [`disk`] that can
//! be spoiled; [`load`] submits, [`observer`] and [`witnesses`] watch, [`chronicle`] writes down. [`run`] goes through the
//! episodes, [`finale`] compares, [`oracle`], [`coverage`] and [`logs`] judge, [`verdict`] sums up, and
//! [`timeline`] draws all of it on one page, whatever the end was.

mod chronicle;
mod coverage;
pub(super) mod disk;
mod figures;
mod finale;
pub(super) mod guardian;
mod inject;
mod kind;
mod load;
mod logs;
pub(super) mod network;
mod observer;
mod oracle;
mod run;
mod schedule;
mod timeline;
mod verdict;
mod witnesses;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::chronicle::Chronicle;
use self::kind::{Kind, Medium};
use self::run::{Plan, Run};
use self::schedule::Pace;
pub(crate) use self::verdict::NotCovered;
use self::verdict::Verdict;
use crate::e2e::Stage;
use crate::e2e::clients::Finished;
use crate::e2e::random::Random;

/// Size of the small disk for each minute of the run, and at least, in bytes.
const DISK_BYTES_PER_MINUTE: u64 = 32 << 20;
const DISK_BYTES_MIN: u64 = 64 << 20;

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 passed · 1 something does not hold · 2 something that was asked for did not happen, or the
command line is wrong.

Examples:
  cargo xtask e2e chaos                                 five minutes of everything, another seed each time
  cargo xtask e2e chaos --quick                         every kind of fault once, in one to two minutes
  cargo xtask e2e chaos --minutes 10 --seed 42          a schedule that can be repeated
  cargo xtask e2e chaos --faults kill-leader,no-majority
  cargo xtask e2e chaos --network namespaces            packet filters instead of proxies (root)")]
pub(crate) struct Options {
    /// Length of the schedule; every kind of fault is dealt once even if that takes longer
    #[arg(long, default_value_t = 5, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Each kind once with short holds
    #[arg(long, conflicts_with = "minutes")]
    quick: bool,
    /// Seed of the schedule, of who is hit, and of the clients' lines [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Kinds of faults [default: all that the network and the user's rights allow]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,…")]
    faults: Vec<Kind>,
    /// How the links between the nodes are made
    #[arg(long, value_enum, default_value = "proxy")]
    network: Medium,
    /// Transactions per second of the steady clients together
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(4..=10_000))]
    rate: u64,
    /// Print the schedule and end
    #[arg(long)]
    pub(super) plan: bool,
    /// Keep logs and data of a run that passes, too
    #[arg(long)]
    keep: bool,
    /// Use the binaries as they are
    #[arg(long)]
    pub(super) no_build: bool,
    /// Use consensus-server and consensus-cli of this directory
    #[arg(long, value_name = "DIR")]
    pub(super) binaries: Option<PathBuf>,
}

impl Options {
    /// The kinds that the run must have evidence of.
    fn kinds(&self) -> Result<Vec<Kind>> {
        for kind in &self.faults {
            ensure!(kind.is_possible(self.network), "{kind} is not possible with --network {}", self.network);
        }
        if !self.faults.is_empty() {
            let mut kinds = self.faults.clone();
            kinds.sort_unstable();
            kinds.dedup();
            return Ok(kinds);
        }
        let all = Kind::value_variants().iter().copied().filter(|kind| kind.is_possible(self.network));
        Ok(all.filter(|kind| !kind.needs_disk() || disk::is_root()).collect())
    }

    fn draw(&self, seed: u64) -> Result<Plan> {
        let kinds = self.kinds()?;
        let (length, pace) = match self.quick {
            true => (Duration::ZERO, Pace::QUICK),
            false => (Duration::from_secs(60 * self.minutes), Pace::USUAL),
        };
        let mut dealt = kinds.clone();
        if !disk::is_root() {
            println!(
                "SKIPPED: {} and {}, which take the right to mount a small disk",
                Kind::DiskFull,
                Kind::DiskHangs
            );
            dealt.retain(|kind| !kind.needs_disk());
        }
        let episodes = schedule::draw(&dealt, length, pace, &mut Random::new(seed));
        let minutes = if self.quick { 1 } else { self.minutes };
        let disk_bytes = (minutes * DISK_BYTES_PER_MINUTE).max(DISK_BYTES_MIN);
        let disk_bytes = dealt.iter().any(|kind| kind.needs_disk()).then_some(disk_bytes);
        Ok(Plan { seed, kinds, episodes, medium: self.network, rate: self.rate, disk_bytes })
    }
}

/// Draws the schedule and prints it.
///
/// # Errors
/// When a kind of fault is asked for that the network cannot do.
pub(crate) fn planned(options: &Options) -> Result<Plan> {
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let plan = options.draw(seed)?;
    println!("seed {seed}: {} episodes", plan.episodes.len());
    for (number, episode) in (1..).zip(&plan.episodes) {
        println!("  {number:>3}  {episode}");
    }
    Ok(plan)
}

/// Runs it.
///
/// # Errors
/// When something does not hold; [`NotCovered`] when nothing is wrong and not everything was tested.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let plan = planned(options)?;
    let seed = plan.seed;
    let directory = stage.run_directory(&format!("chaos-{seed}"))?;
    let chronicle = Arc::new(Chronicle::start());
    let mut record = timeline::Record::default();
    let result = play(stage, &plan, &directory, &chronicle, &mut record);
    let end = match &result {
        Ok(verdict) => verdict.to_string(),
        Err(error) => format!("BROKEN OFF: {error:#}"),
    };
    let page = PathBuf::from(format!("{}.html", directory.display()));
    let title = format!("chaos, seed {seed}");
    let text = timeline::page(&title, &end, &chronicle, &record);
    std::fs::write(&page, text).with_context(|| page.display().to_string())?;
    println!("\n{}\n\n{}\n\nverdict: {end}", record.coverage, record.figures);
    println!("timeline: {}", stage.shown(&page));
    let is_passed = matches!(result, Ok(Verdict::Passed));
    if is_passed && !options.keep {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    } else {
        println!("logs and data: {}", stage.shown(&directory));
    }
    result?.into_result()
}

/// From the start to the verdict. What the timeline needs is in `record`, also when this fails.
fn play(
    stage: &Stage,
    plan: &Plan,
    directory: &Path,
    chronicle: &Arc<Chronicle>,
    record: &mut timeline::Record,
) -> Result<Verdict> {
    let mut run = Run::start(stage, plan, directory, Arc::clone(chronicle))?;
    let result = judged(&mut run, &mut record.clients);
    record.samples = run.observer.samples();
    record.coverage = run.coverage.clone();
    record.figures = run.figures.clone();
    result
}

fn judged(run: &mut Run<'_>, clients: &mut Vec<Finished>) -> Result<Verdict> {
    let (load, witnesses) = run.load()?;
    run.go_through()?;
    let (finished, mut findings) = finale::play(run, load, witnesses)?;
    *clients = finished;
    for finding in &findings {
        run.chronicle.violation(finding.clone());
    }
    findings = run.chronicle.violations();
    let gaps = run.coverage.gaps(&run.plan().kinds);
    Ok(Verdict::reach(findings, gaps))
}
