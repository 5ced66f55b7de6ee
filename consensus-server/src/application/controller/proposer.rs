//! The leader's way from "a block is due" to a proposal.
//!
//! The controller is asked for its proposal when the block interval has passed and not before, because the
//! answer fixes the block's transactions. Then every validator asks its own controller about it, and only
//! what a quorum says yes to is proposed. A controller says yes only at the height before, so the quorum
//! also has the block before on its disks. After the quorum the others get a moment, so that their
//! controllers know the block, too, when they hear that it is there.
//!
//! A validator that has a block at this height already says no for all: nobody knows that it is the same.
//!
//! A pure state machine: times come in, actions come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus_core::ids::{NodeId, Ticket};

use super::code::{Code, Meaning};
use crate::config::cita::address::Short;

/// Validators that have not answered are asked again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// A candidate without a quorum is given up after this long.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// A candidate that has no quorum for so long may never have one: the others lack its transactions.
const LINGERS: Duration = Duration::from_millis(2500);
/// After a proposal that came to nothing.
const PAUSE: Duration = Duration::from_millis(500);
/// How long all are waited for before a group's first block: one of them may have blocks that no other has.
const FIRST_PATIENCE: Duration = Duration::from_secs(4);
/// How long those beyond the quorum are waited for, at least and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(40));

/// What the proposer must know when it takes a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) now: Instant,
    pub(super) own: NodeId,
    /// Those whose controllers count.
    pub(super) validators: &'a [NodeId],
    /// The height to propose; `None` while the own controller is not there or something else must come first.
    pub(super) next_height: Option<u64>,
    /// Nothing was agreed on in this group yet: what the controllers have came from elsewhere.
    pub(super) first: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Ask the own controller for its proposal.
    Fetch,
    /// Ask these validators about the candidate.
    Ask { number: u64, height: u64, data: Bytes, to: Vec<NodeId> },
    /// Propose it.
    Propose { height: u64, data: Bytes },
    /// Others have this height already: look where the own controller is.
    Ping,
}

#[derive(Debug)]
enum State {
    Idle,
    Fetching,
    Checking(Round),
    Proposed { height: u64, ticket: Option<Ticket> },
}

#[derive(Debug)]
struct Round {
    number: u64,
    height: u64,
    data: Bytes,
    since: Instant,
    asked: Option<Instant>,
    verdicts: BTreeMap<NodeId, Code>,
    quorum_at: Option<Instant>,
    patience: Duration,
}

impl Round {
    /// Whether a validator's controller has a block at this height already.
    fn is_taken(&self, validators: &[NodeId]) -> bool {
        let taken = |id: &NodeId| self.verdicts.get(id).is_some_and(|c| c.meaning() == Meaning::AlreadyThere);
        validators.iter().any(taken)
    }

    fn yes(&self, validators: &[NodeId]) -> usize {
        validators
            .iter()
            .filter(|id| self.verdicts.get(id).is_some_and(|c| c.meaning() == Meaning::Done))
            .count()
    }
}

/// More than half.
pub(super) const fn quorum(members: usize) -> usize {
    members / 2 + 1
}

#[derive(Debug)]
pub(super) struct Proposer {
    term: Option<u64>,
    number: u64,
    /// `None` until it was first heard.
    interval: Option<Duration>,
    due: Instant,
    state: State,
    /// Validators that did not answer in time lately: nobody waits for them beyond the quorum.
    late: BTreeSet<NodeId>,
    /// Why the last attempt came to nothing.
    trouble: Option<String>,
    /// Candidates in a row that no quorum said yes to.
    refused: u32,
}

impl Proposer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            term: None,
            number: 0,
            interval: None,
            due: now,
            state: State::Idle,
            late: BTreeSet::new(),
            trouble: None,
            refused: 0,
        }
    }

    /// Proposals are welcome in this term; `None`: not any more.
    pub(super) fn lead(&mut self, term: Option<u64>) {
        if self.term != term {
            self.term = term;
            self.state = State::Idle;
            self.trouble = None;
            self.refused = 0;
        }
    }

    /// Candidates in a row that no quorum said yes to.
    pub(super) fn refused(&self) -> u32 {
        self.refused
    }

    /// Whether a quorum has left a candidate without a word for long.
    pub(super) fn lingers(&self, now: Instant) -> bool {
        matches!(&self.state, State::Checking(round) if round.quorum_at.is_none() && now >= round.since + LINGERS)
    }

    pub(super) fn term(&self) -> Option<u64> {
        self.term
    }

    /// When the next block is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Why the last attempt came to nothing, if nothing has succeeded since.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The interval that is in force from the next block on; a shorter one counts from the last block, too. The
    /// first one holds nothing up: when the last block came is not known to a node that has just started.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        match self.interval.replace(interval) {
            Some(former) if former != interval => {
                self.due = self.due.checked_sub(former).unwrap_or(self.due) + interval;
            }
            _ => {}
        }
    }

    /// A block was agreed on.
    pub(super) fn agreed(&mut self, height: u64, now: Instant) {
        let own = matches!(&self.state, State::Proposed { height: proposed, .. } if *proposed == height);
        if own {
            self.state = State::Idle;
            self.trouble = None;
            self.refused = 0;
        }
        // The pace is kept unless a block came very late.
        let interval = self.interval.unwrap_or_default();
        let paced = self.due + interval;
        self.due = if own && paced > now { paced } else { now + interval };
    }

    /// What was agreed on was given up: the next block is due.
    pub(super) fn voided(&mut self, now: Instant) {
        self.state = State::Idle;
        self.due = now;
    }

    fn give_up(&mut self, why: String, until: Instant) {
        self.state = State::Idle;
        self.trouble = Some(why);
        self.due = self.due.max(until);
    }

    pub(super) fn on_proposal(&mut self, own: NodeId, height: u64, data: Bytes, now: Instant) {
        if matches!(self.state, State::Fetching) {
            self.number += 1;
            let (number, verdicts) = (self.number, [(own, Code::SUCCESS)].into());
            self.state = State::Checking(Round {
                number,
                height,
                data,
                since: now,
                asked: None,
                verdicts,
                quorum_at: None,
                patience: PATIENCE.1,
            });
        }
    }

    pub(super) fn on_no_proposal(&mut self, why: String, now: Instant) {
        if matches!(self.state, State::Fetching) {
            self.give_up(format!("the controller has no proposal: {why}"), now + PAUSE);
        }
    }

    /// A validator's verdict; true if the own controller should be looked at.
    pub(super) fn on_verdict(&mut self, from: NodeId, term: u64, number: u64, code: Code) -> bool {
        let State::Checking(round) = &mut self.state else { return false };
        if self.term != Some(term) || round.number != number {
            return false;
        }
        round.verdicts.insert(from, code);
        self.late.remove(&from);
        code.meaning() == Meaning::AlreadyThere
    }

    /// The proposal was handed over under this ticket, or not taken.
    pub(super) fn proposed(&mut self, outcome: Result<Ticket, String>, now: Instant) {
        match (outcome, &mut self.state) {
            (Ok(handed), State::Proposed { ticket, .. }) => *ticket = Some(handed),
            (Err(why), State::Proposed { .. }) => self.give_up(why, now + PAUSE),
            _ => {}
        }
    }

    /// The proposal came to nothing.
    pub(super) fn on_failed(&mut self, failed: Ticket, why: String, now: Instant) {
        if matches!(&self.state, State::Proposed { ticket, .. } if *ticket == Some(failed)) {
            // What is refused at once would be refused at once again.
            self.give_up(why, now + PAUSE);
        }
    }

    /// When [`step`](Self::step) may have something though nothing happened.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.term?;
        match &self.state {
            State::Idle => Some(self.due),
            State::Fetching | State::Proposed { .. } => None,
            State::Checking(round) => {
                let again = round.asked.map_or(round.since, |asked| asked + ASK_AGAIN);
                let patient = round.quorum_at.map_or(again, |at| at + round.patience);
                Some(again.min(patient).min(round.since + ROUND_MAX))
            }
        }
    }

    pub(super) fn step(&mut self, situation: &Situation<'_>) -> Option<Action> {
        self.term?;
        let now = situation.now;
        match &mut self.state {
            State::Idle => {
                if now < self.due || situation.next_height.is_none() {
                    return None;
                }
                self.state = State::Fetching;
                Some(Action::Fetch)
            }
            State::Fetching => {
                if situation.next_height.is_none() {
                    self.state = State::Idle;
                }
                None
            }
            State::Checking(_) => self.step_round(situation),
            State::Proposed { .. } => None,
        }
    }

    fn step_round(&mut self, situation: &Situation<'_>) -> Option<Action> {
        let Situation { now, own, validators, next_height, first } = *situation;
        let State::Checking(round) = &mut self.state else { return None };
        if next_height != Some(round.height) {
            let why = format!("height {} is not the next any more", round.height);
            self.give_up(why, now);
            return None;
        }
        if round.is_taken(validators) {
            // What that controller has may be another block: its own sync brings it here.
            let why = verdicts_in_words(round, validators);
            self.refused += 1;
            self.give_up(why, now + PAUSE);
            return Some(Action::Ping);
        }
        let needed = quorum(validators.len());
        let (yes, answered) =
            (round.yes(validators), validators.iter().filter(|id| round.verdicts.contains_key(id)));
        let answered = answered.count();
        if yes >= needed {
            let since = *round.quorum_at.get_or_insert(now);
            let waited_for =
                validators.iter().any(|id| !round.verdicts.contains_key(id) && !self.late.contains(id));
            let patience = if first { FIRST_PATIENCE } else { patience(round.since, since) };
            round.patience = patience;
            if !waited_for || now >= since + patience {
                let silent = validators.iter().filter(|id| !round.verdicts.contains_key(id));
                self.late.extend(silent.copied());
                let (height, data) = (round.height, round.data.clone());
                self.state = State::Proposed { height, ticket: None };
                return Some(Action::Propose { height, data });
            }
        }
        let missing = validators.len() - answered;
        if yes + missing < needed || now >= round.since + ROUND_MAX {
            let why = verdicts_in_words(round, validators);
            self.refused += 1;
            self.give_up(why, now + PAUSE);
            return Some(Action::Ping);
        }
        if round.asked.is_none_or(|asked| now >= asked + ASK_AGAIN) {
            round.asked = Some(now);
            let silent = |id: &&NodeId| **id != own && !round.verdicts.contains_key(id);
            let to: Vec<NodeId> = validators.iter().filter(silent).copied().collect();
            let (number, height, data) = (round.number, round.height, round.data.clone());
            return (!to.is_empty()).then_some(Action::Ask { number, height, data, to });
        }
        None
    }
}

fn patience(asked: Instant, quorum: Instant) -> Duration {
    quorum.duration_since(asked).clamp(PATIENCE.0, PATIENCE.1)
}

fn verdicts_in_words(round: &Round, validators: &[NodeId]) -> String {
    let verdict = |id: &NodeId| match round.verdicts.get(id) {
        Some(code) => format!("{}: {code}", Short(*id)),
        None => format!("{}: no answer", Short(*id)),
    };
    let verdicts: Vec<String> = validators.iter().map(verdict).collect();
    format!("no quorum of controllers takes block {}: {}", round.height, verdicts.join(", "))
}

#[cfg(test)]
mod tests;
