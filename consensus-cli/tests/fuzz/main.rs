//! The offline commands on damaged data directories: files flipped, cut, emptied, removed, exchanged, filled with
//! garbage, replaced by directories and links.
//!
//! The corpus is replayed, then seeded damage is done. `CONSENSUS_FUZZ_RUNS` sets how many directories are damaged
//! and `CONSENSUS_FUZZ_SEED` where they begin. The commands run as processes of their own, because the engine is
//! no Rust: that it ends the process must be seen, too.

#![allow(clippy::unwrap_used)]

#[path = "../../../consensus-core/tests/fuzz/seeded.rs"]
mod seeded;
mod targets;

use std::collections::BTreeMap;

#[test]
fn damaged_directories_are_told_of_and_left_as_they_are() {
    let target = targets::Target::new(env!("CARGO_BIN_EXE_consensus-cli").into());
    let mut codes: BTreeMap<i32, u64> = BTreeMap::new();
    seeded::run("damaged_directories", 60, 160, |bytes| {
        for code in target.run(bytes) {
            *codes.entry(code).or_default() += 1;
        }
    });
    println!("exit codes: {codes:?}");
    let found = |code: i32| codes.get(&code).copied().unwrap_or_default();
    assert!(found(0) > 0 && found(1) > 0 && found(2) > 0, "an exit code did not come up: {codes:?}");
}
