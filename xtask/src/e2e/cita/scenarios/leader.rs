//! The leader's consensus dies by SIGKILL, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::report::{median_and_max, spoken_precisely};

/// Seconds.
const INTERVAL: u32 = 1;

/// From the kill to the next height, at most in half of the rounds, the interval aside.
const MEDIAN_LIMIT: Duration = Duration::from_millis(1500);

/// A block that comes this soon after the kill was agreed before it.
const IN_FLIGHT: Duration = Duration::from_millis(100);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "leader", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        let load = play.load(50);
        let mut times = Vec::new();
        for round in 1..=telling.rounds {
            let took = kill_leader(play)?;
            play.say(&format!("kill {round}: next height after {}", spoken_precisely(took)));
            play.expect_within("leader killed: next height", took, RECOVERY_LIMIT + seconds(INTERVAL));
            times.push(took);
        }
        drop(load);
        let (median, _) = median_and_max(&mut times).context("no round")?;
        play.expect_within("leader killed: median of these", median, MEDIAN_LIMIT + seconds(INTERVAL));
        play.expect_window(4);
        Ok(())
    })
}

pub(super) fn kill_leader(play: &mut Play<'_>) -> Result<Duration> {
    play.grow(2)?;
    // At another moment of the interval in each round.
    let wait_ms = play.random.below(1000);
    play.pause(Duration::from_millis(wait_ms))?;
    let leader = play.leader()?;
    play.chain.kill(leader.node, Service::Consensus)?;
    let killed = Instant::now();
    play.pause(IN_FLIGHT)?;
    let height = play.height();
    play.observer.wait_for_height(play.interrupt(), height + 1, PATIENCE)?;
    let took = killed.elapsed();
    play.chain.start(leader.node, Service::Consensus)?;
    play.grow(1)?;
    play.level()?;
    Ok(took)
}
