//! Transactions at a pace, whatever becomes of the nodes: a client that ends is followed by another one.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::e2e::cli::Cli;
use crate::e2e::process::log_file;

/// Lines are handed out so often.
const TURN: Duration = Duration::from_millis(20);

/// Before another client is started.
const PAUSE: Duration = Duration::from_millis(200);

/// A client without an acknowledgement gives up after this.
const GIVES_UP: &str = "4s";

/// How much is submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) per_second: u64,
    /// Of each transaction.
    pub(super) bytes: usize,
}

/// Submits until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    client: Arc<Mutex<Option<Child>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts to submit to the nodes at `addresses`, the first as long as it lives.
    pub(super) fn start(cli: &Cli, addresses: &str, pace: Pace, log: &Path) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let client = Arc::new(Mutex::new(None));
        let log = log_file(log)?;
        let feeder = Feeder { stop: Arc::clone(&stop), client: Arc::clone(&client), pace };
        let mut command = cli.command(["submit", "--lines", "-", "--timeout", GIVES_UP, "--to", addresses]);
        command.process_group(0);
        let thread = std::thread::spawn(move || {
            while !feeder.is_stopped() {
                let Ok(errors) = log.try_clone() else { return };
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors);
                // One that cannot be started is one client fewer.
                if let Ok(child) = command.spawn() {
                    feeder.feed(child);
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, client, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        end(&self.client);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Started while this one was being told.
        end(&self.client);
    }
}

/// Its pipe breaks, and the feeder ends.
fn end(client: &Mutex<Option<Child>>) {
    if let Some(mut child) = client.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

struct Feeder {
    stop: Arc<AtomicBool>,
    client: Arc<Mutex<Option<Child>>>,
    pace: Pace,
}

impl Feeder {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Hands out lines by the clock until the client ends.
    fn feed(&self, mut child: Child) {
        let Some(mut pipe) = child.stdin.take() else { return };
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let started = Instant::now();
        let mut handed_out = 0;
        while !self.is_stopped() {
            let due = (started.elapsed().as_secs_f64() * self.pace.per_second as f64) as u64;
            let mut text = String::new();
            // No more at once than a second's, after a client that took nothing for long.
            for number in handed_out..due.min(handed_out + self.pace.per_second) {
                let _ = writeln!(text, "{number:x>width$}", width = self.pace.bytes);
            }
            if pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()).is_err() {
                break;
            }
            handed_out = due;
            std::thread::sleep(TURN);
        }
        drop(pipe);
        end(&self.client);
    }
}
