//! Looks at the store on disk every few seconds, for the metrics, and says when its disk runs full.
//!
//! A disk that does not answer holds up nobody but the look itself. What is done about a full disk is the store's
//! (it halts its chains) and the operator's; nothing is decided here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use consensus_core::storage::Result;
use consensus_core::storage::rocks::{RocksStore, StoreReport};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::StoreMetrics;

/// How often the store is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a stopping node waits for a look.
const STOP_MAX: Duration = Duration::from_millis(500);
/// With less room than this a disk counts as nearly full.
const LOW_BYTES: u64 = 1 << 30;
/// The same as a share of the disk: one part in so many.
const LOW_SHARE: u64 = 20;

/// The looks at one store, until they are stopped.
#[derive(Debug)]
pub(crate) struct StoreWatch {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl StoreWatch {
    /// Begins at once.
    pub(crate) fn start(store: &Arc<RocksStore>, metrics: StoreMetrics) -> Self {
        let stop = CancellationToken::new();
        let watcher =
            Watcher { store: Arc::downgrade(store), metrics, last: None, failing: false, low: false };
        let task = tokio::spawn(watcher.run(stop.clone()));
        Self { task, stop }
    }

    /// Looks no more, and has the store open no more, unless the disk does not answer.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A look that panicked or hangs has nothing to tell.
        let _ = tokio::time::timeout(STOP_MAX, self.task).await;
    }
}

struct Watcher {
    /// Whoever stops the store does not wait for a look.
    store: Weak<RocksStore>,
    metrics: StoreMetrics,
    last: Option<StoreReport>,
    /// The newest look failed.
    failing: bool,
    /// The disk was nearly full at the newest look.
    low: bool,
}

impl Watcher {
    async fn run(mut self, stop: CancellationToken) {
        while let Some(store) = self.store.upgrade() {
            if let Ok(report) = tokio::task::spawn_blocking(move || store.report()).await {
                self.on_look(report);
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    fn on_look(&mut self, report: Result<StoreReport>) {
        match report {
            Ok(report) => {
                let stalled_before = self.last.map_or(Duration::ZERO, |last| last.stalled);
                self.metrics.seen(&report, stalled_before);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the store can be looked at again");
                }
                self.tell_room(&report);
                self.last = Some(report);
            }
            Err(error) => {
                self.metrics.not_seen();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the store cannot be looked at, its metrics are old");
                }
            }
        }
    }

    fn tell_room(&mut self, report: &StoreReport) {
        let StoreReport { free_bytes, capacity_bytes, .. } = *report;
        let low = is_low(report, self.low);
        if std::mem::replace(&mut self.low, low) == low {
            return;
        }
        if low {
            tracing::warn!(free_bytes, capacity_bytes, "the disk of the data directory is nearly full");
        } else {
            tracing::info!(free_bytes, capacity_bytes, "the disk of the data directory has room again");
        }
    }
}

/// Whether the disk is nearly full; it has room again only with a tenth more, so that nothing is said twice.
fn is_low(report: &StoreReport, was_low: bool) -> bool {
    let bound = LOW_BYTES.max(report.capacity_bytes / LOW_SHARE);
    let bound = if was_low { bound + bound / 10 } else { bound };
    report.free_bytes < bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_is_nearly_full_below_a_gibibyte_or_a_twentieth_and_has_room_again_above_a_tenth_more() {
        let at =
            |free_bytes, capacity_bytes| StoreReport { free_bytes, capacity_bytes, ..StoreReport::default() };
        for (report, was_low, low) in [
            (at(GIB, 10 * GIB), false, false),
            (at(GIB - 1, 10 * GIB), false, true),
            (at(5 * GIB, 100 * GIB), false, false),
            (at(5 * GIB - 1, 100 * GIB), false, true),
            (at(5 * GIB + GIB / 4, 100 * GIB), true, true),
            (at(6 * GIB, 100 * GIB), true, false),
            (at(0, 0), false, true),
        ] {
            assert_eq!(is_low(&report, was_low), low, "{report:?}, low before: {was_low}");
        }
    }

    #[test]
    fn time_in_stalls_adds_up_and_looks_that_fail_are_counted() {
        let metrics = Metrics::new(1);
        let (store, metrics_of_store) = (Weak::new(), StoreMetrics::new(&metrics));
        let mut watcher =
            Watcher { store, metrics: metrics_of_store, last: None, failing: false, low: false };
        for ms in [500, 500, 1500] {
            let stalled = Duration::from_millis(ms);
            watcher.on_look(Ok(StoreReport { stalled, free_bytes: 7 * GIB, ..StoreReport::default() }));
        }
        let broken = consensus_core::storage::Error::Engine { operation: "look", cause: "gone".to_owned() };
        watcher.on_look(Err(broken));
        let text = metrics.encode();
        for line in [
            "consensus_storage_stalled_seconds_total 1.5",
            "consensus_storage_free_bytes 7516192768",
            "consensus_storage_looks_failed_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
