//! A part of the leader's node stands still for long: another node leads, and nothing diverges afterwards.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{Play, tell};
use crate::e2e::report::spoken_precisely;

/// Seconds.
const INTERVAL: u32 = 1;

/// How long the leader's controller hangs, at most.
const HANG: Duration = Duration::from_secs(15);

/// What stands still, and for how long at most.
const PAUSES: [(Service, Duration); 3] = [
    (Service::Network, Duration::from_secs(25)),
    (Service::Controller, Duration::from_secs(15)),
    (Service::Consensus, Duration::from_secs(25)),
];

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "pauses", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        let load = play.load(50);
        for (service, length) in PAUSES {
            play.grow(3)?;
            play.level()?;
            pause(play, service, length.min(telling.length))?;
        }
        hang(play, HANG.min(telling.length))?;
        drop(load);
        play.expect_window(4);
        Ok(())
    })
}

/// The leader's controller takes calls and does not answer them.
fn hang(play: &mut Play<'_>, length: Duration) -> Result<()> {
    play.grow(3)?;
    play.level()?;
    let leader = play.leader()?;
    play.measure();
    for call in ["get", "check", "commit"] {
        let order = json!({"call": call, "hang_ms": length.as_millis() as u64});
        play.chain.node(leader.node).order("/faults", &order)?;
    }
    play.pause(length)?;
    let gap = play.longest_gap();
    play.say(&format!(
        "leader's controller hangs for {}: longest gap {}",
        spoken_precisely(length),
        spoken_precisely(gap)
    ));
    let limit = RECOVERY_LIMIT + seconds(INTERVAL);
    play.expect_within("leader's controller hangs: longest gap", gap, limit);
    play.grow(2)?;
    play.level()?;
    Ok(())
}

fn pause(play: &mut Play<'_>, service: Service, length: Duration) -> Result<()> {
    let leader = play.leader()?;
    play.chain.process_mut(leader.node, service)?.freeze()?;
    let frozen = Instant::now();
    play.measure();
    play.pause(length)?;
    let gap = play.longest_gap();
    let next = play.chain.leader();
    play.chain.process_mut(leader.node, service)?.thaw()?;
    play.say(&format!(
        "leader's {service} paused for {}: longest gap {}",
        spoken_precisely(frozen.elapsed()),
        spoken_precisely(gap)
    ));
    play.expect_within(
        &format!("leader's {service} paused: longest gap"),
        gap,
        RECOVERY_LIMIT + seconds(INTERVAL),
    );
    let changed = next.is_some_and(|next| next.node != leader.node);
    play.expect(changed, || format!("node {} still leads without its {service}", leader.node));
    play.grow(2)?;
    play.level()?;
    Ok(())
}
