//! Clients under chaos: some that go on for the whole run, and many that come, are impatient and go.
//!
//! Each is a `consensus-cli submit` process with a name of its own. The steady ones never give up; half of
//! them keep their lines in order, the other half have many messages under way. A visitor gives up after
//! two seconds without an answer and leaves transactions of which nobody knows whether they are in the
//! chain. Some bring a large one, which a slow link takes long to carry, some one that is too large, which
//! must be refused.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::e2e::cli::{Cli, receipts};
use crate::e2e::clients::{Finished, Share};
use crate::e2e::process::{log_file, tail};
use crate::e2e::random::Random;
use crate::interrupt::Interrupt;

/// Largest transaction and largest block of the chain, in bytes.
pub(crate) const BLOCK_BYTES_MAX: u64 = 128 << 10;

/// Between two lines that a steady client is given together.
const BEAT: Duration = Duration::from_millis(50);

/// Lines of a visitor, and the time between two visitors.
const VISITOR_LINES: usize = 20;
const VISITOR_PERIOD: Duration = Duration::from_millis(1_000);
/// Visitors that are there at once, at most.
const VISITORS_MAX: usize = 8;
/// How many visitors come per transaction that is large, and per one that is too large.
const VISITORS_PER_LARGE: usize = 5;
const VISITORS_PER_REFUSAL: usize = 10;

/// Bytes of a large transaction.
const LARGE_BYTES: usize = 100 << 10;

/// How long a client may take to its end, once nothing is wrong with the cluster any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// All clients of a run.
#[derive(Debug)]
pub(crate) struct Load {
    steady: Vec<Steady>,
    visitors: Visitors,
}

impl Load {
    /// Starts a steady client for each of `nodes`, which share `rate` transactions per second, and lets
    /// visitors come. `nodes` has, for each, all addresses with that node's first.
    pub(crate) fn start(cli: &Cli, nodes: &[String], rate: u64, seed: u64, directory: &Path) -> Result<Self> {
        let share = rate as f64 / nodes.len() as f64;
        let steady = (1_u64..)
            .zip(nodes)
            .map(|(number, nodes)| Steady::start(cli, number, nodes, share, seed, directory))
            .collect::<Result<_>>()?;
        Ok(Self { steady, visitors: Visitors::start(cli, nodes, seed, directory) })
    }

    /// Lets nobody submit anything new and waits until all have their answers or have given up.
    pub(crate) fn finish(mut self, interrupt: &Interrupt) -> Result<Vec<Finished>> {
        self.visitors.stop();
        self.steady.iter().for_each(Steady::stop);
        let mut finished =
            self.steady.into_iter().map(|client| client.finish(interrupt)).collect::<Result<Vec<_>>>()?;
        finished.extend(self.visitors.finish(interrupt)?);
        Ok(finished)
    }
}

/// The text of a client's line: told by its name and number alone.
fn line(client: &str, number: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ number as u64);
    let mut text = format!("{client} says {number}:");
    for _ in 0..random.below(24) {
        text.push_str(&format!(" {:08x}", random.next() as u32));
    }
    text.into_bytes()
}

/// A client process.
#[derive(Debug)]
struct Submission {
    client: String,
    child: Child,
    receipts: PathBuf,
    log: PathBuf,
}

impl Submission {
    fn start(
        cli: &Cli,
        client: &str,
        nodes: &str,
        options: &[&str],
        directory: &Path,
    ) -> Result<(Self, ChildStdin)> {
        let receipts = directory.join(format!("{client}.receipts.jsonl"));
        let log = directory.join(format!("{client}.log"));
        let mut command =
            cli.command(["submit", "--lines", "-", "--json", "--to", nodes, "--client", client]);
        command.args(options).arg("--receipts").arg(&receipts);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file(&log)?).process_group(0);
        let mut child = command.spawn().context("cannot start a client")?;
        let pipe = child.stdin.take().context("a client without a pipe")?;
        Ok((Self { client: client.to_owned(), child, receipts, log }, pipe))
    }

    /// Waits for the end. `lines` is what it was given.
    fn finish(mut self, lines: Vec<Vec<u8>>, is_steady: bool, interrupt: &Interrupt) -> Result<Finished> {
        let client = self.client.clone();
        let status = interrupt
            .poll(PATIENCE, Duration::from_millis(20), || Ok(self.child.try_wait()?))?
            .with_context(|| format!("{client} has not ended {PATIENCE:?} after its last line"))?;
        let receipts = if self.receipts.exists() { receipts(&self.receipts)? } else { Vec::new() };
        let complaint = (is_steady && !status.success()).then(|| {
            format!(
                "{client} ended with {status}; the end of {}:\n{}",
                self.log.display(),
                tail(&self.log, 6)
            )
        });
        let sent = lines.len();
        let share = Share { client, lines: Arc::new(lines) };
        Ok(Finished { share, sent, is_ordered: false, receipts, summary: None, complaint })
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        // Ended already in the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client for the whole run.
#[derive(Debug)]
struct Steady {
    submission: Submission,
    feeder: JoinHandle<()>,
    is_ordered: bool,
    seed: u64,
    sent: Arc<AtomicUsize>,
    is_stopped: Arc<AtomicBool>,
}

impl Steady {
    fn start(cli: &Cli, number: u64, nodes: &str, rate: f64, seed: u64, directory: &Path) -> Result<Self> {
        let client = format!("steady-{number}");
        let is_ordered = number % 2 == 1;
        let mut options = vec!["--timeout", "180s"];
        options.extend(if is_ordered { &["--ordered"] as &[&str] } else { &["--batch", "4"] });
        let (submission, pipe) = Submission::start(cli, &client, nodes, &options, directory)?;
        let seed = Random::new(seed ^ number).next();
        let sent = Arc::new(AtomicUsize::new(0));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let feeder = {
            let (sent, is_stopped) = (Arc::clone(&sent), Arc::clone(&is_stopped));
            std::thread::spawn(move || feed(pipe, &client, rate, seed, &sent, &is_stopped))
        };
        Ok(Self { submission, feeder, is_ordered, seed, sent, is_stopped })
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    fn finish(self, interrupt: &Interrupt) -> Result<Finished> {
        // A feeder waits only for the client to read on, which it does as soon as the chain goes on.
        interrupt
            .poll(PATIENCE, Duration::from_millis(20), || Ok(self.feeder.is_finished().then_some(())))?;
        let sent = self.sent.load(Ordering::Relaxed);
        let client = &self.submission.client;
        let lines = (1..=sent).map(|number| line(client, number, self.seed)).collect();
        let finished = self.submission.finish(lines, true, interrupt)?;
        Ok(Finished { is_ordered: self.is_ordered, ..finished })
    }
}

/// Writes lines at a steady pace; what could not be written in time is not made up for.
fn feed(
    mut pipe: ChildStdin,
    client: &str,
    rate: f64,
    seed: u64,
    sent: &AtomicUsize,
    is_stopped: &AtomicBool,
) {
    let mut owed = 0.0_f64;
    while !is_stopped.load(Ordering::Relaxed) {
        owed += rate * BEAT.as_secs_f64();
        let mut number = sent.load(Ordering::Relaxed);
        let mut text = Vec::new();
        while owed >= 1.0 {
            owed -= 1.0;
            number += 1;
            text.extend(line(client, number, seed));
            text.push(b'\n');
        }
        // Counted first: what was half written may have been submitted.
        sent.store(number, Ordering::Relaxed);
        if pipe.write_all(&text).and_then(|()| pipe.flush()).is_err() {
            return;
        }
        std::thread::sleep(BEAT);
    }
}

/// Clients that come and go.
#[derive(Debug)]
struct Visitors {
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    list: Arc<Mutex<Vec<Visitor>>>,
}

#[derive(Debug)]
struct Visitor {
    submission: Submission,
    lines: Vec<Vec<u8>>,
}

impl Visitors {
    fn start(cli: &Cli, nodes: &[String], seed: u64, directory: &Path) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let list = Arc::new(Mutex::new(Vec::new()));
        let (cli, nodes, directory) = (cli.clone(), nodes.to_vec(), directory.to_path_buf());
        let (stop, visitors) = (Arc::clone(&is_stopped), Arc::clone(&list));
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed ^ 0x5151);
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let next = Instant::now() + VISITOR_PERIOD;
                let mut list = visitors.lock().unwrap_or_else(PoisonError::into_inner);
                let there = list.iter_mut().map(|visitor: &mut Visitor| visitor.submission.child.try_wait());
                if there.filter(|ended| matches!(ended, Ok(None))).count() < VISITORS_MAX {
                    number += 1;
                    let nodes = &nodes[random.below(nodes.len() as u64) as usize];
                    // One that cannot be started is one fewer.
                    list.extend(Visitor::start(&cli, number, nodes, seed, &directory).ok());
                }
                drop(list);
                while Instant::now() < next && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(BEAT);
                }
            }
        });
        Self { is_stopped, thread: Some(thread), list }
    }

    fn stop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn finish(mut self, interrupt: &Interrupt) -> Result<Vec<Finished>> {
        self.stop();
        let visitors = std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner));
        visitors
            .into_iter()
            .map(|visitor| visitor.submission.finish(visitor.lines, false, interrupt))
            .collect()
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Visitor {
    fn start(cli: &Cli, number: usize, nodes: &str, seed: u64, directory: &Path) -> Result<Self> {
        let client = format!("visitor-{number}");
        let mut lines =
            (1..=VISITOR_LINES).map(|place| line(&client, place, seed ^ number as u64)).collect::<Vec<_>>();
        if number % VISITORS_PER_REFUSAL == 1 {
            lines.push(vec![b'x'; BLOCK_BYTES_MAX as usize + 1]);
        }
        if number % VISITORS_PER_LARGE == 2 {
            lines.push(vec![b'y'; LARGE_BYTES]);
        }
        let options = ["--timeout", "2s", "--batch", "3"];
        let (submission, mut pipe) = Submission::start(cli, &client, nodes, &options, directory)?;
        let text = lines.iter().flat_map(|line| line.iter().chain(b"\n")).copied().collect::<Vec<_>>();
        // One that has ended does not read; that is seen where it is waited for.
        std::thread::spawn(move || pipe.write_all(&text));
        Ok(Self { submission, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_by_its_client_its_number_and_the_seed() {
        assert_eq!(line("a", 1, 7), line("a", 1, 7));
        assert_ne!(line("a", 1, 7), line("a", 2, 7));
        assert!(line("a", 1, 7).starts_with(b"a says 1:"));
        assert!((1..100).all(|number| !line("a", number, 3).contains(&b'\n')));
    }
}
