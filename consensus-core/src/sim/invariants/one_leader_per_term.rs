//! S1: at most one leader is elected in a term (election safety; Raft paper, figure 3 and section 5.2).
//!
//! A node that restarts forgets that it led: if it leads the same term again, its vote was given twice, so
//! an incarnation counts as a leader of its own.

use std::collections::BTreeMap;

use super::{Verdict, Violation};

/// Who led each term.
#[derive(Debug, Default)]
pub struct OneLeaderPerTerm {
    leaders: BTreeMap<u64, (u64, u64)>,
}

impl OneLeaderPerTerm {
    /// This incarnation of the node leads the term, by its own word or by a message that only leaders send.
    pub fn leads(&mut self, node: u64, incarnation: u64, term: u64) -> Verdict {
        let known = *self.leaders.entry(term).or_insert((node, incarnation));
        if known == (node, incarnation) {
            return Ok(());
        }
        let (first, before) = known;
        Err(Violation::new(
            "S1 one leader per term",
            format!(
                "term {term} is led by n{node} (incarnation {incarnation}), before by n{first} ({before})"
            ),
        ))
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_of_a_term_is_a_violation() {
        let mut check = OneLeaderPerTerm::default();
        check.leads(1, 0, 5).unwrap();
        check.leads(1, 0, 5).unwrap();
        check.leads(2, 0, 6).unwrap();
        check.leads(2, 0, 5).expect_err("another node");
        check.leads(1, 1, 5).expect_err("another incarnation");
        assert_eq!(check.elections(), 2);
    }
}
