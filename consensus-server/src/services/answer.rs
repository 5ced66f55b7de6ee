//! Outcomes as gRPC statuses, and what both directions share: hints about the leader, ids filled in.
//!
//! A refusal keeps its words; its reason becomes a status code, and what is known about the leader and the
//! right time for another try goes into the trailers `leader-id`, `leader-address` and `retry-after-ms`.

use std::sync::Arc;
use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::ledger::id_of_payload;
use consensus_core::replica::Refusal;
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason, Refused, outcome};
use consensus_proto::records::Transaction;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::application::ledger::LedgerError;
use crate::config::Config;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::{Ended, OrderingMetrics};

/// How often a line is written that each call can provoke.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Knows where the members' client services are.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    config: Arc<Config>,
    unreadable_log: Arc<Throttle>,
}

impl Directory {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, unreadable_log: Arc::new(Throttle::new(LOG_EVERY)) }
    }

    /// Address of a member's client service; empty if it is unknown.
    pub(crate) fn client_address(&self, node_id: u64) -> &str {
        let member = NodeId::new(node_id).and_then(|id| self.config.member(id));
        member.map_or("", |member| member.client_address.as_str())
    }

    /// Completes the hints of a refusal.
    pub(crate) fn complete(&self, outcomes: &mut [Outcome]) {
        for outcome in outcomes {
            if let Some(outcome::Outcome::Refused(refused)) = &mut outcome.outcome
                && refused.leader_address.is_empty()
            {
                refused.leader_address = self.client_address(refused.leader_id).to_owned();
            }
        }
    }

    /// A refusal of the replica as a status.
    pub(crate) fn refusal(&self, refusal: &Refusal) -> Status {
        let (reason, leader) = match refusal {
            Refusal::NotLeader { leader: None } => (Reason::NoLeader, None),
            Refusal::NotLeader { leader } => (Reason::NotLeader, *leader),
            Refusal::LeadershipLost { leader } => (Reason::LeadershipLost, *leader),
            Refusal::Overloaded { .. } => (Reason::Overloaded, None),
            Refusal::TimedOut { .. } => (Reason::Timeout, None),
            Refusal::Halted => (Reason::Halted, None),
            Refusal::EntrySize { .. } => (Reason::Invalid, None),
            Refusal::Membership(_) | Refusal::Transfer(_) => {
                return Status::failed_precondition(refusal.to_string());
            }
        };
        let leader_id = leader.map_or(0, NodeId::get);
        status_of(&Refused {
            reason: reason.into(),
            message: refusal.to_string(),
            leader_id,
            leader_address: self.client_address(leader_id).to_owned(),
            retry_after_ms: 0,
        })
    }

    /// A failure of the ledger as a status.
    pub(crate) fn ledger_error(&self, error: &LedgerError) -> Status {
        match error {
            LedgerError::Refused(refusal) => self.refusal(refusal),
            LedgerError::Stopping => stopping(),
            LedgerError::Ledger(_) | LedgerError::Limits(_) => {
                if let Some(held_back) = self.unreadable_log.pass() {
                    tracing::error!(%error, held_back, "the ledger cannot be read");
                }
                Status::internal(error.to_string())
            }
        }
    }
}

/// The node stops: another one may be asked.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}

/// A refusal as a status.
pub(crate) fn status_of(refused: &Refused) -> Status {
    let code = match refused.reason() {
        Reason::Invalid => Code::InvalidArgument,
        Reason::NoLeader | Reason::NotLeader | Reason::LeadershipLost | Reason::ShuttingDown => {
            Code::Unavailable
        }
        Reason::Overloaded => Code::ResourceExhausted,
        Reason::Timeout => Code::DeadlineExceeded,
        Reason::Halted => Code::FailedPrecondition,
        Reason::Unspecified => Code::Unknown,
    };
    let mut trailers = MetadataMap::new();
    if refused.leader_id != 0 {
        trailers.insert("leader-id", refused.leader_id.into());
    }
    if let Ok(address) = MetadataValue::try_from(refused.leader_address.as_str())
        && !address.is_empty()
    {
        trailers.insert("leader-address", address);
    }
    if refused.retry_after_ms != 0 {
        trailers.insert("retry-after-ms", refused.retry_after_ms.into());
    }
    Status::with_metadata(code, refused.message.clone(), trailers)
}

/// The acknowledgement asked for; unspecified means committed.
pub(crate) fn acknowledgement(number: i32) -> Result<Acknowledgement, Status> {
    match Acknowledgement::try_from(number) {
        Ok(Acknowledgement::Unspecified | Acknowledgement::Committed) => Ok(Acknowledgement::Committed),
        Ok(Acknowledgement::Accepted) => Ok(Acknowledgement::Accepted),
        Err(_) => Err(Status::invalid_argument(format!(
            "acknowledgement {number} is unknown, must be 1 (accepted) or 2 (committed)"
        ))),
    }
}

/// Gives a transaction without an id that of its payload. An empty payload is left for the ledger to refuse.
pub(crate) fn fill_id(transaction: &mut Transaction) {
    if transaction.id.is_empty() && !transaction.payload.is_empty() {
        transaction.id = id_of_payload(&transaction.payload);
    }
}

/// Counts what became of a frame's transactions.
pub(crate) fn count(metrics: &OrderingMetrics, outcomes: &[Outcome], elapsed: Duration) {
    metrics.frame_ended(elapsed);
    for outcome in outcomes {
        let ended = match &outcome.outcome {
            Some(outcome::Outcome::Committed(committed)) if committed.duplicate => Ended::Duplicate,
            Some(outcome::Outcome::Committed(_)) => Ended::Committed,
            Some(outcome::Outcome::Accepted(_)) => Ended::Accepted,
            Some(outcome::Outcome::Refused(refused)) => Ended::Refused(word(refused.reason())),
            None => Ended::Refused("unspecified"),
        };
        metrics.submitted(ended, u64::from(outcome.count));
    }
}

/// A reason's word for labels.
pub(crate) fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::Invalid => "invalid",
        Reason::NoLeader => "no-leader",
        Reason::NotLeader => "not-leader",
        Reason::Overloaded => "overloaded",
        Reason::LeadershipLost => "leadership-lost",
        Reason::Timeout => "timeout",
        Reason::Halted => "halted",
        Reason::ShuttingDown => "shutting-down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_its_hints_in_the_trailers() {
        let status = status_of(&Refused {
            reason: Reason::NoLeader.into(),
            message: "no leader is known".to_owned(),
            leader_id: 3,
            leader_address: "10.0.0.3:7400".to_owned(),
            retry_after_ms: 50,
        });
        assert_eq!(status.code(), Code::Unavailable);
        let trailer = |key| status.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or("");
        assert_eq!(
            [trailer("leader-id"), trailer("leader-address"), trailer("retry-after-ms")],
            ["3", "10.0.0.3:7400", "50"]
        );
    }

    #[test]
    fn what_is_not_known_is_no_trailer() {
        let status = status_of(&Refused { reason: Reason::Overloaded.into(), ..Refused::default() });
        assert_eq!((status.code(), status.metadata().len()), (Code::ResourceExhausted, 0));
    }

    #[test]
    fn a_transaction_without_an_id_gets_that_of_its_payload() {
        let mut transaction = Transaction { id: "".into(), payload: "x".into() };
        fill_id(&mut transaction);
        assert_eq!(transaction.id, id_of_payload(b"x"));
        let mut empty = Transaction::default();
        fill_id(&mut empty);
        assert!(empty.id.is_empty());
    }
}
