//! Validators shrink, grow and are replaced under load, again and again; all of them are in one group after
//! each step.

use std::time::Duration;

use anyhow::Result;

use super::validators::{INTERVAL, change_validators};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Plan;
use crate::e2e::cita::play::{Play, tell};

/// All of the first four.
const FOUR: [usize; 4] = [0, 1, 2, 3];

/// Those that take over from all of them.
const OTHERS: [usize; 3] = [4, 5, 6];

/// Longest time before the next change, in milliseconds: it need not wait until the last one is digested.
const QUIET_MS_MAX: u64 = 500;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let plan = Plan { nodes: 7, validators: 4, block_interval: INTERVAL };
    let play = Play::new(telling, "reshaping", &plan)?;
    tell(play, |play| {
        play.start()?;
        let load = play.load(50);
        for round in 1..=telling.rounds {
            play.say(&format!("round {round} of {}", telling.rounds));
            let removed = play.random.below(4) as usize;
            let alone = play.random.below(4) as usize;
            let three = FOUR.into_iter().filter(|node| *node != removed).collect::<Vec<_>>();
            for list in [&three[..], &FOUR, &[alone], &FOUR, &OTHERS, &FOUR] {
                change_validators(play, list)?;
                let quiet_ms = play.random.below(QUIET_MS_MAX);
                play.pause(Duration::from_millis(quiet_ms))?;
            }
        }
        drop(load);
        Ok(())
    })
}
