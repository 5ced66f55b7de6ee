//! Trouble with one node that may pass, at it or at another one.

use std::time::Duration;

use consensus_proto::ordering::Refused;
use tonic::Status;

use crate::remote::{Address, Kind, Node};

/// Something that may pass.
pub(super) struct Trouble {
    /// In words, with the node's address.
    pub(super) what: String,
    /// The address of the leader, if it is known there.
    pub(super) leader: Option<String>,
    /// The node's advice.
    pub(super) retry_after: Duration,
    /// It passes only if the node is started anew with another configuration.
    pub(super) wrong_protocol: bool,
}

impl Trouble {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), leader: None, retry_after: Duration::ZERO, wrong_protocol: false }
    }

    pub(super) fn of(error: &anyhow::Error) -> Self {
        Self {
            wrong_protocol: Kind::of(error) == Some(Kind::WrongProtocol),
            ..Self::new(format!("{error:#}"))
        }
    }

    pub(super) fn from_status(node: &Node, status: &Status) -> Self {
        let of =
            |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let retry_after = of("retry-after-ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Self {
            leader: of("leader-address"),
            retry_after: Duration::from_millis(retry_after),
            ..Self::of(&node.explain(status))
        }
    }

    pub(super) fn from_refusal(address: &Address, refused: Refused) -> Self {
        let reason =
            refused.reason().as_str_name().trim_start_matches("REASON_").to_lowercase().replace('_', " ");
        let what = if refused.message.is_empty() { reason } else { format!("{reason}: {}", refused.message) };
        Self {
            what: format!("{address}: {what}"),
            leader: Some(refused.leader_address).filter(|leader| !leader.is_empty()),
            retry_after: Duration::from_millis(u64::from(refused.retry_after_ms)),
            wrong_protocol: false,
        }
    }
}
