//! The configuration file as people type it: every section and key, nothing interpreted.
//!
//! Each value keeps its place in the text, so that a mistake can be reported with its line. Unknown keys
//! are mistakes. What the values mean, their bounds and their defaults are in [`super::validate`].

use serde::Deserialize;
use toml::Spanned;

use super::security::PinsTyped;

/// A value that may be left out.
pub(crate) type Typed<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) node: Node,
    pub(crate) chain: Chain,
    pub(crate) listen: Listen,
    pub(crate) security: Security,
    pub(crate) peers: Vec<Spanned<Peer>>,
    pub(crate) raft: Raft,
    pub(crate) block: Block,
    pub(crate) limits: Limits,
    pub(crate) submit: Submit,
    pub(crate) log: Log,
    pub(crate) tracing: Tracing,
}

/// `[node]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    pub(crate) id: Typed<u64>,
    pub(crate) cluster: Typed<String>,
    pub(crate) data_dir: Typed<String>,
    pub(crate) worker_threads: Typed<u64>,
}

/// `[chain]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Chain {
    pub(crate) name: Typed<String>,
    pub(crate) incarnation: Typed<u64>,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    pub(crate) client: Typed<String>,
    pub(crate) peer: Typed<String>,
    pub(crate) ops: Typed<String>,
}

/// `[security]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Security {
    pub(crate) insecure: Typed<bool>,
    pub(crate) certificate: Typed<String>,
    pub(crate) key: Typed<String>,
    pub(crate) ca: Typed<String>,
    pub(crate) ops_plaintext: Typed<bool>,
    pub(crate) accept_expired: Typed<bool>,
}

/// One of `[[peers]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) id: Spanned<u64>,
    pub(crate) peer: Spanned<String>,
    pub(crate) client: Spanned<String>,
    #[serde(default)]
    pub(crate) public_key: Typed<PinsTyped>,
    #[serde(default)]
    pub(crate) certificate: Typed<String>,
}

/// `[raft]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raft {
    pub(crate) tick_ms: Typed<u64>,
    pub(crate) heartbeat_ticks: Typed<u64>,
    pub(crate) election_ticks: Typed<u64>,
    pub(crate) election_ticks_min: Typed<u64>,
    pub(crate) election_ticks_max: Typed<u64>,
}

/// `[block]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Block {
    pub(crate) messages_max: Typed<u64>,
    pub(crate) preferred_bytes: Typed<u64>,
    pub(crate) absolute_bytes: Typed<u64>,
    pub(crate) timeout_ms: Typed<u64>,
    pub(crate) inflight_max: Typed<u64>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) entry_bytes_max: Typed<u64>,
    pub(crate) append_bytes_max: Typed<u64>,
    pub(crate) inflight_appends_max: Typed<u64>,
    pub(crate) uncommitted_bytes_max: Typed<u64>,
    pub(crate) apply_bytes_max: Typed<u64>,
    pub(crate) apply_backlog_bytes_max: Typed<u64>,
    pub(crate) unpersisted_rounds_max: Typed<u64>,
    pub(crate) unpersisted_bytes_max: Typed<u64>,
    pub(crate) tail_bytes_max: Typed<u64>,
    pub(crate) pending_reads_max: Typed<u64>,
    pub(crate) peer_queue_bytes_max: Typed<u64>,
    pub(crate) peer_queue_messages_max: Typed<u64>,
    pub(crate) pool_transactions_max: Typed<u64>,
    pub(crate) pool_bytes_max: Typed<u64>,
    pub(crate) stream_frames_max: Typed<u64>,
    pub(crate) connection_streams_max: Typed<u64>,
    pub(crate) client_connections_max: Typed<u64>,
    pub(crate) client_receive_bytes_max: Typed<u64>,
    pub(crate) deliver_streams_max: Typed<u64>,
    pub(crate) deliver_stall_ms: Typed<u64>,
    pub(crate) client: Client,
}

/// `[limits.client]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Client {
    pub(crate) transactions_per_s: Typed<u64>,
    pub(crate) transactions_burst: Typed<u64>,
    pub(crate) transactions_inflight_max: Typed<u64>,
    pub(crate) bytes_inflight_max: Typed<u64>,
    pub(crate) submit_streams_max: Typed<u64>,
    pub(crate) deliver_streams_max: Typed<u64>,
    pub(crate) calls_inflight_max: Typed<u64>,
    pub(crate) connections_max: Typed<u64>,
}

/// `[submit]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Submit {
    pub(crate) deadline_ms: Typed<u64>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) filter: Typed<String>,
    pub(crate) format: Typed<String>,
}

/// `[tracing]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tracing {
    pub(crate) endpoint: Typed<String>,
    pub(crate) ca: Typed<String>,
    pub(crate) ratio: Typed<f64>,
    pub(crate) service_name: Typed<String>,
}
