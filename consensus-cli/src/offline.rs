//! Opening a data directory for reading, and what the offline commands have in common.
//!
//! The directory is never written to, and nothing in it is trusted: a record that is missing or damaged is a
//! problem to show, not an end of the command.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use consensus_core::ids::ChainId;
use consensus_core::ledger::{HashRule, LedgerReader};
use consensus_core::storage::Error;
use consensus_core::storage::inspect::{self, ChainInspection, Field};
use consensus_core::storage::rocks::{RocksReader, RocksStore};
use serde::Serialize;

use crate::cita;
use crate::output::json;
use crate::output::text::NodeName;

/// Where a CITA-Cloud node's data directory has its store.
const CITA_STORE: &str = "store";

/// A data directory, open for reading.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) directory: PathBuf,
    pub(crate) reader: Arc<RocksReader>,
    /// The chains asked for.
    pub(crate) chains: Vec<ChainInspection>,
}

/// A record that cannot be shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) record: String,
    pub(crate) cause: String,
}

impl Store {
    /// Opens a directory, and looks at the chain of that name, or at all.
    ///
    /// # Errors
    /// If it is no data directory, cannot be read, or has no such chain.
    pub(crate) fn open(directory: &Path, chain: Option<&str>) -> anyhow::Result<Self> {
        let (directory, reader) = open(directory)?;
        let ids = inspect::chains(&reader).context("reading the list of chains")?;
        let chains: Vec<ChainInspection> =
            ids.into_iter().map(|id| inspect::chain(&reader, id)).collect::<Result<_, _>>()?;
        let all: Vec<String> = chains.iter().map(name).collect();
        let wanted = |inspection: &ChainInspection| chain.is_none_or(|wanted| name(inspection) == wanted);
        let chains: Vec<ChainInspection> = chains.into_iter().filter(wanted).collect();
        if let (Some(chain), true) = (chain, chains.is_empty()) {
            return Err(anyhow!("no chain {chain} in {}, it has: {}", directory.display(), all.join(", ")));
        }
        Ok(Self { directory, reader: Arc::new(reader), chains })
    }

    /// The only chain there is, or was asked for.
    ///
    /// # Errors
    /// If there is none, or there are several.
    pub(crate) fn single(&self) -> anyhow::Result<&ChainInspection> {
        match self.chains.as_slice() {
            [chain] => Ok(chain),
            [] => Err(anyhow!("{} has no chain", self.directory.display())),
            several => {
                let names: Vec<String> = several.iter().map(name).collect();
                Err(anyhow!(
                    "{} has several chains, choose one by --chain: {}",
                    self.directory.display(),
                    names.join(", ")
                ))
            }
        }
    }

    /// The ledger of a chain; `None` if it has none, or it is not known whose chain it is.
    pub(crate) fn ledger(&self, chain: &ChainInspection) -> Option<LedgerReader> {
        if cita::is_cita(chain) {
            return None;
        }
        let genesis = chain.identity.present()?.genesis_hash;
        Some(LedgerReader::new(self.reader.clone(), chain.chain, genesis, HashRule::default()))
    }

    /// The directory as people typed it.
    pub(crate) fn shown(&self) -> String {
        self.directory.display().to_string()
    }
}

/// Opens the directory, or the store in it: a CITA-Cloud node's data directory has its store there.
fn open(directory: &Path) -> anyhow::Result<(PathBuf, RocksReader)> {
    let refusal = match RocksStore::open_read_only(directory) {
        Ok(reader) => return Ok((directory.to_owned(), reader)),
        Err(error) => error,
    };
    let inner = directory.join(CITA_STORE);
    if !matches!(refusal, Error::NotADataDirectory { .. }) || !inner.is_dir() {
        return Err(refusal.into());
    }
    match RocksStore::open_read_only(&inner) {
        Ok(reader) => {
            eprintln!("reading {}", inner.display());
            Ok((inner, reader))
        }
        Err(Error::NotADataDirectory { .. }) => Err(refusal.into()),
        Err(error) => Err(error.into()),
    }
}

/// A chain's name, or its id if the name cannot be read.
pub(crate) fn name(chain: &ChainInspection) -> String {
    chain.name().map_or_else(|| chain_id(chain.chain), str::to_owned)
}

fn chain_id(chain: ChainId) -> String {
    chain.to_string()
}

/// One heading for people: whose chain this is.
pub(crate) fn heading(chain: &ChainInspection) -> String {
    match chain.identity.present() {
        Some(identity) => {
            let node = NodeName::new(identity.node_id.get(), cita::is_cita(chain));
            format!("chain {} of cluster {}, node {node}", identity.chain, identity.cluster)
        }
        None => format!("chain {}", chain.chain),
    }
}

/// The identity for programs.
pub(crate) fn identity(chain: &ChainInspection) -> Option<json::Identity> {
    chain.identity.present().map(json::Identity::from)
}

/// Whether an error tells of damage in the directory, rather than that it cannot be read by us.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::Inconsistent(_))
}

/// Collects what is missing or damaged among the records of a chain.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// What is wrong with a record.
    pub(crate) fn add(&mut self, record: &str, cause: String) {
        self.0.push(Problem { record: record.to_owned(), cause });
    }

    /// A record that must be there.
    pub(crate) fn require<T>(&mut self, record: &str, field: &Field<T>) {
        if matches!(field, Field::Missing) {
            self.0.push(Problem { record: record.to_owned(), cause: "it is missing".to_owned() });
        }
        self.allow(record, field);
    }

    /// A record that need not be there.
    pub(crate) fn allow<T>(&mut self, record: &str, field: &Field<T>) {
        if let Field::Damaged(cause) = field {
            self.0.push(Problem { record: record.to_owned(), cause: cause.clone() });
        }
    }

    /// Prints them for people.
    pub(crate) fn print(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        for Problem { record, cause } in &self.0 {
            writeln!(out, "  PROBLEM {record}: {cause}")?;
        }
        Ok(())
    }
}
