//! Stories of the leader's proposer, with validators that answer when they are told to.

use super::*;

const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TERM: u64 = 3;

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

/// The leader is node 1.
struct World {
    proposer: Proposer,
    start: Instant,
    now: Instant,
    validators: Vec<NodeId>,
    next_height: Option<u64>,
    first: bool,
}

impl World {
    /// Leads, at an interval, with as many validators; the next height is 8.
    fn new(validators: u64, interval: Duration) -> Self {
        let now = Instant::now();
        let mut proposer = Proposer::new(now);
        proposer.set_interval(interval);
        proposer.lead(Some(TERM));
        let validators = (1..=validators).map(node).collect();
        Self { proposer, start: now, now, validators, next_height: Some(8), first: false }
    }

    fn step(&mut self) -> Option<Action> {
        let Self { now, next_height, .. } = *self;
        let first = self.first;
        let situation = Situation { now, own: node(1), validators: &self.validators, next_height, first };
        self.proposer.step(&situation)
    }

    /// Passes time until there is something to do, as the application's loop does.
    fn wait(&mut self, most: Duration) -> Option<Action> {
        let end = self.now + most;
        loop {
            if let Some(action) = self.step() {
                return Some(action);
            }
            self.now = self.proposer.wake_at().filter(|at| *at > self.now && *at <= end).unwrap_or(end);
            if self.now == end {
                return self.step();
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Fetches a proposal and asks for verdicts; the number under which.
    fn ask(&mut self) -> u64 {
        let height = self.next_height.expect("is level");
        assert_eq!(self.wait(20 * SECOND), Some(Action::Fetch));
        self.proposer.on_proposal(node(1), height, data(height), self.now);
        match self.step() {
            Some(Action::Ask { number, height: of, data: what, to }) => {
                assert_eq!((of, what), (height, data(height)));
                assert_eq!(to, self.validators[1..], "all others");
                number
            }
            other => panic!("{other:?}"),
        }
    }

    fn verdict(&mut self, from: u64, number: u64, code: u32) -> bool {
        self.proposer.on_verdict(node(from), TERM, number, Code(code))
    }

    /// All others say yes, so it is proposed.
    fn propose(&mut self) {
        let number = self.ask();
        for id in 2..=self.validators.len() as u64 {
            self.verdict(id, number, 0);
        }
        assert!(matches!(self.step(), Some(Action::Propose { .. })));
        self.proposer.proposed(Ok(Ticket(number)), self.now);
    }

    /// A whole block, agreed on this long after it was due.
    fn block(&mut self, after: Duration) {
        self.propose();
        self.now += after;
        let height = self.next_height.expect("is level");
        self.proposer.agreed(height, self.now);
        self.next_height = Some(height + 1);
    }
}

fn data(height: u64) -> Bytes {
    Bytes::from(format!("block {height}"))
}

#[test]
fn nothing_is_done_without_leadership_or_before_the_controller_is_level() {
    let mut world = World::new(4, Duration::ZERO);
    world.next_height = None;
    assert_eq!(world.wait(SECOND), None);
    world.next_height = Some(8);
    world.proposer.lead(None);
    assert_eq!((world.wait(SECOND), world.proposer.wake_at()), (None, None));
    world.proposer.lead(Some(TERM + 1));
    assert_eq!(world.step(), Some(Action::Fetch));
    assert_eq!(world.step(), None, "once");
}

#[test]
fn the_controller_is_asked_when_a_block_is_due_and_not_before() {
    let mut world = World::new(4, 3 * SECOND);
    world.block(20 * MILLIS);
    assert_eq!(world.wait(3 * SECOND - 21 * MILLIS), None);
    assert_eq!(world.wait(MILLIS), Some(Action::Fetch));
}

#[test]
fn the_pace_is_kept_however_long_agreement_takes() {
    let mut world = World::new(4, SECOND);
    for _ in 0..50 {
        world.block(30 * MILLIS);
    }
    assert_eq!(world.elapsed(), 49 * SECOND + 30 * MILLIS);
}

#[test]
fn a_block_that_came_very_late_does_not_make_the_next_ones_come_in_a_hurry() {
    let mut world = World::new(4, SECOND);
    world.block(30 * MILLIS);
    world.block(10 * SECOND);
    let late = world.now;
    world.block(Duration::ZERO);
    assert_eq!(world.now - late, SECOND);
}

#[test]
fn blocks_of_former_leaders_count_for_the_pace() {
    let mut world = World::new(4, 3 * SECOND);
    world.proposer.lead(None);
    world.now += SECOND;
    world.proposer.agreed(8, world.now);
    world.next_height = Some(9);
    world.proposer.lead(Some(TERM + 1));
    assert_eq!(world.wait(3 * SECOND - MILLIS), None);
    assert_eq!(world.wait(MILLIS), Some(Action::Fetch));
}

#[test]
fn the_first_interval_that_is_heard_holds_nothing_up() {
    let now = Instant::now();
    let mut proposer = Proposer::new(now);
    proposer.agreed(7, now);
    proposer.set_interval(3 * SECOND);
    assert_eq!(proposer.due(), now, "nobody knows when the last block came");
}

#[test]
fn another_interval_counts_from_the_last_block() {
    let mut world = World::new(4, 3 * SECOND);
    world.block(Duration::ZERO);
    let last = world.now;
    world.proposer.set_interval(10 * SECOND);
    assert_eq!(world.wait(10 * SECOND - MILLIS), None);
    world.now = last + SECOND;
    world.proposer.set_interval(3 * SECOND);
    assert_eq!(world.wait(2 * SECOND - MILLIS), None);
    world.now = last + SECOND;
    world.proposer.set_interval(Duration::ZERO);
    assert_eq!(world.step(), Some(Action::Fetch), "at once");
}

#[test]
fn at_interval_zero_one_block_follows_the_other() {
    let mut world = World::new(4, Duration::ZERO);
    for _ in 0..100 {
        world.block(5 * MILLIS);
    }
    assert_eq!(world.elapsed(), 500 * MILLIS);
}

#[test]
fn only_what_a_quorum_says_yes_to_is_proposed() {
    for (validators, others) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut world = World::new(validators, Duration::ZERO);
        if validators == 1 {
            assert_eq!(world.step(), Some(Action::Fetch));
            world.proposer.on_proposal(node(1), 8, data(8), world.now);
            assert_eq!(world.step(), Some(Action::Propose { height: 8, data: data(8) }));
            continue;
        }
        let number = world.ask();
        for id in 0..others {
            assert!(
                !matches!(world.wait(100 * MILLIS), Some(Action::Propose { .. })),
                "{id} of {validators}"
            );
            world.verdict(2 + id, number, 0);
        }
        let height = 8;
        assert_eq!(world.wait(SECOND), Some(Action::Propose { height, data: data(height) }), "{validators}");
        assert_eq!(world.wait(20 * SECOND), None, "once");
    }
}

#[test]
fn voices_that_do_not_count_do_not_help() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    for (from, term, of) in
        [(2, TERM, number - 1), (3, TERM - 1, number), (9, TERM, number), (2, TERM, number)]
    {
        world.proposer.on_verdict(node(from), term, of, Code::SUCCESS);
    }
    assert!(!matches!(world.wait(100 * MILLIS), Some(Action::Propose { .. })), "two of four");
    world.verdict(4, number, 119);
    assert!(!matches!(world.wait(100 * MILLIS), Some(Action::Propose { .. })), "and one that says no");
}

#[test]
fn those_beyond_the_quorum_are_waited_for_a_moment() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.now += 20 * MILLIS;
    world.verdict(2, number, 0);
    world.verdict(3, number, 0);
    let quorum = world.now;
    assert!(matches!(world.wait(SECOND), Some(Action::Propose { .. })));
    assert_eq!(world.now - quorum, 20 * MILLIS, "as long as the quorum took");
    for (took, patience) in [(Duration::ZERO, PATIENCE.0), (200 * MILLIS, PATIENCE.1)] {
        let mut world = World::new(4, Duration::ZERO);
        let number = world.ask();
        world.now += took;
        world.verdict(2, number, 0);
        world.verdict(3, number, 0);
        let quorum = world.now;
        assert!(matches!(world.wait(SECOND), Some(Action::Propose { .. })));
        assert_eq!(world.now - quorum, patience);
    }
}

#[test]
fn nobody_waits_for_those_that_were_late_until_they_are_in_time_again() {
    let mut world = World::new(4, Duration::ZERO);
    let round = |world: &mut World, heard: &[u64]| {
        let number = world.ask();
        world.now += MILLIS;
        for id in heard {
            world.verdict(*id, number, 0);
        }
        let quorum = world.now;
        assert!(matches!(world.wait(SECOND), Some(Action::Propose { .. })));
        let waited = world.now - quorum;
        let height = world.next_height.expect("is level");
        world.proposer.agreed(height, world.now);
        world.next_height = Some(height + 1);
        waited
    };
    assert_eq!(round(&mut world, &[2, 3]), PATIENCE.0, "4 is late");
    assert_eq!(round(&mut world, &[2, 3]), Duration::ZERO);
    assert_eq!(round(&mut world, &[4, 2, 3]), Duration::ZERO);
    assert_eq!(round(&mut world, &[2, 3]), PATIENCE.0, "4 was in time");
}

#[test]
fn those_that_are_silent_are_asked_again() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.verdict(3, number, 0);
    assert_eq!(world.wait(ASK_AGAIN - MILLIS), None);
    let (height, to) = (8, vec![node(2), node(4)]);
    assert_eq!(world.wait(MILLIS), Some(Action::Ask { number, height, data: data(height), to }));
    assert_eq!(world.step(), None, "and then there is time again");
}

#[test]
fn a_candidate_that_no_quorum_can_take_is_given_up_at_once_with_the_verdicts_in_words() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.verdict(2, number, 130);
    assert_eq!(world.step(), None, "the others are enough");
    world.verdict(3, number, 128);
    assert_eq!(world.step(), Some(Action::Ping));
    let why = world.proposer.trouble().expect("is told").to_owned();
    for words in ["block 8", "2: 130 (proposal check failed)", "3: 128 (height too high)", "4: no answer"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert_eq!(world.proposer.refused(), 1);
    assert_eq!(world.wait(PAUSE - MILLIS), None);
    world.block(Duration::ZERO);
    assert_eq!((world.proposer.trouble(), world.proposer.refused()), (None, 0), "forgotten after a block");
}

#[test]
fn a_candidate_that_nobody_answers_is_given_up_after_a_while() {
    let mut world = World::new(4, Duration::ZERO);
    world.ask();
    let mut asks = 1;
    loop {
        match world.wait(20 * SECOND) {
            Some(Action::Ask { .. }) => asks += 1,
            Some(Action::Ping) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.elapsed(), ROUND_MAX);
    assert!((15..=20).contains(&asks), "{asks}");
    let number = world.ask();
    assert_eq!(number, 2, "the next candidate has another number");
    world.verdict(2, 1, 0);
    world.verdict(3, 1, 0);
    assert!(
        !matches!(world.wait(100 * MILLIS), Some(Action::Propose { .. })),
        "late verdicts are of the former"
    );
}

#[test]
fn a_candidate_lingers_while_a_quorum_has_nothing_to_say_about_it_for_long() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.verdict(2, number, 0);
    let asked = world.now;
    assert!(!world.proposer.lingers(asked + LINGERS - MILLIS));
    assert!(world.proposer.lingers(asked + LINGERS), "two of four are no quorum");
    world.verdict(3, number, 0);
    world.step();
    assert!(!world.proposer.lingers(asked + LINGERS), "it is proposed in a moment");
    world.proposer.lead(None);
    assert!(!world.proposer.lingers(asked + 10 * SECOND));
}

#[test]
fn a_verdict_that_the_height_is_there_makes_the_leader_look() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    assert!(!world.verdict(2, number, 0));
    assert!(world.verdict(3, number, 129));
    assert!(!world.verdict(3, number + 1, 129), "of another round");
}

#[test]
fn a_candidate_is_dropped_when_its_height_is_not_the_next_any_more() {
    for next in [None, Some(9)] {
        let mut world = World::new(4, Duration::ZERO);
        let number = world.ask();
        world.next_height = next;
        assert!(!matches!(world.step(), Some(Action::Propose { .. })));
        world.next_height = Some(8);
        for id in 2..=4 {
            world.verdict(id, number, 0);
        }
        assert!(!matches!(world.step(), Some(Action::Propose { .. })), "what was heard is of the former");
    }
}

#[test]
fn withdrawn_leadership_ends_everything_that_is_under_way() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.proposer.lead(None);
    for id in 2..=4 {
        world.verdict(id, number, 0);
    }
    assert_eq!(world.wait(SECOND), None);
    world.proposer.lead(Some(TERM + 1));
    let later = world.ask();
    assert!(later > number, "numbers ascend");
    for id in 2..=4 {
        world.verdict(id, later, 0);
    }
    assert!(!matches!(world.step(), Some(Action::Propose { .. })), "verdicts of the former term");
}

#[test]
fn what_the_controller_answers_after_leadership_was_withdrawn_is_of_no_use() {
    let mut world = World::new(4, Duration::ZERO);
    assert_eq!(world.step(), Some(Action::Fetch));
    world.proposer.lead(None);
    world.proposer.on_proposal(node(1), 8, data(8), world.now);
    world.proposer.on_no_proposal("139".to_owned(), world.now);
    assert_eq!(world.proposer.trouble(), None);
    world.proposer.lead(Some(TERM + 1));
    assert_eq!(world.step(), Some(Action::Fetch), "asked anew");
}

#[test]
fn a_new_leadership_begins_without_the_troubles_of_the_former_one() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.verdict(2, number, 130);
    world.verdict(3, number, 130);
    assert_eq!(world.step(), Some(Action::Ping));
    world.proposer.lead(Some(TERM + 1));
    assert_eq!((world.proposer.trouble(), world.proposer.refused()), (None, 0));
}

#[test]
fn a_wish_for_a_proposal_ends_when_something_else_must_come_first() {
    let mut world = World::new(4, Duration::ZERO);
    assert_eq!(world.step(), Some(Action::Fetch));
    world.next_height = None;
    assert_eq!(world.step(), None);
    world.next_height = Some(9);
    assert_eq!(world.step(), Some(Action::Fetch));
}

#[test]
fn a_request_for_the_same_term_does_not_disturb_what_is_under_way() {
    let mut world = World::new(4, Duration::ZERO);
    world.propose();
    world.proposer.lead(Some(TERM));
    assert_eq!(world.wait(20 * SECOND), None, "it is still in flight");
}

#[test]
fn a_proposal_that_came_to_nothing_is_tried_again_after_a_pause() {
    let mut world = World::new(4, Duration::ZERO);
    world.propose();
    world.proposer.on_failed(Ticket(99), "another".to_owned(), world.now);
    assert_eq!(world.wait(SECOND), None, "not this one");
    world.proposer.on_failed(Ticket(1), "entry of 9 bytes".to_owned(), world.now);
    assert_eq!(world.proposer.trouble(), Some("entry of 9 bytes"));
    assert_eq!(world.wait(PAUSE - MILLIS), None);
    assert_eq!(world.wait(MILLIS), Some(Action::Fetch));
}

#[test]
fn a_proposal_that_the_chain_does_not_take_is_tried_again_after_a_pause() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    for id in 2..=4 {
        world.verdict(id, number, 0);
    }
    assert!(matches!(world.step(), Some(Action::Propose { .. })));
    world.proposer.proposed(Err("overloaded".to_owned()), world.now);
    assert_eq!(world.wait(PAUSE - MILLIS), None);
    assert_eq!(world.wait(MILLIS), Some(Action::Fetch));
}

#[test]
fn a_controller_without_a_proposal_is_asked_again_after_a_pause() {
    let mut world = World::new(4, Duration::ZERO);
    assert_eq!(world.step(), Some(Action::Fetch));
    world.proposer.on_no_proposal("139 (controller in sync mode)".to_owned(), world.now);
    assert!(world.proposer.trouble().is_some_and(|why| why.contains("139")));
    assert_eq!(world.wait(PAUSE - MILLIS), None);
    assert_eq!(world.wait(MILLIS), Some(Action::Fetch));
}

#[test]
fn when_a_block_is_given_up_the_next_is_due_at_once() {
    let mut world = World::new(4, 10 * SECOND);
    world.block(Duration::ZERO);
    world.proposer.voided(world.now);
    world.next_height = Some(8);
    assert_eq!(world.step(), Some(Action::Fetch));
}

#[test]
fn a_height_that_one_controller_has_already_is_not_proposed_whatever_the_others_say() {
    let mut world = World::new(4, Duration::ZERO);
    let number = world.ask();
    world.verdict(2, number, 0);
    assert!(world.verdict(4, number, 129), "the own controller is to be looked at");
    world.verdict(3, number, 0);
    assert_eq!(world.step(), Some(Action::Ping));
    assert!(world.proposer.trouble().is_some_and(|why| why.contains("129")));
    assert_eq!(world.wait(PAUSE - MILLIS), None, "its sync gets time");
}

#[test]
fn the_first_block_of_a_group_waits_for_all_and_not_for_ever() {
    let mut world = World::new(4, Duration::ZERO);
    world.first = true;
    let number = world.ask();
    world.verdict(2, number, 0);
    world.verdict(3, number, 0);
    let begin = world.elapsed();
    loop {
        match world.wait(20 * SECOND) {
            Some(Action::Ask { to, .. }) => assert_eq!(to, [node(4)]),
            Some(Action::Propose { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((FIRST_PATIENCE..ROUND_MAX).contains(&(world.elapsed() - begin)));
    let mut world = World::new(4, Duration::ZERO);
    world.first = true;
    let number = world.ask();
    for id in 2..=4 {
        world.verdict(id, number, 0);
    }
    assert!(matches!(world.step(), Some(Action::Propose { .. })), "nobody is missing");
}
