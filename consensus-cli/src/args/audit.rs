//! The arguments of `audit`, as typed. What it reads is `crate::commands::audit`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Data directory of a node; never written to, and the node may be running
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Show only the newest records, so many
    #[arg(long, value_name = "COUNT")]
    pub(crate) last: Option<u64>,
    /// JSON with stable field names, one record per line
    #[arg(long)]
    pub(crate) json: bool,
}
