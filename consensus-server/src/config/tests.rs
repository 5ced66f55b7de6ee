//! Each kind of mistake is found, named and located; what is right means what the example says.

use std::path::Path;

use super::security::CERTIFICATE_BYTES_MAX;
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

[security]
insecure = true
";

/// The same with mutual TLS.
fn with_tls() -> String {
    let text = GOOD.replace("insecure = true", "certificate = 'n.crt'\nkey = '/keys/n.key'\nca = 'ca.crt'");
    let text =
        text.replace("client = 'node1:7400'", &format!("client = 'node1:7400'\npublic_key = '{}'", pin('a')));
    text.replace(
        "client = '127.0.0.1:7410'\n\n[raft]",
        &format!("client = '127.0.0.1:7410'\npublic_key = ['{}', '{}']\n\n[raft]", pin('b'), pin('c')),
    )
}

/// The text of a public key, of one digit.
fn pin(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, "node.toml", Path::new("/etc/consensus"))
}

/// A certificate in PEM.
fn self_signed(key: &rcgen::KeyPair) -> String {
    let params = rcgen::CertificateParams::new(["n1".to_owned()]).expect("a name");
    params.self_signed(key).expect("signs").pem()
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
    let config = parse("[node]\nid = 7\ncluster = 'c'\n[security]\ninsecure = true\n").expect("valid");
    assert_eq!(config.members.len(), 1);
    assert_eq!(config.own().peer_address, "127.0.0.1:7401");
    let limits = Limits { inflight_proposals_max: config.block.inflight_max, ..Limits::default() };
    assert_eq!(config.limits, limits);
}

#[test]
fn security_is_plaintext_or_three_files_beside_the_configuration() {
    assert_eq!(parse(GOOD).expect("valid").security, Security::INSECURE);
    let config = parse(&with_tls()).expect("valid");
    let tls = Tls {
        certificate: "/etc/consensus/n.crt".into(),
        key: "/keys/n.key".into(),
        ca: "/etc/consensus/ca.crt".into(),
        accept_expired: false,
    };
    assert_eq!(config.security, Security { tls: Some(tls), ops_plaintext: false });
    let keys = |id: u64| config.members[id as usize - 1].public_keys.iter().map(Pin::to_string);
    assert_eq!(keys(1).collect::<Vec<_>>(), [pin('a')]);
    assert_eq!(keys(2).collect::<Vec<_>>(), [pin('b'), pin('c')], "two while it changes its key");
}

#[test]
fn the_public_key_of_a_member_may_come_from_its_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::KeyPair::generate().expect("a key");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("writes");
    // What comes behind the first is its chain, which vouches for others too.
    write("node1.crt", &(self_signed(&key) + &self_signed(&other)));
    write("empty.crt", "");
    write("large.crt", &"x".repeat(CERTIFICATE_BYTES_MAX as usize + 1));
    let with = |line: &str| with_tls().replace(&format!("public_key = '{}'", pin('a')), line);
    let parse = |text: &str| Config::parse(text, "node.toml", directory.path());
    let config = parse(&with("certificate = 'node1.crt'")).expect("valid");
    let expected = Pin::of_public_key(&rcgen::PublicKeyData::subject_public_key_info(&key));
    assert_eq!(config.members[0].public_keys, [expected]);
    let own = format!("public_key = ['{}', '{}']", pin('b'), pin('c'));
    for (text, expected) in [
        (with("certificate = 'none.crt'"), "peers.certificate is \"none.crt\": "),
        (with("certificate = 'none.crt'"), "/none.crt cannot be read: No such file"),
        (with("certificate = '.'"), "cannot be read: it is no regular file"),
        (with("certificate = 'empty.crt'"), "/empty.crt holds no certificate, must be PEM"),
        (with("certificate = 'large.crt'"), "/large.crt has more than 1048576 bytes"),
        (
            with(&format!("certificate = 'node1.crt'\npublic_key = '{}'", pin('a'))),
            "peers.certificate is given, must not be beside peers.public_key",
        ),
        (
            with("certificate = 'node1.crt'").replace(&own, "certificate = 'node1.crt'"),
            "which is given for node 1 too",
        ),
    ] {
        let found = parse(&text).expect_err("a mistake").to_string();
        assert!(found.contains(expected), "found    {found}\nexpected {expected}");
    }
}

#[test]
fn operations_speak_tls_beyond_this_host_unless_the_file_says_otherwise() {
    for (ops, extra, expected) in [
        ("127.0.0.1:7412", "", false),
        ("[::1]:7412", "", false),
        ("0.0.0.0:7412", "", true),
        ("10.0.0.1:7412", "", true),
        ("10.0.0.1:7412", "ops_plaintext = true\n", false),
    ] {
        let text = with_tls().replace("127.0.0.1:7412", ops) + extra;
        let config = parse(&text).expect("valid");
        assert_eq!(config.security.ops_speaks_tls(config.listen.ops), expected, "{ops} {extra}");
    }
    let open = with("ops = '127.0.0.1:7412'", "ops = '0.0.0.0:7412'");
    let config = parse(&open).expect("insecure allows it");
    assert!(!config.security.ops_speaks_tls(config.listen.ops));
}

#[test]
fn each_mistake_of_security_is_named() {
    let tls = with_tls();
    for (text, expected) in [
        (
            with("[security]\ninsecure = true\n", ""),
            "node.toml: [security] is missing, must be either insecure = true",
        ),
        (with("insecure = true", "insecure = false"), "node.toml:25: [security] is missing, must be either"),
        (
            with("[security]\ninsecure = true\n", "").replace("127.0.0.1:7412", "0.0.0.0:7412"),
            "node.toml:9: listen.ops is 0.0.0.0:7412, which is not only this host: needs certificates",
        ),
        (
            with("insecure = true", "insecure = true\nkey = 'k'"),
            "node.toml:26: security.key is given, must not be with security.insecure",
        ),
        (
            with("insecure = true", "insecure = true\naccept_expired = true"),
            "node.toml:26: security.accept_expired is true, which only TLS reads",
        ),
        (tls.replace("key = '/keys/n.key'\n", ""), "node.toml: security.key is missing, must be the file of"),
        (tls.replace("'ca.crt'", "''"), "node.toml:29: security.ca is empty, must be the file of"),
        (
            tls.replace(&format!("public_key = '{}'\n", pin('a')), ""),
            "node.toml:11: peers.public_key is missing for node 1, must be the SHA-256",
        ),
        (tls.replace(&pin('a'), "abc"), "node.toml:15: peers.public_key is \"abc\", must begin with"),
        (
            tls.replace(&pin('a'), "sha256:12"),
            "node.toml:15: peers.public_key is \"sha256:12\", must have 64 hex digits",
        ),
        (
            tls.replace(&pin('c'), &pin('a')),
            &format!("node.toml:21: peers.public_key is {}, which is given for node 1 too", pin('a')),
        ),
        (
            tls.replace(&format!("'{}', '{}'", pin('b'), pin('c')), ""),
            "node.toml:21: peers.public_key has 0 keys, must have between 1 and 4",
        ),
        (
            with("client = 'node1:7400'", "client = 'node1:7400'\npublic_key = 7"),
            "node.toml:15: peers.public_key: expected a text",
        ),
    ] {
        let found = mistakes(&text);
        assert!(found.starts_with(expected), "found    {found}\nexpected {expected}");
    }
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
        (with("id = 2", &format!("{}a = 1", "a.".repeat(100))), "node.toml:2: nested too deep"),
        (with("id = 2", &format!("id = {}", "[".repeat(100))), "node.toml:2: "),
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
fn what_a_file_says_cannot_command_the_terminal_or_fill_the_screen() {
    let found = mistakes(&with("tick_ms = 50", "\"a\\u001b[2J\\nb\" = 1"));
    assert!(found.contains("a\\u{1b}[2J\\nb"), "{found}");
    let found = mistakes(&with("cluster = 'demo'", &format!("cluster = '{}'", "x".repeat(100_000))));
    assert!(found.len() < 1500 && found.ends_with("more characters)"), "{found}");
}

#[test]
fn too_many_members_are_one_mistake() {
    let peers: String = (0..65).map(|_| "[[peers]]\nid = 0\npeer = ''\nclient = ''\n").collect();
    let found = mistakes(&with("[raft]", &format!("{peers}[raft]")));
    assert_eq!(found, "node.toml:269: [[peers]] has 67 entries, must have at most 64");
}

#[test]
fn another_kind_of_file_is_not_read_to_its_end() {
    let large = Config::load(Path::new("/dev/zero")).expect_err("endless").to_string();
    assert_eq!(large, "/dev/zero: cannot be read: it is larger than 1048576 bytes");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.toml");
    std::fs::write(&path, b"[node]\n\xff").expect("writes");
    let binary = Config::load(&path).expect_err("no text").to_string();
    assert!(binary.ends_with("cannot be read: it is no UTF-8 text from byte 7 on"), "{binary}");
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
    let text = format!("[node]\nid = 1\ncluster = '{}'\n[security]\ninsecure = true\n", example.cluster);
    let defaults = Config::parse(&text, "defaults", &dir).expect("valid");
    let (worker_threads, digest) = (defaults.worker_threads, defaults.digest);
    assert_eq!(Config { worker_threads, digest, ..example }, defaults);
    let mut ids = Vec::new();
    for id in 1..=4 {
        let config = Config::load(&dir.join(format!("four-nodes/node{id}.toml"))).expect("valid");
        assert_eq!(config.members.len(), 4);
        ids.push(config.node_id.get());
    }
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn the_configurations_of_containers_are_valid_and_differ_in_their_node_only() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    // The members' certificates, as they are mounted into each container.
    let certs = tempfile::tempdir().expect("a directory");
    for id in 1..=4 {
        let file = certs.path().join(format!("node{id}.crt"));
        std::fs::write(file, self_signed(&rcgen::KeyPair::generate().expect("a key"))).expect("writes");
    }
    let load = |file: &Path| {
        let text = std::fs::read_to_string(file).expect("there");
        let text = text.replace(
            "certificate = \"/certs/node",
            &format!("certificate = \"{}/node", certs.path().display()),
        );
        Config::parse(&text, "node.toml", Path::new("/etc/consensus")).expect("valid")
    };
    let named = |id: u64| {
        let compose = deploy.join(format!("compose/config/node{id}.toml"));
        [compose, deploy.join(format!("k8s/config/consensus-{}.toml", id - 1))]
    };
    let first = named(1).map(|file| load(&file));
    for id in 1..=4 {
        for (file, first) in named(id).iter().zip(&first) {
            let config = load(file);
            assert!(config.security.tls.is_some(), "{}: plaintext", file.display());
            assert!(config.security.ops_speaks_tls(config.listen.ops), "{}: plaintext", file.display());
            assert_eq!(config.node_id.get(), id, "{}", file.display());
            assert_eq!(config.data_dir, Path::new("/data"));
            let (node_id, digest) = (first.node_id, first.digest);
            assert_eq!(Config { node_id, digest, ..config }, *first, "{}", file.display());
            assert_eq!(first.members.len(), 4);
            let ports =
                [first.listen.client, first.listen.peer, first.listen.ops].map(|listen| listen.port());
            assert_eq!(ports, [7400, 7401, 7402]);
            assert!(first.listen.ops.ip().is_unspecified(), "scrapers come from outside");
        }
    }
}

#[test]
fn the_section_of_the_cita_pod_is_valid_once_the_account_is_mounted() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/k8s/cita/config.toml");
    let text = std::fs::read_to_string(&file).expect("there").replace("/mnt/node_address", "node_address");
    let account = tempfile::tempdir().expect("a directory");
    std::fs::write(account.path().join("node_address"), "c1bcd410636e5ece8699d44ec1b47996d7895ebe")
        .expect("is written");
    let config = super::CitaConfig::parse(&text, "config.toml", account.path()).expect("valid");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_key_is_in_the_example() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let example = std::fs::read_to_string(dir.join("node.example.toml")).expect("there");
    // serde lists all keys of a section when it meets an unknown one.
    for section in [
        "node",
        "chain",
        "listen",
        "security",
        "raft",
        "block",
        "limits",
        "limits.client",
        "submit",
        "log",
        "tracing",
    ] {
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

#[test]
fn clients_have_bounds_unless_the_file_says_otherwise() {
    let clients = |limits: &str| parse(&format!("{GOOD}\n{limits}")).expect("valid").clients;
    let defaults = clients("");
    let each = Client {
        rate: Some(Rate { per_s: 200_000, burst: 200_000 }),
        transactions_inflight_max: Some(12_500),
        bytes_inflight_max: Some(10 << 20),
        submit_streams_max: Some(256),
        deliver_streams_max: Some(32),
        calls_inflight_max: Some(4096),
        connections_max: Some(256),
    };
    assert_eq!((defaults.connections_max, defaults.deliver_streams_max, defaults.each), (1024, 64, each));
    let open = clients(
        "[limits.client]\ntransactions_per_s = 0\ntransactions_inflight_max = 0\nbytes_inflight_max = 0\n\
         submit_streams_max = 0\ndeliver_streams_max = 0\ncalls_inflight_max = 0\nconnections_max = 0\n",
    );
    assert_eq!(open.each, Client::default(), "0 is no limit");
    let rate = clients("[limits.client]\ntransactions_per_s = 50\n").each.rate;
    assert_eq!(rate, Some(Rate { per_s: 50, burst: 50 }), "a second's worth at once");
    let small = clients("[limits]\nclient_connections_max = 8\npool_transactions_max = 5\n").each;
    assert_eq!((small.connections_max, small.transactions_inflight_max), (Some(2), Some(1)), "a part of all");
}

#[test]
fn each_mistake_about_clients_is_named() {
    for (limits, expected) in [
        (
            "[limits]\nclient_connections_max = 0",
            "limits.client_connections_max is 0, must be between 1 and 1000000",
        ),
        (
            "[limits]\nclient_receive_bytes_max = 4096",
            "limits.client_receive_bytes_max is 4096, must be at least 17825792, a client's largest message",
        ),
        ("[limits]\ndeliver_stall_ms = 1", "limits.deliver_stall_ms is 1, must be between 100 and 3600000"),
        (
            "[limits.client]\nconnections_max = 2000",
            "limits.client.connections_max is 2000, must be at most limits.client_connections_max (1024), or 0 for no limit",
        ),
        (
            "[limits.client]\ntransactions_inflight_max = 100001",
            "limits.client.transactions_inflight_max is 100001, must be at most limits.pool_transactions_max (100000)",
        ),
        (
            "[limits.client]\ntransactions_burst = 7\ntransactions_per_s = 0",
            "limits.client.transactions_burst is 7, which nothing reads: limits.client.transactions_per_s is 0",
        ),
        (
            "[limits.client]\ntransactions_burst = 0",
            "limits.client.transactions_burst is 0, must be between 1",
        ),
        ("[limits.client]\nstreams = 0", "unknown field `streams`"),
    ] {
        let said = mistakes(&format!("{GOOD}{limits}\n"));
        assert!(said.contains(&expected.replace("field", "key")), "{said}");
        assert!(said.starts_with("node.toml:27: ") || said.starts_with("node.toml:28: "), "{said}");
    }
}

#[test]
fn the_memory_of_a_node_is_the_sum_of_its_bounds() {
    let mebibytes = |limits: &str| {
        let config = parse(&format!("{GOOD}\n{limits}")).expect("valid");
        config.memory_bytes_max().div_ceil(1 << 20)
    };
    let whole = mebibytes("");
    for (limits, less) in [
        ("[limits]\nclient_connections_max = 24", 1000 * (1024 + 192) / 1024),
        ("[limits]\ndeliver_streams_max = 14", 50 * 21),
        ("[limits]\npool_bytes_max = 33554432", 3 * 32),
        ("[limits]\ntail_bytes_max = 33554432", 32),
        ("[limits]\npeer_queue_bytes_max = 33554432", 32),
        ("[limits]\nclient_receive_bytes_max = 33554432", 96),
    ] {
        let saved = whole - mebibytes(limits);
        assert!(saved.abs_diff(less) <= 1, "{limits}: {saved} MiB less, expected {less}");
    }
}

#[test]
fn the_small_node_of_the_page_on_sizing_takes_what_the_page_says() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let read = |file: &str| std::fs::read_to_string(deploy.join(file)).expect("there");
    let (page, node) = (read("docs/sizing.md"), read("config/four-nodes/node1.toml"));
    let (before, rest) = page.split_once("```toml\n").expect("an example");
    let (bounds, _) = rest.split_once("```").expect("its end");
    let config = Config::parse(&format!("{node}\n{bounds}"), "node.toml", &deploy).expect("valid");
    let said = format!("{} MiB with three peers", config.memory_bytes_max().div_ceil(1 << 20));
    assert!(before.contains(&said), "{said}");
}

#[test]
fn traces_need_a_collector_and_their_mistakes_have_lines() {
    let node = "node = { id = 1, cluster = 'a' }\nsecurity = { insecure = true }\n\n";
    let parse = |text: &str| Config::parse(&format!("{node}{text}"), "node.toml", Path::new(""));
    assert_eq!(parse("").expect("valid").tracing, None);
    let tracing = parse("[tracing]\nendpoint = 'http://collector:4317'\n").expect("valid").tracing;
    let expected = Tracing {
        endpoint: "http://collector:4317".to_owned(),
        ca: None,
        ratio_ppm: 10_000,
        service_name: "consensus".to_owned(),
    };
    assert_eq!(tracing, Some(expected));
    let whole = parse("[tracing]\nendpoint = 'http://c:1'\nratio = 1\n").expect("valid").tracing;
    assert_eq!(whole.map(|tracing| tracing.ratio_ppm), Some(1_000_000));

    let mistakes = parse("[tracing]\nendpoint = 'collector'\nratio = 2.5\nservice_name = ''\n");
    let mistakes = mistakes.expect_err("three of them").to_string();
    for expected in [
        "node.toml:5: tracing.endpoint is \"collector\", must be a URL",
        "node.toml:6: tracing.ratio is 2.5, must be between 0 and 1",
        "node.toml:7: tracing.service_name has 0 characters",
    ] {
        assert!(mistakes.contains(expected), "{mistakes}");
    }
    let tls = parse("[tracing]\nendpoint = 'https://c:1'\nca = 'certs/ca.pem'\n").expect("valid").tracing;
    assert_eq!(tls.and_then(|tracing| tracing.ca).as_deref(), Some(Path::new("certs/ca.pem")));
    let mistakes = parse("[tracing]\nendpoint = 'http://c:1'\nca = 'ca.pem'\n").expect_err("not TLS");
    assert!(
        mistakes.to_string().contains("node.toml:6: tracing.ca is given, must not be with"),
        "{mistakes}"
    );
    let mistakes = parse("[tracing]\nratio = 0.5\n").expect_err("no collector").to_string();
    assert!(mistakes.contains("tracing.endpoint is missing"), "{mistakes}");
}
