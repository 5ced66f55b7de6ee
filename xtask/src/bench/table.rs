//! The report: medians over the runs, their range, and the ratio to etcd.

use std::collections::BTreeMap;

use super::FOREIGN_CORES_MAX;
use super::points::{Point, Work};
use super::services::Sample;
use crate::e2e::thousands;

/// Samples by the name of their point.
#[derive(Debug, Default)]
pub(super) struct Table {
    ours: BTreeMap<&'static str, Vec<Sample>>,
    etcd: BTreeMap<&'static str, Vec<Sample>>,
}

impl Table {
    pub(super) fn add_ours(&mut self, point: &'static str, sample: Sample) {
        self.ours.entry(point).or_default().push(sample);
    }

    pub(super) fn add_etcd(&mut self, point: &'static str, sample: Sample) {
        self.etcd.entry(point).or_default().push(sample);
    }

    /// Prints a row for each point.
    pub(super) fn print(&self, points: &[Point]) {
        println!(
            "\n{:<34} {:>20} {:>9} {:>9} {:>11} {:>6} {:>6} {:>9} {:>6}",
            "medians", "per second", "p50", "p99", "cores n+c", "MiB", "disk", "etcd", "ratio"
        );
        let mut disturbed = false;
        for point in points {
            let Some(samples) = self.ours.get(point.name) else { continue };
            println!("{}", row(point, samples, self.etcd.get(point.name)));
            disturbed |= samples.iter().any(|sample| sample.foreign_cores > FOREIGN_CORES_MAX);
        }
        println!(
            "\np50 and p99: B1 call to acknowledgement, B2 and B3 submission to delivery on another node."
        );
        println!(
            "cores: all nodes + client. MiB: the largest node. disk: bytes written per node and payload byte."
        );
        println!(
            "etcd acknowledges after the write on a majority and its application in memory, as B1 does; it builds no\n\
             chain of blocks. One client, one loop and as many connections for both; nothing is encrypted. The ratio\n\
             compares rates; for one client it compares p50, below 1 is faster. Absolute figures hold for this\n\
             machine and this hour only."
        );
        if disturbed {
            println!("* something else took more than {FOREIGN_CORES_MAX} cores in spite of repetition");
        }
    }
}

fn row(point: &Point, samples: &[Sample], etcd: Option<&Vec<Sample>>) -> String {
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
    let rates = samples.iter().map(|sample| sample.rate_per_s);
    let (low, high) = rates.fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)));
    let rate = match point.work {
        Work::LowLoad { closed: false } => String::new(),
        _ => format!("{} ({}-{})", short(of(|s| s.rate_per_s)), short(low), short(high)),
    };
    let marked = samples.iter().any(|sample| sample.foreign_cores > FOREIGN_CORES_MAX);
    let (peer, ratio) = etcd.map_or_else(Default::default, |etcd| compare(point, samples, etcd));
    let cores = format!("{:.2}+{:.2}", of(|s| s.node_cores), of(|s| s.client_cores));
    let text = format!(
        "{:<34} {rate:>20} {:>9} {:>9} {cores:>11} {:>6} {:>6} {peer:>9} {ratio:>6} {}",
        point.name,
        micros(of(|s| s.p50_us as f64)),
        micros(of(|s| s.p99_us as f64)),
        (of(|s| s.resident_bytes as f64) / f64::from(1 << 20)).round(),
        written(point, of(|s| s.write_amplification)),
        if marked { "*" } else { "" }
    );
    text.trim_end().to_owned()
}

/// Bytes written per byte of payload, where there is enough payload for it to mean something.
fn written(point: &Point, amplification: f64) -> String {
    if matches!(point.work, Work::LowLoad { .. }) { String::new() } else { format!("{amplification:.1}") }
}

/// etcd's median and the ratio: of latencies for a single client, of rates otherwise.
fn compare(point: &Point, ours: &[Sample], etcd: &[Sample]) -> (String, String) {
    if matches!(point.work, Work::Unary { concurrency: 1, .. }) {
        let p50 = |samples: &[Sample]| median(samples.iter().map(|sample| sample.p50_us as f64));
        return (micros(p50(etcd)), format!("{:.2}", p50(ours) / p50(etcd)));
    }
    let rate = |samples: &[Sample]| median(samples.iter().map(|sample| sample.rate_per_s));
    (short(rate(etcd)), format!("{:.2}", rate(ours) / rate(etcd)))
}

/// One measurement on one line.
pub(super) fn one(sample: &Sample, work: Work) -> String {
    let rate = match work {
        Work::LowLoad { closed: false } => String::new(),
        _ => format!("{}/s  ", thousands(sample.rate_per_s as u64)),
    };
    let errors = if sample.errors > 0 { format!("  {} errors", sample.errors) } else { String::new() };
    format!("{rate}p50 {}  p99 {}{errors}", micros(sample.p50_us as f64), micros(sample.p99_us as f64))
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values = values.collect::<Vec<_>>();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn micros(us: f64) -> String {
    if us < 10_000.0 { format!("{:.2} ms", us / 1000.0) } else { format!("{:.0} ms", us / 1000.0) }
}

fn short(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}") } else { format!("{:.1}k", rate / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::points::select;

    fn sample(rate_per_s: f64, p50_us: u64) -> Sample {
        Sample { rate_per_s, p50_us, ..Sample::default() }
    }

    #[test]
    fn the_ratio_is_that_of_medians_of_rates_and_of_latencies_for_one_client() {
        let points = select(true, &["b1".to_owned()]);
        let (one, thousand) = (&points[0], &points[points.len() - 1]);
        let ours = [sample(100.0, 500), sample(300.0, 400), sample(200.0, 450)];
        let etcd = [sample(100.0, 900)];
        assert_eq!(compare(one, &ours, &etcd), ("0.90 ms".to_owned(), "0.50".to_owned()));
        assert_eq!(compare(thousand, &ours, &etcd), ("100".to_owned(), "2.00".to_owned()));
    }

    #[test]
    fn a_row_shows_median_and_range_and_marks_a_disturbed_run() {
        let point = &select(true, &["b2".to_owned()])[0];
        let mut samples = [sample(40_000.0, 1000), sample(60_000.0, 1000), sample(50_000.0, 1000)];
        let text = row(point, &samples, None);
        assert!(text.contains("50.0k (40.0k-60.0k)") && !text.ends_with('*'), "{text}");
        samples[0].foreign_cores = 1.0;
        assert!(row(point, &samples, None).ends_with('*'));
    }
}
