//! What people and machines may know of a running node: log lines and metrics.
//!
//! [`logging`] sets up tracing once for the process and keeps the filter changeable, [`log_queue`] and
//! [`log_file`] write lines without making anybody wait; [`metrics`] turns typed verbs into Prometheus series, [`trace`]
//! into OpenTelemetry spans. Callers are the seams (driver, transport, services, applications); the core logs,
//! counts and traces nothing by itself. Nothing here waits or allocates without bound: labels are the chain, the
//! members and fixed words.

pub mod log_file;
pub mod log_queue;
pub mod logging;
pub mod metrics;
mod throttle;
mod told;
pub mod trace;

pub use log_file::LogFiles;
pub use logging::{LogControl, LogTarget, check_filter};
pub use metrics::Metrics;
pub use throttle::Throttle;
pub use told::Told;

/// Unix time in milliseconds, for people and records; nothing that must be right depends on it.
pub fn unix_time_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
