//! Log lines on standard error: for people, coloured on a terminal, or one JSON object a line.
//!
//! The filter has the syntax of `RUST_LOG` and can be changed while the process runs, through
//! [`LogControl`]. A process sets up logging once; tests build a subscriber of their own.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::LogFormat;

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
}

impl LogControl {
    /// The filter in force.
    pub fn filter(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter in force; returns the one before.
    ///
    /// # Errors
    /// What is wrong with the filter, in words; the one before stays in force.
    pub fn set(&self, filter: &str) -> Result<String, String> {
        let parsed = parse(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(|error| format!("the filter cannot be changed: {error}"))?;
        Ok(std::mem::replace(&mut current, filter.trim().to_owned()))
    }
}

/// Whether a filter can be read.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    if filter.trim().is_empty() {
        return Err("a log filter must not be empty".to_owned());
    }
    // A single misspelt level would otherwise be taken for the name of a target and silence everything.
    for directive in filter.split(',').map(str::trim) {
        let word = !directive.contains(['=', ':', '[', '_']);
        let level = matches!(
            directive.to_ascii_lowercase().as_str(),
            "off" | "error" | "warn" | "info" | "debug" | "trace" | "0" | "1" | "2" | "3" | "4" | "5"
        );
        if word && !level {
            return Err(format!(
                "{directive:?} is no level (off, error, warn, info, debug, trace) and no target=level"
            ));
        }
    }
    EnvFilter::builder().parse(filter.trim()).map_err(|error| error.to_string())
}

/// A subscriber with this filter and format, and the control of its filter.
///
/// # Errors
/// What is wrong with the filter, in words.
pub fn build(filter: &str, format: LogFormat) -> Result<(impl Subscriber + Send + Sync, LogControl), String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let control = LogControl { handle, current: Arc::new(Mutex::new(filter.trim().to_owned())) };
    Ok((Registry::default().with(layer).with(lines(format)), control))
}

/// Sets up logging for the whole process.
///
/// # Errors
/// What is wrong with the filter, or that logging is set up already.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<LogControl> {
    let (subscriber, control) =
        build(filter, format).map_err(|why| anyhow::anyhow!("log filter {filter:?}: {why}"))?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(control)
}

fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_while_the_process_runs() {
        let (subscriber, control) = build("info", LogFormat::Json).expect("valid");
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(control.set("debug"), Ok("info".to_owned()));
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(control.filter(), "debug");
        });
    }

    #[test]
    fn a_filter_that_cannot_be_read_leaves_the_old_one_in_force() {
        let (_subscriber, control) = build("warn", LogFormat::Human).expect("valid");
        for bad in ["", "consensus_server=loud", "inof", "a=b=c"] {
            assert!(control.set(bad).is_err(), "{bad:?}");
        }
        assert_eq!(control.filter(), "warn");
    }
}
