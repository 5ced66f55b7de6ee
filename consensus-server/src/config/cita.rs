//! What a CITA-Cloud node tells its consensus service: the section `[consensus_raft]` of the node's one file.
//!
//! The file is shared with the node's other services: their sections are left alone, and a key that nobody
//! knows is a warning. Every key of the predecessor is honoured, with its default unless the table below says
//! otherwise; paths are relative to the working directory. Nothing here touches the network or the state.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `tick_interval_in_millis` | 100 | predecessor: read and ignored, 200 in force |
//! | `heartbeat_tick` | 4 | predecessor: 15 |
//! | `election_tick` | 10 | predecessor: 50; a node stands for election after a silence of `election_tick + 1 ..= 2 * election_tick` ticks |
//! | `check_quorum` | true | always true: an isolated leader steps down |
//! | `block_bytes_max` | 67108864 | new: largest proposal in bytes |
//! | `snapshot_every_entries` | 256 | new: entries between two snapshots of the log |
//! | `admin_addr` | none | new: `ip:port` of the admin service |
//! | `[consensus_raft.peers]` | none | new: address in hex -> `"host:port"`; direct streams instead of the network service |
//! | `[consensus_raft.tracing]` | none | new: `endpoint`, `ratio` and `service_name` of traces |
//! | `[system_config] chain_id` | none | read only, in hex: guards against messages of another chain |

pub mod address;
mod section;
mod validate;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus_core::ids::{Hash, NodeId};

use super::{Mistakes, Raft, Tracing, mistake};

/// Port of the service unless the configuration says otherwise.
pub const GRPC_PORT: u16 = 50001;
/// Port of the network service unless the configuration says otherwise.
pub const NETWORK_PORT: u16 = 50000;
/// Port of the controller unless the configuration says otherwise.
pub const CONTROLLER_PORT: u16 = 50004;
/// Port of the metrics unless the configuration says otherwise.
pub const METRICS_PORT: u16 = 60001;
/// A configured failover above this is worth a warning.
pub const FAILOVER_WARN: Duration = Duration::from_secs(3);

/// The configuration of the drop-in.
#[derive(Clone, PartialEq, Debug)]
pub struct CitaConfig {
    /// This validator's address, as the file that `node_addr` names has it.
    pub own_address: Vec<u8>,
    /// The first 8 bytes of the address, big-endian: also its origin in the network service.
    pub node_id: NodeId,
    /// Id of the chain, if `[system_config]` is in the file.
    pub chain: Option<Vec<u8>>,
    /// Port of the gRPC services, on all interfaces; 0 takes a free one.
    pub grpc_port: u16,
    /// Port of the network service on this host.
    pub network_port: u16,
    /// Port of the controller on this host.
    pub controller_port: u16,
    /// Where the admin service listens, if it does.
    pub admin: Option<SocketAddr>,
    /// Where the consensus state lives, relative to the working directory.
    pub data_dir: PathBuf,
    /// Clock of the Raft protocol.
    pub raft: Raft,
    /// Largest proposal in bytes.
    pub block_bytes_max: u64,
    /// Entries between two snapshots of the log.
    pub snapshot_every_entries: u64,
    /// The other consensus services, if they are to be reached directly.
    pub peers: Option<Vec<DirectPeer>>,
    /// Logging.
    pub log: CitaLog,
    /// Metrics.
    pub metrics: CitaMetrics,
    /// Where traces go, if any are made.
    pub tracing: Option<Tracing>,
    /// What is odd and yet accepted, a line each, to be logged once logging is set up.
    pub warnings: Vec<String>,
    /// SHA-256 of the text that all this is from.
    pub digest: Hash,
}

/// What the controller says about the chain while it runs, in force from the height after the one named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reconfigured {
    /// The controller's height.
    pub height: u64,
    /// Time between two blocks; 0 is as fast as possible.
    pub block_interval: Duration,
    /// The validators' addresses, in the controller's order, as they came: [`address::peer_ids`] judges them.
    pub validators: Vec<Vec<u8>>,
}

/// Another validator's consensus service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectPeer {
    /// The validator.
    pub address: Vec<u8>,
    /// Its id, from the address.
    pub node_id: NodeId,
    /// `host:port` of its gRPC services.
    pub at: String,
}

/// Where log lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CitaLog {
    /// What is logged, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// To standard output instead of files.
    pub to_stdout: bool,
    /// Directory of the files, relative to the working directory.
    pub dir: PathBuf,
    /// Name of the file that is written; older ones have `.1`, `.2`, ... appended.
    pub file_name: String,
    /// A file is closed before the line that would bring it above this many bytes.
    pub rotate_bytes: u64,
    /// Closed files that are kept.
    pub rotate_keep: usize,
    /// Whether closed files are compressed (gzip).
    pub rotate_compress: bool,
}

/// Metrics over HTTP.
#[derive(Clone, PartialEq, Debug)]
pub struct CitaMetrics {
    /// Port on all interfaces, 0 takes a free one; `None` if metrics are switched off.
    pub port: Option<u16>,
    /// Upper bounds in milliseconds of the calls' histograms, ascending.
    pub buckets_ms: Vec<f64>,
}

impl CitaConfig {
    /// Reads and checks a file, and the file with the address that it names.
    ///
    /// # Errors
    /// Every mistake in it, with lines.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let text = mistake::read(path)?;
        Self::parse(&text, &name, Path::new(""))
    }

    /// Checks a file's text; `name` is for messages, `base` is where a relative `node_addr` starts.
    ///
    /// # Errors
    /// Every mistake in it, with lines.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, Mistakes> {
        validate::validate(text, name, base)
    }

    /// Shortest and longest time after which the loss of a leader is noticed.
    pub fn failover(&self) -> (Duration, Duration) {
        let ticks = |count: usize| self.raft.tick * count as u32;
        (ticks(self.raft.election_ticks_min), ticks(self.raft.election_ticks_max))
    }
}
