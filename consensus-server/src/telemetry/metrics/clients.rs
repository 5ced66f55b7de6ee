//! What clients use and what they were refused: the series of the subsystem `clients`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;

/// One node's clients.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    refused: Family<LimitLabel, Counter>,
    known: Gauge,
    connections: Gauge,
    deliver_cut: Counter,
}

/// Label `limit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

impl ClientMetrics {
    /// Registers the series, with one for each of these bounds. Once for each process.
    pub fn new(metrics: &Metrics, limits: &[&'static str]) -> Self {
        let series = Self {
            refused: Family::default(),
            known: Gauge::default(),
            connections: Gauge::default(),
            deliver_cut: Counter::default(),
        };
        metrics.registry(|registry| {
            let mut clients = registry.sub_registry_with_prefix("clients");
            let help =
                "Connections, calls and frames of clients that were refused, by the bound they would break";
            clients.register("refused", help, series.refused.clone());
            clients.register("known", "Clients that are connected or remembered", series.known.clone());
            clients.register("connections", "Open connections of clients", series.connections.clone());
            let help = "Streams of blocks that were ended because their readers took nothing";
            clients.register("deliver_cut", help, series.deliver_cut.clone());
        });
        for limit in limits {
            let _zero = series.refused.get_or_create_owned(&LimitLabel { limit });
        }
        series
    }

    /// Something was refused for a bound, which is named as in the configuration.
    pub fn refused(&self, limit: &'static str) {
        self.refused.get_or_create(&LimitLabel { limit }).inc();
    }

    /// How many clients and connections there are.
    pub fn known(&self, clients: u64, connections: u64) {
        self.known.set(clients as i64);
        self.connections.set(connections as i64);
    }

    /// A stream of blocks was ended: its reader takes nothing.
    pub fn deliver_cut(&self) {
        self.deliver_cut.inc();
    }
}
