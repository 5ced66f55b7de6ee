//! The simulator finds nothing wrong in two hundred seeds. More of them: `simulate --seeds N`.
#![cfg(feature = "sim")]

use consensus_core::sim::{Counters, Options, run};

/// Seeds of every test run.
const SEEDS: u64 = 200;

#[test]
fn two_hundred_seeds_break_no_property_and_recover() {
    let mut sum = Counters::default();
    for seed in 0..SEEDS {
        let report = run(Options::seed(seed));
        if let Some(failure) = report.failure {
            panic!("{failure}\nagain: simulate --seed {seed} --verbose");
        }
        sum.add(&report.counters);
    }
    println!("{sum}");
    // What did not happen was not tested.
    assert!(sum.elections > 1_000, "{} elections", sum.elections);
    assert!(sum.acknowledged > 50_000, "{} transactions acknowledged", sum.acknowledged);
    assert!(sum.reads > 1_000, "{} reads", sum.reads);
    assert!(sum.snapshots_installed > 100, "{} snapshots installed", sum.snapshots_installed);
    assert!(sum.partitions > 100 && sum.pauses > 100 && sum.transfers > 100, "{sum}");
    assert!(sum.lost > 10_000 && sum.duplicated > 10_000, "{sum}");
    assert!(sum.replayed > 1_000 && sum.garbage > 1_000 && sum.clogs > 100 && sum.overfull > 1_000, "{sum}");
    assert!(sum.refusals > 20 && sum.damages.values().sum::<u64>() > 50, "{sum}");
    assert!(sum.membership_changes > 200 && sum.hangs > 50 && sum.cores > 20 && sum.standstills > 1, "{sum}");
    let boundaries =
        ["vote-sent", "acceptance-sent", "sent", "persist", "written", "apply", "applied", "snapshot"];
    for boundary in boundaries.iter().chain(&["other", "clock", "power cut", "write error", "no space"]) {
        let crashes = sum.crashes.get(boundary).copied().unwrap_or(0);
        assert!(crashes > 10, "{crashes} crashes at the boundary {boundary}");
    }
}
