//! What is refused, and by which name.

use consensus_proto::cita::exchange::{Hello, Part, RaftBatch, envelope::Body};
use consensus_proto::raft as wire;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::envelope::encode;
use super::*;

/// Node 1, which nobody reaches but by hand.
fn alone() -> (Node, Arc<Hub>) {
    let hub = Arc::new(Hub::default());
    (Node::seated(ExchangeConfig::testing(1, MIB), hub.clone()), hub)
}

/// From node 2 to node 1.
fn envelope(session: u64, sequence: u64, body: Body) -> Envelope {
    let mut config = ExchangeConfig::testing(2, MIB);
    config.session = session;
    let seat = Seat { incarnation: store(2), group: Some(GROUP) };
    super::super::envelope::envelope(&config, id(1), Stamp { seat, to: Some(store(1)) }, sequence, body)
}

/// What any member may say.
fn raft(index: u64) -> Body {
    batch(&[wire::MessageType::AppendResponse], index)
}

fn batch(kinds: &[wire::MessageType], index: u64) -> Body {
    let message = |kind: &_| wire::Message {
        msg_type: *kind as i32,
        from: 2,
        to: 1,
        index,
        ..wire::Message::default()
    };
    Body::Raft(RaftBatch { messages: kinds.iter().map(message).collect() })
}

fn letter() -> Body {
    report(5).into_body()
}

#[test]
fn each_refusal_has_its_name() {
    type Change = fn(&mut Envelope);
    let cases: [(Refused, Change); 17] = [
        (Refused::Version, |envelope| envelope.version = 2),
        (Refused::Receiver, |envelope| envelope.to = 3),
        (Refused::Receiver, |envelope| envelope.to = 0),
        (Refused::Sender, |envelope| envelope.from = 0),
        (Refused::Loopback, |envelope| (envelope.from, envelope.to) = (1, 0)),
        (Refused::Chain, |envelope| envelope.chain = Bytes::from_static(b"another")),
        (Refused::Malformed, |envelope| envelope.from_incarnation = Bytes::new()),
        (Refused::Malformed, |envelope| envelope.to_incarnation = Bytes::from_static(b"short")),
        (Refused::Malformed, |envelope| envelope.group = Bytes::from_static(b"short")),
        (Refused::Malformed, |envelope| envelope.sequence = 0),
        (Refused::Malformed, |envelope| envelope.body = None),
        (Refused::Group, |envelope| envelope.group = Bytes::new()),
        (Refused::Group, |envelope| envelope.group = Bytes::from_static(&[8; 16])),
        (Refused::SenderStore, |envelope| envelope.from_incarnation = Bytes::from_static(&[9; 16])),
        (Refused::ReceiverStore, |envelope| envelope.to_incarnation = Bytes::from_static(&[9; 16])),
        (Refused::ReceiverStore, |envelope| envelope.to_incarnation = Bytes::new()),
        (Refused::Part, |envelope| {
            let part = Part { message: 1, index: 0, count: 1, bytes: 5, data: Bytes::from_static(b"abc") };
            envelope.body = Some(Body::Part(part));
        }),
    ];
    for (number, (cause, change)) in cases.into_iter().enumerate() {
        let (node, _hub) = alone();
        let mut changed = envelope(1, 1, raft(1));
        change(&mut changed);
        assert!(!node.exchange.receive(0, encode(&changed)), "case {number}");
        for known in Refused::ALL {
            let count = u64::from(known == cause);
            assert_eq!(node.metrics.refused_count(known), count, "case {number}: {}", known.as_str());
        }
        assert!(node.exchange.receive(0, encode(&envelope(1, 2, raft(1)))), "case {number} left no trace");
    }
}

#[test]
fn messages_in_an_envelope_are_of_its_sender_and_for_this_node() {
    for (from, to, msg_type) in [(3, 1, 8), (2, 3, 8), (2, 1, 77)] {
        let (node, _hub) = alone();
        let message = wire::Message { msg_type, from, to, ..wire::Message::default() };
        let body = Body::Raft(RaftBatch { messages: vec![message] });
        assert!(!node.exchange.receive(0, encode(&envelope(1, 1, body))));
        assert_eq!(node.metrics.refused_count(Refused::Malformed), 1);
        assert!(node.chain.seen.lock().unwrap().messages.is_empty());
    }
}

#[test]
fn a_chain_that_one_side_does_not_know_is_no_difference() {
    let (node, _hub) = alone();
    let mut nameless = envelope(1, 1, letter());
    nameless.chain = Bytes::new();
    assert!(node.exchange.receive(0, encode(&nameless)));
}

#[test]
fn letters_pass_whatever_the_group_and_the_store_of_their_sender() {
    let (mut node, _hub) = alone();
    let mut stranger = envelope(1, 1, letter());
    stranger.from = 99;
    stranger.from_incarnation = Bytes::from_static(&[9; 16]);
    stranger.to_incarnation = Bytes::new();
    stranger.group = Bytes::new();
    assert!(node.exchange.receive(0, encode(&stranger)));
    let letter = node.letters.try_recv().expect("there");
    assert_eq!((letter.from, letter.incarnation, letter.group), (id(99), StoreIncarnation([9; 16]), None));
    assert_eq!(letter.mail, report(5));
}

#[test]
fn what_comes_twice_passes_once() {
    let (node, _hub) = alone();
    for sequence in [1, 3, 2] {
        assert!(node.exchange.receive(0, encode(&envelope(1, sequence, raft(sequence)))));
        assert!(!node.exchange.receive(0, encode(&envelope(1, sequence, raft(sequence)))));
    }
    assert_eq!(node.metrics.refused_count(Refused::Duplicate), 3);
    assert_eq!(node.chain.seen.lock().unwrap().messages.len(), 3);
}

#[test]
fn a_restarted_sender_is_heard_and_what_is_late_of_the_one_before_is_not() {
    let (node, _hub) = alone();
    assert!(node.exchange.receive(0, encode(&envelope(70, 500, raft(1)))));
    assert!(node.exchange.receive(0, encode(&envelope(7, 1, raft(2)))));
    assert!(!node.exchange.receive(0, encode(&envelope(70, 501, raft(3)))));
    assert_eq!(node.metrics.refused_count(Refused::OldSession), 1);
    assert!(node.exchange.receive(0, encode(&envelope(7, 2, raft(4)))));
}

#[test]
fn a_changed_roster_takes_effect_at_once() {
    let (node, _hub) = alone();
    assert!(node.exchange.receive(0, encode(&envelope(1, 1, raft(1)))));
    node.exchange.set_roster(Some(BTreeMap::from([(id(2), StoreIncarnation([5; 16]))])));
    assert!(!node.exchange.receive(0, encode(&envelope(1, 2, raft(2)))), "another store of it");
    assert_eq!(node.metrics.refused_count(Refused::SenderStore), 1);
    node.exchange.set_roster(Some(roster(&[1, 3])));
    assert!(
        node.exchange.receive(0, encode(&envelope(1, 2, raft(2)))),
        "added where this node has not come to"
    );
    node.exchange.set_roster(None);
    assert!(node.exchange.receive(0, encode(&envelope(1, 3, raft(3)))), "nobody known yet: anybody may");
}

/// What node 1 sends to node 2 next is for this store.
async fn addresses(node: &Node, hub: &Hub, expected: StoreIncarnation) {
    addresses_in(node, hub, heartbeat(1, 2, 1), expected).await;
}

async fn addresses_in(node: &Node, hub: &Hub, message: Message, expected: StoreIncarnation) {
    node.exchange.send(vec![message]);
    let sent = async {
        loop {
            if let Some((_, _, bytes)) = hub.carried().pop() {
                return Envelope::decode(bytes).expect("an envelope");
            }
            tokio::task::yield_now().await;
        }
    };
    let sent = tokio::time::timeout(SOON, sent).await.expect("sent");
    assert_eq!(sent.to_incarnation.as_ref(), expected.0);
}

#[tokio::test]
async fn what_only_leaders_say_is_heard_from_any_store_and_answered_there() {
    use wire::MessageType::{Append, AppendResponse, Heartbeat, RequestVoteResponse, Snapshot, TimeoutNow};
    let (node, hub) = alone();
    let other = StoreIncarnation([5; 16]);
    let stray = |sequence, kinds: &[wire::MessageType]| {
        let mut stray = envelope(5, sequence, batch(kinds, sequence));
        stray.from_incarnation = Bytes::copy_from_slice(&other.0);
        encode(&stray)
    };
    addresses(&node, &hub, store(2)).await;
    assert!(!node.exchange.receive(0, stray(1, &[AppendResponse, RequestVoteResponse])));
    addresses(&node, &hub, store(2)).await;
    for (number, kind) in [Append, Heartbeat, Snapshot, TimeoutNow].into_iter().enumerate() {
        assert!(node.exchange.receive(0, stray(10 + number as u64, &[kind])), "{kind:?}");
    }
    addresses(&node, &hub, other).await;
    node.chain.seen.lock().unwrap().messages.clear();
    assert!(node.exchange.receive(0, stray(20, &[RequestVoteResponse, Heartbeat, AppendResponse])));
    let heard: Vec<_> =
        node.chain.seen.lock().unwrap().messages.iter().map(|(_, message)| message.msg_type).collect();
    assert_eq!(heard, [MessageType::MsgHeartbeat], "and nothing else that it says");
    node.exchange.set_roster(Some(BTreeMap::from([(id(2), StoreIncarnation([6; 16]))])));
    addresses(&node, &hub, StoreIncarnation([6; 16])).await;
}

#[tokio::test]
async fn a_request_for_a_vote_is_heard_from_any_store_and_its_answer_is_for_that_one() {
    use wire::MessageType::{AppendResponse, RequestPreVote, RequestVote};
    let (node, hub) = alone();
    let other = StoreIncarnation([5; 16]);
    let answer = |kind| {
        let mut answer = heartbeat(1, 2, 1);
        answer.set_msg_type(kind);
        answer
    };
    for (sequence, kind) in [(1, RequestVote), (2, RequestPreVote)] {
        let mut stray = envelope(5, sequence, batch(&[kind, AppendResponse], sequence));
        stray.from_incarnation = Bytes::copy_from_slice(&other.0);
        assert!(node.exchange.receive(0, encode(&stray)));
        addresses_in(&node, &hub, answer(MessageType::MsgRequestVoteResponse), other).await;
        addresses_in(&node, &hub, answer(MessageType::MsgRequestPreVoteResponse), other).await;
        addresses(&node, &hub, store(2)).await;
    }
    let heard: Vec<_> =
        node.chain.seen.lock().unwrap().messages.iter().map(|(_, message)| message.msg_type).collect();
    assert_eq!(heard, [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote], "and nothing else");
    assert!(node.exchange.receive(0, encode(&envelope(1, 3, batch(&[RequestVote], 3)))));
    addresses_in(&node, &hub, answer(MessageType::MsgRequestVoteResponse), store(2)).await;
}

#[test]
fn another_seat_forgets_roster_and_chain() {
    let (node, _hub) = alone();
    node.exchange.take_seat(store(1), Some(GROUP));
    assert!(node.exchange.receive(0, encode(&envelope(1, 1, raft(1)))), "the same seat changes nothing");
    node.exchange.take_seat(store(1), Some(GroupId([8; 16])));
    assert!(!node.exchange.receive(0, encode(&envelope(1, 2, raft(2)))));
    assert_eq!(node.metrics.refused_count(Refused::Group), 1);
    let mut joined = envelope(1, 2, raft(2));
    joined.group = Bytes::from_static(&[8; 16]);
    assert!(!node.exchange.receive(0, encode(&joined)));
    assert_eq!(node.metrics.refused_count(Refused::Chainless), 1);
    node.exchange.attach_sink(Some(node.chain.clone()));
    assert!(node.exchange.receive(0, encode(&joined)), "and it was not counted as come");
}

#[test]
fn nothing_passes_before_the_seat_and_after_the_stop() {
    let metrics = ExchangeMetrics::new(&Metrics::new(1), "test");
    let hub = Arc::new(Hub::default());
    let (exchange, _letters) = Exchange::new(ExchangeConfig::testing(1, MIB), hub, metrics.clone());
    let mut hello = envelope(1, 1, letter());
    hello.to_incarnation = Bytes::new();
    assert!(!exchange.receive(0, encode(&hello)));
    assert_eq!(metrics.refused_count(Refused::Seatless), 1);
    exchange.mail(id(2), report(1));
    assert_eq!(metrics.unsent_count(Unsent::Seatless), 1);
    exchange.take_seat(store(1), None);
    assert!(exchange.receive(0, encode(&hello)));
    exchange.stop();
    assert!(!exchange.receive(0, encode(&envelope(1, 2, letter()))));
}

#[test]
fn letters_that_nobody_reads_are_dropped_and_counted() {
    let (node, _hub) = alone();
    for sequence in 1..=LETTERS_MAX as u64 {
        assert!(node.exchange.receive(0, encode(&envelope(1, sequence, letter()))));
    }
    assert!(!node.exchange.receive(0, encode(&envelope(1, 5000, letter()))));
    assert_eq!(node.metrics.refused_count(Refused::LettersFull), 1);
}

#[test]
fn large_letters_are_few_among_those_that_wait() {
    let (mut node, _hub) = alone();
    let large = |sequence| encode(&envelope(1, sequence, candidate(MIB).into_body()));
    for sequence in 1..=BEFORE_LARGE_MAX as u64 {
        assert!(node.exchange.receive(0, large(sequence)));
    }
    assert!(!node.exchange.receive(0, large(100)));
    assert!(node.exchange.receive(0, encode(&envelope(1, 101, letter()))), "a small one still passes");
    assert_eq!(node.metrics.refused_count(Refused::LettersFull), 1);
    while node.letters.try_recv().is_ok() {}
    assert!(node.exchange.receive(0, large(102)));
}

#[test]
fn what_is_too_large_is_not_even_decoded() {
    let hub = Arc::new(Hub::default());
    let mut config = ExchangeConfig::testing(1, 1000);
    config.message_bytes_max = 10_000;
    let node = Node::seated(config, hub);
    assert!(!node.exchange.receive(0, vec![0; 10_000 + 1000].into()));
    assert_eq!(node.metrics.refused_count(Refused::TooLarge), 1);
    let part = Part { message: 1, index: 0, count: 2, bytes: 1 << 40, data: Bytes::from_static(b"abc") };
    assert!(!node.exchange.receive(0, encode(&envelope(1, 1, Body::Part(part)))));
    assert_eq!(node.metrics.refused_count(Refused::TooLarge), 2);
}

#[test]
fn the_pieces_of_an_envelope_and_the_whole_are_of_one_sender() {
    let piece = |sequence, whole: &Envelope| {
        let data = encode(whole);
        let part = Part { message: sequence, index: 0, count: 1, bytes: data.len() as u64, data };
        encode(&envelope(1, sequence, Body::Part(part)))
    };
    let (node, _hub) = alone();
    let mut forged = envelope(1, 1, raft(1));
    forged.from = 3;
    forged.from_incarnation = Bytes::from_static(&[3; 16]);
    assert!(!node.exchange.receive(0, piece(1, &forged)));
    assert_eq!(node.metrics.refused_count(Refused::Malformed), 1);
    let within = envelope(1, 2, Body::Part(Part::default()));
    assert!(!node.exchange.receive(0, piece(2, &within)), "a piece of a piece");
    assert!(node.exchange.receive(0, piece(3, &envelope(1, 3, raft(1)))));
    node.exchange.set_roster(Some(BTreeMap::from([(id(2), StoreIncarnation([5; 16]))])));
    assert!(!node.exchange.receive(0, piece(4, &envelope(1, 4, raft(1)))), "cut or not, only from its store");
    assert_eq!(node.metrics.refused_count(Refused::SenderStore), 1);
}

#[tokio::test]
async fn a_node_is_addressed_where_it_was_heard_from() {
    let (node, hub) = alone();
    let origin = async |expected: u64| {
        node.exchange.mail(id(2), report(1));
        let sent = async {
            loop {
                if let Some((_, origin, _)) = hub.carried().pop() {
                    return origin;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(tokio::time::timeout(SOON, sent).await.expect("sent"), expected);
    };
    origin(2).await;
    assert!(node.exchange.receive(77, encode(&envelope(1, 1, letter()))));
    origin(77).await;
    assert!(!node.exchange.receive(78, encode(&envelope(1, 1, letter()))), "a duplicate teaches nothing");
    assert!(node.exchange.receive(0, encode(&envelope(1, 2, letter()))), "nor does a direct stream");
    let mut stray = envelope(5, 1, letter());
    stray.from_incarnation = Bytes::from_static(&[9; 16]);
    assert!(node.exchange.receive(79, encode(&stray)), "nor does another store than the member's");
    origin(77).await;
    assert!(node.exchange.receive(2, encode(&envelope(1, 3, letter()))));
    origin(2).await;
}

#[test]
fn no_more_peers_are_kept_track_of_than_may_be_and_members_are_among_them() {
    let (mut node, _hub) = alone();
    assert!(node.exchange.receive(0, encode(&envelope(1, 1, letter()))));
    for from in 100..100 + 2 * PEERS_MAX as u64 {
        let mut stranger = envelope(1, 1, letter());
        stranger.from = from;
        assert!(node.exchange.receive(0, encode(&stranger)));
        node.letters.try_recv().expect("there");
    }
    assert_eq!(node.exchange.core.book().peers.len(), PEERS_MAX);
    assert!(node.exchange.last_heard_ms(id(2)) > 0);
}

/// One change of an encoded envelope: a byte, a cut, a piece of another, or bytes out of nowhere.
fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            _ => {
                let copied = bytes[at / 2..at].to_vec();
                bytes.splice(at..at, copied);
            }
        }
    }
}

#[test]
fn no_bytes_make_the_exchange_panic() {
    let seed = 20_240_611;
    let rng = &mut SmallRng::seed_from_u64(seed);
    let (mut node, _hub) = alone();
    let (mut accepted, mut sequence) = (0, 0);
    for round in 0..100_000_u64 {
        let mut bytes = if round % 4 == 0 {
            (0..rng.random_range(0..100)).map(|_| rng.random()).collect()
        } else {
            sequence += 1;
            let part = Part {
                message: rng.random_range(0..4),
                index: rng.random_range(0..3),
                count: 3,
                bytes: 9,
                data: Bytes::from_static(b"abc"),
            };
            let body = match rng.random_range(0..4) {
                0 => raft(round),
                1 => Body::Part(part),
                2 => candidate(20).into_body(),
                _ => letter(),
            };
            encode(&envelope(rng.random_range(1..3), sequence, body)).to_vec()
        };
        if rng.random_ratio(9, 10) {
            mutate(rng, &mut bytes);
        }
        accepted += u64::from(node.exchange.receive(rng.random_range(0..3), bytes.into()));
        while node.letters.try_recv().is_ok() {}
    }
    assert!(accepted > 1000, "{accepted} accepted with seed {seed}");
}

#[tokio::test]
async fn a_hello_may_be_for_everybody_and_nothing_else() {
    let (_hub, one, mut two) = pair();
    one.exchange.announce(Hello { height: 7, ..Hello::default() });
    let letter = two.letter().await;
    assert!(matches!(letter.mail, Mail::Hello(Hello { height: 7, .. })), "{letter:?}");
    one.exchange.mail(id(2), report(1));
    assert!(matches!(two.letter().await.mail, Mail::Report(_)), "its numbers go on as before");
    let (node, _hub) = alone();
    let mut for_all = envelope(1, 1, raft(1));
    for_all.to = 0;
    assert!(!node.exchange.receive(0, encode(&for_all)));
    assert_eq!(node.metrics.refused_count(Refused::Receiver), 1);
}
