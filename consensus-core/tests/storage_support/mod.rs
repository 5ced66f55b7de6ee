//! What the tests of the store on disk share.
#![allow(dead_code)]

use std::fs;
use std::path::Path;

use consensus_core::ids::ChainId;
use consensus_core::storage::conformance::{append, applied, identity, members};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{LogWriter, WriteBatch};
use rocksdb::{DB, Options};

pub(crate) fn open(path: &Path) -> RocksStore {
    try_open(path).expect("the directory opens")
}

pub(crate) fn try_open(path: &Path) -> consensus_core::storage::Result<RocksStore> {
    RocksStore::open(path, &RocksOptions::default())
}

pub(crate) fn chain() -> ChainId {
    identity("main").chain_id()
}

/// A directory with a chain of `last` entries in terms 1 and 2, committed and applied up to the half.
pub(crate) fn fill(path: &Path, last: u64) {
    let store = open(path);
    fill_store(&store, last);
}

pub(crate) fn fill_store(store: &RocksStore, last: u64) {
    store.create_chain(&identity("main"), &members()).expect("a new chain");
    let half = last / 2;
    let write = |batch: WriteBatch| store.write(&[batch]).expect("a good batch");
    write(append(chain(), 1, half, 1));
    write(append(chain(), half + 1, last, 2));
    write(applied(chain(), half, 2));
}

/// Changes the records of a closed directory behind the store's back.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&DB)) {
    let families = ["default", "log", "meta", "ledger"];
    let db = DB::open_cf(&Options::default(), path.join("db"), families).expect("the database opens");
    change(&db);
}

/// Flips one bit in a stored value.
pub(crate) fn flip(path: &Path, family: &str, key: &[u8], byte: usize) {
    edit(path, |db| {
        let family = db.cf_handle(family).expect("a family");
        let mut value = db.get_cf(family, key).expect("readable").expect("a value");
        let byte = byte % value.len();
        value[byte] ^= 0x10;
        db.put_cf(family, key, value).expect("written");
    });
}

/// Copies a directory as a killed process leaves it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        let target = to.join(file.file_name());
        if file.file_type().expect("a type").is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}
