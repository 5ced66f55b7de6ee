//! A failure is made small: the scenario fails in the same way, with fewer faults and fewer classes of them.
#![cfg(feature = "mutants")]
#![allow(clippy::unwrap_used)]

use consensus_core::sim::scenario::Scenario;
use consensus_core::sim::shrink::Shrink;
use consensus_core::sim::{Mutant, Options, hunt, run};

/// Runs that the reduction may take.
const RUNS_MAX: usize = 120;

/// What goes wrong in the network of a scenario, in classes.
fn network_classes(scenario: &Scenario) -> usize {
    let network = &scenario.swarm.network;
    let by_chance = [network.loss, network.duplicate].into_iter().filter(|parts| *parts > 0).count();
    let at_times = [
        network.partition_every_us,
        network.replay_every_us,
        network.clog_every_us,
        network.garbage_every_us,
    ];
    by_chance + at_times.into_iter().flatten().count() + usize::from(network.reorder)
}

#[test]
fn a_failing_seed_becomes_a_short_list_of_faults_that_fails_in_the_same_way() {
    let mutant = Mutant::InterruptedInstallForgotten;
    let failing = |seed| run(Options { mutant: Some(mutant), ..Options::seed(seed) }).failure;
    let failure = hunt::seeds(mutant, 0).take(200).find_map(failing).expect("the broken rule is found");
    let found = Scenario::of(&failure, Some(mutant));
    let before = found.faults.as_ref().unwrap().len();
    let classes_before = network_classes(&found);
    let failed_us = failure.last_steps.last().unwrap().at_us;

    let (small, runs) = Shrink::new(found, Some(mutant), RUNS_MAX).smallest(failed_us);
    let after = small.faults.as_ref().unwrap().len();
    println!("{before} faults are now {after}, after {runs} runs");
    assert!(runs <= RUNS_MAX && after <= 10, "{before} faults are now {after}");
    let classes = network_classes(&small);
    assert!(classes < classes_before, "{classes_before} classes of the network's faults are now {classes}");
    let again = small.run(Some(mutant), false).failure.expect("it fails");
    assert_eq!(again.violation.invariant, failure.violation.invariant);
    assert!(small.run(None, false).failure.is_none(), "the rule is to blame");

    let text = serde_json::to_string(&small).unwrap();
    let read: Scenario = serde_json::from_str(&text).unwrap();
    let from_file = read.run(Some(mutant), false);
    assert_eq!(from_file.failure.expect("it fails").violation, again.violation, "also from a file");
}
