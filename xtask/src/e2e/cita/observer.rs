//! Asks all controllers all the time, each in a thread of its own, and keeps the [`Record`].
//!
//! A controller that does not answer is dead or paused, which only the scenario can judge; its last word
//! stands, and the others are asked on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::record::Record;
use crate::e2e::http;
use crate::interrupt::Interrupt;

/// Between two questions to one controller.
const PERIOD: Duration = Duration::from_millis(20);

/// Blocks that are asked for at once.
const BLOCKS_MAX: u64 = 2_000;

/// Watches the controllers of a chain until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    is_stopped: AtomicBool,
    record: Mutex<Record>,
}

impl Observer {
    /// Begins to watch the controllers with control listeners on `ports`.
    pub(crate) fn start(ports: &[u16]) -> Self {
        let record = Mutex::new(Record::new(ports.len(), Instant::now()));
        let shared = Arc::new(Shared { is_stopped: AtomicBool::new(false), record });
        let watch = |(node, port): (usize, &u16)| {
            let (shared, port) = (shared.clone(), *port);
            std::thread::spawn(move || shared.run(node, port))
        };
        let threads = ports.iter().enumerate().map(watch).collect();
        Self { shared, threads }
    }

    /// What was found so far.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record()
    }

    /// Lets `act` take blocks away from these controllers; it returns the height that is left.
    pub(crate) fn roll_back(&self, nodes: &[usize], act: impl FnOnce() -> Result<u64>) -> Result<u64> {
        self.shared.record().next_epoch();
        // What is answered while blocks are being taken away may come before or after that.
        let mut record = self.shared.record();
        let height = act()?;
        record.next_epoch();
        record.on_rollback(nodes, height);
        Ok(height)
    }

    /// Fails if something was found that must not be.
    pub(crate) fn check(&self) -> Result<()> {
        let record = self.record();
        if record.findings().is_empty() {
            return Ok(());
        }
        bail!("{}", record.findings().join("\n"));
    }

    /// Waits until the highest controller is at `height` or above. Returns how long that took.
    pub(crate) fn wait_for_height(
        &self,
        interrupt: &Interrupt,
        height: u64,
        limit: Duration,
    ) -> Result<Duration> {
        let highest = |record: &Record| record.highest() >= height;
        self.wait_for(interrupt, limit, &format!("no height {height}"), highest)
    }

    /// Waits until all controllers are at `height` or above and every block has been compared that far.
    pub(crate) fn wait_for_all(
        &self,
        interrupt: &Interrupt,
        height: u64,
        limit: Duration,
    ) -> Result<Duration> {
        let lowest = |record: &Record| record.lowest_compared() >= height;
        self.wait_for(interrupt, limit, &format!("not all at height {height}"), lowest)
    }

    fn wait_for(
        &self,
        interrupt: &Interrupt,
        limit: Duration,
        otherwise: &str,
        is_there: impl Fn(&Record) -> bool,
    ) -> Result<Duration> {
        let started = Instant::now();
        let reached = interrupt.poll(limit, PERIOD / 2, || {
            self.check()?;
            Ok(Some(()).filter(|()| is_there(&self.record())))
        })?;
        let heights = || self.record().heights();
        reached.with_context(|| format!("{otherwise} within {limit:?}: {:?}", heights()))?;
        Ok(started.elapsed())
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, node: usize, port: u16) {
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.ask(node, port);
            std::thread::sleep(PERIOD);
        }
    }

    fn ask(&self, node: usize, port: u16) {
        let epoch = self.record().epoch();
        let status = http::get(port, "/status").ok();
        let Some(height) = status.and_then(|status| status["height"].as_u64()) else { return };
        let next = {
            let mut record = self.record();
            if record.epoch() != epoch {
                return;
            }
            record.on_height(node, height, Instant::now())
        };
        let Some((first, last)) = next else { return };
        let last = last.min(first + BLOCKS_MAX);
        let blocks = http::get(port, &format!("/blocks?from={first}&to={last}")).ok();
        let mut record = self.record();
        if let Some(blocks) = blocks.as_ref().and_then(|blocks| blocks.as_array())
            && record.epoch() == epoch
        {
            record.on_blocks(node, first, blocks);
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so itself.
            let _ = thread.join();
        }
    }
}
