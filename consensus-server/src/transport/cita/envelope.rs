//! The form of what goes between consensus services: the codec of envelopes, and how large ones are cut.
//!
//! Every envelope names its sender's store, group and session, so that whoever reads it needs no connection
//! to know where it is from. Payloads share their buffer. What arrives is only brought into shape here;
//! whether it is welcome is judged in [`super::gate`].

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_proto::cita::exchange::{Envelope, Part, envelope::Body};
use consensus_proto::codec::walk;
use prost::Message as _;

use super::{ExchangeConfig, GroupId, Mail};

/// The version of the envelope that this node speaks.
pub(super) const VERSION: u32 = 1;
/// Field of an envelope that holds a piece of another.
const PART_FIELD: u32 = 10;
/// Field of an envelope that holds Raft messages.
const RAFT_FIELD: u32 = 11;
/// Field of those that holds each message.
const MESSAGES_FIELD: u32 = 1;
/// Field of a Raft message that holds each entry.
const ENTRIES_FIELD: u32 = 7;
/// Field of a Raft message that holds a snapshot.
const SNAPSHOT_FIELD: u32 = 9;
/// Field of a snapshot that holds what it is of, its members among others.
const METADATA_FIELD: u32 = 2;
/// Field of an envelope that holds a candidate.
const CANDIDATE_FIELD: u32 = 16;
/// Raft messages and entries in an envelope.
const THINGS_MAX: usize = 1 << 16;
/// Bytes of everything in an envelope that is neither Raft messages, nor a candidate, nor a piece; and of the
/// members that snapshots name: a number of one byte takes eight in memory.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// Which store this node speaks for, and in which group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seat {
    pub(super) incarnation: StoreIncarnation,
    pub(super) group: Option<GroupId>,
}

/// What an envelope says of its sender and receiver beside their nodes; fixed when a message is queued, so
/// that nothing of one group is ever sent under the name of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) seat: Seat,
    /// The store that is meant; `None` where it does not matter.
    pub(super) to: Option<StoreIncarnation>,
}

/// Bytes that an envelope takes beside its body, at most.
pub(super) fn overhead_bytes(chain: &Bytes) -> u64 {
    256 + chain.len() as u64
}

/// An envelope for everybody: nobody's in particular, so it has no place among those for one.
pub(super) fn announcement(config: &ExchangeConfig, seat: Seat, body: Body) -> Envelope {
    let stamp = Stamp { seat, to: None };
    Envelope { to: 0, ..envelope(config, config.node, stamp, 0, body) }
}

/// An envelope without its numbers and body.
pub(super) fn envelope(
    config: &ExchangeConfig,
    to: NodeId,
    stamp: Stamp,
    sequence: u64,
    body: Body,
) -> Envelope {
    let optional =
        |bytes: Option<[u8; 16]>| bytes.map_or_else(Bytes::new, |bytes| Bytes::copy_from_slice(&bytes));
    Envelope {
        version: VERSION,
        chain: config.chain.clone(),
        from: config.node.get(),
        to: to.get(),
        from_incarnation: Bytes::copy_from_slice(&stamp.seat.incarnation.0),
        to_incarnation: optional(stamp.to.map(|store| store.0)),
        group: optional(stamp.seat.group.map(|group| group.0)),
        session: config.session,
        sequence,
        body: Some(body),
    }
}

/// Encoded, in one buffer.
pub(super) fn encode(envelope: &Envelope) -> Bytes {
    envelope.encode_to_vec().into()
}

/// A large envelope on its way, piece by piece.
#[derive(Debug)]
pub(super) struct Cut {
    whole: Bytes,
    chunk_bytes: usize,
    message: u64,
    count: u32,
    next: u32,
}

impl Cut {
    /// Cuts an encoded envelope, the `message`-th of its session and receiver that is cut.
    pub(super) fn new(whole: Bytes, message: u64, chunk_bytes: u64) -> Self {
        let chunk_bytes = chunk_bytes.max(1) as usize;
        let count = whole.len().div_ceil(chunk_bytes) as u32;
        Self { whole, chunk_bytes, message, count, next: 0 }
    }

    /// The next piece, and whether it is the last.
    pub(super) fn piece(&mut self) -> (Part, bool) {
        let begin = (self.next as usize * self.chunk_bytes).min(self.whole.len());
        let end = (begin + self.chunk_bytes).min(self.whole.len());
        let part = Part {
            message: self.message,
            index: self.next,
            count: self.count,
            bytes: self.whole.len() as u64,
            data: self.whole.slice(begin..end),
        };
        self.next += 1;
        (part, self.next >= self.count)
    }
}

/// Whether an encoded envelope holds a piece of another, without decoding it.
pub(super) fn is_part(encoded: &Bytes) -> bool {
    let mut part = false;
    // What cannot be read holds nothing.
    let _ = walk(encoded.clone(), |field, _| part |= field == PART_FIELD);
    part
}

/// Whether decoding would take much more memory than the bytes themselves: lists of many small things, which
/// nobody sends in earnest.
pub(super) fn is_bloated(encoded: &Bytes) -> bool {
    let mut things = 0;
    let mut small_bytes = 0;
    let _ = walk(encoded.clone(), |field, body| match field {
        RAFT_FIELD => {
            let _ = walk(body, |field, message| {
                things += 1;
                if field == MESSAGES_FIELD {
                    let _ = walk(message, |field, body| match field {
                        ENTRIES_FIELD => things += 1,
                        SNAPSHOT_FIELD => small_bytes += metadata_bytes(body),
                        _ => {}
                    });
                }
            });
        }
        PART_FIELD | CANDIDATE_FIELD => {}
        _ => small_bytes += body.len(),
    });
    things > THINGS_MAX || small_bytes > SMALL_BYTES_MAX
}

/// Bytes of an encoded snapshot that are not its data.
fn metadata_bytes(snapshot: Bytes) -> usize {
    let mut bytes = 0;
    let _ = walk(snapshot, |field, body| bytes += if field == METADATA_FIELD { body.len() } else { 0 });
    bytes
}

impl Mail {
    pub(super) fn into_body(self) -> Body {
        match self {
            Self::Hello(hello) => Body::Hello(hello),
            Self::Founding(founding) => Body::Founding(founding),
            Self::Invitation(invitation) => Body::Invitation(invitation),
            Self::Dismissal(dismissal) => Body::Dismissal(dismissal),
            Self::Candidate(candidate) => Body::Candidate(candidate),
            Self::Verdict(verdict) => Body::Verdict(verdict),
            Self::Report(report) => Body::Report(report),
            Self::VoidRequest(request) => Body::VoidRequest(request),
            Self::VoidPromise(promise) => Body::VoidPromise(promise),
        }
    }

    /// Bytes as queues count them: what its body takes on the wire, and then some.
    pub(super) fn queued_bytes(&self) -> u64 {
        const LETTER: usize = 64;
        let body = match self {
            Self::Hello(hello) => hello.encoded_len(),
            Self::Founding(founding) => founding.encoded_len(),
            Self::Invitation(invitation) => invitation.encoded_len(),
            Self::Dismissal(dismissal) => dismissal.encoded_len(),
            Self::Candidate(candidate) => candidate.encoded_len(),
            Self::Verdict(verdict) => verdict.encoded_len(),
            Self::Report(report) => report.encoded_len(),
            Self::VoidRequest(request) => request.encoded_len(),
            Self::VoidPromise(promise) => promise.encoded_len(),
        };
        (LETTER + body) as u64
    }
}

#[cfg(test)]
mod tests {
    use consensus_proto::cita::exchange::{Candidate, Founding, Hello, RaftBatch, Seat};
    use consensus_proto::raft as wire;

    use super::*;

    fn config() -> ExchangeConfig {
        ExchangeConfig::testing(1, 1 << 20)
    }

    fn sealed(body: Body) -> Bytes {
        let seat = super::Seat { incarnation: StoreIncarnation([1; 16]), group: Some(GroupId([2; 16])) };
        let stamp = Stamp { seat, to: Some(StoreIncarnation([3; 16])) };
        encode(&envelope(&config(), NodeId::new(2).expect("not 0"), stamp, u64::MAX, body))
    }

    #[test]
    fn a_piece_is_told_from_other_envelopes() {
        let part = Part { data: Bytes::from_static(b"abc"), ..Part::default() };
        assert!(is_part(&sealed(Body::Part(part))));
        assert!(!is_part(&sealed(Body::Raft(RaftBatch::default()))));
        assert!(!is_part(&sealed(Body::Candidate(Candidate::default()))));
        assert!(!is_part(&Bytes::new()));
        assert!(!is_part(&Bytes::from_static(&[0xff; 20])));
    }

    #[test]
    fn what_would_grow_when_decoded_is_told_from_what_is_large() {
        let candidate = Candidate { data: vec![0; 10 << 20].into(), ..Candidate::default() };
        assert!(!is_bloated(&sealed(Body::Candidate(candidate))));
        let entry = |bytes: usize| wire::Entry { data: vec![0; bytes].into(), ..wire::Entry::default() };
        let append = |entries| wire::Message { msg_type: 3, entries, ..wire::Message::default() };
        let raft = |messages| sealed(Body::Raft(RaftBatch { messages }));
        assert!(!is_bloated(&raft(vec![append(vec![entry(10 << 20)]), append(vec![entry(1); 1000])])));
        assert!(is_bloated(&raft(vec![wire::Message::default(); THINGS_MAX + 1])));
        assert!(is_bloated(&raft(vec![append(vec![entry(0); 40_000]); 2])));
        let snapshot = |data: usize, members| wire::Snapshot {
            data: vec![0; data].into(),
            metadata: Some(wire::SnapshotMetadata {
                conf_state: Some(wire::ConfState {
                    learners: vec![1; members],
                    ..wire::ConfState::default()
                }),
                ..wire::SnapshotMetadata::default()
            }),
        };
        let install = |snapshot| wire::Message { snapshot: Some(snapshot), ..wire::Message::default() };
        assert!(!is_bloated(&raft(vec![install(snapshot(10 << 20, 1000))])));
        assert!(is_bloated(&raft(vec![install(snapshot(0, 300_000))])));
        assert!(!is_bloated(&sealed(Body::Hello(Hello { validators: vec![1; 1000], ..Hello::default() }))));
        assert!(is_bloated(&sealed(Body::Hello(Hello { validators: vec![1; 300_000], ..Hello::default() }))));
        let founders = vec![Seat::default(); 200_000];
        assert!(is_bloated(&sealed(Body::Founding(Founding { founders, ..Founding::default() }))));
    }

    #[test]
    fn an_envelope_takes_no_more_beside_its_body_than_reckoned() {
        let whole = sealed(Body::Candidate(Candidate { data: vec![0; 1000].into(), ..Candidate::default() }));
        assert!(whole.len() as u64 <= 1000 + overhead_bytes(&config().chain));
    }

    #[test]
    fn the_pieces_of_a_cut_envelope_are_its_bytes() {
        for (length, chunk, count) in [(1, 10, 1), (10, 10, 1), (11, 10, 2), (100, 7, 15)] {
            let whole: Bytes = (0..length).collect::<Vec<u8>>().into();
            let mut cut = Cut::new(whole.clone(), 5, chunk);
            let mut data = Vec::new();
            loop {
                let (part, last) = cut.piece();
                assert_eq!((part.message, part.count, part.bytes), (5, count, u64::from(length)));
                data.extend_from_slice(&part.data);
                if last {
                    assert_eq!(part.index + 1, count);
                    break;
                }
            }
            assert_eq!(data, whole);
        }
    }
}
