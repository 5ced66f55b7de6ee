//! The image under test: `deploy/docker/Dockerfile`, with the binaries of the build directory.
//!
//! Where no base is named, one is made from what this machine has, so that nothing is fetched: a shell, the
//! few utilities that the Dockerfile runs, and the libraries that these and the programs load. It stands in
//! for a slim image of the distribution and is not meant to be shipped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::engine::{docker, docker_logged};
use crate::workspace::{Workspace, output};

/// What the Dockerfile runs, and what is good to have in a container.
const PROGRAMS: [&str; 8] = ["sh", "mkdir", "chown", "chmod", "ln", "ls", "cat", "sleep"];

/// The programs that are shipped.
pub(crate) const SHIPPED: [&str; 2] = ["consensus-server", "consensus-cli"];

/// Builds the image `tag` on `base`, or on that of the Dockerfile. `scratch` is a directory for what the build
/// reads and says.
pub(crate) fn build(
    root: &Path,
    tag: &str,
    base: Option<&str>,
    binaries: &Path,
    scratch: &Path,
) -> Result<()> {
    let context = scratch.join("context");
    let dist = context.join("dist");
    std::fs::create_dir_all(&dist).with_context(|| dist.display().to_string())?;
    for name in SHIPPED {
        strip(&binaries.join(name), &dist.join(name))?;
    }
    let mut command = Command::new("docker");
    command.args(["build", "--target", "prebuilt", "--tag", tag, "--file"]);
    command.arg(root.join("deploy/docker/Dockerfile"));
    if let Some(base) = base {
        command.args(["--build-arg", &format!("RUNTIME_IMAGE={base}")]);
    }
    command.args(["--build-arg", "BINARIES=dist"]);
    docker_logged(command.arg(&context), &scratch.join("image.log"))
}

/// A copy of a program without its symbols; false where there is no `strip` to take them off, which leaves a
/// larger copy that works as well.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<bool> {
    std::fs::copy(from, to).map(drop).with_context(|| from.display().to_string())?;
    Ok(output(Command::new("strip").arg(to)).is_ok())
}

/// Makes the image `tag` out of this machine's files.
pub(crate) fn base_from_machine(
    workspace: &Workspace,
    tag: &str,
    binaries: &Path,
    scratch: &Path,
) -> Result<()> {
    let root = scratch.join("base");
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = program(name)?;
        libraries.extend(libraries_of(workspace, &program)?);
        put(&program, &root.join("bin").join(name))?;
    }
    for name in SHIPPED {
        libraries.extend(libraries_of(workspace, &binaries.join(name))?);
    }
    for library in &libraries {
        let inside = library.strip_prefix("/").with_context(|| library.display().to_string())?;
        put(library, &root.join(inside))?;
    }
    for directory in ["etc", "tmp", "usr/bin"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    std::fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    let archive = scratch.join("base.tar");
    let mut tar = Command::new("tar");
    output(tar.args(["--owner=0", "--group=0", "-cf"]).arg(&archive).arg("-C").arg(&root).arg("."))?;
    docker(["import", &archive.display().to_string(), tag]).map(drop)
}

/// Where a program is.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not in PATH"))
}

/// What the loader loads with a program.
fn libraries_of(workspace: &Workspace, program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(workspace.command("ldd").arg(program))?;
    ensure!(!text.contains("not found"), "{}: {}", program.display(), text.trim());
    Ok(libraries_in(&text))
}

fn libraries_in(text: &str) -> Vec<PathBuf> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// Copies a file, through links, with its mode.
fn put(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("a file without a directory")?;
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    std::fs::copy(from, to).map(drop).with_context(|| from.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_the_libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd1)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00007f2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n";
        let expected = ["/lib/x/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(text), expected);
        assert!(libraries_in("\tstatically linked\n").is_empty());
    }
}
