//! When a node without a seat may found its chain's group, and with whom.
//!
//! A group must never be founded beside another one. So a node asks all validators first. Who hears of one
//! that is in a group waits to be admitted there. Only where a majority of the validators is in no group and
//! has the same list, the one of them with the lowest id founds it, with all whose stores it has heard; each
//! of them accepts once and durably, and needs a majority of the validators to be led. Those that are missed
//! get some time, more if there is a chain already, because one of them may have blocks that the others have
//! not.
//!
//! A group whose votes are lost for good can be left: when every one of its voters is heard and fewer than a
//! quorum of them still have their stores, nothing can be agreed on in it any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus_core::ids::{NodeId, StoreIncarnation};

use crate::application::controller::agreement::Roster;
use crate::config::cita::address::Short;
use crate::transport::cita::GroupId;

/// A node counts for this long after it was heard.
pub(super) const HEARD_FRESH: Duration = Duration::from_secs(3);
/// How long a new chain waits for validators beyond a majority.
const GRACE_NEW: Duration = Duration::from_secs(3);
/// The same for a chain that has blocks.
const GRACE_OLD: Duration = Duration::from_secs(10);
/// How long everybody on the network is asked for a group before a chain that has blocks gets a new one: its
/// present members may be others than the validators that its newest block names.
const ASK_ALL_FOR: Duration = Duration::from_millis(1500);
/// How long a group must have been seen without a chance before it is left.
const LOST_FOR: Duration = Duration::from_secs(5);

/// What another node said of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) incarnation: StoreIncarnation,
    pub(super) group: Option<GroupId>,
    /// A member with all its state.
    pub(super) seated: bool,
    /// In a group that has a leader.
    pub(super) led: bool,
    pub(super) validators: Vec<NodeId>,
    pub(super) height: u64,
}

/// Everybody that was heard.
pub(super) type HeardAll = BTreeMap<NodeId, Heard>;

/// What a node without a seat does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Ask on; in words, for what.
    Ask(String),
    /// Wait until this group admits it.
    WaitFor(GroupId),
    /// Found the group with these.
    Found(Roster),
}

/// Decides while there is no seat.
#[derive(Debug, Default)]
pub(super) struct Founding {
    asked_since: Option<Instant>,
    majority_since: Option<Instant>,
}

impl Founding {
    /// `validators` as the own controller has them, ascending, this node among them.
    pub(super) fn decide(
        &mut self,
        own: NodeId,
        store: StoreIncarnation,
        (validators, height): (&[NodeId], u64),
        heard: &HeardAll,
        now: Instant,
    ) -> Decision {
        let fresh = |id: &NodeId| heard.get(id).filter(|heard| now.duration_since(heard.at) <= HEARD_FRESH);
        let others = || validators.iter().filter(|id| **id != own);
        let asked_since = *self.asked_since.get_or_insert(now);
        // A validator's group may be without a leader for want of this node; others' only matter if they live.
        let outside =
            heard.keys().filter(|id| !validators.contains(id)).filter_map(fresh).filter(|heard| heard.led);
        if let Some(group) = others().filter_map(fresh).chain(outside).find_map(|heard| heard.group) {
            self.majority_since = None;
            return Decision::WaitFor(group);
        }
        let mut roster: Roster = others()
            .filter_map(|id| Some((*id, fresh(id)?)))
            .filter(|(_, heard)| heard.validators == validators)
            .map(|(id, heard)| (id, heard.incarnation))
            .collect();
        roster.insert(own, store);
        if roster.len() <= validators.len() / 2 {
            self.majority_since = None;
            return Decision::Ask(missing_in_words(validators, own, &roster, heard, now));
        }
        let since = *self.majority_since.get_or_insert(now);
        let grace = if height == 0 { GRACE_NEW } else { GRACE_OLD };
        if roster.len() < validators.len() && now < since + grace {
            return Decision::Ask(missing_in_words(validators, own, &roster, heard, now));
        }
        if height > 0 && now < asked_since + ASK_ALL_FOR {
            return Decision::Ask("whether anybody on the network is in the chain's group".to_owned());
        }
        if roster.keys().next() == Some(&own) {
            return Decision::Found(roster);
        }
        Decision::Ask("the founding, by the validator with the lowest id".to_owned())
    }
}

fn missing_in_words(
    validators: &[NodeId],
    own: NodeId,
    roster: &Roster,
    heard: &HeardAll,
    now: Instant,
) -> String {
    let reason = |id: &NodeId| match heard.get(id) {
        Some(heard) if now.duration_since(heard.at) <= HEARD_FRESH && heard.validators.is_empty() => {
            format!("validator {} does not know its controller's validators yet", Short(*id))
        }
        Some(heard) if now.duration_since(heard.at) <= HEARD_FRESH => {
            format!("validator {} has other validators at height {}", Short(*id), heard.height)
        }
        _ => format!("validator {} is not heard", Short(*id)),
    };
    let missing: Vec<String> =
        validators.iter().filter(|id| **id != own && !roster.contains_key(id)).map(reason).collect();
    missing.join(", ")
}

/// The group in which most validators are, if it is another than this node's: the chain goes on there.
pub(super) fn superseded(
    own: GroupId,
    validators: &[NodeId],
    heard: &HeardAll,
    now: Instant,
) -> Option<GroupId> {
    let mut members: BTreeMap<GroupId, usize> = BTreeMap::new();
    for heard in validators.iter().filter_map(|id| heard.get(id)) {
        let fresh = now.duration_since(heard.at) <= HEARD_FRESH;
        if let Some(group) = heard.group.filter(|group| *group != own && heard.seated && heard.led && fresh) {
            *members.entry(group).or_default() += 1;
        }
    }
    members.into_iter().find(|(_, count)| *count > validators.len() / 2).map(|(group, _)| group)
}

/// Watches whether the group that this node is in still has a chance.
#[derive(Debug, Default)]
pub(super) struct LostGroup {
    since: Option<Instant>,
}

/// What the watch says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Chance {
    /// It has one, or may have one.
    Maybe(String),
    /// It has none.
    None,
}

impl LostGroup {
    /// There is a leader: all is well.
    pub(super) fn reset(&mut self) {
        self.since = None;
    }

    /// `voters` as this node has them.
    pub(super) fn judge(
        &mut self,
        own: NodeId,
        group: GroupId,
        voters: &[NodeId],
        heard: &HeardAll,
        now: Instant,
    ) -> Chance {
        let mut keeping = 0;
        let mut silent = Vec::new();
        for id in voters {
            if *id == own {
                keeping += 1;
                continue;
            }
            match heard.get(id).filter(|heard| now.duration_since(heard.at) <= HEARD_FRESH) {
                Some(heard) => keeping += usize::from(heard.group == Some(group) && heard.seated),
                None => silent.push(Short(*id).to_string()),
            }
        }
        let quorum = voters.len() / 2 + 1;
        if !silent.is_empty() || keeping >= quorum {
            self.since = None;
            let lost = voters.len() - keeping - silent.len();
            let words = format!("{lost} of {} members have lost their state", voters.len());
            return Chance::Maybe(match (lost, silent.is_empty()) {
                (0, true) => "all members are there".to_owned(),
                (0, false) => format!("not heard: {}", silent.join(", ")),
                (_, true) => words,
                (_, false) => format!("{words}, not heard: {}", silent.join(", ")),
            });
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= LOST_FOR {
            return Chance::None;
        }
        Chance::Maybe(format!("only {keeping} of {} members still have their state", voters.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    fn store(id: u64) -> StoreIncarnation {
        StoreIncarnation([id as u8; 16])
    }

    fn four() -> Vec<NodeId> {
        (1..=4).map(node).collect()
    }

    fn asking(id: u64, now: Instant) -> (NodeId, Heard) {
        let heard = Heard {
            at: now,
            incarnation: store(id),
            group: None,
            seated: false,
            led: false,
            validators: four(),
            height: 0,
        };
        (node(id), heard)
    }

    fn member(id: u64, group: u8, now: Instant) -> (NodeId, Heard) {
        let (id, heard) = asking(id, now);
        (id, Heard { group: Some(GroupId([group; 16])), seated: true, led: true, ..heard })
    }

    fn decide(founding: &mut Founding, own: u64, height: u64, heard: &HeardAll, now: Instant) -> Decision {
        founding.decide(node(own), store(own), (&four(), height), heard, now)
    }

    #[test]
    fn all_that_ask_found_together_and_only_the_lowest_begins() {
        let now = Instant::now();
        let heard: HeardAll = (2..=4).map(|id| asking(id, now)).collect();
        let Decision::Found(roster) = decide(&mut Founding::default(), 1, 0, &heard, now) else {
            panic!("nobody is missing");
        };
        assert_eq!(roster.len(), 4);
        let heard: HeardAll = [1, 3, 4].map(|id| asking(id, now)).into();
        assert!(matches!(decide(&mut Founding::default(), 2, 0, &heard, now), Decision::Ask(_)));
    }

    #[test]
    fn nobody_founds_alone_unless_it_is_the_only_validator() {
        let now = Instant::now();
        for (heard, missing) in [
            (HeardAll::new(), "validator 0000000000000002"),
            ([asking(2, now)].into(), "validator 0000000000000003"),
        ] {
            let later = now + Duration::from_secs(2);
            let Decision::Ask(why) = decide(&mut Founding::default(), 1, 0, &heard, later) else {
                panic!("no majority");
            };
            assert!(why.contains(missing), "{why}");
        }
        let alone = Founding::default().decide(node(1), store(1), (&[node(1)], 0), &HeardAll::new(), now);
        assert_eq!(alone, Decision::Found([(node(1), store(1))].into()));
    }

    #[test]
    fn a_majority_waits_for_the_rest_and_longer_where_there_are_blocks() {
        for (height, grace) in [(0, GRACE_NEW), (7, GRACE_OLD)] {
            let (mut founding, start) = (Founding::default(), Instant::now());
            let heard = |at| -> HeardAll { [2, 3].map(|id| asking(id, at)).into() };
            assert!(matches!(decide(&mut founding, 1, height, &heard(start), start), Decision::Ask(_)));
            let early = start + grace - Duration::from_millis(1);
            assert!(matches!(decide(&mut founding, 1, height, &heard(early), early), Decision::Ask(_)));
            let due = start + grace;
            assert!(
                matches!(decide(&mut founding, 1, height, &heard(due), due), Decision::Found(r) if r.len() == 3)
            );
        }
    }

    #[test]
    fn whoever_hears_of_a_group_joins_it() {
        let now = Instant::now();
        let heard: HeardAll = [asking(2, now), asking(3, now), member(4, 9, now)].into();
        let decision = decide(&mut Founding::default(), 1, 0, &heard, now);
        assert_eq!(decision, Decision::WaitFor(GroupId([9; 16])));
    }

    #[test]
    fn a_chain_with_blocks_asks_everybody_before_it_gets_a_new_group() {
        let (mut founding, start) = (Founding::default(), Instant::now());
        let heard = |at| -> HeardAll { (2..=4).map(|id| asking(id, at)).collect() };
        assert!(matches!(decide(&mut founding, 1, 7, &heard(start), start), Decision::Ask(_)));
        let due = start + ASK_ALL_FOR;
        assert!(matches!(decide(&mut founding, 1, 7, &heard(due), due), Decision::Found(_)));
        let mut with_others = heard(due);
        with_others.extend([member(9, 9, due)]);
        let decision = decide(&mut founding, 1, 7, &with_others, due);
        assert_eq!(decision, Decision::WaitFor(GroupId([9; 16])), "all validators are new, the group is not");
        with_others.get_mut(&node(9)).expect("is there").led = false;
        assert!(matches!(decide(&mut founding, 1, 7, &with_others, due), Decision::Found(_)), "it is dead");
    }

    #[test]
    fn a_group_that_most_validators_are_not_in_is_superseded_by_the_one_in_which_they_are() {
        let (now, own) = (Instant::now(), GroupId([9; 16]));
        let three: HeardAll = [member(2, 8, now), member(3, 8, now), member(4, 8, now)].into();
        assert_eq!(superseded(own, &four(), &three, now), Some(GroupId([8; 16])));
        let two: HeardAll = [member(2, 8, now), member(3, 8, now), member(4, 9, now)].into();
        assert_eq!(superseded(own, &four(), &two, now), None);
        assert_eq!(superseded(own, &four(), &three, now + HEARD_FRESH * 2), None, "long ago");
    }

    #[test]
    fn those_with_other_validators_and_those_that_fell_silent_do_not_count() {
        let now = Instant::now();
        let mut heard: HeardAll = (2..=4).map(|id| asking(id, now)).collect();
        for id in [2, 3] {
            heard.get_mut(&node(id)).expect("is there").validators.pop();
        }
        let Decision::Ask(why) = decide(&mut Founding::default(), 1, 0, &heard, now) else {
            panic!("{heard:?}")
        };
        assert!(why.contains("validator 0000000000000002 has other validators"), "{why}");
        let heard: HeardAll = (2..=4).map(|id| asking(id, now)).collect();
        let later = now + HEARD_FRESH + Duration::from_millis(1);
        assert!(matches!(decide(&mut Founding::default(), 1, 0, &heard, later), Decision::Ask(_)));
    }

    #[test]
    fn a_group_is_left_only_when_all_its_voters_are_heard_and_too_few_have_their_state() {
        let group = GroupId([9; 16]);
        let judge =
            |lost: &mut LostGroup, heard: &HeardAll, now| lost.judge(node(1), group, &four(), heard, now);
        let start = Instant::now();
        let later = start + LOST_FOR;
        type Said = fn(Instant) -> HeardAll;
        let cases: [(Said, bool); 4] = [
            (|at| [asking(2, at), asking(3, at), member(4, 9, at)].into(), true),
            (|at| [member(2, 8, at), member(3, 8, at), member(4, 8, at)].into(), true),
            (|at| [asking(2, at), member(3, 9, at), member(4, 9, at)].into(), false),
            (|at| [asking(2, at), asking(3, at)].into(), false),
        ];
        for (number, (heard, none)) in cases.into_iter().enumerate() {
            let mut lost = LostGroup::default();
            assert!(matches!(judge(&mut lost, &heard(start), start), Chance::Maybe(_)), "{number}: at once");
            assert_eq!(judge(&mut lost, &heard(later), later) == Chance::None, none, "{number}");
        }
    }
}
