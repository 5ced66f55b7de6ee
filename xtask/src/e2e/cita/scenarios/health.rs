//! What probes are told: a service that runs is SERVING, whatever has become of the chain, or an orchestrator
//! would restart it for nothing; the named service `ready`, and the page of the same name, tell whether the
//! node can be relied on. What they say of a chain that has halted is told in `disk`.

use std::time::Duration;

use anyhow::{Context, Result};

use super::four;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::{Service, consensus_status};
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::http;

/// Seconds.
const INTERVAL: u32 = 1;

/// HTTP's word for not ready.
const UNAVAILABLE: u16 = 503;

/// HTTP's word for ready.
const OK: u16 = 200;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "health", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        play.level()?;
        for node in 0..4 {
            expect_ready(play, node)?;
        }
        let follower = (play.leader()?.node + 1) % 4;
        play.chain.kill(follower, Service::Controller)?;
        expect_unready(play, follower, "controller")?;
        play.chain.start(follower, Service::Controller)?;
        expect_ready(play, follower)?;
        for node in (0..4).filter(|node| *node != follower) {
            play.chain.kill(node, Service::Consensus)?;
        }
        expect_unready(play, follower, "leader")?;
        play.chain.start_service(Service::Consensus)?;
        for node in 0..4 {
            expect_ready(play, node)?;
        }
        play.grow(1).map(drop)
    })
}

fn expect_ready(play: &mut Play<'_>, node: usize) -> Result<()> {
    expect_answers(play, node, OK, "SERVING", "")
}

/// `reason` is among what the status gives as the reason.
pub(super) fn expect_unready(play: &mut Play<'_>, node: usize, reason: &str) -> Result<()> {
    expect_answers(play, node, UNAVAILABLE, "NOT_SERVING", reason)
}

/// Waits until the probes say this of whether the node is ready, and checks what they say of the rest.
fn expect_answers(play: &mut Play<'_>, node: usize, code: u16, ready: &str, reason: &str) -> Result<()> {
    let port = play.chain.node(node).ports().metrics;
    let mut last = String::new();
    let found = play.interrupt().poll(PATIENCE, Duration::from_millis(50), || {
        // One that has just been started listens a little later.
        let Ok(status) = consensus_status(play.chain.node(node)) else { return Ok(None) };
        let words = status["not_ready_reason"].as_str().unwrap_or_default().to_owned();
        let answers = (http::code(port, "/readyz")?, play.chain.health(node, "ready")?);
        last = format!("/readyz {}, ready {}, because {words:?}", answers.0, answers.1);
        let holds = answers == (code, ready.to_owned()) && words.contains(reason);
        Ok((holds && words.is_empty() == reason.is_empty()).then_some(words))
    })?;
    let words = found.with_context(|| format!("node {node} is not {ready} ({reason}): {last}"))?;
    let live = (http::code(port, "/livez")?, play.chain.health(node, "")?);
    play.expect(live == (OK, "SERVING".to_owned()), || {
        format!("node {node} runs, and the probes say {} {}", live.0, live.1)
    });
    if !reason.is_empty() {
        play.say(&format!("node {node} runs and is not ready: {words}"));
    }
    Ok(())
}
