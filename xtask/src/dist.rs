//! `cargo xtask dist`: what is handed out, in `dist/` of the build directory.
//!
//! Both programs without their symbols, the list of everything that is compiled into them (CycloneDX, where
//! cargo-cyclonedx is installed), and the SHA-256 sums of all that. With `--image` the container image too,
//! which is left in the local engine and pushed nowhere. What is missing on this machine is named, not left
//! out in silence.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::e2e::docker::image::{self, SHIPPED};
use crate::setup;
use crate::workspace::{self, Workspace, output, step};

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Build with this profile
    #[arg(long, value_enum, default_value = "release")]
    profile: DistProfile,
    /// Build the container image too, under this name
    #[arg(long, value_name = "NAME:TAG")]
    image: Option<String>,
    /// Base of the image [default: that of the Dockerfile]
    #[arg(long, value_name = "IMAGE", requires = "image")]
    base: Option<String>,
    /// Take the binaries as they are
    #[arg(long)]
    no_build: bool,
}

/// A profile of cargo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DistProfile {
    /// What is handed out
    Release,
    /// What tests use; to try this command out
    Dev,
}

impl DistProfile {
    /// As cargo has it, and where cargo puts what it builds.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Release => ("release", "release"),
            Self::Dev => ("dev", "debug"),
        }
    }
}

/// Makes everything.
///
/// # Errors
/// When a build or a tool fails; a tool that is not there is named at the end and is no failure.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let (profile, built) = arguments.profile.names();
    if !arguments.no_build {
        build(workspace, profile)?;
    }
    let target = workspace.target()?;
    let dist = target.join("dist");
    if dist.exists() {
        std::fs::remove_dir_all(&dist).with_context(|| dist.display().to_string())?;
    }
    std::fs::create_dir_all(&dist).with_context(|| dist.display().to_string())?;
    let mut missing = Vec::new();
    for name in SHIPPED {
        let binary = target.join(built).join(name);
        if !image::strip(&binary, &dist.join(name))? {
            missing.push(format!("strip (binutils): {name} has its symbols"));
        }
        smoke(workspace, &dist.join(name))?;
    }
    missing.extend(materials(workspace, &dist)?);
    sums(&dist)?;
    if let Some(tag) = &arguments.image {
        step("image", || container_image(workspace, tag, arguments.base.as_deref(), &dist))?;
    }
    println!("\n{}", dist.display());
    for file in files(&dist)? {
        let bytes = std::fs::metadata(dist.join(&file)).with_context(|| file.clone())?.len();
        println!("  {bytes:>12}  {file}");
    }
    for name in missing {
        println!("  NOT THERE: {name}");
    }
    Ok(())
}

fn build(workspace: &Workspace, profile: &str) -> Result<()> {
    step("setup", || setup::ensure(workspace).map(drop))?;
    step("build", || {
        let mut command = workspace.cargo();
        command.args(["build", "--locked", "--profile", profile]);
        workspace::run(command.args(["-p", "consensus-server", "-p", "consensus-cli"]))
    })
}

/// A binary that cannot say its version is not handed out.
fn smoke(workspace: &Workspace, binary: &Path) -> Result<()> {
    let version = output(workspace.command(binary).arg("--version"))?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{}: {}", binary.display(), version.trim());
    Ok(())
}

/// Writes the list of materials of each program; returns what could not be made.
fn materials(workspace: &Workspace, dist: &Path) -> Result<Option<String>> {
    if output(workspace.cargo().args(["cyclonedx", "--version"])).is_err() {
        let how = "cargo-cyclonedx: no list of materials; `cargo install --locked cargo-cyclonedx` brings it";
        return Ok(Some(how.to_owned()));
    }
    step("list of materials", || {
        for name in SHIPPED {
            let manifest = workspace.root().join(name).join("Cargo.toml");
            let mut command = workspace.cargo();
            command.args(["cyclonedx", "--quiet", "--format", "json", "--all", "--no-build-deps"]);
            command.args(["--override-filename", "materials", "--manifest-path"]).arg(&manifest);
            output(&mut command)?;
            collect(workspace.root(), dist, name)?;
        }
        Ok(())
    })?;
    Ok(None)
}

/// The tool writes a file beside each manifest of the workspace; one of them is wanted, none stays.
fn collect(root: &Path, dist: &Path, name: &str) -> Result<()> {
    let wanted = root.join(name).join("materials.json");
    let to = dist.join(format!("{name}.cdx.json"));
    std::fs::copy(&wanted, &to).with_context(|| wanted.display().to_string())?;
    for directory in manifest_directories(root)? {
        let file = directory.join("materials.json");
        if file.exists() {
            std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// The directories of the workspace's packages: those at the top, and one below.
fn manifest_directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_path_buf()];
    for _ in 0..2 {
        for directory in found.clone() {
            for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
                let path = entry.with_context(|| directory.display().to_string())?.path();
                if path.join("Cargo.toml").is_file() && !found.contains(&path) {
                    found.push(path);
                }
            }
        }
    }
    Ok(found)
}

/// Writes `SHA256SUMS`, as `sha256sum -c` reads it.
fn sums(dist: &Path) -> Result<()> {
    let mut command = Command::new("sha256sum");
    command.current_dir(dist).arg("--").args(files(dist)?);
    let text = output(&mut command)?;
    let file = dist.join("SHA256SUMS");
    std::fs::write(&file, text).with_context(|| file.display().to_string())
}

/// The names of the files in a directory, sorted.
fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry.with_context(|| directory.display().to_string())?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn container_image(workspace: &Workspace, tag: &str, base: Option<&str>, dist: &Path) -> Result<()> {
    if let Err(error) = output(Command::new("docker").arg("info")) {
        bail!("there is no container engine to build {tag} with: {error:#}");
    }
    let scratch = workspace.target()?.join("dist-image");
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    image::build(workspace.root(), tag, base, dist, &scratch)?;
    std::fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_cover_every_file_and_are_those_that_sha256sum_checks() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("b"), "b").expect("is written");
        std::fs::write(directory.path().join("a"), "a").expect("is written");
        sums(directory.path()).expect("are made");
        let text = std::fs::read_to_string(directory.path().join("SHA256SUMS")).expect("is there");
        let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(names, ["a", "b"]);
        let mut check = Command::new("sha256sum");
        check.current_dir(directory.path()).args(["--check", "--quiet", "SHA256SUMS"]);
        assert!(output(&mut check).is_ok());
        std::fs::write(directory.path().join("a"), "changed").expect("is written");
        assert!(output(&mut check).is_err());
    }

    #[test]
    fn the_packages_below_the_top_are_found_too() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let found = manifest_directories(root).expect("are read");
        for name in ["consensus-server", "xtask/peers"] {
            assert!(found.contains(&root.join(name)), "{name}");
        }
    }
}
