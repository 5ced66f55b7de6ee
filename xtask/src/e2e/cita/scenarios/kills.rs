//! SIGKILL for random processes of random nodes, under load.

use std::time::Duration;

use anyhow::Result;

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::report::spoken_precisely;

/// Longest time that a process stays dead, in milliseconds.
const DEAD_MS_MAX: u64 = 1500;

/// Longest time before the next kill, in milliseconds.
const QUIET_MS_MAX: u64 = 1000;

/// A gap beyond this is told when it is seen.
const REMARKABLE: Duration = Duration::from_secs(4);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    for interval in [1, 0] {
        let play = Play::new(telling, &format!("kills-{interval}"), &four(interval))?;
        let cycles = telling.cycles.div_ceil(2);
        tell(play, |play| {
            play.start()?;
            let load = play.load(150);
            single(play, cycles)?;
            drop(load);
            play.grow(3)?;
            let gap = play.longest_gap();
            // The next kill may come before the recovery from the last one is over.
            play.expect_within("processes killed: longest gap", gap, 2 * RECOVERY_LIMIT + seconds(interval));
            play.expect_window(4);
            Ok(())
        })?;
    }
    Ok(())
}

fn single(play: &mut Play<'_>, cycles: u32) -> Result<()> {
    play.measure();
    let before = play.height();
    let mut longest = Duration::ZERO;
    for _ in 0..cycles {
        let node = play.random.below(4) as usize;
        let service = Service::ALL[play.random.below(3) as usize];
        play.chain.kill(node, service)?;
        let dead_ms = play.random.below(DEAD_MS_MAX);
        play.pause(Duration::from_millis(dead_ms))?;
        play.chain.start(node, service)?;
        let quiet_ms = play.random.below(QUIET_MS_MAX);
        play.pause(Duration::from_millis(quiet_ms))?;
        play.chain.expect_running()?;
        play.observer.check()?;
        let gap = play.longest_gap();
        if gap > longest.max(REMARKABLE) {
            longest = gap;
            play.say(&format!("{service} of node {node} killed: no block for {}", spoken_precisely(gap)));
        }
        anyhow::ensure!(
            gap < PATIENCE,
            "no new height for {gap:?} after {service} of node {node} was killed"
        );
    }
    play.grow(1)?;
    play.level()?;
    let gap = play.longest_gap();
    play.say(&format!(
        "{cycles} kills of one process: {} blocks meanwhile, longest gap {}",
        play.height() - before,
        spoken_precisely(gap)
    ));
    Ok(())
}
