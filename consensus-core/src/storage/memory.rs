//! A store in memory with the crash semantics of a disk, for simulation and tests.
//!
//! Each [`LogWriter::write`] is one atomic group. A synced write makes itself and everything before it
//! durable; an unsynced one is visible at once and durable only by a later sync. [`MemoryStore::crash`]
//! keeps what is durable and a prefix of the unsynced groups, as a write-ahead log does. Nothing is random
//! and nothing is encoded: which prefix survives and which write fails is the caller's choice.
//!
//! What it does not do: share anything between processes, or bound its size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::shape::{self, LogShape};
use super::{
    Applied, ChainState, ConfState, Error, HardState, Identity, LogEntry, LogReader, LogWriter, PeerRecord,
    Position, Result, Snapshot, WriteBatch,
};
use crate::ids::{ChainId, NodeId};

/// Everything that a disk holds: its chains.
pub type DiskImage = BTreeMap<ChainId, ChainImage>;

/// A record of a chain beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamagedRecord {
    /// Promises.
    HardState,
    /// Applied index and membership.
    Applied,
    /// The newest snapshot.
    Snapshot,
    /// One of the application's.
    Application,
}

/// One chain as a disk holds it.
#[derive(Clone, Debug)]
pub struct ChainImage {
    identity: Identity,
    shape: LogShape,
    high_water: Position,
    applied: Applied,
    snapshot: Option<Snapshot>,
    installing: bool,
    entries: BTreeMap<u64, LogEntry>,
    damaged: BTreeSet<u64>,
    damaged_record: Option<DamagedRecord>,
    /// Batches that it has taken.
    round: u64,
    peers: BTreeMap<NodeId, PeerRecord>,
    application: BTreeMap<Vec<u8>, Bytes>,
}

impl ChainImage {
    fn new(identity: &Identity, members: &ConfState) -> Self {
        Self {
            identity: identity.clone(),
            shape: LogShape::default(),
            high_water: Position::default(),
            applied: Applied { index: 0, conf_state: members.clone() },
            snapshot: None,
            installing: false,
            entries: BTreeMap::new(),
            damaged: BTreeSet::new(),
            damaged_record: None,
            round: 0,
            peers: BTreeMap::new(),
            application: BTreeMap::new(),
        }
    }

    /// Owner.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Promises.
    pub fn hard_state(&self) -> HardState {
        self.shape.hard_state()
    }

    /// Applied index and membership.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Newest snapshot.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Whether the snapshot is durable and not yet installed.
    pub fn installing(&self) -> bool {
        self.installing
    }

    /// The entry before the first kept one.
    pub fn truncated(&self) -> Position {
        self.shape.truncated()
    }

    /// The last entry, or `truncated` if there is none.
    pub fn last(&self) -> Position {
        self.shape.last()
    }

    /// The log by index.
    pub fn entries(&self) -> &BTreeMap<u64, LogEntry> {
        &self.entries
    }

    /// What is known of the peers.
    pub fn peers(&self) -> &BTreeMap<NodeId, PeerRecord> {
        &self.peers
    }

    /// The application's records.
    pub fn application(&self) -> &BTreeMap<Vec<u8>, Bytes> {
        &self.application
    }

    /// Batches that it has taken.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Whether reading any of it fails.
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty() || self.damaged_record.is_some()
    }

    /// All but entries and application records, unjudged, as [`LogWriter::open_chain`] would find it.
    pub fn state(&self) -> ChainState {
        ChainState {
            identity: self.identity.clone(),
            hard_state: self.shape.hard_state(),
            applied: self.applied.clone(),
            snapshot: self.snapshot.clone(),
            installing: self.installing,
            truncated: self.shape.truncated(),
            last: self.shape.last(),
            terms: self.shape.terms().to_vec(),
            high_water: self.high_water,
        }
    }

    /// Takes over a batch that the shape has passed.
    fn apply(&mut self, batch: &WriteBatch) {
        let change = self.shape.advance(batch);
        self.round += 1;
        if change.end_moved {
            self.high_water = self.shape.last();
        }
        if let Some(snapshot) = &batch.install {
            self.entries.clear();
            self.damaged.clear();
            self.applied =
                Applied { index: snapshot.position.index, conf_state: snapshot.conf_state.clone() };
            self.snapshot = Some(snapshot.clone());
            self.installing = true;
        }
        if let Some(from) = batch.truncate_from {
            self.entries.split_off(&from);
            self.damaged.split_off(&from);
        }
        self.entries.extend(batch.entries.iter().map(|entry| (entry.index, entry.clone())));
        if let Some(applied) = &batch.applied {
            self.applied = applied.clone();
        }
        if let Some(snapshot) = &batch.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if batch.installed {
            self.installing = false;
        }
        if let Some(to) = batch.compact_to {
            self.entries = self.entries.split_off(&(to.index + 1));
            self.damaged = self.damaged.split_off(&(to.index + 1));
        }
        self.peers.extend(batch.peers.iter().map(|peer| (peer.node_id, peer.clone())));
        for write in &batch.application {
            match &write.value {
                Some(value) => self.application.insert(write.key.clone(), value.clone()),
                None => self.application.remove(&write.key),
            };
        }
    }

    fn damage(&self, index: u64) -> Error {
        self.damage_of(&format!("log {index}"))
    }

    fn damage_of(&self, what: &str) -> Error {
        Error::Damaged {
            key: format!("{what} of chain {}", self.identity.chain),
            cause: "damaged on purpose".to_owned(),
        }
    }

    /// The application's records can be read.
    fn check_application(&self) -> Result<()> {
        match self.damaged_record {
            Some(DamagedRecord::Application) => Err(self.damage_of("a record of the application")),
            _ => Ok(()),
        }
    }

    fn check_records(&self) -> Result<()> {
        match self.damaged_record {
            None | Some(DamagedRecord::Application) => Ok(()),
            Some(record) => Err(self.damage_of(&format!("{record:?}"))),
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    durable: DiskImage,
    visible: DiskImage,
    /// Groups that are visible and not durable, oldest first.
    unsynced: Vec<Vec<WriteBatch>>,
    /// How many batches of each chain were ever durable, noted outside of what [`MemoryStore::roll_back`] changes.
    noted: BTreeMap<ChainId, u64>,
    fail_next_write: Option<String>,
    /// Set by the first failed write; every later one fails alike.
    failed: Option<Error>,
}

/// The store.
#[derive(Debug, Default)]
pub struct MemoryStore {
    disk: Mutex<Disk>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes all batches as one atomic group, visible and not durable, whatever their `sync` says. With
    /// [`Self::sync`] this plays a disk that takes its time.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn write_unsynced(&self, batches: &[WriteBatch]) -> Result<()> {
        self.disk().write(batches)
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// The failure of an earlier write.
    pub fn sync(&self) -> Result<()> {
        let mut disk = self.disk();
        match &disk.failed {
            Some(error) => Err(error.clone()),
            None => {
                let all = disk.unsynced.len();
                disk.settle(all);
                Ok(())
            }
        }
    }

    /// Makes the oldest `groups` unsynced groups durable, as a sync does that began before the others were
    /// written.
    pub fn sync_oldest(&self, groups: usize) {
        self.disk().settle(groups);
    }

    /// How many groups are visible and not durable.
    pub fn unsynced_len(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// The process dies or the machine loses its power: what is durable stays, with the oldest
    /// `keep_unsynced` of the unsynced groups. The store can be opened again; knobs and a failure are reset.
    pub fn crash(&self, keep_unsynced: usize) {
        let mut disk = self.disk();
        disk.settle(keep_unsynced);
        disk.reopen();
    }

    /// The next write fails with these words, and all after it until [`Self::crash`].
    pub fn fail_next_write(&self, cause: &str) {
        self.disk().fail_next_write = Some(cause.to_owned());
    }

    /// Reading this entry fails from now on, as after a flipped bit.
    pub fn damage_entry(&self, chain: ChainId, index: u64) {
        let mut disk = self.disk();
        let Disk { durable, visible, .. } = &mut *disk;
        for image in [durable, visible] {
            if let Some(image) = image.get_mut(&chain)
                && image.entries.contains_key(&index)
            {
                image.damaged.insert(index);
            }
        }
    }

    /// Reading this record fails from now on, as after a flipped bit.
    pub fn damage_record(&self, chain: ChainId, record: DamagedRecord) {
        let mut disk = self.disk();
        let Disk { durable, visible, .. } = &mut *disk;
        for image in [durable, visible] {
            if let Some(image) = image.get_mut(&chain) {
                image.damaged_record = Some(record);
            }
        }
    }

    /// Loses the newest `count` entries of the durable log while all other records stay, and crashes.
    pub fn lose_tail(&self, chain: ChainId, count: u64) {
        let mut disk = self.disk();
        if let Some(image) = disk.durable.get_mut(&chain) {
            let first = image.shape.truncated().index + 1;
            let from = (image.shape.last().index + 1).saturating_sub(count).max(first);
            image.entries.split_off(&from);
            image.damaged.split_off(&from);
            image.shape.forget_from(from);
        }
        disk.reopen();
    }

    /// What a crash that keeps nothing unsynced would leave, as a copy that [`Self::restore`] takes.
    pub fn disk_image(&self) -> DiskImage {
        self.disk().durable.clone()
    }

    /// Puts the application's records of an older image in place of the present ones, and crashes: what the
    /// application did not sync is gone, and the chain itself is sound.
    pub fn forget_application(&self, chain: ChainId, older: &DiskImage) {
        let mut disk = self.disk();
        if let (Some(image), Some(older)) = (disk.durable.get_mut(&chain), older.get(&chain)) {
            image.application.clone_from(&older.application);
        }
        disk.reopen();
    }

    /// Puts an image (an older one, an empty one, another node's) in place of the disk, and crashes.
    pub fn restore(&self, image: DiskImage) {
        let mut disk = self.disk();
        disk.durable = image;
        disk.noted.clear();
        disk.reopen();
    }

    /// Puts an older image in place of the disk, and crashes; what was noted outside of it stays, so that a chain
    /// that has lost anything is found at open.
    pub fn roll_back(&self, image: DiskImage) {
        let mut disk = self.disk();
        disk.durable = image;
        disk.reopen();
    }

    /// Shows the durable part of a chain without a copy; `None` if there is no such chain.
    pub fn durable_view<T>(&self, chain: ChainId, view: impl FnOnce(&ChainImage) -> T) -> Option<T> {
        self.disk().durable.get(&chain).map(view)
    }

    /// Shows the visible part of a chain without a copy; `None` if there is no such chain.
    pub fn visible_view<T>(&self, chain: ChainId, view: impl FnOnce(&ChainImage) -> T) -> Option<T> {
        self.disk().visible.get(&chain).map(view)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn write(&mut self, batches: &[WriteBatch]) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(cause) = self.fail_next_write.take() {
            return Err(self.fail(Error::Engine { operation: "write", cause }));
        }
        for batch in batches {
            let Some(image) = self.visible.get_mut(&batch.chain) else {
                return Err(self.fail(Error::NoChain(batch.chain)));
            };
            if let Err(error) = image.shape.check(batch) {
                return Err(self.fail(error));
            }
            image.apply(batch);
        }
        self.unsynced.push(batches.to_vec());
        Ok(())
    }

    /// What the refused group has already changed in the visible part goes with the next crash.
    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        error
    }

    fn settle(&mut self, groups: usize) {
        let groups = groups.min(self.unsynced.len());
        for batch in self.unsynced.drain(..groups).flatten() {
            let image = self.durable.get_mut(&batch.chain).expect("chains are created durably");
            image.apply(&batch);
            self.noted.insert(batch.chain, image.round);
        }
    }

    fn reopen(&mut self) {
        self.unsynced.clear();
        self.visible = self.durable.clone();
        self.fail_next_write = None;
        self.failed = None;
    }

    fn visible(&self, chain: ChainId) -> Result<&ChainImage> {
        self.visible.get(&chain).ok_or(Error::NoChain(chain))
    }
}

impl LogReader for MemoryStore {
    fn entries(&self, chain: ChainId, from: u64, to: u64, bytes_max: u64) -> Result<Vec<LogEntry>> {
        let disk = self.disk();
        let image = disk.visible(chain)?;
        if from >= to {
            return Ok(Vec::new());
        }
        image.shape.covers(from, to)?;
        let mut found: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        for (index, entry) in image.entries.range(from..to) {
            bytes += entry.data.len() as u64;
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            if image.damaged.contains(index) {
                return Err(image.damage(*index));
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn application_record(&self, chain: ChainId, key: &[u8]) -> Result<Option<Bytes>> {
        let disk = self.disk();
        let image = disk.visible(chain)?;
        image.check_application()?;
        Ok(image.application.get(key).cloned())
    }

    fn application_records(
        &self,
        chain: ChainId,
        from: &[u8],
        to: &[u8],
        count_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let disk = self.disk();
        let image = disk.visible(chain)?;
        image.check_application()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let range = image.application.range(from.to_vec()..to.to_vec());
        Ok(range.take(count_max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn peers(&self, chain: ChainId) -> Result<Vec<PeerRecord>> {
        Ok(self.disk().visible(chain)?.peers.values().cloned().collect())
    }
}

impl LogWriter for MemoryStore {
    fn write(&self, batches: &[WriteBatch]) -> Result<()> {
        let mut disk = self.disk();
        disk.write(batches)?;
        if batches.iter().any(|batch| batch.sync) {
            let all = disk.unsynced.len();
            disk.settle(all);
        }
        Ok(())
    }

    fn create_chain(&self, identity: &Identity, members: &ConfState) -> Result<()> {
        let mut disk = self.disk();
        if let Some(error) = &disk.failed {
            return Err(error.clone());
        }
        let chain = identity.chain_id();
        if disk.visible.contains_key(&chain) {
            return Err(Error::Inconsistent(format!("chain {} exists already", identity.chain)));
        }
        let all = disk.unsynced.len();
        disk.settle(all);
        let image = ChainImage::new(identity, members);
        disk.durable.insert(chain, image.clone());
        disk.visible.insert(chain, image);
        Ok(())
    }

    fn open_chain(&self, chain: ChainId) -> Result<ChainState> {
        let mut disk = self.disk();
        let noted = disk.noted.get(&chain).copied().unwrap_or(0);
        let image = disk.visible.get_mut(&chain).ok_or(Error::NoChain(chain))?;
        if image.round < noted {
            let (chain, found) = (&image.identity.chain, image.round);
            return Err(Error::Inconsistent(format!(
                "chain {chain}: batch {noted} was durable, the store ends with {found}: it has lost something"
            )));
        }
        image.check_records()?;
        if let Some(index) = image.damaged.first() {
            return Err(image.damage(*index));
        }
        let mut state = image.state();
        shape::settle(&mut state)?;
        image.shape = LogShape::of(&state);
        Ok(state)
    }

    fn chains(&self) -> Result<Vec<Identity>> {
        Ok(self.disk().visible.values().map(|image| image.identity.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::EntryKind;
    use super::*;
    use crate::ids::{Hash, StoreIncarnation};

    fn store() -> (MemoryStore, ChainId) {
        let identity = Identity {
            cluster: "test".to_owned(),
            chain: "main".to_owned(),
            chain_incarnation: 1,
            node_id: NodeId::new(1).expect("not 0"),
            store_incarnation: StoreIncarnation([7; 16]),
            genesis_hash: Hash::default(),
            created_at_ms: 0,
        };
        let store = MemoryStore::new();
        store.create_chain(&identity, &ConfState { voters: vec![1], ..ConfState::default() }).expect("new");
        (store, identity.chain_id())
    }

    fn entry(chain: ChainId, index: u64) -> WriteBatch {
        let mut batch = WriteBatch::new(chain);
        batch.hard_state = Some(HardState { term: 1, vote: None, commit: 0 });
        batch.entries.push(LogEntry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: Bytes::from_static(b"x"),
        });
        batch
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_the_unsynced_groups() {
        for keep in 0..=3 {
            let (store, chain) = store();
            for index in 1..=3 {
                store.write(&[entry(chain, index)]).expect("written");
            }
            assert_eq!(store.unsynced_len(), 3);
            store.crash(keep);
            assert_eq!(store.open_chain(chain).expect("opens").last.index, keep as u64);
        }
    }

    #[test]
    fn a_synced_write_makes_all_before_it_durable() {
        let (store, chain) = store();
        store.write(&[entry(chain, 1)]).expect("written");
        store.write(&[WriteBatch { sync: true, ..entry(chain, 2) }]).expect("written");
        store.write(&[entry(chain, 3)]).expect("written");
        assert_eq!(store.durable_view(chain, |image| image.last().index), Some(2));
        assert_eq!(store.visible_view(chain, |image| image.last().index), Some(3));
        store.crash(0);
        assert_eq!(store.open_chain(chain).expect("opens").last.index, 2);
    }

    #[test]
    fn a_failed_write_fails_all_later_ones_until_the_crash() {
        let (store, chain) = store();
        store.fail_next_write("no space");
        let first = store.write(&[entry(chain, 1)]).expect_err("the knob").to_string();
        let second = store.write(&[entry(chain, 1)]).expect_err("poisoned").to_string();
        assert_eq!(first, second);
        store.crash(9);
        store.write(&[entry(chain, 1)]).expect("after the crash");
    }

    #[test]
    fn a_lost_tail_is_found_at_open() {
        let (store, chain) = store();
        for index in 1..=3 {
            store.write(&[WriteBatch { sync: true, ..entry(chain, index) }]).expect("written");
        }
        store.lose_tail(chain, 2);
        let error = store.open_chain(chain).expect_err("two entries are gone").to_string();
        assert!(error.contains("entries were lost"), "{error}");
    }

    #[test]
    fn a_store_that_was_rolled_back_is_found_at_open() {
        let (store, chain) = store();
        let old = store.disk_image();
        store.write(&[WriteBatch { sync: true, ..entry(chain, 1) }]).expect("written");
        store.roll_back(old);
        let error = store.open_chain(chain).expect_err("a batch is gone").to_string();
        assert!(error.contains("batch 1 was durable, the store ends with 0"), "{error}");
    }

    #[test]
    fn a_damaged_record_is_found_where_it_is_read() {
        for record in [DamagedRecord::HardState, DamagedRecord::Applied, DamagedRecord::Snapshot] {
            let (store, chain) = store();
            store.damage_record(chain, record);
            store.open_chain(chain).expect_err("read at open");
        }
        let (store, chain) = store();
        store.damage_record(chain, DamagedRecord::Application);
        store.open_chain(chain).expect("the chain itself is sound");
        store.application_record(chain, b"key").expect_err("damaged");
    }

    #[test]
    fn an_older_image_can_be_restored() {
        let (store, chain) = store();
        let old = store.disk_image();
        store.write(&[WriteBatch { sync: true, ..entry(chain, 1) }]).expect("written");
        store.restore(old);
        assert_eq!(store.open_chain(chain).expect("opens").last.index, 0);
    }
}
