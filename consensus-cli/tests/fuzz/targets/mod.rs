//! The body of the fuzz target: damage to a data directory, and what the commands say of it. Called by the test
//! beside it and by the binary in `consensus-cli/fuzz`. Panics when what it claims does not hold.

#![allow(clippy::unwrap_used)]

mod damage;
#[allow(dead_code, reason = "the targets of the core use all of it")]
#[path = "../../../../consensus-core/tests/fuzz/targets/draws.rs"]
mod draws;
mod run;
mod stores;

use std::path::PathBuf;

use draws::Draws;
use run::Commands;
use stores::Store;

/// Directories as nodes leave them, and what is said of them before anything happens to them.
pub(crate) struct Target {
    stores: [Store; 3],
    commands: Commands,
}

impl Target {
    /// With the program `cli`.
    pub(crate) fn new(cli: PathBuf) -> Self {
        let stores = Store::all();
        let commands = Commands::new(cli, &stores);
        Self { stores, commands }
    }

    /// Damages a copy of one of the directories; the exit codes of the commands.
    pub(crate) fn run(&self, bytes: &[u8]) -> Vec<i32> {
        let mut draws = Draws::new(bytes);
        let store = &self.stores[draws.below(self.stores.len())];
        let top = store.copy();
        let damage = damage::damage(&mut draws, &top.path().join("data"));
        self.commands.judge(&mut draws, store, top.path(), &damage)
    }
}
