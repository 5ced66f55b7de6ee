//! Log lines: the series of the subsystem `log`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::Metrics;
use crate::telemetry::LogControl;

/// Label `level`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

impl Metrics {
    /// From now on tells how many log lines there were, and how many were lost. Once for each process.
    pub fn watch_log(&self, log: LogControl) {
        self.registry(|registry| registry.register_collector(Box::new(LogCollector { log })));
    }
}

#[derive(Debug)]
struct LogCollector {
    log: LogControl,
}

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Log lines that passed the filter";
        let mut lines = encoder.encode_descriptor("log_lines", help, None, MetricType::Counter)?;
        for (level, count) in self.log.lines() {
            ConstCounter::new(count).encode(lines.encode_family(&LevelLabel { level })?)?;
        }
        let lost = ConstCounter::new(self.log.lost_lines());
        let help = "Log lines lost because the disk or the pipe was slow or full";
        lost.encode(encoder.encode_descriptor("log_lost_lines", help, None, lost.metric_type())?)
    }
}
