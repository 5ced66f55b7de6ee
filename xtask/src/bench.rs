//! `cargo xtask bench`: throughput and latency on this machine, side by side with etcd where it is on PATH.
//!
//! Release binaries, one process per node, loopback, fresh data directories, the shipped configuration.
//! Ours and etcd take turns, so that whatever else the machine does falls on both; what counts is the
//! ratio of medians, since absolute figures do not carry over to another day. After each run the chains of
//! all nodes must be equal and hold everything that was acknowledged, or the run has no figure.
//!
//! The load itself is `consensus-cli bench`, the same loop for both services.

mod machine;
mod points;
mod services;
mod table;
mod traced;

use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;

use self::points::{Place, Point, Work};
use self::services::{Etcd, Ours, Sample};
use self::table::Table;
use crate::e2e::random::Random;
use crate::e2e::{Profile, Stage};
use crate::workspace::Workspace;

/// Processor time of everything else on the machine beyond which a point is measured again, in cores.
const FOREIGN_CORES_MAX: f64 = 0.3;

/// How often a point is measured again for that reason.
const REPEATS_MAX: u32 = 3;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Fewer points and shorter measurements
    #[arg(long)]
    quick: bool,
    /// Runs of each service, taking turns
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Nodes of each service
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: u64,
    /// Only these workloads, such as `b1,b3`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = ["b1", "b2", "b3"])]
    only: Vec<String>,
    /// Leave etcd out
    #[arg(long)]
    no_etcd: bool,
    /// Instead: processor time per transaction without tracing, with 1 % and with 100 % traced
    #[arg(long, conflicts_with_all = ["only", "no_etcd"])]
    tracing: bool,
    /// The programs as they are tested instead of as they are shipped: fast to build, slower to run
    #[arg(long, requires = "tracing")]
    dev: bool,
    /// Use the binaries as they are
    #[arg(long)]
    no_build: bool,
}

/// Measures and prints the table.
///
/// # Errors
/// When a service cannot be started, or a run fails its gate.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if arguments.tracing {
        let profile = if arguments.dev { Profile::Dev } else { Profile::Release };
        let stage = Stage::build_with(workspace, profile, arguments.no_build, &["cita-peers"])?;
        let directory = stage.run_directory("bench")?;
        traced::run(&stage, arguments, &directory)?;
        return Ok(std::fs::remove_dir_all(&directory)?);
    }
    let stage = Stage::build(workspace, Profile::Release, arguments.no_build)?;
    let directory = stage.run_directory("bench")?;
    let etcd = if arguments.no_etcd { None } else { services::etcd_version() };
    machine::print_calibration(&directory)?;
    match &etcd {
        Some(version) => println!("compared with {version}, default settings\n"),
        None => println!("etcd is not on PATH: no comparison\n"),
    }
    let points = points::select(arguments.quick, &arguments.only);
    ensure!(!points.is_empty(), "no workload is left to measure");
    let mut table = Table::default();
    let mut random = Random::new(Random::fresh_seed());
    for repetition in 1..=arguments.repetitions {
        println!("run {repetition} of {}", arguments.repetitions);
        for (place, extra) in [(Place::Defaults, ""), (Place::OnePerBlock, "[block]\nmessages_max = 1\n")] {
            let points = points.iter().filter(|point| point.place == place).collect::<Vec<_>>();
            if !points.is_empty() {
                measure_ours(&stage, arguments, &directory, &points, extra, &mut random, &mut table)?;
            }
        }
        if etcd.is_some() {
            measure_etcd(&stage, arguments, &directory, &points, &mut random, &mut table)?;
        }
    }
    std::fs::remove_dir_all(&directory)?;
    table.print(&points);
    Ok(())
}

fn measure_ours(
    stage: &Stage,
    arguments: &Arguments,
    directory: &Path,
    points: &[&Point],
    extra: &str,
    random: &mut Random,
    table: &mut Table,
) -> Result<()> {
    let mut ours = Ours::start(stage, directory, arguments.nodes, random, extra)?;
    for point in points {
        let sample = quietest(|| ours.measure(stage, point, arguments.quick))?;
        println!("  ours  {:<34} {}", point.name, table::one(&sample, point.work));
        table.add_ours(point.name, sample);
    }
    ours.stop()
}

fn measure_etcd(
    stage: &Stage,
    arguments: &Arguments,
    directory: &Path,
    points: &[Point],
    random: &mut Random,
    table: &mut Table,
) -> Result<()> {
    let comparable =
        points.iter().filter(|point| matches!(point.work, Work::Unary { .. })).collect::<Vec<_>>();
    if comparable.is_empty() {
        return Ok(());
    }
    let etcd = Etcd::start(stage, directory, arguments.nodes, random)?;
    for point in comparable {
        let sample = quietest(|| etcd.measure(stage, point, arguments.quick))?;
        println!("  etcd  {:<34} {}", point.name, table::one(&sample, point.work));
        table.add_etcd(point.name, sample);
    }
    Ok(())
}

/// Measures again while something else takes part of the machine, and returns the quietest sample.
fn quietest(mut measure: impl FnMut() -> Result<Sample>) -> Result<Sample> {
    let mut best = measure()?;
    for _ in 0..REPEATS_MAX {
        if best.foreign_cores <= FOREIGN_CORES_MAX {
            break;
        }
        let again = measure()?;
        if again.foreign_cores < best.foreign_cores {
            best = again;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_sample_is_measured_again_and_the_quietest_is_kept() {
        let mut foreign = [0.9, 0.5, 0.1, 0.0].into_iter();
        let sample =
            quietest(|| Ok(Sample { foreign_cores: foreign.next().expect("enough"), ..Sample::default() }));
        assert!(sample.expect("measures").foreign_cores < 0.2);
        assert_eq!(foreign.next(), Some(0.0));
    }
}
