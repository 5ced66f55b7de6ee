//! What people and machines may know of a running node: log lines and metrics.
//!
//! [`logging`] sets up tracing once for the process and keeps the filter changeable; [`metrics`] turns typed
//! verbs into Prometheus series. Callers are the seams (driver, transport, services); the core logs and
//! counts nothing by itself. Nothing here waits or allocates without bound: labels are the chain, the
//! members and fixed words.

pub mod logging;
pub mod metrics;
mod throttle;

pub use logging::{LogControl, check_filter};
pub use metrics::Metrics;
pub use throttle::Throttle;

/// Unix time in milliseconds, for people and records; nothing that must be right depends on it.
pub fn unix_time_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
