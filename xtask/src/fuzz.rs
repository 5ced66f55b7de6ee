//! `cargo xtask fuzz`: a fuzz target under libFuzzer, for a while.
//!
//! The same bodies run on stable in every `cargo test`; here the coverage steers what is thrown. cargo-fuzz does
//! the building, with the versions of the workspace's lock file and without a sanitizer, which needs a nightly
//! toolchain: the code is safe Rust, and RocksDB is linked as the workspace's own build has left it, since
//! compiling it anew takes longer than most runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup;
use crate::workspace::{self, Workspace};

/// Longest input.
const BYTES_MAX: u32 = 4096;

/// Seconds after which an input is called a hang.
const HANG_SECONDS: u32 = 60;

/// The targets, and the crates that have them.
const TARGETS: [(&str, &str); 6] = [
    ("peer_messages", "consensus-core"),
    ("records", "consensus-core"),
    ("configuration", "consensus-server"),
    ("ordering", "consensus-server"),
    ("envelopes", "consensus-server"),
    ("damaged_directories", "consensus-cli"),
];

/// What to run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The target
    #[arg(value_name = "TARGET", value_parser = clap::builder::PossibleValuesParser::new(TARGETS.map(|(name, _)| name)))]
    target: String,
    /// Seconds
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// More for libFuzzer, after `--`
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

/// Fuzzes; inputs that are worth keeping stay below `fuzz/corpus` in the build directory.
///
/// # Errors
/// When an input fails, and when something is missing.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let Arguments { target, seconds, flags } = arguments;
    let (_, package) =
        TARGETS.iter().find(|(name, _)| name == target).with_context(|| format!("no target {target}"))?;
    if workspace::output(workspace.cargo().args(["fuzz", "--version"])).is_err() {
        bail!("cargo-fuzz is not installed: cargo install cargo-fuzz");
    }
    let build = workspace.target()?;
    let room = workspace.root().join(package);
    let kept = build.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
    let mut command = workspace.cargo();
    if *package != "consensus-core" {
        setup::ensure(workspace)?;
        workspace::run(workspace.cargo().args(["build", "-p", "consensus-server", "-p", "consensus-cli"]))?;
        command.env("ROCKSDB_STATIC", "1").env("ROCKSDB_LIB_DIR", rocksdb(&build.join("debug/build"))?);
        command.env("CONSENSUS_CLI", build.join("debug/consensus-cli"));
    }
    lock(workspace.root(), &room.join("fuzz"))?;
    command.current_dir(&room).args(["fuzz", "run", "--dev", "--sanitizer", "none", "--target-dir"]);
    command.arg(build.join("fuzz")).arg(target).arg(&kept).arg(room.join("tests/corpus").join(target));
    command.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={BYTES_MAX}"));
    command.arg(format!("-timeout={HANG_SECONDS}")).arg("-print_final_stats=1").args(flags);
    run_one(&mut command, target)
}

fn run_one(command: &mut Command, target: &str) -> Result<()> {
    workspace::run(command).with_context(|| {
        format!("{target}: the input is named above; as a file in tests/corpus/{target} it is replayed by `cargo test`")
    })
}

/// Where the build has left RocksDB, the newest if there are several.
fn rocksdb(builds: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(builds).with_context(|| builds.display().to_string())?;
    let outs = entries.filter_map(|entry| Some(entry.ok()?.path().join("out")));
    let found = outs.filter_map(|out| {
        let library = out.join("librocksdb.a").metadata().ok()?;
        Some((library.modified().ok()?, out))
    });
    let newest = found.max_by_key(|(made, _)| *made).map(|(_, out)| out);
    newest.with_context(|| format!("no librocksdb.a below {}", builds.display()))
}

/// Gives a fuzz crate the versions of the workspace.
fn lock(root: &Path, fuzz: &Path) -> Result<()> {
    let own = fuzz.join("Cargo.lock");
    if own.exists() {
        return Ok(());
    }
    std::fs::copy(root.join("Cargo.lock"), &own).map(drop).with_context(|| own.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_its_crate_and_has_a_corpus() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (target, package) in TARGETS {
            let room = root.join(package);
            let manifest = std::fs::read_to_string(room.join("fuzz/Cargo.toml")).expect(package);
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} in\n{manifest}");
            assert!(room.join("fuzz/fuzz_targets").join(format!("{target}.rs")).is_file(), "{target}");
            let corpus = std::fs::read_dir(room.join("tests/corpus").join(target)).expect(target);
            assert!(corpus.count() > 0, "{target}");
        }
        for package in ["consensus-core", "consensus-server", "consensus-cli"] {
            let programs = std::fs::read_dir(root.join(package).join("fuzz/fuzz_targets")).expect(package);
            assert_eq!(
                programs.count(),
                TARGETS.iter().filter(|(_, own)| *own == package).count(),
                "{package}"
            );
        }
    }

    #[test]
    fn the_newest_library_is_taken_and_directories_without_one_are_not() {
        let builds = tempfile::tempdir().expect("a directory");
        assert!(rocksdb(builds.path()).is_err());
        for name in ["librocksdb-sys-1", "other-2"] {
            std::fs::create_dir_all(builds.path().join(name).join("out")).expect("is made");
        }
        let out = builds.path().join("librocksdb-sys-1/out");
        std::fs::write(out.join("librocksdb.a"), "").expect("is written");
        assert_eq!(rocksdb(builds.path()).expect("is found"), out);
    }
}
