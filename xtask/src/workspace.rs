//! Where the workspace and its build directory are, and how cargo and other programs are run in it.
//!
//! All commands build with one set of features, [`FEATURES`], and one profile, so that nothing, least of
//! all RocksDB's C++, is compiled twice.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The features with which tests, lints and the simulator are built.
pub(crate) const FEATURES: &str = "consensus-core/sim,consensus-core/mutants";

/// The checkout this command runs in.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the workspace: the one whose `xtask` cargo runs, or the one around the current directory.
    pub(crate) fn find() -> Result<Self> {
        if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR") {
            let root = Path::new(&manifest).parent().context("xtask's manifest has no parent directory")?;
            return Ok(Self { root: root.to_path_buf() });
        }
        let here = std::env::current_dir().context("current directory")?;
        for directory in here.ancestors() {
            if directory.join("xtask/Cargo.toml").is_file() && directory.join("Cargo.toml").is_file() {
                return Ok(Self { root: directory.to_path_buf() });
            }
        }
        bail!("{} is not inside the workspace: run `cargo xtask` from the checkout", here.display())
    }

    /// The top directory of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo, in the checkout, of the toolchain that runs this command.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // A protoc of a later major version named here makes the build of raft's own schema fail; it
        // brings one that fits.
        command.env_remove("PROTOC");
        if let Some(directory) = crate::setup::libclang_override() {
            command.env("LIBCLANG_PATH", directory);
        }
        command
    }

    /// A program, in the checkout, without what `cargo run` added to the environment of this one.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let added = name_text.starts_with("CARGO_PKG_")
                || name_text.starts_with("CARGO_MANIFEST_")
                || name_text == "LD_LIBRARY_PATH" && std::env::var_os("CARGO_MANIFEST_DIR").is_some();
            if added {
                command.env_remove(&name);
            }
        }
        command
    }

    /// The directory that builds go to, absolute.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let metadata = self.metadata()?;
        let directory =
            metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
        Ok(PathBuf::from(directory))
    }

    /// What cargo knows about the workspace's own packages.
    pub(crate) fn metadata(&self) -> Result<serde_json::Value> {
        let text = output(self.cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&text).context("cargo metadata is not JSON")
    }
}

/// Runs `command` with this terminal and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs `command` and returns what it printed; its stderr is part of the error when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed text that is not UTF-8"))
}

/// The command as one would type it, the program without its directory.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// A duration as people say it: `850 ms`, `4.2 s`, `3 min 20 s`.
pub(crate) fn spoken(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{} ms", duration.as_millis());
    }
    if duration < Duration::from_secs(60) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
}

/// Prints a heading, runs one step under it and says how long it took.
pub(crate) fn step<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("-- {name}");
    let started = Instant::now();
    let result = run().with_context(|| name.to_owned())?;
    println!("   {name}: fine ({})", spoken(started.elapsed()));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_the_unit_people_use() {
        assert_eq!(spoken(Duration::from_millis(850)), "850 ms");
        assert_eq!(spoken(Duration::from_millis(4_230)), "4.2 s");
        assert_eq!(spoken(Duration::from_secs(200)), "3 min 20 s");
    }

    #[test]
    fn a_failing_program_is_named_with_its_arguments_and_what_it_said() {
        let error =
            output(Command::new("/bin/sh").args(["-c", "echo broken >&2; exit 3"])).expect_err("fails");
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("broken") && text.contains('3'), "{text}");
    }
}
