//! All nodes start for the first time at once, and again after a clean stop of all.

use anyhow::Result;

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::play::{Play, STOP_LIMIT, tell};
use crate::e2e::report::spoken_precisely;

/// Seconds.
const INTERVAL: u32 = 1;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "restart", &four(INTERVAL))?;
    tell(play, |play| {
        let first = play.start()?;
        play.say(&format!("first block after {}", spoken_precisely(first)));
        play.expect_within("first start: first block", first, RECOVERY_LIMIT);
        for round in 1..=telling.rounds {
            play.grow(2)?;
            play.level()?;
            let stop = play.chain.stop_all()?;
            let took = play.start()?;
            play.say(&format!(
                "restart {round}: consensus stopped in {}, next block after {}",
                spoken_precisely(stop),
                spoken_precisely(took)
            ));
            play.expect_within("SIGTERM to exit of consensus", stop, STOP_LIMIT);
            play.expect_within("clean restart: first new block", took, RECOVERY_LIMIT + seconds(INTERVAL));
        }
        Ok(())
    })
}
