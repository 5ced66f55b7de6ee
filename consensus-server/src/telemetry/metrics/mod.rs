//! What the node counts, as typed verbs: a call site says what happened, names and labels are here.
//!
//! Series are named `consensus_<subsystem>_<name>_<unit>`, in seconds and bytes; labels are the chain, a
//! member's id and fixed words. [`Metrics`] owns the registry; [`chain`], [`peer`], [`ordering`], [`exchange`] and
//! [`controller`] are the subsystems. A series whose labels are known at start is created at start, so that it is
//! there with 0. What others have named is named as they did: [`process`] and the calls of CITA-Cloud's services
//! ([`calls`]). All of them are described in `deploy/docs/metrics.md`, which is made from here (`reference`).

mod calls;
mod chain;
mod clients;
mod controller;
mod exchange;
mod followers;
mod log;
mod ordering;
mod outcomes;
mod peer;
mod process;
#[cfg(test)]
mod reference;
mod runtime;
mod security;
mod store;
mod trace;
mod writer;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use consensus_core::ids::Hash;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use calls::CallMetrics;
pub use chain::{ChainMetrics, LeaderChange};
pub use clients::ClientMetrics;
pub use controller::ControllerMetrics;
pub use exchange::{ExchangeMetrics, Refused, Unsent};
pub use ordering::{Ended, FrameInFlight, OrderingMetrics};
pub use peer::{DropCause, PeerMetrics, PeerSeries};
pub use security::SecurityMetrics;
pub use store::StoreMetrics;
pub use trace::TraceMetrics;
pub use writer::WriterMetrics;

/// All series of the process.
pub struct Metrics {
    registry: Mutex<Root>,
}

/// The registry and what was registered in it.
struct Root {
    registry: Registry,
    names: Vec<String>,
}

/// A part of the registry. It remembers the names, because a family shows nothing before something has happened.
struct Room<'a> {
    registry: &'a mut Registry,
    prefix: String,
    names: &'a mut Vec<String>,
}

impl Room<'_> {
    fn sub_registry_with_prefix(&mut self, name: &'static str) -> Room<'_> {
        Room {
            registry: self.registry.sub_registry_with_prefix(name),
            prefix: format!("{}_{name}", self.prefix),
            names: self.names,
        }
    }

    fn register(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.names.push(format!("{}_{name}", self.prefix));
        self.registry.register(name, help, metric);
    }

    /// What it tells is there at each scrape.
    fn register_collector(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What the names of our own series begin with.
const PREFIX: &str = "consensus";

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// Only what is known of the process itself.
    pub fn new(node_id: u64) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::ProcessCollector));
        let metrics = Self { registry: Mutex::new(Root { registry, names: Vec::new() }) };
        metrics.registry(|registry| {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let build = Info::new(vec![("version", version), ("node", node_id.to_string())]);
            registry.register("build", "The running program", build);
            let started = Gauge::<i64>::default();
            started.set(crate::telemetry::unix_time_ms() as i64 / 1000);
            registry.register(
                "process_start_time_seconds",
                "Unix time at which the process started",
                started,
            );
        });
        metrics
    }

    /// Tells which configuration the process runs with. Once for each process.
    pub fn configured(&self, digest: Hash) {
        self.registry(|registry| {
            let digest = Info::new(vec![("sha256", digest.to_string())]);
            registry.register("configuration", "The configuration file that was read", digest);
        });
    }

    /// Tells how much memory the process may take at most. Once for each process.
    pub fn memory_bound(&self, bytes: u64) {
        let bound = Gauge::<i64>::default();
        bound.set(bytes as i64);
        let help = "Memory that the process may take at most, as its configuration bounds it";
        self.registry(|registry| registry.register("process_memory_bound_bytes", help, bound));
    }

    /// Everything, in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.lock().registry).expect("writing into a string does not fail");
        text
    }

    fn registry<T>(&self, register: impl FnOnce(&mut Room<'_>) -> T) -> T {
        let Root { registry, names } = &mut *self.lock();
        let registry = registry.sub_registry_with_prefix(PREFIX);
        register(&mut Room { registry, prefix: PREFIX.to_owned(), names })
    }

    /// For series whose names others have given.
    fn root<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.lock().registry)
    }

    fn lock(&self) -> MutexGuard<'_, Root> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of everything that was registered, without the endings that a kind of series gets; collectors tell
    /// theirs at each scrape.
    #[cfg(test)]
    fn names(&self) -> Vec<String> {
        self.lock().names.clone()
    }
}

/// Label `chain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChainLabel {
    chain: String,
}

/// Labels `chain` and `peer`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    chain: String,
    peer: u64,
}

/// Labels `chain`, `peer` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerReasonLabel {
    chain: String,
    peer: u64,
    reason: &'static str,
}

/// Labels `chain` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    chain: String,
    reason: &'static str,
}

/// From 0.1 ms to about 13 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

/// Registers series of one subsystem under one chain.
struct Subsystem<'a> {
    registry: Room<'a>,
    label: ChainLabel,
}

impl<'a> Subsystem<'a> {
    fn new(registry: &'a mut Room<'_>, name: &'static str, chain: &str) -> Self {
        Self {
            registry: registry.sub_registry_with_prefix(name),
            label: ChainLabel { chain: chain.to_owned() },
        }
    }

    fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let family = Family::<ChainLabel, Gauge>::default();
        self.registry.register(name, help, family.clone());
        family.get_or_create_owned(&self.label)
    }

    /// A gauge that holds an id, of which all 64 bits count.
    fn id(&mut self, name: &'static str, help: &'static str) -> Gauge<u64, AtomicU64> {
        let family = Family::<ChainLabel, Gauge<u64, AtomicU64>>::default();
        self.registry.register(name, help, family.clone());
        family.get_or_create_owned(&self.label)
    }

    fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        let family = Family::<ChainLabel, Counter>::default();
        self.registry.register(name, help, family.clone());
        family.get_or_create_owned(&self.label)
    }

    fn seconds(&mut self, name: &'static str, help: &'static str) -> Histogram {
        let family: Family<ChainLabel, Histogram> = Family::new_with_constructor(durations);
        self.registry.register(name, help, family.clone());
        family.get_or_create_owned(&self.label)
    }

    /// The same for each peer.
    fn seconds_by_peer(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Family<PeerLabel, Histogram, fn() -> Histogram> {
        let family = Family::new_with_constructor(durations as fn() -> Histogram);
        self.registry.register(name, help, family.clone());
        family
    }

    fn family<L, M>(&mut self, name: &'static str, help: &'static str) -> Family<L, M>
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
        M: prometheus_client::metrics::TypedMetric
            + prometheus_client::encoding::EncodeMetric
            + Default
            + fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let family = Family::<L, M>::default();
        self.registry.register(name, help, family.clone());
        family
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chain::{ChainObserver, PersistStats};

    #[test]
    fn series_are_there_with_zero_before_anything_happens() {
        let metrics = Metrics::new(1);
        let _chain = ChainMetrics::new(&metrics, "main");
        let text = metrics.encode();
        assert!(text.contains("consensus_raft_leader_changes_total{chain=\"main\"} 0"), "{text}");
        assert!(text.contains("consensus_raft_has_leader{chain=\"main\"} 0"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_verb_becomes_a_sample() {
        let metrics = Metrics::new(1);
        let chain = ChainMetrics::new(&metrics, "main");
        chain.persisted(PersistStats { rounds: 3, elapsed: Duration::from_millis(2) });
        let text = metrics.encode();
        assert!(
            text.contains("consensus_storage_persist_duration_seconds_count{chain=\"main\"} 1"),
            "{text}"
        );
        assert!(text.contains("consensus_storage_persisted_rounds_total{chain=\"main\"} 3"), "{text}");
    }
}
