//! The store on disk: what is left of the disk, what the engine's files take, what it has put off.
//!
//! Series of the subsystem `storage` that all chains of the process share, as of the newest look
//! ([`crate::store_watch`]).

use std::sync::atomic::AtomicU64;

use consensus_core::storage::rocks::StoreReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;

/// A gauge of bytes or files.
type Amount = Gauge<u64, AtomicU64>;
/// A counter of seconds.
type Seconds = Counter<f64, AtomicU64>;

/// One process's store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    free: Amount,
    capacity: Amount,
    files: Amount,
    wal: Amount,
    level0: Amount,
    compaction: Amount,
    background_errors: Amount,
    stalled: Seconds,
    looks_failed: Counter,
}

impl StoreMetrics {
    /// Registers the series. Once for each process.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.registry(|registry| {
            let mut storage = registry.sub_registry_with_prefix("storage");
            let mut amount = |name, help| {
                let gauge = Amount::default();
                storage.register(name, help, gauge.clone());
                gauge
            };
            let series = Self {
                free: amount(
                    "free_bytes",
                    "Bytes that may still be written on the disk of the data directory",
                ),
                capacity: amount("capacity_bytes", "Bytes of the disk of the data directory"),
                files: amount("file_bytes", "Bytes of the store's files, the write-ahead log included"),
                wal: amount("wal_bytes", "Bytes of the write-ahead log's files"),
                level0: amount("level0_files", "Data files that no compaction has taken up yet"),
                compaction: amount(
                    "compaction_pending_bytes",
                    "Bytes that compactions have still to rewrite",
                ),
                background_errors: amount(
                    "background_errors",
                    "Times that the engine failed in the background since the store was opened",
                ),
                stalled: Seconds::default(),
                looks_failed: Counter::default(),
            };
            let help = "Time that writes have waited for room in memory";
            storage.register("stalled_seconds", help, series.stalled.clone());
            let help = "Times that the store could not be looked at: the series beside this one are old";
            storage.register("looks_failed", help, series.looks_failed.clone());
            series
        })
    }

    /// What was seen; `stalled_before` is what the report before this one of the same store said.
    pub fn seen(&self, report: &StoreReport, stalled_before: std::time::Duration) {
        self.free.set(report.free_bytes);
        self.capacity.set(report.capacity_bytes);
        self.files.set(report.file_bytes);
        self.wal.set(report.wal_bytes);
        self.level0.set(report.level0_files);
        self.compaction.set(report.compaction_bytes);
        self.background_errors.set(report.background_errors);
        self.stalled.inc_by(report.stalled.saturating_sub(stalled_before).as_secs_f64());
    }

    /// Nothing could be seen.
    pub fn not_seen(&self) {
        self.looks_failed.inc();
    }
}
