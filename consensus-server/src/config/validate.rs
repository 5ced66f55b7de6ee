//! From the text as typed to a [`Config`]: defaults, units, bounds, and values that contradict each other.
//!
//! All mistakes are gathered, so that a person corrects a file once. A bound between two keys is reported
//! at the key that is in the file; defaults agree with each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::ledger::CutterConfig;
use consensus_core::limits::Limits;
use toml::Spanned;

use super::endpoint::is_host_and_port;
use super::file::{self, File, Typed};
use super::mistake::{Lines, Mistake, Mistakes};
use super::{
    Block, CLIENT_PORT, Chain, Config, Listen, Log, LogFormat, Member, OPS_PORT, PEER_PORT, Queues, Raft,
    Tracing, tracing,
};

/// Longest name of a cluster or chain.
const NAME_CHARACTERS_MAX: usize = 64;
/// Our own doings; of the raft crate, which tells each step of an election, only what is amiss.
const DEFAULT_FILTER: &str = "info,raft=warn";
/// Most members of a chain.
const MEMBERS_MAX: usize = 64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Gives the file its meaning.
pub(super) fn validate(typed: &File, text: &str, name: &str, base: &Path) -> Result<Config, Mistakes> {
    let mut check = Check { lines: Lines::of(text), mistakes: Vec::new() };
    let node_id = check.node_id(typed);
    let cluster = check.name("node.cluster", &typed.node.cluster, None);
    let data_dir = match &typed.node.data_dir {
        Some(dir) if dir.as_ref().is_empty() => {
            check.mistake("node.data_dir", dir, "is empty, must be a path".to_owned());
            base.to_owned()
        }
        Some(dir) => base.join(dir.as_ref()),
        None => base.join("data"),
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2) as u64;
    let worker_threads =
        check.number("node.worker_threads", &typed.node.worker_threads, cores, 2..=1024) as usize;
    let chain = Chain {
        name: check.name("chain.name", &typed.chain.name, Some("main")),
        incarnation: check.number("chain.incarnation", &typed.chain.incarnation, 1, 1..=u64::MAX),
    };
    let listen = check.listen(&typed.listen);
    let security = check.security(&typed.security, &typed.listen, listen.ops, base);
    let members = check.members(typed, node_id, listen, base);
    if security.tls.is_some() {
        check.pinned(&typed.peers);
    }
    let raft = check.raft(&typed.raft);
    let mut limits = check.limits(&typed.limits);
    let block = check.block(&typed.block, &typed.limits, &limits);
    limits.inflight_proposals_max = block.inflight_max;
    let queues = check.queues(&typed.limits, &limits, &block);
    let message = super::clients::message_bytes_max(&limits);
    let clients = check.clients(&typed.limits, message, &block, &queues);
    let deadline = check.number("submit.deadline_ms", &typed.submit.deadline_ms, 10_000, 10..=600_000);
    let log = check.log(&typed.log);
    let tracing = check.tracing(&typed.tracing, base);

    let mut list = check.mistakes;
    let Some(node_id) = node_id else { return Err(finish(name, list)) };
    if !list.is_empty() {
        list.dedup();
        return Err(finish(name, list));
    }
    Ok(Config {
        node_id,
        cluster,
        data_dir,
        worker_threads,
        chain,
        listen,
        security,
        members,
        raft,
        block,
        limits,
        queues,
        clients,
        submit_deadline: Duration::from_millis(deadline),
        log,
        digest: consensus_core::audit::digest(text.as_bytes()),
        tracing,
    })
}

/// Orders the mistakes by line.
fn finish(name: &str, mut list: Vec<Mistake>) -> Mistakes {
    list.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    Mistakes { file: name.to_owned(), list }
}

/// Gathers mistakes.
pub(super) struct Check {
    lines: Lines,
    mistakes: Vec<Mistake>,
}

impl Check {
    /// A mistake at a value that is in the file.
    pub(super) fn mistake<T>(&mut self, key: &str, at: &Spanned<T>, what: String) {
        let line = Some(self.lines.at(at.span().start));
        self.mistakes.push(Mistake { line, key: key.to_owned(), what });
    }

    /// A mistake at a value that may be left out.
    pub(super) fn mistake_at<T>(&mut self, key: &str, at: &Typed<T>, what: String) {
        match at {
            Some(at) => self.mistake(key, at, what),
            None => self.mistakes.push(Mistake { line: None, key: key.to_owned(), what }),
        }
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        value: &Typed<u64>,
        default: u64,
        bound: RangeInclusive<u64>,
    ) -> u64 {
        let Some(typed) = value else { return default };
        let number = *typed.as_ref();
        if bound.contains(&number) {
            return number;
        }
        let (low, high) = bound.into_inner();
        let bound =
            if high == u64::MAX { format!("at least {low}") } else { format!("between {low} and {high}") };
        self.mistake(key, typed, format!("is {number}, must be {bound}"));
        default
    }

    fn node_id(&mut self, typed: &File) -> Option<NodeId> {
        let Some(id) = &typed.node.id else {
            self.mistake_at("node.id", &typed.node.id, "is missing, must be a number from 1 on".to_owned());
            return None;
        };
        let node_id = NodeId::new(*id.as_ref());
        if node_id.is_none() {
            self.mistake("node.id", id, "is 0, must be at least 1".to_owned());
        }
        node_id
    }

    fn name(&mut self, key: &str, value: &Typed<String>, default: Option<&str>) -> String {
        let Some(typed) = value else {
            if default.is_none() {
                let what = format!("is missing, must be a name of 1 to {NAME_CHARACTERS_MAX} characters");
                self.mistake_at(key, value, what);
            }
            return default.unwrap_or_default().to_owned();
        };
        let name = typed.as_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
            let what = format!(
                "is {name:?}, must be 1 to {NAME_CHARACTERS_MAX} characters out of letters, digits, '.', '_' and '-'"
            );
            self.mistake(key, typed, what);
        }
        name.clone()
    }

    fn listen(&mut self, typed: &file::Listen) -> Listen {
        let listen = Listen {
            client: self.socket("listen.client", &typed.client, CLIENT_PORT),
            peer: self.socket("listen.peer", &typed.peer, PEER_PORT),
            ops: self.socket("listen.ops", &typed.ops, OPS_PORT),
        };
        let keys = [
            ("listen.client", listen.client, &typed.client),
            ("listen.peer", listen.peer, &typed.peer),
            ("listen.ops", listen.ops, &typed.ops),
        ];
        for (later, (key, address, at)) in keys.iter().enumerate() {
            for (other_key, other, other_at) in &keys[..later] {
                if clash(*address, *other) {
                    let (key, at, other_key) =
                        if at.is_some() { (key, at, other_key) } else { (other_key, other_at, key) };
                    self.mistake_at(key, at, format!("is {address}, which {other_key} uses too ({other})"));
                }
            }
        }
        listen
    }

    fn socket(&mut self, key: &str, value: &Typed<String>, port: u16) -> SocketAddr {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        let Some(typed) = value else { return default };
        match typed.as_ref().parse() {
            Ok(address) => address,
            Err(_) => {
                let what =
                    format!("is {:?}, must be an IP address and a port like {default}", typed.as_ref());
                self.mistake(key, typed, what);
                default
            }
        }
    }

    /// Everybody; without `[[peers]]` this node alone.
    fn members(&mut self, typed: &File, own: Option<NodeId>, listen: Listen, base: &Path) -> Vec<Member> {
        if typed.peers.len() > MEMBERS_MAX {
            // Nothing is said of each of them, which might be very many.
            let what = format!("has {} entries, must have at most {MEMBERS_MAX}", typed.peers.len());
            let line = typed.peers.get(MEMBERS_MAX).map(|first| self.lines.at(first.span().start));
            self.mistakes.push(Mistake { line, key: "[[peers]]".to_owned(), what });
            return Vec::new();
        }
        let mut members = BTreeMap::new();
        let mut addresses: BTreeMap<String, (u64, &str)> = BTreeMap::new();
        let mut pins = Vec::new();
        for peer in &typed.peers {
            let peer = peer.as_ref();
            let id = *peer.id.as_ref();
            let Some(node_id) = NodeId::new(id) else {
                self.mistake("peers.id", &peer.id, "is 0, must be at least 1".to_owned());
                continue;
            };
            for (key, what, address) in
                [("peers.peer", "peer", &peer.peer), ("peers.client", "client", &peer.client)]
            {
                self.address(key, address);
                if let Some((other, as_what)) = addresses.insert(address.as_ref().clone(), (id, what)) {
                    let text = format!(
                        "is {}, which is the {as_what} address of node {other} too",
                        address.as_ref()
                    );
                    self.mistake(key, address, text);
                }
            }
            let member = Member {
                node_id,
                peer_address: peer.peer.as_ref().clone(),
                client_address: peer.client.as_ref().clone(),
                public_keys: self.public_keys(peer, base, &mut pins),
            };
            if members.insert(node_id, member).is_some() {
                self.mistake(
                    "peers.id",
                    &peer.id,
                    format!("is {id}, which another entry of [[peers]] has too"),
                );
            }
        }
        let Some(own) = own else { return Vec::new() };
        if typed.peers.is_empty() {
            let member = Member {
                node_id: own,
                peer_address: listen.peer.to_string(),
                client_address: listen.client.to_string(),
                public_keys: Vec::new(),
            };
            return vec![member];
        }
        self.membership(typed, own, listen, &members);
        members.into_values().collect()
    }

    /// What holds for a chain of several nodes.
    fn membership(&mut self, typed: &File, own: NodeId, listen: Listen, members: &BTreeMap<NodeId, Member>) {
        if !members.contains_key(&own) {
            let known: Vec<String> = members.keys().map(ToString::to_string).collect();
            let what = format!("is {own}, must be one of [[peers]] ({})", known.join(", "));
            self.mistake_at("node.id", &typed.node.id, what);
        }
        for (key, address, at) in [
            ("listen.client", listen.client, &typed.listen.client),
            ("listen.peer", listen.peer, &typed.listen.peer),
        ] {
            if address.port() == 0 && members.len() > 1 {
                let what = format!("is {address}, must have a port: the other nodes are told a fixed one");
                self.mistake_at(key, at, what);
            }
        }
    }

    fn address(&mut self, key: &str, typed: &Spanned<String>) {
        let address = typed.as_ref();
        if !is_host_and_port(address) {
            let what = format!("is {address:?}, must be host:port with a port between 1 and 65535");
            self.mistake(key, typed, what);
        }
    }

    fn raft(&mut self, typed: &file::Raft) -> Raft {
        let tick = self.number("raft.tick_ms", &typed.tick_ms, 100, 5..=10_000);
        let heartbeat = self.number("raft.heartbeat_ticks", &typed.heartbeat_ticks, 1, 1..=100);
        let election =
            self.number("raft.election_ticks", &typed.election_ticks, (heartbeat * 10).max(10), 2..=1000);
        let min = self.number("raft.election_ticks_min", &typed.election_ticks_min, election + 1, 2..=2000);
        let max = self.number("raft.election_ticks_max", &typed.election_ticks_max, election * 2, 3..=4000);
        if election <= heartbeat {
            let what = format!("is {election}, must be greater than raft.heartbeat_ticks ({heartbeat})");
            self.mistake_at("raft.election_ticks", &typed.election_ticks, what);
        }
        if min < election {
            let what = format!("is {min}, must be at least raft.election_ticks ({election})");
            self.mistake_at("raft.election_ticks_min", &typed.election_ticks_min, what);
        }
        if max <= min {
            let (key, at) = match &typed.election_ticks_max {
                Some(_) => ("raft.election_ticks_max", &typed.election_ticks_max),
                None => ("raft.election_ticks_min", &typed.election_ticks_min),
            };
            let what =
                format!("gives a range of {min} to {max} ticks, raft.election_ticks_max must be the greater");
            self.mistake_at(key, at, what);
        }
        Raft {
            tick: Duration::from_millis(tick),
            heartbeat_ticks: heartbeat as usize,
            election_ticks: election as usize,
            election_ticks_min: min as usize,
            election_ticks_max: max as usize,
        }
    }

    fn limits(&mut self, typed: &file::Limits) -> Limits {
        let d = Limits::default();
        let mut bytes =
            |key: &str, value: &Typed<u64>, default: u64| self.number(key, value, default, KIB..=4 * GIB);
        let mut limits = Limits {
            entry_bytes_max: bytes("limits.entry_bytes_max", &typed.entry_bytes_max, d.entry_bytes_max),
            append_bytes_max: bytes("limits.append_bytes_max", &typed.append_bytes_max, d.append_bytes_max),
            uncommitted_bytes_max: bytes(
                "limits.uncommitted_bytes_max",
                &typed.uncommitted_bytes_max,
                d.uncommitted_bytes_max,
            ),
            apply_bytes_max: bytes("limits.apply_bytes_max", &typed.apply_bytes_max, d.apply_bytes_max),
            apply_backlog_bytes_max: bytes(
                "limits.apply_backlog_bytes_max",
                &typed.apply_backlog_bytes_max,
                d.apply_backlog_bytes_max,
            ),
            unpersisted_bytes_max: bytes(
                "limits.unpersisted_bytes_max",
                &typed.unpersisted_bytes_max,
                d.unpersisted_bytes_max,
            ),
            tail_bytes_max: bytes("limits.tail_bytes_max", &typed.tail_bytes_max, d.tail_bytes_max),
            ..d.clone()
        };
        let mut count = |key: &str, value: &Typed<u64>, default: usize| {
            self.number(key, value, default as u64, 1..=1_000_000) as usize
        };
        limits.inflight_appends_max =
            count("limits.inflight_appends_max", &typed.inflight_appends_max, d.inflight_appends_max);
        limits.unpersisted_rounds_max =
            count("limits.unpersisted_rounds_max", &typed.unpersisted_rounds_max, d.unpersisted_rounds_max);
        limits.pending_reads_max =
            count("limits.pending_reads_max", &typed.pending_reads_max, d.pending_reads_max);
        if let Err(error) = limits.validate() {
            // The bounds that the replica itself checks all tie a queue to the entry; the line is the one of
            // the key it names, or of the entry's size if that one is in the file and the queue is not.
            let at = match error.name {
                "uncommitted_bytes_max" => &typed.uncommitted_bytes_max,
                "apply_backlog_bytes_max" => &typed.apply_backlog_bytes_max,
                "unpersisted_bytes_max" => &typed.unpersisted_bytes_max,
                "tail_bytes_max" => &typed.tail_bytes_max,
                _ => &None,
            };
            let at = if at.is_some() { at } else { &typed.entry_bytes_max };
            let what = format!("is {}, must be {}", error.value, error.bound);
            self.mistake_at(&format!("limits.{}", error.name), at, what);
        }
        limits
    }

    fn block(&mut self, typed: &file::Block, typed_limits: &file::Limits, limits: &Limits) -> Block {
        let messages = self.number("block.messages_max", &typed.messages_max, 500, 1..=65_536);
        let absolute = self.number("block.absolute_bytes", &typed.absolute_bytes, 10 * MIB, KIB..=GIB);
        let preferred_default = (2 * MIB).min(absolute);
        let preferred =
            self.number("block.preferred_bytes", &typed.preferred_bytes, preferred_default, 1..=GIB);
        let timeout = self.number("block.timeout_ms", &typed.timeout_ms, 2000, 1..=3_600_000);
        let inflight = self.number("block.inflight_max", &typed.inflight_max, 64, 1..=4096);
        if preferred > absolute {
            let what = format!("is {preferred}, must be at most block.absolute_bytes ({absolute})");
            self.mistake_at("block.preferred_bytes", &typed.preferred_bytes, what);
        }
        let cutter = CutterConfig {
            messages_max: messages as u32,
            preferred_bytes: preferred,
            absolute_bytes: absolute,
            timeout_ms: timeout,
        };
        let entry = cutter.entry_bytes_max();
        if entry > limits.entry_bytes_max {
            let what = format!(
                "is {absolute}, which with the framing of block.messages_max ({messages}) transactions is {entry}, must be \
                 at most limits.entry_bytes_max ({})",
                limits.entry_bytes_max
            );
            let at = [&typed.absolute_bytes, &typed.messages_max, &typed_limits.entry_bytes_max];
            let at = at.into_iter().find(|at| at.is_some()).unwrap_or(&typed.absolute_bytes);
            self.mistake_at("block.absolute_bytes", at, what);
        }
        Block {
            messages_max: messages as usize,
            preferred_bytes: preferred,
            absolute_bytes: absolute,
            timeout: Duration::from_millis(timeout),
            inflight_max: inflight as usize,
        }
    }

    fn queues(&mut self, typed: &file::Limits, limits: &Limits, block: &Block) -> Queues {
        let message = limits.message_bytes_max();
        let peer_bytes_default = (64 * MIB).max(message);
        let peer_bytes = self.number(
            "limits.peer_queue_bytes_max",
            &typed.peer_queue_bytes_max,
            peer_bytes_default,
            KIB..=4 * GIB,
        );
        if peer_bytes < message {
            let what = format!("is {peer_bytes}, must be at least {message}, the largest message");
            self.mistake_at("limits.peer_queue_bytes_max", &typed.peer_queue_bytes_max, what);
        }
        let pool_default = (64 * MIB).max(block.absolute_bytes);
        let pool_bytes =
            self.number("limits.pool_bytes_max", &typed.pool_bytes_max, pool_default, KIB..=16 * GIB);
        if pool_bytes < block.absolute_bytes {
            let what =
                format!("is {pool_bytes}, must be at least block.absolute_bytes ({})", block.absolute_bytes);
            self.mistake_at("limits.pool_bytes_max", &typed.pool_bytes_max, what);
        }
        let mut count = |key: &str, value: &Typed<u64>, default: u64, high: u64| {
            self.number(key, value, default, 1..=high)
        };
        Queues {
            peer_bytes_max: peer_bytes,
            peer_messages_max: count(
                "limits.peer_queue_messages_max",
                &typed.peer_queue_messages_max,
                4096,
                1_000_000,
            ) as usize,
            pool_transactions_max: count(
                "limits.pool_transactions_max",
                &typed.pool_transactions_max,
                100_000,
                10_000_000,
            ) as usize,
            pool_bytes_max: pool_bytes,
            stream_frames_max: count("limits.stream_frames_max", &typed.stream_frames_max, 256, 65_536)
                as usize,
            connection_streams_max: count(
                "limits.connection_streams_max",
                &typed.connection_streams_max,
                4096,
                1_000_000,
            ) as u32,
        }
    }

    fn log(&mut self, typed: &file::Log) -> Log {
        let filter = typed.filter.as_ref().map_or(DEFAULT_FILTER, |filter| filter.as_ref()).to_owned();
        if let (Some(at), Err(why)) = (&typed.filter, crate::telemetry::check_filter(&filter)) {
            self.mistake("log.filter", at, format!("is {filter:?}: {why}"));
        }
        let format = match typed.format.as_ref().map(|format| (format.as_ref().as_str(), format)) {
            None | Some(("human", _)) => LogFormat::Human,
            Some(("json", _)) => LogFormat::Json,
            Some((other, at)) => {
                self.mistake("log.format", at, format!("is {other:?}, must be \"human\" or \"json\""));
                LogFormat::Human
            }
        };
        Log { filter, format }
    }

    fn tracing(&mut self, typed: &file::Tracing, base: &Path) -> Option<Tracing> {
        let file::Tracing { endpoint, ca, ratio, service_name } = typed;
        let text = |typed: &Typed<String>| typed.as_ref().map(|typed| typed.as_ref().clone());
        let read = tracing::Typed {
            endpoint: text(endpoint),
            ca: text(ca),
            ratio: ratio.as_ref().map(|ratio| *ratio.as_ref()),
            service_name: text(service_name),
        };
        tracing::read(read, base).unwrap_or_else(|wrong| {
            for tracing::Wrong { key, what } in wrong {
                match key {
                    tracing::Key::Endpoint => self.mistake_at("tracing.endpoint", endpoint, what),
                    tracing::Key::Ca => self.mistake_at("tracing.ca", ca, what),
                    tracing::Key::Ratio => self.mistake_at("tracing.ratio", ratio, what),
                    tracing::Key::ServiceName => self.mistake_at("tracing.service_name", service_name, what),
                }
            }
            None
        })
    }
}

/// Whether two listeners would fight for a port.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
