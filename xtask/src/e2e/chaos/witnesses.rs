//! Follows every node's blocks during the whole run and holds each node to what it has shown.
//!
//! At the end all chains may be equal although a node has shown, for a moment, a block that was never
//! agreed. So each node is followed by a `consensus-cli deliver` of its own, which checks hashes and links
//! as it goes, and every block it has seen is compared with the final chain.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::e2e::assertions::LISTED_MAX;
use crate::e2e::cli::{Block, Cli};
use crate::e2e::process::{log_file, tail};

/// Before a follower that has ended is started again.
const PAUSE: Duration = Duration::from_millis(300);

/// The exit code with which a follower says that blocks do not fit.
const FINDING: i32 = 1;

/// A follower for each node.
#[derive(Debug)]
pub(crate) struct Witnesses {
    list: Vec<(Arc<Witness>, Option<JoinHandle<()>>)>,
}

#[derive(Debug)]
struct Witness {
    node: u64,
    address: String,
    cli: Cli,
    log: PathBuf,
    is_stopped: AtomicBool,
    child: Mutex<Option<Child>>,
    seen: Mutex<Seen>,
}

/// What one node has shown.
#[derive(Debug, Default)]
struct Seen {
    hashes: BTreeMap<u64, String>,
    findings: Vec<String>,
}

impl Witnesses {
    /// Begins to follow these nodes.
    pub(crate) fn start(cli: &Cli, nodes: &[(u64, String)], directory: &Path) -> Self {
        let start = |(node, address): &(u64, String)| {
            let witness = Arc::new(Witness {
                node: *node,
                address: address.clone(),
                cli: cli.clone(),
                log: directory.join(format!("witness-{node}.log")),
                is_stopped: AtomicBool::new(false),
                child: Mutex::default(),
                seen: Mutex::default(),
            });
            let follower = Arc::clone(&witness);
            (witness, Some(std::thread::spawn(move || follower.run())))
        };
        Self { list: nodes.iter().map(start).collect() }
    }

    /// Ends them; what nodes have shown that is not in `chain`, and the nodes that have shown nothing.
    pub(crate) fn finish(mut self, chain: &[Block]) -> (Vec<String>, Vec<u64>) {
        self.stop();
        let (mut findings, mut mute) = (Vec::new(), Vec::new());
        for (witness, _) in &self.list {
            let seen = witness.seen();
            findings.extend(seen.compare(witness.node, chain));
            if seen.hashes.is_empty() {
                mute.push(witness.node);
            }
        }
        (findings, mute)
    }

    fn stop(&mut self) {
        for (witness, thread) in &mut self.list {
            witness.is_stopped.store(true, Ordering::Relaxed);
            witness.end();
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Witness {
    fn run(&self) {
        while !self.is_stopped.load(Ordering::Relaxed) {
            // One that could not be started is tried again.
            let _ = self.follow();
            std::thread::sleep(PAUSE);
        }
    }

    /// Follows until the follower ends.
    fn follow(&self) -> Result<()> {
        let mut command = self.cli.command(["deliver", "--from", "newest", "--follow", "--headers-only"]);
        command.args(["--json", "--nodes", &self.address]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file(&self.log)?).process_group(0);
        let output = {
            let mut slot = self.child();
            if self.is_stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut child = command.spawn().context("cannot start a follower")?;
            let output = child.stdout.take().context("a follower without output")?;
            *slot = Some(child);
            output
        };
        for line in BufReader::new(output).lines() {
            let Some(block) = line.ok().and_then(|line| serde_json::from_str::<Block>(&line).ok()) else {
                break;
            };
            self.seen().add(self.node, block);
        }
        // It has closed its output, so it ends now; until it was waited for it can be killed by its id.
        let mut slot = self.child();
        let status = slot.as_mut().context("a follower that was taken away")?.wait()?;
        *slot = None;
        drop(slot);
        if status.code() == Some(FINDING) {
            let (node, log) = (self.node, tail(&self.log, 3));
            self.seen().findings.push(format!("shown: the follower of node {node} has found: {log}"));
        }
        Ok(())
    }

    /// Kills the follower, and whatever it has started, so that nobody holds its output open.
    fn end(&self) {
        let child = self.child();
        let id = child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // One that has ended already was not waited for yet, so the id is still its own.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn add(&mut self, node: u64, block: Block) {
        let Block { height, hash, .. } = block;
        let first = self.hashes.entry(height).or_insert_with(|| hash.clone());
        if *first != hash {
            let what = format!("shown: node {node} has shown block {height} as {first} and later as {hash}");
            self.findings.push(what);
        }
    }

    fn compare(&self, node: u64, chain: &[Block]) -> Vec<String> {
        let at = |height: u64| chain.get(usize::try_from(height).ok()?.checked_sub(1)?);
        let differs =
            |(height, hash): &(&u64, &String)| at(**height).is_none_or(|block| block.hash != **hash);
        let differing = self.hashes.iter().filter(differs).take(LISTED_MAX);
        let differing = differing.map(|(height, hash)| {
            let agreed = at(*height).map_or("nothing", |block| &block.hash);
            format!("shown: node {node} has shown {hash} at height {height}, where the chain has {agreed}")
        });
        self.findings.iter().cloned().chain(differing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(height: u64, hash: &str) -> Block {
        Block { height, hash: hash.to_owned(), previous_hash: String::new(), transactions: None }
    }

    #[test]
    fn a_block_that_was_shown_and_is_not_in_the_chain_is_found() {
        let mut seen = Seen::default();
        for shown in [block(1, "a"), block(2, "b"), block(2, "b")] {
            seen.add(1, shown);
        }
        assert_eq!(seen.compare(1, &[block(1, "a"), block(2, "b"), block(3, "c")]), Vec::<String>::new());
        assert_eq!(seen.compare(1, &[block(1, "a"), block(2, "x")]).len(), 1);
        assert_eq!(seen.compare(1, &[block(1, "a")]).len(), 1);
    }

    #[test]
    fn a_block_that_was_shown_in_two_ways_is_found() {
        let mut seen = Seen::default();
        seen.add(1, block(1, "a"));
        seen.add(1, block(1, "b"));
        assert_eq!(seen.compare(1, &[block(1, "a")]).len(), 1);
    }
}
