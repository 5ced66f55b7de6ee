//! Fuzzing on the stable toolchain: the corpus is replayed, and seeded bytes are thrown at every target.
//!
//! `CONSENSUS_FUZZ_RUNS` sets how many inputs each target gets and `CONSENSUS_FUZZ_SEED` where they begin; a
//! failing input is written to the directory for temporary files and named.

#![allow(clippy::unwrap_used)]

#[path = "../../../consensus-core/tests/fuzz/seeded.rs"]
mod seeded;
mod targets;

use std::sync::{Mutex, MutexGuard, PoisonError};

use targets::{configuration, envelopes, ordering};

/// What the targets measure of memory is the whole process's, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_configuration_keeps_its_bounds_or_names_its_mistakes() {
    let _alone = alone();
    let target = configuration::Target::new();
    let mut report = configuration::Report::default();
    seeded::run("configuration", 2_000, 2048, |bytes| report.add(&target.run(bytes)));
    println!("{report:?}");
    let configuration::Report { texts, own_valid, cita_valid, mistakes, warnings } = report;
    assert!(own_valid * 50 > texts && cita_valid * 50 > texts, "hardly anything valid was tried");
    assert!(mistakes * 4 > texts && warnings > 0, "hardly a mistake was tried");
}

#[test]
fn every_request_is_answered_or_refused_by_name() {
    let _alone = alone();
    let mut target = ordering::Target::new();
    let mut report = ordering::Report::default();
    seeded::run("ordering", 1_500, 2048, |bytes| report.add(&target.run(bytes)));
    println!("{report:?}");
    let ordering::Report { requests, answered, refused, committed } = report;
    assert!(answered * 10 > requests && refused * 10 > requests, "one-sided");
    assert!(committed > 0, "nothing was ordered");
}

#[test]
fn no_envelope_passes_that_must_not_and_none_is_what_nobody_sent() {
    let _alone = alone();
    let mut target = envelopes::Target::new();
    let mut report = envelopes::Report::default();
    seeded::run("envelopes", 3_000, 4096, |bytes| report.add(&target.run(bytes)));
    println!("{report:?}");
    let envelopes::Report { envelopes, passed, letters, from_pieces } = report;
    assert!(passed * 8 > envelopes, "most were refused: {passed} of {envelopes} passed");
    assert!(letters > 0 && from_pieces > 0, "no letters, or none from pieces");
}

#[test]
fn no_envelope_takes_much_more_memory_than_its_bytes() {
    let _alone = alone();
    envelopes::many_small_things();
}

#[test]
fn no_frame_of_a_client_takes_much_more_memory_than_its_bytes() {
    let _alone = alone();
    ordering::many_small_things();
}
