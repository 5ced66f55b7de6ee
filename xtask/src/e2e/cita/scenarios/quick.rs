//! What a change of the code is most likely to break, each once, on one chain: the first start, the loss of
//! the leader, a change of validators, a block that is given up.

use anyhow::Result;

use super::leader::kill_leader;
use super::validators::{INTERVAL, change_validators};
use super::{RECOVERY_LIMIT, four, seconds, stuck};
use crate::e2e::cita::Telling;
use crate::e2e::cita::play::{Play, tell};
use crate::e2e::report::spoken_precisely;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "quick", &four(INTERVAL))?;
    tell(play, |play| {
        let first = play.start()?;
        play.say(&format!("first block after {}", spoken_precisely(first)));
        play.expect_within("first start: first block", first, RECOVERY_LIMIT);
        let took = kill_leader(play)?;
        play.say(&format!("leader's consensus killed: next height after {}", spoken_precisely(took)));
        play.expect_within("leader killed: next height", took, RECOVERY_LIMIT + seconds(INTERVAL));
        change_validators(play, &[1, 2, 3])?;
        change_validators(play, &[0, 1, 2, 3])?;
        stuck::with_all(play)?;
        play.expect_window(4);
        Ok(())
    })
}
