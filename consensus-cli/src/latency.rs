//! Latencies in fixed memory: a histogram in microseconds with three significant digits, and its summary.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Latencies as they come.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// What people ask about latencies, in microseconds; all 0 if there were none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) count: u64,
    pub(crate) mean_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p95_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that fit"))
    }

    /// Counts one.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Counts `count` equal ones.
    pub(crate) fn record_many(&mut self, latency: Duration, count: u64) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LATENCY_US_MAX);
        self.0.saturating_record_n(us, count);
    }

    /// Adds all of another one's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        let at = |quantile| {
            if self.0.is_empty() { 0 } else { self.0.value_at_quantile(quantile).min(self.0.max()) }
        };
        LatencySummary {
            count: self.0.len(),
            mean_us: if self.0.is_empty() { 0 } else { self.0.mean() as u64 },
            p50_us: at(0.5),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: if self.0.is_empty() { 0 } else { self.0.max() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) * 1000 <= expected
    }

    #[test]
    fn quantiles_of_one_to_ten_thousand_are_exact_to_three_digits() {
        let mut latencies = Latencies::new();
        for us in 1..=10_000 {
            latencies.record(Duration::from_micros(us));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 10_000);
        assert!(close(summary.p50_us, 5000), "{summary:?}");
        assert!(close(summary.p95_us, 9500), "{summary:?}");
        assert!(close(summary.p99_us, 9900), "{summary:?}");
        assert!(close(summary.p999_us, 9990), "{summary:?}");
        assert!(close(summary.max_us, 10_000), "{summary:?}");
        assert!(close(summary.mean_us, 5000), "{summary:?}");
    }

    #[test]
    fn no_latency_is_all_zero() {
        let summary = Latencies::new().summary();
        assert_eq!((summary.count, summary.p50_us, summary.max_us, summary.mean_us), (0, 0, 0, 0));
    }

    #[test]
    fn merging_equals_recording_in_one_place() {
        let (mut one, mut other, mut all) = (Latencies::new(), Latencies::new(), Latencies::new());
        for us in [3, 50, 700, 90_000] {
            one.record(Duration::from_micros(us));
            all.record(Duration::from_micros(us));
        }
        other.record_many(Duration::from_micros(11), 5);
        all.record_many(Duration::from_micros(11), 5);
        one.merge(&other);
        assert_eq!(one.summary(), all.summary());
    }

    #[test]
    fn a_latency_beyond_the_longest_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(1_000_000));
        assert!(close(latencies.summary().max_us, LATENCY_US_MAX));
    }
}
