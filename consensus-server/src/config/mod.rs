//! What a node is told before it starts: validated, with units, defaults filled in.
//!
//! [`Config::load`] reads a TOML file ([`file`] is the text as typed, [`validate`] the meaning and the
//! bounds); [`Config::dev`] is a one-node chain that needs no file; [`cita`] is what a CITA-Cloud node says. A mistake names file, line, key, value
//! and bound, and all of them are reported at once. Nothing here touches the network or the data directory.

pub mod cita;
mod clients;
mod endpoint;
mod file;
mod memory;
mod mistake;
mod security;
mod tracing;
mod validate;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus_core::ids::{Hash, NodeId};
use consensus_core::limits::Limits;

pub use cita::CitaConfig;
pub use clients::{Client, Clients, Rate, message_bytes_max as client_message_bytes_max};
pub use memory::{CLIENT_CONNECTION_WINDOW_BYTES, CLIENT_STREAM_WINDOW_BYTES, DELIVER_AHEAD_BYTES_MAX, Part};
pub use mistake::{Mistake, Mistakes};
pub use security::{Pin, Security, Tls};
pub use tracing::Tracing;

/// Port of the client service unless the configuration says otherwise.
pub const CLIENT_PORT: u16 = 7400;
/// Port of the peer service unless the configuration says otherwise.
pub const PEER_PORT: u16 = 7401;
/// Port of the operations listener unless the configuration says otherwise.
pub const OPS_PORT: u16 = 7402;

/// A node's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub node_id: NodeId,
    /// Name of the cluster, 1..=64 characters.
    pub cluster: String,
    /// Where the chain lives on disk.
    pub data_dir: PathBuf,
    /// Threads of the async runtime, at least 2.
    pub worker_threads: usize,
    /// The chain.
    pub chain: Chain,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Who may talk to it.
    pub security: Security,
    /// Every member of the chain, this node included, ascending by id.
    pub members: Vec<Member>,
    /// Clock of the Raft protocol.
    pub raft: Raft,
    /// Block cutting.
    pub block: Block,
    /// Bounds of the replica.
    pub limits: Limits,
    /// Bounds of the queues around it.
    pub queues: Queues,
    /// What clients may use.
    pub clients: Clients,
    /// How long a submission may take before its outcome is unknown.
    pub submit_deadline: Duration,
    /// Logging.
    pub log: Log,
    /// SHA-256 of the text that all this is from.
    pub digest: Hash,
    /// Where traces go, if any are made.
    pub tracing: Option<Tracing>,
}

/// The chain that the node takes part in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its name, 1..=64 characters.
    pub name: String,
    /// Distinguishes it from earlier chains of its name.
    pub incarnation: u64,
}

/// Addresses to listen on; port 0 takes any free port (one-node chains only).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// For clients: ordering, admin, health and reflection over gRPC.
    pub client: SocketAddr,
    /// For the other nodes.
    pub peer: SocketAddr,
    /// For operations: metrics, health and status over HTTP.
    pub ops: SocketAddr,
}

/// A member of the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The node.
    pub node_id: NodeId,
    /// `host:port` at which the other nodes reach it.
    pub peer_address: String,
    /// `host:port` at which clients reach it.
    pub client_address: String,
    /// The public keys that it may present; empty: none is asked for.
    pub public_keys: Vec<Pin>,
}

/// Clock of the Raft protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raft {
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks after which a leader that hears no quorum steps down.
    pub election_ticks: usize,
    /// Shortest time without a leader before a node stands for election, in ticks.
    pub election_ticks_min: usize,
    /// Longest such time, in ticks, exclusive.
    pub election_ticks_max: usize,
}

/// When a block is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Most transactions in a block.
    pub messages_max: usize,
    /// A block is closed before the transaction that would bring it above this many bytes.
    pub preferred_bytes: u64,
    /// Largest transaction and largest block in bytes.
    pub absolute_bytes: u64,
    /// Longest wait of a transaction for its block to fill.
    pub timeout: Duration,
    /// Blocks proposed and not yet applied: a leader's proposals in flight.
    pub inflight_max: usize,
}

/// Bounds of the queues around the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queues {
    /// Bytes of messages that wait for one peer.
    pub peer_bytes_max: u64,
    /// Messages that wait for one peer.
    pub peer_messages_max: usize,
    /// Transactions that wait for a block or an acknowledgement.
    pub pool_transactions_max: usize,
    /// Their bytes.
    pub pool_bytes_max: u64,
    /// Frames in flight on one submission stream.
    pub stream_frames_max: usize,
    /// Requests in flight on one connection.
    pub connection_streams_max: u32,
}

/// Logging.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// What is logged, in the syntax of `RUST_LOG`, e.g. `info,consensus_server::transport=debug`.
    pub filter: String,
    /// How.
    pub format: LogFormat,
}

/// The shape of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// For people, coloured on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads and checks a file. A relative `data_dir` is relative to the file's directory.
    ///
    /// # Errors
    /// Every mistake in it, with lines.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let text = mistake::read(path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &name, base)
    }

    /// Checks a file's text; `name` is for messages, `base` is where a relative `data_dir` starts.
    ///
    /// # Errors
    /// Every mistake in it, with lines.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, Mistakes> {
        let typed = toml::from_str(text).map_err(|error| Mistakes {
            file: name.to_owned(),
            list: vec![mistake::of_text(text, &error)],
        })?;
        validate::validate(&typed, text, name, base)
    }

    /// A one-node chain in `data_dir` with all defaults.
    pub fn dev(data_dir: &Path, listen: Listen) -> Self {
        let text = format!(
            "[node]\nid = 1\ncluster = 'dev'\ndata_dir = '.'\n[listen]\nclient = '{}'\npeer = '{}'\nops = '{}'\n\
             [security]\ninsecure = true\n",
            listen.client, listen.peer, listen.ops
        );
        let mut config = Self::parse(&text, "dev", Path::new(""))
            .expect("the text above is a valid configuration for any address");
        config.data_dir = data_dir.to_owned();
        config
    }

    /// The same with the addresses that the system gave for ports that were 0.
    pub fn listening_on(mut self, listen: Listen) -> Self {
        let asked = std::mem::replace(&mut self.listen, listen);
        for member in self.members.iter_mut().filter(|member| member.node_id == self.node_id) {
            if asked.client.port() == 0 {
                member.client_address = listen.client.to_string();
            }
            if asked.peer.port() == 0 {
                member.peer_address = listen.peer.to_string();
            }
        }
        self
    }

    /// This node's own entry among the members.
    pub fn own(&self) -> &Member {
        self.member(self.node_id).expect("validated: this node is a member")
    }

    /// A member by id.
    pub fn member(&self, node_id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node_id == node_id)
    }

    /// The members other than this node.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.node_id != self.node_id)
    }
}
