//! A seed is all there is: runs of one seed are the same, step by step, in one process and in two.
#![cfg(feature = "sim")]

use std::process::Command;

use consensus_core::sim::{Options, run};

/// Seeds that are compared.
const SEEDS: std::ops::Range<u64> = 1_000..1_020;

#[test]
fn a_seed_gives_the_same_trace_twice() {
    let mut traces = Vec::new();
    for seed in SEEDS {
        let (first, second) = (run(Options::seed(seed)), run(Options::seed(seed)));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.counters, second.counters, "seed {seed}");
        traces.push(first.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len() as u64, SEEDS.end - SEEDS.start, "different seeds give different traces");
}

#[test]
fn a_seed_gives_the_same_trace_in_another_process() {
    for seed in SEEDS {
        let here = format!("trace {:032x}", run(Options::seed(seed)).trace);
        let output = Command::new(env!("CARGO_BIN_EXE_simulate"))
            .args(["--seed", &seed.to_string()])
            .output()
            .expect("the simulator starts");
        let there = String::from_utf8_lossy(&output.stdout);
        assert!(there.lines().any(|line| line == here), "seed {seed}: here {here}, there:\n{there}");
    }
}
