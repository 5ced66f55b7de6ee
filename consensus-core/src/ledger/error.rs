//! What can go wrong when the ledger reads its records or applies an entry.
//!
//! Refusals of transactions are not errors: they are answers ([`Refusal`](super::Refusal)).

use thiserror::Error;

use super::block::ProposalError;
use crate::error::Class;
use crate::storage;

/// A failure of the ledger.
#[derive(Debug, Error)]
pub enum Error {
    /// The store failed, or does not have what was asked for.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A committed entry is not a block proposal. Every node sees the same, so the chain stops.
    #[error("entry {index}: {cause}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        cause: ProposalError,
    },
    /// Entries were left out on the way to the ledger.
    #[error("entry {found} was applied, expected entry {expected}")]
    Gap {
        /// The next index.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A ledger record is wrong, missing, or contradicts another one.
    #[error("ledger record {record}: {cause}")]
    Record {
        /// The record as people read it, e.g. `block 17`.
        record: String,
        /// What is wrong.
        cause: String,
    },
}

impl Error {
    /// What the consumer may do.
    pub fn class(&self) -> Class {
        match self {
            Self::Storage(error) => error.class(),
            Self::Entry { .. } | Self::Gap { .. } | Self::Record { .. } => Class::Halt,
        }
    }

    /// Shorthand for [`Error::Record`].
    pub(super) fn record(record: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Record { record: record.into(), cause: cause.into() }
    }
}

/// Result of a ledger operation.
pub type Result<T> = std::result::Result<T, Error>;
