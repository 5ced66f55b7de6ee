//! S9 and S16: snapshot <= applied <= commit <= last in every replica (Raft paper, figure 2), and its
//! queues keep their bounds (our promise of bounded resources).

use super::{Verdict, Violation};
use crate::limits::Limits;
use crate::replica::Status;

/// Judges a replica's state.
#[derive(Debug)]
pub struct OrderedAndBounded {
    limits: Limits,
    /// By node: payload bytes that wait for its application.
    backlogs: Vec<u64>,
}

impl OrderedAndBounded {
    /// For replicas `0..nodes` with these bounds.
    pub fn new(nodes: usize, limits: &Limits) -> Self {
        Self { limits: limits.clone(), backlogs: vec![0; nodes] }
    }

    /// Nothing waits for the node's application: its process is gone, or a snapshot replaces it.
    pub fn stops(&mut self, node: usize) {
        self.backlogs[node] = 0;
    }

    /// Entries with so many bytes are handed to the application: only while what waits is below its bound.
    pub fn hands_out(&mut self, node: usize, bytes: u64) -> Verdict {
        let waiting = self.backlogs[node];
        self.backlogs[node] += bytes;
        let bound = self.limits.apply_backlog_bytes_max;
        if waiting < bound {
            return Ok(());
        }
        let detail = format!("n{}: {waiting} bytes wait for the application, the bound is {bound}", node + 1);
        Err(Violation::new("S16 bounded queues", detail))
    }

    /// The application has taken entries.
    pub fn takes(&mut self, node: usize, bytes: u64) {
        self.backlogs[node] = self.backlogs[node].saturating_sub(bytes);
    }

    /// A replica after a round.
    pub fn observe(&self, status: &Status) -> Verdict {
        let Status { node_id, first, applied, commit, persisted, last, .. } = *status;
        // While a snapshot replaces the log, the application is behind it.
        let kept = first <= applied + 1 || status.installing;
        let ordered = kept && applied <= commit && commit <= last && persisted <= last;
        if !ordered {
            let detail = format!(
                "n{node_id}: first {first}, applied {applied}, commit {commit}, persisted {persisted}, last {last}"
            );
            return Err(Violation::new("S9 ordered positions", detail));
        }
        let bounded = [
            ("proposals in flight", status.proposals, self.limits.inflight_proposals_max),
            ("rounds not durable", status.unpersisted_rounds, self.limits.unpersisted_rounds_max),
        ];
        match bounded.into_iter().find(|(_, count, bound)| count > bound) {
            None => Ok(()),
            Some((what, count, bound)) => {
                let detail = format!("n{node_id}: {count} {what}, the bound is {bound}");
                Err(Violation::new("S16 bounded queues", detail))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::replica::Role;

    pub(crate) fn status() -> Status {
        Status {
            node_id: NodeId::new(1).unwrap(),
            role: Role::Follower,
            term: 1,
            vote: None,
            leader: None,
            leader_heard: false,
            told_commit: None,
            commit: 5,
            applied: 4,
            persisted: 6,
            first: 3,
            last: 6,
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
    fn positions_out_of_order_and_overfull_queues_are_violations() {
        let check = OrderedAndBounded::new(1, &Limits { inflight_proposals_max: 2, ..Limits::default() });
        check.observe(&status()).unwrap();
        check.observe(&Status { applied: 6, ..status() }).expect_err("applied above commit");
        check.observe(&Status { commit: 7, ..status() }).expect_err("commit above last");
        check.observe(&Status { first: 6, ..status() }).expect_err("compacted above applied");
        check.observe(&Status { first: 6, installing: true, ..status() }).unwrap();
        check.observe(&Status { proposals: 2, ..status() }).unwrap();
        check.observe(&Status { proposals: 3, ..status() }).expect_err("too many");
    }
    #[test]
    fn an_application_that_is_given_more_while_its_backlog_is_full_is_a_violation() {
        let limits = Limits { apply_backlog_bytes_max: 10, ..Limits::default() };
        let mut check = OrderedAndBounded::new(1, &limits);
        check.hands_out(0, 9).unwrap();
        check.hands_out(0, 9).expect("one more while there is room");
        check.hands_out(0, 1).expect_err("full");
        check.takes(0, 10);
        check.hands_out(0, 1).unwrap();
        check.hands_out(0, 1).expect_err("full again");
        check.stops(0);
        check.hands_out(0, 1).unwrap();
    }
}
