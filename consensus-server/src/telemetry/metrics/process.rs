//! The process as the system sees it, under the names that Prometheus' own clients gave: `process_*`.
//!
//! Read from `/proc` at each scrape; where there is none, nothing is told.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// Reads `/proc` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// What `/proc` tells.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Process {
    cpu_seconds: f64,
    threads: u64,
    start_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let value = ConstGauge::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
        };
        if let Some(open) = open_files() {
            gauge("process_open_fds", "Open file descriptors", open as f64)?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge("process_max_fds", "Most file descriptors that may be open", most as f64)?;
        }
        let Some(process) = Process::read() else { return Ok(()) };
        gauge("process_threads", "Threads", process.threads as f64)?;
        gauge("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes as f64)?;
        gauge("process_resident_memory_bytes", "Memory in use", process.resident_bytes as f64)?;
        gauge("process_start_time_seconds", "Unix time of the start", process.start_seconds)?;
        let cpu = ConstCounter::new(process.cpu_seconds);
        let help = "Time on processors, of the program and of the system for it";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

impl Process {
    fn read() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        let system = std::fs::read_to_string("/proc/stat").ok()?;
        let (ticks, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
        Self::parse(&own, &system, ticks as f64, page as u64)
    }

    /// Of `/proc/self/stat` and `/proc/stat`, proc(5).
    fn parse(own: &str, system: &str, ticks: f64, page: u64) -> Option<Self> {
        // The second field is the program's name in parentheses and may hold anything; the third follows it.
        let fields: Vec<&str> = own.get(own.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
        let boot: u64 = boot.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            start_seconds: boot as f64 + field(22)? as f64 / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

/// Open file descriptors, without the one that counts them.
fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn the_fields_are_those_of_the_manual_whatever_the_program_is_called() {
        let own = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 9 18 1000 4096 3 21";
        let process = Process::parse(own, "cpu 1\nbtime 1700000000\n", 100.0, 4096).expect("complete");
        let expected = Process {
            cpu_seconds: 2.0,
            threads: 9,
            start_seconds: 1_700_000_010.0,
            virtual_bytes: 4096,
            resident_bytes: 3 * 4096,
        };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("42 (a) S 1", "btime 1\n", 100.0, 4096), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_names_are_those_that_dashboards_know() {
        let text = Metrics::new(1).encode();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            let value = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name} in\n{text}");
        }
    }
}
