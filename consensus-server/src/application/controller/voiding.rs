//! Giving up a block that was agreed on and that no controller can ever commit.
//!
//! The transactions of a block live in the controllers' memory until it is executed. When all of them lose
//! power with a block agreed on and executed nowhere, every controller waits for transactions that exist no
//! more. The way out: every validator's controller is below that height and cannot check the block; every
//! validator promises, durably, never to commit it; then an entry in the log gives it up. With a validator
//! missing nothing happens, because its controller may have the block, and the chain says whom it waits
//! for.
//!
//! A pure state machine of the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_proto::cita::exchange as wire;

use super::VoidRefused;
use super::desk::Promise;
use crate::config::cita::address::{Short, short};

/// A report counts for this long.
pub(super) const REPORT_FRESH: Duration = Duration::from_secs(7);
/// Promises are asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// The giving up is proposed again after this long.
const PROPOSE_AGAIN: Duration = Duration::from_secs(3);
/// How long an operator's word counts.
pub const VOUCHED_FOR: Duration = Duration::from_secs(60);

/// What all validators said last, and when.
pub(super) type Reports = BTreeMap<NodeId, (wire::Report, Instant)>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Ask these for their promise.
    Ask(Promise, Vec<NodeId>),
    /// All have promised.
    Propose(Promise),
    /// In words, who is waited for.
    Wait(String),
}

#[derive(Debug, Default)]
pub(super) struct Voiding {
    subject: Promise,
    promised: BTreeSet<NodeId>,
    asked_at: Option<Instant>,
    proposed_at: Option<Instant>,
    vouched: Option<Vouched>,
}

/// An operator's word: these controllers do not have what is to be given up.
#[derive(Clone, Debug)]
struct Vouched {
    subject: Promise,
    validators: BTreeSet<NodeId>,
    at: Instant,
}

/// Whether an operator's decision to give up `height` without some validators can be taken up by the leader,
/// whose controller is stuck as said.
///
/// # Errors
/// Why not.
pub(super) fn judge(
    (height, without): (u64, &[NodeId]),
    stuck: Option<u64>,
    own: NodeId,
    validators: &[NodeId],
    reports: &Reports,
) -> Result<(), VoidRefused> {
    let stuck = stuck.ok_or(VoidRefused::NothingStuck)?;
    if height != stuck {
        return Err(VoidRefused::OtherHeight { height, stuck });
    }
    if without.is_empty() {
        return Err(VoidRefused::Nobody);
    }
    for id in without {
        if *id == own {
            return Err(VoidRefused::Own(Short(*id)));
        }
        if !validators.contains(id) {
            return Err(VoidRefused::NoValidator { id: Short(*id), validators: short(validators) });
        }
        if has_block(*id, height, reports) {
            return Err(VoidRefused::HasBlock(Short(*id)));
        }
    }
    Ok(())
}

/// What a controller was once said to have it has, also if its node is silent now.
fn has_block(id: NodeId, height: u64, reports: &Reports) -> bool {
    reports.get(&id).is_some_and(|(report, _)| report.height >= height)
}

impl Voiding {
    /// An operator vouches that these do not have what is to be given up.
    pub(super) fn vouch(&mut self, subject: Promise, validators: Vec<NodeId>, now: Instant) {
        self.vouched = Some(Vouched { subject, validators: validators.into_iter().collect(), at: now });
    }

    fn is_vouched_for(&self, id: NodeId, now: Instant) -> bool {
        self.vouched.as_ref().is_some_and(|vouched| {
            let counts = vouched.subject == self.subject && now.duration_since(vouched.at) <= VOUCHED_FOR;
            counts && vouched.validators.contains(&id)
        })
    }

    /// All are asked anew.
    pub(super) fn forget_promises(&mut self) {
        self.promised.clear();
        self.asked_at = None;
    }

    pub(super) fn on_promise(&mut self, from: NodeId, promise: Promise) {
        if promise == self.subject {
            self.promised.insert(from);
        }
    }

    /// `subject` is what this node's controller cannot commit, all of it.
    pub(super) fn step(
        &mut self,
        subject: Promise,
        validators: &[NodeId],
        reports: &Reports,
        now: Instant,
    ) -> Option<Action> {
        if subject != self.subject {
            *self = Self { subject, vouched: self.vouched.take(), ..Self::default() };
        }
        // A word against what is known does not count.
        let excused =
            |id: &NodeId| self.is_vouched_for(*id, now) && !has_block(*id, subject.from_height, reports);
        let counted: Vec<NodeId> = validators.iter().copied().filter(|id| !excused(id)).collect();
        let obstacles: Vec<Obstacle> = counted
            .iter()
            .filter(|id| !self.promised.contains(id))
            .filter_map(|id| obstacle(*id, subject, reports, now))
            .collect();
        if !obstacles.is_empty() {
            return in_words(obstacles).map(Action::Wait);
        }
        let silent: Vec<NodeId> = counted.into_iter().filter(|id| !self.promised.contains(id)).collect();
        if !silent.is_empty() {
            if self.asked_at.is_some_and(|at| now < at + ASK_AGAIN) {
                return None;
            }
            self.asked_at = Some(now);
            return Some(Action::Ask(subject, silent));
        }
        if self.proposed_at.is_some_and(|at| now < at + PROPOSE_AGAIN) {
            return None;
        }
        self.proposed_at = Some(now);
        Some(Action::Propose(subject))
    }
}

/// Why a validator stands in the way.
enum Obstacle {
    /// The outcome of a call is open, which it is for a moment only.
    Moment,
    /// In words.
    Reason(String),
}

/// What lasts of it; that something is open for a moment is not worth a word.
fn in_words(obstacles: Vec<Obstacle>) -> Option<String> {
    let reason = |obstacle| match obstacle {
        Obstacle::Reason(words) => Some(words),
        Obstacle::Moment => None,
    };
    let words: Vec<String> = obstacles.into_iter().filter_map(reason).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn obstacle(id: NodeId, subject: Promise, reports: &Reports, now: Instant) -> Option<Obstacle> {
    let (height, name) = (subject.from_height, Short(id));
    let reason = |words: String| Some(Obstacle::Reason(words));
    let Some((report, at)) = reports.get(&id) else {
        return reason(format!("validator {name} was not heard, its controller may have block {height}"));
    };
    if now.duration_since(*at) > REPORT_FRESH {
        return reason(format!("validator {name} is silent, its controller may have block {height}"));
    }
    if report.height >= height {
        return reason(format!("the controller of validator {name} has block {height}"));
    }
    if !report.healthy {
        return reason(format!("the controller of validator {name} does not answer"));
    }
    if report.in_flight {
        return Some(Obstacle::Moment);
    }
    if report.height + 1 != height {
        let at = report.height;
        return reason(format!("the controller of validator {name} is at {at}, it still has to sync"));
    }
    if report.stuck_height != height {
        return reason(format!("the controller of validator {name} may still commit block {height}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Promise = Promise { from_height: 8, upto_index: 20 };

    fn nodes() -> Vec<NodeId> {
        (1..=3).filter_map(NodeId::new).collect()
    }

    fn stuck() -> wire::Report {
        wire::Report {
            height: 7,
            healthy: true,
            agreed_index: 20,
            stuck_height: 8,
            stuck_code: 119,
            in_flight: false,
            answered_ms_ago: 0,
        }
    }

    fn reports(now: Instant) -> Reports {
        nodes().into_iter().map(|id| (id, (stuck(), now))).collect()
    }

    #[test]
    fn all_are_asked_and_only_when_all_have_promised_the_block_is_given_up() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        let step = |voiding: &mut Voiding| voiding.step(SUBJECT, &nodes(), &reports(now), now);
        assert_eq!(step(&mut voiding), Some(Action::Ask(SUBJECT, nodes())));
        assert_eq!(step(&mut voiding), None, "they get time");
        for id in nodes() {
            assert!(!matches!(step(&mut voiding), Some(Action::Propose(_))));
            voiding.on_promise(id, SUBJECT);
        }
        assert_eq!(step(&mut voiding), Some(Action::Propose(SUBJECT)));
    }

    #[test]
    fn one_validator_that_is_missing_or_can_still_commit_holds_it_up_by_name() {
        let now = Instant::now();
        type Change = fn(&mut wire::Report);
        let cases: [(&str, Change); 4] = [
            ("has block 8", |report| report.height = 8),
            ("does not answer", |report| report.healthy = false),
            ("still has to sync", |report| report.height = 5),
            ("may still commit", |report| report.stuck_height = 0),
        ];
        for (words, change) in cases {
            let mut all = reports(now);
            change(&mut all.get_mut(&nodes()[1]).expect("is there").0);
            let Some(Action::Wait(why)) = Voiding::default().step(SUBJECT, &nodes(), &all, now) else {
                panic!("{words}");
            };
            assert!(why.contains(words) && why.contains("validator 0000000000000002"), "{why}");
        }
        let later = now + REPORT_FRESH + Duration::from_secs(1);
        let action = Voiding::default().step(SUBJECT, &nodes(), &reports(now), later);
        assert!(matches!(action, Some(Action::Wait(why)) if why.contains("silent")));
    }

    #[test]
    fn a_call_whose_outcome_is_open_holds_it_up_without_a_word() {
        let now = Instant::now();
        let mut all = reports(now);
        all.get_mut(&nodes()[1]).expect("is there").0.in_flight = true;
        assert_eq!(Voiding::default().step(SUBJECT, &nodes(), &all, now), None);
        all.get_mut(&nodes()[2]).expect("is there").0.healthy = false;
        let action = Voiding::default().step(SUBJECT, &nodes(), &all, now);
        assert!(matches!(action, Some(Action::Wait(why)) if !why.contains("validator 0000000000000002")));
    }

    #[test]
    fn an_operator_can_vouch_for_one_that_is_missing() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        let mut some = reports(now);
        some.remove(&nodes()[2]);
        assert!(matches!(voiding.step(SUBJECT, &nodes(), &some, now), Some(Action::Wait(_))));
        voiding.vouch(SUBJECT, vec![nodes()[2]], now);
        assert_eq!(
            voiding.step(SUBJECT, &nodes(), &some, now),
            Some(Action::Ask(SUBJECT, nodes()[..2].to_vec()))
        );
        let late = now + VOUCHED_FOR + Duration::from_millis(1);
        let fresh: Reports = some.iter().map(|(id, (report, _))| (*id, (*report, late))).collect();
        assert!(
            matches!(voiding.step(SUBJECT, &nodes(), &fresh, late), Some(Action::Wait(_))),
            "for a while"
        );
    }

    #[test]
    fn a_word_for_one_block_says_nothing_about_the_next() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        let mut some = reports(now);
        some.remove(&nodes()[2]);
        voiding.vouch(SUBJECT, vec![nodes()[2]], now);
        let next = Promise { upto_index: 21, ..SUBJECT };
        assert!(matches!(voiding.step(next, &nodes(), &some, now), Some(Action::Wait(_))));
    }

    #[test]
    fn a_word_against_what_is_known_does_not_count() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        let mut all = reports(now);
        all.get_mut(&nodes()[2]).expect("is there").0.height = 8;
        voiding.vouch(SUBJECT, vec![nodes()[2]], now);
        let Some(Action::Wait(why)) = voiding.step(SUBJECT, &nodes(), &all, now) else { panic!("waits") };
        assert!(why.contains("validator 0000000000000003 has block 8"), "{why}");
    }

    #[test]
    fn a_decision_without_a_subject_is_refused_in_words() {
        let ids = nodes();
        let mut reports = reports(Instant::now());
        reports.get_mut(&ids[1]).expect("is there").0.height = 8;
        let judge = |height, without: &[NodeId], stuck| {
            judge((height, without), stuck, ids[0], &ids, &reports).map_err(|why| why.to_string())
        };
        assert_eq!(judge(8, &ids[2..], Some(8)), Ok(()));
        let stranger = NodeId::new(9).expect("not 0");
        for (refused, words) in [
            (judge(8, &ids[2..], None), "no block is stuck"),
            (judge(7, &ids[2..], Some(8)), "block 7 is not the one that is stuck, that is block 8"),
            (judge(8, &[], Some(8)), "no validator is named"),
            (judge(8, &ids[..1], Some(8)), "0000000000000001 is this node"),
            (
                judge(8, &[stranger], Some(8)),
                "0000000000000009 is no validator; validators are [0000000000000001, ",
            ),
            (judge(8, &ids[1..], Some(8)), "the controller of validator 0000000000000002 has the block"),
        ] {
            let said = refused.expect_err(words);
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn a_promise_about_something_else_does_not_count() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        voiding.step(SUBJECT, &nodes(), &reports(now), now);
        for id in nodes() {
            voiding.on_promise(id, Promise { upto_index: 19, ..SUBJECT });
        }
        let later = now + ASK_AGAIN;
        assert_eq!(
            voiding.step(SUBJECT, &nodes(), &reports(now), later),
            Some(Action::Ask(SUBJECT, nodes()))
        );
    }

    #[test]
    fn whoever_has_promised_is_not_asked_again_and_the_giving_up_is_proposed_again_after_a_while() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        voiding.step(SUBJECT, &nodes(), &reports(now), now);
        voiding.on_promise(nodes()[0], SUBJECT);
        let mut some = reports(now);
        some.remove(&nodes()[0]);
        let later = now + ASK_AGAIN;
        let asked = voiding.step(SUBJECT, &nodes(), &some, later);
        assert_eq!(asked, Some(Action::Ask(SUBJECT, nodes()[1..].to_vec())), "a promise is durable");
        nodes().into_iter().for_each(|id| voiding.on_promise(id, SUBJECT));
        assert_eq!(voiding.step(SUBJECT, &nodes(), &some, later), Some(Action::Propose(SUBJECT)));
        assert_eq!(voiding.step(SUBJECT, &nodes(), &some, later), None);
        let again = voiding.step(SUBJECT, &nodes(), &some, later + PROPOSE_AGAIN);
        assert_eq!(again, Some(Action::Propose(SUBJECT)), "the first one may be lost");
    }

    #[test]
    fn promises_about_one_block_do_not_give_up_another() {
        let (mut voiding, now) = (Voiding::default(), Instant::now());
        voiding.step(SUBJECT, &nodes(), &reports(now), now);
        nodes().into_iter().for_each(|id| voiding.on_promise(id, SUBJECT));
        let next = Promise { upto_index: 30, ..SUBJECT };
        assert_eq!(voiding.step(next, &nodes(), &reports(now), now), Some(Action::Ask(next, nodes())));
    }
}
