//! Validators and block interval change while the chain runs, under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::seconds;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Plan;
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::cita::seats::expect_one_group;
use crate::e2e::report::spoken_precisely;

/// Seconds.
pub(super) const INTERVAL: u32 = 1;

/// The lists that follow each other, by position of the nodes; none: all of the first four but the leader.
const LISTS: [Option<&[usize]>; 6] =
    [Some(&[1, 2, 3]), Some(&[0, 1, 2, 3]), None, Some(&[2]), Some(&[0, 1, 2, 3]), Some(&[4, 5, 6])];

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let plan = Plan { nodes: 7, validators: 4, block_interval: INTERVAL };
    let play = Play::new(telling, "validators", &plan)?;
    tell(play, |play| {
        play.start()?;
        let load = play.load(50);
        play.grow(3)?;
        for list in LISTS {
            let list = match list {
                Some(list) => list.to_vec(),
                None => {
                    let leader = play.leader()?.node;
                    (0..4).filter(|node| *node != leader).collect()
                }
            };
            change_validators(play, &list)?;
        }
        for (interval, slowest) in [(10, 10), (0, 10)] {
            let change = json!({"block_interval": interval});
            let is_done = |status: &Value| status["block_interval"] == interval;
            changed(play, &format!("interval {interval}"), &change, is_done, slowest)?;
        }
        drop(load);
        Ok(())
    })
}

/// Makes these nodes the validators; all of them are in one group afterwards.
pub(super) fn change_validators(play: &mut Play<'_>, list: &[usize]) -> Result<()> {
    let addresses = list.iter().map(|node| play.chain.node(*node).address()).collect::<Vec<_>>();
    let change = json!({"validators": addresses});
    let is_done = |status: &Value| status["validators"] == change["validators"];
    changed(play, &format!("validators {list:?}"), &change, is_done, INTERVAL)?;
    let started = Instant::now();
    expect_one_group(play, list)?;
    play.note("validators changed: all in one group", started.elapsed());
    Ok(())
}

/// Orders a change on all nodes and waits until it is in force on all; blocks come meanwhile at the pace of
/// the slowest interval.
fn changed(
    play: &mut Play<'_>,
    what: &str,
    change: &Value,
    is_done: impl Fn(&Value) -> bool,
    slowest: u32,
) -> Result<()> {
    play.measure();
    play.order_all("/proposal", change)?;
    let nodes = play.chain.nodes().len();
    let done = play.interrupt().poll(PATIENCE, Duration::from_millis(50), || {
        play.observer.check()?;
        Ok(Some(())
            .filter(|()| (0..nodes).all(|node| play.status(node).is_ok_and(|status| is_done(&status)))))
    })?;
    done.with_context(|| format!("{what} is not in force everywhere within {PATIENCE:?}"))?;
    play.grow(3)?;
    play.level()?;
    let gap = play.longest_gap();
    play.say(&format!("{what}: longest gap {}", spoken_precisely(gap)));
    play.expect_within(
        &format!("change at interval {slowest}: longest gap"),
        gap,
        seconds(slowest) + Duration::from_secs(1),
    );
    Ok(())
}
