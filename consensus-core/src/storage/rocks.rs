//! The store on disk: all chains of a process in one RocksDB.
//!
//! A round is one atomic RocksDB batch with one synced write, whatever the number of chains in it. What a
//! write needs to know of the log (its end, its terms) is kept in memory per open chain, so that writing
//! never reads. After a failed write the store is poisoned: the outcome of that write is unknown, and neither
//! it nor any later one is tried again.
//!
//! [`RocksStore::open_read_only`] serves the offline tools; it never writes into the directory.

mod directory;
mod engine;
mod log_files;
mod manifest;
mod read_only;
mod report;
mod synced_mark;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use rocksdb::WriteOptions;

use self::directory::Directory;
use self::engine::Engine;
use self::synced_mark::SyncedMark;
use super::keys::{self, Family, Meta};
use super::raw::{self, KeyRange, RawReader, Visit};
use super::records::{self, Record};
use super::shape::{LogChange, LogShape};
use super::{
    Applied, ChainState, ConfState, Error, FORMAT_VERSION, HardState, Identity, LogEntry, LogReader,
    LogWriter, PeerRecord, Position, Result, WriteBatch,
};
use crate::ids::ChainId;

pub use directory::free_bytes;
pub use read_only::RocksReader;
pub use report::StoreReport;

/// Runs of entries up to this length are deleted one by one; a range tombstone slows every later read.
const SINGLE_DELETES_MAX: u64 = 64;

/// What an operator may tune.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RocksOptions {
    /// Bytes of log entries that are gathered in memory before they go from the write-ahead log into a data
    /// file; up to four times as much is held while the disk is slow.
    pub write_buffer_bytes: usize,
    /// Bytes of the write-ahead log.
    pub wal_bytes_max: u64,
    /// Bytes of blocks read from data files that are kept in memory.
    pub cache_bytes: usize,
    /// Data files held open.
    pub open_files_max: i32,
    /// Bytes of the engine's manifest, all of which is read at every start, before a new one is begun; up to six times
    /// as much as its content needs stay in any case.
    pub manifest_bytes_max: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 32 << 20,
            wal_bytes_max: 256 << 20,
            cache_bytes: 32 << 20,
            open_files_max: 256,
            manifest_bytes_max: 16 << 20,
        }
    }
}

#[derive(Debug)]
struct OpenChain {
    name: String,
    shape: LogShape,
}

#[derive(Debug)]
struct Writer {
    mark: SyncedMark,
    /// Number of the newest round.
    round: u64,
    /// The failure that poisoned the store.
    failed: Option<Error>,
}

/// The store.
#[derive(Debug)]
pub struct RocksStore {
    // Closed before the lock on the directory goes.
    engine: Engine,
    /// Held by whoever writes.
    writer: Mutex<Writer>,
    /// As of the newest finished write; held for moments only, so that readers never wait for a sync.
    chains: RwLock<BTreeMap<ChainId, OpenChain>>,
    directory: Directory,
}

impl RocksStore {
    /// Opens a data directory for this process alone, and creates it with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NewerFormat`], [`Error::NotADataDirectory`], [`Error::Damaged`],
    /// [`Error::Inconsistent`] if writes are gone that were synced, or the engine's.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self> {
        Self::open_in(path, options, None)
    }

    /// Opens as [`Self::open`] does, with the engine's files behind an environment of the caller: tests
    /// inject faults there. The lock and the mark of the newest sync stay with the operating system.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(path: &Path, options: &RocksOptions, environment: Option<&rocksdb::Env>) -> Result<Self> {
        let directory = Directory::lock(path)?;
        let mark = SyncedMark::open(path)?;
        let files = directory::engine(path);
        let lost = |words: String| Error::Inconsistent(format!("{}: {words}", path.display()));
        if let Some(words) = log_files::check(&files)? {
            return Err(lost(words));
        }
        let engine = Engine::open(&files, options, environment)?;
        let round = engine.newest_round()?;
        if let Some(words) = synced_mark::lost(round, mark.round()) {
            return Err(lost(words));
        }
        let writer = Mutex::new(Writer { mark, round, failed: None });
        let store = Self { engine, writer, chains: RwLock::default(), directory };
        store.prepare_format()?;
        Ok(store)
    }

    /// Opens a data directory for reading, whether its server runs, has ended or was killed. Writes nothing
    /// into it.
    ///
    /// # Errors
    /// [`Error::NotADataDirectory`], [`Error::NewerFormat`], [`Error::Damaged`] or the engine's.
    pub fn open_read_only(path: &Path) -> Result<RocksReader> {
        RocksReader::open(path)
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes that may still be written on its file system.
    ///
    /// # Errors
    /// The operating system's.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(self.path())
    }

    /// Room, files and what is put off, for metrics. Asks the operating system, so it may wait for a disk.
    ///
    /// # Errors
    /// The operating system's, or the engine's.
    pub fn report(&self) -> Result<StoreReport> {
        report::look(self.path(), &self.engine)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match &writer.failed {
            Some(error) => Err(error.clone()),
            None => Ok(writer),
        }
    }

    /// Writes a round under the next number and notes how far the store is synced; a failure poisons the store.
    fn commit(&self, writer: &mut Writer, mut round: Round<'_>, sync: bool) -> Result<()> {
        if !round.is_empty() {
            writer.round += 1;
            let number = records::encode_round(writer.round);
            round.put(Family::Meta, keys::ROUND_KEY, &number);
            // The round's last write goes to the family that the engine's manifest names last, so that data files of
            // the others alone never reach as far as the round does.
            round.put(Family::Ledger, keys::ROUND_KEY, &number);
        }
        let written = round.commit(sync);
        let noted = written.and_then(|()| if sync { writer.mark.note(writer.round) } else { Ok(()) });
        noted.inspect_err(|error| writer.failed = Some(error.clone()))
    }

    /// Writes the format record into a new store, judges it in an old one.
    fn prepare_format(&self) -> Result<()> {
        let mut empty = true;
        self.engine.scan(KeyRange::forward(Family::Meta, Vec::new(), None), &mut |_, _| {
            empty = false;
            std::ops::ControlFlow::Break(())
        })?;
        if !empty {
            return read_only::check_format(&self.engine, self.path());
        }
        let mut round = Round::new(&self.engine, 64);
        round.put(Family::Meta, keys::FORMAT_KEY, &records::encode_format(FORMAT_VERSION));
        self.commit(&mut *self.writer()?, round, true)
    }

    fn with_chain<T>(&self, chain: ChainId, look: impl FnOnce(&OpenChain) -> T) -> Option<T> {
        self.chains.read().unwrap_or_else(PoisonError::into_inner).get(&chain).map(look)
    }

    fn set_chain(&self, chain: ChainId, open: OpenChain) {
        self.chains.write().unwrap_or_else(PoisonError::into_inner).insert(chain, open);
    }

    /// The log's bounds and the chain's name, from memory if the chain is open.
    fn bounds(&self, chain: ChainId) -> Result<(LogShape, String)> {
        let known = self.with_chain(chain, |open| {
            (LogShape::bounds(open.shape.truncated(), open.shape.last()), open.name.clone())
        });
        known.map_or_else(|| raw::stored_bounds(&self.engine, chain), Ok)
    }

    /// Judges all batches and stages them as one round, with the shapes that hold once it is written.
    fn stage(&self, batches: &[WriteBatch]) -> Result<(Round<'_>, BTreeMap<ChainId, LogShape>)> {
        let mut shapes: BTreeMap<ChainId, LogShape> = BTreeMap::new();
        let bytes: u64 = batches.iter().map(WriteBatch::bytes).sum();
        let mut round = Round::new(&self.engine, bytes as usize);
        for batch in batches {
            let shape = match shapes.entry(batch.chain) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let shape = self.with_chain(batch.chain, |open| open.shape.clone());
                    unknown.insert(shape.ok_or(Error::NoChain(batch.chain))?)
                }
            };
            shape.check(batch)?;
            let change = shape.advance(batch);
            round.stage(batch, &change, shape);
        }
        Ok((round, shapes))
    }
}

impl RawReader for RocksStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.get(family, key)
    }

    fn scan(&self, range: KeyRange, visit: Visit<'_>) -> Result<()> {
        self.engine.scan(range, visit)
    }
}

impl LogReader for RocksStore {
    fn entries(&self, chain: ChainId, from: u64, to: u64, bytes_max: u64) -> Result<Vec<LogEntry>> {
        let (bounds, name) = self.bounds(chain)?;
        if from >= to {
            return Ok(Vec::new());
        }
        bounds.covers(from, to)?;
        let found = raw::read_entries(&self.engine, chain, &name, from..to, bytes_max);
        match found {
            // The log may have been compacted or cut between the look at its bounds and the reading.
            Err(Error::Inconsistent(_)) => {
                self.bounds(chain)?.0.covers(from, to)?;
                found
            }
            _ => found,
        }
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

impl LogWriter for RocksStore {
    fn write(&self, batches: &[WriteBatch]) -> Result<()> {
        let mut writer = self.writer()?;
        let staged = self.stage(batches).inspect_err(|error| writer.failed = Some(error.clone()));
        let (round, shapes) = staged?;
        self.commit(&mut writer, round, batches.iter().any(|batch| batch.sync))?;
        let mut chains = self.chains.write().unwrap_or_else(PoisonError::into_inner);
        for (chain, shape) in shapes {
            chains.get_mut(&chain).expect("an open chain stays open").shape = shape;
        }
        Ok(())
    }

    fn create_chain(&self, identity: &Identity, members: &ConfState) -> Result<()> {
        let mut writer = self.writer()?;
        let chain = identity.chain_id();
        if self.engine.get(Family::Meta, &keys::meta(chain, Meta::Identity))?.is_some() {
            return Err(Error::Inconsistent(format!("chain {} exists already", identity.chain)));
        }
        let mut round = Round::new(&self.engine, 1024);
        round.put_meta(chain, Meta::Identity, identity);
        round.put_meta(chain, Meta::HardState, &HardState::default());
        round.put_meta(chain, Meta::Applied, &Applied { index: 0, conf_state: members.clone() });
        round.put_meta(chain, Meta::Truncated, &Position::default());
        round.put_meta(chain, Meta::HighWater, &Position::default());
        self.commit(&mut writer, round, true)?;
        self.set_chain(chain, OpenChain { name: identity.chain.clone(), shape: LogShape::default() });
        Ok(())
    }

    fn open_chain(&self, chain: ChainId) -> Result<ChainState> {
        let _writer = self.writer()?;
        let state = raw::load_chain(&self.engine, chain)?;
        let open = OpenChain { name: state.identity.chain.clone(), shape: LogShape::of(&state) };
        self.set_chain(chain, open);
        Ok(state)
    }

    fn chains(&self) -> Result<Vec<Identity>> {
        raw::chain_ids(&self.engine)?.into_iter().map(|chain| raw::identity(&self.engine, chain)).collect()
    }
}

/// One atomic RocksDB batch in the making.
struct Round<'a> {
    engine: &'a Engine,
    batch: rocksdb::WriteBatch,
    /// Room for one encoded entry, used again for the next.
    scratch: Vec<u8>,
}

impl<'a> Round<'a> {
    fn new(engine: &'a Engine, bytes: usize) -> Self {
        Self { engine, batch: rocksdb::WriteBatch::with_capacity_bytes(bytes + 512), scratch: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds a chain's batch; `shape` is the log's shape after it.
    fn stage(&mut self, batch: &WriteBatch, change: &LogChange, shape: &LogShape) {
        let chain = batch.chain;
        self.stage_install(batch, change, shape);
        if let Some(tail) = &change.tail {
            // What is overwritten below needs no deletion.
            let written = batch.entries.last().map_or(0, |last| last.index);
            self.delete_entries(chain, (*tail.start()).max(written + 1)..=*tail.end());
        }
        for index in &change.terms_removed {
            self.delete(Family::Meta, &keys::meta(chain, Meta::TermStart(*index)));
        }
        for start in &change.terms_added {
            self.put_meta(chain, Meta::TermStart(start.index), start);
        }
        self.put_entries(chain, &batch.entries);
        if let Some(hard_state) = &batch.hard_state {
            self.put_meta(chain, Meta::HardState, hard_state);
        }
        if let Some(applied) = &batch.applied {
            self.put_meta(chain, Meta::Applied, applied);
        }
        if let Some(snapshot) = &batch.snapshot {
            self.put_meta(chain, Meta::Snapshot, snapshot);
        }
        if batch.installed {
            self.delete(Family::Meta, &keys::meta(chain, Meta::Installing));
        }
        if let Some(compacted) = &change.compacted {
            self.delete_entries(chain, compacted.clone());
            self.put_meta(chain, Meta::Truncated, &shape.truncated());
        }
        if change.end_moved {
            self.put_meta(chain, Meta::HighWater, &shape.last());
        }
        for peer in &batch.peers {
            self.put_meta(chain, Meta::Peer(peer.node_id), peer);
        }
        self.stage_application(batch);
    }

    fn stage_install(&mut self, batch: &WriteBatch, change: &LogChange, shape: &LogShape) {
        let Some(snapshot) = &batch.install else { return };
        assert!(change.replaced, "an installed snapshot replaces the log");
        let chain = batch.chain;
        self.delete_range(Family::Log, &keys::log(chain, 0), &keys::log(chain, u64::MAX));
        let (from, to) = keys::term_starts(chain);
        self.delete_range(Family::Meta, &from, &to);
        self.put_meta(chain, Meta::Snapshot, snapshot);
        self.put_meta(chain, Meta::Installing, &snapshot.position);
        self.put_meta(chain, Meta::Truncated, &snapshot.position);
        self.put_meta(chain, Meta::HardState, &shape.hard_state());
        let conf_state = snapshot.conf_state.clone();
        self.put_meta(chain, Meta::Applied, &Applied { index: snapshot.position.index, conf_state });
    }

    fn stage_application(&mut self, batch: &WriteBatch) {
        for write in &batch.application {
            let key = keys::ledger(batch.chain, &write.key);
            match &write.value {
                Some(value) => self.put(Family::Ledger, &key, &records::frame(&key, value)),
                None => self.delete(Family::Ledger, &key),
            }
        }
    }

    fn put_entries(&mut self, chain: ChainId, entries: &[LogEntry]) {
        for entry in entries {
            let key = keys::log(chain, entry.index);
            records::encode_entry(&key, entry, &mut self.scratch);
            self.batch.put_cf(self.engine.family(Family::Log), key, &self.scratch);
        }
    }

    fn put_meta<R: Record>(&mut self, chain: ChainId, meta: Meta, record: &R) {
        let key = keys::meta(chain, meta);
        self.put(Family::Meta, &key, &record.encode(&key));
    }

    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.engine.family(family), key, value);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.batch.delete_cf(self.engine.family(family), key);
    }

    fn delete_entries(&mut self, chain: ChainId, indexes: RangeInclusive<u64>) {
        if indexes.is_empty() {
            return;
        }
        if indexes.end() - indexes.start() >= SINGLE_DELETES_MAX {
            let (from, to) = (keys::log(chain, *indexes.start()), keys::log(chain, indexes.end() + 1));
            return self.delete_range(Family::Log, &from, &to);
        }
        for index in indexes {
            self.delete(Family::Log, &keys::log(chain, index));
        }
    }

    fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(self.engine.family(family), from, to);
    }

    /// Writes everything at once; durable on return with `sync`, together with all that was written before.
    fn commit(self, sync: bool) -> Result<()> {
        let failed = |error: rocksdb::Error| Error::Engine { operation: "write", cause: error.to_string() };
        let db = self.engine.db();
        if self.batch.is_empty() {
            // A bare wish for durability, for what was written unsynced.
            return if sync { db.flush_wal(true).map_err(failed) } else { Ok(()) };
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        // The engine never waits with the write in hand: when the disk is full it tries to recover, needs the place of
        // the waiting write for that, and both would wait for ever.
        options.set_no_slowdown(true);
        let bytes = self.batch.data().to_vec();
        let (mut batch, mut stall) = (self.batch, None);
        loop {
            match db.write_opt(batch, &options) {
                // Nothing was written.
                Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => {
                    self.engine.wait_for_room(*stall.get_or_insert_with(Instant::now))?;
                }
                other => return other.map_err(failed),
            }
            batch = rocksdb::WriteBatch::from_data(&bytes);
        }
    }
}
