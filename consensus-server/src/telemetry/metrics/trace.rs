//! Spans: the series of the subsystem `tracing`, there only while tracing is on.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Metrics;

/// Why spans were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    reason: &'static str,
}

/// What becomes of the process's spans.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    exported: Counter,
    queue_full: Counter,
    export_failed: Counter,
    not_begun: Counter,
}

impl TraceMetrics {
    /// Registers the series. Once for each process.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.registry(|registry| {
            let mut tracing = registry.sub_registry_with_prefix("tracing");
            let exported = Counter::default();
            tracing.register("spans_exported", "Spans that the collector has taken", exported.clone());
            let dropped = Family::<DropLabel, Counter>::default();
            tracing.register(
                "spans_dropped",
                "Spans dropped because their queue was full or the collector did not take them",
                dropped.clone(),
            );
            let not_begun = Counter::default();
            tracing.register(
                "traces_not_begun",
                "Traces that were due and not begun because the queue of spans was nearly full",
                not_begun.clone(),
            );
            let reason = |reason| dropped.get_or_create_owned(&DropLabel { reason });
            let (queue_full, export_failed) = (reason("queue-full"), reason("export-failed"));
            Self { exported, queue_full, export_failed, not_begun }
        })
    }

    /// The collector has taken these.
    pub fn exported(&self, spans: usize) {
        self.exported.inc_by(spans as u64);
    }

    /// There was no room for these.
    pub fn dropped_queue_full(&self, spans: usize) {
        self.queue_full.inc_by(spans as u64);
    }

    /// A trace was due while there was hardly room.
    pub fn not_begun(&self) {
        self.not_begun.inc();
    }

    /// The collector did not take these.
    pub fn dropped_export_failed(&self, spans: usize) {
        self.export_failed.inc_by(spans as u64);
    }
}
