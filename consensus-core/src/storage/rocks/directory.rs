//! The data directory around the engine: its lock, its layout, its room.
//!
//! ```text
//! DIR/node.lock   locked by the running process, holds its pid
//! DIR/synced      how far the store was ever synced
//! DIR/db/         the engine's files
//! ```
//!
//! A new directory is made durable up to the root before the engine begins: what the engine syncs later is found after a
//! power cut only if every directory on the way to it is on the disk too.
//!
//! The lock is the kernel's (`flock`): it ends with the process, however the process ends; the pid in the
//! file is for people.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

use super::super::{Error, Result};

const LOCK_FILE: &str = "node.lock";
const ENGINE_DIRECTORY: &str = "db";

/// How long a starting process waits for the lock: an offline tool holds it only while it opens the files.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);

type SyncNames<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

/// A locked data directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory if it is missing and locks it for a process that writes.
    pub(super) fn lock(path: &Path) -> Result<Self> {
        Self::lock_with(path, &mut |directory| File::open(directory)?.sync_all())
    }

    /// `sync` makes the names in a directory durable.
    fn lock_with(path: &Path, sync: SyncNames<'_>) -> Result<Self> {
        create_private(path)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("open the lock of", path, &error))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        while !try_lock(&file, FlockOperation::NonBlockingLockExclusive, path)? {
            if Instant::now() >= deadline {
                return Err(in_use(path, &mut file));
            }
            std::thread::sleep(LOCK_RETRY);
        }
        let pid = rustix::process::getpid().as_raw_nonzero();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{pid}"))
            .map_err(|error| failed("write the lock of", path, &error))?;
        refuse_lost_current(path)?;
        prepare(path, sync)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory that is looked at by a process that does not write.
#[derive(Debug)]
pub(super) enum Watch {
    /// Nobody writes; nobody can begin to as long as this is held.
    Idle(File),
    /// A process writes.
    Busy,
}

impl Watch {
    /// Finds out whether a process writes.
    pub(super) fn begin(path: &Path) -> Result<Self> {
        let not_data = |cause: String| Error::NotADataDirectory { path: path.display().to_string(), cause };
        match fs::metadata(engine(path).join("CURRENT")) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_data(format!("there is no {ENGINE_DIRECTORY}/CURRENT in it")));
            }
            Err(error) => return Err(not_data(error.to_string())),
        }
        let file = match File::open(path.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(error) => return Err(not_data(format!("{LOCK_FILE}: {error}"))),
        };
        if try_lock(&file, FlockOperation::NonBlockingLockShared, path)? {
            Ok(Self::Idle(file))
        } else {
            Ok(Self::Busy)
        }
    }
}

/// Where the engine's files are.
pub(super) fn engine(path: &Path) -> PathBuf {
    path.join(ENGINE_DIRECTORY)
}

/// Bytes that an unprivileged process may still write on the file system of `path`.
///
/// # Errors
/// The operating system's.
pub fn free_bytes(path: &Path) -> Result<u64> {
    room(path).map(|room| room.free_bytes)
}

/// A file system's room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// Bytes that an unprivileged process may still write.
    pub(super) free_bytes: u64,
    /// All its bytes.
    pub(super) capacity_bytes: u64,
}

/// The room on the file system of `path`.
pub(super) fn room(path: &Path) -> Result<Room> {
    let stat =
        rustix::fs::statvfs(path).map_err(|error| failed("ask for the free space of", path, &error))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { free_bytes: bytes(stat.f_bavail), capacity_bytes: bytes(stat.f_blocks) })
}

/// Creates a directory that only its owner may enter; one that exists is left as it is.
fn create_private(path: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| failed("create", path, &error))
}

fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(failed("lock", path, &error)),
    }
}

fn in_use(path: &Path, file: &mut File) -> Error {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| (&*file).take(20).read_to_string(&mut pid));
    let owner = match (read, pid.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("pid {pid}"),
        _ => "another process".to_owned(),
    };
    Error::InUse { path: path.display().to_string(), owner }
}

/// Without its `CURRENT` file the engine would begin anew and forget everything, so data files without it
/// are refused. (A crash in the very first moment of a directory leaves neither.)
fn refuse_lost_current(path: &Path) -> Result<()> {
    let engine = engine(path);
    if !engine.exists() || engine.join("CURRENT").exists() {
        return Ok(());
    }
    let files = fs::read_dir(&engine).map_err(|error| failed("list", &engine, &error))?;
    for file in files {
        let file = file.map_err(|error| failed("list", &engine, &error))?.file_name();
        let name = file.to_string_lossy();
        if name.ends_with(".sst") || name.ends_with(".log") {
            let cause = format!("{ENGINE_DIRECTORY}/CURRENT is missing, though there is {name}");
            return Err(Error::Damaged { key: format!("data directory {}", path.display()), cause });
        }
    }
    Ok(())
}

/// Creates the engine's directory, and makes it and the way to it durable, until the engine has begun.
///
/// Which directories this start has made is not asked: an earlier one may have made them and ended before this. Those
/// on another file system and those in which this process can make nothing were made by others.
fn prepare(path: &Path, sync: SyncNames<'_>) -> Result<()> {
    let engine = engine(path);
    if engine.join("CURRENT").exists() {
        return Ok(());
    }
    create_private(&engine)?;
    let path = fs::canonicalize(path).map_err(|error| failed("resolve", path, &error))?;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let ours = device(&path).map_err(|error| failed("look at", &path, &error))?;
    for directory in path.ancestors() {
        let foreign = device(directory).is_ok_and(|device| device != ours);
        if foreign || access(directory, Access::READ_OK | Access::WRITE_OK).is_err() {
            break;
        }
        sync(directory).map_err(|error| failed("sync", directory, &error))?;
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Engine { operation: "open", cause: format!("cannot {what} {}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a power cut right now leaves: the directories that are durable, each with what was in it at its sync.
    #[derive(Default)]
    struct Durable(BTreeSet<PathBuf>);

    impl Durable {
        fn sync(&mut self, directory: &Path) -> io::Result<()> {
            for entry in fs::read_dir(directory)? {
                self.0.insert(entry?.path());
            }
            Ok(())
        }

        /// Whether `path` is reached from `root`, which was there before.
        fn reaches(&self, root: &Path, path: &Path) -> bool {
            path.ancestors().take_while(|directory| *directory != root).all(|part| self.0.contains(part))
        }
    }

    #[test]
    fn a_new_directory_survives_a_power_cut_before_the_engine_writes_its_first_file() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = fs::canonicalize(root.path()).expect("its path");
        let path = root.join("var").join("node");
        let mut durable = Durable::default();
        Directory::lock_with(&path, &mut |directory| durable.sync(directory)).expect("locked");
        assert!(fs::read_dir(engine(&path)).expect("there").next().is_none(), "the engine has not begun");
        assert!(durable.reaches(&root, &engine(&path)), "{:?}", durable.0);
    }

    #[test]
    fn what_a_start_that_was_killed_left_unsynced_is_synced_by_the_next_until_the_engine_has_begun() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = fs::canonicalize(root.path()).expect("its path");
        let path = root.join("var").join("node");
        let killed = Directory::lock_with(&path, &mut |_| Err(io::ErrorKind::Interrupted.into()));
        let error = killed.expect_err("not durable").to_string();
        assert!(error.contains(&format!("cannot sync {}", path.display())), "{error}");
        let mut durable = Durable::default();
        Directory::lock_with(&path, &mut |directory| durable.sync(directory)).expect("locked");
        assert!(durable.reaches(&root, &engine(&path)), "{:?}", durable.0);
        fs::write(engine(&path).join("CURRENT"), "MANIFEST-000001\n").expect("written");
        let begun = Directory::lock_with(&path, &mut |directory| {
            Err(io::Error::other(directory.display().to_string()))
        });
        begun.expect("nothing is synced any more");
    }
}
