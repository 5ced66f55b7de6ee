//! The writer's thread: the series of the subsystem `storage` that all chains of the process share.

use consensus_core::storage::group_commit::RoundReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Metrics;

/// The writer's series.
#[derive(Clone, Debug)]
pub struct WriterMetrics {
    writes: Counter,
    batches: Counter,
    sync_seconds: Histogram,
    write_seconds: Histogram,
    write_bytes: Histogram,
}

impl WriterMetrics {
    /// Registers the series. Once for each process.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.registry(|registry| {
            let mut storage = registry.sub_registry_with_prefix("storage");
            // From 20 us to about 10 s.
            let seconds = || Histogram::new(exponential_buckets(0.000_02, 2.0, 20));
            let series = Self {
                writes: Counter::default(),
                batches: Counter::default(),
                sync_seconds: seconds(),
                write_seconds: seconds(),
                // From 256 B to 64 MiB.
                write_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
            };
            storage.register(
                "writes",
                "Writes to the store, each with all chains' batches",
                series.writes.clone(),
            );
            storage.register("batches", "Batches in those writes", series.batches.clone());
            let help = "Length of a write that waits for the disk";
            storage.register("sync_duration_seconds", help, series.sync_seconds.clone());
            let help = "Length of a write that does not wait for the disk";
            storage.register("write_duration_seconds", help, series.write_seconds.clone());
            let help = "Payload of a write, of all chains together";
            storage.register("write_size_bytes", help, series.write_bytes.clone());
            series
        })
    }

    /// One write was done.
    pub fn wrote(&self, round: &RoundReport) {
        self.writes.inc();
        self.batches.inc_by(round.batches as u64);
        let seconds = if round.synced { &self.sync_seconds } else { &self.write_seconds };
        seconds.observe(round.took.as_secs_f64());
        self.write_bytes.observe(round.bytes as f64);
    }
}
