//! Log lines on standard error, standard output or in files: for people, coloured on a terminal, or one JSON
//! object a line.
//!
//! The filter has the syntax of `RUST_LOG` and can be changed while the process runs, through
//! [`LogControl`]. A process sets up logging once; tests build a subscriber of their own. Standard output and
//! files are written by a thread behind a bounded queue ([`super::log_queue`]).

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::log_file::{LogFiles, RotatingFile};
use super::log_queue::{LogQueue, LogSink};
use crate::config::LogFormat;

/// Where log lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// Standard error, written by whoever logs.
    Stderr,
    /// Standard output, through the queue.
    Stdout,
    /// Files, through the queue.
    Files(LogFiles),
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
    lines: Arc<Lines>,
    queue: Option<LogQueue>,
}

/// Lines that passed the filter, by the number of their level.
type Lines = [AtomicU64; LEVELS.len()];

/// All levels, the gravest first.
const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

/// Counts lines.
struct Counting(Arc<Lines>);

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let level = event.metadata().level();
        if let Some(number) = LEVELS.iter().position(|known| known == level) {
            self.0[number].fetch_add(1, Ordering::Relaxed);
        }
    }
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

    /// Lines that passed the filter since the start, by the word for their level.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LEVELS.iter().zip(self.lines.iter()).map(|(level, lines)| {
            let word = match *level {
                Level::ERROR => "error",
                Level::WARN => "warn",
                Level::INFO => "info",
                Level::DEBUG => "debug",
                Level::TRACE => "trace",
            };
            (word, lines.load(Ordering::Relaxed))
        })
    }

    /// Lines that were lost because the disk or the pipe was slow or full.
    pub fn lost_lines(&self) -> u64 {
        self.queue.as_ref().map_or(0, LogQueue::lost_lines)
    }

    /// Waits until everything logged so far is written, at most `longest`: for the end of the process. Blocks
    /// the thread.
    pub fn flush(&self, longest: Duration) {
        if let Some(queue) = &self.queue
            && !queue.flush(longest)
        {
            eprintln!("the last log lines could not be written within {} ms", longest.as_millis());
        }
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

/// A subscriber with this filter and format on standard error, and the control of its filter.
///
/// # Errors
/// What is wrong with the filter, in words.
pub fn build(filter: &str, format: LogFormat) -> Result<(impl Subscriber + Send + Sync, LogControl), String> {
    build_to(filter, format, LogTarget::Stderr)
}

/// The same with lines that go elsewhere. A file that cannot be opened is told on standard error, once: lines
/// are lost until it can, and the process goes on.
///
/// # Errors
/// What is wrong with the filter, in words, or that the system gives no thread.
pub fn build_to(
    filter: &str,
    format: LogFormat,
    target: LogTarget,
) -> Result<(impl Subscriber + Send + Sync, LogControl), String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let queue = match target {
        LogTarget::Stderr => None,
        LogTarget::Stdout => Some(LogSink::Stdout),
        LogTarget::Files(files) => {
            let mut file = RotatingFile::new(files);
            if let Err(error) = file.open() {
                eprintln!("the log file cannot be opened, log lines are lost until it can: {error}");
            }
            Some(LogSink::Files(file))
        }
    };
    let queue = queue.map(LogQueue::start).transpose();
    let queue =
        queue.map_err(|error| format!("the thread that writes log lines cannot be started: {error}"))?;
    let current = Arc::new(Mutex::new(filter.trim().to_owned()));
    let written = match &queue {
        None => lines(format),
        Some(queue) => queued_lines(format, queue.clone()),
    };
    let lines = Arc::<Lines>::default();
    let subscriber = Registry::default().with(layer).with(Counting(lines.clone())).with(written);
    Ok((subscriber, LogControl { handle, current, lines, queue }))
}

/// Sets up logging for the whole process, on standard error.
///
/// # Errors
/// What is wrong with the filter, or that logging is set up already.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<LogControl> {
    init_to(filter, format, LogTarget::Stderr)
}

/// Sets up logging for the whole process.
///
/// # Errors
/// What is wrong with the filter, or that logging is set up already.
pub fn init_to(filter: &str, format: LogFormat, target: LogTarget) -> anyhow::Result<LogControl> {
    let (subscriber, control) =
        build_to(filter, format, target).map_err(|why| anyhow::anyhow!("log filter {filter:?}: {why}"))?;
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

/// Time, level, module, message and fields; never coloured, as nobody looks at it while it is written.
fn queued_lines<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
    queue: LogQueue,
) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(queue).with_ansi(false).with_target(true);
    match format {
        LogFormat::Human => lines.boxed(),
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

    #[test]
    fn a_line_in_a_file_has_time_level_module_and_fields() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let files = LogFiles {
            dir: directory.path().join("logs"),
            name: "consensus-service.log".to_owned(),
            rotate_bytes: 1 << 20,
            keep: 1,
            compress: false,
        };
        let (subscriber, control) =
            build_to("info", LogFormat::Human, LogTarget::Files(files)).expect("valid");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(height = 7, "a block");
            tracing::debug!("nobody asked for it");
        });
        control.flush(Duration::from_secs(60));
        assert_eq!(control.lost_lines(), 0);
        let counted: Vec<_> = control.lines().filter(|(_, lines)| *lines > 0).collect();
        assert_eq!(counted, [("info", 1)], "what the filter holds back is no line");
        let path = directory.path().join("logs/consensus-service.log");
        let text = std::fs::read_to_string(path).expect("written");
        let words: Vec<&str> = text.split_whitespace().collect();
        let time = words.first().copied().unwrap_or_default();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{text}");
        let rest = "INFO consensus_server::telemetry::logging::tests: a block height=7";
        assert_eq!(words[1..].join(" "), rest);
    }
}
