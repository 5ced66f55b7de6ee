//! Asks every node for its status all the time, each in a thread of its own, and keeps what they said.
//!
//! What no status may ever show is found here at once: two leaders in one term, and a commit index that
//! falls while a process runs. A node that does not answer is dead or stands still; that is no finding.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::chronicle::Chronicle;
use crate::e2e::http;

/// Between two questions to one node.
const PERIOD: Duration = Duration::from_millis(100);

/// An answer older than this says nothing about now.
const FRESH: Duration = Duration::from_millis(1_500);

/// Status of one node at one moment; nothing if it did not answer.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) seen: Option<Seen>,
}

/// What a node said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) role: Role,
    pub(crate) term: u64,
    /// 0 if it knows none.
    pub(crate) leader: u64,
    pub(crate) commit: u64,
    pub(crate) height: u64,
    pub(crate) is_ready: bool,
    /// Why the chain has halted, if it has.
    pub(crate) halted: Option<String>,
    uptime_ms: u64,
}

/// What a node is in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Leader,
    Candidate,
    Follower,
}

impl Seen {
    fn read(status: &Value) -> Option<Self> {
        let chain = status["chains"].get(0)?;
        let number = |name: &str| chain[name].as_u64();
        let role = match chain["role"].as_str()? {
            "leader" => Role::Leader,
            "follower" | "learner" => Role::Follower,
            // Also one that asks whether it should stand at all.
            _ => Role::Candidate,
        };
        let is_halted = chain["state"].as_str()? == "halted";
        Some(Self {
            role,
            term: number("term")?,
            leader: number("leader_id")?,
            commit: number("commit_index")?,
            height: number("height")?,
            is_ready: status["ready"].as_bool()?,
            halted: is_halted.then(|| chain["halt_reason"].as_str().unwrap_or_default().to_owned()),
            uptime_ms: status["uptime_ms"].as_u64()?,
        })
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    chronicle: Arc<Chronicle>,
    is_stopped: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// By node.
    samples: BTreeMap<u64, Vec<Sample>>,
    /// Who leads, by term.
    leaders: BTreeMap<u64, u64>,
}

impl Observer {
    /// Begins to ask the pages of these nodes.
    pub(crate) fn start(pages: &[(u64, SocketAddr)], chronicle: Arc<Chronicle>) -> Self {
        let shared = Arc::new(Shared {
            chronicle,
            is_stopped: AtomicBool::new(false),
            record: Mutex::new(Record::default()),
        });
        let watch = |&(node, page): &(u64, SocketAddr)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.run(node, page))
        };
        let threads = pages.iter().map(watch).collect();
        Self { shared, threads }
    }

    /// What `node` said last, if that was just now.
    pub(crate) fn newest(&self, node: u64) -> Option<Seen> {
        let now = self.shared.chronicle.now();
        let record = self.shared.record();
        let sample = record.samples.get(&node)?.last()?;
        sample.seen.clone().filter(|_| sample.at + FRESH > now)
    }

    /// Who leads in the newest term, as it says itself.
    pub(crate) fn leader(&self, nodes: &[u64]) -> Option<u64> {
        let leading = |node: &u64| {
            let seen = self.newest(*node)?;
            (seen.role == Role::Leader).then_some((seen.term, *node))
        };
        nodes.iter().filter_map(leading).max().map(|(_, node)| node)
    }

    /// The highest commit index that one of these nodes tells.
    pub(crate) fn commit(&self, nodes: &[u64]) -> u64 {
        nodes.iter().filter_map(|node| self.newest(*node)).map(|seen| seen.commit).max().unwrap_or(0)
    }

    /// The height of the longest chain that one of these nodes tells.
    pub(crate) fn height(&self, nodes: &[u64]) -> u64 {
        nodes.iter().filter_map(|node| self.newest(*node)).map(|seen| seen.height).max().unwrap_or(0)
    }

    /// The number of terms in which somebody was seen to lead.
    pub(crate) fn terms_led(&self) -> usize {
        self.shared.record().leaders.len()
    }

    /// Everything that was seen, by node.
    pub(crate) fn samples(&self) -> BTreeMap<u64, Vec<Sample>> {
        self.shared.record().samples.clone()
    }
}

impl Shared {
    fn run(&self, node: u64, page: SocketAddr) {
        while !self.is_stopped.load(Ordering::Relaxed) {
            let seen = http::get_at(page, "/status").ok().as_ref().and_then(Seen::read);
            let sample = Sample { at: self.chronicle.now(), seen };
            let findings = self.record().add(node, sample);
            findings.into_iter().for_each(|what| self.chronicle.violation(what));
            std::thread::sleep(PERIOD);
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Keeps a sample; returns what it must not show.
    fn add(&mut self, node: u64, sample: Sample) -> Vec<String> {
        let mut findings = Vec::new();
        let samples = self.samples.entry(node).or_default();
        if let Some(seen) = &sample.seen {
            let before = samples.iter().rev().find_map(|sample| sample.seen.as_ref());
            if let Some(before) = before.filter(|before| before.uptime_ms <= seen.uptime_ms)
                && before.commit > seen.commit
            {
                findings.push(format!(
                    "commit index of node {node} fell from {} to {}",
                    before.commit, seen.commit
                ));
            }
            if seen.role == Role::Leader {
                let leader = *self.leaders.entry(seen.term).or_insert(node);
                if leader != node {
                    findings.push(format!("nodes {leader} and {node} both lead term {}", seen.term));
                }
            }
        }
        samples.push(sample);
        findings
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(role: Role, term: u64, commit: u64, uptime_ms: u64) -> Sample {
        let seen =
            Seen { role, term, leader: 1, commit, height: commit, is_ready: true, halted: None, uptime_ms };
        Sample { at: Duration::ZERO, seen: Some(seen) }
    }

    #[test]
    fn a_second_leader_of_one_term_is_found() {
        let mut record = Record::default();
        assert!(record.add(1, sample(Role::Leader, 3, 1, 1)).is_empty());
        assert!(record.add(2, sample(Role::Leader, 4, 1, 1)).is_empty());
        assert!(record.add(3, sample(Role::Follower, 4, 1, 1)).is_empty());
        assert_eq!(record.add(3, sample(Role::Leader, 4, 1, 1)).len(), 1);
    }

    #[test]
    fn a_commit_index_that_falls_is_found_unless_the_process_is_a_new_one() {
        let mut record = Record::default();
        assert!(record.add(1, sample(Role::Follower, 3, 9, 500)).is_empty());
        assert!(record.add(1, Sample { at: Duration::ZERO, seen: None }).is_empty());
        assert!(record.add(1, sample(Role::Follower, 3, 8, 20)).is_empty());
        assert_eq!(record.add(1, sample(Role::Follower, 3, 7, 30)).len(), 1);
    }

    #[test]
    fn a_status_is_read_and_one_of_another_form_is_not() {
        let chain = json!({"role": "pre-candidate", "term": 2, "leader_id": 0, "commit_index": 5,
            "height": 4, "state": "halted", "halt_reason": "no space"});
        let status = json!({"ready": false, "uptime_ms": 10, "chains": [chain]});
        let seen = Seen::read(&status).expect("is one");
        assert_eq!((seen.role, seen.halted.as_deref()), (Role::Candidate, Some("no space")));
        assert_eq!(Seen::read(&json!({"ready": true})), None);
    }
}
