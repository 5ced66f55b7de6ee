//! What is wrong with a node's protection now, by kind: for the status, the metrics and one line each time it
//! begins or ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::telemetry::metrics::SecurityMetrics;

/// One thing that can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// All listeners speak plaintext.
    Insecure,
    /// Certificates are accepted after their end.
    AcceptExpired,
    /// The files have changed and cannot be used.
    Files,
    /// A certificate ends soon or has ended.
    Expiry,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Insecure, Self::AcceptExpired, Self::Files, Self::Expiry];

    /// The word for labels.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Insecure => "insecure",
            Self::AcceptExpired => "accept-expired",
            Self::Files => "files",
            Self::Expiry => "expiry",
        }
    }
}

/// What is wrong now.
#[derive(Debug)]
pub(super) struct Alarms {
    metrics: SecurityMetrics,
    raised: Mutex<BTreeMap<Kind, String>>,
}

impl Alarms {
    pub(super) fn new(metrics: SecurityMetrics) -> Self {
        Kind::ALL.iter().for_each(|kind| metrics.alarm(kind.as_str(), false));
        Self { metrics, raised: Mutex::default() }
    }

    /// It is so; whether that is news.
    pub(super) fn raise(&self, kind: Kind, what: String) -> bool {
        self.metrics.alarm(kind.as_str(), true);
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        raised.insert(kind, what.clone()) != Some(what)
    }

    /// It is not so any more; whether that is news.
    pub(super) fn clear(&self, kind: Kind) -> bool {
        self.metrics.alarm(kind.as_str(), false);
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind).is_some()
    }

    pub(super) fn json(&self) -> Value {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        raised.iter().map(|(kind, what)| json!({ "alarm": kind.as_str(), "what": what })).collect()
    }

    /// What somebody should see to, a sentence each. Plaintext alone is a choice, and for a trial the usual one.
    pub(super) fn words(&self) -> Vec<String> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let words = |(kind, what): (&Kind, &String)| match kind {
            Kind::Insecure => None,
            Kind::AcceptExpired => Some(what.clone()),
            Kind::Files => {
                Some(format!("new certificate files cannot be used, those before stay in use: {what}"))
            }
            Kind::Expiry => Some(format!("certificates: {what}")),
        };
        raised.iter().filter_map(words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn all_that_is_wrong_is_said_but_for_plaintext_which_is_a_choice() {
        let alarms = Alarms::new(SecurityMetrics::new(&Metrics::new(1)));
        for kind in Kind::ALL {
            assert!(alarms.raise(kind, format!("<{}>", kind.as_str())));
        }
        let words = alarms.words();
        for kind in Kind::ALL {
            let said = words.iter().any(|words| words.contains(&format!("<{}>", kind.as_str())));
            assert_eq!(said, kind != Kind::Insecure, "{words:?}");
        }
        assert_eq!(alarms.json().as_array().map(Vec::len), Some(Kind::ALL.len()));
        alarms.clear(Kind::Files);
        assert_eq!(alarms.words().len(), 2);
    }
}
