//! Messages between nodes under way: sent, remembered, arriving, arriving again, and garbage among them.
//!
//! A message travels as a letter that says which store it is from and which one it is for, as production's
//! transports do: one that is for a store that is gone, or from another store than the chain knows for its
//! sender, is dropped before the replica sees it. So nothing that a lost store has promised is counted for
//! the one that replaced it, however old the message is that arrives.
//!
//! What only leaders say and requests for votes are heard from any store: a follower that lags behind the admission
//! of the sender's store would otherwise be shut out for as long as that one leads, or hinder its election.

use std::collections::{BTreeMap, VecDeque};

use super::application::FIRST_STORE;
use super::cluster::{Cluster, Happening, Process};
use super::garbage;
use super::node::Running;
use super::rng::{Rng, Stream};
use super::schedule::MILLISECOND;
use super::script::Class;
use super::trace::{MessageDigest, Step};
use crate::ids::NodeId;
use crate::reach::reach;
use crate::replica::eraftpb::MessageType;
use crate::replica::{
    Event, Message, PeerReport, answers_vote, any_store_may_say, asks_for_vote, only_leaders_say,
};

/// Messages that are remembered.
const MEMORY: usize = 256;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    message: Message,
    sender: Process,
    from_store: u64,
    /// 0 if the sender does not know.
    to_store: u64,
    /// The sender's transport waits for the fate of a snapshot.
    awaited: bool,
}

/// What the network remembers in order to repeat it.
#[derive(Debug)]
pub(super) struct Memory {
    letters: VecDeque<Letter>,
    choice: Rng,
    sample: Rng,
    parts: u32,
}

impl Memory {
    /// A memory that keeps so many messages in a million.
    pub(super) fn new(seed: u64, parts: u32) -> Self {
        Self {
            letters: VecDeque::new(),
            choice: Rng::new(seed, Stream::Replay, 1),
            sample: Rng::new(seed, Stream::Replay, 2),
            parts,
        }
    }

    fn see(&mut self, letter: &Letter) {
        if !self.sample.chance(self.parts) {
            return;
        }
        if self.letters.len() == MEMORY {
            // Some stay for long, so that they reach later incarnations and later stores.
            let gone = self.sample.below(MEMORY as u64) as usize;
            self.letters.swap_remove_back(gone);
        }
        self.letters.push_back(letter.clone());
    }

    fn draw(&mut self) -> Option<Letter> {
        let count = self.letters.len() as u64;
        let chosen = self.choice.below(count) as usize;
        self.letters.get(chosen).cloned()
    }
}

impl Cluster {
    /// The store of a peer that the chain knows, as far as this node has come; 0 if it knows of none.
    pub(super) fn known_store(&self, node: usize, peer: usize) -> u64 {
        let Some(running) = &self.nodes[node].running else { return 0 };
        if self.invariants.silent_outsiders.is_outside(node) {
            return 0;
        }
        let founded = (peer as u64) < self.swarm.voters + self.swarm.learners;
        let first = if founded { FIRST_STORE } else { 0 };
        running.application.admitted(peer as u64 + 1).max(first)
    }

    /// The store that a node addresses at a peer: the newest that it knows of, or has heard lead. A request for a vote
    /// is for any, whoever is asked must know by itself that it may not give it; the answer is for the one that asked.
    fn addressed_store(&self, node: usize, peer: usize, kind: MessageType) -> u64 {
        let running = self.nodes[node].running.as_ref();
        let heard = |stores: fn(&Running) -> &BTreeMap<usize, u64>| {
            running.and_then(|running| stores(running).get(&peer).copied())
        };
        if asks_for_vote(kind) {
            return 0;
        }
        if answers_vote(kind)
            && let Some(asked) = heard(|running| &running.asked_by)
        {
            return asked;
        }
        self.known_store(node, peer).max(heard(|running| &running.led_by).unwrap_or(0))
    }

    /// Sends a message of a node.
    pub(super) fn transmit(&mut self, sender: Process, message: Message, digest: MessageDigest) {
        let now_us = self.schedule.now_us();
        let (from, to) = (sender.node, message.to as usize - 1);
        let snapshot = message.has_snapshot();
        let from_store = self.nodes[from].store_number;
        let to_store = self.addressed_store(from, to, message.get_msg_type());
        let letter = Letter { message, sender, from_store, to_store, awaited: snapshot };
        self.memory.see(&letter);
        let fate = self.network.send(now_us, from, to, snapshot);
        self.counters.sent += 1;
        if let Some(at_us) = fate.again_us {
            self.counters.duplicated += 1;
            self.schedule.at(at_us, Happening::Arrive(Box::new(letter.clone())));
        }
        if let Some(at_us) = fate.arrives_us {
            self.schedule.at(at_us, Happening::Arrive(Box::new(letter)));
            return;
        }
        self.counters.lost += 1;
        self.note(from, Step::Lose(digest));
        if fate.noticed {
            let report = if snapshot { PeerReport::SnapshotFailed } else { PeerReport::Unreachable };
            self.schedule.after(5 * MILLISECOND, Happening::Report { process: sender, peer: to, report });
        }
    }

    /// An old message arrives again.
    pub(super) fn replay(&mut self) {
        let Some(mut letter) = self.memory.draw() else { return };
        if !self.happens(Class::Replay) {
            return;
        }
        letter.awaited = false;
        let receiver = letter.message.to as usize - 1;
        self.counters.replayed += 1;
        reach!(ReplayFromFormerIncarnation, self.process(letter.sender.node) != letter.sender);
        self.note(receiver, Step::Replay(MessageDigest::of(&letter.message)));
        self.schedule.after(MILLISECOND, Happening::Arrive(Box::new(letter)));
    }

    /// A letter arrives at its receiver.
    pub(super) fn arrive(&mut self, letter: Letter) {
        let Letter { message, sender, from_store, to_store, awaited } = letter;
        let node = message.to as usize - 1;
        let (kind, digest) = (message.get_msg_type(), MessageDigest::of(&message));
        let known = self.known_store(node, sender.node);
        let why = if to_store != 0 && to_store != self.nodes[node].store_number {
            reach!(LetterForAStoreThatIsGone);
            Some("for a store that is gone")
        } else if known != 0 && known != from_store && !any_store_may_say(kind) {
            reach!(LetterFromAnotherStore);
            Some("from another store")
        } else {
            None
        };
        if let Some(running) = self.nodes[node].running.as_mut() {
            let unknown = known != 0 && known != from_store;
            if only_leaders_say(kind) {
                reach!(LedByAnUnknownStore, unknown);
                running.led_by.insert(sender.node, from_store);
            } else if asks_for_vote(kind) {
                reach!(AskedByAnUnknownStore, unknown);
                running.asked_by.insert(sender.node, from_store);
            }
        }
        let mut arrived = false;
        if let Some(why) = why {
            self.note(node, Step::Drop { why, message: digest });
        } else {
            let from = NodeId::new(message.from).expect("replicas send under their ids, which are not 0");
            let process = self.process(node);
            if self.nodes[node].running.as_ref().is_some_and(Running::has_room) {
                self.invariants.true_readiness.arrives(node, &message);
            }
            arrived = self.give(process, Event::PeerMessage { from, message });
            self.note(node, if arrived { Step::Receive(digest) } else { Step::Lose(digest) });
        }
        if awaited {
            let report = if arrived { PeerReport::SnapshotDelivered } else { PeerReport::SnapshotFailed };
            let delay_us = self.swarm.latencies.link_min_us;
            self.schedule.after(delay_us, Happening::Report { process: sender, peer: node, report });
        }
    }

    /// A peer's transport delivers what no honest replica sends.
    pub(super) fn throw_garbage(&mut self, rng: &mut Rng) {
        let count = self.swarm.nodes;
        let node = rng.below(count) as usize;
        let from = (node as u64 + 1 + rng.below(count.max(2) - 1)) % count.max(2) + 1;
        let Some(running) = self.nodes[node].running.as_mut() else { return };
        let (message, reason) = garbage::draw(rng, from, &running.status, &self.swarm.limits);
        let from = NodeId::new(from).expect("ids begin with 1");
        let digest = MessageDigest::of(&message);
        if running.receive(Event::PeerMessage { from, message }) {
            self.counters.garbage += 1;
            if let Some(reason) = reason {
                self.invariants.refused_as_forged.forged(node, reason);
            }
            self.note(node, Step::Receive(digest));
            self.schedule_round(self.process(node));
        }
    }
}
