//! What is asked of this node's own controller, and what is known of it.
//!
//! The controller has one lock for everything that matters here, so there is one call under way at a time,
//! and [`Desk::next`] decides which: first the blocks that are agreed on, then a candidate of the leader,
//! then a proposal of its own, and a ping when nothing else has been heard for a while. A call is repeated
//! with back-off until its block is there; nothing is ever left out. Times come in, no clock is read and
//! nothing is awaited here.
//!
//! A call without an answer may still take effect. Until the next answer this node promises nothing about
//! the block ([`Desk::may_promise`]).

mod words;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::agreement::AgreedBlock;
use super::code::{Code, Meaning};
use super::{CallFailed, Configuration};

pub(super) use words::{Call, Candidate, Notice, Promise, Reply, Stuck};

/// Agreed blocks kept in memory for a controller that falls back.
const BLOCKS_MAX: usize = 1024;
/// The same in bytes; the newest is kept in any case.
const BLOCKS_BYTES_MAX: u64 = 64 << 20;
/// First wait before a call is repeated.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// Longest wait before a call is repeated.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Longest wait before a candidate is checked again while the controller fetches its transactions.
const CANDIDATE_RETRY_MAX: Duration = Duration::from_millis(250);
/// A controller from which nothing was heard for this long is pinged.
const PING_IDLE: Duration = Duration::from_secs(5);
/// A controller that syncs by itself is pinged this often.
const PING_SYNC: Duration = Duration::from_millis(300);
/// A call that takes longer makes the controller count as unwell.
const SLOW: Duration = Duration::from_millis(1000);
/// A block that is not kept here, and that the controller's own sync has not brought for this long, is stuck.
const MISSING_AFTER: Duration = Duration::from_secs(15);
/// A block that could not be committed for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Desk {
    configuration: Option<Configuration>,
    blocks: BTreeMap<u64, AgreedBlock>,
    blocks_bytes: u64,
    agreed_height: u64,
    promise: Promise,
    /// The proposal that the controller has last said yes to.
    checked: Option<(u64, Bytes)>,
    candidate: Option<Candidate>,
    /// The candidate's verdict was told.
    judged: bool,
    fetch: bool,
    under_way: Option<(Call, Instant)>,
    /// A commit had no answer and none came since.
    unknown: bool,
    failed: bool,
    wait: Duration,
    retry_at: Instant,
    candidate_wait: Duration,
    candidate_retry_at: Instant,
    ping_at: Instant,
    heard_at: Option<Instant>,
    stuck: Option<Stuck>,
    /// The next block is agreed on and not kept here.
    missing: Option<Stuck>,
}

impl Desk {
    pub(super) fn new(promise: Promise, now: Instant) -> Self {
        Self {
            configuration: None,
            blocks: BTreeMap::new(),
            blocks_bytes: 0,
            agreed_height: 0,
            promise,
            checked: None,
            candidate: None,
            judged: false,
            fetch: false,
            under_way: None,
            unknown: false,
            failed: false,
            wait: RETRY_MIN,
            retry_at: now,
            candidate_wait: RETRY_MIN,
            candidate_retry_at: now,
            ping_at: now,
            heard_at: None,
            stuck: None,
            missing: None,
        }
    }

    /// The controller's height; `None` until it was first heard.
    pub(super) fn height(&self) -> Option<u64> {
        self.configuration.as_ref().map(|configuration| configuration.height)
    }

    /// What is in force from the next height on.
    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Whether it answers, and in time.
    pub(super) fn healthy(&self, now: Instant) -> bool {
        let slow = self.under_way.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= SLOW);
        self.heard_at.is_some() && !self.failed && !slow
    }

    /// The agreed block that has been refused for a while.
    pub(super) fn stuck(&self, now: Instant) -> Option<Stuck> {
        let refused = self.stuck.filter(|stuck| now.duration_since(stuck.since) >= STUCK_AFTER);
        let missing = self.missing.filter(|missing| now.duration_since(missing.since) >= MISSING_AFTER);
        refused.or(missing)
    }

    /// When the controller last answered anything.
    pub(super) fn answered_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Asks the controller where it is, unless it has answered since.
    pub(super) fn ping_unless_heard_since(&mut self, since: Instant, now: Instant) {
        if self.heard_at.is_none_or(|at| at < since) && self.ping_at > now {
            self.ping_at = now;
        }
    }

    /// A controller that fell back further than the blocks kept here has only its own sync.
    fn note_missing(&mut self, now: Instant) {
        let next = self.height().map_or(0, |height| height + 1);
        let missing = next > 0 && next <= self.agreed_height && !self.blocks.contains_key(&next);
        if !missing {
            self.missing = None;
        } else if self.missing.is_none_or(|missing| missing.height != next) {
            self.missing =
                Some(Stuck { height: next, code: Code::PROPOSAL_TOO_HIGH, since: now, told: true });
        }
    }

    /// The agreed block that this node has promised not to offer to its controller, if that is what it needs.
    pub(super) fn stuck_by_promise(&self, agreed_index: u64, now: Instant) -> Option<Stuck> {
        let Promise { from_height, upto_index } = self.promise;
        let next = self.height()? + 1 == from_height && from_height <= self.agreed_height;
        let stuck = Stuck { height: from_height, code: Code::NONE_RAW_TX, since: now, told: true };
        (next && upto_index == agreed_index).then_some(stuck)
    }

    /// Whether a call may still take effect.
    pub(super) fn is_uncertain(&self) -> bool {
        self.unknown || matches!(self.under_way, Some((Call::Commit { .. }, _)))
    }

    /// Whether the controller has everything that is agreed on.
    pub(super) fn is_level(&self) -> bool {
        self.height().is_some_and(|height| height >= self.agreed_height) && !self.is_uncertain()
    }

    /// Whether this node can promise never to commit agreed blocks from a height on.
    pub(super) fn may_promise(&self, from_height: u64) -> bool {
        !self.is_uncertain() && !self.failed && self.height().is_some_and(|height| height < from_height)
    }

    /// The promise is durable.
    pub(super) fn promised(&mut self, promise: Promise) {
        self.promise = promise;
        self.drop_promised();
    }

    pub(super) fn promise(&self) -> Promise {
        self.promise
    }

    fn drop_promised(&mut self) {
        let promise = self.promise;
        let gone = |block: &AgreedBlock| promise.covers(block);
        self.blocks.retain(|_, block| !gone(block));
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        self.blocks_bytes = self.blocks.values().map(|block| block.data.len() as u64).sum();
    }

    /// A block was agreed on.
    pub(super) fn agreed(&mut self, block: AgreedBlock) {
        self.agreed_height = block.height;
        if self.candidate.as_ref().is_some_and(|candidate| candidate.height <= block.height) {
            self.candidate = None;
        }
        if self.promise.covers(&block) {
            return;
        }
        self.blocks_bytes += block.data.len() as u64;
        if let Some(former) = self.blocks.insert(block.height, block) {
            self.blocks_bytes -= former.data.len() as u64;
        }
        while self.blocks.len() > BLOCKS_MAX
            || (self.blocks_bytes > BLOCKS_BYTES_MAX && self.blocks.len() > 1)
        {
            let Some((_, block)) = self.blocks.pop_first() else { break };
            self.blocks_bytes -= block.data.len() as u64;
        }
    }

    /// A snapshot says what is agreed on.
    pub(super) fn restored(&mut self, agreed_height: u64, newest: Option<&AgreedBlock>) {
        self.blocks.clear();
        self.blocks_bytes = 0;
        self.agreed_height = agreed_height;
        self.stuck = None;
        if let Some(block) = newest {
            self.agreed(block.clone());
        }
    }

    /// The blocks from a height on are given up.
    pub(super) fn voided(&mut self, from_height: u64) {
        self.blocks.split_off(&from_height);
        self.count_bytes();
        self.agreed_height = from_height - 1;
        self.stuck = None;
        self.checked = None;
    }

    /// The controller says of its own accord where it is. It may have said so a while ago, so it is asked.
    pub(super) fn hint(&mut self, height: u64, now: Instant) {
        if self.height() != Some(height) {
            self.ping_at = now;
            self.retry_at = now;
            self.wait = RETRY_MIN;
        }
    }

    /// The leader wants this checked; false: an older wish than the one there.
    pub(super) fn examine(&mut self, candidate: Candidate, now: Instant) -> bool {
        let key = |c: &Candidate| (c.term, c.number);
        match &self.candidate {
            Some(present) if key(present) > key(&candidate) => return false,
            // Asked again: so the verdict got lost.
            Some(present) if key(present) == key(&candidate) => {
                self.judged = false;
                return true;
            }
            _ => {}
        }
        self.candidate = Some(candidate);
        self.judged = false;
        self.candidate_wait = RETRY_MIN;
        self.candidate_retry_at = now;
        true
    }

    /// This node leads and wants a proposal, or does not any more.
    pub(super) fn want_proposal(&mut self, want: bool) {
        self.fetch = want;
    }

    /// When something may have to be done though nothing happened.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let slow_at = self.under_way.as_ref().map(|(_, since)| *since + SLOW);
        let wishes = [slow_at, Some(self.retry_at), Some(self.candidate_retry_at), Some(self.ping_at)];
        // What lies in the past was done, or cannot be done yet.
        wishes.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The agreed block that the controller needs next and that is at hand.
    fn next_block(&self) -> Option<&AgreedBlock> {
        let height = self.height()?;
        if height >= self.agreed_height {
            return None;
        }
        self.blocks.get(&(height + 1))
    }

    /// The next call; [`reply`](Self::reply) must follow. `Err`: the leader's candidate can be judged without.
    pub(super) fn next(&mut self, now: Instant) -> Result<Option<Call>, Notice> {
        self.note_missing(now);
        if self.under_way.is_some() {
            return Ok(None);
        }
        if let Some(verdict) = self.verdict_at_once() {
            return Err(verdict);
        }
        let call = self.choose(now);
        if let Some(call) = &call {
            self.under_way = Some((call.clone(), now));
        }
        Ok(call)
    }

    fn choose(&mut self, now: Instant) -> Option<Call> {
        let rested = now >= self.retry_at;
        if self.failed || self.unknown {
            return rested.then_some(Call::Ping);
        }
        if now >= self.ping_at {
            return Some(Call::Ping);
        }
        if let Some(block) = self.next_block() {
            if !rested {
                return None;
            }
            let AgreedBlock { height, data, .. } = block.clone();
            let checked = self.checked.as_ref().is_some_and(|(at, yes)| *at == height && *yes == data);
            return Some(if checked { Call::Commit { height, data } } else { Call::Check { height, data } });
        }
        if !self.is_level() {
            return None;
        }
        if let Some(call) = self.choose_candidate(now) {
            return Some(call);
        }
        (rested && std::mem::take(&mut self.fetch)).then_some(Call::Fetch)
    }

    fn choose_candidate(&self, now: Instant) -> Option<Call> {
        let candidate = self.candidate.as_ref()?;
        let due = !self.judged && now >= self.candidate_retry_at;
        let next = self.is_level() && Some(candidate.height) == self.height().map(|height| height + 1);
        (due && next).then(|| Call::Check { height: candidate.height, data: candidate.data.clone() })
    }

    /// What needs no call: the controller has that height already, or has just said yes to the same bytes.
    fn verdict_at_once(&mut self) -> Option<Notice> {
        let height = self.height()?;
        let candidate = self.candidate.as_ref().filter(|_| !self.judged)?;
        let code = if candidate.height <= height {
            Code::PROPOSAL_TOO_LOW
        } else if self.is_level()
            && self
                .checked
                .as_ref()
                .is_some_and(|(at, yes)| *at == candidate.height && *yes == candidate.data)
        {
            Code::SUCCESS
        } else {
            return None;
        };
        self.judged = true;
        Some(Notice::Verdict(candidate.clone(), code))
    }

    fn back_off(&mut self, now: Instant) {
        self.retry_at = now + self.wait;
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    /// It answered.
    fn heard(&mut self, now: Instant) {
        self.failed = false;
        self.heard_at = Some(now);
        self.ping_at = now + PING_IDLE;
    }

    fn on_failed(&mut self, now: Instant) {
        self.failed = true;
        self.back_off(now);
        self.ping_at = self.retry_at;
    }

    /// Takes the outcome of the call that is under way.
    pub(super) fn reply(&mut self, reply: Reply, now: Instant) -> Vec<Notice> {
        let Some((call, _)) = self.under_way.take() else { return Vec::new() };
        match (call, reply) {
            (Call::Ping, Reply::Configured(outcome)) => self.on_ping(outcome, now),
            (Call::Commit { height, .. }, Reply::Configured(outcome)) => self.on_commit(height, outcome, now),
            (Call::Check { height, data }, Reply::Checked(outcome)) => {
                self.on_check(height, &data, outcome, now)
            }
            (Call::Fetch, Reply::Fetched(outcome)) => self.on_fetched(outcome, now),
            (call, reply) => unreachable!("{call:?} was answered by {reply:?}"),
        }
    }

    fn on_ping(
        &mut self,
        outcome: Result<(Code, Option<Configuration>), CallFailed>,
        now: Instant,
    ) -> Vec<Notice> {
        let Ok((Code::SUCCESS, Some(configuration))) = outcome else {
            self.on_failed(now);
            return Vec::new();
        };
        self.heard(now);
        self.unknown = false;
        self.move_to(configuration, now)
    }

    fn move_to(&mut self, configuration: Configuration, now: Instant) -> Vec<Notice> {
        let advanced = self.height().is_none_or(|height| configuration.height > height);
        if advanced {
            self.wait = RETRY_MIN;
            self.retry_at = now;
        }
        if self.stuck.is_some_and(|stuck| stuck.height <= configuration.height) {
            self.stuck = None;
        }
        if configuration.height < self.agreed_height && !self.blocks.contains_key(&(configuration.height + 1))
        {
            // Its own sync brings what this node does not have any more, or has promised not to commit.
            self.ping_at = now + PING_SYNC;
        }
        let moved = self.configuration.as_ref() != Some(&configuration);
        self.configuration = Some(configuration);
        if moved { vec![Notice::Moved] } else { Vec::new() }
    }

    fn on_commit(
        &mut self,
        height: u64,
        outcome: Result<(Code, Option<Configuration>), CallFailed>,
        now: Instant,
    ) -> Vec<Notice> {
        let (code, configuration) = match outcome {
            Ok(answer) => answer,
            Err(_) => {
                self.unknown = true;
                self.on_failed(now);
                return Vec::new();
            }
        };
        self.heard(now);
        self.unknown = false;
        match (code.meaning(), configuration) {
            (Meaning::Done, Some(configuration)) if configuration.height == height => {
                self.move_to(configuration, now)
            }
            (Meaning::Done | Meaning::AlreadyThere | Meaning::Behind, _) => {
                // If that finds it at this height, nothing is repeated before its time.
                self.ping_at = now;
                self.back_off(now);
                Vec::new()
            }
            _ => {
                // Only a check makes the controller ask for transactions that it misses.
                self.checked = None;
                self.on_refusal(height, code, now)
            }
        }
    }

    fn on_refusal(&mut self, height: u64, code: Code, now: Instant) -> Vec<Notice> {
        if code.meaning() == Meaning::Refused {
            self.wait = RETRY_MAX;
        }
        self.back_off(now);
        if self.wait >= RETRY_MAX {
            // It may have come there by itself meanwhile.
            self.ping_at = self.retry_at;
        }
        let wants_nothing = matches!(code.meaning(), Meaning::NotNow);
        match &mut self.stuck {
            Some(stuck) if stuck.height == height => {
                stuck.code = code;
                if wants_nothing {
                    self.stuck = None;
                }
            }
            _ if wants_nothing => {}
            stuck => *stuck = Some(Stuck { height, code, since: now, told: false }),
        }
        match &mut self.stuck {
            Some(stuck) if !stuck.told && now.duration_since(stuck.since) >= STUCK_AFTER => {
                stuck.told = true;
                vec![Notice::Stuck(*stuck)]
            }
            _ => Vec::new(),
        }
    }

    fn on_check(
        &mut self,
        height: u64,
        data: &Bytes,
        outcome: Result<Code, CallFailed>,
        now: Instant,
    ) -> Vec<Notice> {
        let Ok(code) = outcome else {
            self.on_failed(now);
            return Vec::new();
        };
        self.heard(now);
        if code.meaning() == Meaning::Done {
            self.checked = Some((height, data.clone()));
        }
        let about_candidate =
            self.candidate.as_ref().is_some_and(|c| c.height == height && c.data == *data && !self.judged);
        if about_candidate {
            return self.on_candidate_checked(code, now);
        }
        match code.meaning() {
            Meaning::Done => Vec::new(),
            Meaning::AlreadyThere | Meaning::Behind => {
                self.ping_at = now;
                self.back_off(now);
                Vec::new()
            }
            Meaning::TransactionsMissing | Meaning::NotNow | Meaning::Refused => {
                self.on_refusal(height, code, now)
            }
        }
    }

    fn on_candidate_checked(&mut self, code: Code, now: Instant) -> Vec<Notice> {
        match code.meaning() {
            Meaning::TransactionsMissing | Meaning::NotNow => {
                self.candidate_retry_at = now + self.candidate_wait;
                self.candidate_wait = (self.candidate_wait * 2).min(CANDIDATE_RETRY_MAX);
                return Vec::new();
            }
            Meaning::AlreadyThere | Meaning::Behind => self.ping_at = now,
            Meaning::Done | Meaning::Refused => {}
        }
        self.judged = true;
        self.candidate.clone().map(|candidate| Notice::Verdict(candidate, code)).into_iter().collect()
    }

    fn on_fetched(
        &mut self,
        outcome: Result<Result<(u64, Bytes), Code>, CallFailed>,
        now: Instant,
    ) -> Vec<Notice> {
        let why = match outcome {
            Ok(Ok((height, data))) => {
                self.heard(now);
                if Some(height) == self.height().map(|own| own + 1) {
                    // Its own proposal needs no check.
                    self.checked = Some((height, data.clone()));
                    return vec![Notice::Proposal(height, data)];
                }
                self.ping_at = now;
                format!("it proposes height {height}, expected {:?}", self.height().map(|own| own + 1))
            }
            Ok(Err(code)) => {
                self.heard(now);
                self.ping_at = now;
                self.back_off(now);
                code.to_string()
            }
            Err(CallFailed(why)) => {
                self.on_failed(now);
                why
            }
        };
        vec![Notice::NoProposal(why)]
    }
}

#[cfg(test)]
mod tests;
