//! A data directory that is read while its server runs or after it was killed; nothing is written into it.
//!
//! If nobody holds the directory's lock, the files are opened for reading only, and the lock is held for that
//! moment so that no server changes them meanwhile. If a server holds it, they are opened as a secondary,
//! whose own notes go to a directory under the system's temporary one.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::keys::{FORMAT_KEY, Family};
use super::super::raw::{self, KeyRange, RawReader, Visit};
use super::super::{Error, FORMAT_VERSION, Identity, LogEntry, LogReader, PeerRecord, Result, records};
use super::directory::{self, Watch};
use super::engine::Engine;
use super::log_files;
use super::synced_mark::{self, SyncedMark};
use crate::ids::ChainId;

/// Attempts to open beside a process that may just be replacing its files.
const ATTEMPTS: usize = 5;

/// Names of temporary directories that a process tries, for readers at the same time and leftovers.
const SCRATCH_NAMES: usize = 1000;

/// A store that is only read.
#[derive(Debug)]
pub struct RocksReader {
    // Before `scratch`, so that the engine is closed when its notes go.
    engine: Engine,
    beside_writer: bool,
    /// What is wrong if synced writes are gone.
    lost: Option<String>,
    _scratch: Option<Scratch>,
}

impl RocksReader {
    /// Opens a data directory, held by a process or not.
    ///
    /// # Errors
    /// [`Error::NotADataDirectory`], [`Error::NewerFormat`], [`Error::Damaged`] or the engine's.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let files = directory::engine(path);
        let mut attempt = 1;
        let reader = loop {
            let watch = Watch::begin(path)?;
            let opened = match watch {
                Watch::Idle(lock) => {
                    let gap = log_files::check(&files)?;
                    let opened = Self::open_idle(path, &files, gap);
                    drop(lock);
                    opened
                }
                Watch::Busy => {
                    log_files::check_beside(&files)?;
                    let scratch = Scratch::create()?;
                    let opened = Engine::open_beside(&files, &scratch.path);
                    opened.map(|engine| Self {
                        engine,
                        beside_writer: true,
                        lost: None,
                        _scratch: Some(scratch),
                    })
                }
            };
            match opened {
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                other => break other?,
            }
        };
        check_format(&reader.engine, path)?;
        Ok(reader)
    }

    /// `gap` says what the files themselves miss.
    fn open_idle(path: &Path, files: &Path, gap: Option<String>) -> Result<Self> {
        let engine = Engine::open_idle(files)?;
        let lost = match SyncedMark::look(path) {
            Ok(None) => None,
            Ok(Some(synced)) => match engine.newest_round() {
                Ok(found) => synced_mark::lost(found, synced),
                Err(error) => Some(error.to_string()),
            },
            Err(error) => Some(error.to_string()),
        };
        Ok(Self { engine, beside_writer: false, lost: gap.or(lost), _scratch: None })
    }

    /// Whether a process was writing when the directory was opened; what is read may then not be durable yet.
    pub fn beside_writer(&self) -> bool {
        self.beside_writer
    }

    /// The chains, those with a damaged identity too.
    ///
    /// # Errors
    /// The engine's.
    pub fn chain_ids(&self) -> Result<Vec<ChainId>> {
        raw::chain_ids(&self.engine)
    }

    /// Who owns a chain.
    ///
    /// # Errors
    /// [`Error::NoChain`], [`Error::Damaged`], [`Error::Inconsistent`] or the engine's.
    pub fn identity(&self, chain: ChainId) -> Result<Identity> {
        raw::identity(&self.engine, chain)
    }
}

impl RawReader for RocksReader {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.get(family, key)
    }

    fn scan(&self, range: KeyRange, visit: Visit<'_>) -> Result<()> {
        self.engine.scan(range, visit)
    }

    fn lost(&self) -> Option<String> {
        self.lost.clone()
    }
}

impl LogReader for RocksReader {
    fn entries(&self, chain: ChainId, from: u64, to: u64, bytes_max: u64) -> Result<Vec<LogEntry>> {
        let (shape, name) = raw::stored_bounds(&self.engine, chain)?;
        if from >= to {
            return Ok(Vec::new());
        }
        shape.covers(from, to)?;
        raw::read_entries(&self.engine, chain, &name, from..to, bytes_max)
    }

    fn application_record(&self, chain: ChainId, key: &[u8]) -> Result<Option<Bytes>> {
        raw::read_application(&self.engine, chain, key)
    }

    fn application_records(
        &self,
        chain: ChainId,
        from: &[u8],
        to: &[u8],
        count_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>> {
        raw::read_application_range(&self.engine, chain, from, to, count_max)
    }

    fn peers(&self, chain: ChainId) -> Result<Vec<PeerRecord>> {
        raw::read_peers(&self.engine, chain)
    }
}

/// Refuses a store without a format record or with a newer one.
pub(super) fn check_format(engine: &Engine, path: &Path) -> Result<()> {
    let Some(value) = engine.get(Family::Meta, FORMAT_KEY)? else {
        let cause = "it has no format record".to_owned();
        if engine.newest_round()? > 0 {
            // Ours: only the first of all rounds writes the format, so data files are missing.
            return Err(Error::Damaged { key: format!("data files in {}", path.display()), cause });
        }
        return Err(Error::NotADataDirectory { path: path.display().to_string(), cause });
    };
    let found = records::decode_format(&value)
        .map_err(|cause| records::damaged(Family::Meta, FORMAT_KEY, None, cause))?;
    if found > FORMAT_VERSION { Err(Error::NewerFormat { found }) } else { Ok(()) }
}

/// A directory of our own under the system's temporary one; removed when dropped.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create() -> Result<Self> {
        let parent = std::env::temp_dir();
        for attempt in 0..SCRATCH_NAMES {
            let path = parent.join(format!("consensus-reader-{}-{attempt}", std::process::id()));
            // Refused if something is there already, so that nothing foreign is followed or removed.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(scratch_failed(&path, &error)),
            }
        }
        Err(scratch_failed(&parent, &"all of our names are taken there"))
    }
}

fn scratch_failed(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    let cause = format!("cannot create a temporary directory {}: {cause}", path.display());
    Error::Engine { operation: "open", cause }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Notes of a finished reader: if they stay, the system's own cleaning of that directory takes them.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
