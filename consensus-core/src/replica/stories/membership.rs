//! Stories of a membership change: when it takes effect, and that it is kept.

use super::*;

fn leader_that_adds_a_learner() -> Story {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let changes = vec![MembershipChange::AddLearner(NodeId::new(4).unwrap())];
    story.control(1, Control::ChangeMembership { changes });
    story
}

#[test]
pub(super) fn a_change_takes_effect_only_when_it_is_applied() {
    let mut story = leader_that_adds_a_learner();
    assert_eq!(story.status().learners, [] as [u64; 0], "it is appended");
    story.persist();
    story.acknowledge(2);
    assert_eq!(story.to_apply.len(), 1, "it is committed");
    assert_eq!(story.status().learners, [] as [u64; 0]);
    story.settle();
    assert_eq!(story.status().learners, [4]);
}

#[test]
pub(super) fn a_new_membership_is_written_with_the_applied_index() {
    let mut story = leader_that_adds_a_learner();
    story.settle();
    story.acknowledge(2);
    story.settle();
    story.ticks(1);
    story.persist();
    let applied = story.store.open_chain(story.chain).unwrap().applied;
    assert_eq!((applied.index, applied.conf_state.learners), (story.status().applied, vec![4]));
}
