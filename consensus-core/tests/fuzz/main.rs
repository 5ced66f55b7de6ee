//! Fuzzing on the stable toolchain: the corpus is replayed, and seeded bytes are thrown at every target.
//!
//! `CONSENSUS_FUZZ_RUNS` sets how many inputs each target gets and `CONSENSUS_FUZZ_SEED` where they begin; a
//! failing input is written to the directory for temporary files and named.

#![allow(clippy::unwrap_used)]

mod known_panics;
mod seeded;
mod targets;

use targets::{peer_messages, records};

#[test]
fn no_message_of_a_peer_halts_a_replica_or_breaks_its_promises() {
    let (mut messages, mut passed) = (0, 0);
    seeded::run("peer_messages", 6_000, 4096, |bytes| {
        let report = peer_messages::peer_messages(bytes);
        messages += report.messages;
        passed += report.passed;
    });
    println!("{messages} messages, {passed} of them not refused at the gate");
    assert!(passed * 4 > messages, "most were refused: {passed} of {messages} passed");
}

#[test]
fn no_bytes_on_the_disk_panic_or_pass_for_what_they_are_not() {
    let mut decoded = 0;
    seeded::run("records", 6_000, 2048, |bytes| decoded += records::records(bytes));
    println!("{decoded} values decoded");
    assert!(decoded > 0, "nothing that decodes was tried");
}
