//! Messages that no honest peer sends: each must be refused at the gate, counted under its reason, and change
//! nothing.
//!
//! A forged message reaches a replica's inbox as if its transport had let it through. Which reason the gate must
//! name is part of the forgery, so [`RefusedAsForged`](super::invariants::RefusedAsForged) can compare. One
//! seed, the [`CANARY`], is different: its forgery is a lie that the gate cannot know, and the run must fail.

use bytes::Bytes;
use protobuf::RepeatedField;

use super::cluster::{Cluster, Happening};
use super::invariants::Verdict;
use super::rng::{Rng, Stream};
use super::schedule::SECOND;
use super::script::Class;
use super::trace::Step;
use crate::ids::NodeId;
use crate::replica::eraftpb::{Entry, MessageType, Snapshot};
use crate::replica::{Event, Message};

/// The seed whose run must fail: it shows that failures are found and reported.
pub const CANARY: u64 = 0xca9a_29ca_9a29_ca9a;

/// The canary tries to lie after this time, again and again until somebody leads.
const CANARY_AFTER_US: u64 = 20 * SECOND;

/// What is wrong with a message, and the reason that the gate must give.
type Forgery = (fn(&mut Message), &'static str);

/// Everything that is forged. Honest peers cause none of these reasons.
pub const FORGERIES: [Forgery; 14] = [
    (|message| message.to += 1, "addressed to another node"),
    (|message| message.from += 1, "sender is not the peer"),
    (|message| message.term = 0, "no term"),
    (|message| message.term += 2_000_000, "term too far ahead"),
    (|message| message.index = u64::MAX, "index out of range"),
    (|message| message.commit = u64::MAX - 1, "index out of range"),
    (|message| add_entry(message, 1, 1), "entries in a message that carries none"),
    (|message| message.set_snapshot(Snapshot::default()), "snapshot in a message that carries none"),
    (|message| append(message).log_term = u64::MAX, "previous entry from a later term"),
    (|message| add_entry(append(message), 5, 1), "entries not contiguous"),
    (|message| add_entry(append(message), 1, 0), "entry terms out of order"),
    (|message| message.set_msg_type(MessageType::MsgPropose), "type not for peers"),
    (|message| message.set_msg_type(MessageType::MsgHup), "type not for peers"),
    (|message| message.set_msg_type(MessageType::MsgSnapshot), "snapshot message without snapshot"),
];

fn append(message: &mut Message) -> &mut Message {
    message.set_msg_type(MessageType::MsgAppend);
    message
}

fn add_entry(message: &mut Message, index: u64, term: u64) {
    let entry = Entry { index, term, data: Bytes::from_static(b"forged"), ..Entry::default() };
    message.set_entries(RepeatedField::from_vec(vec![entry]));
}

/// Decides when and what is forged.
#[derive(Debug)]
pub(super) struct Forger {
    rng: Rng,
    every_us: Option<u64>,
    canary: bool,
}

impl Forger {
    pub(super) fn new(seed: u64, every_us: Option<u64>) -> Self {
        Self { rng: Rng::new(seed, Stream::Forgery, 0), every_us, canary: seed == CANARY }
    }
}

impl Cluster {
    /// Schedules the next forged message, or the canary's lie.
    pub(super) fn schedule_forgery(&mut self) {
        if self.forger.canary {
            self.schedule.after(CANARY_AFTER_US, Happening::Forge);
        } else if let Some(every_us) = self.forger.every_us {
            let delay_us = self.forger.rng.exponential(every_us);
            self.schedule.after(delay_us, Happening::Forge);
        }
    }

    /// A forged message reaches some node.
    pub(super) fn forge(&mut self) -> Verdict {
        if self.quiet || self.nodes.len() < 2 {
            return Ok(());
        }
        self.schedule_forgery();
        if self.forger.canary {
            return self.lie();
        }
        let count = self.nodes.len() as u64;
        let node = self.forger.rng.below(count);
        let peer = (node + 1 + self.forger.rng.below(count - 1)) % count;
        let (spoil, reason) = *self.forger.rng.pick(&FORGERIES);
        if !self.happens(Class::Forgery) {
            return Ok(());
        }
        let Some(running) = self.nodes[node as usize].running.as_ref() else { return Ok(()) };
        let term = running.status.term.max(1);
        let mut message = Message { from: peer + 1, to: node + 1, term, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        spoil(&mut message);
        let from = NodeId::new(peer + 1).expect("ids begin with 1");
        let process = self.process(node as usize);
        if self.give(process, Event::PeerMessage { from, message }) {
            self.counters.forged += 1;
            self.invariants.refused_as_forged.forged(node as usize, reason);
            self.note(node as usize, Step::Forge { from: peer + 1, reason });
        }
        Ok(())
    }

    /// The canary: a node that does not lead sends what only the leader of its term may send.
    fn lie(&mut self) -> Verdict {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(running) = self.nodes[leader].running.as_ref() else { return Ok(()) };
        let liar = self.process((leader + 1) % self.nodes.len());
        let (from, to) = (liar.node as u64 + 1, leader as u64 + 1);
        let mut message = Message { from, to, term: running.status.term, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        self.send(liar, vec![message]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_forgeries_are_the_same_and_none_is_an_honest_heartbeat() {
        let honest = || {
            let mut message = Message { from: 2, to: 1, term: 3, ..Message::default() };
            message.set_msg_type(MessageType::MsgHeartbeat);
            message
        };
        let forged = FORGERIES.map(|(spoil, _)| {
            let mut message = honest();
            spoil(&mut message);
            message
        });
        for (n, one) in forged.iter().enumerate() {
            assert_ne!(*one, honest());
            assert!(forged[..n].iter().all(|other| other != one), "{one:?}");
        }
    }
}
