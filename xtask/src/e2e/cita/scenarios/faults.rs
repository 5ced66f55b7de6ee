//! Controllers that refuse, hang, die in the middle of a block, lose an answer, or are slow. The block is
//! there afterwards, once, on every node, and nobody loses the leadership over it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::four;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::figures::{Bound, Unit};
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::report::spoken_precisely;

/// Seconds.
const INTERVAL: u32 = 1;

/// How long a block takes to execute where that is long, at most.
const EXECUTION_MAX: Duration = Duration::from_secs(12);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "faults", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        play.grow(2)?;
        play.level()?;
        let term = play.chain.term().context("no term")?;
        let leader = play.leader()?.node;
        let follower = (leader + 1) % 4;
        let missing = json!({"call": "check", "code": 119, "for_ms": 2000});
        everywhere(play, "a transaction is missing everywhere for 2 s", &missing)?;
        let hang = json!({"call": "commit", "hang_ms": 10_000});
        one(play, "a follower's controller hangs for 10 s", follower, &hang)?;
        let lost = json!({"call": "commit", "outcome": "unavailable", "times": 2});
        everywhere(play, "the answer to CommitBlock is lost twice everywhere", &lost)?;
        let busy = json!({"call": "commit", "code": 500, "times": 5});
        everywhere(play, "the executor is not ready five times everywhere", &busy)?;
        for outcome in ["exit_before_store", "exit_after_store"] {
            death(play, follower, outcome)?;
        }
        slow(play, telling.length.min(EXECUTION_MAX))?;
        large(play)?;
        let after = play.chain.term().context("no term")?;
        let elections = (after - term) as f64;
        play.measured("elections while controllers fail", elections, Unit::Terms, Bound::AtMost(0.0));
        play.expect_window(4);
        Ok(())
    })
}

/// The chain has grown, all have everything.
fn settled(play: &mut Play<'_>, what: &str) -> Result<()> {
    play.grow(2)?;
    play.level()?;
    let gap = spoken_precisely(play.longest_gap());
    play.say(&format!("{what}: longest gap {gap}"));
    Ok(())
}

fn everywhere(play: &mut Play<'_>, what: &str, fault: &Value) -> Result<()> {
    play.measure();
    play.order_all("/faults", fault)?;
    settled(play, what)
}

fn one(play: &mut Play<'_>, what: &str, node: usize, fault: &Value) -> Result<()> {
    play.measure();
    play.chain.node(node).order("/faults", fault)?;
    settled(play, what)
}

/// A follower's controller ends in the middle of CommitBlock and comes back.
fn death(play: &mut Play<'_>, node: usize, outcome: &str) -> Result<()> {
    play.measure();
    play.chain.node(node).order("/faults", &json!({"call": "commit", "outcome": outcome}))?;
    let process = play.chain.process_mut(node, Service::Controller)?;
    process.wait(PATIENCE)?.with_context(|| format!("the controller did not end by {outcome}"))?;
    play.chain.reap(node, Service::Controller)?;
    play.pause(Duration::from_millis(500))?;
    play.chain.start(node, Service::Controller)?;
    settled(play, &format!("a follower's controller dies in CommitBlock ({outcome})"))
}

/// Every block takes long on every node.
fn slow(play: &mut Play<'_>, execution: Duration) -> Result<()> {
    play.order_all("/faults", &json!({"delay_ms": execution.as_millis() as u64}))?;
    play.measure();
    settled(play, &format!("a block takes {} s to execute", execution.as_secs()))?;
    play.order_all("/faults", &json!({"delay_ms": 0}))?;
    play.grow(2)?;
    play.level()?;
    Ok(())
}

/// Proposals of 8 MiB.
fn large(play: &mut Play<'_>) -> Result<()> {
    play.order_all("/proposal", &json!({"padding": 8 << 20}))?;
    play.grow(1)?;
    play.measure();
    settled(play, "proposals of 8 MiB")?;
    play.order_all("/proposal", &json!({"padding": 0}))?;
    play.grow(2)?;
    play.level()?;
    Ok(())
}
