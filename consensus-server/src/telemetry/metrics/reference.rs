//! The alerts and the dashboard that ship ask for series that a node serves.
//!
//! Families have no series before something happens, so the verbs that make one are called here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::replica::{PeerProgress, Report, Role, Status};

use super::{
    CallMetrics, ChainMetrics, ControllerMetrics, DropCause, Ended, ExchangeMetrics, Metrics,
    OrderingMetrics, PeerMetrics, SecurityMetrics, WriterMetrics,
};
use crate::chain::ChainObserver;
use crate::config::LogFormat;
use crate::telemetry::logging;

/// The names of all samples that a node serves, of either kind.
fn served() -> BTreeSet<String> {
    let peer = NodeId::new(2).expect("not 0");
    let metrics = Metrics::new(1);
    let chain = ChainMetrics::new(&metrics, "main");
    chain.report(&Report::Leadership { role: Role::Leader, term: 1, leader: Some(peer) });
    chain.report(&Report::GateRefused { from: peer, reason: "foreign" });
    chain.dropped(peer, 1);
    chain.status(&leading(peer));
    WriterMetrics::new(&metrics);
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
    let mut names = names_in(&metrics.encode());

    let cita = Metrics::new(1);
    let (_subscriber, log) = logging::build("info", LogFormat::Human).expect("valid");
    cita.watch_log(log);
    CallMetrics::new(&cita, &[1.0]);
    ControllerMetrics::new(&cita, "cita").called("ping", None, Duration::ZERO);
    ExchangeMetrics::new(&cita, "cita");
    names.extend(names_in(&cita.encode()));
    names
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

fn names_in(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

/// The names of series in a file that ships.
fn asked(name: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| {
            ["consensus_", "process_", "controller_", "network_"].iter().any(|p| word.starts_with(p))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_only_for_series_that_a_node_serves() {
    let served = served();
    for file in ["prometheus/rules.yml", "prometheus/rules.test.yml", "grafana/consensus.json"] {
        let asked = asked(file);
        assert!(asked.len() >= 20, "{file}: {asked:?}");
        let missing: Vec<&String> = asked.difference(&served).collect();
        assert!(missing.is_empty(), "{file}: no node serves {missing:?}; served are {served:#?}");
    }
}
