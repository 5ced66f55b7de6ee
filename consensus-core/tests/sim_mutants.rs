//! The checks can fail: each broken rule is found within a budget of seeds, by a look at the disks before it
//! does harm, and from outside by the harm that it does.
#![cfg(feature = "mutants")]

use consensus_core::sim::{Failure, Mutant, Options, Sight, run};

/// The first failure within a number of seeds.
fn find(name: &str, sight: Sight, seeds: u64) -> Failure {
    let mutant = Mutant::by_name(name).unwrap_or_else(|| panic!("no mutant {name}"));
    let runs = (0..seeds).map(|seed| run(Options { mutant: Some(mutant), sight, ..Options::seed(seed) }));
    let found = runs.filter_map(|report| report.failure).next();
    let failure = found.unwrap_or_else(|| panic!("{name} escaped {seeds} seeds"));
    println!("{name}: seed {}: {}", failure.swarm.seed, failure.violation);
    failure
}

fn found_inside(name: &str) {
    let failure = find(name, Sight::Inside, 3);
    assert!(!failure.last_steps.is_empty(), "the report shows how it came to it");
}

#[test]
fn a_vote_that_is_not_synced_is_found_on_the_disk() {
    found_inside("vote-not-synced");
}

#[test]
fn a_log_that_is_not_synced_is_found_on_the_disk() {
    found_inside("log-not-synced");
}

#[test]
fn an_acknowledgement_before_persistence_is_found_on_the_disk() {
    found_inside("acknowledge-before-persist");
}

#[test]
fn a_vote_that_is_not_synced_is_found_by_two_votes_in_one_term() {
    let failure = find("vote-not-synced", Sight::Outside, 200);
    let expected = ["S8 one vote per term", "S1 one leader per term"];
    assert!(expected.contains(&failure.violation.invariant), "{}", failure.violation);
}

#[test]
fn a_log_that_is_not_synced_is_found_by_what_is_lost() {
    find("log-not-synced", Sight::Outside, 20);
}

#[test]
fn an_acknowledgement_before_persistence_is_found_by_what_is_lost() {
    find("acknowledge-before-persist", Sight::Outside, 20);
}

#[test]
fn every_mutant_of_this_build_has_a_test() {
    let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    assert_eq!(names, ["vote-not-synced", "log-not-synced", "acknowledge-before-persist"]);
}
