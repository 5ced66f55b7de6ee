//! S12: replicas that have applied the same entries go by the same membership, and at most one step is under
//! way: no log holds two changes that are not committed, and a joint phase is left before another change is
//! made (Raft thesis, sections 4.1 and 4.3).

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::storage::ConfState;

const NAME: &str = "S12 agreed membership";

/// What is known of the memberships of a run.
#[derive(Debug)]
pub struct AgreedMembership {
    /// Committed changes by index, each with the membership that it led to once somebody has told; index 0 stands
    /// for the beginning.
    changes: BTreeMap<u64, Option<ConfState>>,
    /// Indexes of the changes in each node's log that nobody has applied yet.
    logs: Vec<Vec<u64>>,
}

impl AgreedMembership {
    /// For nodes `0..nodes` that begin with this membership.
    pub fn new(nodes: usize, founders: &ConfState) -> Self {
        Self { changes: BTreeMap::from([(0, Some(founders.clone()))]), logs: vec![Vec::new(); nodes] }
    }

    /// The entry at `index` is committed and changes the membership.
    pub fn commits(&mut self, index: u64) {
        self.changes.entry(index).or_default();
    }

    /// A replica goes by this membership with everything up to `applied`.
    pub fn stands(&mut self, node: usize, applied: u64, membership: &ConfState) -> Verdict {
        let mut known = self.changes.range_mut(..=applied).rev();
        let Some((index, agreed)) = known.next() else { return Ok(()) };
        let before = known.next().and_then(|(_, before)| before.as_ref());
        let Some(agreed) = agreed else {
            let joint = |membership: &ConfState| !membership.voters_outgoing.is_empty();
            if before.is_some_and(joint) && joint(membership) {
                let detail = format!("the change at {index} follows one that is still in its joint phase");
                return Err(Violation::new(NAME, detail));
            }
            *agreed = Some(membership.clone());
            return Ok(());
        };
        if agreed == membership {
            return Ok(());
        }
        Err(Violation::new(
            NAME,
            format!("n{} at {applied} goes by {membership:?}, agreed is {agreed:?} since {index}", node + 1),
        ))
    }

    /// A log loses its end from an index on and gains changes at these; entries up to `committed` stay for ever.
    pub fn writes(&mut self, node: usize, from: Option<u64>, changes: &[u64], committed: u64) -> Verdict {
        let log = &mut self.logs[node];
        log.retain(|index| !self.changes.contains_key(index) && from.is_none_or(|from| *index < from));
        log.extend(changes.iter().filter(|index| !self.changes.contains_key(index)));
        if log.iter().filter(|index| **index > committed).count() <= 1 {
            return Ok(());
        }
        let detail = format!("the log of n{} has changes at {log:?}, committed is {committed}", node + 1);
        Err(Violation::new(NAME, detail))
    }

    /// A log has changes at these after a crash.
    pub fn crashes(&mut self, node: usize, changes: Vec<u64>) {
        self.logs[node] = changes;
    }

    /// The newest membership, if no change is under way anywhere: neither one that is not committed nor one that is
    /// and that nobody has applied yet.
    pub fn settled(&self) -> Option<&ConfState> {
        let pending = self.logs.iter().flatten().any(|index| !self.changes.contains_key(index));
        let (_, newest) = self.changes.last_key_value()?;
        newest.as_ref().filter(|_| !pending)
    }

    /// The newest change that somebody has applied.
    pub fn newest(&self) -> u64 {
        self.changes.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The newest membership that is known and the one before it. Until a change is through, what was committed
    /// before it is only where the older one demands it.
    pub fn newest_two(&self) -> Vec<ConfState> {
        self.changes.values().rev().flatten().take(2).cloned().collect()
    }

    /// Committed changes.
    pub fn count(&self) -> u64 {
        self.changes.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], outgoing: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), voters_outgoing: outgoing.to_vec(), ..ConfState::default() }
    }

    #[test]
    fn another_membership_at_the_same_index_is_a_violation() {
        let mut check = AgreedMembership::new(2, &members(&[1, 2], &[]));
        check.stands(0, 4, &members(&[1, 2], &[])).unwrap();
        check.commits(5);
        assert_eq!(check.settled(), None, "nobody has told what it led to");
        check.stands(0, 6, &members(&[1, 2, 3], &[])).unwrap();
        check.stands(1, 4, &members(&[1, 2], &[])).unwrap();
        check.stands(1, 5, &members(&[1, 2], &[])).expect_err("it has applied the change");
        check.stands(1, 4, &members(&[1, 2, 3], &[])).expect_err("it has not applied the change");
        assert_eq!(check.settled(), Some(&members(&[1, 2, 3], &[])));
    }

    #[test]
    fn two_joint_phases_in_a_row_are_a_violation() {
        let mut check = AgreedMembership::new(1, &members(&[1, 2], &[]));
        check.commits(3);
        check.stands(0, 3, &members(&[1, 3], &[1, 2])).unwrap();
        check.commits(5);
        check.stands(0, 5, &members(&[1, 4], &[1, 3])).expect_err("the first is not left");
    }

    #[test]
    fn two_changes_that_are_not_committed_are_a_violation() {
        let mut check = AgreedMembership::new(1, &members(&[1, 2], &[]));
        check.writes(0, None, &[3], 2).unwrap();
        assert_eq!(check.settled(), None);
        check.writes(0, Some(3), &[4], 2).unwrap();
        check.writes(0, None, &[6], 4).unwrap();
        check.writes(0, None, &[7], 5).expect_err("6 is not committed");
    }

    #[test]
    fn a_change_is_under_way_until_somebody_has_applied_it() {
        let founders = members(&[1, 2], &[]);
        let mut check = AgreedMembership::new(2, &founders);
        check.writes(0, None, &[3], 2).unwrap();
        check.writes(1, None, &[3], 2).unwrap();
        check.writes(0, None, &[], 4).unwrap();
        assert_eq!(check.settled(), None, "it is committed and not applied");
        check.commits(3);
        assert_eq!(check.settled(), None, "nobody has told what it led to");
        check.stands(0, 3, &members(&[1], &[])).unwrap();
        assert_eq!(check.settled(), Some(&members(&[1], &[])));
        check.writes(0, None, &[5], 4).unwrap();
        assert_eq!(check.settled(), None);
        check.crashes(0, Vec::new());
        assert_eq!(check.settled(), Some(&members(&[1], &[])), "it was not durable");
    }
}
