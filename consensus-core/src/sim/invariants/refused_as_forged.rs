//! S18: what is forged is refused and counted, each under its reason, and nothing else is refused under these
//! reasons (our promise that the gate stands in front of the raft crate; list in `sim/garbage.rs`).

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::sim::garbage;

/// Reasons with how often they are due.
type Due = BTreeMap<&'static str, u64>;

/// What was forged and not judged yet, by node.
#[derive(Debug)]
pub struct RefusedAsForged {
    due: Vec<Due>,
}

impl RefusedAsForged {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { due: vec![Due::new(); nodes] }
    }

    /// A forged message is in the node's inbox.
    pub fn forged(&mut self, node: usize, reason: &'static str) {
        *self.due[node].entry(reason).or_default() += 1;
    }

    /// The node's inbox is lost.
    pub fn stops(&mut self, node: usize) {
        self.due[node].clear();
    }

    /// A round took everything in the inbox and refused these. `deaf`: the replica took no messages in at least
    /// a part of the round, because a snapshot was on its way to its disk.
    pub fn round(&mut self, node: usize, refused: impl Iterator<Item = &'static str>, deaf: bool) -> Verdict {
        let mut due = std::mem::take(&mut self.due[node]);
        for reason in refused.filter(|reason| garbage::is_reason(reason)) {
            match due.get_mut(reason).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => return violation(node, format!("refuses \"{reason}\", which nobody forged")),
            }
        }
        match due.into_iter().find(|(_, count)| *count > 0 && !deaf) {
            None => Ok(()),
            Some((reason, count)) => violation(node, format!("lets {count} forged messages in: {reason}")),
        }
    }
}

fn violation(node: usize, what: String) -> Verdict {
    Err(Violation::new("S18 refused as forged", format!("n{} {what}", node + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_message_that_passes_and_a_refusal_without_one_are_violations() {
        let mut check = RefusedAsForged::new(1);
        check.forged(0, "no term");
        check.round(0, ["no term", "apply backlog full"].into_iter(), false).unwrap();
        check.round(0, ["no term"].into_iter(), false).expect_err("nobody forged it");
        check.forged(0, "no term");
        check.round(0, [].into_iter(), false).expect_err("it passed");
        check.forged(0, "no term");
        check.round(0, [].into_iter(), true).expect("no message was taken");
        check.forged(0, "no term");
        check.stops(0);
        check.round(0, [].into_iter(), false).expect("it was lost");
    }
}
