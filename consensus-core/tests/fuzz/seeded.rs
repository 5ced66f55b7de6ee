//! Inputs for a target: first its corpus, then bytes from a seed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next 64 bits of a splitmix generator.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Replays the corpus of `target`, then throws `runs` inputs of `bytes` bytes at it.
pub(crate) fn run(target: &str, runs: u64, bytes: usize, mut body: impl FnMut(&[u8])) {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        let input = std::fs::read(&file).unwrap();
        judge(target, &file.display().to_string(), &input, &mut body);
    }
    let first = number("CONSENSUS_FUZZ_SEED", 1);
    for seed in first..first + number("CONSENSUS_FUZZ_RUNS", runs) {
        let mut state = seed.wrapping_mul(GOLDEN);
        let length = next(&mut state) as usize % (bytes + 1);
        let input: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        judge(target, &format!("seed {seed}"), &input, &mut body);
    }
}

fn judge(target: &str, name: &str, input: &[u8], body: &mut impl FnMut(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        let path = std::env::temp_dir().join(format!("consensus-fuzz-{target}"));
        std::fs::write(&path, input).unwrap();
        eprintln!("{target}: {name} fails; its bytes are in {}", path.display());
        resume_unwind(panic);
    }
}
