//! The offline commands as a user runs them, on a store made by the storage itself: what they print for
//! programs is golden, damage is found, and the directory is never written to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use consensus_core::audit;
use consensus_core::ids::{Hash, NodeId, StoreIncarnation};
use consensus_core::ledger::{self, HashRule, Ledger, LedgerConfig, Transaction, encode_proposal};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{
    self, ApplicationWrite, Applied, ConfState, EntryKind, HardState, Identity, LogEntry, LogWriter,
    PeerRecord, Position, Snapshot, WriteBatch,
};
use consensus_proto::cita::exchange as wire;
use prost::Message as _;

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

fn identity() -> Identity {
    Identity {
        cluster: "test".to_owned(),
        chain: "main".to_owned(),
        chain_incarnation: 1,
        node_id: node(1),
        store_incarnation: StoreIncarnation([0xab; 16]),
        genesis_hash: ledger::genesis_hash("test", "main", 1, &[1, 2, 3], HashRule::Native),
        created_at_ms: 1_700_000_000_000,
    }
}

fn members() -> ConfState {
    ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
}

fn transaction(id: &'static [u8], payload: &'static [u8]) -> Transaction {
    Transaction { id: Bytes::from_static(id), payload: Bytes::from_static(payload) }
}

fn entry(index: u64, term: u64, kind: EntryKind, data: Bytes) -> LogEntry {
    LogEntry { index, term, kind, context: Bytes::new(), data }
}

/// A log of two terms: two blocks, a transaction that is there twice, a membership change, an entry that is
/// no block.
fn entries() -> Vec<LogEntry> {
    let first = [
        transaction(b"a-1", b"pay 5 to bob"),
        transaction(b"a-2", b"pay 6 to eve"),
        transaction(b"b-1", b"\xff\x00"),
    ];
    let second = [transaction(b"a-2", b"pay 6 to eve"), transaction(b"\x01", b"hex:text")];
    // The membership change {add learner 4}, as the schema of the Raft messages encodes it.
    let change = Bytes::from_static(&[0x12, 0x04, 0x08, 0x02, 0x10, 0x04]);
    vec![
        entry(1, 1, EntryKind::Normal, Bytes::new()),
        entry(2, 1, EntryKind::Normal, encode_proposal(1_700_000_001_000, &first)),
        entry(3, 1, EntryKind::ConfChangeV2, change),
        entry(4, 3, EntryKind::Normal, Bytes::new()),
        entry(5, 3, EntryKind::Normal, encode_proposal(1_700_000_002_000, &second)),
    ]
}

struct World {
    top: tempfile::TempDir,
}

impl World {
    fn data(&self) -> PathBuf {
        self.top.path().join("data")
    }

    /// A store with a chain of two blocks.
    fn new() -> Self {
        let world = Self { top: tempfile::tempdir().expect("a directory") };
        let store = world.open();
        store.create_chain(&identity(), &members()).expect("is created");
        let chain = identity().chain_id();
        store.open_chain(chain).expect("opens");
        let mut batch = WriteBatch::new(chain);
        batch.number = 1;
        batch.sync = true;
        batch.entries = entries();
        batch.hard_state = Some(HardState { term: 3, vote: Some(node(2)), commit: 5 });
        store.write(&[batch]).expect("writes");
        let mut ledger =
            Ledger::open(&store, chain, identity().genesis_hash, LedgerConfig::default()).expect("opens");
        let mut batch = WriteBatch::new(chain);
        for entry in entries() {
            batch.application.extend(ledger.apply(&entry).expect("applies").writes);
        }
        batch.applied = Some(Applied { index: 5, conf_state: ConfState { learners: vec![4], ..members() } });
        batch.peers = vec![peer(2, true), peer(3, false)];
        store.write(&[batch]).expect("writes");
        world
    }

    fn open(&self) -> RocksStore {
        RocksStore::open(&self.data(), &RocksOptions::default()).expect("opens")
    }

    /// Opening again moves what was in the write-ahead log into data files.
    fn settle(self) -> Self {
        let store = self.open();
        store.open_chain(identity().chain_id()).expect("opens");
        drop(store);
        drop(self.open());
        self
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_consensus-cli"))
            .args(arguments)
            .current_dir(self.top.path())
            .env_remove("CONSENSUS_NODES")
            .output()
            .expect("starts")
    }

    /// Files of the directory with their content.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.data(), &mut files);
        files
    }
}

/// The beginnings of the addresses of two validators.
const FIRST: u64 = 0xc1bc_d410_636e_5ece;
const SECOND: u64 = 0xa516_9863_d569_2516;

fn cita_entry(index: u64, entry: wire::entry::Entry) -> LogEntry {
    let data = wire::Entry { entry: Some(entry) }.encode_to_vec();
    LogEntry { index, term: 2, kind: EntryKind::Normal, context: Bytes::new(), data: data.into() }
}

fn cita_identity() -> Identity {
    Identity {
        cluster: "cita-cloud".to_owned(),
        chain: "cita".to_owned(),
        node_id: node(FIRST),
        genesis_hash: Hash([7; 32]),
        ..identity()
    }
}

/// A CITA-Cloud node's data directory: a snapshot of block 6, two blocks, one of them given up, an admission, a promise.
fn cita_world() -> World {
    let world = World { top: tempfile::tempdir().expect("a directory") };
    let store = RocksStore::open(&world.data().join("store"), &RocksOptions::default()).expect("opens");
    let seat = |node_id: u64| wire::Seat { node_id, incarnation: vec![node_id as u8; 16].into() };
    let block = |height, data: &'static [u8]| {
        wire::entry::Entry::Block(wire::Block { height, data: data.into(), proposer: SECOND })
    };
    let state = wire::State {
        agreed: Some(wire::Agreed {
            index: 1,
            block: Some(wire::Block { height: 6, data: b"earlier".as_slice().into(), proposer: FIRST }),
            void: false,
        }),
        roster: vec![seat(SECOND)],
    };
    let voters = ConfState { voters: vec![SECOND, FIRST], ..ConfState::default() };
    let snapshot = Snapshot {
        position: Position { index: 1, term: 1 },
        conf_state: voters.clone(),
        data: state.encode_to_vec().into(),
    };
    let identity = cita_identity();
    storage::found(&store, &identity, snapshot).expect("is founded");
    let chain = identity.chain_id();
    store.open_chain(chain).expect("opens");
    let mut batch = WriteBatch::new(chain);
    batch.number = 2;
    batch.sync = true;
    batch.entries = vec![
        cita_entry(2, block(7, b"proposal")),
        cita_entry(3, block(8, b"lost")),
        cita_entry(4, wire::entry::Entry::Void(wire::Void { from_height: 8, upto_index: 3 })),
        cita_entry(
            5,
            wire::entry::Entry::Admission(wire::Admission { roster: vec![seat(SECOND), seat(FIRST)] }),
        ),
    ];
    batch.hard_state = Some(HardState { term: 2, vote: Some(node(SECOND)), commit: 5 });
    store.write(&[batch]).expect("writes");
    let mut batch = WriteBatch::new(chain);
    let promise = wire::Promise { from_height: 8, upto_index: 3 }.encode_to_vec();
    batch.application = vec![ApplicationWrite { key: b"promise".to_vec(), value: Some(promise.into()) }];
    batch.applied = Some(Applied { index: 5, conf_state: voters });
    batch.peers = vec![PeerRecord { address: "10.0.0.2:50001".to_owned(), ..peer(SECOND, true) }];
    store.write(&[batch]).expect("writes");
    world
}

fn collect(directory: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for file in fs::read_dir(directory).expect("is a directory") {
        let path = file.expect("is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            let content = fs::read(&path).expect("is readable");
            files.insert(path, content);
        }
    }
}

fn peer(id: u64, connected: bool) -> PeerRecord {
    PeerRecord {
        node_id: node(id),
        address: format!("10.0.0.{id}:7401"),
        store_incarnation: connected.then_some(StoreIncarnation([id as u8; 16])),
        last_heard_ms: if connected { 1_700_000_003_000 } else { 0 },
        matched: 5 * u64::from(connected),
        next: 6,
        progress: if connected { "replicate" } else { "probe" }.to_owned(),
        connected,
        recorded_at_ms: 1_700_000_004_000,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("is text")
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Compares with a file beside this one; `UPDATE_GOLDEN=1` writes it anew.
fn assert_golden(name: &str, output: &Output) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let found = text(&output.stdout);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &found).expect("writes");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; UPDATE_GOLDEN=1 accepts what is found", path.display());
}

#[test]
fn what_programs_rely_on_is_as_it_was() {
    let world = World::new();
    for (name, arguments) in [
        ("dump.json", &["dump", "data", "--json", "--payloads"][..]),
        ("dump-range.json", &["dump", "data", "--json", "--from", "2", "--to", "3"]),
        ("hard-state.json", &["hard-state", "data", "--json"]),
        ("snapshot.json", &["snapshot", "data", "--json"]),
        ("peers.json", &["peers", "data", "--json"]),
        ("verify.json", &["verify", "data", "--json"]),
        ("blocks.jsonl", &["blocks", "data"]),
    ] {
        let output = world.cli(arguments);
        assert_code(&output, 0);
        assert_golden(name, &output);
    }
}

#[test]
fn what_people_read_is_as_it_was() {
    let world = World::new();
    for (name, arguments) in [
        ("dump.txt", &["dump", "data"][..]),
        ("hard-state.txt", &["hard-state", "data"]),
        ("snapshot.txt", &["snapshot", "data"]),
        ("peers.txt", &["peers", "data"]),
    ] {
        let output = world.cli(arguments);
        assert_code(&output, 0);
        assert_golden(name, &output);
    }
}

#[test]
fn a_cita_cloud_nodes_directory_is_shown_by_height_and_address() {
    let world = cita_world();
    for (name, arguments) in [
        ("cita-dump.txt", &["dump", "data"][..]),
        ("cita-dump.json", &["dump", "data", "--json", "--payloads"]),
        ("cita-snapshot.txt", &["snapshot", "data"]),
        ("cita-snapshot.json", &["snapshot", "data", "--json"]),
        ("cita-hard-state.txt", &["hard-state", "data"]),
        ("cita-peers.txt", &["peers", "data"]),
        ("cita-verify.txt", &["verify", "data"]),
        ("cita-verify.json", &["verify", "data", "--json"]),
    ] {
        let output = world.cli(arguments);
        assert_code(&output, 0);
        assert_eq!(text(&output.stderr), "reading data/store\n", "{name}");
        assert_golden(name, &output);
    }
    let output = world.cli(&["dump", "data/store"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn blocks_of_a_cita_cloud_chain_are_said_to_be_elsewhere() {
    let output = cita_world().cli(&["blocks", "data"]);
    assert_code(&output, 2);
    assert!(text(&output.stderr).contains("in its controller's storage"), "{}", text(&output.stderr));
}

#[test]
fn an_entry_that_is_none_of_a_cita_cloud_chain_is_found() {
    let world = cita_world();
    let store = RocksStore::open(&world.data().join("store"), &RocksOptions::default()).expect("opens");
    let chain = cita_identity().chain_id();
    store.open_chain(chain).expect("opens");
    let mut batch = WriteBatch::new(chain);
    batch.number = 3;
    batch.sync = true;
    batch.entries = vec![entry(6, 2, EntryKind::Normal, Bytes::from_static(b"\xff"))];
    store.write(&[batch]).expect("writes");
    drop(store);
    for (command, words) in
        [("verify", "log 6 of chain cita: this is no entry"), ("dump", "this is no entry")]
    {
        let output = world.cli(&[command, "data"]);
        assert_code(&output, 1);
        assert!(text(&output.stdout).contains(words), "{}", text(&output.stdout));
    }
}

#[test]
fn a_range_and_a_limit_choose_entries() {
    let world = World::new();
    let indexes = |arguments: &[&str]| {
        let output = world.cli(&[&["dump", "data", "--json"], arguments].concat());
        assert_code(&output, 0);
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
        let entries = dump["chains"][0]["entries"].as_array().expect("entries").clone();
        Vec::from_iter(entries.iter().map(|entry| entry["index"].as_u64().expect("a number")))
    };
    assert_eq!(indexes(&["--from", "4"]), [4, 5]);
    assert_eq!(indexes(&["--to", "2"]), [1, 2]);
    assert_eq!(indexes(&["--from", "2", "--limit", "2"]), [2, 3]);
    assert_eq!(indexes(&["--limit", "0"]), [0u64; 0]);
    assert_eq!(indexes(&["--from", "3", "--to", "2"]), [0u64; 0]);
}

#[test]
fn blocks_come_in_the_range_asked_for() {
    let world = World::new();
    let output = world.cli(&["blocks", "data", "--from", "2", "--no-payloads"]);
    assert_code(&output, 0);
    let block: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(block["height"], 2);
    assert_eq!(block["transactions"], serde_json::json!([{ "id": "hex:01", "bytes": 8, "payload": null }]));
    let output = world.cli(&["blocks", "data", "--to", "1"]);
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let output = world.cli(&["blocks", "data", "--from", "3"]);
    assert_code(&output, 0);
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn a_running_node_is_no_hindrance_and_verification_says_that_it_runs() {
    let world = World::new();
    let store = world.open();
    store.open_chain(identity().chain_id()).expect("opens");
    let output = world.cli(&["verify", "data", "--json"]);
    assert_code(&output, 0);
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!((&verified["clean"], &verified["in_use"]), (&true.into(), &true.into()));
    for command in ["dump", "hard-state", "snapshot", "peers", "blocks"] {
        assert_code(&world.cli(&[command, "data"]), 0);
    }
    drop(store);
}

#[test]
fn nothing_is_ever_written_into_the_directory() {
    for world in [World::new(), World::new().settle()] {
        let before = world.files();
        for command in ["dump", "hard-state", "snapshot", "peers", "verify", "blocks"] {
            assert_code(&world.cli(&[command, "data"]), 0);
        }
        let after = world.files();
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert!(before == after, "a file has changed");
    }
}

#[test]
fn a_directory_that_is_none_of_ours_is_refused_with_its_name() {
    let world = World::new();
    fs::create_dir(world.top.path().join("empty")).expect("is created");
    for directory in ["empty", "missing"] {
        for command in ["dump", "hard-state", "snapshot", "peers", "verify", "blocks"] {
            let output = world.cli(&[command, directory]);
            assert_code(&output, 2);
            let words = text(&output.stderr);
            assert!(words.contains(&format!("{directory} is not a data directory")), "{command}: {words}");
        }
    }
}

#[test]
fn a_chain_that_is_not_there_is_refused_with_those_that_are() {
    let world = World::new();
    let output = world.cli(&["dump", "data", "--chain", "other"]);
    assert_code(&output, 2);
    assert!(
        text(&output.stderr).contains("no chain other in data, it has: main"),
        "{}",
        text(&output.stderr)
    );
    assert_code(&world.cli(&["dump", "data", "--chain", "main"]), 0);
}

#[test]
fn wrong_usage_is_exit_code_2_and_names_what_is_wrong() {
    let world = World::new();
    for (arguments, words) in [
        (&["dump"][..], "<DIR>"),
        (&["dump", "data", "--from", "x"], "--from"),
        (&["no-such-command"], "no-such-command"),
        (&["tip", "--nodes", "localhost"], "host:port"),
        (&["bench", "b1", "--nodes", "a:1", "--payload", "0"], "--payload"),
        (&["submit", "--lines", "no-such-file", "--to", "127.0.0.1:1"], "opening no-such-file"),
    ] {
        let output = world.cli(arguments);
        assert_code(&output, 2);
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_code(&world.cli(&["--help"]), 0);
    assert_code(&world.cli(&["--version"]), 0);
}

/// The data files that hold records, by their type's suffix.
fn files_of(world: &World, suffix: &str) -> Vec<PathBuf> {
    let files = world.files().into_keys();
    files.filter(|path| path.extension().is_some_and(|extension| extension == suffix)).collect()
}

#[test]
fn a_flipped_byte_in_a_payload_on_disk_is_found() {
    let world = World::new().settle();
    let mut flipped = 0;
    for path in files_of(&world, "sst") {
        let mut content = fs::read(&path).expect("is readable");
        let Some(at) = content.windows(12).position(|window| window == b"pay 5 to bob") else { continue };
        content[at] ^= 1;
        fs::write(&path, content).expect("writes");
        flipped += 1;
    }
    assert!(flipped > 0, "the payload is in a data file as it is");
    let output = world.cli(&["verify", "data"]);
    assert_code(&output, 1);
    assert!(text(&output.stdout).contains("damaged"), "{}", text(&output.stdout));
    for arguments in [&["dump", "data"][..], &["dump", "data", "--json"], &["blocks", "data"]] {
        let output = world.cli(arguments);
        assert_code(&output, 1);
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
    }
    // What is not damaged is still shown.
    for command in ["hard-state", "snapshot", "peers"] {
        assert_code(&world.cli(&[command, "data"]), 0);
    }
}

/// Runs `verify` with each of some bytes of a file flipped, spread over the file; exit codes and positions.
fn verify_with_flips(world: &World, path: &Path) -> Vec<(usize, Option<i32>)> {
    let good = fs::read(path).expect("is readable");
    let mut codes = Vec::new();
    for at in (0..good.len()).step_by((good.len() / 16).max(1)) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(path, &bad).expect("writes");
        let output = world.cli(&["verify", "data"]);
        let words = text(&output.stderr);
        assert!(!words.contains("panicked"), "{} at {at}: {words}", path.display());
        codes.push((at, output.status.code()));
    }
    fs::write(path, &good).expect("writes");
    codes
}

/// Where the filter of a data file is, which only spares reads: a damaged one is passed over.
fn filter_of(file: &[u8]) -> std::ops::Range<usize> {
    let metadata = b"rocksdb.block.based.table";
    let end = file.windows(metadata.len()).position(|window| window == metadata).expect("has metadata");
    end.saturating_sub(192)..end
}

#[test]
fn a_flipped_byte_in_any_data_file_is_found_or_in_the_filter_and_harmless() {
    let world = World::new().settle();
    let files = files_of(&world, "sst");
    assert!(files.len() >= 3, "each family has a data file: {files:?}");
    let dump = || text(&world.cli(&["dump", "data", "--json", "--payloads"]).stdout);
    let whole = dump();
    for path in files {
        let good = fs::read(&path).expect("is readable");
        for (at, code) in verify_with_flips(&world, &path) {
            if code == Some(0) {
                assert!(filter_of(&good).contains(&at), "{} at {at}", path.display());
                let mut bad = good.clone();
                bad[at] ^= 0x40;
                fs::write(&path, bad).expect("writes");
                assert_eq!(dump(), whole, "{} at {at}", path.display());
                fs::write(&path, &good).expect("writes");
            } else {
                assert_eq!(code, Some(1), "{} at {at}", path.display());
            }
        }
    }
    assert_code(&world.cli(&["verify", "data"]), 0);
}

#[test]
fn a_flipped_byte_in_the_write_ahead_log_of_a_killed_node_is_found() {
    let world = World::new();
    let files = files_of(&world, "log");
    assert!(!files.is_empty());
    for path in files {
        for (at, code) in verify_with_flips(&world, &path) {
            assert_eq!(code, Some(1), "{} at {at}", path.display());
        }
    }
    assert_code(&world.cli(&["verify", "data"]), 0);
}

/// Writes an audit log of four records beside the store.
fn write_audit_log(world: &World) -> Vec<String> {
    let (mut tail, mut lines) = (audit::Tail::default(), Vec::new());
    for (at_ms, action) in [(1, "start"), (2, "log-filter"), (3, "transfer-leader"), (4, "stop")] {
        let (line, next) = tail.line(at_ms, &audit::Entry::new("CN=alice", action, "done").with("n", at_ms));
        tail = next;
        lines.push(line);
    }
    fs::write(world.data().join(audit::FILE), lines.concat()).expect("writes");
    lines
}

#[test]
fn the_audit_log_is_shown_and_its_check_is_part_of_verify() {
    let world = World::new().settle();
    assert_code(&world.cli(&["audit", "data"]), 2);
    let lines = write_audit_log(&world);
    let output = world.cli(&["verify", "data"]);
    assert_code(&output, 0);
    assert!(text(&output.stdout).contains("audit log: 4 records, the last is 4"), "{}", text(&output.stdout));
    let output = world.cli(&["audit", "data"]);
    assert_code(&output, 0);
    assert!(text(&output.stdout).contains("CN=alice  log-filter n=\"2\": done"), "{}", text(&output.stdout));
    let output = world.cli(&["audit", "data", "--last", "1", "--json"]);
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert!(text(&output.stdout).contains("\"schema\":\"consensus-cli/audit/1\",\"sequence\":4"));
    let file = world.data().join(audit::FILE);
    for (content, finding) in [
        (lines.concat().replace("log-filter", "log-files"), "changed"),
        ([&lines[..1], &lines[2..]].concat().concat(), "missing"),
        (lines.concat().trim_end().to_owned(), "torn"),
    ] {
        fs::write(&file, content).expect("writes");
        let output = world.cli(&["verify", "data"]);
        assert_code(&output, 1);
        assert!(text(&output.stdout).contains(&format!("audit-{finding}")), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains("data: 1 finding"), "{}", text(&output.stdout));
        let output = world.cli(&["audit", "data"]);
        assert_code(&output, 1);
        assert!(text(&output.stdout).contains(finding), "{}", text(&output.stdout));
    }
}
