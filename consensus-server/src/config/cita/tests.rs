//! A file of the original format means what it meant; each kind of mistake is named and located.

use std::path::Path;

use tempfile::TempDir;

use super::*;

const ADDRESS: &str = "c1bcd410636e5ece8699d44ec1b47996d7895ebe";

/// A directory with the address in `node_address`.
fn directory() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("node_address"), ADDRESS).expect("writes");
    directory
}

fn parse(text: &str) -> Result<CitaConfig, Mistakes> {
    CitaConfig::parse(text, "config.toml", directory().path())
}

/// The section with the address and `more`, from line 3 on.
fn section(more: &str) -> String {
    format!("[consensus_raft]\nnode_addr = 'node_address'\n{more}")
}

fn mistakes(more: &str) -> String {
    parse(&section(more)).expect_err(more).to_string()
}

/// As cloud-config writes it for a node without Kubernetes, certificates elided.
const ORIGINAL: &str = r#"
[network_zenoh]
ca_cert = """
-----BEGIN CERTIFICATE-----
-----END CERTIFICATE-----
"""
chain_id = "63586a3c0255f337c77a777ff54f0040b8c388da04f23ecee6bfd4953a6512b4"
domain = "test-chain-node1"
enable_metrics = true
grpc_port = 50100
metrics_port = 60100
node_address = "node_address"
port = 40001
priv_key = """
-----BEGIN PRIVATE KEY-----
-----END PRIVATE KEY-----
"""
protocol = "quic"
validator_address = "validator_address"

[network_zenoh.log_config]
filter = "info"
max_level = "info"
service_name = "network"

[[network_zenoh.modules]]
hostname = "localhost"
module_name = "consensus"
port = 50101

[[network_zenoh.modules]]
hostname = "localhost"
module_name = "controller"
port = 50104

[[network_zenoh.peers]]
domain = "test-chain-node0"
port = 40000
protocol = "quic"

[consensus_raft]
controller_port = 50104
enable_metrics = true
grpc_listen_port = 50101
log_level = "info"
metrics_port = 60101
network_port = 50100
node_addr = "node_address"

[executor_evm]
domain = "test-chain-node1"
enable_metrics = true
executor_port = 50102
metrics_port = 60102

[executor_evm.log_config]
filter = "info"
max_level = "info"
service_name = "executor"

[storage_opendal]
domain = "test-chain-node1"
enable_metrics = true
metrics_port = 60103
storage_port = 50103

[storage_opendal.cloud_storage]
access_key_id = ""
service_type = ""

[genesis_block]
prevhash = "0x0000000000000000000000000000000000000000000000000000000000000000"
timestamp = 1795163004217

[system_config]
admin = "80b90c2ecbc26ab6a53066554c194388f62cec39"
block_interval = 3
block_limit = 100
chain_id = "63586a3c0255f337c77a777ff54f0040b8c388da04f23ecee6bfd4953a6512b4"
quota_limit = 1073741824
validators = [
    "c1bcd410636e5ece8699d44ec1b47996d7895ebe",
    "a5169863d5692516b49b8bd4af1196af357ac802",
    "85d733cc1e833bf3cc39a87fd4f72b065a4a7fcb",
    "3699587c8956dde0de9c952375270393b65785c2",
]
version = 0

[controller]
consensus_port = 50101
controller_port = 50104
is_danger = false
network_port = 50100
node_address = "node_address"
validator_address = "validator_address"

[controller.log_config]
filter = "info"
"#;

#[test]
fn the_original_file_is_taken_without_an_edit() {
    let config = parse(ORIGINAL).expect("valid");
    assert_eq!(hex::encode(&config.own_address), ADDRESS);
    assert_eq!(config.node_id.get(), 0xc1bc_d410_636e_5ece);
    assert_eq!((config.grpc_port, config.network_port, config.controller_port), (50101, 50100, 50104));
    assert_eq!(config.metrics.port, Some(60101));
    assert_eq!(config.metrics.buckets_ms.len(), 14);
    assert_eq!(config.chain.as_deref().map(<[u8]>::len), Some(32));
    assert_eq!(config.data_dir, Path::new("raft-data-dir"));
    assert_eq!((config.log.filter.as_str(), config.log.to_stdout), ("info,raft=warn", false));
    assert_eq!((config.log.rotate_bytes, config.log.rotate_keep), (134_217_728, 5));
    assert_eq!((config.raft.tick, config.raft.heartbeat_ticks), (Duration::from_millis(100), 4));
    assert_eq!(config.failover(), (Duration::from_millis(1100), Duration::from_secs(2)));
    assert_eq!((config.peers, config.admin, config.warnings), (None, None, Vec::new()));
}

#[test]
fn the_example_names_every_key_and_says_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/cita.example.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let example = parse(&text).expect("valid");
    let defaults = parse(&section("")).expect("valid");
    assert_eq!(CitaConfig { digest: defaults.digest, ..example }, defaults, "the example says the defaults");
    let uncommented = text
        .replace("# admin_addr", "admin_addr")
        .replace("# [consensus_raft.peers]", "[consensus_raft.peers]");
    let uncommented = uncommented.replace("# c1bc", "c1bc").replace("# a516", "a516");
    let config = parse(&uncommented).expect("valid");
    assert_eq!(config.admin, Some(SocketAddr::from(([127, 0, 0, 1], 50005))));
    let peers = config.peers.expect("there");
    assert_eq!(peers.len(), 1, "its own entry is no peer");
    assert_eq!(peers[0].at, "node1.example.org:50001");
    assert_eq!(peers[0].node_id.get(), 0xa516_9863_d569_2516);
    assert_eq!(config.warnings, Vec::<String>::new(), "every key is known");
}

#[test]
fn every_key_is_honoured() {
    let config = parse(&section(
        "grpc_listen_port = 1\nnetwork_port = 2\ncontroller_port = 3\nmetrics_port = 4\nenable_metrics = false\n\
         log_level = 'Warning'\nlog_to_stdout = true\nlog_dir = 'l'\nlog_file_name = 'n'\nlog_rotate_size = 2048\n\
         log_rotate_keep = 0\nlog_rotate_compress = true\ntick_interval_in_millis = 50\nheartbeat_tick = 2\n\
         election_tick = 20\ncheck_quorum = true\nraft_data_path = '/d'\nmetrics_buckets = [1, 2.5]\n\
         block_bytes_max = 1048576\nsnapshot_every_entries = 9\n",
    ))
    .expect("valid");
    assert_eq!((config.grpc_port, config.network_port, config.controller_port), (1, 2, 3));
    assert_eq!(config.metrics, CitaMetrics { port: None, buckets_ms: vec![1.0, 2.5] });
    let log = CitaLog {
        filter: "warn".to_owned(),
        to_stdout: true,
        dir: "l".into(),
        file_name: "n".to_owned(),
        rotate_bytes: 2048,
        rotate_keep: 0,
        rotate_compress: true,
    };
    assert_eq!(config.log, log);
    let raft = Raft {
        tick: Duration::from_millis(50),
        heartbeat_ticks: 2,
        election_ticks: 20,
        election_ticks_min: 21,
        election_ticks_max: 40,
    };
    assert_eq!(config.raft, raft);
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!((config.block_bytes_max, config.snapshot_every_entries), (1 << 20, 9));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn what_is_odd_and_harmless_is_a_warning() {
    let config = parse(&section(
        "check_quorum = false\nheartbeat_tick = 15\nelection_tick = 50\nwhatever = 1\n[consensus_raft.domain]\na = 1\n",
    ))
    .expect("valid");
    let said = config.warnings.join("\n");
    for expected in [
        "config.toml: consensus_raft.check_quorum is false, which is not honoured",
        "noticed after 5.1 to 10.0 s; with 10 at 100 ms it is 1.1 to 2.0 s",
        "config.toml:6: consensus_raft.whatever is not known, it is ignored",
        "config.toml:7: consensus_raft.domain is not known, it is ignored",
    ] {
        assert!(said.contains(expected), "{expected}\nin\n{said}");
    }
}

#[test]
fn a_warning_cannot_command_the_terminal() {
    let config = parse(&section("\"a\\u001b[2J\\n\" = 1\n")).expect("valid");
    assert_eq!(config.warnings, ["config.toml:3: consensus_raft.a\\u{1b}[2J\\n is not known, it is ignored"]);
}

#[test]
fn too_many_peers_are_one_mistake() {
    let peers: String = (0..1025).map(|peer| format!("{peer} = ''\n")).collect();
    let said = mistakes(&format!("[consensus_raft.peers]\n{peers}"));
    assert_eq!(said, "config.toml: consensus_raft.peers has 1025 entries, must have at most 1024");
}

#[test]
fn one_clock_key_alone_draws_the_other_along() {
    let clock = |more: &str| {
        let raft = parse(&section(more)).expect(more).raft;
        (raft.heartbeat_ticks, raft.election_ticks)
    };
    assert_eq!(clock("heartbeat_tick = 15\n"), (15, 50), "the predecessor's proportion");
    assert_eq!(clock("heartbeat_tick = 1\n"), (1, 10));
    assert_eq!(clock("election_tick = 3\n"), (2, 3));
    assert_eq!(clock("election_tick = 50\n"), (4, 50));
}

#[test]
fn each_kind_of_mistake_names_file_line_key_value_and_bound() {
    for (more, expected) in [
        ("x = \n", "config.toml:3: "),
        (
            "grpc_listen_port = 70000\n",
            "config.toml:3: consensus_raft.grpc_listen_port is 70000, must be between 0 and 65535",
        ),
        (
            "network_port = -1\n",
            "config.toml:3: consensus_raft.network_port is -1, must be between 1 and 65535",
        ),
        (
            "network_port = '1'\n",
            "config.toml:3: consensus_raft.network_port is of type string, must be a whole number",
        ),
        (
            "network_port = 50001\n",
            "config.toml:3: consensus_raft.network_port is 50001, which is consensus_raft.grpc_listen_port too",
        ),
        (
            "grpc_listen_port = 60001\n",
            "config.toml:3: consensus_raft.grpc_listen_port is 60001, which is consensus_raft.metrics_port too",
        ),
        (
            "heartbeat_tick = 9\nelection_tick = 9\n",
            "config.toml:4: consensus_raft.election_tick is 9, must be greater than heartbeat_tick (9)",
        ),
        ("tick_interval_in_millis = 0\n", "is 0, must be between 5 and 10000"),
        ("log_level = 'loud'\n", "config.toml:3: consensus_raft.log_level is \"loud\": \"loud\" is no level"),
        (
            "log_file_name = 'a/b'\n",
            "consensus_raft.log_file_name is \"a/b\", must be a file name without a directory",
        ),
        ("log_rotate_size = 10\n", "consensus_raft.log_rotate_size is 10, must be at least 1024"),
        ("raft_data_path = ''\n", "consensus_raft.raft_data_path is empty, must be a path"),
        (
            "metrics_buckets = [2, 1]\n",
            "consensus_raft.metrics_buckets is [2.0, 1.0], must be 1 to 64 ascending numbers",
        ),
        (
            "metrics_buckets = ['a']\n",
            "consensus_raft.metrics_buckets is of type array, must be a list of numbers",
        ),
        ("admin_addr = 'here'\n", "consensus_raft.admin_addr is \"here\", must be an IP address and a port"),
        ("peers = 1\n", "consensus_raft.peers is of type integer, must be a table"),
        (
            "[consensus_raft.peers]\nzz = 'a:1'\n",
            "config.toml:4: consensus_raft.peers.zz has no hexadecimal digit at position 1",
        ),
        (
            "[consensus_raft.peers]\n0102030405060708 = 'a'\n",
            "consensus_raft.peers.0102030405060708 must be \"host:port\"",
        ),
        (
            "[consensus_raft.peers]\n010203040506070801 = 'a:1'\n010203040506070802 = 'b:1'\n",
            "have the same first 8 bytes",
        ),
        (
            "[system_config]\nchain_id = 'xyz'\n",
            "config.toml:4: system_config.chain_id is \"xyz\", must be 1 to 64 bytes",
        ),
    ] {
        let said = mistakes(more);
        assert!(said.contains(expected), "{expected}\nin\n{said}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let said =
        parse("[consensus_raft]\nnode_addr = 5\nlog_level = 1\ncheck_quorum = 'no'\nelection_tick = 0\n")
            .expect_err("four mistakes")
            .to_string();
    let keys = ["node_addr", "log_level", "check_quorum", "election_tick"];
    assert_eq!(said.lines().count(), keys.len(), "{said}");
    for (line, key) in said.lines().zip(keys) {
        assert!(line.contains(key), "{line}");
    }
}

#[test]
fn the_address_is_read_from_the_file_that_is_named() {
    let directory = directory();
    let with = |content: Option<&str>, node_addr: &str| {
        let path = directory.path().join("other");
        match content {
            Some(content) => std::fs::write(&path, content).expect("writes"),
            None => drop(std::fs::remove_file(&path)),
        }
        let text = format!("[consensus_raft]\nnode_addr = '{node_addr}'\n");
        CitaConfig::parse(&text, "config.toml", directory.path()).map_err(|mistakes| mistakes.to_string())
    };
    let absolute = directory.path().join("other").display().to_string();
    let taken = with(Some(&format!("0x{ADDRESS}\n")), &absolute).expect("an address with prefix and newline");
    assert_eq!(hex::encode(taken.own_address), ADDRESS);
    for (content, node_addr, expected) in [
        (None, "other", "cannot be read: No such file"),
        (Some(""), "other", "is empty"),
        (Some("0x12"), "other", "has 1 bytes, must have between 8 and 48"),
        (Some("0000000000000000aa"), "other", "begins with 8 zero bytes"),
        (Some(""), "", "is missing or empty"),
    ] {
        let said = with(content, node_addr).expect_err(expected);
        assert!(said.starts_with("config.toml") && said.contains("consensus_raft.node_addr"), "{said}");
        assert!(said.contains(expected), "{expected}\nin\n{said}");
    }
}

#[test]
fn a_file_without_the_section_is_refused_with_one_line() {
    let said = parse("[controller]\nconsensus_port = 50001\n").expect_err("no section").to_string();
    assert_eq!(said, "config.toml: has no section [consensus_raft]");
    let missing = CitaConfig::load(Path::new("nowhere.toml")).expect_err("no file").to_string();
    assert!(missing.starts_with("nowhere.toml: cannot be read: No such file"), "{missing}");
}

#[test]
fn traces_have_a_table_of_their_own() {
    assert_eq!(parse(&section("")).expect("valid").tracing, None);
    let config = parse(&section("[consensus_raft.tracing]\nendpoint = 'http://c:4317'\nratio = 0.5\n"));
    let tracing = config.expect("valid").tracing.expect("there");
    assert_eq!((tracing.endpoint.as_str(), tracing.ratio_ppm), ("http://c:4317", 500_000));
    assert_eq!(tracing.service_name, "consensus");
    let said = mistakes("[consensus_raft.tracing]\nendpoint = 'https://c'\nratio = 'all'\n");
    assert!(said.contains("config.toml:5: consensus_raft.tracing.ratio is of type string"), "{said}");
    let said = mistakes("[consensus_raft.tracing]\nendpoint = 'https://c'\nratio = 1.5\n");
    for expected in [
        "config.toml: consensus_raft.tracing.ca is missing, must be the file",
        "config.toml:5: consensus_raft.tracing.ratio is 1.5, must be between 0 and 1",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let config = parse(&section("[consensus_raft.tracing]\nendpoint = 'https://c'\nca = 'collector.pem'\n"));
    let tracing = config.expect("valid").tracing.expect("there");
    assert!(tracing.ca.is_some_and(|ca| ca.ends_with("collector.pem")));
    let config = parse(&section("[consensus_raft.tracing]\nendpont = 'http://c:4317'\n")).expect("valid");
    assert_eq!(
        config.warnings,
        ["config.toml:4: consensus_raft.tracing.endpont is not known, it is ignored"]
    );
}
