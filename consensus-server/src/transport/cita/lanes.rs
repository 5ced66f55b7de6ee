//! What waits for one peer, and in which order it leaves.
//!
//! Two lanes, Raft messages and mail, each bounded in messages and bytes and each in its own order; they take
//! turns. All Raft messages that wait go in one envelope, up to the size of a chunk. What is larger than a
//! chunk goes piece by piece, one piece a turn, so the other lane never waits for more than a chunk; and while
//! Raft entries go piece by piece, Raft messages without entries (heartbeats, votes, answers) overtake them.
//! No clock, no tasks: [`super::sender`] decides when something leaves.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::replica::Message;
use consensus_proto::cita::exchange::{RaftBatch, envelope::Body};

use super::envelope::{Cut, Seat, Stamp, encode, envelope, overhead_bytes};
use super::{ExchangeConfig, Mail};
use crate::telemetry::metrics::DropCause;
use crate::transport::wire;

/// What waits for one peer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    raft: Lane<Message>,
    mail: Lane<Mail>,
    /// Whether a sender takes from the lanes.
    pub(super) attended: bool,
}

#[derive(Debug)]
struct Lane<T> {
    items: VecDeque<Item<T>>,
    bytes: u64,
}

#[derive(Debug)]
struct Item<T> {
    content: T,
    stamp: Stamp,
    bytes: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Lane<T> {
    fn push(&mut self, config: &ExchangeConfig, item: Item<T>) -> Result<(), DropCause> {
        if item.bytes > config.message_bytes_max {
            return Err(DropCause::TooLarge);
        }
        let full = self.items.len() >= config.queue_messages_max
            || (!self.items.is_empty() && self.bytes + item.bytes > config.queue_bytes_max);
        if full {
            return Err(DropCause::QueueFull);
        }
        self.bytes += item.bytes;
        self.items.push_back(item);
        Ok(())
    }

    /// From the front and of one stamp, what fits into `bytes_max`; at least one if any waits.
    fn take(&mut self, bytes_max: u64) -> Vec<Item<T>> {
        let (mut count, mut bytes) = (0, 0);
        for item in &self.items {
            if count > 0 && (bytes + item.bytes > bytes_max || item.stamp != self.items[0].stamp) {
                break;
            }
            count += 1;
            bytes += item.bytes;
        }
        self.bytes -= bytes;
        self.items.drain(..count).collect()
    }

    /// The same of those that are wanted, past the others.
    fn take_wanted(&mut self, bytes_max: u64, wanted: impl Fn(&T) -> bool) -> Vec<Item<T>> {
        let (overtaking, staying) = self.items.drain(..).partition(|item| wanted(&item.content));
        let mut overtaking = Self { items: overtaking, bytes: 0 };
        overtaking.bytes = overtaking.items.iter().map(|item| item.bytes).sum();
        self.items = staying;
        let taken = overtaking.take(bytes_max);
        self.bytes -= taken.iter().map(|item| item.bytes).sum::<u64>();
        // What stays behind of them is ahead of the others from now on, which it may be.
        for item in overtaking.items.into_iter().rev() {
            self.items.push_front(item);
        }
        taken
    }

    fn clear(&mut self) -> impl Iterator<Item = Item<T>> {
        self.bytes = 0;
        std::mem::take(&mut self.items).into_iter()
    }
}

impl Lanes {
    /// Queues a Raft message.
    pub(super) fn push_raft(
        &mut self,
        config: &ExchangeConfig,
        message: Message,
        stamp: Stamp,
    ) -> Result<(), DropCause> {
        let bytes = wire::queued_bytes(&message);
        self.raft.push(config, Item { content: message, stamp, bytes })
    }

    /// Queues mail.
    pub(super) fn push_mail(
        &mut self,
        config: &ExchangeConfig,
        mail: Mail,
        stamp: Stamp,
    ) -> Result<(), DropCause> {
        let bytes = mail.queued_bytes();
        self.mail.push(config, Item { content: mail, stamp, bytes })
    }

    /// Messages and bytes that wait.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.raft.items.len() + self.mail.items.len(), self.raft.bytes + self.mail.bytes)
    }

    /// Drops everything; says what it was.
    fn clear(&mut self) -> Cargo {
        let mut cargo = Cargo::default();
        self.raft.clear().for_each(|item| cargo.add_raft(&item.content, item.stamp));
        cargo.messages += self.mail.clear().count() as u64;
        cargo
    }
}

impl Waiting {
    pub(super) fn lock(&self) -> MutexGuard<'_, Lanes> {
        // Nothing panics while the lock is held.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is delivered or lost together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cargo {
    pub(super) messages: u64,
    /// Raft messages among them.
    pub(super) raft: u64,
    /// The seat that each snapshot message is of.
    pub(super) snapshots: Vec<Seat>,
}

impl Cargo {
    pub(super) fn add_raft(&mut self, message: &Message, stamp: Stamp) {
        self.messages += 1;
        self.raft += 1;
        if wire::is_snapshot(message) {
            self.snapshots.push(stamp.seat);
        }
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.messages += other.messages;
        self.raft += other.raft;
        self.snapshots.append(&mut other.snapshots);
    }
}

/// An envelope that is to leave now.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) envelope: Bytes,
    /// What is delivered with it; for a piece that is not the last of its message, nothing.
    pub(super) cargo: Cargo,
    /// Whether it is a piece.
    pub(super) piece: bool,
}

/// Makes envelopes of what waits, and numbers them.
#[derive(Debug)]
pub(super) struct Packer {
    to: NodeId,
    sequence: u64,
    cuts: u64,
    raft: Option<Whole>,
    mail: Option<Whole>,
    turn: Turn,
    /// Whether the last turn of the Raft lane was a piece.
    piece_last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Raft,
    Mail,
}

impl Turn {
    const fn other(self) -> Self {
        match self {
            Self::Raft => Self::Mail,
            Self::Mail => Self::Raft,
        }
    }
}

/// What leaves piece by piece.
#[derive(Debug)]
struct Whole {
    cut: Cut,
    stamp: Stamp,
    cargo: Cargo,
}

impl Packer {
    /// Numbers go on after `sequence`.
    pub(super) fn new(to: NodeId, sequence: u64) -> Self {
        let turn = Turn::Raft;
        Self { to, sequence, cuts: sequence, raft: None, mail: None, turn, piece_last: false }
    }

    /// The last number that it gave.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.max(self.cuts)
    }

    /// The envelope that leaves next, if anything waits.
    pub(super) fn next(&mut self, config: &ExchangeConfig, waiting: &Waiting) -> Option<Parcel> {
        for turn in [self.turn, self.turn.other()] {
            let parcel = match turn {
                Turn::Raft => self.next_raft(config, waiting),
                Turn::Mail => self.next_mail(config, waiting),
            };
            if parcel.is_some() {
                self.turn = turn.other();
                return parcel;
            }
        }
        None
    }

    fn next_raft(&mut self, config: &ExchangeConfig, waiting: &Waiting) -> Option<Parcel> {
        let Some(mut whole) = self.raft.take() else {
            let items = waiting.lock().raft.take(config.chunk_bytes);
            return self.pack_raft(config, items);
        };
        if std::mem::take(&mut self.piece_last) {
            let items =
                waiting.lock().raft.take_wanted(config.chunk_bytes, |message| !wire::is_of_log(message));
            if !items.is_empty() {
                let parcel = self.pack_raft(config, items);
                self.raft = Some(whole);
                return parcel;
            }
        }
        self.piece_last = true;
        let (parcel, last) = self.piece(config, &mut whole);
        self.raft = (!last).then_some(whole);
        Some(parcel)
    }

    fn pack_raft(&mut self, config: &ExchangeConfig, items: Vec<Item<Message>>) -> Option<Parcel> {
        let stamp = items.first()?.stamp;
        let mut cargo = Cargo::default();
        let pack = |item: Item<Message>| {
            cargo.add_raft(&item.content, item.stamp);
            wire::encode(item.content)
        };
        let messages = items.into_iter().map(pack).collect();
        let envelope = self.seal(config, stamp, Body::Raft(RaftBatch { messages }));
        if fits(config, &envelope) {
            return Some(Parcel { envelope, cargo, piece: false });
        }
        let mut whole = self.cut(config, envelope, stamp, cargo);
        self.piece_last = true;
        let (parcel, last) = self.piece(config, &mut whole);
        self.raft = (!last).then_some(whole);
        Some(parcel)
    }

    fn next_mail(&mut self, config: &ExchangeConfig, waiting: &Waiting) -> Option<Parcel> {
        let mut whole = match self.mail.take() {
            Some(whole) => whole,
            None => {
                let item = waiting.lock().mail.take(0).pop()?;
                let envelope = self.seal(config, item.stamp, item.content.into_body());
                let cargo = Cargo { messages: 1, ..Cargo::default() };
                if fits(config, &envelope) {
                    return Some(Parcel { envelope, cargo, piece: false });
                }
                self.cut(config, envelope, item.stamp, cargo)
            }
        };
        let (parcel, last) = self.piece(config, &mut whole);
        self.mail = (!last).then_some(whole);
        Some(parcel)
    }

    fn cut(&mut self, config: &ExchangeConfig, envelope: Bytes, stamp: Stamp, cargo: Cargo) -> Whole {
        self.cuts += 1;
        Whole { cut: Cut::new(envelope, self.cuts, config.chunk_bytes), stamp, cargo }
    }

    /// The next piece; the last one takes the cargo along.
    fn piece(&mut self, config: &ExchangeConfig, whole: &mut Whole) -> (Parcel, bool) {
        let (part, last) = whole.cut.piece();
        let envelope = self.seal(config, whole.stamp, Body::Part(part));
        let cargo = if last { std::mem::take(&mut whole.cargo) } else { Cargo::default() };
        (Parcel { envelope, cargo, piece: true }, last)
    }

    fn seal(&mut self, config: &ExchangeConfig, stamp: Stamp, body: Body) -> Bytes {
        self.sequence += 1;
        encode(&envelope(config, self.to, stamp, self.sequence, body))
    }

    /// Gives up everything that waits or is under way; says what it was.
    pub(super) fn clear(&mut self, waiting: &Waiting) -> Cargo {
        let mut cargo = waiting.lock().clear();
        for whole in [self.raft.take(), self.mail.take()].into_iter().flatten() {
            cargo.append(whole.cargo);
        }
        cargo
    }
}

/// Whether an envelope goes in one.
fn fits(config: &ExchangeConfig, envelope: &Bytes) -> bool {
    envelope.len() as u64 <= config.chunk_bytes + overhead_bytes(&config.chain)
}

#[cfg(test)]
mod tests {
    use consensus_core::ids::StoreIncarnation;
    use consensus_core::replica::eraftpb::{Entry, MessageType};
    use consensus_proto::cita::exchange::{Candidate, Envelope, Report};
    use prost::Message as _;

    use super::*;

    const CHUNK: u64 = 1000;

    struct World {
        config: ExchangeConfig,
        waiting: Waiting,
        packer: Packer,
    }

    fn stamp(of: u8) -> Stamp {
        Stamp { seat: Seat { incarnation: StoreIncarnation([of; 16]), group: None }, to: None }
    }

    fn message(kind: MessageType, bytes: usize) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        if bytes > 0 {
            message.set_entries(vec![Entry { data: vec![0; bytes].into(), ..Entry::default() }].into());
        }
        message
    }

    impl World {
        fn new() -> Self {
            let mut config = ExchangeConfig::testing(1, CHUNK);
            config.message_bytes_max = 100_000;
            let packer = Packer::new(NodeId::new(2).expect("not 0"), 0);
            Self { config, waiting: Waiting::default(), packer }
        }

        fn raft(&self, kind: MessageType, bytes: usize) -> Result<(), DropCause> {
            self.waiting.lock().push_raft(&self.config, message(kind, bytes), stamp(1))
        }

        fn mail(&self, bytes: usize) -> Result<(), DropCause> {
            let candidate = Candidate { data: vec![0; bytes].into(), ..Candidate::default() };
            self.waiting.lock().push_mail(&self.config, Mail::Candidate(candidate), stamp(1))
        }

        /// What leaves, in words.
        fn all(&mut self) -> Vec<String> {
            let mut all = Vec::new();
            let mut sequence = self.packer.sequence;
            while let Some(parcel) = self.packer.next(&self.config, &self.waiting) {
                let envelope = Envelope::decode(parcel.envelope).expect("sound");
                assert!(envelope.sequence > sequence);
                sequence = envelope.sequence;
                all.push(match envelope.body.expect("there") {
                    Body::Raft(batch) => format!("raft {}", batch.messages.len()),
                    Body::Part(part) => format!("part {}/{} of {}", part.index + 1, part.count, part.message),
                    Body::Candidate(_) => "candidate".to_owned(),
                    other => format!("{other:?}"),
                });
            }
            all
        }
    }

    #[test]
    fn all_raft_messages_that_wait_go_in_one_envelope_up_to_a_chunk() {
        let mut world = World::new();
        for _ in 0..3 {
            world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        }
        assert_eq!(world.all(), ["raft 3"]);
        for _ in 0..5 {
            world.raft(MessageType::MsgAppend, 200).expect("fits");
        }
        assert_eq!(world.all(), ["raft 2", "raft 2", "raft 1"]);
        assert_eq!(world.waiting.lock().size(), (0, 0));
    }

    #[test]
    fn messages_of_different_seats_never_share_an_envelope() {
        let mut world = World::new();
        for of in [1, 1, 2, 1] {
            let heartbeat = message(MessageType::MsgHeartbeat, 0);
            world.waiting.lock().push_raft(&world.config, heartbeat, stamp(of)).expect("fits");
        }
        assert_eq!(world.all(), ["raft 2", "raft 1", "raft 1"]);
    }

    #[test]
    fn a_heartbeat_leaves_between_the_pieces_of_a_large_candidate() {
        let mut world = World::new();
        world.mail(2500).expect("fits");
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        assert_eq!(world.all(), ["raft 1", "part 1/3 of 1", "part 2/3 of 1", "part 3/3 of 1"]);
        world.mail(2500).expect("fits");
        assert!(world.packer.next(&world.config, &world.waiting).expect("a piece").piece);
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        assert_eq!(world.all(), ["raft 1", "part 2/3 of 2", "part 3/3 of 2"]);
    }

    #[test]
    fn a_heartbeat_overtakes_large_entries_but_other_entries_do_not() {
        let mut world = World::new();
        world.raft(MessageType::MsgAppend, 2500).expect("fits");
        world.raft(MessageType::MsgAppend, 10).expect("fits");
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        assert_eq!(
            world.all(),
            ["part 1/3 of 1", "raft 1", "part 2/3 of 1", "part 3/3 of 1", "raft 1"],
            "the heartbeat, then the rest"
        );
    }

    #[test]
    fn mail_keeps_its_order() {
        let mut world = World::new();
        world.mail(2500).expect("fits");
        world
            .waiting
            .lock()
            .push_mail(&world.config, Mail::Report(Report::default()), stamp(1))
            .expect("fits");
        world.mail(1).expect("fits");
        let all = world.all();
        assert_eq!(all.len(), 5, "{all:?}");
        assert!(all[2].starts_with("part 3/3") && all[3].starts_with("Report") && all[4] == "candidate");
    }

    #[test]
    fn each_lane_is_bounded_in_messages_and_bytes() {
        let mut world = World::new();
        world.config.queue_messages_max = 2;
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        assert_eq!(world.raft(MessageType::MsgHeartbeat, 0), Err(DropCause::QueueFull));
        world.config.queue_bytes_max = 5000;
        world.mail(4000).expect("the other lane has its own bounds");
        assert_eq!(world.mail(2000), Err(DropCause::QueueFull));
        assert_eq!(world.mail(100_000), Err(DropCause::TooLarge));
        world.all();
        world.mail(20_000).expect("one always fits where nothing waits");
    }

    #[test]
    fn what_is_given_up_is_told_with_its_snapshots() {
        let mut world = World::new();
        world.raft(MessageType::MsgSnapshot, 3000).expect("fits");
        world.mail(1).expect("fits");
        world.raft(MessageType::MsgSnapshot, 1).expect("fits");
        world.raft(MessageType::MsgHeartbeat, 0).expect("fits");
        let first = world.packer.next(&world.config, &world.waiting).expect("a piece");
        assert_eq!(first.cargo, Cargo::default());
        let lost = world.packer.clear(&world.waiting);
        assert_eq!((lost.messages, lost.raft, lost.snapshots.len()), (4, 3, 2));
        assert_eq!(world.all(), [""; 0]);
    }
}
