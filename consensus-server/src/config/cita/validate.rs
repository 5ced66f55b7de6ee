//! From the text of a CITA-Cloud node's file to a [`CitaConfig`]: defaults, units, bounds, contradictions.
//!
//! All mistakes are gathered. What the predecessor would have taken and we can live with is a warning, so
//! that replacing it never needs an edit of the file.

use std::io::Read;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus_core::ids::NodeId;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::{self, AddressError};
use super::section::{Found, Section};
use super::{
    CONTROLLER_PORT, CitaConfig, CitaLog, CitaMetrics, DirectPeer, FAILOVER_WARN, GRPC_PORT, METRICS_PORT,
    NETWORK_PORT,
};
use crate::config::endpoint::is_host_and_port;
use crate::config::mistake::{legible, of_text};
use crate::config::tracing::{self, Key, Wrong};
use crate::config::{Mistakes, Raft, Tracing};

/// Name of the section.
const SECTION: &str = "consensus_raft";
/// Name of its table about traces.
const TRACING_SECTION: &str = "consensus_raft.tracing";
/// Upper bounds of the calls' histograms in milliseconds.
const BUCKETS_MS: [f64; 14] =
    [0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0];
/// Most bounds of a histogram.
const BUCKETS_MAX: usize = 64;
/// More of the file with the address is not read: it is another file.
const ADDRESS_FILE_BYTES_MAX: u64 = 4096;
/// Most consensus services that are reached directly: as many as the exchange keeps track of.
const PEERS_MAX: usize = 1024;
/// Most bytes of a chain's id.
const CHAIN_BYTES_MAX: usize = 64;
/// Heartbeats by default, in ticks.
const HEARTBEAT_TICKS: u64 = 4;
/// The shortest silence by default, less one, in ticks.
const ELECTION_TICKS: u64 = 10;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Gives the file its meaning.
pub(super) fn validate(text: &str, name: &str, base: &Path) -> Result<CitaConfig, Mistakes> {
    let document = DeTable::parse(text)
        .map_err(|error| Mistakes { file: name.to_owned(), list: vec![of_text(text, &error)] })?;
    let table = |key: &str| document.as_ref().get(key).and_then(|value| value.as_ref().as_table());
    let mut system = Section::new("system_config", text, table("system_config"));
    let chain = chain(&mut system);
    let mut check =
        Check { section: Section::new(SECTION, text, table(SECTION)), name, warnings: Vec::new() };
    if table(SECTION).is_none() {
        let what = format!("has no section [{SECTION}]");
        check.section.mistakes.push(crate::config::Mistake { line: None, key: String::new(), what });
        return Err(finish(name, check.section.mistakes));
    }
    let own = check.own(base);
    let (grpc_port, network_port, controller_port, metrics_port) = check.ports();
    let enable_metrics = check.section.flag("enable_metrics", true);
    let raft = check.raft();
    let block_bytes_max = check.section.number("block_bytes_max", 64 * MIB, KIB..=GIB);
    let snapshot_every_entries = check.section.number("snapshot_every_entries", 256, 1..=1_000_000);
    let admin = check.admin();
    let data_dir = check.path("raft_data_path", "raft-data-dir");
    let log = check.log();
    let buckets_ms = check.buckets();
    let peers = check.peers(own.as_ref().map(|(_, id)| *id));
    let tracing = check.tracing(text, base);
    for (line, key) in check.section.unknown() {
        check.warnings.push(format!("{name}:{line}: {} is not known, it is ignored", legible(&key)));
    }
    let Check { section, warnings, .. } = check;
    let mut mistakes = section.mistakes;
    mistakes.extend(system.mistakes);
    let (Some((own_address, node_id)), true) = (own, mistakes.is_empty()) else {
        return Err(finish(name, mistakes));
    };
    Ok(CitaConfig {
        own_address,
        node_id,
        chain,
        grpc_port,
        network_port,
        controller_port,
        admin,
        data_dir,
        raft,
        block_bytes_max,
        snapshot_every_entries,
        peers,
        log,
        metrics: CitaMetrics { port: enable_metrics.then_some(metrics_port), buckets_ms },
        tracing,
        warnings,
        digest: consensus_core::audit::digest(text.as_bytes()),
    })
}

/// Orders the mistakes by line.
fn finish(name: &str, mut list: Vec<crate::config::Mistake>) -> Mistakes {
    list.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    Mistakes { file: name.to_owned(), list }
}

/// The chain's id, if the file has it.
fn chain(system: &mut Section<'_>) -> Option<Vec<u8>> {
    let found = system.text("chain_id")?;
    let digits = found.value.trim();
    match hex::decode(digits.strip_prefix("0x").unwrap_or(digits)) {
        Ok(id) if (1..=CHAIN_BYTES_MAX).contains(&id.len()) => Some(id),
        _ => {
            let what =
                format!("is {:?}, must be 1 to {CHAIN_BYTES_MAX} bytes in hexadecimal digits", found.value);
            system.mistake("chain_id", Some(&found.at), what);
            None
        }
    }
}

/// Gathers mistakes and warnings.
struct Check<'a> {
    section: Section<'a>,
    name: &'a str,
    warnings: Vec<String>,
}

impl Check<'_> {
    /// This node's address and id, from the file that `node_addr` names.
    fn own(&mut self, base: &Path) -> Option<(Vec<u8>, NodeId)> {
        const KEY: &str = "node_addr";
        let asks = "must be the path of a file that holds this validator's address";
        let known = self.section.mistakes.len();
        let found = self.section.text(KEY);
        let Some(found) = found.filter(|found| !found.value.is_empty()) else {
            if self.section.mistakes.len() == known {
                self.section.mistake(KEY, None, format!("is missing or empty, {asks}"));
            }
            return None;
        };
        let path = base.join(found.value);
        let own = read_short(&path)
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|text| read_address(&text).map_err(|error| error.to_string()));
        own.map_err(|why| {
            let what = format!("is {:?}, {asks}: the file {} {why}", found.value, path.display());
            self.section.mistake(KEY, Some(&found.at), what);
        })
        .ok()
    }

    /// Ports of the services, the network, the controller and the metrics. The ports that others reach us
    /// at may be 0, any free one, for tests.
    fn ports(&mut self) -> (u16, u16, u16, u16) {
        let keys = [
            ("grpc_listen_port", GRPC_PORT, 0),
            ("network_port", NETWORK_PORT, 1),
            ("controller_port", CONTROLLER_PORT, 1),
            ("metrics_port", METRICS_PORT, 0),
        ];
        let mut ports: [(u16, Option<Range<usize>>); 4] = Default::default();
        for (position, (key, default, least)) in keys.into_iter().enumerate() {
            let found = self.section.number_if_there(key, least..=u64::from(u16::MAX));
            ports[position] = found.map_or((default, None), |found| (found.value as u16, Some(found.at)));
        }
        for later in 1..ports.len() {
            for earlier in 0..later {
                let (port, at) = &ports[later];
                let (other, other_at) = &ports[earlier];
                if port != other || *port == 0 {
                    continue;
                }
                let named_later = at.is_some();
                let (key, at, other) = if named_later {
                    (keys[later].0, at.clone(), keys[earlier].0)
                } else {
                    (keys[earlier].0, other_at.clone(), keys[later].0)
                };
                let what = format!("is {port}, which is {} too", self.section.full(other));
                self.section.mistake(key, at.as_ref(), what);
            }
        }
        (ports[0].0, ports[1].0, ports[2].0, ports[3].0)
    }

    fn raft(&mut self) -> Raft {
        if self.section.flag_if_there("check_quorum") == Some(false) {
            self.warn(
                "check_quorum is false, which is not honoured: a leader that hears no majority steps down",
            );
        }
        let tick = self.section.number("tick_interval_in_millis", 100, 5..=10_000);
        let heartbeat = self.section.number_if_there("heartbeat_tick", 1..=1000);
        let election = self.section.number_if_there("election_tick", 2..=10_000);
        let (heartbeat, election) = match (heartbeat.map(|found| found.value), election) {
            (None, None) => (HEARTBEAT_TICKS, ELECTION_TICKS),
            // One alone draws the other along, in the predecessor's proportion.
            (Some(heartbeat), None) => (heartbeat, ELECTION_TICKS.max(heartbeat * 10 / 3)),
            (None, Some(election)) => (HEARTBEAT_TICKS.min(election.value - 1), election.value),
            (Some(heartbeat), Some(Found { value: election, at })) => {
                if election <= heartbeat {
                    let what = format!("is {election}, must be greater than heartbeat_tick ({heartbeat})");
                    self.section.mistake("election_tick", Some(&at), what);
                }
                (heartbeat, election)
            }
        };
        let raft = Raft {
            tick: Duration::from_millis(tick),
            heartbeat_ticks: heartbeat as usize,
            election_ticks: election as usize,
            election_ticks_min: election as usize + 1,
            election_ticks_max: 2 * election as usize,
        };
        let silence = |ticks: usize| raft.tick * ticks as u32;
        let (shortest, longest) = (silence(raft.election_ticks_min), silence(raft.election_ticks_max));
        if longest > FAILOVER_WARN {
            self.warn(&format!(
                "election_tick = {election} at {tick} ms a tick: the loss of a leader is noticed after {:.1} to {:.1} s; \
                 with {ELECTION_TICKS} at 100 ms it is 1.1 to 2.0 s",
                shortest.as_secs_f64(),
                longest.as_secs_f64(),
            ));
        }
        raft
    }

    fn admin(&mut self) -> Option<SocketAddr> {
        let found = self.section.text("admin_addr")?;
        let parsed = found.value.parse().ok();
        if parsed.is_none() {
            let what = format!("is {:?}, must be an IP address and a port like 127.0.0.1:50005", found.value);
            self.section.mistake("admin_addr", Some(&found.at), what);
        }
        parsed
    }

    fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        let found = self.section.text(key);
        if let Some(found) = found.as_ref().filter(|found| found.value.is_empty()) {
            self.section.mistake(key, Some(&found.at), "is empty, must be a path".to_owned());
        }
        found.map_or(default, |found| found.value).into()
    }

    fn log(&mut self) -> CitaLog {
        let filter = match self.section.text("log_level") {
            None => level_filter("info").unwrap_or_default(),
            Some(found) => match level_filter(found.value) {
                Ok(filter) => filter,
                Err(why) => {
                    self.section.mistake(
                        "log_level",
                        Some(&found.at),
                        format!("is {:?}: {why}", found.value),
                    );
                    String::new()
                }
            },
        };
        let name = self.section.text("log_file_name");
        if let Some(found) = name.as_ref().filter(|found| !is_file_name(found.value)) {
            let what = format!("is {:?}, must be a file name without a directory", found.value);
            self.section.mistake("log_file_name", Some(&found.at), what);
        }
        CitaLog {
            filter,
            to_stdout: self.section.flag("log_to_stdout", false),
            dir: self.path("log_dir", "logs"),
            file_name: name.map_or("consensus-service.log", |found| found.value).to_owned(),
            rotate_bytes: self.section.number("log_rotate_size", 128 * MIB, KIB..=u64::MAX),
            rotate_keep: self.section.number("log_rotate_keep", 5, 0..=1000) as usize,
            rotate_compress: self.section.flag("log_rotate_compress", false),
        }
    }

    fn buckets(&mut self) -> Vec<f64> {
        let Some(found) = self.section.numbers("metrics_buckets") else { return BUCKETS_MS.to_vec() };
        let buckets = found.value;
        let positive = buckets.iter().all(|bound| bound.is_finite() && *bound > 0.0);
        let ascending = buckets.is_sorted_by(|a, b| a < b);
        if buckets.is_empty() || buckets.len() > BUCKETS_MAX || !positive || !ascending {
            let what = format!(
                "is {buckets:?}, must be 1 to {BUCKETS_MAX} ascending numbers above 0 (milliseconds)"
            );
            self.section.mistake("metrics_buckets", Some(&found.at), what);
        }
        buckets
    }

    /// The other consensus services. This node's own entry may be there: the table is then the same on all.
    fn peers(&mut self, own: Option<NodeId>) -> Option<Vec<DirectPeer>> {
        let table = self.section.table("peers")?;
        if table.len() > PEERS_MAX {
            let what = format!("has {} entries, must have at most {PEERS_MAX}", table.len());
            self.section.mistake("peers", None, what);
            return None;
        }
        let mut all: Vec<(DirectPeer, Range<usize>)> = Vec::new();
        for (key, value) in table.iter() {
            if let Some(peer) = self.peer(key, value) {
                all.push((peer, key.span()));
            }
        }
        all.sort_by_key(|(peer, at)| (peer.node_id, at.start));
        for pair in all.windows(2) {
            let ((first, _), (second, at)) = (&pair[0], &pair[1]);
            if let Err(error) = address::peer_ids(&[&first.address, &second.address]) {
                self.section.mistake("peers", Some(at), error.to_string());
            } else if first.address == second.address {
                let what = format!("has the address {} twice", hex::encode(&first.address));
                self.section.mistake("peers", Some(at), what);
            }
        }
        Some(all.into_iter().map(|(peer, _)| peer).filter(|peer| Some(peer.node_id) != own).collect())
    }

    fn peer(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<DirectPeer> {
        let address = key.as_ref().as_ref();
        let parsed = read_address(address).map_err(|error| {
            self.section.mistake(&format!("peers.{address}"), Some(&key.span()), error.to_string());
        });
        let at = value.as_ref().as_str().filter(|at| is_host_and_port(at));
        if at.is_none() {
            let what = "must be \"host:port\" with a port between 1 and 65535".to_owned();
            self.section.mistake(&format!("peers.{address}"), Some(&value.span()), what);
        }
        let (address, node_id) = parsed.ok()?;
        Some(DirectPeer { address, node_id, at: at?.to_owned() })
    }

    fn tracing(&mut self, text: &str, base: &Path) -> Option<Tracing> {
        let table = self.section.table("tracing")?;
        let mut section = Section::new(TRACING_SECTION, text, Some(table));
        let [endpoint, ca, name] =
            [Key::Endpoint, Key::Ca, Key::ServiceName].map(|key| section.text(key.as_str()));
        let ratio = section.decimal(Key::Ratio.as_str());
        let text = |found: &Option<Found<&str>>| found.as_ref().map(|found| found.value.to_owned());
        let typed = tracing::Typed {
            endpoint: text(&endpoint),
            ca: text(&ca),
            ratio: ratio.as_ref().map(|ratio| ratio.value),
            service_name: text(&name),
        };
        let understood = section.mistakes.is_empty();
        let tracing = tracing::read(typed, base).unwrap_or_else(|wrong| {
            for Wrong { key, what } in wrong.into_iter().filter(|_| understood) {
                let at = match key {
                    Key::Endpoint => endpoint.as_ref().map(|found| &found.at),
                    Key::Ca => ca.as_ref().map(|found| &found.at),
                    Key::Ratio => ratio.as_ref().map(|found| &found.at),
                    Key::ServiceName => name.as_ref().map(|found| &found.at),
                };
                section.mistake(key.as_str(), at, what);
            }
            None
        });
        for (line, key) in section.unknown() {
            let key = legible(&key);
            self.warnings.push(format!("{}:{line}: {key} is not known, it is ignored", self.name));
        }
        self.section.mistakes.append(&mut section.mistakes);
        tracing
    }

    fn warn(&mut self, what: &str) {
        self.warnings.push(format!("{}: {SECTION}.{what}", self.name));
    }
}

/// An address and its id.
fn read_address(text: &str) -> Result<(Vec<u8>, NodeId), AddressError> {
    let address = address::parse(text)?;
    let id = address::peer_id(&address)?;
    Ok((address, id))
}

/// A file that is no longer than an address can be.
fn read_short(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(ADDRESS_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The filter of a level as the predecessor names it, or a filter as `RUST_LOG` has it. Of the libraries,
/// which tell each frame, and the raft crate, which tells each step of an election, less is logged.
fn level_filter(level: &str) -> Result<String, String> {
    let ours =
        |level: &str, raft: &str| format!("info,consensus_server={level},consensus_core={level},raft={raft}");
    Ok(match level.trim().to_ascii_lowercase().as_str() {
        "critical" | "error" => "error".to_owned(),
        "warning" | "warn" => "warn".to_owned(),
        "info" => "info,raft=warn".to_owned(),
        "debug" => ours("debug", "info"),
        "trace" => ours("trace", "debug"),
        other => {
            crate::telemetry::check_filter(other)?;
            level.trim().to_owned()
        }
    })
}

fn is_file_name(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|last| last == path.as_os_str())
}
