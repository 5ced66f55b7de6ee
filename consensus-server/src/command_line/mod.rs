//! The two command lines of the one program: [`node`] under its own name, [`cita`] under the name of
//! CITA-Cloud's consensus service, `consensus`.
//!
//! Which one it is follows from the name of the file that was started, so that a link or a copy in
//! `/usr/bin` is all that an image needs. Exit codes are the same for both.

mod cita;
mod node;

use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use consensus_server::config::Mistakes;
use consensus_server::telemetry::LogControl;

/// Wrong usage or configuration, as clap has it.
const EXIT_USAGE: u8 = 2;
/// The last log lines get this long.
const LOG_FLUSH_MAX: Duration = Duration::from_millis(500);

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|program| is_drop_in(&program)) { cita::run() } else { node::run() }
}

/// Whether the program was started under the drop-in's name.
fn is_drop_in(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(cita::NAME))
}

/// The mistakes of a configuration, for people.
fn told(mistakes: &Mistakes) -> ExitCode {
    eprintln!("{mistakes}");
    ExitCode::from(EXIT_USAGE)
}

/// Runs what serves until it ends. The log is complete afterwards.
fn serve<F: Future<Output = anyhow::Result<()>>>(
    worker_threads: usize,
    log: &LogControl,
    serving: F,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .thread_name("consensus")
        .enable_all()
        .build()
        .context("the async runtime cannot be started");
    let served = runtime.and_then(|runtime| {
        let served = runtime.block_on(serving);
        // Reads of the store may still be under way; they hold nothing that anybody waits for.
        runtime.shutdown_background();
        served
    });
    if let Err(error) = &served {
        let why = format!("{error:#}");
        tracing::error!(why, "ended by an error");
    }
    log.flush(LOG_FLUSH_MAX);
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_decides() {
        for name in ["consensus", "/usr/bin/consensus", "./consensus"] {
            assert!(is_drop_in(OsStr::new(name)), "{name}");
        }
        for name in ["consensus-server", "/usr/bin/consensus-server", "/consensus/other", ""] {
            assert!(!is_drop_in(OsStr::new(name)), "{name}");
        }
    }
}
