//! Scenarios that failed once: each passes with all rules whole, and those that stand for a broken rule still show
//! it. A scenario that does not show its rule any more, because the simulator has changed, is made anew:
//! `simulate --mutant NAME --shrink corpus/sim/NAME.json`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use consensus_core::sim::scenario::Scenario;
use consensus_core::sim::{Mutant, Report};

/// Every file of the corpus with its scenario.
fn corpus() -> Vec<(String, Scenario)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus/sim");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let scenario = serde_json::from_str(&std::fs::read_to_string(path).unwrap());
        (name.clone(), scenario.unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    paths.iter().map(read).collect()
}

fn violated(report: Report) -> Option<String> {
    report.failure.map(|failure| failure.violation.invariant.to_owned())
}

#[test]
fn what_failed_once_passes_when_no_rule_is_broken() {
    let corpus = corpus();
    assert!(!corpus.is_empty(), "the corpus is lost");
    for (name, scenario) in corpus {
        assert_eq!(violated(scenario.run(None, false)), None, "{name}");
    }
}

#[test]
fn a_scenario_of_a_broken_rule_shows_it() {
    for (name, scenario) in corpus() {
        // A build without the feature `mutants` has none of them.
        let Some(mutant) = scenario.mutant.as_deref().and_then(Mutant::by_name) else { continue };
        assert_eq!(violated(scenario.run(Some(mutant), false)), scenario.violates, "{name}");
        assert!(scenario.faults.is_some_and(|faults| faults.len() <= 10), "{name} is not small");
    }
}
