//! The stores of this crate do what every store must do.

use consensus_core::storage::conformance::{Subject, claims};
use consensus_core::storage::memory::MemoryStore;

struct Memory {
    store: MemoryStore,
}

impl Subject for Memory {
    type Store = MemoryStore;

    fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn reopen(&mut self) {
        self.store.crash(usize::MAX);
    }
}

#[test]
fn the_store_in_memory_holds_every_claim() {
    for (name, claim) in claims::<Memory>() {
        eprintln!("{name}");
        claim(&mut Memory { store: MemoryStore::new() });
    }
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use consensus_core::storage::rocks::{RocksOptions, RocksStore};
    use tempfile::TempDir;

    use super::*;

    struct Rocks {
        directory: TempDir,
        store: Option<RocksStore>,
    }

    impl Rocks {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut rocks = Self { directory, store: None };
            rocks.reopen();
            rocks
        }
    }

    impl Subject for Rocks {
        type Store = RocksStore;

        fn store(&self) -> &RocksStore {
            self.store.as_ref().expect("open between reopens")
        }

        fn reopen(&mut self) {
            self.store = None;
            let store = RocksStore::open(self.directory.path(), &RocksOptions::default());
            self.store = Some(store.expect("the directory opens"));
        }
    }

    #[test]
    fn the_store_on_disk_holds_every_claim() {
        for (name, claim) in claims::<Rocks>() {
            eprintln!("{name}");
            claim(&mut Rocks::new());
        }
    }
}
