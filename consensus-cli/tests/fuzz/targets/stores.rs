//! Small data directories as nodes leave them: killed, stopped, and a CITA-Cloud node's.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::ledger::{self, HashRule, Ledger, LedgerConfig, Transaction, encode_proposal};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{
    self, Applied, ConfState, EntryKind, HardState, Identity, LogEntry, LogWriter, PeerRecord, Position,
    Snapshot, WriteBatch,
};
use consensus_proto::cita::exchange as wire;
use prost::Message as _;
use tempfile::TempDir;

const BLOCKS: u64 = 20;

/// A data directory, `data` below `top`.
pub(crate) struct Store {
    pub(crate) name: &'static str,
    top: TempDir,
}

impl Store {
    pub(crate) fn all() -> [Self; 3] {
        let top = || TempDir::new().unwrap();
        let killed = Self { name: "killed", top: top() };
        chain_of_blocks(&killed.data());
        let stopped = Self { name: "stopped", top: top() };
        chain_of_blocks(&stopped.data());
        // Opening again moves what was in the write-ahead log into data files.
        for _ in 0..2 {
            drop(RocksStore::open(&stopped.data(), &RocksOptions::default()).unwrap());
        }
        let cita = Self { name: "cita", top: top() };
        chain_of_agreements(&cita.data().join("store"));
        [killed, stopped, cita]
    }

    fn data(&self) -> std::path::PathBuf {
        self.top.path().join("data")
    }

    pub(crate) fn path(&self) -> &Path {
        self.top.path()
    }

    /// A directory of its own, to be damaged.
    pub(crate) fn copy(&self) -> TempDir {
        let top = TempDir::new().unwrap();
        copy(&self.data(), &top.path().join("data"));
        top
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to)
        } else {
            drop(fs::copy(file.path(), to))
        }
    }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn identity(chain: &str) -> Identity {
    Identity {
        cluster: if chain == "cita" { "cita-cloud" } else { "fuzz" }.to_owned(),
        chain: chain.to_owned(),
        chain_incarnation: 1,
        node_id: node(1),
        store_incarnation: StoreIncarnation([1; 16]),
        genesis_hash: ledger::genesis_hash("fuzz", chain, 1, &[1, 2], HashRule::Native),
        created_at_ms: 1_700_000_000_000,
    }
}

fn entry(index: u64, data: Bytes) -> LogEntry {
    LogEntry { index, term: 1, kind: EntryKind::Normal, context: Bytes::new(), data }
}

fn peer() -> PeerRecord {
    PeerRecord {
        node_id: node(2),
        address: "10.0.0.2:7401".to_owned(),
        store_incarnation: Some(StoreIncarnation([2; 16])),
        last_heard_ms: 1_700_000_003_000,
        matched: 5,
        next: 6,
        progress: "replicate".to_owned(),
        connected: true,
        recorded_at_ms: 1_700_000_004_000,
    }
}

/// The built-in ledger's.
fn chain_of_blocks(directory: &Path) {
    let (identity, members) = (identity("main"), ConfState { voters: vec![1, 2], ..ConfState::default() });
    let store = RocksStore::open(directory, &RocksOptions::default()).unwrap();
    store.create_chain(&identity, &members).unwrap();
    let chain = identity.chain_id();
    store.open_chain(chain).unwrap();
    let transaction = |number: u64| Transaction {
        id: format!("tx-{number}").into(),
        payload: vec![number as u8; 10 + 40 * number as usize].into(),
    };
    let entries: Vec<LogEntry> = (1..=BLOCKS)
        .map(|index| entry(index, encode_proposal(1_700_000_000_000 + index, &[transaction(index)])))
        .collect();
    for entries in entries.chunks(5) {
        let mut batch = WriteBatch::new(chain);
        batch.number = entries[0].index;
        batch.sync = true;
        batch.hard_state = Some(HardState { term: 1, vote: Some(node(2)), commit: entries[0].index });
        batch.entries = entries.to_vec();
        store.write(&[batch]).unwrap();
    }
    let mut ledger = Ledger::open(&store, chain, identity.genesis_hash, LedgerConfig::default()).unwrap();
    let mut batch = WriteBatch::new(chain);
    for entry in &entries[..BLOCKS as usize - 4] {
        batch.application.extend(ledger.apply(entry).unwrap().writes);
    }
    batch.applied = Some(Applied { index: BLOCKS - 4, conf_state: members });
    batch.peers = vec![peer()];
    store.write(&[batch]).unwrap();
}

/// A CITA-Cloud node's.
fn chain_of_agreements(directory: &Path) {
    let identity = identity("cita");
    let members = ConfState { voters: vec![1, 2], ..ConfState::default() };
    fs::create_dir_all(directory.parent().unwrap()).unwrap();
    let store = RocksStore::open(directory, &RocksOptions::default()).unwrap();
    let block = |height| wire::Block { height, data: vec![height as u8; 300].into(), proposer: 2 };
    let agreed = wire::Agreed { index: 1, block: Some(block(6)), void: false };
    let roster = vec![wire::Seat { node_id: 1, incarnation: vec![1; 16].into() }];
    let state = wire::State { agreed: Some(agreed), roster };
    let position = Position { index: 1, term: 1 };
    let snapshot = Snapshot { position, conf_state: members.clone(), data: state.encode_to_vec().into() };
    storage::found(&store, &identity, snapshot).unwrap();
    let chain = identity.chain_id();
    store.open_chain(chain).unwrap();
    let agreed = |height| wire::Entry { entry: Some(wire::entry::Entry::Block(block(height))) };
    let mut batch = WriteBatch::new(chain);
    batch.number = 2;
    batch.sync = true;
    batch.entries = (2..9).map(|index| entry(index, agreed(index + 5).encode_to_vec().into())).collect();
    batch.hard_state = Some(HardState { term: 1, vote: Some(node(2)), commit: 8 });
    batch.applied = Some(Applied { index: 8, conf_state: members });
    batch.peers = vec![peer()];
    store.write(&[batch]).unwrap();
}
