//! Disks that are slow, stuck, or full. A disk is made slow by freezing its file system for a while, again and
//! again: whoever writes or syncs meanwhile waits, in the kernel.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{FLOOD, Ledger, PATIENCE, STEADY};
use crate::e2e::alerts::act::Act;
use crate::e2e::alerts::load::Pace;
use crate::e2e::chaos::disk::Frozen;

/// A slow disk: nothing for so long, then everything for a moment.
const SLOW: Duration = Duration::from_millis(2_400);
const MOMENT: Duration = Duration::from_millis(150);
/// A disk that is stuck, for longer than anybody waits.
const STUCK: Duration = Duration::from_secs(3600);

/// Blocks that show that a chain goes on.
const FOLLOWING_BLOCKS: u64 = 200;

/// What fills a disk, how often, and how often at most: not so far that it is nearly full.
const FILLS_BYTES: usize = 3 << 20;
const FILLS_EVERY: Duration = Duration::from_millis(250);
const FILLS_MAX: usize = 256;

/// Freezes a file system again and again until it is dropped.
#[derive(Debug)]
struct Stutter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Stutter {
    fn start(directory: PathBuf, stands_still: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let frozen = Frozen::new(&directory)?;
                wait(&stopped, stands_still);
                frozen.thaw()?;
                wait(&stopped, MOMENT);
            }
            Ok(())
        });
        Self { stop, thread: Some(thread) }
    }

    /// Lets everything pass again.
    fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow::anyhow!("the thread that freezes a disk has panicked"))?
    }
}

impl Drop for Stutter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(stop: &AtomicBool, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Ledger<'_> {
    fn stutter(&self, node: u64, stands_still: Duration) -> Result<Stutter> {
        Ok(Stutter::start(self.cluster.node(node)?.data(), stands_still))
    }
}

/// The disks of two nodes take seconds for a sync.
pub(crate) fn slow(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    troupe.lead(3)?;
    let load = troupe.load(1, STEADY)?;
    act.begins();
    let disks = [troupe.stutter(3, SLOW)?, troupe.stutter(4, SLOW)?];
    act.fired()?;
    disks.into_iter().try_for_each(Stutter::end)?;
    act.ends();
    // The alerts ask about the syncs of late, so there have to be some.
    troupe.settle()?;
    troupe.pause(Duration::from_secs(15))?;
    drop(load);
    Ok(())
}

/// A follower's disk takes nothing any more, while the others go on.
pub(crate) fn writer_behind(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    stuck(troupe, act, 1, FLOOD)
}

/// The leader's disk takes nothing any more. It gives leadership away, and the others go on.
pub(crate) fn leader_hangs(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    stuck(troupe, act, 3, STEADY)
}

/// The disk of node 3 takes nothing, while clients submit to the one that leads. The chain goes on.
fn stuck(troupe: &mut Ledger<'_>, act: &mut Act<'_>, leader: u64, pace: Pace) -> Result<()> {
    troupe.lead(leader)?;
    let load = troupe.load(leader, pace)?;
    troupe.pause(Duration::from_secs(1))?;
    act.begins();
    let disk = troupe.stutter(3, STUCK)?;
    act.fired()?;
    let began = troupe.height(1)?;
    // More than can have been in flight when the disk got stuck.
    let goes_on = troupe.interrupt().poll(PATIENCE, Duration::from_millis(200), || {
        Ok((troupe.height(1)? >= began + FOLLOWING_BLOCKS).then_some(()))
    })?;
    disk.end()?;
    goes_on.with_context(|| format!("node 1 stays near block {began} while the disk of node 3 is stuck"))?;
    act.ends();
    // Clients that go away with frames under way leave none behind.
    drop(load);
    Ok(())
}

/// The disks of two of four nodes take nothing any more: nothing is committed while clients wait.
pub(crate) fn no_progress(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    troupe.lead(1)?;
    let load = troupe.load(1, STEADY)?;
    troupe.pause(Duration::from_secs(1))?;
    act.begins();
    let disks = [troupe.stutter(3, STUCK)?, troupe.stutter(4, STUCK)?];
    act.fired()?;
    disks.into_iter().try_for_each(Stutter::end)?;
    act.ends();
    drop(load);
    Ok(())
}

/// A disk that fills as nobody expected.
pub(crate) fn fills(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    troupe.settle()?;
    act.begins();
    for _ in 0..FILLS_MAX {
        if act.have_fired() {
            break;
        }
        troupe.disks.first().context("a small disk")?.grow(FILLS_BYTES)?;
        troupe.pause(FILLS_EVERY)?;
    }
    troupe.disks.first().context("a small disk")?.free()?;
    act.ends();
    Ok(())
}

/// A disk without space halts the chain of its node.
pub(crate) fn full(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    troupe.lead(1)?;
    let load = troupe.load(1, FLOOD)?;
    act.begins();
    let disk = troupe.disks.first().context("a small disk")?;
    let node = disk.node();
    disk.fill()?;
    act.fired()?;
    drop(load);
    // The process stays, so that its reason can be read.
    let reason = troupe.interrupt().poll(PATIENCE, Duration::from_millis(200), || {
        let status = troupe.stage.cli().status(&troupe.cluster.node(node)?.address()).ok();
        Ok(status.and_then(|status| status.halt_reason()))
    })?;
    reason.with_context(|| format!("node {node} does not say why it has halted"))?;
    troupe.cluster.kill(node)?;
    troupe.disks.first().context("a small disk")?.free()?;
    troupe.cluster.start(node)?;
    act.ends();
    Ok(())
}
