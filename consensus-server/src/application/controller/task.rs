//! The application's task: one loop around the parts that decide.
//!
//! Inputs (the chain's events, the controller's answers, the other validators' letters, time) change the
//! parts; [`Task::advance`] then asks each of them what is to be done and does it. Nothing is awaited but
//! the next input: calls to the controller and writes run beside the loop and come back as inputs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus_core::ids::{NodeId, Ticket};
use consensus_core::replica::{CommittedEntry, Outcome, Refusal};
use consensus_core::storage::{ApplicationWrite, EntryKind, LogEntry, Snapshot};
use consensus_proto::cita::exchange as wire;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message as _;

use super::agreement::{Agreement, Change};
use super::code::{Code, Meaning};
use super::desk::{Call, Candidate, Desk, Notice, Promise, Reply, Stuck};
use super::membership::Present;
use super::proposer::Proposer;
use super::voiding::{self, Reports, Voiding};
use super::{ControllerApplication, VoidRefused};
use crate::application::{ApplicationEvent, ApplicationInbox};
use crate::chain::ChainHandle;
use crate::config::cita::address::{peer_ids, short};
use crate::telemetry::Told;
use crate::telemetry::trace::Span;
use crate::transport::cita::{Letter, Mail};

mod leading;
mod telling;
mod traced;

use self::traced::Traced;

/// Looked at again after this long while something is in the making.
const PULSE: Duration = Duration::from_millis(50);
/// The same while all is quiet.
const SLOW_PULSE: Duration = Duration::from_millis(1000);
/// Payload bytes read from the log at a time when the state is rebuilt.
const REPLAY_BYTES_MAX: u64 = 8 << 20;
/// Nodes that presented themselves and are kept in mind at most.
const PRESENT_MAX: usize = 1024;
/// Where the promise is kept.
const PROMISE_KEY: &[u8] = b"promise";

/// What ran beside the loop and is done.
enum Done {
    Reply(Reply),
    Controlled(Result<(), Refusal>),
    Promised(Promise, Option<NodeId>, Result<(), Refusal>),
}

pub(super) async fn run(app: ControllerApplication, mut inbox: ApplicationInbox, chain: ChainHandle) {
    let mut task = Task::new(app, chain);
    loop {
        task.advance(Instant::now());
        let wake = tokio::time::Instant::from_std(task.wake_at(Instant::now()));
        let outcome = tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => task.on_event(event, Instant::now()),
                None => return,
            },
            Some(done) = task.calls.next() => {
                task.on_done(done, Instant::now());
                Ok(())
            }
            Some(letter) = task.app.letters.recv() => {
                task.on_letter(letter, Instant::now());
                Ok(())
            }
            Some(command) = task.app.commands.recv() => {
                task.on_command(command, Instant::now());
                Ok(())
            }
            Ok(()) = task.app.hints.changed() => {
                task.on_hint(Instant::now());
                Ok(())
            }
            () = tokio::time::sleep_until(wake) => Ok(()),
        };
        if let Err(reason) = outcome {
            task.chain.halt(reason);
            task.halted = true;
        }
    }
}

struct Task {
    app: ControllerApplication,
    chain: ChainHandle,
    agreement: Agreement,
    applied: u64,
    /// The state of the store is taken over; what comes now is news.
    opened: bool,
    desk: Desk,
    /// The desk's promise is durable.
    promise_kept: bool,
    proposer: Proposer,
    traced: Traced,
    voiding: Voiding,
    reports: Reports,
    /// Nodes that presented themselves.
    present: BTreeMap<NodeId, (Present, Instant)>,
    invited: BTreeMap<NodeId, Instant>,
    /// The validators as members, ascending.
    validators: Vec<NodeId>,
    validators_since: Instant,
    /// Whose candidate it is that the desk examines.
    asked_by: Option<NodeId>,
    reported: Option<(NodeId, wire::Report, Instant)>,
    /// A membership change, an admission or a transfer is under way.
    changing: bool,
    changed_at: Option<Instant>,
    admission: Option<Ticket>,
    settled: bool,
    /// What was said of whom the membership waits for.
    member_awaited: Told,
    blocked_since: Option<Instant>,
    handed_over_at: Option<Instant>,
    /// The controller's list of validators cannot be used.
    bad_list: Option<String>,
    /// Whom the giving up of a block waits for.
    waiting: Option<String>,
    /// Lines that would be written again and again.
    told: Told,
    halted: bool,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Task {
    fn new(app: ControllerApplication, chain: ChainHandle) -> Self {
        let now = Instant::now();
        Self {
            traced: Traced::new(chain.traces()),
            app,
            chain,
            agreement: Agreement::default(),
            applied: 0,
            opened: false,
            desk: Desk::new(Promise::default(), now),
            promise_kept: true,
            proposer: Proposer::new(now),
            voiding: Voiding::default(),
            reports: Reports::new(),
            present: BTreeMap::new(),
            invited: BTreeMap::new(),
            validators: Vec::new(),
            validators_since: now,
            asked_by: None,
            reported: None,
            changing: false,
            changed_at: None,
            admission: None,
            settled: false,
            member_awaited: Told::default(),
            blocked_since: None,
            handed_over_at: None,
            bad_list: None,
            waiting: None,
            told: Told::default(),
            halted: false,
            calls: FuturesUnordered::new(),
        }
    }

    fn leads(&self) -> bool {
        self.proposer.term().is_some()
    }

    // Inputs.

    fn on_event(&mut self, event: ApplicationEvent, now: Instant) -> Result<(), String> {
        match event {
            ApplicationEvent::Opened { applied, snapshot } => self.on_opened(applied, snapshot, now)?,
            ApplicationEvent::RequestProposal { term, room } => {
                if room > 0 {
                    self.proposer.lead(Some(term));
                }
            }
            ApplicationEvent::WithdrawRequest => self.on_withdrawn(),
            ApplicationEvent::Apply(entries) => self.on_apply(entries, now)?,
            ApplicationEvent::BuildSnapshot => {
                self.chain.snapshot_built(self.applied, Some(self.agreement.encode()));
            }
            ApplicationEvent::InstallSnapshot(snapshot) => {
                self.restore(&snapshot)?;
                self.chain.snapshot_installed(self.applied);
            }
            ApplicationEvent::Answer { ticket, outcome } => self.on_answer(ticket, &outcome, now),
            ApplicationEvent::Halted { .. } => {
                self.halted = true;
                self.on_withdrawn();
            }
        }
        Ok(())
    }

    fn on_opened(&mut self, applied: u64, snapshot: Option<Snapshot>, now: Instant) -> Result<(), String> {
        let reader = self.chain.reader().clone();
        let promise = reader
            .application_record(self.chain.id(), PROMISE_KEY)
            .map_err(|error| format!("reading the promise: {error}"))?;
        if let Some(bytes) = promise {
            let promise = wire::Promise::decode(bytes).map_err(|error| format!("the promise: {error}"))?;
            let wire::Promise { from_height, upto_index } = promise;
            self.desk.promised(Promise { from_height, upto_index });
        }
        if let Some(snapshot) = snapshot {
            self.restore(&snapshot)?;
        }
        while self.applied < applied {
            let from = self.applied + 1;
            let entries = reader
                .entries(self.chain.id(), from, applied + 1, REPLAY_BYTES_MAX)
                .map_err(|error| format!("reading entry {from}: {error}"))?;
            for entry in entries {
                self.take(&entry, now)?;
            }
        }
        self.app.post.set_roster(self.agreement.roster());
        self.opened = true;
        Ok(())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let index = snapshot.position.index;
        self.agreement =
            Agreement::decode(&snapshot.data).map_err(|cause| format!("the snapshot at {index}: {cause}"))?;
        self.applied = index;
        self.desk.restored(self.agreement.height(), self.agreement.newest());
        self.app.post.set_roster(self.agreement.roster());
        Ok(())
    }

    fn on_apply(&mut self, entries: Vec<CommittedEntry>, now: Instant) -> Result<(), String> {
        for CommittedEntry { entry, .. } in entries {
            if entry.index > self.applied {
                self.take(&entry, now)?;
            }
        }
        self.chain.applied(self.applied);
        Ok(())
    }

    fn take(&mut self, entry: &LogEntry, now: Instant) -> Result<(), String> {
        let LogEntry { index, kind, ref context, ref data, .. } = *entry;
        self.applied = index;
        if kind != EntryKind::Normal || data.is_empty() {
            return Ok(());
        }
        match self.agreement.take(index, data)? {
            Change::Agreed(block) => {
                tracing::debug!(height = block.height, index, bytes = block.data.len(), "block agreed on");
                if self.opened {
                    self.app.metrics.agreed();
                    self.traced.agreed(block.height, index, context);
                }
                self.proposer.agreed(block.height, now);
                self.desk.agreed(block);
            }
            Change::Void { from_height, upto_index } => {
                if self.opened {
                    tracing::warn!(
                        from_height,
                        upto_index,
                        "agreed blocks are given up: no controller can commit them"
                    );
                    self.app.metrics.voided();
                }
                self.proposer.voided(now);
                self.desk.voided(from_height);
            }
            Change::Roster => {
                self.app.post.set_roster(self.agreement.roster());
                // A store that was replaced has forgotten what it promised.
                self.voiding.forget_promises();
            }
            Change::Ignored(why) if self.opened => tracing::info!(index, why, "entry without effect"),
            Change::Ignored(_) => {}
        }
        Ok(())
    }

    fn on_withdrawn(&mut self) {
        self.traced.failed("this node does not lead any more");
        self.proposer.lead(None);
        self.desk.want_proposal(false);
        self.voiding = Voiding::default();
        self.admission = None;
        self.blocked_since = None;
        self.waiting = None;
    }

    fn on_answer(&mut self, ticket: Ticket, outcome: &Outcome, now: Instant) {
        if self.admission == Some(ticket) {
            self.admission = None;
        }
        let why = match outcome {
            Outcome::Failed(refusal) => refusal.to_string(),
            // What was agreed on is settled before its answer comes; anything else had no effect.
            Outcome::Applied { .. } => "it had no effect".to_owned(),
            Outcome::ReadIndex { .. } | Outcome::Done => return,
        };
        self.traced.proposal_failed(ticket, &why);
        self.proposer.on_failed(ticket, why, now);
    }

    fn on_done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Reply(reply) => {
                for notice in self.desk.reply(reply, now) {
                    self.on_notice(notice, now);
                }
            }
            Done::Controlled(outcome) => {
                self.changing = false;
                self.changed_at = Some(now);
                if let Err(refusal) = outcome
                    && self.told.is_due(&refusal.to_string(), now)
                {
                    tracing::info!(%refusal, "membership or leadership stays as it is for now");
                }
            }
            Done::Promised(promise, to, Ok(())) => self.on_promised(promise, to),
            Done::Promised(_, _, Err(refusal)) => tracing::error!(%refusal, "a promise could not be kept"),
        }
    }

    fn on_notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Moved => self.on_moved(now),
            Notice::Verdict(candidate, code) => self.on_verdict(&candidate, code, now),
            Notice::Proposal(height, data) => self.proposer.on_proposal(self.app.own, height, data, now),
            Notice::NoProposal(why) => self.proposer.on_no_proposal(why, now),
            Notice::Stuck(stuck) => tracing::warn!(
                height = stuck.height,
                code = %stuck.code,
                "the controller does not take an agreed block; it is asked again until it does"
            ),
        }
    }

    fn on_moved(&mut self, now: Instant) {
        let Some(configuration) = self.desk.configuration() else { return };
        self.app.metrics.height(configuration.height);
        self.traced.reached(configuration.height);
        self.proposer.set_interval(configuration.block_interval);
        match peer_ids(&configuration.validators) {
            Ok(mut validators) => {
                validators.sort_unstable();
                if validators != self.validators {
                    tracing::info!(height = configuration.height, validators = ?short(&validators), "validators changed");
                    self.validators = validators;
                    self.validators_since = now;
                }
                self.bad_list = None;
            }
            // The list stays as it was: nothing is proposed under one that cannot be told apart.
            Err(error) => {
                self.bad_list = Some(format!("validators of height {}: {error}", configuration.height))
            }
        }
    }

    fn on_verdict(&mut self, candidate: &Candidate, code: Code, now: Instant) {
        let Some(asker) = self.asked_by else { return };
        if code.meaning() == Meaning::Refused
            && self.told.is_due(&format!("candidate {} {code}", candidate.height), now)
        {
            tracing::warn!(height = candidate.height, %code, "the controller refuses a candidate");
        }
        let (term, number) = (candidate.term, candidate.number);
        let height = self.desk.height().unwrap_or(0);
        self.app.post.mail(asker, Mail::Verdict(wire::Verdict { term, number, code: code.0, height }));
    }

    fn on_hint(&mut self, now: Instant) {
        let hint = self.app.hints.borrow_and_update().clone();
        if let Some(configuration) = hint {
            self.desk.hint(configuration.height, now);
        }
    }

    fn void_without(&mut self, height: u64, without: Vec<NodeId>, now: Instant) -> Result<(), VoidRefused> {
        if !self.leads() {
            return Err(VoidRefused::NotLeader);
        }
        let stuck = self.stuck(now).map(|stuck| stuck.height);
        voiding::judge((height, &without), stuck, self.app.own, &self.validators, &self.reports)?;
        tracing::warn!(height, without = ?short(&without), "an operator vouches that these do not have the block");
        let subject = Promise { from_height: height, upto_index: self.agreement.index() };
        self.voiding.vouch(subject, without, now);
        Ok(())
    }

    fn on_letter(&mut self, letter: Letter, now: Instant) {
        let Letter { from, incarnation, group, mail } = letter;
        let ours = group == Some(self.app.group);
        match mail {
            Mail::Hello(hello) => {
                let present = Present { store: incarnation, joined: ours, seated: hello.seated && ours };
                self.on_present(from, present, now);
            }
            // Whoever is in another group may agree on other blocks there.
            _ if !ours => {}
            Mail::Candidate(wire::Candidate { term, number, height, data, trace }) => {
                self.traced.candidate(height, &trace);
                if self.desk.examine(Candidate { term, number, height, data }, now) {
                    self.asked_by = Some(from);
                }
            }
            Mail::Verdict(verdict) => {
                let code = Code(verdict.code);
                if self.proposer.on_verdict(from, verdict.term, verdict.number, code) {
                    self.desk.hint(verdict.height, now);
                }
            }
            // Nobody else's counts, and strangers leave no trace.
            Mail::Report(report) if self.validators.contains(&from) => {
                self.reports.insert(from, (report, now));
            }
            Mail::Report(_) => {}
            Mail::VoidRequest(request) => self.on_void_request(from, &request),
            Mail::VoidPromise(promise) => {
                // A store that was replaced has promised for nobody.
                if self.agreement.roster().get(&from) == Some(&incarnation) {
                    let wire::VoidPromise { from_height, upto_index, .. } = promise;
                    self.voiding.on_promise(from, Promise { from_height, upto_index });
                }
            }
            // The seat's.
            Mail::Founding(_) | Mail::Invitation(_) | Mail::Dismissal(_) => {}
        }
    }

    fn on_void_request(&mut self, from: NodeId, request: &wire::VoidRequest) {
        let promise = Promise { from_height: request.from_height, upto_index: request.upto_index };
        if promise.upto_index == self.agreement.index() && self.desk.may_promise(promise.from_height) {
            self.promise(promise, (from != self.app.own).then_some(from));
        }
    }

    /// Keeps a promise from now on, and says so once it is durable.
    fn promise(&mut self, promise: Promise, to: Option<NodeId>) {
        if self.desk.promise() == promise {
            // While it is on its way to the disk the leader will ask again.
            if self.promise_kept {
                self.on_promised(promise, to);
            }
            return;
        }
        self.promise_kept = false;
        let Promise { from_height, upto_index } = promise;
        tracing::warn!(
            from_height,
            upto_index,
            "this node will not commit these blocks: they are being given up"
        );
        self.desk.promised(promise);
        let value = wire::Promise { from_height, upto_index }.encode_to_vec();
        let write = ApplicationWrite { key: PROMISE_KEY.to_vec(), value: Some(value.into()) };
        let chain = self.chain.clone();
        let kept = async move { Done::Promised(promise, to, chain.write_durably(vec![write]).await) };
        self.calls.push(kept.boxed());
    }

    fn on_promised(&mut self, promise: Promise, to: Option<NodeId>) {
        self.promise_kept = true;
        let Promise { from_height, upto_index } = promise;
        let height = self.desk.height().unwrap_or(0);
        match to {
            Some(to) => {
                let promise = wire::VoidPromise { from_height, upto_index, height };
                self.app.post.mail(to, Mail::VoidPromise(promise));
            }
            None => self.voiding.on_promise(self.app.own, promise),
        }
    }

    // Decisions.

    /// Asks each part what is to be done, and does it.
    fn advance(&mut self, now: Instant) {
        if self.halted || !self.opened {
            self.tell(now);
            return;
        }
        self.look_while_overdue(now);
        self.advance_desk(now);
        if self.leads() {
            let status = self.chain.status();
            self.advance_membership(&status, now);
            self.advance_voiding(now);
            self.advance_proposer(now);
            self.advance_desk(now);
            self.hand_over_when_blocked(&status, now);
        }
        self.report(now);
        self.tell(now);
    }

    fn advance_desk(&mut self, now: Instant) {
        loop {
            let call = match self.desk.next(now) {
                Ok(Some(call)) => call,
                Ok(None) => return,
                Err(notice) => {
                    self.on_notice(notice, now);
                    continue;
                }
            };
            self.calls.push(self.call(call));
        }
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Done> {
        let (controller, metrics) = (&self.app.controller, self.app.metrics.clone());
        let method = match &call {
            Call::Ping => "ping",
            Call::Check { .. } => "check_proposal",
            Call::Commit { .. } => "commit_block",
            Call::Fetch => "get_proposal",
        };
        let span = self.traced.call(method, &call);
        let trace = span.as_ref().map(Span::context);
        let answer: BoxFuture<'static, Reply> = match call {
            Call::Ping => controller.ping().map(Reply::Configured).boxed(),
            Call::Check { height, data } => controller.check(height, data, trace).map(Reply::Checked).boxed(),
            Call::Commit { height, data } => {
                controller.commit(height, data, trace).map(Reply::Configured).boxed()
            }
            Call::Fetch => controller.proposal(trace).map(Reply::Fetched).boxed(),
        };
        let since = Instant::now();
        let counted = move |reply: Reply| {
            if let Some(mut span) = span {
                match reply.code() {
                    Some(code) => span.note("consensus.code", i64::from(code.0)),
                    None => span.fail("no answer"),
                }
            }
            metrics.called(method, reply.code().map(|code| code.0), since.elapsed());
            Done::Reply(reply)
        };
        answer.map(counted).boxed()
    }

    /// The agreed block that this controller does not take, also if this node has promised not to offer it.
    fn stuck(&self, now: Instant) -> Option<Stuck> {
        let height = self.desk.height()?;
        let stuck = self.desk.stuck(now).filter(|stuck| stuck.height == height + 1);
        stuck.or_else(|| self.desk.stuck_by_promise(self.agreement.index(), now))
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let busy = self.leads() && (!self.settled || self.changing || self.blocked_since.is_some());
        let mut at =
            now + if busy || self.is_overdue(now) || self.stuck(now).is_some() { PULSE } else { SLOW_PULSE };
        for wish in [self.desk.wake_at(now), self.proposer.wake_at()].into_iter().flatten() {
            // What lies in the past was done, or cannot be done yet.
            if wish > now {
                at = at.min(wish);
            }
        }
        at
    }
}
