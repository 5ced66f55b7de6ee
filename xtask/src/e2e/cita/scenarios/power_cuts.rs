//! Everything dies by SIGKILL at once, under load, again and again.
//!
//! Half of the times the controllers get back what was in their pools, as those do that keep it on disk; the
//! other half all transactions that are in no block are lost, those of a block that is agreed but nowhere
//! stored among them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{VOIDED_LIMIT, four};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::load::Load;
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::report::spoken_precisely;

/// Longest time before the next cut, in milliseconds.
const QUIET_MS_MAX: u64 = 2000;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "power-cuts", &four(0))?;
    tell(play, |play| {
        play.start()?;
        let load = play.load(150);
        for cycle in 0..telling.cuts {
            cut(play, (cycle % 2 == 1).then_some(&load))?;
        }
        drop(load);
        play.grow(3)?;
        play.expect_window(4);
        Ok(())
    })
}

/// `pools` has what the controllers get back.
fn cut(play: &mut Play<'_>, pools: Option<&Load>) -> Result<()> {
    let quiet_ms = QUIET_MS_MAX / 4 + play.random.below(QUIET_MS_MAX * 3 / 4);
    play.pause(Duration::from_millis(quiet_ms))?;
    play.chain.kill_all(&Service::ALL)?;
    let (height, started) = (play.height(), Instant::now());
    play.chain.start_all()?;
    if let Some(load) = pools {
        for node in play.chain.nodes() {
            let give = || Ok(load.give_again(node.ports().controller_control).ok());
            let given = play.interrupt().poll(PATIENCE, Duration::from_millis(10), give)?;
            given.context("a controller does not take transactions")?;
        }
    }
    play.observer.wait_for_height(play.interrupt(), height + 1, PATIENCE)?;
    let took = started.elapsed();
    let pools = if pools.is_some() { "kept" } else { "lost" };
    play.say(&format!("everything killed, pools {pools}: next block after {}", spoken_precisely(took)));
    play.expect_within(&format!("power cut, pools {pools}: next block"), took, VOIDED_LIMIT);
    play.grow(2)?;
    play.level().map(drop)
}
