//! A CITA-Cloud chain and its controller: the series of the subsystem `controller`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, Subsystem};

/// The calls to a controller.
const METHODS: [&str; 4] = ["ping", "get_proposal", "check_proposal", "commit_block"];
/// Codes that are told apart at most; those beyond count as `other`.
const CODES_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    chain: String,
    method: &'static str,
    code: String,
}

/// One chain's controller.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    chain: String,
    calls: Family<CallLabel, Counter>,
    codes: Arc<Mutex<BTreeSet<u32>>>,
    durations: BTreeMap<&'static str, Histogram>,
    height: Gauge,
    agreed_height: Gauge,
    agreed: Counter,
    voided: Counter,
    handed_over: Counter,
}

impl ControllerMetrics {
    /// Registers the series. Once for each process.
    pub fn new(metrics: &Metrics, chain: &str) -> Self {
        metrics.registry(|registry| {
            let mut controller = Subsystem::new(registry, "controller", chain);
            let durations = METHODS
                .iter()
                .map(|method| {
                    let name = match *method {
                        "ping" => "ping_duration_seconds",
                        "get_proposal" => "get_proposal_duration_seconds",
                        "check_proposal" => "check_proposal_duration_seconds",
                        _ => "commit_block_duration_seconds",
                    };
                    (*method, controller.seconds(name, "How long the controller took for the call"))
                })
                .collect();
            Self {
                chain: chain.to_owned(),
                calls: controller
                    .family("calls", "Calls to the controller, by its code; `none` without an answer"),
                codes: Arc::default(),
                durations,
                height: controller.gauge("height", "The controller's height"),
                agreed_height: controller.gauge("agreed_height", "The newest height agreed on"),
                agreed: controller.counter("blocks_agreed", "Blocks agreed on since the start"),
                voided: controller.counter("blocks_voided", "Times that agreed blocks were given up"),
                handed_over: controller.counter(
                    "hand_overs",
                    "Leadership given away because this node's controller did not follow",
                ),
            }
        })
    }

    /// A call ended, with this code or without an answer.
    pub fn called(&self, method: &'static str, code: Option<u32>, took: Duration) {
        if let Some(histogram) = self.durations.get(method) {
            histogram.observe(took.as_secs_f64());
        }
        let code = code.map_or_else(|| "none".to_owned(), |code| self.known(code));
        self.calls.get_or_create(&CallLabel { chain: self.chain.clone(), method, code }).inc();
    }

    fn known(&self, code: u32) -> String {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.len() < CODES_MAX {
            codes.insert(code);
        }
        if codes.contains(&code) { code.to_string() } else { "other".to_owned() }
    }

    /// The controller is at this height.
    pub fn height(&self, height: u64) {
        self.height.set(height as i64);
    }

    /// This is the newest height that is agreed on.
    pub fn agreed_height(&self, height: u64) {
        self.agreed_height.set(height as i64);
    }

    /// A block was agreed on.
    pub fn agreed(&self) {
        self.agreed.inc();
    }

    /// Agreed blocks were given up.
    pub fn voided(&self) {
        self.voided.inc();
    }

    /// Leadership was given away.
    pub fn handed_over(&self) {
        self.handed_over.inc();
    }
}
