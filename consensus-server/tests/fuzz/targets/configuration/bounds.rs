//! What a valid configuration promises, asked a second time and in other words than where it is checked.

use std::net::SocketAddr;
use std::time::Duration;

use consensus_server::config::{CitaConfig, Config, LogFormat};
use consensus_server::services::client_message_bytes_max;
use consensus_server::telemetry::logging;
use tonic::codegen::http::Uri;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

fn ordered(numbers: &[(&str, u64)]) {
    for pair in numbers.windows(2) {
        let ((name, number), (other, bound)) = (pair[0], pair[1]);
        assert!(number <= bound, "{name} is {number}, more than {other}, {bound}");
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// What is connected to for this address is what it says.
fn leads_somewhere(address: &str) {
    let uri: Uri = format!("http://{address}").parse().unwrap_or_else(|why| panic!("{address:?}: {why}"));
    let (host, port) = address.rsplit_once(':').expect("host:port");
    assert_eq!(uri.host(), Some(host), "{address:?}");
    assert_eq!(uri.port_u16(), port.parse().ok(), "{address:?}");
    assert!(uri.port_u16() > Some(0) && uri.path() == "/" && uri.query().is_none(), "{address:?}");
}

fn usable_filter(filter: &str) {
    assert!(logging::build(filter, LogFormat::Json).is_ok(), "{filter:?}");
}

pub(super) fn own_bounds(config: &Config) {
    let Config { raft, block, limits, queues, listen, .. } = config;
    assert!(is_name(&config.cluster) && is_name(&config.chain.name), "{config:?}");
    assert!(config.chain.incarnation > 0 && (2..=1024).contains(&config.worker_threads));
    assert!(config.data_dir.starts_with("base") || config.data_dir.is_absolute());
    ordered(&[("5", 5), ("tick_ms", raft.tick.as_millis() as u64), ("10000", 10_000)]);
    ordered(&[
        ("1", 1),
        ("heartbeat_ticks", raft.heartbeat_ticks as u64),
        ("election_ticks, less 1", raft.election_ticks as u64 - 1),
        ("election_ticks_min, less 1", raft.election_ticks_min as u64 - 1),
        ("election_ticks_max, less 2", raft.election_ticks_max as u64 - 2),
        ("4000", 4000),
    ]);
    limits.validate().expect("the replica's own bounds");
    let largest = block.absolute_bytes;
    let block_bytes = largest + 16 * block.messages_max as u64;
    ordered(&[
        ("1", 1),
        ("preferred_bytes", block.preferred_bytes),
        ("absolute_bytes", largest),
        ("the largest block", block_bytes),
        ("entry_bytes_max", limits.entry_bytes_max),
        ("a client's message", client_message_bytes_max(config) as u64),
        ("a node's message", limits.message_bytes_max()),
        ("peer_queue_bytes_max", queues.peer_bytes_max),
    ]);
    for (name, bytes) in [
        ("uncommitted_bytes_max", limits.uncommitted_bytes_max),
        ("apply_backlog_bytes_max", limits.apply_backlog_bytes_max),
        ("unpersisted_bytes_max", limits.unpersisted_bytes_max),
        ("tail_bytes_max", limits.tail_bytes_max),
    ] {
        ordered(&[("entry_bytes_max", limits.entry_bytes_max), (name, bytes), ("4 GiB", 4 * GIB)]);
    }
    ordered(&[("1 KiB", KIB), ("append_bytes_max", limits.append_bytes_max), ("4 GiB", 4 * GIB)]);
    ordered(&[("1 KiB", KIB), ("apply_bytes_max", limits.apply_bytes_max), ("4 GiB", 4 * GIB)]);
    ordered(&[("absolute_bytes", largest), ("pool_bytes_max", queues.pool_bytes_max), ("16 GiB", 16 * GIB)]);
    assert!((1..=4096).contains(&block.inflight_max) && limits.inflight_proposals_max == block.inflight_max);
    assert!((1..=65_536).contains(&block.messages_max) && (1..=65_536).contains(&queues.stream_frames_max));
    assert!((1..=3_600_000).contains(&block.timeout.as_millis()));
    assert!((10..=600_000).contains(&config.submit_deadline.as_millis()));
    for count in [
        limits.inflight_appends_max,
        limits.unpersisted_rounds_max,
        limits.pending_reads_max,
        queues.peer_messages_max,
        queues.connection_streams_max as usize,
    ] {
        assert!((1..=1_000_000).contains(&count), "{count}");
    }
    assert!((1..=10_000_000).contains(&queues.pool_transactions_max));
    clients(config);
    usable_filter(&config.log.filter);
    for (one, other) in [(listen.client, listen.peer), (listen.client, listen.ops), (listen.peer, listen.ops)]
    {
        assert!(one.port() == 0 || one != other, "two listeners at {one}");
    }
    members(config);
}

fn clients(config: &Config) {
    let Config { clients, queues, .. } = config;
    let each = &clients.each;
    let message = client_message_bytes_max(config) as u64;
    ordered(&[("a client's message", message), ("client_receive_bytes_max", clients.receive_bytes_max)]);
    ordered(&[("1", 1), ("client_connections_max", clients.connections_max), ("1000000", 1_000_000)]);
    ordered(&[("1", 1), ("deliver_streams_max", clients.deliver_streams_max), ("100000", 100_000)]);
    assert!((100..=3_600_000).contains(&clients.deliver_stall.as_millis()));
    for (name, one, all) in [
        ("connections_max", each.connections_max, clients.connections_max),
        ("deliver_streams_max", each.deliver_streams_max, clients.deliver_streams_max),
        ("transactions_inflight_max", each.transactions_inflight_max, queues.pool_transactions_max as u64),
        ("bytes_inflight_max", each.bytes_inflight_max, queues.pool_bytes_max),
        ("submit_streams_max", each.submit_streams_max, 1_000_000_000),
        ("calls_inflight_max", each.calls_inflight_max, 1_000_000_000),
    ] {
        if let Some(one) = one {
            ordered(&[("1", 1), (name, one), ("that of all", all)]);
        }
    }
    if let Some(rate) = each.rate {
        assert!(rate.per_s > 0 && rate.burst > 0, "{rate:?}");
    }
    let parts: u128 = config.memory().iter().map(|part| u128::from(part.bytes)).sum();
    assert_eq!(config.memory_bytes_max(), u64::try_from(parts).unwrap_or(u64::MAX));
}

fn members(config: &Config) {
    let members = &config.members;
    assert!((1..=64).contains(&members.len()), "{} members", members.len());
    assert!(members.windows(2).all(|pair| pair[0].node_id < pair[1].node_id), "ascending, each once");
    assert_eq!(config.own().node_id, config.node_id);
    assert_eq!(config.others().count() + 1, members.len());
    let mut addresses: Vec<&str> =
        members.iter().flat_map(|member| [&member.peer_address[..], &member.client_address[..]]).collect();
    let fixed = |address: &SocketAddr| members.len() == 1 || address.port() > 0;
    assert!(fixed(&config.listen.client) && fixed(&config.listen.peer), "port 0 among several");
    if members.len() > 1 {
        addresses.iter().for_each(|address| leads_somewhere(address));
        let count = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), count, "an address twice: {addresses:?}");
    }
}

pub(super) fn cita_bounds(config: &CitaConfig) {
    let CitaConfig { raft, log, metrics, .. } = config;
    let id = |address: &[u8]| u64::from_be_bytes(address[..8].try_into().expect("8 bytes"));
    assert!((8..=48).contains(&config.own_address.len()));
    assert_eq!(config.node_id.get(), id(&config.own_address));
    assert!(config.chain.as_ref().is_none_or(|chain| (1..=64).contains(&chain.len())));
    let ports = [config.grpc_port, config.network_port, config.controller_port, metrics.port.unwrap_or(0)];
    for (position, port) in ports.iter().enumerate() {
        assert!(*port == 0 || !ports[..position].contains(port), "a port twice: {ports:?}");
    }
    assert!(config.network_port > 0 && config.controller_port > 0);
    ordered(&[("5", 5), ("tick", raft.tick.as_millis() as u64), ("10000", 10_000)]);
    ordered(&[
        ("1", 1),
        ("heartbeat_tick", raft.heartbeat_ticks as u64),
        ("election_tick, less 1", raft.election_ticks as u64 - 1),
        ("the shortest silence, less 2", raft.election_ticks_min as u64 - 2),
        ("the longest silence, less 3", raft.election_ticks_max as u64 - 3),
    ]);
    let (shortest, longest) = config.failover();
    assert!(shortest < longest && longest <= Duration::from_secs(200_000));
    ordered(&[("1 KiB", KIB), ("block_bytes_max", config.block_bytes_max), ("1 GiB", GIB)]);
    assert!((1..=1_000_000).contains(&config.snapshot_every_entries));
    assert!(!config.data_dir.as_os_str().is_empty() && !log.dir.as_os_str().is_empty());
    assert!(log.rotate_bytes >= KIB && log.rotate_keep <= 1000);
    let inside = log.dir.join(&log.file_name);
    assert_eq!(inside.parent(), Some(&*log.dir), "{:?}", log.file_name);
    usable_filter(&log.filter);
    let buckets = &metrics.buckets_ms;
    assert!((1..=64).contains(&buckets.len()) && buckets[0] > 0.0 && buckets[buckets.len() - 1].is_finite());
    assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{buckets:?}");
    let peers = config.peers.as_deref().unwrap_or_default();
    for (position, peer) in peers.iter().enumerate() {
        assert_eq!(peer.node_id.get(), id(&peer.address));
        assert_ne!(peer.node_id, config.node_id, "itself among its peers");
        assert!(peers[..position].iter().all(|earlier| earlier.node_id != peer.node_id), "a peer twice");
        leads_somewhere(&peer.at);
    }
}
