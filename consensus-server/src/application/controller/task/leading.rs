//! What only a leader decides: members, blocks, the giving up of one, and whether another should lead.

use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::replica::{Control, MembershipChange, Proposal, Status};
use consensus_proto::cita::exchange as wire;
use futures_util::FutureExt;

use super::{Done, PRESENT_MAX, Task};
use crate::application::controller::desk::{Promise, Stuck};
use crate::application::controller::membership::{self, Present, Step};
use crate::application::controller::proposer::{self, Action};
use crate::application::controller::{Command, agreement, voiding};
use crate::config::cita::address::Short;
use crate::telemetry::Told;
use crate::transport::cita::Mail;

/// How long new validators are waited for before the next height is proposed under the old membership.
const NEWCOMERS_PATIENCE: Duration = Duration::from_millis(1000);
/// A node is known for this long after it presented itself.
const PRESENT_FRESH: Duration = Duration::from_secs(4);
/// After a membership change the published state is not looked at for this long: it may be older.
const PUBLISHED_AFTER: Duration = Duration::from_millis(15);
/// Those that were admitted are told so again after this long.
const INVITE_AGAIN: Duration = Duration::from_millis(250);
/// A leader whose controller does not follow for this long lets another node lead.
const BLOCKED_MAX: Duration = Duration::from_millis(700);
/// Leadership is not given away more often than this.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(10);

impl Task {
    pub(super) fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::VoidWithout { height, validators, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(self.void_without(height, validators, now));
            }
        }
    }

    /// A node has presented itself.
    pub(super) fn on_present(&mut self, from: NodeId, present: Present, now: Instant) {
        // One that has not noticed that it was taken out comes back with another store.
        if present.seated && self.leads() && !self.chain.status().is_member(from) {
            return;
        }
        if self.present.len() >= PRESENT_MAX {
            self.forget_absent(now);
        }
        if self.present.len() < PRESENT_MAX {
            self.present.insert(from, (present, now));
        }
    }

    /// Nodes that were heard too long ago.
    fn forget_absent(&mut self, now: Instant) {
        self.present.retain(|_, (_, heard)| now.duration_since(*heard) < PRESENT_FRESH);
    }

    pub(super) fn advance_membership(&mut self, status: &Status, now: Instant) {
        self.forget_absent(now);
        // A controller that was set back far tells validators of long ago.
        let current = self.desk.height().is_some_and(|height| height + 1 >= self.agreement.height());
        let old = self.changed_at.is_some_and(|at| now < at + PUBLISHED_AFTER);
        let busy = self.changing || old || self.admission.is_some() || status.joint;
        if busy || !current || self.validators.is_empty() {
            return;
        }
        let learner = |id: &u64| status.learners.contains(id);
        let voters: Vec<NodeId> =
            status.voters.iter().filter(|id| !learner(id)).filter_map(|id| NodeId::new(*id)).collect();
        let learners: Vec<NodeId> = status.learners.iter().filter_map(|id| NodeId::new(*id)).collect();
        let present = self.present.iter().map(|(id, (present, _))| (*id, *present)).collect();
        let step = membership::next_step(&membership::Situation {
            own: self.app.own,
            validators: &self.validators,
            voters: &voters,
            learners: &learners,
            roster: self.agreement.roster(),
            present: &present,
            progress: &status.peers,
            commit: status.commit,
            impatient: now.duration_since(self.validators_since) >= NEWCOMERS_PATIENCE,
        });
        self.invite(now);
        self.settled = step == Step::Settled;
        match step {
            Step::Settled => self.member_awaited = Told::default(),
            Step::Wait(why) => {
                if self.member_awaited.is_due(&why, now) {
                    tracing::info!(why, "membership waits");
                }
            }
            Step::Admit(roster) => self.admit(&roster),
            Step::Change(changes) => self.change(changes),
            Step::HandOver(to) => {
                tracing::info!(to = %Short(to), "this node is no validator any more: handing leadership over");
                self.transfer(to);
            }
        }
    }

    /// Tells those that ask and are admitted that they are.
    fn invite(&mut self, now: Instant) {
        let roster = self.agreement.roster();
        let waits = |(id, (present, _)): (&NodeId, &(Present, Instant))| {
            let told = self.invited.get(id).is_some_and(|at| now < *at + INVITE_AGAIN);
            (!told && !present.joined && roster.get(id) == Some(&present.store)).then_some(*id)
        };
        let admitted: Vec<NodeId> = self.present.iter().filter_map(waits).collect();
        for id in admitted {
            self.invited.insert(id, now);
            let roster = agreement::roster_to_wire(self.agreement.roster());
            self.app.post.mail(id, Mail::Invitation(wire::Invitation { roster }));
        }
    }

    fn admit(&mut self, roster: &agreement::Roster) {
        let ticket = self.chain.next_ticket();
        let proposal = Proposal::new(ticket, agreement::admission_entry(roster));
        if self.chain.propose(vec![proposal]).is_ok() {
            self.admission = Some(ticket);
        }
    }

    fn change(&mut self, changes: Vec<MembershipChange>) {
        tracing::info!(changes = membership::in_words(&changes), "membership changes");
        for change in &changes {
            if let MembershipChange::Remove(id) = change
                && let Some(store) = self.agreement.roster().get(id)
            {
                // This store will be set aside.
                self.present.retain(|of, (present, _)| of != id || present.store != *store);
            }
        }
        self.control(Control::ChangeMembership { changes });
    }

    fn transfer(&mut self, to: NodeId) {
        self.control(Control::TransferLeader { to: Some(to) });
    }

    fn control(&mut self, control: Control) {
        self.changing = true;
        let chain = self.chain.clone();
        self.calls.push(async move { Done::Controlled(chain.control(control).await) }.boxed());
    }

    /// The height to propose, unless something must come first.
    fn next_height(&self, now: Instant) -> Option<u64> {
        if !self.desk.is_level() || !self.validators.contains(&self.app.own) || self.bad_list.is_some() {
            return None;
        }
        let patient = now.duration_since(self.validators_since) < NEWCOMERS_PATIENCE;
        if !self.settled && patient {
            return None;
        }
        self.desk.height().map(|height| height + 1)
    }

    pub(super) fn advance_proposer(&mut self, now: Instant) {
        let (next_height, first) = (self.next_height(now), self.agreement.index() == 0);
        loop {
            let situation = proposer::Situation {
                now,
                own: self.app.own,
                validators: &self.validators,
                next_height,
                first,
            };
            match self.proposer.step(&situation) {
                None => return,
                Some(Action::Fetch) => {
                    self.traced.due(self.proposer.trouble());
                    self.desk.want_proposal(true);
                }
                Some(Action::Ask { number, height, data, to }) => {
                    let (term, trace) = (self.proposer.term().unwrap_or(0), self.traced.asked(height));
                    for id in to {
                        let (data, trace) = (data.clone(), trace.clone());
                        let candidate = wire::Candidate { term, number, height, data, trace };
                        self.app.post.mail(id, Mail::Candidate(candidate));
                    }
                }
                Some(Action::Propose { height, data }) => self.propose(height, data, now),
                Some(Action::Ping) => {
                    let why = self.proposer.trouble().unwrap_or("");
                    if self.told.is_due(why, now) {
                        tracing::warn!(why, "no block");
                    }
                    self.desk.hint(u64::MAX, now);
                }
            }
        }
    }

    fn propose(&mut self, height: u64, data: Bytes, now: Instant) {
        let ticket = self.chain.next_ticket();
        let context = self.traced.proposed(height, ticket);
        let data = agreement::block_entry(height, data, self.app.own);
        let outcome = self.chain.propose(vec![Proposal { ticket, data, context }]);
        let outcome = outcome.map(|()| ticket).map_err(|why| why.to_string());
        if let Err(why) = &outcome {
            self.traced.proposal_failed(ticket, why);
        }
        self.proposer.proposed(outcome, now);
    }

    pub(super) fn advance_voiding(&mut self, now: Instant) {
        let Some(Stuck { height, .. }) = self.stuck(now) else {
            self.waiting = None;
            return;
        };
        let subject = Promise { from_height: height, upto_index: self.agreement.index() };
        let own = self.own_report(now);
        self.reports.insert(self.app.own, (own, now));
        match self.voiding.step(subject, &self.validators, &self.reports, now) {
            None => {}
            Some(voiding::Action::Wait(why)) => {
                let why = format!("block {height} is agreed on and cannot be committed here: {why}");
                if self.waiting.as_ref() != Some(&why) && self.told.is_due(&why, now) {
                    tracing::warn!(why, "waiting");
                }
                self.waiting = Some(why);
            }
            Some(voiding::Action::Ask(promise, to)) => {
                let term = self.proposer.term().unwrap_or(0);
                let Promise { from_height, upto_index } = promise;
                let request = wire::VoidRequest { term, from_height, upto_index };
                for id in to {
                    if id == self.app.own {
                        self.on_void_request(id, &request);
                    } else {
                        self.app.post.mail(id, Mail::VoidRequest(request));
                    }
                }
            }
            Some(voiding::Action::Propose(Promise { from_height, upto_index })) => {
                let ticket = self.chain.next_ticket();
                let data = agreement::void_entry(from_height, upto_index);
                if let Err(refusal) = self.chain.propose(vec![Proposal::new(ticket, data)])
                    && self.told.is_due(&refusal.to_string(), now)
                {
                    tracing::info!(%refusal, "giving up a block was not proposed");
                }
            }
        }
    }

    /// A leader whose controller does not follow, or makes proposals that the others cannot check, lets one lead
    /// whose controller follows.
    pub(super) fn hand_over_when_blocked(&mut self, status: &Status, now: Instant) {
        let proposes = self.proposer.refused() < 2 && !self.proposer.lingers(now);
        let own_is_well = self.desk.healthy(now) && self.desk.is_level() && proposes;
        let due = now >= self.proposer.due();
        if own_is_well || !due || self.changing {
            self.blocked_since = None;
            return;
        }
        let heirs = self.heirs(now);
        // Where no controller follows, another leader would not help.
        if heirs.is_empty() {
            self.blocked_since = None;
            return;
        }
        let since = *self.blocked_since.get_or_insert(now);
        let lately = self.handed_over_at.is_some_and(|at| now < at + HAND_OVER_AGAIN);
        let active =
            |id: NodeId| status.peers.iter().any(|peer| peer.node_id == id && peer.active && peer.voter);
        let heir = heirs.into_iter().filter(|(_, id)| active(*id)).max();
        let Some((height, to)) = heir.filter(|_| now >= since + BLOCKED_MAX && !lately) else { return };
        tracing::warn!(
            to = %Short(to),
            height,
            "no block comes from this node's controller while another's follows: handing leadership over"
        );
        self.app.metrics.handed_over();
        self.handed_over_at = Some(now);
        self.transfer(to);
    }

    /// Validators whose controllers follow, with their heights. One that nobody has called since the block was due
    /// proves nothing.
    fn heirs(&self, now: Instant) -> Vec<(u64, NodeId)> {
        let (agreed, due) = (self.agreement.height(), self.proposer.due());
        let heir = |(id, (report, at)): (&NodeId, &(wire::Report, Instant))| {
            let answered = at.checked_sub(Duration::from_millis(report.answered_ms_ago));
            let answers = report.healthy && answered.is_some_and(|answered| answered >= due);
            let follows = answers && report.height >= agreed;
            let fresh = now.duration_since(*at) < voiding::REPORT_FRESH;
            let other = *id != self.app.own && self.validators.contains(id);
            (fresh && other && follows).then_some((report.height, *id))
        };
        self.reports.iter().filter_map(heir).collect()
    }
}
