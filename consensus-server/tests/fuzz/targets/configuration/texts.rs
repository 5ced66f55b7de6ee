//! Configuration files that are nearly right: keys with values around their bounds, and the examples that are
//! shipped, with lines and characters changed.

use std::fmt::Write;

use super::super::draws::Draws;

/// Files with a validator's address: one that is right, and others.
pub(super) const ADDRESS_FILES: [(&str, &[u8]); 5] = [
    ("node_address", b"0xc1bcd410636e5ece8699d44ec1b47996d7895ebe\n"),
    ("zero", b"0000000000000000c1bcd410636e5ece86990000"),
    ("short", b"c1bc"),
    ("empty", b""),
    ("binary", &[0xff, 0xfe, 0, 1, 2]),
];

/// Largest text.
const TEXT_BYTES_MAX: usize = 48 << 10;

const EXAMPLES: [&str; 3] = [
    include_str!("../../../../../deploy/config/node.example.toml"),
    include_str!("../../../../../deploy/config/four-nodes/node1.toml"),
    include_str!("../../../../../deploy/config/four-nodes/node4.toml"),
];
const CITA_EXAMPLE: &str = include_str!("../../../../../deploy/config/cita.example.toml");

/// A section, a key of it, and numbers around which the key changes its meaning.
type Number = (&'static str, &'static str, &'static [u64]);
/// A section, a key of it, and texts of which some are right.
type Text = (&'static str, &'static str, &'static [&'static str]);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const OWN_NUMBERS: [Number; 31] = [
    ("node", "worker_threads", &[2, 8, 1024]),
    ("chain", "incarnation", &[1, u64::MAX]),
    ("raft", "tick_ms", &[5, 100, 10_000]),
    ("raft", "heartbeat_ticks", &[1, 5, 10, 100]),
    ("raft", "election_ticks", &[2, 10, 100, 1000]),
    ("raft", "election_ticks_min", &[2, 11, 101, 1001, 2000]),
    ("raft", "election_ticks_max", &[3, 20, 200, 2000, 4000]),
    ("block", "messages_max", &[1, 500, 65_536]),
    ("block", "preferred_bytes", &[1, KIB, 2 * MIB, 10 * MIB, GIB]),
    ("block", "absolute_bytes", &[KIB, 2 * MIB, 10 * MIB, 16 * MIB, GIB]),
    ("block", "timeout_ms", &[1, 2000, 3_600_000]),
    ("block", "inflight_max", &[1, 64, 4096]),
    ("limits", "entry_bytes_max", &[KIB, 10 * MIB + 8016, 16 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "append_bytes_max", &[KIB, MIB, 4 * GIB]),
    ("limits", "inflight_appends_max", &[1, 64, 1_000_000]),
    ("limits", "uncommitted_bytes_max", &[KIB, 16 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "apply_bytes_max", &[KIB, 8 * MIB, 4 * GIB]),
    ("limits", "apply_backlog_bytes_max", &[KIB, 16 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "unpersisted_rounds_max", &[1, 64, 1_000_000]),
    ("limits", "unpersisted_bytes_max", &[KIB, 16 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "tail_bytes_max", &[KIB, 16 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "pending_reads_max", &[1, 4096, 1_000_000]),
    ("limits", "peer_queue_bytes_max", &[KIB, 17 * MIB, 64 * MIB, 4 * GIB]),
    ("limits", "peer_queue_messages_max", &[1, 4096, 1_000_000]),
    ("limits", "pool_transactions_max", &[1, 100_000, 10_000_000]),
    ("limits", "pool_bytes_max", &[KIB, 10 * MIB, 64 * MIB, 16 * GIB]),
    ("limits", "stream_frames_max", &[1, 256, 65_536]),
    ("limits", "connection_streams_max", &[1, 4096, 1_000_000]),
    ("submit", "deadline_ms", &[10, 10_000, 600_000]),
    ("node", "id", &[1, 2, 3, u64::MAX]),
    ("node", "unknown", &[1]),
];

const LISTEN: [&str; 10] = [
    "127.0.0.1:7400",
    "127.0.0.1:7401",
    "127.0.0.1:0",
    "0.0.0.0:7401",
    "[::]:7402",
    "[::1]:9000",
    "10.1.2.3:65535",
    "localhost:7400",
    "7400",
    "",
];

const OWN_TEXTS: [Text; 8] = [
    ("node", "cluster", &["demo", "a.b_c-D9", "", "two words", "b\u{fc}cher", "x\\u0000y"]),
    ("node", "data_dir", &["data", "/var/lib/consensus", "", "../..", "\u{2603}"]),
    ("chain", "name", &["main", "second", "", "../main", "new\\nline", "tab\\t"]),
    ("listen", "client", &LISTEN),
    ("listen", "peer", &LISTEN),
    ("listen", "ops", &LISTEN),
    ("log", "filter", &["info", "raft=warn,info", "", "loud", "[", "a=b=c", "info,\\u001b[31mred"]),
    ("log", "format", &["human", "json", "xml", "\\u0007"]),
];

/// `host:port` of other nodes, right and wrong.
const HOSTS: [&str; 19] = [
    "node1:7401",
    "10.0.0.2:7401",
    "[::1]:7401",
    "node-2.example.org:80",
    "node1:0",
    "node1:65536",
    "node1:+80",
    "node1:-1",
    "node1: 80",
    "node 1:80",
    "a?b:80",
    "a#b:80",
    "user@host:80",
    "b\u{fc}cher:80",
    "a\\nb:80",
    "a\\u001bb:80",
    "::1:80",
    ":80",
    "",
];

const CITA_NUMBERS: [Number; 13] = [
    ("consensus_raft", "grpc_listen_port", &[0, 50_001, 50_004, 65_535]),
    ("consensus_raft", "network_port", &[1, 50_000, 60_001, 65_535]),
    ("consensus_raft", "controller_port", &[1, 50_004, 65_535]),
    ("consensus_raft", "metrics_port", &[0, 60_001, 50_001, 65_535]),
    ("consensus_raft", "log_rotate_size", &[KIB, 128 * MIB, u64::MAX]),
    ("consensus_raft", "log_rotate_keep", &[0, 5, 1000]),
    ("consensus_raft", "tick_interval_in_millis", &[5, 100, 200, 10_000]),
    ("consensus_raft", "heartbeat_tick", &[1, 4, 15, 1000]),
    ("consensus_raft", "election_tick", &[2, 10, 50, 10_000]),
    ("consensus_raft", "block_bytes_max", &[KIB, 64 * MIB, GIB]),
    ("consensus_raft", "snapshot_every_entries", &[1, 256, 1_000_000]),
    ("consensus_raft", "no_such_key", &[1]),
    ("other_service", "port", &[1]),
];

const CITA_TEXTS: [Text; 12] = [
    (
        "consensus_raft",
        "node_addr",
        &["node_address", "node_address", "zero", "short", "empty", "binary", ".", ""],
    ),
    ("consensus_raft", "log_level", &["info", "Warning", "critical", "trace", "a=b", "loud", ""]),
    ("consensus_raft", "log_dir", &["logs", "/var/log", ""]),
    ("consensus_raft", "log_file_name", &["x.log", "", "..", ".", "a/b", "/a", "a/", "x\\n"]),
    ("consensus_raft", "raft_data_path", &["raft-data-dir", "", "/"]),
    ("consensus_raft", "admin_addr", &["127.0.0.1:50005", "[::1]:0", "localhost:1", ""]),
    ("consensus_raft", "esc\\u001bape", &["x"]),
    (
        "system_config",
        "chain_id",
        &["0x01", "63586a3c0255f337c77a777ff54f0040b8c388da04f23ecee6bfd4953a6512b4", "xy", "", "0x0"],
    ),
    ("consensus_raft.peers", "a5169863d5692516b49b8bd4af1196af357ac802", &HOSTS),
    ("consensus_raft.peers", "c1bcd410636e5ece8699d44ec1b47996d7895ebe", &HOSTS),
    ("consensus_raft.peers", "a5169863d5692516ffffffffffffffffffffffff", &HOSTS),
    ("consensus_raft.peers", "\\u001b[2J", &HOSTS),
];

const FLAGS: [&str; 4] = ["check_quorum", "log_to_stdout", "log_rotate_compress", "enable_metrics"];

const BUCKETS: [&str; 7] = ["[1.0, 2.0]", "[]", "[1]", "[2, 1]", "[0.0, 1]", "[1, nan]", "[1.0, inf]"];

/// Values of any kind.
const VALUES: [&str; 30] = [
    "0",
    "1",
    "-1",
    "+7",
    "0x10",
    "0o17",
    "0b11",
    "1_000",
    "00",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e400",
    "1.5",
    "nan",
    "-inf",
    "true",
    "\"\"",
    "\"text\"",
    "'''a\nb'''",
    "\"\\u202e\"",
    "[]",
    "[[[[]]]]",
    "{}",
    "{a = {b = {c = 1}}}",
    "1979-05-27T07:32:00Z",
    "\"\\uD800\"",
    "",
];

/// A key that can stand in a line, quoted if it must be.
fn quoted(key: &str) -> String {
    let bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { key.to_owned() } else { format!("\"{key}\"") }
}

/// Keys under their sections, each section once and in the order of its first key.
#[derive(Default)]
struct Sections(Vec<(String, String)>);

impl Sections {
    fn add(&mut self, section: &str, key: &str, value: impl std::fmt::Display) {
        let line = format!("{} = {value}\n", quoted(key));
        match self.0.iter_mut().find(|(name, _)| name == section) {
            Some((_, lines)) => lines.push_str(&line),
            None => self.0.push((section.to_owned(), line)),
        }
    }

    fn draw(&mut self, draws: &mut Draws<'_>, parts: u8, numbers: &[Number], texts: &[Text]) {
        for (section, key, around) in numbers {
            if draws.chance(parts) {
                match draws.chance(8) {
                    true => self.add(section, key, draws.pick(&VALUES)),
                    false if draws.chance(160) => self.add(section, key, draws.pick(around)),
                    false => self.add(section, key, draws.near(around)),
                }
            }
        }
        for (section, key, choices) in texts {
            if draws.chance(parts) {
                match draws.chance(8) {
                    true => self.add(section, key, draws.pick(&VALUES)),
                    // The first ones are right.
                    false if draws.chance(200) => self.add(section, key, format!("\"{}\"", choices[0])),
                    false => self.add(section, key, format!("\"{}\"", draws.pick(choices))),
                }
            }
        }
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (name, lines) in self.0 {
            let _ = write!(text, "[{name}]\n{lines}");
        }
        text
    }
}

/// A node's own file from keys.
pub(super) fn own_keys(draws: &mut Draws<'_>) -> String {
    let mut sections = Sections::default();
    if !draws.chance(16) {
        sections.add("node", "id", draws.near(&[1, 2]).max(1));
        sections.add("node", "cluster", "'demo'");
        sections.add("security", "insecure", "true");
    }
    let parts = draws.pick(&[4, 16, 48]);
    sections.draw(draws, parts, &OWN_NUMBERS[..29], &OWN_TEXTS[1..]);
    sections.draw(draws, 4, &OWN_NUMBERS[29..], &OWN_TEXTS[..1]);
    let mut text = sections.text();
    let peers = if draws.chance(96) { draws.pick(&[1, 2, 3, 4, 64, 65, 200]) } else { 0 };
    let wrong = draws.pick(&[0, 0, 8, 128]);
    for peer in 0..peers {
        let id = if draws.chance(wrong) { draws.number() } else { peer + 1 };
        let mut address = |kind: &str| {
            if draws.chance(wrong) { draws.pick(&HOSTS).to_owned() } else { format!("{kind}{peer}:7400") }
        };
        let (of_peer, of_client) = (address("p"), address("c"));
        let _ = write!(text, "[[peers]]\nid = {id}\npeer = \"{of_peer}\"\nclient = \"{of_client}\"\n");
    }
    text
}

/// A CITA-Cloud node's file from keys.
pub(super) fn cita_keys(draws: &mut Draws<'_>) -> String {
    let mut sections = Sections::default();
    let parts = draws.pick(&[4, 16, 48]);
    if !draws.chance(16) {
        sections.add("consensus_raft", "node_addr", "'node_address'");
        sections.draw(draws, parts, &CITA_NUMBERS, &CITA_TEXTS[1..]);
    } else {
        sections.draw(draws, parts, &CITA_NUMBERS, &CITA_TEXTS);
    }
    let flag = draws.pick(&FLAGS);
    if draws.chance(64) {
        sections.add("consensus_raft", flag, draws.pick(&["true", "false", "1", "\"true\""]));
    }
    if draws.chance(64) {
        sections.add("consensus_raft", "metrics_buckets", draws.pick(&BUCKETS));
    }
    sections.text()
}

/// One of the shipped files of a node, changed.
pub(super) fn own_example(draws: &mut Draws<'_>) -> String {
    let example = draws.pick(&EXAMPLES);
    changed(draws, example)
}

/// The shipped file of a CITA-Cloud node, changed.
pub(super) fn cita_example(draws: &mut Draws<'_>) -> String {
    changed(draws, CITA_EXAMPLE)
}

/// A text after some changes.
fn changed(draws: &mut Draws<'_>, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..draws.below(5) {
        change_lines(draws, &mut lines);
    }
    let mut text = lines.join("\n");
    for _ in 0..draws.pick(&[0, 0, 0, 1, 1, 2, 5]) {
        change_characters(draws, &mut text);
    }
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// Any of them; lines that hold a key are most.
fn any_line(draws: &mut Draws<'_>, lines: &[String]) -> usize {
    let keys: Vec<usize> =
        (0..lines.len()).filter(|at| lines[*at].contains('=') && !lines[*at].starts_with("# ")).collect();
    let among = 256 * draws.below(256) + draws.below(256);
    if keys.is_empty() || draws.chance(32) { among % lines.len() } else { keys[among % keys.len()] }
}

fn change_lines(draws: &mut Draws<'_>, lines: &mut Vec<String>) {
    if lines.is_empty() {
        return;
    }
    let at = any_line(draws, lines);
    match draws.below(10) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => {
            let other = any_line(draws, lines);
            lines.swap(at, other);
        }
        // Keys that the examples only mention.
        3 => lines.iter_mut().for_each(|line| {
            if line.starts_with("# [") || line.starts_with("# ") && line.contains(" = ") {
                line.drain(..2);
            }
        }),
        4 => lines.insert(
            at,
            draws.pick(&["[node]", "[[peers]]", "[limits]", "[", "]", "a.b.c.d = 1", "=", "\u{feff}"]).into(),
        ),
        5 => {
            let (key, value) = lines[at].split_once('=').unwrap_or((&lines[at], ""));
            let key =
                if draws.chance(128) { format!("{}x ", key.trim()) } else { "\"\\u0007\\n\" ".to_owned() };
            lines[at] = format!("{key}={value}");
        }
        6 => {
            let key = lines[at].split('=').next().unwrap_or_default().to_owned();
            lines[at] = format!("{key}= {}", draws.near(&[1, 10, 100, 65_536, MIB, GIB]));
        }
        7 => {
            let key = lines[at].split('=').next().unwrap_or_default().to_owned();
            lines[at] = format!("{key}= {}", deep(draws));
        }
        _ => {
            let key = lines[at].split('=').next().unwrap_or_default().to_owned();
            lines[at] = format!("{key}= {}", draws.pick(&VALUES));
        }
    }
}

/// Something long or deep.
fn deep(draws: &mut Draws<'_>) -> String {
    let times = draws.pick(&[10, 79, 80, 81, 1000, 20_000]);
    match draws.below(6) {
        0 => "[".repeat(times),
        1 => format!("{}{}", "[".repeat(times), "]".repeat(times)),
        2 => format!("{}1{}", "{a = ".repeat(times), "}".repeat(times)),
        3 => format!("1\n{} = 1", "a.".repeat(times) + "a"),
        4 => format!("\"{}\"", "x".repeat(times)),
        _ => format!("1\n{}", "[[peers]]\n".repeat(times)),
    }
}

fn change_characters(draws: &mut Draws<'_>, text: &mut String) {
    let among = 256 * draws.below(256) + draws.below(256);
    let at = text.floor_char_boundary(among % (text.len() + 1));
    match draws.below(4) {
        0 => text.truncate(at),
        1 => text.insert(at, char::from(draws.byte())),
        2 => text.insert_str(
            at,
            draws.pick(&["\"", "'", "[", "]", "=", "\n", "#", "\u{0}", "\u{1f980}", "\r", "\"\"\""]),
        ),
        _ => {
            if at < text.len() {
                text.remove(at);
            }
        }
    }
}
