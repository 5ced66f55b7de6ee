//! S5: at the moment a node counts an entry committed, a majority of the voters has it on disk; in a joint
//! phase a majority of either half (Raft paper, section 5.3 with "durable before heard"; thesis, sections 4.3
//! and 10.2.1, for the leader's own disk).
//!
//! This finds an acknowledgement before persistence without any crash.

use super::{Verdict, Violation};
use crate::sim::image::EntryDigest;
use crate::storage::ConfState;

/// Counts durable copies.
#[derive(Debug)]
pub struct DurableQuorum;

impl DurableQuorum {
    /// A node counts the entry at `index` committed, going by one of `memberships`; `holds` says whether a node, by
    /// id, has made it durable, be it on a disk that was lost afterwards.
    pub fn commits(
        &self,
        node: u64,
        index: u64,
        digest: EntryDigest,
        memberships: &[&ConfState],
        holds: impl Fn(u64) -> bool,
    ) -> Verdict {
        on_a_majority(memberships.iter().copied(), holds).map_err(|voters| {
            let term = digest.term;
            let detail = format!(
                "n{node} counts index {index} of term {term} committed, which is no majority's of {voters}"
            );
            Violation::new("S5 durable quorum", detail)
        })
    }
}

/// Whether those that hold something are a majority of one of these memberships; otherwise the voters, in words.
pub fn on_a_majority<'a>(
    memberships: impl Iterator<Item = &'a ConfState> + Clone,
    holds: impl Fn(u64) -> bool,
) -> Result<(), String> {
    if memberships.clone().any(|membership| is_majority(membership, |id| holds(*id))) {
        return Ok(());
    }
    let voters: Vec<(&[u64], &[u64])> =
        memberships.map(|membership| (&membership.voters[..], &membership.voters_outgoing[..])).collect();
    Err(format!("{voters:?}"))
}

/// Whether so many voters are a majority, in a joint phase of both halves.
pub fn is_majority(membership: &ConfState, counts: impl Fn(&u64) -> bool) -> bool {
    let half = |voters: &[u64]| {
        voters.is_empty() || voters.iter().filter(|id| counts(id)).count() > voters.len() / 2
    };
    !membership.voters.is_empty() && half(&membership.voters) && half(&membership.voters_outgoing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], voters_outgoing: &[u64]) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            voters_outgoing: voters_outgoing.to_vec(),
            ..ConfState::default()
        }
    }

    #[test]
    fn half_of_the_voters_is_no_majority() {
        let digest = EntryDigest { term: 1, content: 9 };
        let judge = |membership: &ConfState, holders: &[u64]| {
            DurableQuorum.commits(1, 1, digest, &[membership], |id| holders.contains(&id))
        };
        judge(&members(&[1, 2, 3, 4], &[]), &[1, 2]).expect_err("two of four");
        judge(&members(&[1, 2, 3, 4], &[]), &[1, 2, 3]).unwrap();
        judge(&members(&[1, 2, 3], &[3, 4, 5]), &[1, 2, 3]).expect_err("one of the other half");
        judge(&members(&[1, 2, 3], &[3, 4, 5]), &[1, 2, 3, 4]).unwrap();
        judge(&members(&[], &[]), &[1]).expect_err("nobody votes");
    }
}
