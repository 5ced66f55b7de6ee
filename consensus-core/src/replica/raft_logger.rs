//! The `raft` crate's log lines as `tracing` events.

use slog::{Drain, Level, Never, OwnedKVList, Record};

/// The target that filters know these lines by.
const TARGET: &str = "raft";

struct ToTracing {
    node: u64,
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        let (node, said) = (self.node, record.msg());
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: TARGET, node, %said, "the raft crate says")
            }
            Level::Warning => tracing::warn!(target: TARGET, node, %said, "the raft crate says"),
            Level::Info => tracing::info!(target: TARGET, node, %said, "the raft crate says"),
            Level::Debug => tracing::debug!(target: TARGET, node, %said, "the raft crate says"),
            Level::Trace => tracing::trace!(target: TARGET, node, %said, "the raft crate says"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(target: TARGET, tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: TARGET, tracing::Level::INFO),
            Level::Debug => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
            Level::Trace => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
        }
    }
}

pub(super) fn logger(node: u64) -> slog::Logger {
    slog::Logger::root(ToTracing { node }, slog::o!())
}
