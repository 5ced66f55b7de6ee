//! Clients that submit lines at a steady pace, probes that look for the next block, and a watcher that
//! sees blocks arrive. Each is a `consensus-cli` process that lives through the faults.
//!
//! A client reads its lines from a pipe. A thread writes them there by the clock and counts them, so that
//! a fault can be injected when a given share has been handed out; what the client makes of a node that
//! dies is its own business and part of what is tested.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cli::{Block, Cli, Receipt, Summary, receipts};
use super::process::{Process, log_file, tail};
use crate::interrupt::Interrupt;

/// How long a client may take from its last line to its end.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// A client's lines and its name; ids in the chain are the name and the line's number.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) client: String,
    pub(crate) lines: Arc<Vec<Vec<u8>>>,
}

/// Deals lines to `count` clients in turn.
pub(crate) fn deal(lines: Vec<Vec<u8>>, count: usize) -> Vec<Share> {
    let mut hands = vec![Vec::new(); count];
    for (number, line) in lines.into_iter().enumerate() {
        hands[number % count].push(line);
    }
    let name = |number: usize| format!("client-{}", number + 1);
    hands
        .into_iter()
        .enumerate()
        .map(|(number, lines)| Share { client: name(number), lines: Arc::new(lines) })
        .collect()
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Client {
    share: Share,
    child: Child,
    feeder: Option<JoinHandle<()>>,
    handed_out: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    receipts: PathBuf,
    log: PathBuf,
}

impl Client {
    /// Starts a client that submits its share over `duration`, to the first of `nodes` as long as it lives.
    pub(crate) fn start(
        cli: &Cli,
        share: &Share,
        nodes: &str,
        duration: Duration,
        directory: &Path,
    ) -> Result<Self> {
        let receipts = directory.join(format!("{}.receipts.jsonl", share.client));
        let log = directory.join(format!("{}.log", share.client));
        let mut command = cli.command(["submit", "--lines", "-", "--ordered", "--json", "--to", nodes]);
        command.args(["--client", &share.client]).arg("--receipts").arg(&receipts);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file(&log)?).process_group(0);
        let mut child = command.spawn().context("cannot start a client")?;
        let pipe = child.stdin.take().context("a client without a pipe")?;
        let handed_out = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let feeder = Feeder {
            lines: Arc::clone(&share.lines),
            duration,
            handed_out: Arc::clone(&handed_out),
            stop: Arc::clone(&stop),
        };
        let feeder = Some(std::thread::spawn(move || feeder.run(pipe)));
        Ok(Self { share: share.clone(), child, feeder, handed_out, stop, receipts, log })
    }

    /// Lines written into the client's pipe so far.
    pub(crate) fn handed_out(&self) -> usize {
        self.handed_out.load(Ordering::Relaxed)
    }

    /// Hands out no further lines.
    pub(crate) fn enough(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the client's end: everything acknowledged, or a reason why not.
    pub(crate) fn finish(mut self, interrupt: &Interrupt) -> Result<Finished> {
        while self.feeder.as_ref().is_some_and(|feeder| !feeder.is_finished()) {
            interrupt.pause(Duration::from_millis(20))?;
        }
        let client = self.share.client.clone();
        let status = interrupt
            .poll(CLIENT_PATIENCE, Duration::from_millis(20), || Ok(self.child.try_wait()?))?
            .with_context(|| format!("{client} has not ended {CLIENT_PATIENCE:?} after its last line"))?;
        let output = self.child.stdout.take().context("a client without output")?;
        let text = std::io::read_to_string(output).with_context(|| client.clone())?;
        let summary = serde_json::from_str(text.trim()).ok();
        let complaint = (!status.success()).then(|| {
            format!(
                "{client} ended with {status}; the end of {}:\n{}",
                self.log.display(),
                tail(&self.log, 6)
            )
        });
        let receipts = receipts(&self.receipts)?;
        let (share, sent) = (self.share.clone(), self.handed_out());
        Ok(Finished { share, sent, is_ordered: true, receipts, summary, complaint })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Ended already in the usual case; otherwise its pipe breaks and the feeder ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

/// Ends clients: what is left of each, and the longest wait of one in milliseconds.
pub(crate) fn finish_all(clients: Vec<Client>, interrupt: &Interrupt) -> Result<(Vec<Finished>, u64)> {
    clients.iter().for_each(Client::enough);
    let finished: Vec<Finished> =
        clients.into_iter().map(|client| client.finish(interrupt)).collect::<Result<_>>()?;
    let summaries = finished.iter().filter_map(|client| client.summary.as_ref());
    let longest_ms = summaries.map(|summary| summary.longest_gap_ms).max().unwrap_or(0);
    Ok((finished, longest_ms))
}

/// What is left of a client.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) share: Share,
    /// Lines that the client was given.
    pub(crate) sent: usize,
    /// Whether it asked for its lines' order.
    pub(crate) is_ordered: bool,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) summary: Option<Summary>,
    /// Why it did not succeed, if it did not.
    pub(crate) complaint: Option<String>,
}

/// Writes lines into a pipe by the clock.
struct Feeder {
    lines: Arc<Vec<Vec<u8>>>,
    duration: Duration,
    handed_out: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Feeder {
    fn run(self, mut pipe: ChildStdin) {
        let started = Instant::now();
        let total = self.lines.len();
        let mut next = 0;
        while next < total && !self.stop.load(Ordering::Relaxed) {
            let share = started.elapsed().as_secs_f64() / self.duration.as_secs_f64().max(0.001);
            let due = ((share * total as f64) as usize).min(total);
            let mut text = Vec::new();
            for line in &self.lines[next..due.max(next)] {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
            // A broken pipe means that the client has ended, which is noticed where it is waited for.
            if pipe.write_all(&text).and_then(|()| pipe.flush()).is_err() {
                return;
            }
            next = due.max(next);
            self.handed_out.store(next, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Follows one node's blocks and notes when the first with a probe arrives.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Child,
    first_probe: Arc<OnceLock<Instant>>,
}

impl Watcher {
    /// Starts to follow the node at `address`.
    pub(crate) fn start(cli: &Cli, address: &str, log: &Path) -> Result<Self> {
        let mut command = cli.command(["deliver", "--from", "newest", "--follow", "--no-payloads", "--json"]);
        command.args(["--nodes", address]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file(log)?).process_group(0);
        let mut child = command.spawn().context("cannot start a watcher")?;
        let output = child.stdout.take().context("a watcher without output")?;
        let first_probe = Arc::new(OnceLock::new());
        let noted = Arc::clone(&first_probe);
        std::thread::spawn(move || note_first_probe(BufReader::new(output), &noted));
        Ok(Self { child, first_probe })
    }

    /// When the first block with a probe arrived.
    pub(crate) fn first_probe(&self) -> Option<Instant> {
        self.first_probe.get().copied()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn note_first_probe(lines: impl BufRead, first: &OnceLock<Instant>) {
    for line in lines.lines() {
        let at = Instant::now();
        let Some(block) = line.ok().and_then(|line| serde_json::from_str::<Block>(&line).ok()) else {
            return;
        };
        if has_probe(&block) {
            first.get_or_init(|| at);
        }
    }
}

/// Submits one transaction after the other, each by a process of its own, by the clock and not by the
/// answers: the first that is committed tells when the chain goes on.
#[derive(Debug)]
pub(crate) struct Probes {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    started: Arc<Mutex<Vec<Probe>>>,
}

#[derive(Debug)]
struct Probe {
    client: String,
    process: Process,
    receipts: PathBuf,
}

/// How the names of probes begin.
const PROBE_PREFIX: &str = "probe-";

impl Probes {
    /// Starts to probe the nodes at `addresses` in turn.
    pub(crate) fn start(cli: &Cli, addresses: Vec<String>, directory: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let started = Arc::new(Mutex::new(Vec::new()));
        let (cli, directory) = (cli.clone(), directory.to_path_buf());
        let (stopped, list) = (Arc::clone(&stop), Arc::clone(&started));
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let address = &addresses[number % addresses.len()];
                // A probe that cannot be started is one probe fewer.
                if let Ok(probe) = Probe::start(&cli, number + 1, address, &directory) {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
                }
                std::thread::sleep(PROBE_INTERVAL);
            }
        });
        Self { stop, thread: Some(thread), started }
    }

    /// Starts no further probe.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Waits for the probes' ends and returns them as clients of one line each.
    pub(crate) fn finish(mut self) -> Result<Vec<Finished>> {
        self.stop();
        let probes = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        probes.into_iter().map(Probe::finish).collect()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Probe {
    fn start(cli: &Cli, number: usize, address: &str, directory: &Path) -> Result<Self> {
        let client = format!("{PROBE_PREFIX}{number}");
        let receipts = directory.join(format!("{client}.receipts.jsonl"));
        let mut command =
            cli.command(["submit", "--json", "--timeout", "10s", "--to", address, "--client", &client]);
        command.arg("--receipts").arg(&receipts).arg(&client);
        let process = Process::start(&client, &mut command, &directory.join("probes.log"))?;
        Ok(Self { client, process, receipts })
    }

    /// A probe may fail, as one that asked a node without a leader does; it must not be in the chain twice.
    fn finish(mut self) -> Result<Finished> {
        if self.process.wait(CLIENT_PATIENCE)?.is_none() {
            bail!("{} has not ended in {CLIENT_PATIENCE:?}", self.client);
        }
        let lines = Arc::new(vec![self.client.clone().into_bytes()]);
        let receipts = if self.receipts.exists() { receipts(&self.receipts)? } else { Vec::new() };
        let share = Share { client: self.client.clone(), lines };
        Ok(Finished { share, sent: 1, is_ordered: true, receipts, summary: None, complaint: None })
    }
}

/// True if the block has a probe's transaction.
fn has_probe(block: &Block) -> bool {
    block.transactions.iter().flatten().any(|transaction| transaction.id.starts_with(PROBE_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dealt_in_turn_and_keep_their_order() {
        let lines = (0..7_u8).map(|number| vec![number]).collect();
        let shares = deal(lines, 3);
        assert_eq!(shares.len(), 3);
        assert_eq!(*shares[0].lines, [vec![0], vec![3], vec![6]]);
        assert_eq!(*shares[2].lines, [vec![2], vec![5]]);
        assert_eq!(shares[2].client, "client-3");
    }

    #[test]
    fn a_watcher_notes_the_first_block_with_a_probe_and_stops_at_text_that_is_no_block() {
        let block = |id: &str| {
            format!(
                r#"{{"height":1,"hash":"a","previous_hash":"b","transactions":[{{"id":"{id}","payload":null}}]}}"#
            )
        };
        let noted = |text: &str| {
            let first = OnceLock::new();
            note_first_probe(text.as_bytes(), &first);
            first.get().is_some()
        };
        assert!(noted(&format!("{}\n{}\n", block("client-1-1"), block("probe-3-1"))));
        assert!(!noted(&format!("{}\n", block("client-1-1"))));
        assert!(!noted(&format!("not a block\n{}\n", block("probe-3-1"))));
    }
}
