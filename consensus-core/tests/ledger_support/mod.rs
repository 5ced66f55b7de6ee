//! A chain on an in-memory store with its ledger, as the ledger's tests drive it: an entry is written, applied,
//! and its records are written unsynced.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::sync::Arc;

use bytes::Bytes;
use consensus_core::ids::{ChainId, Hash, NodeId, StoreIncarnation};
use consensus_core::ledger::{
    AppliedEntry, HashRule, Ledger, LedgerConfig, LedgerReader, Transaction, encode_proposal, genesis_hash,
};
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{
    ApplicationWrite, ConfState, EntryKind, HardState, Identity, LogEntry, LogReader, LogWriter, WriteBatch,
};

pub struct Chain {
    pub store: Arc<MemoryStore>,
    pub id: ChainId,
    pub genesis: Hash,
    pub config: LedgerConfig,
    pub ledger: Ledger,
    pub last: u64,
}

pub fn genesis() -> Hash {
    genesis_hash("cluster", "main", 1, &[1, 2, 3], HashRule::Native)
}

pub fn window(dedup_window_transactions: usize) -> LedgerConfig {
    LedgerConfig { dedup_window_transactions, hash_seed: [3, 4], ..LedgerConfig::default() }
}

pub fn transaction(id: &str) -> Transaction {
    Transaction { id: Bytes::copy_from_slice(id.as_bytes()), payload: format!("payload of {id}").into() }
}

pub fn transactions(ids: &[&str]) -> Vec<Transaction> {
    ids.iter().map(|id| transaction(id)).collect()
}

pub fn entry(index: u64, data: Bytes) -> LogEntry {
    LogEntry { index, term: 1, kind: EntryKind::Normal, context: Bytes::new(), data }
}

impl Chain {
    pub fn new(config: LedgerConfig) -> Self {
        let genesis = genesis();
        let identity = Identity {
            cluster: "cluster".into(),
            chain: "main".into(),
            chain_incarnation: 1,
            node_id: NodeId::new(1).unwrap(),
            store_incarnation: StoreIncarnation([1; 16]),
            genesis_hash: genesis,
            created_at_ms: 0,
        };
        let id = identity.chain_id();
        let store = Arc::new(MemoryStore::new());
        store.create_chain(&identity, &ConfState { voters: vec![1, 2, 3], ..ConfState::default() }).unwrap();
        let ledger = Ledger::open(&*store, id, genesis, config).unwrap();
        Self { store, id, genesis, config, ledger, last: 0 }
    }

    pub fn reader(&self) -> LedgerReader {
        LedgerReader::new(self.store.clone(), self.id, self.genesis, HashRule::Native)
    }

    /// Appends an entry to the durable log without applying it.
    pub fn append(&mut self, entry: &LogEntry) {
        let mut batch = WriteBatch::new(self.id);
        batch.number = entry.index;
        batch.sync = true;
        batch.hard_state = Some(HardState { term: entry.term, vote: None, commit: 0 });
        batch.entries.push(entry.clone());
        self.store.write(&[batch]).unwrap();
        self.last = entry.index;
    }

    /// Appends and applies an entry, and writes what came of it.
    pub fn entry(&mut self, entry: &LogEntry) -> AppliedEntry {
        self.append(entry);
        let applied = self.ledger.apply(entry).unwrap();
        self.write(applied.writes.clone());
        applied
    }

    pub fn write(&self, application: Vec<ApplicationWrite>) {
        let mut batch = WriteBatch::new(self.id);
        batch.application = application;
        self.store.write(&[batch]).unwrap();
    }

    /// Appends and applies a block of these transactions.
    pub fn block(&mut self, timestamp_ms: u64, ids: &[&str]) -> AppliedEntry {
        let data = encode_proposal(timestamp_ms, &transactions(ids));
        self.entry(&entry(self.last + 1, data))
    }

    pub fn try_open(&self) -> Result<Ledger, consensus_core::ledger::Error> {
        Ledger::open(&*self.store, self.id, self.genesis, self.config)
    }

    /// Opens the ledger again from what the store has.
    pub fn reopen(&mut self) {
        self.ledger = self.try_open().unwrap();
    }

    /// Overwrites or removes one of the ledger's records.
    pub fn tamper(&self, key: &[u8], value: Option<Vec<u8>>) {
        self.write(vec![ApplicationWrite { key: key.to_vec(), value: value.map(Bytes::from) }]);
    }

    /// Exchanges the payload of an entry that is in the log already.
    pub fn forge(&mut self, index: u64, data: Bytes) {
        let mut entries = self.store.entries(self.id, index, self.last + 1, u64::MAX).unwrap();
        entries[0].data = data;
        let mut batch = WriteBatch::new(self.id);
        batch.number = self.last + 1;
        batch.sync = true;
        batch.truncate_from = Some(index);
        batch.entries = entries;
        self.store.write(&[batch]).unwrap();
    }
}
