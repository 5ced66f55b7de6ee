//! Envelopes between the consensus services of a CITA-Cloud chain: valid ones, changed ones, pieces in any order
//! and number, pieces that contradict each other, and bytes out of nowhere.
//!
//! A second opinion says which envelopes must not pass and which letters may come of them. No envelope passes
//! twice, and what is kept in memory stays within what the exchange promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::limits::Limits;
use consensus_proto::cita::exchange::{
    Candidate, Dismissal, Envelope, Founding, Hello, Invitation, Part, RaftBatch, Report as HeightReport,
    Seat, Verdict, VoidPromise, VoidRequest, envelope::Body,
};
use consensus_proto::raft as wire;
use consensus_server::application::ledger::LedgerOptions;
use consensus_server::telemetry::Metrics;
use consensus_server::telemetry::metrics::ExchangeMetrics;
use consensus_server::transport::cita::{Carrier, Exchange, ExchangeConfig, GroupId, Letter, Mail};
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::mpsc;

use super::draws::Draws;
use super::heap::{in_use, peak_of};
use super::rig::Node;

const CHAIN: Bytes = Bytes::from_static(&[9; 32]);
const GROUP: [u8; 16] = [7; 16];
const MESSAGE_BYTES_MAX: u64 = 32 << 10;
/// Of the pieces that this node would send, which bounds none that it takes.
const CHUNK_BYTES: u64 = 4 << 10;
/// A fresh exchange after so many inputs.
const INPUTS_MAX: usize = 300;
/// What may be kept: pieces (six of the largest messages), peers and their counters, the log of the chain.
const KEPT_BYTES_MAX: usize = 6 * MESSAGE_BYTES_MAX as usize + (6 << 20);
/// Memory while one envelope is judged.
const JUDGED_BYTES_MAX: usize = 24 * MESSAGE_BYTES_MAX as usize + (1 << 20);

/// What runs came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) envelopes: u64,
    pub(crate) passed: u64,
    pub(crate) letters: u64,
    pub(crate) from_pieces: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.envelopes += other.envelopes;
        self.passed += other.passed;
        self.letters += other.letters;
        self.from_pieces += other.from_pieces;
    }
}

/// Takes nothing anywhere.
struct Nowhere;

impl Carrier for Nowhere {
    fn carry(&self, _to: NodeId, _origin: u64, _envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn announce(&self, _envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// Who sent pieces of what: sender, store, session, message.
type Key = (u64, Bytes, u64, u64);

/// Node 1 of three, with a chain; nodes 2 and 3 are what the bytes say.
struct Seated {
    node: Node,
    exchange: Arc<Exchange>,
    letters: mpsc::Receiver<Letter>,
    /// What passed, by sender, store, session and number.
    passed: BTreeSet<(u64, Bytes, u64, u64)>,
    /// The newest piece of each position.
    pieces: BTreeMap<Key, BTreeMap<u32, Part>>,
    in_use: usize,
}

impl Seated {
    fn start(message_bytes_max: u64) -> Self {
        let node = Node::start(&[1, 2, 3], Limits::default(), LedgerOptions::default());
        let config = ExchangeConfig {
            node: id(1),
            chain: CHAIN,
            session: 1,
            message_bytes_max,
            chunk_bytes: CHUNK_BYTES,
            queue_messages_max: 16,
            queue_bytes_max: 4 * message_bytes_max,
        };
        let metrics = ExchangeMetrics::new(&Metrics::new(1), "main");
        let (exchange, letters) = Exchange::new(config, Arc::new(Nowhere), metrics);
        exchange.take_seat(store(1), Some(GroupId(GROUP)));
        exchange.set_roster(Some((1..=3).map(|node| (id(node), store(node))).collect()));
        exchange.attach(Some(node.chain().clone()));
        let (passed, pieces) = (BTreeSet::new(), BTreeMap::new());
        Self { node, exchange, letters, passed, pieces, in_use: in_use() }
    }

    /// One arrival, and what must be true of it.
    fn receive(&mut self, draws: &mut Draws<'_>, encoded: Vec<u8>, report: &mut Report) {
        let origin = draws.pick(&[0, 2, 3, 77]);
        let bytes = encoded.len();
        let envelope = Envelope::decode(&*encoded);
        let (passed, heap) = peak_of(|| self.exchange.receive(origin, encoded.into()));
        assert!(heap <= JUDGED_BYTES_MAX, "{heap} bytes of memory to judge an envelope of {bytes}");
        report.envelopes += 1;
        report.passed += u64::from(passed);
        let letter = self.letters.try_recv().ok();
        assert!(self.letters.try_recv().is_err(), "two letters from one envelope");
        let Ok(envelope) = envelope else {
            assert!(!passed && letter.is_none(), "what cannot be read has passed");
            return;
        };
        if let Some(why) = must_not_pass(&envelope, bytes as u64) {
            assert!(!passed, "{why}, and yet it passed: {envelope:?}");
        }
        if !passed {
            assert!(letter.is_none(), "a letter from what was refused");
            return;
        }
        if envelope.to != 0 {
            let number =
                (envelope.from, envelope.from_incarnation.clone(), envelope.session, envelope.sequence);
            assert!(self.passed.insert(number), "passed twice: {envelope:?}");
        }
        if let Some(letter) = letter {
            report.letters += 1;
            self.is_by_its_sender(&envelope, &letter, report);
        } else if let Some(Body::Part(part)) = &envelope.body {
            let of = self.pieces.entry(key(&envelope, part.message)).or_default();
            of.insert(part.index, part.clone());
        } else {
            assert!(matches!(envelope.body, Some(Body::Raft(_))), "no letter came of {envelope:?}");
        }
    }

    /// A letter says what its sender said, in the envelope or in the pieces before.
    fn is_by_its_sender(&mut self, envelope: &Envelope, letter: &Letter, report: &mut Report) {
        assert_eq!(letter.from.get(), envelope.from);
        assert_eq!(letter.incarnation.0, *envelope.from_incarnation);
        assert_eq!(letter.group.map_or(Bytes::new(), |group| group.0.to_vec().into()), envelope.group);
        let Some(Body::Part(last)) = &envelope.body else {
            assert_eq!(Some(&body_of(&letter.mail)), envelope.body.as_ref());
            return;
        };
        report.from_pieces += 1;
        let mut pieces = self.pieces.remove(&key(envelope, last.message)).unwrap_or_default();
        pieces.insert(last.index, last.clone());
        // Of an earlier beginning that was given up there may be some behind the last one.
        pieces.split_off(&last.count);
        assert_eq!(pieces.len(), last.count as usize, "not all pieces have come");
        let whole: Vec<u8> = pieces.values().flat_map(|piece| piece.data.to_vec()).collect();
        let whole = Envelope::decode(&*whole).expect("an envelope in pieces");
        assert_eq!(Some(&body_of(&letter.mail)), whole.body.as_ref());
        assert_eq!((whole.from, &whole.from_incarnation), (envelope.from, &envelope.from_incarnation));
    }

    fn is_whole(&self) {
        let own: usize =
            self.pieces.values().flat_map(BTreeMap::values).map(|part| part.data.len() + 200).sum();
        let kept = in_use().saturating_sub(self.in_use + own + 200 * self.passed.len());
        assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes are kept, more than {KEPT_BYTES_MAX}");
        let status = self.node.chain().status();
        let halted = status.halted.clone().unwrap_or_default();
        assert!(!halted.contains("panic"), "{halted}");
    }
}

fn key(envelope: &Envelope, message: u64) -> Key {
    (envelope.from, envelope.from_incarnation.clone(), envelope.session, message)
}

/// Why an envelope must be refused, whatever came before it.
fn must_not_pass(envelope: &Envelope, bytes: u64) -> Option<&'static str> {
    let is_id = |bytes: &Bytes| bytes.is_empty() || bytes.len() == 16;
    let Some(body) = &envelope.body else { return Some("nothing is in it") };
    let for_all = envelope.to == 0 && matches!(body, Body::Hello(_));
    let rules = [
        (bytes <= MESSAGE_BYTES_MAX + 512, "it is too large"),
        (envelope.version == 1, "another version"),
        (envelope.from > 1, "from nobody, or from this node"),
        (envelope.to == 1 || for_all, "for another node"),
        (envelope.chain.is_empty() || envelope.chain == CHAIN, "of another chain"),
        (envelope.from_incarnation.len() == 16, "from no store"),
        (is_id(&envelope.to_incarnation) && is_id(&envelope.group), "an id of another length"),
        (envelope.to_incarnation.is_empty() || *envelope.to_incarnation == store(1).0, "for another store"),
        (for_all || envelope.sequence > 0, "without a number"),
    ];
    let broken = rules.into_iter().find(|(holds, _)| !holds).map(|(_, why)| why);
    broken.or_else(|| match body {
        Body::Raft(batch) => raft_must_not_pass(envelope, batch),
        Body::Part(part) => {
            let sound = part.index < part.count
                && part.bytes <= MESSAGE_BYTES_MAX + 512
                && (1..=part.bytes).contains(&(part.data.len() as u64));
            (!sound).then_some("a piece of nothing")
        }
        _ => None,
    })
}

/// Of a member's other store only what leaders say and requests for votes are heard, the rest is left out.
fn raft_must_not_pass(envelope: &Envelope, batch: &RaftBatch) -> Option<&'static str> {
    // Append, snapshot, heartbeat, and the request to stand for election at once; both requests for a vote.
    let of_any_store = |message: &&wire::Message| matches!(message.msg_type, 3 | 7 | 8 | 14 | 5 | 17);
    let member = (2..=3).contains(&envelope.from);
    let another_store = member && *envelope.from_incarnation != store(envelope.from).0;
    let heard: Vec<&wire::Message> =
        batch.messages.iter().filter(|message| !another_store || of_any_store(message)).collect();
    let rules = [
        (*envelope.group == GROUP, "another group"),
        (*envelope.to_incarnation == store(1).0, "for no store"),
        (!another_store || !heard.is_empty(), "from another store of a member"),
        (heard.iter().all(|message| message.from == envelope.from && message.to == 1), "messages of others"),
        (heard.iter().all(|message| (0..=18).contains(&message.msg_type)), "unknown messages"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, why)| why)
}

fn body_of(mail: &Mail) -> Body {
    match mail.clone() {
        Mail::Hello(hello) => Body::Hello(hello),
        Mail::Founding(founding) => Body::Founding(founding),
        Mail::Invitation(invitation) => Body::Invitation(invitation),
        Mail::Dismissal(dismissal) => Body::Dismissal(dismissal),
        Mail::Candidate(candidate) => Body::Candidate(candidate),
        Mail::Verdict(verdict) => Body::Verdict(verdict),
        Mail::Report(report) => Body::Report(report),
        Mail::VoidRequest(request) => Body::VoidRequest(request),
        Mail::VoidPromise(promise) => Body::VoidPromise(promise),
    }
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).expect("not 0")
}

fn store(node: u64) -> StoreIncarnation {
    StoreIncarnation([node as u8; 16])
}

/// The exchange under fuzz.
pub(crate) struct Target {
    seated: Seated,
    inputs: usize,
    /// Ascending, as a sender's are.
    sequence: u64,
    session: u64,
    message: u64,
}

impl Target {
    pub(crate) fn new() -> Self {
        Self { seated: Seated::start(MESSAGE_BYTES_MAX), inputs: 0, sequence: 0, session: 5, message: 0 }
    }

    /// Envelopes until the bytes are used up.
    pub(crate) fn run(&mut self, bytes: &[u8]) -> Report {
        self.inputs += 1;
        if self.inputs > INPUTS_MAX {
            *self = Self::new();
        }
        let _within = self.seated.node.runtime.handle().clone();
        let _within = _within.enter();
        let mut report = Report::default();
        let mut draws = Draws::new(bytes);
        while !draws.is_empty() {
            match draws.below(8) {
                0 => {
                    let bytes = draws.bytes();
                    self.seated.receive(&mut draws, bytes.to_vec(), &mut report);
                }
                1..=3 => self.pieces(&mut draws, &mut report),
                _ => {
                    let body = body(&mut draws);
                    let envelope = self.envelope(&mut draws, body);
                    self.send(&mut draws, &envelope, &mut report);
                }
            }
            self.seated.is_whole();
        }
        report
    }

    /// Right in all but a few fields.
    fn envelope(&mut self, draws: &mut Draws<'_>, body: Body) -> Envelope {
        self.sequence += 1;
        let from = draws.pick(&[2, 2, 2, 3, 3, 99]);
        let mut envelope = Envelope {
            version: 1,
            chain: CHAIN,
            from,
            to: 1,
            from_incarnation: store(from).0.to_vec().into(),
            to_incarnation: store(1).0.to_vec().into(),
            group: GROUP.to_vec().into(),
            session: self.session,
            sequence: self.sequence,
            body: Some(body),
        };
        if let Some(Body::Raft(batch)) = &mut envelope.body {
            batch.messages.iter_mut().filter(|message| message.from == 2).for_each(|m| m.from = from);
        }
        if !draws.chance(96) {
            return envelope;
        }
        match draws.below(12) {
            0 => envelope.version = draws.near(&[1]) as u32,
            1 => envelope.from = draws.near(&[0, 1, 2, 3]),
            2 => envelope.to = draws.near(&[0, 1, 2]),
            3 => envelope.chain = draws.bytes(),
            4 => envelope.from_incarnation = draws.bytes(),
            5 => envelope.from_incarnation = vec![draws.pick(&[1, 2, 3, 4]); 16].into(),
            6 => envelope.to_incarnation = draws.bytes(),
            7 => envelope.group = draws.bytes(),
            8 => envelope.session = draws.near(&[self.session]),
            9 => envelope.sequence = draws.near(&[0, self.sequence, self.sequence.saturating_sub(1024)]),
            10 => envelope.body = None,
            _ => envelope.chain = Bytes::new(),
        }
        if envelope.session != self.session || envelope.sequence > self.sequence {
            // The sender starts anew, or nothing of it would be heard any more.
            self.session += 1000;
        }
        envelope
    }

    /// Encoded, at times with some bytes changed, and at times twice.
    fn send(&mut self, draws: &mut Draws<'_>, envelope: &Envelope, report: &mut Report) {
        let mut encoded = envelope.encode_to_vec();
        if draws.chance(32) {
            for _ in 0..=draws.below(3) {
                let at = draws.number() as usize % (encoded.len() + 1);
                match draws.below(4) {
                    0 => encoded.truncate(at),
                    1 => encoded.insert(at, draws.byte()),
                    2 => {
                        let tail = encoded[at / 2..at].to_vec();
                        encoded.splice(at..at, tail);
                    }
                    _ if at < encoded.len() => encoded[at] = draws.byte(),
                    _ => {}
                }
            }
        }
        let again = draws.chance(16).then(|| encoded.clone());
        self.seated.receive(draws, encoded, report);
        if let Some(again) = again {
            self.seated.receive(draws, again, report);
        }
    }

    /// An envelope in pieces; in another order, some twice or not at all, some that tell something else.
    fn pieces(&mut self, draws: &mut Draws<'_>, report: &mut Report) {
        let body = body(draws);
        let whole = self.envelope(draws, body);
        let encoded: Bytes = whole.encode_to_vec().into();
        let count = 1 + draws.below(6);
        let size = encoded.len().div_ceil(count);
        self.message += u64::from(!draws.chance(24));
        let mut pieces: Vec<Part> = (0..encoded.len())
            .step_by(size)
            .zip(0..)
            .map(|(begin, index)| Part {
                message: self.message,
                index,
                count: encoded.len().div_ceil(size) as u32,
                bytes: encoded.len() as u64,
                data: encoded.slice(begin..(begin + size).min(encoded.len())),
            })
            .collect();
        for at in 0..pieces.len() {
            let other = draws.below(pieces.len());
            if draws.chance(64) {
                pieces.swap(at, other);
            }
            if draws.chance(6) {
                pieces[at] = pieces[other].clone();
            }
            if draws.chance(6) {
                lie(draws, &mut pieces[at]);
            }
        }
        if draws.chance(24) {
            pieces.pop();
        }
        let honest = !draws.chance(24);
        for piece in pieces {
            let mut envelope = self.envelope(draws, Body::Part(piece));
            if honest {
                let Envelope { from, from_incarnation, to_incarnation, group, session, .. } = whole.clone();
                let sequence = self.sequence;
                let body = envelope.body.take();
                envelope = Envelope {
                    from,
                    from_incarnation,
                    to_incarnation,
                    group,
                    session,
                    sequence,
                    body,
                    version: 1,
                    chain: CHAIN,
                    to: 1,
                };
            }
            self.send(draws, &envelope, report);
        }
    }
}

fn lie(draws: &mut Draws<'_>, part: &mut Part) {
    match draws.below(5) {
        0 => part.index = draws.near(&[0, u64::from(part.count)]) as u32,
        1 => part.count = draws.near(&[0, u64::from(part.count), 65_536]) as u32,
        2 => part.bytes = draws.near(&[part.bytes, MESSAGE_BYTES_MAX]),
        3 => part.message = draws.near(&[part.message]),
        _ => part.data = draws.bytes(),
    }
}

fn body(draws: &mut Draws<'_>) -> Body {
    let numbers = |draws: &mut Draws<'_>| (0..draws.below(6)).map(|_| draws.number()).collect();
    let seats = |draws: &mut Draws<'_>| {
        (0..draws.below(6)).map(|_| Seat { node_id: draws.number(), incarnation: draws.bytes() }).collect()
    };
    match draws.below(12) {
        0..=2 => Body::Raft(raft(draws)),
        3 => Body::Hello(Hello { validators: numbers(draws), height: draws.number(), ..Hello::default() }),
        4 => {
            Body::Founding(Founding { group: draws.bytes(), voters: numbers(draws), founders: seats(draws) })
        }
        5 => Body::Invitation(Invitation { roster: seats(draws) }),
        6 => Body::Dismissal(Dismissal { index: draws.number() }),
        7 => {
            let size = draws.pick(&[0, 100, 5000, 30_000, 33_000]);
            let data = vec![draws.byte(); size].into();
            let (term, height) = (draws.number(), draws.number());
            Body::Candidate(Candidate { term, number: 1, height, data, ..Candidate::default() })
        }
        8 => Body::Verdict(Verdict { term: 1, number: draws.number(), code: 0, height: 5 }),
        9 => Body::Report(HeightReport { height: draws.number(), ..HeightReport::default() }),
        10 => Body::VoidRequest(VoidRequest { term: 1, from_height: draws.number(), upto_index: 3 }),
        _ => Body::VoidPromise(VoidPromise { from_height: 2, upto_index: draws.number(), height: 3 }),
    }
}

/// Messages of node 2 (or of the envelope's sender) for node 1.
fn raft(draws: &mut Draws<'_>) -> RaftBatch {
    let message = |draws: &mut Draws<'_>| wire::Message {
        msg_type: draws.near(&[3, 4, 5, 6, 8, 9, 17, 18]) as i32,
        from: if draws.chance(6) { draws.number() } else { 2 },
        to: if draws.chance(6) { draws.number() } else { 1 },
        term: draws.near(&[1, 2]),
        index: draws.near(&[0, 1, 2]),
        log_term: draws.near(&[0, 1]),
        commit: draws.near(&[0, 1]),
        entries: (0..draws.below(3))
            .map(|at| wire::Entry {
                index: at as u64 + 1,
                term: 1,
                data: draws.bytes(),
                ..wire::Entry::default()
            })
            .collect(),
        ..wire::Message::default()
    };
    RaftBatch { messages: (0..draws.below(4)).map(|_| message(draws)).collect() }
}

/// Encoded envelopes as large as may be that hold as many things as they can.
pub(crate) fn many_small_things() {
    const BYTES: usize = 16 << 20;
    let mut seated = Seated::start(BYTES as u64);
    let _within = seated.node.runtime.handle().clone();
    let _within = _within.enter();
    // A field's number, and the length of what is in it.
    let field = |number: u64, bytes: &[u8]| {
        let mut encoded = Vec::with_capacity(bytes.len() + 12);
        prost::encoding::encode_key(number as u32, prost::encoding::WireType::LengthDelimited, &mut encoded);
        prost::encoding::encode_varint(bytes.len() as u64, &mut encoded);
        encoded.extend_from_slice(bytes);
        encoded
    };
    let (numbers, empty_fields) =
        (vec![1; BYTES - 1000], |tag: u8| [tag << 3 | 2, 0].repeat(BYTES / 2 - 500));
    // Messages, entries, members of a snapshot, validators, voters, founders, members.
    let member_lists =
        (1..=4).map(|list| field(11, &field(1, &field(9, &field(2, &field(1, &field(list, &numbers)))))));
    let mut bodies: Vec<Vec<u8>> = vec![
        field(11, &empty_fields(1)),
        field(11, &field(1, &empty_fields(7))),
        field(12, &field(1, &numbers)),
        field(13, &field(2, &numbers)),
        field(13, &empty_fields(3)),
        field(14, &empty_fields(1)),
        empty_fields(11),
        empty_fields(15),
    ];
    bodies.extend(member_lists);
    for (position, body) in bodies.into_iter().enumerate() {
        let head = Envelope {
            version: 1,
            from: 2,
            to: 1,
            from_incarnation: store(2).0.to_vec().into(),
            to_incarnation: store(1).0.to_vec().into(),
            group: GROUP.to_vec().into(),
            session: 5,
            sequence: 1 + position as u64,
            ..Envelope::default()
        };
        let encoded: Bytes = [head.encode_to_vec(), body].concat().into();
        let bytes = encoded.len();
        let (_, heap) = peak_of(|| seated.exchange.receive(0, encoded));
        println!("kind {position}: {bytes} bytes took {heap} bytes of memory");
        assert!(heap <= 3 * bytes, "kind {position}: {heap} bytes of memory for {bytes}");
        while seated.letters.try_recv().is_ok() {}
    }
}
