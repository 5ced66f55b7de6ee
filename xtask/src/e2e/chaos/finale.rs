//! The end of a run: everybody is asked, compared, stopped and looked into.

use std::time::Duration;

use anyhow::{Context, Result};

use super::coverage::Outcomes;
use super::inject::STOP_BOUND;
use super::load::Load;
use super::run::Run;
use super::witnesses::Witnesses;
use super::{logs, oracle};
use crate::e2e::assertions::judge;
use crate::e2e::cli::{Block, Tip};
use crate::e2e::clients::Finished;
use crate::e2e::report::thousands;
use crate::workspace::spoken;

/// From the last acknowledgement to equal tips.
const CONVERGENCE_PATIENCE: Duration = Duration::from_secs(60);

/// What clients were told is needed after the run too: for the timeline.
pub(crate) fn play(
    run: &mut Run<'_>,
    load: Load,
    witnesses: Witnesses,
) -> Result<(Vec<Finished>, Vec<String>)> {
    let clients = load.finish(run.stage.interrupt())?;
    run.coverage.outcomes = Outcomes::of(&clients);
    run.coverage.terms_led = run.observer.terms_led();
    let acknowledged = run.coverage.outcomes.acknowledged;
    run.chronicle.note(format!("clients have ended, {} acknowledgements", thousands(acknowledged as u64)));
    let mut findings = Vec::new();
    let converged = converge(run, &mut findings);
    let chains = converged.and_then(|()| chains(run));
    match chains {
        Ok(chains) => {
            let verdict = judge(&clients, &chains);
            findings.extend(verdict.findings);
            let chain = chains.first().map_or(&[] as &[Block], |(_, chain)| chain);
            findings.extend(oracle::findings(&clients, chain));
            let (shown, mute) = witnesses.finish(chain);
            findings.extend(shown);
            run.coverage.never_followed = mute;
            run.chronicle.note(format!(
                "{} chains compared: {} transactions",
                chains.len(),
                thousands(verdict.in_chain as u64)
            ));
        }
        Err(error) if run.stage.interrupt().requested() => return Err(error),
        Err(error) => findings.push(format!("chains: {error:#}")),
    }
    stop(run, &mut findings)?;
    verify(run, &mut findings)?;
    for node in run.injector.cluster().nodes() {
        let was_full = run.injector.filled().contains(&node.id());
        findings.extend(logs::findings(node.id(), &node.log(), was_full)?);
    }
    Ok((clients, findings))
}

fn converge(run: &Run<'_>, findings: &mut Vec<String>) -> Result<()> {
    let mut tips: Vec<(u64, Tip)> = Vec::new();
    let nodes = run.injector.cluster().nodes();
    let equal = run.stage.interrupt().poll(CONVERGENCE_PATIENCE, Duration::from_millis(100), || {
        tips.clear();
        for node in nodes {
            // One that does not answer may do so later.
            let Ok(tip) = run.stage.cli().tip(&node.address()) else { return Ok(None) };
            tips.push((node.id(), tip));
        }
        Ok(tips.iter().all(|(_, tip)| *tip == tips[0].1).then_some(()))
    })?;
    if equal.is_none() {
        let patience = spoken(CONVERGENCE_PATIENCE);
        findings.push(format!("chains: {patience} after the last acknowledgement the tips are {tips:?}"));
    }
    Ok(())
}

/// Every node's chain; of all but the first the hashes, which the command line has checked.
fn chains(run: &Run<'_>) -> Result<Vec<(u64, Vec<Block>)>> {
    let mut chains: Vec<(u64, Vec<Block>)> = Vec::new();
    for node in run.injector.cluster().nodes() {
        let chain = run.stage.cli().chain(&node.address());
        let mut chain = chain.with_context(|| format!("node {}", node.id()))?;
        if !chains.is_empty() {
            chain.iter_mut().for_each(|block| block.transactions = None);
        }
        chains.push((node.id(), chain));
    }
    Ok(chains)
}

/// SIGTERM to all; each must exit with 0 in time.
fn stop(run: &mut Run<'_>, findings: &mut Vec<String>) -> Result<()> {
    run.injector.look_after()?;
    for id in run.injector.cluster().ids() {
        if !run.injector.cluster().node(id)?.is_running() {
            findings.push(format!("stop: node {id} does not run"));
            continue;
        }
        match run.injector.cluster_mut().stop(id) {
            Ok(stop) if !stop.status.success() => {
                findings.push(format!("stop: node {id} ended with {}", stop.status));
            }
            Ok(stop) if stop.took > STOP_BOUND => {
                findings.push(format!("stop: node {id} took {}, bound {STOP_BOUND:?}", spoken(stop.took)));
            }
            Ok(_) => {}
            Err(error) => findings.push(format!("stop: {error:#}")),
        }
    }
    run.chronicle.note("all nodes stopped");
    Ok(())
}

fn verify(run: &Run<'_>, findings: &mut Vec<String>) -> Result<()> {
    for node in run.injector.cluster().nodes() {
        if let Some(damage) = run.stage.cli().verify(&node.data())? {
            findings.push(format!("verify: node {}: {damage}", node.id()));
        }
    }
    run.chronicle.note("all data directories verified");
    Ok(())
}
