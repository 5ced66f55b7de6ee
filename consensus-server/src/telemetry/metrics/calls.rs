//! Calls of CITA-Cloud's services, under the names that its dashboards know: `<client>_to_<method>`, a
//! histogram in milliseconds.
//!
//! Clients name themselves in the metadata of their calls. The names that are known are there from the
//! start, with 0; others are taken up to a bound, so that nobody can fill the memory with names.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::histogram::Histogram;

use super::Metrics;

/// The calls that CITA-Cloud's services make.
const KNOWN: [(&str, &str); 3] =
    [("controller", "Reconfigure"), ("controller", "CheckBlock"), ("network", "ProcessNetworkMsg")];
/// Most histograms.
const SERIES_MAX: usize = 16;
/// Longest name of a client that is taken.
const CLIENT_CHARACTERS_MAX: usize = 32;

/// How long calls took.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    calls: Arc<Calls>,
}

struct Calls {
    buckets_ms: Vec<f64>,
    series: Mutex<BTreeMap<String, Histogram>>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("buckets_ms", &self.buckets_ms).finish_non_exhaustive()
    }
}

impl CallMetrics {
    /// Registers the series, with these upper bounds. Once for each process.
    pub fn new(metrics: &Metrics, buckets_ms: &[f64]) -> Self {
        let calls = Calls { buckets_ms: buckets_ms.to_vec(), series: Mutex::default() };
        let known = KNOWN.map(|(client, method)| (format!("{client}_to_{method}"), calls.histogram()));
        calls.series.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
        let calls = Arc::new(calls);
        metrics.root(|root| root.register_collector(Box::new(Collected(calls.clone()))));
        Self { calls }
    }

    /// `client` had the answer of `method` after `took`.
    pub fn answered(&self, client: &str, method: &str, took: Duration) {
        if !is_name(client) {
            return;
        }
        let mut series = self.calls.series.lock().unwrap_or_else(PoisonError::into_inner);
        let full = series.len() >= SERIES_MAX;
        let histogram = match series.entry(format!("{client}_to_{method}")) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(_) if full => return,
            Entry::Vacant(room) => room.insert(self.calls.histogram()),
        };
        histogram.observe(took.as_secs_f64() * 1000.0);
    }
}

impl Calls {
    fn histogram(&self) -> Histogram {
        Histogram::new(self.buckets_ms.iter().copied())
    }
}

#[derive(Debug)]
struct Collected(Arc<Calls>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let series = self.0.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, histogram) in series.iter() {
            let help = "Time from a call's arrival to its answer in milliseconds";
            histogram.encode(encoder.encode_descriptor(name, help, None, histogram.metric_type())?)?;
        }
        Ok(())
    }
}

/// What may begin the name of a series.
fn is_name(client: &str) -> bool {
    let mut bytes = client.bytes();
    client.len() <= CLIENT_CHARACTERS_MAX
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_under_the_predecessors_names() {
        let metrics = Metrics::new(1);
        let calls = CallMetrics::new(&metrics, &[0.5, 10.0]);
        calls.answered("controller", "Reconfigure", Duration::from_millis(2));
        let text = metrics.encode();
        for line in [
            "# TYPE controller_to_Reconfigure histogram",
            "controller_to_Reconfigure_sum 2.0",
            "controller_to_Reconfigure_count 1",
            "controller_to_Reconfigure_bucket{le=\"0.5\"} 0",
            "controller_to_Reconfigure_bucket{le=\"10.0\"} 1",
            "controller_to_CheckBlock_count 0",
            "network_to_ProcessNetworkMsg_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn nobody_can_fill_the_memory_or_break_the_text_with_names() {
        let metrics = Metrics::new(1);
        let calls = CallMetrics::new(&metrics, &[1.0]);
        for bad in ["", "a b", "a\nb", "1a", "a\"", &"x".repeat(33)] {
            calls.answered(bad, "CheckBlock", Duration::ZERO);
        }
        for name in 0..100 {
            calls.answered(&format!("client{name}"), "CheckBlock", Duration::ZERO);
        }
        let text = metrics.encode();
        assert_eq!(
            text.lines().filter(|line| line.starts_with("# TYPE") && line.contains("_to_")).count(),
            SERIES_MAX
        );
        assert!(text.contains("client0_to_CheckBlock_count 1"), "{text}");
    }
}
