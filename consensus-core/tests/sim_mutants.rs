//! The checks can fail: each broken rule is found within its budget of seeds, and the three that concern the disk
//! also from outside, by the harm that they do. The rules that no run comes to are broken in the stories of the
//! replica.
#![cfg(feature = "mutants")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use consensus_core::mutant::Proof;
use consensus_core::sim::{Failure, Mutant, Options, Sight, hunt, run};

/// Every property that is judged.
const PROPERTIES: [&str; 23] = [
    "A1", "D1", "L1", "P4", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S14",
    "S15", "S16", "S17", "S18", "S19", "S20",
];
/// Those that may find one first and need not: no rule that is broken here is about what they say.
const WITHOUT_ONE: [&str; 3] = ["I1", "L2", "S13"];

/// What is searched until every property was the one that found something: rule, sight, seeds. From outside the
/// properties that judge disks are silent, and those behind them speak.
const SEARCHES: [(Mutant, Sight, usize); 5] = [
    (Mutant::LogNotSynced, Sight::Outside, 100),
    (Mutant::AcknowledgeBeforePersist, Sight::Outside, 30),
    (Mutant::VoteNotSynced, Sight::Outside, 60),
    (Mutant::DedupNotInSnapshot, Sight::Inside, 40),
    (Mutant::SnapshotLossUnnoticed, Sight::Inside, 20),
];

/// The first failure within a number of seeds.
fn find(mutant: Mutant, sight: Sight, seeds: u64) -> Option<Failure> {
    let seeds = hunt::seeds(mutant, 0).take(seeds as usize);
    let mut runs = seeds.map(|seed| run(Options { mutant: Some(mutant), sight, ..Options::seed(seed) }));
    let failure = runs.find_map(|report| report.failure)?;
    println!("{}: seed {}: {}", mutant.name(), failure.swarm.seed, failure.violation);
    Some(failure)
}

/// Searches for each rule within its budget: what was found, and what was not.
fn search_all() -> (Vec<Failure>, Vec<&'static str>) {
    let next = AtomicUsize::new(0);
    let search = || {
        let (mut failures, mut escaped) = (Vec::new(), Vec::new());
        while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Proof::Seeds(budget) = mutant.proof() else { continue };
            match find(*mutant, Sight::Inside, budget) {
                Some(failure) => failures.push(failure),
                None => escaped.push(mutant.name()),
            }
        }
        (failures, escaped)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(search)).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.reduce(|one, other| {
            ([one.0, other.0].into_iter().flatten().collect(), [one.1, other.1].concat())
        })
    })
    .unwrap()
}

#[test]
fn each_broken_rule_is_found_within_its_budget_and_every_property_finds_one() {
    let (failures, escaped) = search_all();
    assert_eq!(escaped, [] as [&str; 0], "nothing finds these");
    let mut silent: BTreeSet<&str> = PROPERTIES.into();
    failures.iter().for_each(|failure| strike(&mut silent, failure));
    for (mutant, sight, seeds) in SEARCHES {
        for seed in hunt::seeds(mutant, 0).take(seeds) {
            if silent.is_empty() {
                return;
            }
            let failure = run(Options { mutant: Some(mutant), sight, ..Options::seed(seed) }).failure;
            failure.iter().for_each(|failure| strike(&mut silent, failure));
        }
    }
    assert!(silent.is_empty(), "these found nothing: {silent:?}");
}

fn strike(silent: &mut BTreeSet<&str>, failure: &Failure) {
    let code = failure.violation.invariant.split(' ').next().unwrap();
    assert!(PROPERTIES.contains(&code) || WITHOUT_ONE.contains(&code), "{code} is not in the list");
    silent.remove(code);
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
    let by_seeds = Mutant::ALL.iter().filter(|mutant| matches!(mutant.proof(), Proof::Seeds(_))).count();
    assert!(by_seeds >= 24, "{by_seeds} broken rules are found by seeds");
}
