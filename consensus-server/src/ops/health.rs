//! What live and ready mean.
//!
//! *Live*: the chain's driver turns over. It does not depend on peers, the application or a quorum: a node
//! is never restarted because the cluster is ill, nor because its chain has halted, which a restart does not
//! cure. *Ready*: clients can be sent here now, because a leader is known and what is committed is served.

use std::time::Duration;

use consensus_core::replica::Status;

/// A driver that has not turned over for this long hangs.
pub const STALL_MAX: Duration = Duration::from_secs(5);
/// A node further behind than this serves stale blocks.
pub const LAG_ENTRIES_MAX: u64 = 1000;

/// One condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Its name, one word.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

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

/// Whether clients can be sent here. `stopping`: the node has begun to stop.
pub fn readiness(status: &Status, stopping: bool) -> Checks {
    let check = |name, ok, found: String| Check { name, ok, found };
    let lag = status.commit.saturating_sub(status.applied);
    Checks(vec![
        check("running", !stopping, if stopping { "stopping" } else { "running" }.to_owned()),
        match &status.halted {
            Some(reason) => check("chain", false, format!("halted: {reason}")),
            None => check("chain", true, "running".to_owned()),
        },
        match status.leader {
            Some(leader) => check("leader", true, format!("node {leader} leads term {}", status.term)),
            None => check("leader", false, format!("none known in term {}", status.term)),
        },
        check(
            "snapshot",
            !status.installing,
            if status.installing { "being installed" } else { "none" }.to_owned(),
        ),
        check("lag", lag <= LAG_ENTRIES_MAX, format!("{lag} entries not applied, bound {LAG_ENTRIES_MAX}")),
    ])
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
    fn a_halted_chain_is_live_and_not_ready() {
        let status = Status { halted: Some("disk".to_owned()), ..status() };
        assert!(liveness(&status, Duration::from_secs(60)).is_ok(), "a restart does not cure it");
        assert_eq!(readiness(&status, false).failures(), "chain: halted: disk");
    }

    #[test]
    fn a_node_that_stops_or_lags_or_installs_a_snapshot_is_not_ready() {
        assert!(readiness(&status(), false).is_ok());
        assert!(!readiness(&status(), true).is_ok());
        assert!(!readiness(&Status { commit: 10 + LAG_ENTRIES_MAX + 1, ..status() }, false).is_ok());
        assert!(!readiness(&Status { installing: true, ..status() }, false).is_ok());
    }

    #[test]
    fn a_driver_that_hangs_is_not_live() {
        assert!(!liveness(&status(), STALL_MAX).is_ok());
    }
}
