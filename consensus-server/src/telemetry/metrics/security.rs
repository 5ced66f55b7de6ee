//! Who was turned away and what is wrong with the certificates: the series of the subsystem `security`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;

/// One node's protection.
#[derive(Clone, Debug)]
pub struct SecurityMetrics {
    refused: Family<RefusedLabel, Counter>,
    reloads: Family<OutcomeLabel, Counter>,
    days_left: Family<CertificateLabel, Gauge>,
    alarm: Family<AlarmLabel, Gauge>,
}

/// Labels `at` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabel {
    at: &'static str,
    reason: &'static str,
}

/// Label `outcome`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Label `certificate`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: String,
}

/// Label `alarm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmLabel {
    alarm: &'static str,
}

impl SecurityMetrics {
    /// Registers the series. Once for each process.
    pub fn new(metrics: &Metrics) -> Self {
        let series = Self {
            refused: Family::default(),
            reloads: Family::default(),
            days_left: Family::default(),
            alarm: Family::default(),
        };
        metrics.registry(|registry| {
            let mut security = registry.sub_registry_with_prefix("security");
            let help = "Connections and calls that were turned away, here or by the other side";
            security.register("refused", help, series.refused.clone());
            let help = "Changed certificate files that were looked at";
            security.register("reloads", help, series.reloads.clone());
            let help = "Whole days until a certificate ends, negative from then on";
            security.register("certificate_days_left", help, series.days_left.clone());
            let help = "1 while something is wrong with the node's protection";
            security.register("alarm", help, series.alarm.clone());
        });
        for outcome in ["taken-up", "refused"] {
            let _zero = series.reloads.get_or_create_owned(&OutcomeLabel { outcome });
        }
        series
    }

    /// Somebody was turned away.
    pub fn refused(&self, at: &'static str, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { at, reason }).inc();
    }

    /// Changed certificate files were looked at.
    pub fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// How long a certificate lasts.
    pub fn days_left(&self, certificate: &str, days: i64) {
        let label = CertificateLabel { certificate: certificate.to_owned() };
        self.days_left.get_or_create(&label).set(days);
    }

    /// Whether something is wrong.
    pub fn alarm(&self, alarm: &'static str, raised: bool) {
        self.alarm.get_or_create(&AlarmLabel { alarm }).set(i64::from(raised));
    }
}
