//! What tracing costs: processor time of all nodes for each transaction and transactions a second, without tracing,
//! with one submission in a hundred traced, with all of them, and with a collector that hangs.
//!
//! They take turns, each on fresh nodes, and what counts is the median of the ratios within a turn: rates swing
//! with whatever else the machine does, processor time per transaction less. Spans go to a collector that takes
//! them and looks at none (`cita-peer collector`), whose own time is not counted.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::points;
use super::services::Ours;
use super::table::median;
use super::{Arguments, Stage};
use crate::e2e::cluster::free_ports;
use crate::e2e::process::Process;
use crate::e2e::random::Random;

/// What is compared: a name, the share that is traced, and whether the collector answers.
const KINDS: [(&str, Option<&str>, bool); 5] = [
    ("off", None, true),
    ("1 %", Some("0.01"), true),
    ("1 %, the collector hangs", Some("0.01"), false),
    ("100 %", Some("1.0"), true),
    ("100 %, the collector hangs", Some("1.0"), false),
];

/// What one kind has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// Of all nodes.
    us_per_transaction: f64,
    transactions_per_s: f64,
}

/// By kind.
type Turn = [Shown; KINDS.len()];

/// Measures and prints the table.
pub(super) fn run(stage: &Stage, arguments: &Arguments, directory: &Path) -> Result<()> {
    let mut random = Random::new(Random::fresh_seed());
    let port = free_ports(1, &mut random)?[0];
    let mut collector = Command::new(stage.server().with_file_name("cita-peer"));
    collector.args(["collector", "--listen", &format!("127.0.0.1:{port}")]);
    let mut collector = Process::start("collector", &mut collector, &directory.join("collector.log"))?;
    // The system takes connections for it, and nobody ever reads from them.
    let hanging = TcpListener::bind("127.0.0.1:0").context("a listener that hangs")?;
    let hanging_port = hanging.local_addr()?.port();
    let mut turns: Vec<Turn> = Vec::new();
    for number in 1..=arguments.repetitions {
        let mut turn = Turn::default();
        for step in 0..KINDS.len() {
            // Each kind is the first one as often as the others.
            let kind = (step + number as usize) % KINDS.len();
            collector.expect_running()?;
            let (_, ratio, answers) = KINDS[kind];
            let port = if answers { port } else { hanging_port };
            turn[kind] = measure(stage, arguments, directory, ratio, port, &mut random)?;
        }
        println!("turn {number} of {}: {}", arguments.repetitions, row(&turn));
        turns.push(turn);
    }
    let (time, rate) = ("node us per transaction", "transactions/s");
    println!("\n{:<27} {time:>24} {:>9} {rate:>16} {:>9}", "traced", "to off", "to off");
    for (kind, (name, ..)) in KINDS.into_iter().enumerate() {
        let column = |of: fn(&Shown) -> f64| {
            (median(turns.iter().map(|turn| of(&turn[kind]))), percent(ratio(&turns, kind, of)))
        };
        let (time, time_to_off) = column(|shown| shown.us_per_transaction);
        let (rate, rate_to_off) = column(|shown| shown.transactions_per_s);
        println!("{name:<27} {time:>24.1} {time_to_off:>9} {rate:>16.0} {rate_to_off:>9}");
    }
    println!(
        "\nmedians; the ratio is the median of those within a turn. User and system time of all nodes together."
    );
    Ok(())
}

fn measure(
    stage: &Stage,
    arguments: &Arguments,
    directory: &Path,
    ratio: Option<&str>,
    port: u16,
    random: &mut Random,
) -> Result<Shown> {
    let section = |ratio| format!("[tracing]\nendpoint = 'http://127.0.0.1:{port}'\nratio = {ratio}\n");
    let extra = ratio.map(section).unwrap_or_default();
    let mut ours = Ours::start(stage, directory, arguments.nodes, random, &extra)?;
    let sample = ours.measure(stage, &points::TRACED, arguments.quick)?;
    ours.stop()?;
    ensure!(sample.node_us_per_transaction > 0.0, "the nodes took no processor time");
    Ok(Shown { us_per_transaction: sample.node_us_per_transaction, transactions_per_s: sample.rate_per_s })
}

/// The median over all turns of what a kind has shown by that without tracing.
fn ratio(turns: &[Turn], kind: usize, of: fn(&Shown) -> f64) -> f64 {
    median(turns.iter().map(|turn| of(&turn[kind]) / of(&turn[0])))
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

fn row(turn: &Turn) -> String {
    let part = |((name, ..), shown): (&(&str, Option<&str>, bool), &Shown)| {
        format!("{name} {:.1} us, {:.0}/s", shown.us_per_transaction, shown.transactions_per_s)
    };
    let parts = KINDS.iter().zip(turn).map(part);
    parts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_those_within_turns_so_that_a_slow_turn_does_not_count() {
        let turn = |times: [f64; 5]| {
            times.map(|time| Shown { us_per_transaction: time, transactions_per_s: 1e6 / time })
        };
        let turns = [
            turn([100.0, 101.0, 130.0, 99.0, 99.0]),
            turn([400.0, 408.0, 520.0, 800.0, 800.0]),
            turn([100.0, 103.0, 150.0, 101.0, 101.0]),
        ];
        let times = [0, 1, 2].map(|kind| percent(ratio(&turns, kind, |shown| shown.us_per_transaction)));
        assert_eq!(times, ["+0.0 %", "+2.0 %", "+30.0 %"]);
        assert_eq!(percent(ratio(&turns, 1, |shown| shown.transactions_per_s)), "-2.0 %");
    }
}
