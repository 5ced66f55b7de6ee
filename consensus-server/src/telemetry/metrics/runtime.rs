//! The async runtime that everything but the writer runs on: the series of the subsystem `runtime`.
//!
//! Asked for at each scrape; the runtime counts them anyhow.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::{Handle, RuntimeMetrics};

use super::Metrics;

impl Metrics {
    /// From now on tells what the runtime of the caller does. Once for each process.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn watch_runtime(&self) {
        let runtime = Handle::current().metrics();
        self.registry(|registry| registry.register_collector(Box::new(RuntimeCollector { runtime })));
    }
}

#[derive(Debug)]
struct RuntimeCollector {
    runtime: RuntimeMetrics,
}

impl Collector for RuntimeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let workers = self.runtime.num_workers();
        let busy = (0..workers).map(|worker| self.runtime.worker_total_busy_duration(worker));
        let busy = ConstCounter::new(busy.sum::<std::time::Duration>().as_secs_f64());
        let help = "Time that the runtime's workers were busy, summed over them";
        busy.encode(encoder.encode_descriptor("runtime_busy_seconds", help, None, busy.metric_type())?)?;
        let mut gauge = |name: &str, help: &str, value: usize| {
            let value = ConstGauge::new(value as u64);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
        };
        gauge("runtime_workers", "Threads of the runtime", workers)?;
        gauge("runtime_tasks", "Tasks that are alive", self.runtime.num_alive_tasks())?;
        gauge("runtime_queued_tasks", "Tasks that wait for any worker", self.runtime.global_queue_depth())
    }
}
