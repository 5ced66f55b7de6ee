//! Everything dies with a block agreed on that no controller has stored, and its transactions die with the
//! pools: nobody can ever check that block again. It is given up once every validator has said so, and its
//! height is made anew; as long as one of them is missing the chain waits, and says for whom.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{VOIDED_LIMIT, four};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::{Service, consensus_status};
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::cita::seats::expect_one_group;
use crate::e2e::report::spoken_precisely;

/// Seconds.
const INTERVAL: u32 = 1;

/// Longer than any of it takes.
const HANG_MS: u64 = 120_000;

/// How long it is looked on while a validator is missing.
const WITHOUT_ONE: Duration = Duration::from_secs(5);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "stuck", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        play.grow(3)?;
        with_all(play)?;
        play.grow(2)?;
        with_one_missing(play)
    })
}

/// Kills everything at the moment at which a block with transactions is agreed on and stored nowhere.
/// Returns the height that is left.
fn power_cut(play: &mut Play<'_>) -> Result<u64> {
    play.level()?;
    let load = play.load(150);
    play.grow(2)?;
    let hang = json!({"call": "commit", "hang_ms": HANG_MS});
    play.order_all("/faults", &hang)?;
    // A controller that was in the middle of a block when it got the order has a block more than others; the
    // next one is agreed all the same, and stored nowhere.
    let agreed = play.interrupt().poll(PATIENCE, Duration::from_millis(50), || {
        let height = play.height();
        let mut statuses = play.chain.nodes().iter().map(consensus_status);
        let knows = |status: Value| status["controller"]["agreed_height"].as_u64() > Some(height);
        Ok(statuses.all(|status| status.is_ok_and(knows)).then_some(()))
    })?;
    agreed.context("no block is agreed on while the controllers hang")?;
    play.pause(Duration::from_millis(300))?;
    drop(load);
    play.chain.kill_all(&Service::ALL)?;
    Ok(play.height())
}

/// Everything comes back.
pub(crate) fn with_all(play: &mut Play<'_>) -> Result<()> {
    let height = power_cut(play)?;
    let took = play.start()?;
    play.say(&format!(
        "agreed block {} and its transactions lost: next block after {}",
        height + 1,
        spoken_precisely(took)
    ));
    play.expect_within("agreed block lost: next block", took, VOIDED_LIMIT);
    let gone = play.chain.logged(Service::Consensus, GIVEN_UP)?;
    play.expect(gone > 0, || "no node has logged that a block was given up".to_owned());
    play.grow(2)?;
    play.level()?;
    expect_one_group(play, &[0, 1, 2, 3])
}

/// In the log of a node that gives a block up.
const GIVEN_UP: &str = "given up";

/// One node stays away for a while.
fn with_one_missing(play: &mut Play<'_>) -> Result<()> {
    let before = power_cut(play)?;
    let missing = play.random.below(4) as usize;
    for service in Service::ALL {
        for node in (0..4).filter(|node| *node != missing) {
            play.chain.start(node, service)?;
        }
    }
    let name = play.chain.node(missing).address()[..16].to_owned();
    let told = play.interrupt().poll(PATIENCE, Duration::from_millis(100), || {
        let present = play.chain.nodes().iter().enumerate().filter(|(node, _)| *node != missing);
        let texts = present.filter_map(|(_, node)| Some(consensus_status(node).ok()?.to_string()));
        let mut texts = texts.filter(|text| text.contains("may have block") && text.contains(&name));
        Ok(texts.next().map(drop))
    })?;
    told.with_context(|| format!("no status names validator {name}, which is missing"))?;
    play.pause(WITHOUT_ONE)?;
    let height = play.height();
    // A block that only some had stored may spread; the agreed one must not be replaced.
    play.expect(height <= before, || {
        format!("height {height} was made without a validator that may have it")
    });
    for service in Service::ALL {
        play.chain.start(missing, service)?;
    }
    let started = Instant::now();
    play.observer.wait_for_height(play.interrupt(), before + 1, PATIENCE)?;
    let took = started.elapsed();
    play.say(&format!("waited for validator {name}; next block {} after it came", spoken_precisely(took)));
    play.expect_within("agreed block lost: next block after the last validator came", took, VOIDED_LIMIT);
    play.grow(2)?;
    play.level()?;
    expect_one_group(play, &[0, 1, 2, 3])
}
