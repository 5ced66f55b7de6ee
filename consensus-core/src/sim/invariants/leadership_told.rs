//! S20: what a node tells metrics and people of its leadership is the truth after every round, and at most one
//! running node tells that it leads a term (our promise that the sum of the leader gauges per term is at most 1).
//!
//! Counters of the metrics live in the server and are not judged here.

use super::{Verdict, Violation};
use crate::replica::{Role, Status};

const NAME: &str = "S20 leadership told";

/// Role, term and leader (0 for none) as a node last told them.
type Told = (Role, u64, u64);

/// What every node told.
#[derive(Debug)]
pub struct LeadershipTold {
    nodes: Vec<Option<Told>>,
}

impl LeadershipTold {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { nodes: vec![None; nodes] }
    }

    /// A node starts in this term: it follows and knows no leader.
    pub fn starts(&mut self, node: usize, term: u64) {
        self.nodes[node] = Some((Role::Follower, term, 0));
    }

    /// A node is gone, and its gauges with it.
    pub fn stops(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// A node tells.
    pub fn told(&mut self, node: usize, role: Role, term: u64, leader: u64) -> Verdict {
        self.nodes[node] = Some((role, term, leader));
        let other = |(_, told): &(usize, &Option<Told>)| {
            told.is_some_and(|(role, other, _)| role == Role::Leader && other == term)
        };
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        match others.into_iter().find(other).filter(|_| role == Role::Leader) {
            None => Ok(()),
            Some((other, _)) => {
                let detail = format!("n{} and n{} both tell that they lead term {term}", node + 1, other + 1);
                Err(Violation::new(NAME, detail))
            }
        }
    }

    /// After a round and all of its reports.
    pub fn round(&self, node: usize, status: &Status) -> Verdict {
        let truth = (status.role, status.term, status.leader.map_or(0, |leader| leader.get()));
        match self.nodes[node] {
            Some(told) if told == truth => Ok(()),
            told => Err(Violation::new(NAME, format!("n{} told {told:?}, true is {truth:?}", node + 1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::ordered_and_bounded::tests::status;

    #[test]
    fn a_second_leader_of_a_term_and_an_untold_change_are_violations() {
        let mut check = LeadershipTold::new(2);
        check.starts(0, 1);
        check.starts(1, 1);
        check.round(0, &status()).unwrap();
        check.round(0, &Status { term: 2, ..status() }).expect_err("the term was not told");
        check.told(0, Role::Leader, 2, 1).unwrap();
        check.round(0, &status()).expect_err("it does not lead");
        check.told(1, Role::Follower, 2, 1).unwrap();
        check.told(1, Role::Leader, 3, 2).expect("another term");
        check.told(1, Role::Leader, 2, 2).expect_err("the same term");
        check.stops(0);
        check.told(1, Role::Leader, 2, 2).expect("the other one is gone");
    }
}
