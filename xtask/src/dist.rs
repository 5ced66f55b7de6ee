//! `cargo xtask dist`: what is handed out, in `dist/` of the build directory.
//!
//! Both programs without their symbols, the list of everything that is compiled into them ([`materials`]), and
//! the SHA-256 sums of all that. With `--image` the container image too, which is left in the local engine and
//! pushed nowhere. What is missing on this machine is named, not left out in silence. With `--profile dev` all
//! of it is called so: the directory, the files and the image.

mod materials;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::materials::Graph;
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
    fn names(self) -> Names {
        match self {
            Self::Release => Names { profile: "release", built: "release", mark: "" },
            Self::Dev => Names { profile: "dev", built: "debug", mark: "-dev" },
        }
    }
}

/// What things are called for a profile.
#[derive(Clone, Copy, Debug)]
struct Names {
    /// As cargo has it.
    profile: &'static str,
    /// The directory in which cargo puts what it builds.
    built: &'static str,
    /// Behind every name of what is not to be handed out.
    mark: &'static str,
}

impl Names {
    fn of(&self, name: &str) -> String {
        format!("{name}{}", self.mark)
    }
}

/// Makes everything.
///
/// # Errors
/// When a build or a tool fails; a tool that is not there is named at the end and is no failure.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let names = arguments.profile.names();
    if !arguments.no_build {
        build(workspace, names.profile)?;
    }
    let target = workspace.target()?;
    let built = target.join(names.built);
    let dist = target.join(names.of("dist"));
    if dist.exists() {
        std::fs::remove_dir_all(&dist).with_context(|| dist.display().to_string())?;
    }
    std::fs::create_dir_all(&dist).with_context(|| dist.display().to_string())?;
    let mut missing = Vec::new();
    for name in SHIPPED {
        let binary = dist.join(names.of(name));
        if !image::strip(&built.join(name), &binary)? {
            missing.push(format!("strip (binutils): {} has its symbols", names.of(name)));
        }
        smoke(workspace, &binary)?;
    }
    step("list of materials", || list_materials(workspace, &dist, &names))?;
    sums(&dist)?;
    if let Some(tag) = &arguments.image {
        let tag = names.of(tag);
        step(&format!("image {tag}"), || {
            container_image(workspace, &tag, arguments.base.as_deref(), &built)
        })?;
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

/// Writes the list of materials of each program beside it.
fn list_materials(workspace: &Workspace, dist: &Path, names: &Names) -> Result<()> {
    let graph = Graph::read(workspace)?;
    for name in SHIPPED {
        let file = names.of(name);
        let list = graph.materials(name, &sha256(dist, &file)?)?;
        let text = serde_json::to_string_pretty(&list)? + "\n";
        let path = dist.join(format!("{file}.cdx.json"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The SHA-256 of a file in a directory, hexadecimal.
fn sha256(directory: &Path, name: &str) -> Result<String> {
    let text = output(Command::new("sha256sum").current_dir(directory).args(["--", name]))?;
    text.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
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

/// Of the binaries in a directory, which the image has without their symbols too.
fn container_image(workspace: &Workspace, tag: &str, base: Option<&str>, built: &Path) -> Result<()> {
    if let Err(error) = output(Command::new("docker").arg("info")) {
        bail!("there is no container engine to build {tag} with: {error:#}");
    }
    let scratch = workspace.target()?.join("dist-image");
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    image::build(workspace.root(), tag, base, built, &scratch)?;
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
    fn what_is_not_to_be_handed_out_says_so_in_every_name() {
        assert_eq!(DistProfile::Release.names().of("consensus:1"), "consensus:1");
        assert_eq!(DistProfile::Dev.names().of("consensus:1"), "consensus:1-dev");
        assert_eq!(DistProfile::Dev.names().of("dist"), "dist-dev");
    }
}
