//! The store as its operators see it: room on the disk, files, and what the engine has put off.
//!
//! Asking reads the directory and the engine's counters; it never writes and takes no lock of the writer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rocksdb::properties;

use super::super::keys::Family;
use super::super::{Error, Result};
use super::directory::{self, Room};
use super::engine::Engine;

/// The store at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreReport {
    /// Bytes that may still be written on the file system of the data directory.
    pub free_bytes: u64,
    /// Bytes of that file system.
    pub capacity_bytes: u64,
    /// Bytes of the engine's files, those of the write-ahead log included.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log's files.
    pub wal_bytes: u64,
    /// Data files that no compaction has taken up yet.
    pub level0_files: u64,
    /// Bytes that compactions have still to rewrite, as the engine estimates them.
    pub compaction_bytes: u64,
    /// Times that the engine failed in the background since the store was opened: a full or a failing disk.
    pub background_errors: u64,
    /// How long writes have waited for room in memory since the store was opened.
    pub stalled: Duration,
}

/// Looks at the directory and at the engine.
///
/// # Errors
/// The operating system's, or the engine's.
pub(super) fn look(path: &Path, engine: &Engine) -> Result<StoreReport> {
    let Room { free_bytes, capacity_bytes } = directory::room(path)?;
    let (file_bytes, wal_bytes) = files(&directory::engine(path))?;
    let mut report = StoreReport {
        free_bytes,
        capacity_bytes,
        file_bytes,
        wal_bytes,
        background_errors: number(engine, None, properties::BACKGROUND_ERRORS)?,
        stalled: engine.stalled(),
        ..StoreReport::default()
    };
    let level0 = properties::num_files_at_level(0);
    for family in Family::ALL {
        report.level0_files += number(engine, Some(family), &level0)?;
        let pending = properties::ESTIMATE_PENDING_COMPACTION_BYTES;
        report.compaction_bytes += number(engine, Some(family), pending)?;
    }
    Ok(report)
}

/// Bytes of all files in a directory, and of those of the write-ahead log among them.
fn files(path: &Path) -> Result<(u64, u64)> {
    let unreadable = |error: std::io::Error| Error::Engine {
        operation: "look",
        cause: format!("{}: {error}", path.display()),
    };
    let (mut all, mut wal) = (0, 0);
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // The engine removes files at any time.
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_file() {
            continue;
        }
        all += metadata.len();
        if Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "log") {
            wal += metadata.len();
        }
    }
    Ok((all, wal))
}

/// One of the engine's numbers; 0 where it has none.
fn number(engine: &Engine, family: Option<Family>, name: &properties::PropName) -> Result<u64> {
    let failed = |error: rocksdb::Error| Error::Engine { operation: "look", cause: error.to_string() };
    let text = match family {
        Some(family) => engine.db().property_value_cf(engine.family(family), name),
        None => engine.db().property_value(name),
    };
    Ok(text.map_err(failed)?.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}
