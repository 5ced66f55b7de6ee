//! Members follow the chain's validators: which step is next.
//!
//! The list that a controller tells after a block is where membership has to go before the next height. New
//! members, and those that come back with a new store, are taken out if they are still counted, admitted
//! (their store is written into the log, and they are told), added as learners once they have made it, and
//! become voters together with the removal of those that left, in one joint change. A leader that is not on the list takes part in nothing but
//! this and hands over as soon as somebody on the list can lead.
//!
//! A pure function of what is known; one step at a time.

use std::collections::BTreeMap;

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::{MembershipChange, PeerProgress};

use super::agreement::Roster;
use super::proposer::quorum;
use crate::config::cita::address::{Short, short};

/// A learner this close to the commit index has caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// A node that was heard lately, as it presented itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Present {
    /// The store that it has or will make.
    pub(super) store: StoreIncarnation,
    /// The store is made, for this group.
    pub(super) joined: bool,
    /// It is a member as far as it knows.
    pub(super) seated: bool,
}

/// What a leader knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) own: NodeId,
    /// Who shall be a member, ascending.
    pub(super) validators: &'a [NodeId],
    pub(super) voters: &'a [NodeId],
    pub(super) learners: &'a [NodeId],
    pub(super) roster: &'a Roster,
    /// Nodes that presented themselves lately.
    pub(super) present: &'a BTreeMap<NodeId, Present>,
    pub(super) progress: &'a [PeerProgress],
    pub(super) commit: u64,
    /// Newcomers have been waited for long enough.
    pub(super) impatient: bool,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Members are the validators.
    Settled,
    /// Somebody is awaited; in words.
    Wait(String),
    /// Write this roster into the log.
    Admit(Roster),
    /// Change the membership.
    Change(Vec<MembershipChange>),
    /// Let this node lead.
    HandOver(NodeId),
}

impl Situation<'_> {
    fn progress_of(&self, id: NodeId) -> Option<&PeerProgress> {
        self.progress.iter().find(|peer| peer.node_id == id)
    }

    fn is_active(&self, id: NodeId) -> bool {
        id == self.own || self.progress_of(id).is_some_and(|peer| peer.active)
    }

    fn is_caught_up(&self, id: NodeId) -> bool {
        self.progress_of(id).is_some_and(|peer| {
            // After a snapshot a peer counts as replicating only with the next entry.
            peer.active && peer.matched > 0 && peer.matched + CAUGHT_UP_ENTRIES >= self.commit
        })
    }

    fn is_member(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// The store that this node has come with, if it is not the one that the log knows.
    fn new_store(&self, id: NodeId) -> Option<StoreIncarnation> {
        let asks = self.present.get(&id).filter(|present| !present.seated)?;
        Some(asks.store).filter(|store| self.roster.get(&id) != Some(store))
    }

    /// Whether this node has the store that the log knows, ready for what a leader sends.
    fn is_ready(&self, id: NodeId) -> bool {
        let known = |present: &&Present| self.roster.get(&id) == Some(&present.store);
        self.present.get(&id).filter(known).is_some_and(|present| present.joined)
    }

    /// Whether the others can commit a change without this member's help.
    fn can_do_without(&self, id: NodeId) -> bool {
        let active = self.voters.iter().filter(|voter| **voter != id && self.is_active(**voter)).count();
        active >= quorum(self.voters.len())
    }
}

/// Changes as people read them.
pub(super) fn in_words(changes: &[MembershipChange]) -> String {
    let words = |change: &MembershipChange| match change {
        MembershipChange::AddVoter(id) => format!("add voter {}", Short(*id)),
        MembershipChange::AddLearner(id) => format!("add learner {}", Short(*id)),
        MembershipChange::Remove(id) => format!("remove {}", Short(*id)),
    };
    changes.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// The next step.
pub(super) fn next_step(situation: &Situation<'_>) -> Step {
    if let Some(step) = replace_lost_stores(situation) {
        return step;
    }
    if let Some(step) = admit(situation) {
        return step;
    }
    if let Some(step) = add_learners(situation) {
        return step;
    }
    settle(situation)
}

/// A member that has come back with a new store is taken out first: what the old one promised is forgotten.
fn replace_lost_stores(situation: &Situation<'_>) -> Option<Step> {
    let members = situation.voters.iter().chain(situation.learners);
    let lost: Vec<NodeId> =
        members.copied().filter(|id| *id != situation.own && situation.new_store(*id).is_some()).collect();
    let id = *lost.first()?;
    if situation.voters.contains(&id) && !situation.can_do_without(id) {
        let id = Short(id);
        return Some(Step::Wait(format!(
            "member {id} has lost its store, and the others are no quorum without it"
        )));
    }
    Some(Step::Change(vec![MembershipChange::Remove(id)]))
}

/// Stores of newcomers go into the log before they become members.
fn admit(situation: &Situation<'_>) -> Option<Step> {
    let mut roster: Roster = situation
        .roster
        .iter()
        .filter(|(id, _)| situation.is_member(**id))
        .map(|(id, store)| (*id, *store))
        .collect();
    let before = roster.len();
    for id in situation.validators.iter().filter(|id| !situation.is_member(**id)) {
        if let Some(store) = situation.new_store(*id) {
            roster.insert(*id, store);
        } else if let Some(store) = situation.roster.get(id) {
            // It keeps the seat that it had.
            roster.insert(*id, *store);
        }
    }
    let news =
        situation.validators.iter().any(|id| !situation.is_member(*id) && situation.new_store(*id).is_some());
    (news && roster.len() > before).then_some(Step::Admit(roster))
}

fn add_learners(situation: &Situation<'_>) -> Option<Step> {
    let ready = |id: &&NodeId| !situation.is_member(**id) && situation.is_ready(**id);
    let new: Vec<MembershipChange> =
        situation.validators.iter().filter(ready).map(|id| MembershipChange::AddLearner(*id)).collect();
    (!new.is_empty()).then_some(Step::Change(new))
}

/// Learners that have caught up become voters, and whoever is not on the list leaves.
fn settle(situation: &Situation<'_>) -> Step {
    let Situation { own, validators, voters, learners, .. } = *situation;
    let on_list = |id: &NodeId| validators.contains(id);
    let ready: Vec<NodeId> =
        learners.iter().copied().filter(|id| on_list(id) && situation.is_caught_up(*id)).collect();
    let awaited: Vec<NodeId> =
        validators.iter().copied().filter(|id| !voters.contains(id) && !ready.contains(id)).collect();
    let leaving: Vec<NodeId> = voters.iter().chain(learners).copied().filter(|id| !on_list(id)).collect();
    if awaited.is_empty() && ready.is_empty() && leaving.is_empty() {
        return if on_list(&own) {
            Step::Settled
        } else {
            Step::Wait("this node is no validator".to_owned())
        };
    }
    let staying = voters.iter().filter(|id| on_list(id)).count() + ready.len();
    let enough = staying >= quorum(validators.len());
    let hurry = situation.impatient && enough;
    if !awaited.is_empty() && !hurry {
        return Step::Wait(format!("new validators have not caught up: {:?}", short(&awaited)));
    }
    let mut changes: Vec<MembershipChange> = ready.iter().copied().map(MembershipChange::AddVoter).collect();
    if on_list(&own) {
        changes.extend(leaving.into_iter().map(MembershipChange::Remove));
    } else if changes.is_empty() {
        let heir = voters.iter().copied().find(|id| on_list(id) && situation.is_active(*id));
        return heir.map_or_else(|| Step::Wait("no validator can take over".to_owned()), Step::HandOver);
    }
    if changes.is_empty() {
        return Step::Wait(format!("new validators have not caught up: {:?}", short(&awaited)));
    }
    Step::Change(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(node).collect()
    }

    fn store(byte: u8) -> StoreIncarnation {
        StoreIncarnation([byte; 16])
    }

    /// A cluster whose leader is node 1 and whose peers do what they are told at once.
    struct World {
        own: u64,
        validators: Vec<NodeId>,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
        roster: Roster,
        present: BTreeMap<NodeId, Present>,
        silent: Vec<u64>,
        impatient: bool,
        steps: Vec<String>,
    }

    impl World {
        fn new(voters: &[u64], validators: &[u64]) -> Self {
            Self {
                own: 1,
                validators: nodes(validators),
                voters: nodes(voters),
                learners: Vec::new(),
                roster: voters.iter().map(|id| (node(*id), store(*id as u8))).collect(),
                present: BTreeMap::new(),
                silent: Vec::new(),
                impatient: false,
                steps: Vec::new(),
            }
        }

        fn asks(mut self, id: u64, with: u8) -> Self {
            self.present.insert(node(id), Present { store: store(with), joined: false, seated: false });
            self
        }

        fn step(&self) -> Step {
            let members = self.voters.iter().chain(&self.learners);
            let progress: Vec<PeerProgress> = members
                .filter(|id| id.get() != self.own)
                .map(|id| PeerProgress {
                    node_id: *id,
                    matched: 100,
                    next: 101,
                    state: "replicate",
                    active: !self.silent.contains(&id.get()),
                    voter: self.voters.contains(id),
                })
                .collect();
            next_step(&Situation {
                own: node(self.own),
                validators: &self.validators,
                voters: &self.voters,
                learners: &self.learners,
                roster: &self.roster,
                present: &self.present,
                progress: &progress,
                commit: 100,
                impatient: self.impatient,
            })
        }

        /// Does what is asked until nothing more is.
        fn run(&mut self) -> Step {
            for _ in 0..20 {
                let step = self.step();
                match &step {
                    Step::Settled | Step::Wait(_) => return step,
                    Step::Admit(roster) => {
                        self.steps.push("admit".to_owned());
                        self.roster = roster.clone();
                        for (id, present) in &mut self.present {
                            // Told that it is admitted, it makes its store.
                            present.joined |= roster.get(id) == Some(&present.store);
                        }
                    }
                    Step::HandOver(to) => {
                        self.steps.push(format!("hand over to {to}"));
                        self.own = to.get();
                    }
                    Step::Change(changes) => self.change(changes),
                }
            }
            panic!("no end: {:?}", self.steps);
        }

        fn change(&mut self, changes: &[MembershipChange]) {
            self.steps.push(format!("{changes:?}"));
            for change in changes {
                let (MembershipChange::AddVoter(id)
                | MembershipChange::AddLearner(id)
                | MembershipChange::Remove(id)) = change;
                assert!(*change != MembershipChange::Remove(node(self.own)), "a leader never removes itself");
                self.voters.retain(|other| other != id);
                self.learners.retain(|other| other != id);
                match change {
                    MembershipChange::AddVoter(id) => self.voters.push(*id),
                    MembershipChange::AddLearner(id) => {
                        let present = self.present.get_mut(id).expect("only those that are there are added");
                        assert!(present.joined, "whoever has no store would miss what is sent to it");
                        present.seated = true;
                        self.learners.push(*id);
                    }
                    MembershipChange::Remove(_) => {}
                }
            }
            self.voters.sort_unstable();
        }
    }

    #[test]
    fn members_that_are_the_validators_need_nothing() {
        assert_eq!(World::new(&[1, 2, 3, 4], &[1, 2, 3, 4]).step(), Step::Settled);
    }

    #[test]
    fn four_become_one_and_one_becomes_four_again() {
        let mut world = World::new(&[1, 2, 3, 4], &[1]);
        assert_eq!(world.run(), Step::Settled);
        assert_eq!((world.voters.clone(), world.steps.len()), (nodes(&[1]), 1), "in one change");
        world.validators = nodes(&[1, 2, 3, 4]);
        let mut world = world.asks(2, 12).asks(3, 13).asks(4, 14);
        assert_eq!(world.run(), Step::Settled);
        assert_eq!(world.voters, nodes(&[1, 2, 3, 4]));
        assert_eq!(world.roster.get(&node(3)), Some(&store(13)), "with their new stores");
    }

    #[test]
    fn a_leader_that_is_removed_hands_over_and_its_heir_removes_it() {
        let mut world = World::new(&[1, 2, 3, 4], &[2, 3, 4]);
        assert_eq!(world.run(), Step::Settled);
        assert_eq!(world.steps[0], "hand over to 2");
        assert_eq!(world.voters, nodes(&[2, 3, 4]));
    }

    #[test]
    fn all_are_replaced() {
        let mut world = World::new(&[1, 2, 3, 4], &[5, 6, 7]).asks(5, 5).asks(6, 6).asks(7, 7);
        assert_eq!(world.run(), Step::Settled);
        assert_eq!(world.voters, nodes(&[5, 6, 7]));
    }

    #[test]
    fn a_member_with_a_new_store_is_taken_out_before_it_is_admitted() {
        let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3, 4]).asks(2, 99);
        assert_eq!(world.run(), Step::Settled);
        let steps: Vec<&str> = world.steps.iter().map(String::as_str).collect();
        assert!(steps[0].contains("Remove"), "{steps:?}");
        assert_eq!(steps[1], "admit");
        assert_eq!(world.roster.get(&node(2)), Some(&store(99)));
        assert_eq!(world.voters, nodes(&[1, 2, 3, 4]));
    }

    #[test]
    fn a_lost_store_is_not_replaced_while_the_others_are_no_quorum() {
        let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3, 4]).asks(2, 99);
        world.silent = vec![3];
        assert!(matches!(world.run(), Step::Wait(_)));
        assert!(world.steps.is_empty());
    }

    #[test]
    fn a_founder_that_was_missing_gets_a_seat_with_the_store_that_it_brings() {
        let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        world.roster.remove(&node(4));
        let mut world = world.asks(4, 4);
        assert_eq!(world.run(), Step::Settled);
        assert_eq!(world.roster.get(&node(4)), Some(&store(4)));
    }

    #[test]
    fn a_seat_of_former_times_is_given_back_only_to_who_shows_up_with_its_store() {
        let mut world = World::new(&[1, 2], &[1, 2, 3]);
        world.roster.insert(node(3), store(3));
        assert!(matches!(world.run(), Step::Wait(_)), "nobody has heard it");
        assert!(world.steps.is_empty());
        world.present.insert(node(3), Present { store: store(3), joined: true, seated: true });
        assert_eq!(world.run(), Step::Settled);
        assert!(!world.steps.contains(&"admit".to_owned()), "it has kept everything");
    }

    #[test]
    fn newcomers_that_are_not_there_hold_nothing_up_for_ever() {
        let mut world = World::new(&[1, 2, 3], &[1, 2, 4, 5]).asks(4, 4);
        assert!(matches!(world.run(), Step::Wait(_)));
        world.impatient = true;
        assert!(matches!(world.run(), Step::Wait(_)), "5 is still awaited");
        assert_eq!(world.voters, nodes(&[1, 2, 4]));
    }

    #[test]
    fn members_are_not_given_up_for_newcomers_that_are_not_there() {
        let mut world = World::new(&[1, 2, 3], &[1, 4, 5, 6]);
        world.impatient = true;
        assert!(matches!(world.run(), Step::Wait(_)));
        assert_eq!(world.voters, nodes(&[1, 2, 3]));
    }
}
