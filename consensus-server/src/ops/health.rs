//! What live and ready mean.
//!
//! *Live*: the chain's driver turns over. It does not depend on peers, the application or a quorum: a node
//! is never restarted because the cluster is ill, nor because its chain has halted, which a restart does not
//! cure. *Ready*: clients can be sent here now, because a leader is heard and what is committed is served; the rule
//! is the core's ([`health`]), which the simulator compares with what is true.

use std::time::Duration;

use consensus_core::replica::Status;
use consensus_core::replica::health;
pub use consensus_core::replica::health::{Check, LAG_ENTRIES_MAX};

/// A driver that has not turned over for this long hangs.
pub const STALL_MAX: Duration = Duration::from_secs(5);
/// Several conditions, all of which must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    /// Whether all hold.
    pub fn is_ok(&self) -> bool {
        self.0.iter().all(|check| check.ok)
    }

    /// What does not hold, in words; empty if all is well.
    pub fn failures(&self) -> String {
        let failed: Vec<String> = self
            .0
            .iter()
            .filter(|check| !check.ok)
            .map(|check| format!("{}: {}", check.name, check.found))
            .collect();
        failed.join("; ")
    }

    /// A line for each condition.
    pub fn verbose(&self) -> String {
        self.0
            .iter()
            .map(|c| format!("[{}] {}: {}\n", if c.ok { "+" } else { "-" }, c.name, c.found))
            .collect()
    }
}

/// Whether the process does its work. `stalled` is the time since the driver turned over last.
pub fn liveness(status: &Status, stalled: Duration) -> Checks {
    let halted = status.halted.is_some();
    let found =
        if halted { "halted".to_owned() } else { format!("turned over {} ms ago", stalled.as_millis()) };
    Checks(vec![Check { name: "driver", ok: halted || stalled < STALL_MAX, found }])
}

/// Whether clients can be sent here: what the core asks of the chain, and that the node is not stopping.
/// `stopping`: the node has begun to stop.
pub fn readiness(status: &Status, stopping: bool) -> Checks {
    let found = if stopping { "stopping" } else { "running" }.to_owned();
    let mut checks = vec![Check { name: "running", ok: !stopping, found }];
    checks.extend(health::readiness(status, LAG_ENTRIES_MAX));
    Checks(checks)
}

#[cfg(test)]
mod tests {
    use consensus_core::ids::NodeId;
    use consensus_core::replica::Role;

    use super::*;

    fn status() -> Status {
        let node_id = NodeId::new(1).expect("not 0");
        Status {
            node_id,
            role: Role::Leader,
            term: 3,
            vote: Some(node_id),
            leader: Some(node_id),
            leader_heard: true,
            told_commit: Some(10),
            commit: 10,
            applied: 10,
            persisted: 10,
            first: 1,
            last: 10,
            voters: vec![1],
            learners: Vec::new(),
            joint: false,
            proposals: 0,
            apply_backlog_bytes: 0,
            unpersisted_rounds: 0,
            installing: false,
            halted: None,
            peers: Vec::new(),
        }
    }

    #[test]
    fn a_node_without_a_leader_is_live_and_not_ready() {
        let status = Status { leader: None, ..status() };
        assert!(liveness(&status, Duration::ZERO).is_ok());
        assert_eq!(readiness(&status, false).failures(), "leader: none known in term 3");
    }

    #[test]
    fn a_node_whose_leader_is_silent_or_has_not_told_how_far_the_chain_is_is_not_ready() {
        let silent = readiness(&Status { leader_heard: false, ..status() }, false).failures();
        assert_eq!(silent, "leader: node 1 of term 3 was not heard for two election timeouts");
        let untold = readiness(&Status { told_commit: None, ..status() }, false).failures();
        assert_eq!(untold, "lag: the leader has not told yet how far the chain is");
    }

    #[test]
    fn a_halted_chain_is_live_and_not_ready() {
        let status = Status { halted: Some("disk".to_owned()), ..status() };
        assert!(liveness(&status, Duration::from_secs(60)).is_ok(), "a restart does not cure it");
        assert_eq!(readiness(&status, false).failures(), "chain: halted: disk");
    }

    #[test]
    fn a_node_that_stops_or_lags_or_installs_a_snapshot_is_not_ready() {
        assert!(readiness(&status(), false).is_ok());
        assert!(!readiness(&status(), true).is_ok());
        for far in [10 + LAG_ENTRIES_MAX + 1, u64::MAX] {
            assert!(!readiness(&Status { commit: far, ..status() }, false).is_ok());
            assert!(!readiness(&Status { told_commit: Some(far), ..status() }, false).is_ok());
        }
        assert!(!readiness(&Status { installing: true, ..status() }, false).is_ok());
    }

    #[test]
    fn a_driver_that_hangs_is_not_live() {
        assert!(!liveness(&status(), STALL_MAX).is_ok());
    }
}
