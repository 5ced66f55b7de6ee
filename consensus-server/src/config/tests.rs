//! Each kind of mistake is found, named and located; what is right means what the example says.

use std::path::Path;

use super::*;

const GOOD: &str = "\
[node]
id = 2
cluster = 'demo'
data_dir = 'store'

[listen]
client = '127.0.0.1:7410'
peer = '127.0.0.1:7411'
ops = '127.0.0.1:7412'

[[peers]]
id = 1
peer = 'node1:7401'
client = 'node1:7400'

[[peers]]
id = 2
peer = '127.0.0.1:7411'
client = '127.0.0.1:7410'

[raft]
tick_ms = 50
";

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, "node.toml", Path::new("/etc/consensus"))
}

/// The text with one line replaced by another.
fn with(line: &str, by: &str) -> String {
    assert!(GOOD.contains(line), "{line:?} is not in the text");
    GOOD.replacen(line, by, 1)
}

fn mistakes(text: &str) -> String {
    parse(text).expect_err("a mistake").to_string()
}

#[test]
fn a_file_means_what_it_says() {
    let config = parse(GOOD).expect("valid");
    assert_eq!(config.node_id.get(), 2);
    assert_eq!(config.data_dir, Path::new("/etc/consensus/store"), "relative to the file");
    assert_eq!(config.raft.tick, Duration::from_millis(50));
    assert_eq!((config.raft.election_ticks_min, config.raft.election_ticks_max), (11, 20));
    assert_eq!(config.own().client_address, "127.0.0.1:7410");
    let others: Vec<u64> = config.others().map(|member| member.node_id.get()).collect();
    assert_eq!(others, [1]);
}

#[test]
fn without_peers_the_chain_has_one_member() {
    let config = parse("[node]\nid = 7\ncluster = 'c'\n").expect("valid");
    assert_eq!(config.members.len(), 1);
    assert_eq!(config.own().peer_address, "127.0.0.1:7401");
    let limits = Limits { inflight_proposals_max: config.block.inflight_max, ..Limits::default() };
    assert_eq!(config.limits, limits);
}

#[test]
fn the_development_configuration_is_valid_for_any_address() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::dev(Path::new("/tmp/x"), Listen { client: free, peer: free, ops: free });
    assert_eq!((config.node_id.get(), config.cluster.as_str()), (1, "dev"));
    assert_eq!(config.data_dir, Path::new("/tmp/x"));
}

#[test]
fn each_kind_of_mistake_names_file_line_key_value_and_bound() {
    for (text, expected) in [
        // Text that is no TOML
        (with("[node]", "[node"), "node.toml:1: unclosed table, expected `]`"),
        (with("id = 2", "id = 2\nid = 3"), "node.toml:3: duplicate key"),
        // Keys
        (with("tick_ms = 50", "tick_msec = 50"), "node.toml:22: raft: unknown key `tick_msec`"),
        (with("[raft]", "[rafts]"), "node.toml:21: unknown key `rafts`"),
        (with("peer = 'node1:7401'\n", ""), "node.toml:11: peers: missing key `peer`"),
        (
            with("cluster = 'demo'", ""),
            "node.toml: node.cluster is missing, must be a name of 1 to 64 characters",
        ),
        (with("id = 2\n", ""), "node.toml: node.id is missing, must be a number from 1 on"),
        // Types
        (
            with("tick_ms = 50", "tick_ms = '50'"),
            "node.toml:22: raft.tick_ms: invalid type: string \"50\", expected u64",
        ),
        (
            with("tick_ms = 50", "tick_ms = -1"),
            "node.toml:22: raft.tick_ms: invalid value: integer `-1`, expected u64",
        ),
        (with("cluster = 'demo'", "cluster = 4"), "node.toml:3: node.cluster: invalid type: integer `4`"),
        // Bounds
        (with("id = 2", "id = 0"), "node.toml:2: node.id is 0, must be at least 1"),
        (with("tick_ms = 50", "tick_ms = 1"), "node.toml:22: raft.tick_ms is 1, must be between 5 and 10000"),
        (
            with("cluster = 'demo'", "cluster = 'a b'"),
            "node.toml:3: node.cluster is \"a b\", must be 1 to 64 characters",
        ),
        (with("data_dir = 'store'", "data_dir = ''"), "node.toml:4: node.data_dir is empty, must be a path"),
        // Values that contradict each other
        (
            with("tick_ms = 50", "heartbeat_ticks = 5\nelection_ticks = 5"),
            "node.toml:23: raft.election_ticks is 5, must be greater than raft.heartbeat_ticks (5)",
        ),
        (
            with("tick_ms = 50", "election_ticks_min = 9"),
            "node.toml:22: raft.election_ticks_min is 9, must be at least raft.election_ticks (10)",
        ),
        (
            with("tick_ms = 50", "election_ticks_max = 11"),
            "node.toml:22: raft.election_ticks_max gives a range of 11 to 11 ticks",
        ),
        (
            with("[raft]", "[block]\nabsolute_bytes = 100000\npreferred_bytes = 100001\n[raft]"),
            "node.toml:23: block.preferred_bytes is 100001, must be at most block.absolute_bytes (100000)",
        ),
        (
            with("[raft]", "[block]\nabsolute_bytes = 17000000\n[raft]"),
            "node.toml:22: block.absolute_bytes is 17000000, which with the framing",
        ),
        (
            with("[raft]", "[limits]\ntail_bytes_max = 2048\n[raft]"),
            "node.toml:22: limits.tail_bytes_max is 2048, must be at least 16777216 (entry_bytes_max)",
        ),
        // Addresses
        (
            with("client = '127.0.0.1:7410'", "client = 'localhost'"),
            "node.toml:7: listen.client is \"localhost\", must be an IP address and a port",
        ),
        (
            with("peer = 'node1:7401'", "peer = 'node1'"),
            "node.toml:13: peers.peer is \"node1\", must be host:port with a port between 1 and 65535",
        ),
        (
            with("peer = 'node1:7401'", "peer = 'node1:0'"),
            "node.toml:13: peers.peer is \"node1:0\", must be host:port",
        ),
        // Clashes
        (
            with("peer = '127.0.0.1:7411'", "peer = '0.0.0.0:7410'"),
            "node.toml:8: listen.peer is 0.0.0.0:7410, which listen.client uses too (127.0.0.1:7410)",
        ),
        (with("id = 1", "id = 2"), "node.toml:17: peers.id is 2, which another entry of [[peers]] has too"),
        (
            with("client = 'node1:7400'", "client = 'node1:7401'"),
            "node.toml:14: peers.client is node1:7401, which is the peer address of node 1 too",
        ),
        (with("id = 2", "id = 3"), "node.toml:2: node.id is 3, must be one of [[peers]] (1, 2)"),
        (
            with("ops = '127.0.0.1:7412'\n", "").replacen(
                "peer = '127.0.0.1:7411'",
                "peer = '127.0.0.1:0'",
                1,
            ),
            "node.toml:8: listen.peer is 127.0.0.1:0, must have a port",
        ),
        // Logging
        (
            with("[raft]", "[log]\nfilter = 'inof'\n[raft]"),
            "node.toml:22: log.filter is \"inof\": \"inof\" is no level",
        ),
        (
            with("[raft]", "[log]\nformat = 'xml'\n[raft]"),
            "node.toml:22: log.format is \"xml\", must be \"human\" or \"json\"",
        ),
    ] {
        let found = mistakes(&text);
        assert!(found.starts_with(expected), "found    {found}\nexpected {expected}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    let text = with("tick_ms = 50", "tick_ms = 0").replacen("cluster = 'demo'", "cluster = ''", 1);
    let found = mistakes(&text);
    let lines: Vec<&str> = found.lines().map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    assert_eq!(lines, ["node.cluster", "raft.tick_ms"], "{found}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let mistakes = Config::load(Path::new("/nowhere/node.toml")).expect_err("not there").to_string();
    assert!(mistakes.starts_with("/nowhere/node.toml: cannot be read: No such file"), "{mistakes}");
}

#[test]
fn the_examples_are_valid_and_the_commented_defaults_are_the_defaults() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let example = Config::load(&dir.join("node.example.toml")).expect("valid");
    let text = format!("[node]\nid = 1\ncluster = '{}'\n", example.cluster);
    let defaults = Config::parse(&text, "defaults", &dir).expect("valid");
    assert_eq!(Config { worker_threads: defaults.worker_threads, ..example }, defaults);
    let mut ids = Vec::new();
    for id in 1..=4 {
        let config = Config::load(&dir.join(format!("four-nodes/node{id}.toml"))).expect("valid");
        assert_eq!(config.members.len(), 4);
        ids.push(config.node_id.get());
    }
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn every_key_is_in_the_example() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let example = std::fs::read_to_string(dir.join("node.example.toml")).expect("there");
    // serde lists all keys of a section when it meets an unknown one.
    for section in ["node", "chain", "listen", "raft", "block", "limits", "submit", "log"] {
        let error = toml::from_str::<file::File>(&format!("[{section}]\n'?' = 1")).expect_err("unknown key");
        let keys: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert!(!keys.is_empty(), "{section}: {error}");
        for key in keys {
            let there =
                example.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(there, "{section}.{key} is not in the example");
        }
    }
}
