#![no_main]

use std::path::PathBuf;

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

/// Names the program under fuzz.
const CLI: &str = "CONSENSUS_CLI";

thread_local! {
    static TARGET: targets::Target = targets::Target::new(cli());
}

fn cli() -> PathBuf {
    std::env::var_os(CLI).map(PathBuf::from).unwrap_or_else(|| panic!("{CLI} names no program"))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    TARGET.with(|target| target.run(bytes));
});
