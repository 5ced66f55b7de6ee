//! Stories of the desk in front of a controller that does as it is told, under a clock of their own.

use super::*;

const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a commit at the next height.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Commits {
    Work,
    /// It takes effect, and the answer is lost.
    Unheard,
    /// It is lost.
    Lost,
    /// It says so, and nothing happens.
    Lie,
    Refused(Code),
}

/// A controller with CITA-Cloud's rules about heights.
struct Scripted {
    height: u64,
    interval: Duration,
    latency: Duration,
    /// What it says of a block at the next height.
    checks: Code,
    commits: Commits,
    proposes: Result<u64, Code>,
    /// Nothing that is called answers.
    hangs: bool,
    /// Nothing can be called.
    dead: bool,
    /// All that took effect.
    chain: Vec<(u64, Bytes)>,
}

impl Scripted {
    fn configuration(&self, height: u64) -> Configuration {
        let validators = vec![Bytes::from_static(&[1; 20])];
        Configuration { height, block_interval: self.interval, validators }
    }

    fn answer(&mut self, call: &Call) -> Reply {
        let failed = CallFailed("no answer".to_owned());
        match call {
            Call::Ping if self.dead => Reply::Configured(Err(failed)),
            Call::Check { .. } if self.dead => Reply::Checked(Err(failed)),
            Call::Commit { .. } if self.dead => Reply::Configured(Err(failed)),
            Call::Fetch if self.dead => Reply::Fetched(Err(failed)),
            Call::Ping => Reply::Configured(Ok((Code::SUCCESS, Some(self.configuration(self.height))))),
            Call::Check { height, .. } => Reply::Checked(Ok(self.by_height(*height).unwrap_or(self.checks))),
            Call::Commit { height, data } => Reply::Configured(self.commit(*height, data)),
            Call::Fetch => {
                Reply::Fetched(Ok(self.proposes.map(|height| (height, Bytes::from(format!("own {height}"))))))
            }
        }
    }

    fn by_height(&self, height: u64) -> Option<Code> {
        match height {
            height if height <= self.height => Some(Code::PROPOSAL_TOO_LOW),
            height if height > self.height + 1 => Some(Code::PROPOSAL_TOO_HIGH),
            _ => None,
        }
    }

    fn commit(&mut self, height: u64, data: &Bytes) -> Result<(Code, Option<Configuration>), CallFailed> {
        let failed = CallFailed("no answer".to_owned());
        match self.by_height(height) {
            // What it really answers to a height that it has: success, and the height that was asked for.
            Some(Code::PROPOSAL_TOO_LOW) => return Ok((Code::SUCCESS, Some(self.configuration(height)))),
            Some(code) => return Ok((code, Some(self.configuration(self.height)))),
            None => {}
        }
        match self.commits {
            Commits::Lost => return Err(failed),
            Commits::Lie => return Ok((Code::SUCCESS, Some(self.configuration(self.height)))),
            Commits::Refused(code) => return Ok((code, Some(self.configuration(self.height)))),
            Commits::Work | Commits::Unheard => {}
        }
        self.height = height;
        self.chain.push((height, data.clone()));
        if self.commits == Commits::Unheard {
            return Err(failed);
        }
        Ok((Code::SUCCESS, Some(self.configuration(height))))
    }
}

struct World {
    desk: Desk,
    start: Instant,
    now: Instant,
    controller: Scripted,
    /// The call that is under way, and when it is answered.
    under_way: Option<(Call, Instant)>,
    calls: Vec<(Duration, Call)>,
    notices: Vec<Notice>,
    /// How often the desk was asked what is next.
    asked: usize,
}

impl World {
    /// The controller is at `height`, which the desk has heard.
    fn at(height: u64) -> Self {
        Self::with(height, Promise::default())
    }

    fn with(height: u64, promise: Promise) -> Self {
        let start = Instant::now();
        let controller = Scripted {
            height,
            interval: SECOND,
            latency: MILLIS,
            checks: Code::SUCCESS,
            commits: Commits::Work,
            proposes: Ok(height + 1),
            hangs: false,
            dead: false,
            chain: Vec::new(),
        };
        let mut world = Self {
            desk: Desk::new(promise, start),
            start,
            now: start,
            controller,
            under_way: None,
            calls: Vec::new(),
            notices: Vec::new(),
            asked: 0,
        };
        world.run(2 * MILLIS);
        assert_eq!(world.desk.height(), Some(height));
        world.forget();
        world
    }

    fn forget(&mut self) {
        self.calls.clear();
        self.notices.clear();
        self.asked = 0;
    }

    /// Lets time pass as the application's loop does: it looks when the desk wants it, and after an answer.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.look();
            let wake = self.desk.wake_at(self.now);
            assert!(wake.is_none_or(|at| at > self.now), "the loop would not rest");
            let answered = self.under_way.as_ref().map(|(_, at)| *at);
            let next = [wake, answered].into_iter().flatten().min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            if answered == Some(next) {
                let (call, _) = self.under_way.take().expect("is under way");
                let reply = self.controller.answer(&call);
                self.notices.extend(self.desk.reply(reply, next));
            }
        }
    }

    fn look(&mut self) {
        loop {
            self.asked += 1;
            match self.desk.next(self.now) {
                Ok(Some(call)) => {
                    assert!(self.under_way.is_none(), "{call:?} beside {:?}", self.under_way);
                    self.calls.push((self.now - self.start, call.clone()));
                    let never = Duration::from_secs(1 << 20);
                    let takes = if self.controller.hangs { never } else { self.controller.latency };
                    self.under_way = Some((call, self.now + takes));
                }
                Ok(None) => return,
                Err(notice) => self.notices.push(notice),
            }
        }
    }

    fn agree(&mut self, height: u64) {
        self.desk.agreed(block(height));
    }

    fn examine(&mut self, number: u64, height: u64) {
        self.desk.examine(candidate(number, height), self.now);
    }

    fn count(&self, which: fn(&Call) -> bool) -> usize {
        self.calls.iter().filter(|(_, call)| which(call)).count()
    }

    /// The calls as words.
    fn words(&self) -> Vec<String> {
        let word = |(_, call): &(Duration, Call)| match call {
            Call::Ping => "ping".to_owned(),
            Call::Check { height, .. } => format!("check {height}"),
            Call::Commit { height, .. } => format!("commit {height}"),
            Call::Fetch => "fetch".to_owned(),
        };
        self.calls.iter().map(word).collect()
    }

    fn verdicts(&self) -> Vec<(u64, Code)> {
        let verdict = |notice: &Notice| match notice {
            Notice::Verdict(candidate, code) => Some((candidate.number, *code)),
            _ => None,
        };
        self.notices.iter().filter_map(verdict).collect()
    }

    fn may_promise(&self, height: u64) -> bool {
        self.desk.may_promise(height)
    }
}

fn data(height: u64) -> Bytes {
    Bytes::from(format!("block {height}"))
}

/// Entry 100 + height.
fn block(height: u64) -> AgreedBlock {
    AgreedBlock { index: 100 + height, height, proposer: 1, data: data(height) }
}

fn candidate(number: u64, height: u64) -> Candidate {
    Candidate { term: 3, number, height, data: data(height) }
}

fn is_ping(call: &Call) -> bool {
    *call == Call::Ping
}

fn is_check(call: &Call) -> bool {
    matches!(call, Call::Check { .. })
}

fn is_commit(call: &Call) -> bool {
    matches!(call, Call::Commit { .. })
}

#[test]
fn a_block_that_is_agreed_on_is_checked_and_committed_at_once() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(SECOND);
    assert_eq!(world.words(), ["check 8", "commit 8"]);
    assert_eq!(world.controller.chain, [(8, data(8))]);
    assert!(world.desk.is_level() && world.notices.contains(&Notice::Moved));
}

#[test]
fn missing_transactions_are_asked_for_by_checks_until_they_are_there() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.run(2 * SECOND);
    assert!((5..=12).contains(&world.count(is_check)), "{:?}", world.words());
    assert_eq!(world.count(is_commit), 0);
    world.controller.checks = Code::SUCCESS;
    world.run(SECOND + 100 * MILLIS);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn transactions_that_vanish_before_the_commit_are_asked_for_by_another_check() {
    let mut world = World::at(7);
    world.controller.commits = Commits::Refused(Code::NONE_RAW_TX);
    world.agree(8);
    world.run(100 * MILLIS);
    assert_eq!(world.words()[..4], ["check 8", "commit 8", "check 8", "commit 8"]);
    world.controller.commits = Commits::Work;
    world.run(SECOND);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn a_service_that_is_not_ready_is_waited_for_and_a_refusal_is_asked_about_seldom() {
    for (code, most) in [(500, 20), (600, 20), (502, 20), (139, 20), (130, 11), (155, 11)] {
        let mut world = World::at(7);
        world.controller.checks = Code(code);
        world.agree(8);
        world.run(10 * SECOND);
        assert!((5..=most).contains(&world.count(is_check)), "{code}: {:?}", world.words());
        world.controller.checks = Code::SUCCESS;
        world.run(SECOND + 100 * MILLIS);
        assert_eq!(world.controller.chain, [(8, data(8))], "{code}");
    }
}

#[test]
fn a_controller_that_is_behind_is_pinged_until_its_sync_has_brought_it_there() {
    let mut world = World::at(7);
    world.controller.height = 2;
    world.agree(8);
    world.run(10 * SECOND);
    assert_eq!(world.count(is_check), 1, "one too high, then none: {:?}", world.words());
    assert!((25..=40).contains(&world.count(is_ping)), "{} pings", world.count(is_ping));
    world.controller.height = 7;
    world.run(SECOND);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn a_controller_that_contradicts_itself_about_its_height_is_not_hammered() {
    let mut world = World::at(7);
    world.controller.checks = Code::PROPOSAL_TOO_HIGH;
    world.agree(8);
    world.run(10 * SECOND);
    assert!(world.calls.len() <= 50, "{} calls", world.calls.len());
    world.controller.checks = Code::SUCCESS;
    world.run(SECOND + 100 * MILLIS);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn a_commit_that_is_said_to_have_worked_and_has_not_is_repeated_without_hammering() {
    let mut world = World::at(7);
    world.controller.commits = Commits::Lie;
    world.agree(8);
    world.run(10 * SECOND);
    assert!(!world.desk.is_level());
    assert!((5..=50).contains(&world.calls.len()), "{} calls", world.calls.len());
    world.controller.commits = Commits::Work;
    world.run(SECOND + 100 * MILLIS);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn a_block_that_sync_has_brought_is_done_and_its_configuration_is_learnt() {
    let mut world = World::at(7);
    world.controller.height = 8;
    world.controller.interval = 5 * SECOND;
    world.agree(8);
    world.run(100 * MILLIS);
    assert_eq!(world.words(), ["check 8", "ping"]);
    assert!(world.desk.is_level());
    assert_eq!(world.desk.configuration().map(|c| c.block_interval), Some(5 * SECOND));
}

#[test]
fn success_at_a_height_far_below_the_controllers_own_does_not_set_it_back() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(MILLIS);
    // Between the check and the commit its own sync brings more.
    world.look();
    world.controller.height = 12;
    for height in 9..=12 {
        world.agree(height);
    }
    world.run(SECOND);
    assert_eq!(world.desk.height(), Some(12));
    assert!(world.desk.is_level() && world.controller.chain.is_empty());
}

#[test]
fn a_commit_without_an_answer_is_looked_after_and_repeated_only_if_it_was_lost() {
    for (commits, words) in [
        (Commits::Unheard, vec!["check 8", "commit 8", "ping"]),
        (Commits::Lost, vec!["check 8", "commit 8", "ping", "commit 8"]),
    ] {
        let mut world = World::at(7);
        world.controller.commits = commits;
        world.agree(8);
        world.run(2 * MILLIS);
        world.look();
        assert!(world.desk.is_uncertain(), "{commits:?}");
        world.controller.commits = Commits::Work;
        world.run(SECOND);
        assert_eq!(world.words(), words);
        assert_eq!(world.controller.chain, [(8, data(8))]);
        assert!(!world.desk.is_uncertain() && world.desk.is_level());
    }
}

#[test]
fn a_call_that_hangs_makes_the_controller_unwell_and_nothing_is_called_beside_it() {
    let mut world = World::at(7);
    world.controller.hangs = true;
    world.agree(8);
    world.run(SLOW - 10 * MILLIS);
    assert!(world.desk.healthy(world.now), "not yet");
    world.examine(1, 9);
    world.desk.hint(9, world.now);
    world.desk.want_proposal(true);
    world.run(60 * SECOND);
    assert!(!world.desk.healthy(world.now));
    assert_eq!(world.words(), ["check 8"]);
    assert!(world.asked < 20, "{} looks at a desk that can do nothing", world.asked);
}

#[test]
fn a_controller_is_well_only_once_it_was_heard_and_while_it_answers() {
    let now = Instant::now();
    assert!(!Desk::new(Promise::default(), now).healthy(now));
    let mut world = World::at(7);
    world.controller.dead = true;
    world.agree(8);
    world.run(SECOND);
    assert!(!world.desk.healthy(world.now));
    world.controller.dead = false;
    world.run(2 * SECOND);
    assert!(world.desk.healthy(world.now) && world.desk.is_level());
}

#[test]
fn a_dead_controller_is_called_once_a_second() {
    let mut world = World::at(7);
    world.controller.dead = true;
    world.agree(8);
    world.run(60 * SECOND);
    assert!((55..=75).contains(&world.calls.len()), "{} calls", world.calls.len());
    assert_eq!(world.count(is_check), 1, "then pings only");
}

#[test]
fn a_height_that_is_there_never_gets_other_bytes() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(SECOND);
    world.forget();
    world.desk.agreed(AgreedBlock { data: Bytes::from_static(b"other"), ..block(8) });
    world.run(SECOND);
    assert!(world.calls.is_empty(), "{:?}", world.words());
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn what_was_said_of_other_bytes_does_not_spare_the_check() {
    let mut world = World::at(7);
    world.examine(1, 8);
    world.run(10 * MILLIS);
    assert_eq!(world.words(), ["check 8"]);
    world.desk.agreed(AgreedBlock { data: Bytes::from_static(b"other"), ..block(8) });
    world.run(10 * MILLIS);
    assert_eq!(world.words(), ["check 8", "check 8", "commit 8"]);
    assert_eq!(world.controller.chain, [(8, Bytes::from_static(b"other"))]);
}

#[test]
fn a_candidate_that_was_said_yes_to_is_committed_without_another_check() {
    let mut world = World::at(7);
    world.examine(1, 8);
    world.run(10 * MILLIS);
    assert_eq!(world.verdicts(), [(1, Code::SUCCESS)]);
    world.agree(8);
    world.run(10 * MILLIS);
    assert_eq!(world.words(), ["check 8", "commit 8"]);
}

#[test]
fn a_candidate_is_judged_only_once_the_controller_has_the_block_before() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.examine(1, 9);
    world.run(2 * SECOND);
    assert!(world.verdicts().is_empty(), "{:?}", world.verdicts());
    world.controller.checks = Code::SUCCESS;
    world.run(2 * SECOND);
    assert_eq!(world.verdicts(), [(1, Code::SUCCESS)]);
    assert_eq!(world.controller.chain, [(8, data(8))]);
    assert_eq!(world.words().last().map(String::as_str), Some("check 9"));
}

#[test]
fn a_candidate_far_above_waits_and_one_below_is_judged_at_once() {
    let mut world = World::at(7);
    world.examine(1, 9);
    world.run(SECOND);
    assert!(world.verdicts().is_empty() && world.calls.is_empty(), "{:?}", world.words());
    world.examine(2, 7);
    world.look();
    assert_eq!(world.verdicts(), [(2, Code::PROPOSAL_TOO_LOW)]);
    assert!(world.calls.is_empty());
}

#[test]
fn a_candidate_that_comes_again_is_answered_again_without_a_call() {
    let mut world = World::at(7);
    world.examine(1, 8);
    world.run(10 * MILLIS);
    world.examine(1, 8);
    world.look();
    assert_eq!(world.verdicts(), [(1, Code::SUCCESS), (1, Code::SUCCESS)]);
    assert_eq!(world.words(), ["check 8"]);
}

#[test]
fn an_older_candidate_does_not_replace_a_newer_one() {
    let mut world = World::at(7);
    world.examine(2, 8);
    world.examine(1, 8);
    let former_term = Candidate { term: 2, ..candidate(9, 8) };
    world.desk.examine(former_term, world.now);
    world.run(10 * MILLIS);
    assert_eq!(world.verdicts(), [(2, Code::SUCCESS)]);
}

#[test]
fn a_candidate_whose_transactions_are_missing_is_checked_often_and_a_refused_one_once() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.examine(1, 8);
    world.run(2 * SECOND);
    assert!(world.verdicts().is_empty());
    assert!((10..=16).contains(&world.count(is_check)), "{} checks", world.count(is_check));
    world.controller.checks = Code(130);
    world.run(2 * SECOND);
    assert_eq!(world.verdicts(), [(1, Code(130))]);
    let checks = world.count(is_check);
    world.run(2 * SECOND);
    assert_eq!(world.count(is_check), checks);
}

#[test]
fn a_leader_that_asks_again_and_again_does_not_make_the_controller_be_asked_more_often() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    for _ in 0..20 {
        world.examine(1, 8);
        world.run(100 * MILLIS);
    }
    assert!((10..=16).contains(&world.count(is_check)), "{} checks", world.count(is_check));
}

#[test]
fn a_new_candidate_is_checked_at_once_and_often_at_first_whatever_the_former_one_met_with() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.examine(1, 8);
    // Right after a check: the next one of this candidate is far.
    while world.count(is_check) < 12 {
        world.run(MILLIS);
    }
    world.run(2 * MILLIS);
    world.forget();
    world.examine(2, 8);
    world.run(50 * MILLIS);
    assert!(world.count(is_check) >= 3, "{:?}", world.words());
}

#[test]
fn the_verdict_on_one_candidate_is_not_told_for_another() {
    let mut world = World::at(7);
    world.examine(1, 8);
    world.look();
    world.desk.examine(Candidate { data: Bytes::from_static(b"other"), ..candidate(2, 8) }, world.now);
    world.controller.latency = 10 * MILLIS;
    world.run(5 * MILLIS);
    assert!(world.verdicts().is_empty(), "{:?}", world.verdicts());
    world.controller.checks = Code(130);
    world.run(SECOND);
    assert_eq!(world.verdicts(), [(2, Code(130))]);
}

#[test]
fn a_yes_counts_only_while_the_controller_has_the_block_before() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(10 * MILLIS);
    world.examine(1, 9);
    world.run(10 * MILLIS);
    assert_eq!(world.verdicts(), [(1, Code::SUCCESS)]);
    world.controller.height = 7;
    world.controller.checks = Code::NONE_RAW_TX;
    world.desk.hint(7, world.now);
    world.run(10 * MILLIS);
    world.examine(1, 9);
    world.run(SECOND);
    assert_eq!(world.verdicts(), [(1, Code::SUCCESS)], "it was set back: no second yes");
}

#[test]
fn a_candidate_that_is_above_or_below_what_the_controller_says_makes_it_be_looked_at() {
    for (height, code) in [(6, Code::PROPOSAL_TOO_HIGH), (8, Code::PROPOSAL_TOO_LOW)] {
        let mut world = World::at(7);
        world.controller.height = height;
        world.examine(1, 8);
        world.run(10 * MILLIS);
        assert_eq!(world.words(), ["check 8", "ping"]);
        assert_eq!(world.verdicts(), [(1, code)]);
        assert_eq!(world.desk.height(), Some(height));
    }
}

#[test]
fn a_candidate_for_a_height_that_was_agreed_on_is_dropped() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.examine(1, 8);
    world.run(10 * MILLIS);
    world.controller.checks = Code::SUCCESS;
    world.agree(8);
    world.run(SECOND);
    assert!(world.verdicts().is_empty(), "nobody waits for it: {:?}", world.verdicts());
}

#[test]
fn a_proposal_is_fetched_once_for_each_wish_and_only_when_all_is_committed() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.desk.want_proposal(true);
    world.run(SECOND);
    assert!(!world.words().contains(&"fetch".to_owned()), "{:?}", world.words());
    world.controller.checks = Code::SUCCESS;
    world.controller.proposes = Ok(9);
    world.run(5 * SECOND);
    assert_eq!(world.words().iter().filter(|word| *word == "fetch").count(), 1);
    assert!(world.notices.contains(&Notice::Proposal(9, Bytes::from_static(b"own 9"))));
    world.desk.agreed(AgreedBlock { data: Bytes::from_static(b"own 9"), ..block(9) });
    world.forget();
    world.run(SECOND);
    assert_eq!(world.words(), ["commit 9"], "its own needs no check");
}

#[test]
fn a_proposal_for_another_height_or_none_leads_to_a_look_and_not_to_a_candidate() {
    for proposes in [Ok(7), Ok(9), Err(Code::NODE_IN_SYNC)] {
        let mut world = World::at(7);
        world.controller.proposes = proposes;
        world.desk.want_proposal(true);
        world.run(10 * MILLIS);
        assert_eq!(world.words(), ["fetch", "ping"], "{proposes:?}");
        assert!(matches!(world.notices[..], [Notice::NoProposal(_)]), "{:?}", world.notices);
    }
    let mut world = World::at(7);
    world.controller.dead = true;
    world.desk.want_proposal(true);
    world.run(MILLIS);
    assert!(matches!(world.notices[..], [Notice::NoProposal(_)]), "{:?}", world.notices);
}

#[test]
fn no_proposal_is_fetched_while_agreed_blocks_are_missing_that_only_sync_can_bring() {
    let mut world = World::at(7);
    world.desk.restored(20, Some(&block(20)));
    world.desk.want_proposal(true);
    world.run(5 * SECOND);
    assert_eq!(world.calls.len(), world.count(is_ping), "{:?}", world.words());
}

#[test]
fn a_controller_without_a_proposal_gets_time_however_often_one_is_wished() {
    let mut world = World::at(7);
    world.controller.proposes = Err(Code::NODE_IN_SYNC);
    for _ in 0..1000 {
        world.desk.want_proposal(true);
        world.run(MILLIS);
    }
    let fetches = world.words().iter().filter(|word| *word == "fetch").count();
    assert!(fetches <= 10, "{fetches}");
}

#[test]
fn a_wish_for_a_proposal_that_was_withdrawn_is_not_fulfilled() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.desk.want_proposal(true);
    world.run(SECOND);
    world.desk.want_proposal(false);
    world.controller.checks = Code::SUCCESS;
    world.run(2 * SECOND);
    assert!(world.desk.is_level() && !world.words().contains(&"fetch".to_owned()));
}

#[test]
fn a_block_is_never_offered_once_it_is_promised_away_not_even_after_a_restart() {
    let promise = Promise { from_height: 8, upto_index: 109 };
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.agree(9);
    world.run(SECOND);
    world.desk.promised(promise);
    world.forget();
    world.controller.checks = Code::SUCCESS;
    world.run(5 * SECOND);
    assert_eq!(world.count(is_commit) + world.count(is_check), 0, "{:?}", world.words());

    let mut restarted = World::with(7, promise);
    restarted.agree(8);
    restarted.agree(9);
    restarted.run(5 * SECOND);
    assert_eq!(restarted.count(is_commit) + restarted.count(is_check), 0, "{:?}", restarted.words());
    assert!(restarted.desk.stuck_by_promise(109, restarted.now).is_some_and(|stuck| stuck.height == 8));
    assert!(restarted.desk.stuck_by_promise(110, restarted.now).is_none(), "about other entries");
    restarted.desk.voided(8);
    assert!(restarted.desk.is_level() && restarted.desk.stuck_by_promise(109, restarted.now).is_none());
    restarted.desk.agreed(AgreedBlock { index: 120, ..block(8) });
    restarted.run(SECOND);
    assert_eq!(restarted.controller.chain, [(8, data(8))], "agreed on anew it is another block");
}

#[test]
fn a_check_that_was_under_way_when_the_promise_was_made_does_not_lead_to_a_commit() {
    let mut world = World::at(7);
    world.agree(8);
    world.look();
    assert_eq!(world.words(), ["check 8"]);
    assert!(world.may_promise(8), "a check has no effect");
    world.desk.promised(Promise { from_height: 8, upto_index: 108 });
    world.run(5 * SECOND);
    assert_eq!(world.count(is_commit), 0);
}

#[test]
fn nothing_is_promised_while_the_block_is_there_or_may_be() {
    let mut world = World::at(7);
    assert!(world.may_promise(8) && !world.may_promise(7), "the controller has 7");
    assert!(!Desk::new(Promise::default(), world.now).may_promise(8), "it was never heard");
    world.agree(8);
    world.run(MILLIS);
    world.look();
    assert_eq!(world.words(), ["check 8", "commit 8"]);
    assert!(!world.may_promise(8), "a commit is under way");
    world.controller.commits = Commits::Lost;
    world.run(MILLIS);
    world.controller.dead = true;
    assert!(world.desk.is_uncertain() && !world.may_promise(8), "its outcome is unknown");
    world.run(SECOND);
    assert!(!world.may_promise(8), "and stays so while the controller does not answer");
    world.controller.dead = false;
    world.controller.hangs = true;
    let mut other = World::at(7);
    other.controller.dead = true;
    other.desk.want_proposal(true);
    other.run(MILLIS);
    assert!(!other.desk.is_uncertain() && !other.may_promise(8), "it does not answer");
}

#[test]
fn blocks_below_those_that_are_promised_away_are_offered_as_ever() {
    let mut world = World::at(6);
    world.controller.checks = Code::NONE_RAW_TX;
    (7..=9).for_each(|height| world.agree(height));
    world.desk.promised(Promise { from_height: 8, upto_index: 109 });
    assert!(world.desk.stuck_by_promise(109, world.now).is_none(), "7 comes first");
    assert_eq!(world.desk.blocks_bytes, data(7).len() as u64);
    world.controller.checks = Code::SUCCESS;
    world.run(SECOND);
    assert_eq!(world.controller.chain, [(7, data(7))]);
    assert!(world.desk.stuck_by_promise(109, world.now).is_some());
}

#[test]
fn what_was_known_of_a_block_is_forgotten_when_it_is_given_up() {
    let mut world = World::at(7);
    world.controller.commits = Commits::Refused(Code::NONE_RAW_TX);
    world.agree(8);
    world.agree(9);
    world.run(5 * SECOND);
    assert!(world.desk.stuck(world.now).is_some());
    world.desk.voided(8);
    assert!(world.desk.stuck(world.now).is_none() && world.desk.blocks.is_empty());
    assert_eq!(world.desk.blocks_bytes, 0);
    world.run(SECOND);
    world.forget();
    world.desk.checked = Some((8, data(8)));
    world.desk.voided(8);
    world.examine(1, 8);
    world.run(10 * MILLIS);
    assert_eq!(world.words(), ["check 8"], "an old yes is none");
}

#[test]
fn nothing_is_level_while_a_commit_of_what_was_given_up_may_take_effect() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(MILLIS);
    world.look();
    assert!(world.desk.is_uncertain());
    world.desk.voided(8);
    assert!(!world.desk.is_level());
}

#[test]
fn a_snapshot_replaces_what_was_known_of_agreed_blocks() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.run(5 * SECOND);
    assert!(world.desk.stuck(world.now).is_some());
    world.desk.restored(20, Some(&block(20)));
    assert!(world.desk.stuck(world.now).is_none());
    assert_eq!(world.desk.blocks.keys().copied().collect::<Vec<_>>(), [20]);
    assert_eq!(world.desk.blocks_bytes, data(20).len() as u64);
}

#[test]
fn a_controller_that_lost_its_last_block_gets_it_again() {
    let mut world = World::at(7);
    world.agree(8);
    world.run(SECOND);
    world.controller.height = 7;
    world.controller.chain.clear();
    world.run(PING_IDLE + SECOND);
    assert_eq!(world.controller.chain, [(8, data(8))]);
}

#[test]
fn a_controller_that_was_set_back_far_gets_what_is_at_hand_and_is_left_to_its_sync_otherwise() {
    let mut world = World::at(7);
    for height in 8..=207 {
        world.agree(height);
    }
    world.run(SECOND);
    assert_eq!(world.desk.height(), Some(207));
    world.controller.height = 107;
    world.controller.chain.clear();
    world.run(PING_IDLE + SECOND);
    assert_eq!(world.controller.chain.len(), 100, "all at hand");
    assert!(world.desk.is_level());

    world.desk.restored(207, Some(&block(207)));
    world.controller.height = 107;
    world.controller.chain.clear();
    world.run(PING_IDLE + SECOND);
    world.forget();
    world.run(10 * SECOND);
    assert!(!world.desk.is_level());
    assert_eq!(world.calls.len(), world.count(is_ping), "{:?}", world.words());
    assert!((25..=40).contains(&world.calls.len()), "{} pings", world.calls.len());
    world.controller.height = 206;
    world.run(SECOND);
    assert_eq!(world.controller.chain, [(207, data(207))]);
}

#[test]
fn a_block_is_stuck_after_three_seconds_of_refusals_and_not_while_a_service_is_not_ready() {
    let told = |world: &World| world.notices.iter().filter(|n| matches!(n, Notice::Stuck(_))).count();
    for code in [Code::NONE_RAW_TX, Code(130)] {
        let mut world = World::at(7);
        world.controller.checks = code;
        world.agree(8);
        world.run(STUCK_AFTER - 10 * MILLIS);
        assert!(world.desk.stuck(world.now).is_none() && told(&world) == 0, "{code}");
        world.run(2 * SECOND);
        let stuck = world.desk.stuck(world.now).expect("refused for long");
        assert_eq!((stuck.height, stuck.code), (8, code));
        world.run(10 * SECOND);
        assert_eq!(told(&world), 1, "said once");
        world.controller.checks = Code::SUCCESS;
        world.run(2 * SECOND);
        assert!(world.desk.stuck(world.now).is_none() && world.desk.is_level());
    }
    let mut world = World::at(7);
    world.controller.checks = Code(500);
    world.agree(8);
    world.run(10 * SECOND);
    assert!(world.desk.stuck(world.now).is_none() && told(&world) == 0);
}

#[test]
fn a_service_that_is_not_ready_in_between_makes_the_wait_begin_anew() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.run(5 * SECOND);
    assert!(world.desk.stuck(world.now).is_some());
    world.controller.checks = Code(500);
    world.run(2 * SECOND);
    assert!(world.desk.stuck(world.now).is_none());
}

#[test]
fn the_blocks_kept_are_bounded_in_number_and_bytes_and_the_newest_is_among_them() {
    let mut world = World::at(7);
    for height in 8..8 + 2 * BLOCKS_MAX as u64 {
        world.agree(height);
    }
    let kept: Vec<u64> = world.desk.blocks.keys().copied().collect();
    assert_eq!((kept.len(), kept.last()), (BLOCKS_MAX, Some(&(7 + 2 * BLOCKS_MAX as u64))));

    let mut world = World::at(7);
    let large = Bytes::from(vec![0; (BLOCKS_BYTES_MAX / 4) as usize + 1]);
    for height in 8..16 {
        world.desk.agreed(AgreedBlock { data: large.clone(), ..block(height) });
        // The same height once more does not count twice.
        world.desk.agreed(AgreedBlock { data: large.clone(), ..block(height) });
    }
    assert_eq!(world.desk.blocks.keys().copied().collect::<Vec<_>>(), [13, 14, 15]);
    let huge = Bytes::from(vec![0; BLOCKS_BYTES_MAX as usize + 1]);
    world.desk.agreed(AgreedBlock { data: huge, ..block(16) });
    assert_eq!(world.desk.blocks.keys().copied().collect::<Vec<_>>(), [16]);
}

#[test]
fn after_a_block_the_next_one_is_asked_about_as_often_as_if_nothing_had_been() {
    let mut world = World::at(7);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(8);
    world.run(10 * SECOND);
    world.controller.checks = Code::SUCCESS;
    world.run(SECOND + 100 * MILLIS);
    world.controller.checks = Code::NONE_RAW_TX;
    world.agree(9);
    world.forget();
    world.run(100 * MILLIS);
    assert!(world.count(is_check) >= 4, "{:?}", world.words());
}

#[test]
fn a_controller_that_tells_of_itself_is_not_left_to_wait() {
    let mut world = World::at(7);
    world.controller.dead = true;
    world.agree(8);
    world.run(10 * SECOND);
    world.controller.dead = false;
    world.controller.height = 6;
    world.desk.hint(6, world.now);
    world.run(2 * MILLIS);
    assert_eq!(world.desk.height(), Some(6));
}

#[test]
fn a_hint_about_another_height_leads_to_one_look() {
    let mut world = World::at(7);
    world.desk.hint(7, world.now);
    world.run(10 * MILLIS);
    assert!(world.calls.is_empty(), "nothing new");
    world.controller.height = 9;
    world.desk.hint(9, world.now);
    world.run(10 * MILLIS);
    assert_eq!((world.words(), world.desk.height()), (vec!["ping".to_owned()], Some(9)));
}

#[test]
fn an_idle_controller_is_pinged_seldom() {
    let mut world = World::at(7);
    world.run(60 * SECOND);
    assert_eq!(world.calls.len(), world.count(is_ping));
    assert!((10..=12).contains(&world.calls.len()), "{} calls", world.calls.len());
}

#[test]
fn no_state_of_a_controller_keeps_the_loop_busy() {
    type Set = fn(&mut Scripted);
    let states: [(&str, Set); 12] = [
        ("well", |_| {}),
        ("dead", |c| c.dead = true),
        ("hangs", |c| c.hangs = true),
        ("behind", |c| c.height = 2),
        ("ahead", |c| c.height = 20),
        ("misses transactions", |c| c.checks = Code::NONE_RAW_TX),
        ("not ready", |c| c.checks = Code(500)),
        ("refuses", |c| c.checks = Code(130)),
        ("too high", |c| c.checks = Code::PROPOSAL_TOO_HIGH),
        ("too low", |c| c.checks = Code::PROPOSAL_TOO_LOW),
        ("commits are refused", |c| c.commits = Commits::Refused(Code::NONE_RAW_TX)),
        ("commits are lost", |c| c.commits = Commits::Lost),
    ];
    for (name, set) in states {
        for latency in [Duration::ZERO, MILLIS] {
            let mut world = World::at(7);
            world.controller.latency = latency;
            set(&mut world.controller);
            world.agree(8);
            world.examine(1, 9);
            for _ in 0..10 {
                world.desk.want_proposal(true);
                let (asked, calls) = (world.asked, world.calls.len());
                world.run(SECOND);
                let (asked, calls) = (world.asked - asked, world.calls.len() - calls);
                assert!(
                    asked <= 80 && calls <= 30,
                    "{name}: {asked} looks, {calls} calls: {:?}",
                    world.words()
                );
            }
        }
    }
}
