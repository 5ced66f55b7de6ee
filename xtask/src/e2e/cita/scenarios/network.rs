//! A network that loses, doubles, delays and reorders messages, and one that cuts the leader off.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::play::{Play, tell};
use crate::e2e::http;
use crate::e2e::report::spoken_precisely;

/// Seconds.
const INTERVAL: u32 = 1;

/// How long the leader is alone.
const ALONE: Duration = Duration::from_secs(10);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "network-bad", &four(0))?;
    tell(play, |play| bad(play, telling.length))?;
    let play = Play::new(telling, "network-cut", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        for directions in [&["block_in", "block_out"][..], &["block_in"], &["block_out"]] {
            cut(play, directions)?;
        }
        Ok(())
    })
}

/// Nothing can be relied on, for all modules and all the time.
fn bad(play: &mut Play<'_>, length: Duration) -> Result<()> {
    play.start()?;
    let load = play.load(150);
    let faults = json!({"loss": 0.05, "duplicate": 0.05, "delay_ms": 2, "reorder_ms": 30});
    play.order_networks("/faults", &faults)?;
    let before = play.height();
    play.measure();
    play.pause(length)?;
    let (blocks, gap) = (play.height() - before, play.longest_gap());
    play.order_networks("/faults", &json!({}))?;
    drop(load);
    play.say(&format!(
        "5 % lost, 5 % doubled, up to 30 ms apart: {blocks} blocks, longest gap {}",
        spoken_precisely(gap)
    ));
    play.expect_within("bad network: longest gap", gap, RECOVERY_LIMIT);
    play.grow(3)?;
    play.level()?;
    play.expect_window(4);
    Ok(())
}

/// Nothing reaches the leader, or nothing that it says reaches others, or both.
fn cut(play: &mut Play<'_>, directions: &[&str]) -> Result<()> {
    play.grow(3)?;
    play.level()?;
    let leader = play.leader()?;
    let others = play.chain.nodes().iter().enumerate().filter(|(node, _)| *node != leader.node);
    let others = others.map(|(_, node)| node.address().to_owned()).collect::<Vec<_>>();
    let mut faults = json!({});
    for direction in directions {
        faults[*direction] = json!(others);
    }
    let port = play.chain.node(leader.node).ports().network_control;
    play.measure();
    http::post(port, "/faults", &faults)?;
    play.pause(ALONE)?;
    let gap = play.longest_gap();
    http::post(port, "/faults", &json!({}))?;
    let what = format!("the leader cut off ({})", directions.join(", "));
    play.say(&format!("{what}: longest gap {}", spoken_precisely(gap)));
    play.expect_within("leader cut off: longest gap", gap, RECOVERY_LIMIT + seconds(INTERVAL));
    play.grow(2)?;
    play.level()?;
    Ok(())
}
