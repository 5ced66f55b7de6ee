//! What `deploy/docs/metrics.md` says: every series that a node serves, and its names elsewhere.
//!
//! The page is made from the text that a node with every series would serve, beside what people do with each
//! (`advice`) and what others call it (`elsewhere`). A family shows nothing before something has happened, so the
//! verbs that make its first series are called here, and what was registered and does not show up is a failure.
//! Alerts, dashboard and pages that name a series are held to what is served.

mod advice;
mod elsewhere;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus_core::ids::{Hash, NodeId};
use consensus_core::replica::{PeerProgress, PeerReport, Refusal, Report, Role, Status};

use super::{
    CallMetrics, ChainMetrics, ClientMetrics, ControllerMetrics, DropCause, Ended, ExchangeMetrics, Metrics,
    OrderingMetrics, PeerMetrics, SecurityMetrics, StoreMetrics, TraceMetrics, WriterMetrics,
};
use crate::chain::ChainObserver;
use crate::config::LogFormat;
use crate::telemetry::logging;

/// One thing that is measured.
#[derive(Debug, Default)]
struct Series {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// As they stand in the text, with the endings of their kind.
    samples: BTreeSet<String>,
    ordering: bool,
    cita: bool,
}

/// All of both kinds of node, by the name without the endings of their kind.
type All = BTreeMap<String, Series>;

/// A node of the ordering service to which everything has happened once.
fn ordering() -> Metrics {
    let peer = NodeId::new(2).expect("not 0");
    let metrics = process();
    chain(&metrics, "main", peer);
    let ordering = OrderingMetrics::new(&metrics, "main");
    ordering.submitted(Ended::Refused("overloaded"), 1);
    let peers = PeerMetrics::new(&metrics, "main");
    peers.peer(peer).dropped(DropCause::QueueFull, 1);
    peers.handshake_refused("cluster");
    peers.malformed(peer, "frame");
    let security = SecurityMetrics::new(&metrics);
    security.refused("peer", "expired");
    security.days_left("own", 29);
    security.alarm("files", true);
    ClientMetrics::new(&metrics, &["limits.client.connections_max"]);
    metrics.memory_bound(1);
    metrics
}

/// The same for a consensus service of CITA-Cloud.
fn cita() -> Metrics {
    let peer = NodeId::new(2).expect("not 0");
    let metrics = process();
    chain(&metrics, "cita", peer);
    CallMetrics::new(&metrics, &[1.0]);
    ControllerMetrics::new(&metrics, "cita").called("ping", None, Duration::ZERO);
    ExchangeMetrics::new(&metrics, "cita").peer(peer);
    metrics
}

fn process() -> Metrics {
    let metrics = Metrics::new(1);
    metrics.configured(Hash([0; 32]));
    let (_subscriber, log) = logging::build("info", LogFormat::Human).expect("valid");
    metrics.watch_log(log);
    metrics.watch_runtime();
    TraceMetrics::new(&metrics);
    metrics
}

fn chain(metrics: &Metrics, name: &str, peer: NodeId) {
    let chain = ChainMetrics::new(metrics, name);
    chain.report(&Report::Leadership { role: Role::Leader, term: 1, leader: Some(peer) });
    chain.report(&Report::GateRefused { from: peer, reason: "foreign" });
    chain.report(&Report::DiskHangs { ticks: 20, to: peer });
    chain.dropped(peer, 1);
    chain.status(&leading(peer));
    chain.proposal_ended(Err(&Refusal::Halted));
    chain.reads_ended(0, Err(&Refusal::Halted));
    for report in [PeerReport::Unreachable, PeerReport::SnapshotDelivered, PeerReport::SnapshotFailed] {
        chain.peer_report(peer, report);
    }
    WriterMetrics::new(metrics);
    StoreMetrics::new(metrics);
}

/// A leader that knows one peer.
fn leading(peer: NodeId) -> Status {
    let progress =
        PeerProgress { node_id: peer, matched: 1, next: 2, state: "replicate", active: true, voter: true };
    Status {
        node_id: NodeId::new(1).expect("not 0"),
        role: Role::Leader,
        term: 1,
        vote: None,
        leader: None,
        leader_heard: true,
        told_commit: None,
        commit: 1,
        applied: 1,
        persisted: 1,
        first: 1,
        last: 1,
        voters: vec![1, 2],
        learners: Vec::new(),
        joint: false,
        proposals: 0,
        apply_backlog_bytes: 0,
        unpersisted_rounds: 0,
        installing: false,
        halted: None,
        peers: vec![progress],
    }
}

/// Everything that either kind of node serves.
fn all() -> All {
    let (ordering, cita) = (ordering(), cita());
    let mut all = All::new();
    for (text, is_cita) in [(ordering.encode(), false), (cita.encode(), true)] {
        let mut name = String::new();
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some("HELP"), Some(of), Some(help)) => {
                    of.clone_into(&mut name);
                    let series = all.entry(of.to_owned()).or_default();
                    // The library ends every help with a full stop.
                    help.trim_end_matches('.').clone_into(&mut series.help);
                    series.ordering |= !is_cita;
                    series.cita |= is_cita;
                }
                (Some("#"), Some("TYPE"), Some(of), Some(kind)) => {
                    kind.clone_into(&mut all.entry(of.to_owned()).or_default().kind);
                }
                (Some("#"), ..) => {}
                _ => sample(all.entry(name.clone()).or_default(), line),
            }
        }
    }
    for registered in ordering.names().into_iter().chain(cita.names()) {
        assert!(
            all.contains_key(&registered),
            "{registered} is registered and does not show: make its first series here"
        );
    }
    all
}

fn sample(series: &mut Series, line: &str) {
    let (name, rest) = line.split_once(['{', ' ']).expect("a name before its labels or its value");
    series.samples.insert(name.to_owned());
    if !line.starts_with(&format!("{name}{{")) {
        return;
    }
    let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
    let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
    series.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
}

impl Series {
    /// What stands in the text for each label.
    fn sample(&self, name: &str) -> String {
        match self.kind.as_str() {
            "histogram" => name.to_owned(),
            _ => self.samples.iter().next().cloned().unwrap_or_else(|| name.to_owned()),
        }
    }

    fn unit(&self, name: &str) -> &'static str {
        let ends = |end: &str| name.ends_with(end);
        match () {
            () if self.kind == "info" => "",
            () if name.contains("_to_") => "ms",
            () if ends("time_seconds") => "Unix time in s",
            () if ends("_seconds") => "s",
            () if ends("_bytes") || name.contains("_bytes_") => "bytes",
            () if ends("_days_left") => "days",
            () => "",
        }
    }
}

/// The parts of the page: what the names begin with, and its heading.
const PARTS: [(&str, &str); 15] = [
    ("consensus_raft_", "Raft"),
    ("consensus_storage_", "Storage"),
    ("consensus_peer_", "Peers"),
    ("consensus_ordering_", "Clients of the ordering service"),
    ("consensus_clients_", "What clients use, and the bounds of it"),
    ("consensus_ledger_", "The built-in ledger"),
    ("consensus_controller_", "The controller of a CITA-Cloud chain"),
    ("consensus_exchange_", "Messages between CITA-Cloud consensus services"),
    ("controller_to_", "Calls of CITA-Cloud's services, by the predecessor's names"),
    ("network_to_", ""),
    ("consensus_security_", "Certificates, and who is turned away"),
    ("consensus_tracing_", "Traces"),
    ("consensus_log_", "Log lines"),
    ("consensus_runtime_", "The async runtime"),
    ("", "The process"),
];

const HEAD: &str = "# Metrics

Every series that a node serves at `/metrics`, in the OpenMetrics text format, and its names elsewhere. This page is \
made from the code: `UPDATE_GOLDEN=1 cargo nextest run -p consensus-server --features \
consensus-core/sim,consensus-core/mutants metrics::reference` writes it anew, and the same tests fail while it says \
anything else than what is served.

Counters end in `_total`. A histogram has the samples `_bucket`, `_sum` and `_count`. Labels are the chain, a member's \
id (`peer`; on a CITA-Cloud chain the first 8 bytes of the address as a decimal number) and fixed words: there are no \
more series than members and words. A series whose labels are known at the start is there with 0; others begin when \
something happens. *ordering* and *CITA* in the first column: served by nodes of the ordering service only, or by \
consensus services of CITA-Cloud only. The alerts are in [rules.yml](../prometheus/rules.yml), with a page each in the \
[runbook](runbook.md).
";

/// The whole page.
fn page() -> String {
    let all = all();
    let mut page = HEAD.to_owned();
    let mut told = BTreeSet::new();
    for (prefix, heading) in PARTS {
        let part: Vec<_> =
            all.iter().filter(|(name, _)| name.starts_with(prefix) && !told.contains(*name)).collect();
        if !heading.is_empty() {
            write!(page, "\n## {heading}\n\n").expect("a string");
            page +=
                "| series | kind | labels | what it tells | what to do with it |\n|---|---|---|---|---|\n";
        }
        for (name, series) in part {
            told.insert(name);
            let only = match (series.ordering, series.cita) {
                (true, true) => "",
                (true, false) => " *ordering*",
                (false, _) => " *CITA*",
            };
            let unit = series.unit(name);
            let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
            let labels: Vec<String> = series.labels.iter().map(|label| format!("`{label}`")).collect();
            let advice = advice::of(name).unwrap_or_default();
            let (sample, kind, help) = (series.sample(name), &series.kind, &series.help);
            writeln!(page, "| `{sample}`{only} | {kind}{unit} | {} | {help} | {advice} |", labels.join(" "))
                .expect("a string");
        }
    }
    page + &elsewhere::page()
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn shipped(file: &str) -> String {
    let file = deploy(file);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The names of series in a text.
fn asked(text: &str) -> BTreeSet<String> {
    let prefixes = PARTS.iter().map(|(prefix, _)| *prefix).filter(|prefix| !prefix.is_empty());
    let prefixes: Vec<&str> = prefixes.chain(["process_"]).collect();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
    // A page may speak of all that begin alike.
    names.filter(|name| !name.ends_with('_')).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_page_of_metrics_is_what_the_code_registers() {
    let (page, file) = (page(), deploy("docs/metrics.md"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &page).expect("written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let different = page.lines().zip(found.lines()).find(|(made, found)| made != found);
    assert!(
        found == page,
        "deploy/docs/metrics.md is old, its head says how to make it anew: {different:#?}"
    );
}

#[tokio::test]
async fn the_alerts_that_the_page_names_are_rules() {
    let (page, rules) = (page(), shipped("prometheus/rules.yml"));
    let words = page.split('`').filter(|word| word.starts_with("Consensus") || word.starts_with("Cita"));
    let missing: BTreeSet<&str> = words.filter(|word| !rules.contains(&format!("alert: {word}\n"))).collect();
    assert!(missing.is_empty(), "no rules: {missing:?}");
}

#[tokio::test]
async fn there_is_something_to_do_with_every_series_and_with_no_other() {
    let all = all();
    let silent: Vec<&String> = all.keys().filter(|name| advice::of(name).is_none()).collect();
    assert!(silent.is_empty(), "reference/advice.rs says nothing of {silent:?}");
    let gone: Vec<&str> = advice::names().filter(|name| !all.contains_key(*name)).collect();
    assert!(gone.is_empty(), "reference/advice.rs speaks of {gone:?}, which no node serves");
}

#[tokio::test]
async fn other_systems_names_lead_to_series_that_a_node_serves() {
    let all = all();
    let served: BTreeSet<String> =
        all.iter().map(|(name, series)| series.sample(name)).chain(all.keys().cloned()).collect();
    let mut theirs = BTreeSet::new();
    for row in elsewhere::rows() {
        assert!(theirs.insert(row.theirs), "{} is told twice", row.theirs);
        assert!(!row.ours.is_empty() || row.words.starts_with("none, because "), "{}: no reason", row.theirs);
        for ours in row.ours {
            assert!(served.contains(*ours), "{}: no node serves {ours}", row.theirs);
        }
    }
}

#[tokio::test]
async fn alerts_dashboard_and_pages_ask_only_for_series_that_a_node_serves() {
    let all = all();
    let mut served: BTreeSet<String> = all.values().flat_map(|series| series.samples.clone()).collect();
    for (file, at_least) in [
        ("prometheus/rules.yml", 20),
        ("prometheus/rules.test.yml", 20),
        ("grafana/consensus.json", 20),
        ("docs/runbook.md", 1),
        ("docs/cita-cloud.md", 1),
        ("docs/sizing.md", 0),
        ("docs/fabric.md", 0),
    ] {
        let asked = asked(&shipped(file));
        assert!(asked.len() >= at_least, "{file}: {asked:?}");
        if file.starts_with("docs/") {
            // To people a histogram has one name.
            served.extend(all.keys().cloned());
        }
        let missing: Vec<&String> = asked.difference(&served).collect();
        assert!(missing.is_empty(), "{file}: no node serves {missing:?}");
    }
}
