//! The checks can fail: each broken rule is found within its budget of seeds, and the three that concern the disk
//! also from outside, by the harm that they do. The rules that no run comes to are broken in the stories of the
//! replica.
#![cfg(feature = "mutants")]
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use consensus_core::mutant::Proof;
use consensus_core::sim::{Failure, Mutant, Options, Sight, hunt, run};

/// The first failure within a number of seeds.
fn find(mutant: Mutant, sight: Sight, seeds: u64) -> Option<Failure> {
    let seeds = hunt::seeds(mutant, 0).take(seeds as usize);
    let mut runs = seeds.map(|seed| run(Options { mutant: Some(mutant), sight, ..Options::seed(seed) }));
    let failure = runs.find_map(|report| report.failure)?;
    println!("{}: seed {}: {}", mutant.name(), failure.swarm.seed, failure.violation);
    Some(failure)
}

#[test]
fn each_broken_rule_is_found_within_its_budget_of_seeds() {
    let next = AtomicUsize::new(0);
    let search = || {
        let mut escaped = Vec::new();
        while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Proof::Seeds(budget) = mutant.proof() else { continue };
            match find(*mutant, Sight::Inside, budget) {
                Some(failure) if failure.violation.invariant == "S17 no panic" => {
                    assert_eq!(failure.swarm.seed, run_again(*mutant, failure.swarm.seed));
                }
                Some(failure) => assert!(!failure.last_steps.is_empty(), "how it came to it"),
                None => escaped.push(mutant.name()),
            }
        }
        escaped
    };
    let escaped: Vec<&str> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(search)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(escaped, [] as [&str; 0], "nothing finds these");
}

/// The seed, if it fails again.
fn run_again(mutant: Mutant, seed: u64) -> u64 {
    let failure = run(Options { mutant: Some(mutant), ..Options::seed(seed) }).failure;
    failure.map_or(u64::MAX, |failure| failure.swarm.seed)
}

#[test]
fn a_vote_that_is_not_synced_is_found_by_two_votes_in_one_term() {
    let failure = find(Mutant::VoteNotSynced, Sight::Outside, 200).expect("found");
    let expected = ["S8 one vote per term", "S1 one leader per term", "S20 leadership told"];
    assert!(expected.contains(&failure.violation.invariant), "{}", failure.violation);
}

#[test]
fn a_log_that_is_not_synced_is_found_by_what_is_lost() {
    find(Mutant::LogNotSynced, Sight::Outside, 20).expect("found");
}

#[test]
fn an_acknowledgement_before_persistence_is_found_by_what_is_lost() {
    find(Mutant::AcknowledgeBeforePersist, Sight::Outside, 20).expect("found");
}

#[test]
fn there_are_rules_enough() {
    let by_seeds = Mutant::ALL.iter().filter(|mutant| mutant.proof() != Proof::Story).count();
    assert!(by_seeds >= 24, "{by_seeds} broken rules are found by seeds");
}
