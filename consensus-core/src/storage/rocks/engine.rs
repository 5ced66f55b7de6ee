//! RocksDB with our options, as a [`RawReader`].
//!
//! The log is written once and read seldom, mostly at its end and from memory; the other families are
//! small. So: no bloom filters but for the ledger's lookups by transaction id, a small cache, flushes of all
//! families together so that the small ones never pin old write-ahead logs, and recovery that accepts a torn
//! last record and nothing worse.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Env, ErrorKind, LogLevel, Options, ReadOptions,
};

use super::super::keys::{Family, ROUND_KEY};
use super::super::raw::{Direction, KeyRange, RawReader, Visit};
use super::super::{Error, Result, records};
use super::RocksOptions;

/// A scan reads this far ahead.
const READAHEAD_BYTES: usize = 2 << 20;

/// The log files of RocksDB itself, for people.
const INFO_LOG_FILES: usize = 4;
const INFO_LOG_BYTES: usize = 4 << 20;

/// How long a write waits for room in memory where the disk has failed to take data files; where it is merely slow,
/// writes wait as long as it takes.
const STALL_PATIENCE: Duration = Duration::from_secs(2);
const STALL_RETRY: Duration = Duration::from_millis(1);

/// An open database.
pub(super) struct Engine {
    db: DB,
    /// How long writes have waited for room in memory, in microseconds.
    stalled_us: AtomicU64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.db.path()).finish()
    }
}

impl Engine {
    /// Opens for writing; creates what is missing.
    pub(super) fn open(path: &Path, options: &RocksOptions, environment: Option<&Env>) -> Result<Self> {
        let mut db = database_options(options);
        if let Some(environment) = environment {
            db.set_env(environment);
        }
        db.create_if_missing(true);
        db.create_missing_column_families(true);
        let opened = DB::open_cf_descriptors(&db, path, families(options));
        opened.map(Self::of).map_err(|error| open_failed(path, &error))
    }

    /// Opens what nobody writes; writes nothing.
    pub(super) fn open_idle(path: &Path) -> Result<Self> {
        let options = RocksOptions::default();
        let mut db = database_options(&options);
        db.set_max_open_files(-1);
        let opened = DB::open_cf_descriptors_read_only(&db, path, families(&options), false);
        opened.map(Self::of).map_err(|error| open_failed(path, &error))
    }

    /// Opens beside a process that writes; its own notes go to `scratch`.
    pub(super) fn open_beside(path: &Path, scratch: &Path) -> Result<Self> {
        let options = RocksOptions::default();
        let mut db = database_options(&options);
        db.set_max_open_files(-1);
        let opened = DB::open_cf_descriptors_as_secondary(&db, path, scratch, families(&options));
        let db = opened.map_err(|error| open_failed(path, &error))?;
        db.try_catch_up_with_primary().map_err(|error| open_failed(path, &error))?;
        Ok(Self::of(db))
    }

    fn of(db: DB) -> Self {
        Self { db, stalled_us: AtomicU64::new(0) }
    }

    /// The database.
    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    /// Number of the newest round of writes in the store; 0 in a new one.
    ///
    /// # Errors
    /// The families have it from different rounds; stores of earlier builds have it in one of them only.
    pub(super) fn newest_round(&self) -> Result<u64> {
        let round = self.round_of(Family::Meta)?;
        match self.round_of(Family::Ledger)? {
            Some(other) if Some(other) != round => Err(Error::Inconsistent(format!(
                "the family meta is of round {}, the family ledger of round {other}, which were written together",
                round.unwrap_or(0)
            ))),
            _ => Ok(round.unwrap_or(0)),
        }
    }

    fn round_of(&self, family: Family) -> Result<Option<u64>> {
        let Some(value) = self.get(family, ROUND_KEY)? else { return Ok(None) };
        let round = records::decode_round(&value);
        round.map(Some).map_err(|cause| records::damaged(family, ROUND_KEY, None, cause))
    }

    /// The handle of a family.
    pub(super) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// Pauses a write that finds the memory full since `stall`: data files are written slower than the log.
    ///
    /// # Errors
    /// The disk does not take the data files, and has not come back to it for a while.
    pub(super) fn wait_for_room(&self, stall: Instant) -> Result<()> {
        let failed = self.db.property_int_value(rocksdb::properties::BACKGROUND_ERRORS);
        let failed = failed.ok().flatten().unwrap_or(0);
        if failed > 0 && stall.elapsed() >= STALL_PATIENCE {
            let cause = format!(
                "the memory is full for {} s and its content cannot go to data files: {failed} times that failed, is \
                 the disk full?",
                STALL_PATIENCE.as_secs()
            );
            return Err(Error::Engine { operation: "write", cause });
        }
        let paused = Instant::now();
        std::thread::sleep(STALL_RETRY);
        self.stalled_us.fetch_add(paused.elapsed().as_micros() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How long writes have waited for room in memory since the database was opened.
    pub(super) fn stalled(&self) -> Duration {
        Duration::from_micros(self.stalled_us.load(Ordering::Relaxed))
    }

    fn read_failed(error: &rocksdb::Error) -> Error {
        if error.kind() == ErrorKind::Corruption {
            return Error::Damaged { key: "block of a data file".to_owned(), cause: error.to_string() };
        }
        Error::Engine { operation: "read", cause: error.to_string() }
    }
}

impl RawReader for Engine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_cf(self.family(family), key);
        value.map(|value| value.map(Bytes::from)).map_err(|error| Self::read_failed(&error))
    }

    fn scan(&self, range: KeyRange, visit: Visit<'_>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(range.family != Family::Log);
        options.set_iterate_lower_bound(range.from);
        if let Some(to) = range.to {
            options.set_iterate_upper_bound(to);
        }
        if range.family == Family::Log {
            options.set_readahead_size(READAHEAD_BYTES);
        }
        let mut cursor = self.db.raw_iterator_cf_opt(self.family(range.family), options);
        match range.direction {
            Direction::Forward => cursor.seek_to_first(),
            Direction::Backward => cursor.seek_to_last(),
        }
        while let Some((key, value)) = cursor.item() {
            if let ControlFlow::Break(()) = visit(key, Bytes::copy_from_slice(value)) {
                return Ok(());
            }
            match range.direction {
                Direction::Forward => cursor.next(),
                Direction::Backward => cursor.prev(),
            }
        }
        cursor.status().map_err(|error| Self::read_failed(&error))
    }
}

fn open_failed(path: &Path, error: &rocksdb::Error) -> Error {
    let path = path.display();
    match error.kind() {
        ErrorKind::Corruption => {
            Error::Damaged { key: format!("data files in {path}"), cause: error.to_string() }
        }
        // RocksDB's words for families that are not there.
        ErrorKind::InvalidArgument => {
            Error::NotADataDirectory { path: path.to_string(), cause: error.to_string() }
        }
        _ => Error::Engine { operation: "open", cause: format!("{path}: {error}") },
    }
}

fn database_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.set_paranoid_checks(true);
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_atomic_flush(true);
    db.set_recycle_log_file_num(0);
    db.set_max_total_wal_size(options.wal_bytes_max);
    db.set_max_open_files(options.open_files_max);
    db.set_max_manifest_file_size(options.manifest_bytes_max);
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1 << 20);
    db.set_wal_bytes_per_sync(512 << 10);
    db.set_use_fsync(false);
    db.set_keep_log_file_num(INFO_LOG_FILES);
    db.set_max_log_file_size(INFO_LOG_BYTES);
    db.set_log_level(LogLevel::Warn);
    db
}

fn families(options: &RocksOptions) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.cache_bytes);
    let describe = |family: Family| {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_block_size(32 << 10);
        let mut columns = Options::default();
        let (buffer_bytes, buffers) = match family {
            Family::Log => (options.write_buffer_bytes, 4),
            Family::Ledger => (options.write_buffer_bytes, 2),
            Family::Meta => (options.write_buffer_bytes.min(4 << 20), 2),
        };
        if family == Family::Ledger {
            blocks.set_bloom_filter(10.0, false);
            blocks.set_block_size(8 << 10);
        }
        columns.set_block_based_table_factory(&blocks);
        columns.set_write_buffer_size(buffer_bytes);
        columns.set_max_write_buffer_number(buffers);
        columns.set_level_zero_file_num_compaction_trigger(8);
        columns.set_level_zero_slowdown_writes_trigger(24);
        columns.set_level_zero_stop_writes_trigger(40);
        columns.set_level_compaction_dynamic_level_bytes(true);
        let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
        columns.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
        ColumnFamilyDescriptor::new(family.name(), columns)
    };
    Family::ALL.map(describe).into_iter().collect()
}
