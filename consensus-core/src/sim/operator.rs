//! The operator: reshapes the membership, brings lost nodes back, and makes mistakes.
//!
//! Like production's leader on a CITA-Cloud chain it takes one step at a time and always the same order: a
//! member that has come with a new store is taken out, the new store is written into the log, the node becomes
//! a learner, and a voter when it has caught up. It speaks to whoever leads.

use super::application::{Submission, admission};
use super::cluster::Cluster;
use super::invariants::{Verdict, is_majority};
use super::node::Question;
use super::rng::{Rng, Stream};
use super::script::Class;
use super::swarm::{ApplicationKind, Swarm};
use super::trace::Step;
use crate::ids::NodeId;
use crate::reach::reach;
use crate::replica::{Control, Event, MembershipChange, Status};
use crate::storage::ConfState;

/// A learner this close to the commit index has caught up.
const CAUGHT_UP_ENTRIES: u64 = 8;

/// A wish and how it is pursued.
#[derive(Debug)]
pub(super) struct Operator {
    rng: Rng,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// Changes nothing for now.
    pub(super) rests: bool,
}

/// What to ask of the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wish {
    Nothing,
    Admit(u64),
    Change(Vec<MembershipChange>),
    HandOver(u64),
}

fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("ids begin with 1")
}

impl Operator {
    /// One that wishes for the membership that there is.
    pub(super) fn new(swarm: &Swarm) -> Self {
        let founders = super::node::founders(swarm);
        Self {
            rng: Rng::new(swarm.seed, Stream::Operator, 0),
            voters: founders.voters,
            learners: founders.learners,
            rests: false,
        }
    }

    /// For one wish or mistake, so that leaving it out changes no other.
    fn next_rng(&mut self) -> Rng {
        Rng::new(self.rng.draw(), Stream::Operator, 0)
    }

    /// Wishes for some other membership among `candidates`.
    fn reshape(&mut self, rng: &mut Rng, candidates: &[u64]) {
        let mut ids = candidates.to_vec();
        for place in 0..ids.len() as u64 {
            let other = rng.between(place, ids.len() as u64 - 1);
            ids.swap(place as usize, other as usize);
        }
        let voters = rng.between(1, ids.len() as u64) as usize;
        let members = rng.between(voters as u64, ids.len() as u64) as usize;
        self.voters = ids[..voters].to_vec();
        self.learners = ids[voters..members].to_vec();
        self.voters.sort_unstable();
        self.learners.sort_unstable();
    }

    /// What it wishes for, in words.
    pub(super) fn in_words(&self) -> String {
        format!("wished for are voters {:?} and learners {:?}", self.voters, self.learners)
    }

    fn is_wanted(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether the membership is as wished.
    fn is_content(&self, status: &Status) -> bool {
        !status.joint && status.voters == self.voters && status.learners == self.learners
    }
}

impl Cluster {
    /// Another membership is wished for: with a chain that newcomers can be given any, otherwise all stay.
    pub(super) fn reshape(&mut self) {
        let all: Vec<u64> = (1..=self.swarm.nodes).collect();
        let mut rng = self.operator.next_rng();
        if !self.happens(Class::Reshape) {
            return;
        }
        match self.swarm.application {
            ApplicationKind::HashChain => self.operator.reshape(&mut rng, &all),
            ApplicationKind::Ledger => {
                self.operator.reshape(&mut rng, &all);
                let (voters, learners) = (&self.operator.voters, &mut self.operator.learners);
                learners.extend(all.iter().filter(|id| !voters.contains(id)));
                learners.sort_unstable();
                learners.dedup();
            }
        }
        self.counters.reshapes += 1;
    }

    /// Looks at the cluster and takes the next step.
    pub(super) fn look(&mut self) -> Verdict {
        for node in 0..self.nodes.len() {
            self.bring_back(node)?;
        }
        if self.operator.rests {
            return Ok(());
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let wish = match &self.nodes[leader].running {
            Some(running) => self.wish(leader, &running.status),
            None => Wish::Nothing,
        };
        match wish {
            Wish::Nothing => {}
            Wish::Admit(id) => {
                let number = self.nodes[id as usize - 1].store_number;
                self.invariants.client_history.submits(admission(id), number, self.schedule.now_us());
                let submission = Submission { client: admission(id), number, bytes: 1 };
                if let Some(running) = self.nodes[leader].running.as_mut() {
                    running.pool.slip_in(submission);
                }
                self.note(leader, Step::Command { what: "admit", about: id });
                self.propose(leader);
            }
            Wish::Change(changes) => {
                self.note(leader, Step::Command { what: "change", about: changes.len() as u64 });
                self.command(leader, Question::Control, Control::ChangeMembership { changes });
            }
            Wish::HandOver(id) => {
                self.note(leader, Step::Command { what: "hand over", about: id });
                let command = Control::TransferLeader { to: NodeId::new(id) };
                self.command(leader, Question::Control, command);
            }
        }
        Ok(())
    }

    /// Gives a command to a node that runs.
    pub(super) fn command(&mut self, node: usize, question: Question, command: Control) {
        let process = self.process(node);
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let ticket = running.ask(question);
        self.give(process, Event::Control { ticket, command });
    }

    /// A node that refuses its store comes back with a new one, and so does one that was removed, once nobody needs
    /// the word of its old one any more.
    fn bring_back(&mut self, node: usize) -> Verdict {
        let newcomers = self.swarm.application == ApplicationKind::HashChain;
        if !newcomers || self.stands_still {
            return Ok(());
        }
        let removed = self.invariants.silent_outsiders.is_removed(node) && self.is_dispensable(node);
        if !removed && self.nodes[node].refused.is_none() {
            return Ok(());
        }
        if self.nodes[node].running.take().is_some() {
            self.invariants.stops(node);
            self.nodes[node].disk.crash()?;
        }
        self.begin_anew(node)
    }

    /// The next step towards what is wished for, as the leader sees it.
    fn wish(&self, leader: usize, status: &Status) -> Wish {
        let own = leader as u64 + 1;
        let members: Vec<u64> = status.voters.iter().chain(&status.learners).copied().collect();
        let has_new_store =
            |id: u64| self.known_store(leader, id as usize - 1) != self.nodes[id as usize - 1].store_number;
        if status.joint {
            return Wish::Nothing;
        }
        if let Some(lost) = members.iter().copied().find(|id| *id != own && has_new_store(*id)) {
            return self.careful(status, vec![MembershipChange::Remove(node_id(lost))]);
        }
        let missing: Vec<u64> = (1..=self.swarm.nodes)
            .filter(|id| self.operator.is_wanted(*id) && !members.contains(id))
            .collect();
        if let Some(id) = missing.iter().copied().find(|id| has_new_store(*id)) {
            return Wish::Admit(id);
        }
        if !missing.is_empty() {
            let add = |id: &u64| MembershipChange::AddLearner(node_id(*id));
            return Wish::Change(missing.iter().map(add).collect());
        }
        self.settle(own, status)
    }

    /// Learners that have caught up become voters, voters that are not wished for leave or learn.
    fn settle(&self, own: u64, status: &Status) -> Wish {
        let operator = &self.operator;
        if operator.is_content(status) {
            reach!(OperatorContent);
            return Wish::Nothing;
        }
        let caught_up = |id: u64| {
            let progress = status.peers.iter().find(|peer| peer.node_id.get() == id);
            progress.is_some_and(|peer| {
                peer.active && peer.matched > 0 && peer.matched + CAUGHT_UP_ENTRIES >= status.commit
            })
        };
        let wanted = |id: &&u64| operator.voters.contains(id) && !status.voters.contains(id);
        let (ready, awaited): (Vec<u64>, Vec<u64>) =
            status.learners.iter().filter(wanted).copied().partition(|id| caught_up(*id));
        let staying = status.voters.iter().filter(|id| operator.voters.contains(id)).count();
        if !awaited.is_empty() && staying == 0 {
            return Wish::Nothing;
        }
        let mut changes: Vec<MembershipChange> =
            ready.iter().map(|id| MembershipChange::AddVoter(node_id(*id))).collect();
        for id in status.voters.iter().chain(&status.learners).filter(|id| **id != own) {
            if !operator.is_wanted(*id) {
                changes.push(MembershipChange::Remove(node_id(*id)));
            } else if status.voters.contains(id) && operator.learners.contains(id) {
                changes.push(MembershipChange::AddLearner(node_id(*id)));
            }
        }
        if changes.is_empty() {
            let heir = status.voters.iter().find(|id| **id != own && operator.voters.contains(id));
            let own_leaves = !operator.voters.contains(&own);
            return heir.filter(|_| own_leaves).map_or(Wish::Nothing, |id| Wish::HandOver(*id));
        }
        self.careful(status, changes)
    }

    /// Changes that leave a majority of sound voters, or nothing.
    fn careful(&self, status: &Status, changes: Vec<MembershipChange>) -> Wish {
        let mut voters = status.voters.clone();
        for change in &changes {
            match change {
                MembershipChange::AddVoter(id) => voters.push(id.get()),
                MembershipChange::AddLearner(id) | MembershipChange::Remove(id) => {
                    voters.retain(|voter| *voter != id.get());
                }
            }
        }
        let membership = ConfState { voters, ..ConfState::default() };
        let sound = is_majority(&membership, |id| self.is_sound(*id as usize - 1));
        if sound { Wish::Change(changes) } else { Wish::Nothing }
    }

    /// Whether the leader's membership is as wished.
    pub(super) fn operator_is_content(&self, leader: usize) -> bool {
        let running = self.nodes[leader].running.as_ref();
        running.is_some_and(|running| self.operator.is_content(&running.status))
    }

    /// A command that must be refused, whoever gets it.
    pub(super) fn mistake(&mut self) {
        let mut rng = self.operator.next_rng();
        if !self.happens(Class::Mistake) {
            return;
        }
        let node = rng.below(self.swarm.nodes) as usize;
        let own = node_id(node as u64 + 1);
        let command = match rng.below(5) {
            0 => Control::ChangeMembership { changes: vec![MembershipChange::Remove(own)] },
            1 => Control::ChangeMembership { changes: vec![MembershipChange::AddLearner(own)] },
            2 => Control::ChangeMembership { changes: Vec::new() },
            3 => Control::TransferLeader { to: NodeId::new(99) },
            _ => {
                let outsider = (1..=self.swarm.nodes).find(|id| {
                    let running = self.nodes[node].running.as_ref();
                    running.is_some_and(|running| !running.status.voters.contains(id) && *id != own.get())
                });
                Control::TransferLeader { to: NodeId::new(outsider.unwrap_or(99)) }
            }
        };
        self.note(node, Step::Command { what: "mistake", about: own.get() });
        self.command(node, Question::Mistake, command);
    }
}
