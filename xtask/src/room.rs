//! Room on the disk for a build.
//!
//! A build directory only ever grows: cargo keeps what former versions of the sources and of the dependencies left.
//! Where continuous integration keeps one from run to run, a disk fills up some day, in the middle of a build and
//! with a message about a query cache. So what gives way is removed before, and too little room is said in words.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{self, Workspace};

const GIB: u64 = 1 << 30;

/// What all builds of `cargo xtask ci` take from nothing: measured, and half as much again.
const FROM_NOTHING_BYTES: u64 = 9 * GIB;
/// What they take where the dependencies are there.
const WARM_BYTES: u64 = 4 * GIB;

/// Sees to it that the builds have room. Where there is too little, what the workspace's own packages left in the
/// build directory is removed, never RocksDB; where that is not enough, it is said, and the builds go on.
pub(crate) fn make(workspace: &Workspace) -> Result<()> {
    let target = workspace.target()?;
    let needed = needed_bytes(&target);
    let free = free_bytes(&target)?;
    if free >= needed {
        return Ok(());
    }
    println!("   {}: {} free, builds need {}", target.display(), in_gib(free), in_gib(needed));
    if target.is_dir() {
        println!("   removing what this workspace's own packages left there");
        workspace::run(workspace.cargo().args(["clean", "--quiet", "--workspace"]))?;
    }
    let free = free_bytes(&target)?;
    if free < needed {
        println!(
            "   {} are free now: a build may run out of room. Free some, remove {}, or let CARGO_TARGET_DIR name \
             another disk",
            in_gib(free),
            target.display()
        );
    }
    Ok(())
}

/// What is still to be built, by whether RocksDB is there.
fn needed_bytes(target: &Path) -> u64 {
    let built = std::fs::read_dir(target.join("debug/build")).into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("librocksdb-sys-")
            && entry.path().join("out/librocksdb.a").is_file()
    });
    if built { WARM_BYTES } else { FROM_NOTHING_BYTES }
}

/// Free bytes for whoever is not root, of the file system that `path` is on or will be made on.
fn free_bytes(path: &Path) -> Result<u64> {
    let there = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let found = rustix::fs::statvfs(&there).with_context(|| format!("free space at {}", there.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn in_gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_has_the_room_of_its_parent() {
        let there = tempfile::tempdir().unwrap();
        let missing = there.path().join("a/b");
        let free = free_bytes(&missing).unwrap();
        assert!(free > 0 && free.abs_diff(free_bytes(there.path()).unwrap()) < GIB);
    }

    #[test]
    fn less_is_needed_where_rocksdb_is_built() {
        let target = tempfile::tempdir().unwrap();
        assert_eq!(needed_bytes(target.path()), FROM_NOTHING_BYTES);
        let out = target.path().join("debug/build/librocksdb-sys-0123/out");
        std::fs::create_dir_all(&out).unwrap();
        assert_eq!(needed_bytes(target.path()), FROM_NOTHING_BYTES, "begun and not finished");
        std::fs::write(out.join("librocksdb.a"), "").unwrap();
        assert_eq!(needed_bytes(target.path()), WARM_BYTES);
    }
}
