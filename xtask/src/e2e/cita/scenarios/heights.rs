//! Controllers that lost blocks, and consensus that lost its state: the chain goes on by itself.

use std::time::Instant;

use anyhow::{Context, Result};

use super::four;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::cita::seats::expect_one_group;
use crate::e2e::report::spoken_precisely;

/// Blocks before anything is taken away.
const BLOCKS: u64 = 120;

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "heights", &four(0))?;
    tell(play, |play| {
        play.start()?;
        play.grow(BLOCKS)?;
        roll_back(play, &[0, 1, 2, 3], 1, "all controllers lost their last block")?;
        roll_back(play, &[1], 100, "one controller lost 100 blocks")?;
        let leader = play.leader()?.node;
        wipe(play, &[(leader + 1) % 4], "a follower lost its consensus state")?;
        wipe(play, &[leader], "the leader lost its consensus state")?;
        let leader = play.leader()?.node;
        wipe(
            play,
            &[leader, (leader + 1) % 4],
            "two nodes lost their consensus state, the leader one of them",
        )?;
        wipe(play, &[0, 1, 2], "three nodes lost their consensus state")?;
        wipe(play, &[0, 1, 2, 3], "all nodes lost their consensus state")?;
        Ok(())
    })
}

/// As after a restored backup: controllers stop, lose blocks, and start again beside a running consensus.
fn roll_back(play: &mut Play<'_>, nodes: &[usize], count: u64, what: &str) -> Result<()> {
    play.level()?;
    for node in nodes {
        play.chain.kill(*node, Service::Controller)?;
    }
    if nodes.len() == play.chain.nodes().len() {
        even_out(play)?;
    }
    let Play { chain, observer, .. } = play;
    observer.roll_back(nodes, || {
        let heights = nodes.iter().map(|node| chain.node(*node).drop_blocks(count));
        let heights = heights.collect::<Result<Vec<_>>>()?;
        heights.into_iter().max().context("no controller")
    })?;
    let before = play.height();
    for node in nodes {
        play.chain.start(*node, Service::Controller)?;
    }
    let started = Instant::now();
    play.observer.wait_for_all(play.interrupt(), before + 3, PATIENCE)?;
    let took = started.elapsed();
    play.say(&format!("{what}: all are three blocks further after {}", spoken_precisely(took)));
    play.note(&format!("{what}: all three blocks further"), took);
    Ok(())
}

/// Controllers that die at the same time need not have the same height: those that are ahead lose what the
/// others do not have.
fn even_out(play: &mut Play<'_>) -> Result<()> {
    let nodes = 0..play.chain.nodes().len();
    let heights = nodes.clone().map(|node| play.chain.node(node).ledger_height());
    let heights = heights.collect::<Result<Vec<_>>>()?;
    let lowest = heights.iter().copied().min().context("no controller")?;
    let all = nodes.collect::<Vec<_>>();
    let Play { chain, observer, .. } = play;
    observer.roll_back(&all, || {
        for (node, height) in heights.iter().enumerate() {
            chain.node(node).drop_blocks(height - lowest)?;
        }
        Ok(lowest)
    })?;
    Ok(())
}

fn wipe(play: &mut Play<'_>, nodes: &[usize], what: &str) -> Result<()> {
    play.level()?;
    for node in nodes {
        play.chain.kill(*node, Service::Consensus)?;
        let data = play.chain.node(*node).consensus_data();
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    }
    let before = play.height();
    for node in nodes {
        play.chain.start(*node, Service::Consensus)?;
    }
    let started = Instant::now();
    play.observer.wait_for_all(play.interrupt(), before + 3, PATIENCE)?;
    let took = started.elapsed();
    play.say(&format!("{what}: all are three blocks further after {}", spoken_precisely(took)));
    play.note(&format!("state lost on {}: all three blocks further", nodes.len()), took);
    expect_one_group(play, &[0, 1, 2, 3])
}
