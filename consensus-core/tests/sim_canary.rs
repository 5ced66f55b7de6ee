//! The canary: one seed whose run must fail, in the library and in the program, or nothing that passes means
//! anything.
#![cfg(feature = "sim")]

use std::process::{Command, Output};

use consensus_core::sim::canary::CANARY;
use consensus_core::sim::{Options, run};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().expect("the simulator starts")
}

fn fails_as_it_should(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = format!("VIOLATED in seed {CANARY}: D1 durable before heard");
    assert!(text.lines().any(|found| found.starts_with(&line)), "{text}");
}

#[test]
fn the_run_of_the_canary_fails() {
    let failure = run(Options::seed(CANARY)).failure.expect("a lie is found");
    assert_eq!(failure.violation.invariant, "D1 durable before heard");
    assert!(!failure.last_steps.is_empty(), "the report shows how it came to it");
}

#[test]
fn the_program_reports_the_canary_alone_and_among_others() {
    fails_as_it_should(&simulate(&["--seed", &CANARY.to_string()]));
    let before = (CANARY - 2).to_string();
    fails_as_it_should(&simulate(&["--start", &before, "--seeds", "3", "--keep-going"]));
    fails_as_it_should(&simulate(&["--start", &before, "--seeds", "3"]));
}
