//! The stories can fail: each rule that no run of the simulator comes to is broken, and its story shows it.

use std::panic::catch_unwind;

use super::*;
use crate::mutant::{Mutant, Proof, broken};
use crate::storage::records::tests as records;

/// Broken rules and the stories that fail.
const STORIES: [(Mutant, fn()); 13] = [
    (Mutant::LateNoticeCounts, t20_a_late_notice_of_a_replaced_tail_makes_nothing_durable),
    (Mutant::SoleVoterDoesNotWait, t3_a_sole_voter_waits_for_its_disk_before_it_stands),
    (Mutant::TransferToWhoLags, leadership_goes_to_the_peer_that_is_furthest_on),
    (Mutant::ChecksumNotChecked, records::every_flipped_bit_of_an_entry_is_found),
    (Mutant::TransferToAnybody, a_transfer_to_a_stranger_or_a_silent_peer_is_refused),
    (Mutant::HungDiskLeads, transfers::a_leader_whose_disk_hangs_hands_over_to_one_that_has_what_it_lacks),
    (Mutant::MembershipNotSaved, membership::a_new_membership_is_written_with_the_applied_index),
    (Mutant::MembershipAppliedAtAppend, membership::a_change_takes_effect_only_when_it_is_applied),
    (Mutant::ChangesOneByOne, several_changes_go_through_a_joint_phase_that_ends_by_itself),
    (Mutant::SecondChangeTaken, t6_a_second_membership_change_is_refused_and_leaves_no_empty_entry),
    (Mutant::LeaderTakesItselfOut, t1_a_leader_does_not_take_itself_out),
    (Mutant::RemovedNotTold, t1_a_leader_that_an_inherited_entry_removes_falls_silent),
    (Mutant::NewcomerVotes, newcomers::a_newcomer_gives_no_vote_and_asks_for_none),
];

#[test]
fn each_story_fails_when_its_rule_is_broken() {
    for (mutant, story) in STORIES {
        story();
        let told = catch_unwind(|| broken(Some(mutant), story));
        assert!(told.is_err(), "{} escaped its story", mutant.name());
    }
}

#[test]
fn every_rule_that_needs_a_story_has_one() {
    let named = Mutant::ALL.iter().filter(|mutant| mutant.proof() == Proof::Story);
    for mutant in named {
        assert!(STORIES.iter().any(|(told, _)| told == mutant), "{} has no story", mutant.name());
    }
}
