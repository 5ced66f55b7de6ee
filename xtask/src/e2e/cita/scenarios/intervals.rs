//! The chain runs at block interval 3, 1 and 0, and what a block costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{RECOVERY_LIMIT, four, seconds};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::{Chain, Service, consensus_status};
use crate::e2e::cita::figures::{Bound, Unit};
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::random::Random;
use crate::e2e::report::spoken_precisely;

/// Before it is measured what a block costs.
const WARM_UP: Duration = Duration::from_secs(2);

/// Blocks that come by sync at interval 0, in per cent, at most.
const REDUNDANT_PERCENT_MAX: f64 = 1.0;

/// Processor time of consensus per block and node at interval 0, in milliseconds, at most.
const PROCESSOR_MS_MAX: f64 = 1.0;

/// What consensus_raft did at interval 0 at best.
const BLOCKS_PER_SECOND_MIN: f64 = 41.0;

/// A little work for the pools.
const TRANSACTIONS_PER_SECOND: u32 = 50;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let mut failed = Vec::new();
    for interval in [3, 1, 0] {
        if telling.programs.controller.is_some() {
            foreign(telling, interval)?;
            continue;
        }
        let play = Play::new(telling, &format!("interval-{interval}"), &four(interval))?;
        if let Err(error) = tell(play, |play| at(play, interval, telling.length)) {
            telling.stage.interrupt().check()?;
            failed.push(format!("interval {interval}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn at(play: &mut Play<'_>, interval: u32, length: Duration) -> Result<()> {
    let first = play.start()?;
    play.say(&format!("first block after {}", spoken_precisely(first)));
    play.expect_within("first start: first block", first, RECOVERY_LIMIT);
    play.level()?;
    for node in 0..2 {
        play.expect_fresh_transactions(node)?;
    }
    let load = play.load(TRANSACTIONS_PER_SECOND);
    play.pause(WARM_UP)?;
    let nodes = play.chain.nodes().len();
    let (height, imports) = (play.height(), play.imports()?);
    let (used, started) = (play.chain.processor_time(Service::Consensus), Instant::now());
    play.measure();
    play.pause(length)?;
    let blocks = play.height() - height;
    let used = play.chain.processor_time(Service::Consensus) - used;
    let redundant = play.imports()?.share_since(imports);
    let rate = blocks as f64 / started.elapsed().as_secs_f64();
    let each_ms = used.as_secs_f64() * 1000.0 / (blocks.max(1) * nodes as u64) as f64;
    let gap = play.longest_gap();
    drop(load);
    play.say(&format!(
        "interval {interval}: {rate:.2} blocks/s, longest gap {}, {redundant:.2} % of blocks by sync, \
         {each_ms:.2} ms of consensus per block and node",
        spoken_precisely(gap)
    ));
    play.expect_within(
        &format!("interval {interval}: longest gap"),
        gap,
        seconds(interval) + Duration::from_secs(1),
    );
    if interval == 0 {
        let sync = Bound::AtMost(REDUNDANT_PERCENT_MAX);
        play.measured("interval 0: blocks that came by sync", redundant, Unit::Percent, sync);
        let processor = Bound::AtMostInRelease(PROCESSOR_MS_MAX);
        play.measured(
            "interval 0: processor time per block and node",
            each_ms,
            Unit::Milliseconds,
            processor,
        );
        let pace = Bound::AtLeastInRelease(BLOCKS_PER_SECOND_MIN);
        play.measured("interval 0: blocks", rate, Unit::PerSecond, pace);
    }
    play.expect_window(nodes);
    Ok(())
}

/// With other programs in the stand-ins' place only consensus can be asked.
fn foreign(telling: &Telling<'_>, interval: u32) -> Result<()> {
    let Telling { stage, programs, seed, length, .. } = telling;
    let directory = stage.run_directory(&format!("cita-foreign-{interval}"))?;
    let mut chain = Chain::create(programs, &directory, &four(interval), &mut Random::new(*seed))?;
    let height = |chain: &Chain| {
        let heights = chain
            .nodes()
            .iter()
            .filter_map(|node| consensus_status(node).ok()?["chains"][0]["height"].as_u64());
        heights.max().unwrap_or(0)
    };
    chain.start_all()?;
    let begun = stage.interrupt().poll(PATIENCE, Duration::from_millis(100), || {
        chain.expect_running()?;
        Ok(Some(height(&chain)).filter(|height| *height > 0))
    })?;
    let before = begun.context("consensus tells of no block")?;
    let started = Instant::now();
    stage.interrupt().pause(*length)?;
    chain.expect_running()?;
    let rate = (height(&chain) - before) as f64 / started.elapsed().as_secs_f64();
    println!("interval {interval}: {rate:.2} blocks/s; logs and data are in {}", directory.display());
    chain.stop_all().map(drop)
}
