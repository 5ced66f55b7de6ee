//! What the nodes take and tell meanwhile: memory as the system counts it, and their own metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::e2e::cluster::Node;
use crate::e2e::http;

/// The bounds at which something must have been refused.
pub(super) const LIMITS: [&str; 2] = ["limits.client.transactions_per_s", "limits.client.connections_max"];

/// The most memory that each node took.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<u64, u64>);

impl Memory {
    /// Looks once.
    pub(super) fn look(&mut self, nodes: &[Node]) {
        for node in nodes {
            if let Some(bytes) = node.resident_bytes() {
                let most = self.0.entry(node.id()).or_default();
                *most = bytes.max(*most);
            }
        }
    }

    /// Node and bytes.
    pub(super) fn most(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(node, bytes)| (*node, *bytes))
    }
}

/// What a node tells, of that what matters here.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) term: u64,
    pub(super) memory_bound: u64,
    /// Streams of blocks whose readers took nothing.
    pub(super) readers_cut: u64,
    /// What was refused, by bound.
    pub(super) limits: BTreeMap<String, u64>,
    /// Connections that were refused, by reason.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Metrics {
    pub(super) fn read(node: u64, at: SocketAddr) -> Result<Self> {
        Self::parse(&http::text_at(at, "/metrics")?).with_context(|| format!("metrics of node {node}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let of = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            line.and_then(value).with_context(|| format!("there is no {name}"))
        };
        Ok(Self {
            term: of("consensus_raft_term")?,
            memory_bound: of("consensus_process_memory_bound_bytes")?,
            readers_cut: of("consensus_clients_deliver_cut_total")?,
            limits: by_label(text, "consensus_clients_refused_total{", "limit"),
            reasons: by_label(text, "consensus_security_refused_total{", "reason"),
        })
    }
}

fn value(line: &str) -> Option<u64> {
    let number = line.rsplit(' ').next()?.parse::<f64>().ok()?;
    Some(number as u64)
}

/// Sums of a family's samples by one label.
fn by_label(text: &str, family: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(family)) {
        let named = line.split_once(&format!("{label}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        if let (Some((name, _)), Some(count)) = (named, value(line)) {
            *sums.entry(name.to_owned()).or_default() += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_label_and_a_missing_one_is_named() {
        let text = "consensus_raft_term{chain=\"e2e\"} 3\nconsensus_process_memory_bound_bytes 1048576\n\
                    consensus_clients_deliver_cut_total 5\n\
                    consensus_security_refused_total{at=\"client\",reason=\"limit\"} 4\n\
                    consensus_security_refused_total{at=\"peer\",reason=\"limit\"} 2\n\
                    consensus_clients_refused_total{limit=\"limits.x\"} 7\n";
        let metrics = Metrics::parse(text).expect("whole");
        assert_eq!((metrics.term, metrics.memory_bound, metrics.readers_cut), (3, 1 << 20, 5));
        assert_eq!((metrics.reasons["limit"], metrics.limits["limits.x"]), (6, 7));
        let error = Metrics::parse("").expect_err("empty").to_string();
        assert!(error.contains("consensus_raft_term"), "{error}");
    }
}
