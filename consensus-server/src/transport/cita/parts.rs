//! Puts large envelopes together again from their pieces.
//!
//! Pieces come in any order and each at most once (see [`super::sessions`]). Memory is bounded: a few messages
//! under way for each sender, no more bytes than two of the largest, all senders together some hundred messages
//! of no more bytes than a few of the largest, no more pieces than are counted, however small, and each message
//! only until the time at which a piece of it is overdue. What does not come together is dropped as a whole;
//! nothing is asked for again, because whoever needs it sends it again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_proto::cita::exchange::Part;

use crate::telemetry::metrics::Refused;

/// A message without a new piece for so long is given up.
const OVERDUE: Duration = Duration::from_secs(10);
/// Messages under way for each sender; the oldest makes room. A sender cuts two at a time, and the network may
/// bring pieces of the next ones before the last pieces of those.
const UNDER_WAY_MAX: usize = 4;
/// Messages under way of all senders; the oldest makes room. Senders may be made up, so the bound for each of
/// them bounds nothing.
const ALL_UNDER_WAY_MAX: usize = 256;
/// The pieces of one sender hold no more than this many of the largest messages.
const SENDER_MESSAGES: u64 = 2;
/// All pieces together hold no more than this many of the largest messages.
const TOTAL_MESSAGES: u64 = 6;
/// Pieces of a message, and of all that a sender has under way.
const PIECES_MAX: u32 = 1 << 16;
/// Pieces of all messages under way: however small, each takes some memory beside its bytes.
const ALL_PIECES_MAX: usize = 2 * PIECES_MAX as usize;

/// Which message a piece is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) from: NodeId,
    pub(super) incarnation: StoreIncarnation,
    pub(super) session: u64,
    pub(super) message: u64,
}

/// What has come of messages under way.
#[derive(Debug)]
pub(super) struct Assembly {
    envelope_bytes_max: u64,
    /// The oldest first.
    under_way: Vec<UnderWay>,
    held: u64,
}

#[derive(Debug)]
struct UnderWay {
    key: Key,
    count: u32,
    bytes: u64,
    held: u64,
    pieces: BTreeMap<u32, Bytes>,
    last: Instant,
}

impl Assembly {
    /// For envelopes up to that size.
    pub(super) fn new(envelope_bytes_max: u64) -> Self {
        Self { envelope_bytes_max, under_way: Vec::new(), held: 0 }
    }

    /// Takes a piece; with the last one of a message comes the whole.
    pub(super) fn add(&mut self, key: Key, part: Part, now: Instant) -> Result<Option<Bytes>, Refused> {
        self.sweep(now);
        if part.bytes > self.envelope_bytes_max {
            return Err(Refused::TooLarge);
        }
        let sound = part.index < part.count
            && part.count <= PIECES_MAX
            && !part.data.is_empty()
            && part.data.len() as u64 <= part.bytes;
        if !sound {
            return Err(Refused::Malformed);
        }
        let at = match self.under_way.iter().position(|known| known.key == key) {
            Some(at) => at,
            None => self.begin(key, &part, now),
        };
        let bytes = part.data.len() as u64;
        let room = self.has_room(key.from, bytes);
        let of = &mut self.under_way[at];
        let fits = of.count == part.count
            && of.bytes == part.bytes
            && of.held + bytes <= of.bytes
            && !of.pieces.contains_key(&part.index);
        if !fits || !room {
            self.remove(at);
            return Err(Refused::Part);
        }
        of.last = now;
        of.held += bytes;
        self.held += bytes;
        // A copy, because the piece would keep all that it came with in memory.
        of.pieces.insert(part.index, Bytes::copy_from_slice(&part.data));
        if of.pieces.len() < of.count as usize {
            return Ok(None);
        }
        let whole = self.remove(at);
        if whole.held != whole.bytes {
            return Err(Refused::Part);
        }
        Ok(Some(whole.put_together()))
    }

    /// Whether a piece of that many bytes fits beside those that are held, of its sender and of all.
    fn has_room(&self, from: NodeId, bytes: u64) -> bool {
        let of_sender = || self.under_way.iter().filter(|known| known.key.from == from);
        let pieces_of_sender = of_sender().map(|known| known.pieces.len()).sum::<usize>();
        let pieces = self.under_way.iter().map(|known| known.pieces.len()).sum::<usize>();
        of_sender().map(|known| known.held).sum::<u64>() + bytes <= SENDER_MESSAGES * self.envelope_bytes_max
            && self.held + bytes <= TOTAL_MESSAGES * self.envelope_bytes_max
            && pieces_of_sender < PIECES_MAX as usize
            && pieces < ALL_PIECES_MAX
    }

    fn begin(&mut self, key: Key, part: &Part, now: Instant) -> usize {
        let of_sender = |known: &UnderWay| known.key.from == key.from;
        let full = self.under_way.iter().filter(|known| of_sender(known)).count() >= UNDER_WAY_MAX;
        if full && let Some(oldest) = self.under_way.iter().position(of_sender) {
            self.remove(oldest);
        } else if self.under_way.len() >= ALL_UNDER_WAY_MAX {
            self.remove(0);
        }
        let (count, bytes) = (part.count, part.bytes);
        self.under_way.push(UnderWay { key, count, bytes, held: 0, pieces: BTreeMap::new(), last: now });
        self.under_way.len() - 1
    }

    fn remove(&mut self, at: usize) -> UnderWay {
        let removed = self.under_way.remove(at);
        self.held -= removed.held;
        removed
    }

    /// Drops what is overdue. Called now and then even if no piece comes.
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some(at) = self.under_way.iter().position(|known| now.duration_since(known.last) >= OVERDUE)
        {
            self.remove(at);
        }
    }

    /// Bytes of all pieces.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.held
    }
}

impl UnderWay {
    fn put_together(self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.bytes as usize);
        for piece in self.pieces.values() {
            whole.extend_from_slice(piece);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: u64, message: u64) -> Key {
        let from = NodeId::new(from).expect("not 0");
        Key { from, incarnation: StoreIncarnation([1; 16]), session: 1, message }
    }

    fn part(index: u32, count: u32, bytes: u64, data: &[u8]) -> Part {
        Part { message: 0, index, count, bytes, data: Bytes::copy_from_slice(data) }
    }

    #[test]
    fn pieces_in_any_order_become_the_whole() {
        let mut assembly = Assembly::new(100);
        let now = Instant::now();
        assert_eq!(assembly.add(key(1, 1), part(2, 3, 7, b"g"), now), Ok(None));
        assert_eq!(assembly.add(key(1, 1), part(0, 3, 7, b"abc"), now), Ok(None));
        assert_eq!(assembly.add(key(2, 1), part(0, 1, 1, b"x"), now), Ok(Some(Bytes::from_static(b"x"))));
        let whole = assembly.add(key(1, 1), part(1, 3, 7, b"def"), now);
        assert_eq!((whole, assembly.held()), (Ok(Some(Bytes::from_static(b"abcdefg"))), 0));
    }

    #[test]
    fn one_message_too_many_of_a_sender_takes_the_place_of_its_oldest() {
        let mut assembly = Assembly::new(100);
        let now = Instant::now();
        for message in 0..=UNDER_WAY_MAX as u64 {
            assert_eq!(assembly.add(key(1, message), part(0, 2, 2, b"a"), now), Ok(None));
        }
        assert_eq!(assembly.held(), UNDER_WAY_MAX as u64);
        assert!(matches!(assembly.add(key(1, 1), part(1, 2, 2, b"b"), now), Ok(Some(_))));
        assert_eq!(assembly.add(key(1, 0), part(1, 2, 2, b"b"), now), Ok(None), "it begins anew");
    }

    #[test]
    fn what_misses_a_piece_is_given_up_in_time() {
        let mut assembly = Assembly::new(100);
        let now = Instant::now();
        assert_eq!(assembly.add(key(1, 1), part(0, 2, 2, b"a"), now), Ok(None));
        assembly.sweep(now + OVERDUE / 2);
        assert_eq!(assembly.held(), 1);
        assembly.sweep(now + OVERDUE);
        assert_eq!(assembly.held(), 0);
    }

    #[test]
    fn all_senders_together_hold_a_few_messages() {
        let mut assembly = Assembly::new(100);
        let now = Instant::now();
        for from in 1..1000 {
            let _ = assembly.add(key(from, 1), part(0, 2, 100, &[0; 60]), now);
            assert!(assembly.held() <= TOTAL_MESSAGES * 100);
        }
        assert_eq!(assembly.held(), 600);
        let mut assembly = Assembly::new(100);
        for message in 0..3 {
            let _ = assembly.add(key(1, message), part(0, 2, 100, &[0; 80]), now);
        }
        assert_eq!(assembly.held(), 160, "and a single one no more than two");
    }

    #[test]
    fn pieces_of_a_byte_take_no_more_memory_than_large_ones() {
        let mut assembly = Assembly::new(1 << 20);
        let now = Instant::now();
        for from in 1..10_000 {
            assert_eq!(assembly.add(key(from, 1), part(0, 2, 2, b"a"), now), Ok(None));
            assert!(assembly.under_way.len() <= ALL_UNDER_WAY_MAX, "senders may be made up");
        }
        let mut assembly = Assembly::new(1 << 20);
        let pieces = |assembly: &Assembly| assembly.under_way.iter().map(|of| of.pieces.len()).sum::<usize>();
        for (from, message) in [(1, 1), (1, 2), (2, 1), (3, 1)] {
            for index in 0..PIECES_MAX - 1 {
                let _ = assembly.add(key(from, message), part(index, PIECES_MAX, 1 << 20, b"a"), now);
            }
            let bound = if from == 1 { PIECES_MAX as usize } else { ALL_PIECES_MAX };
            assert!(pieces(&assembly) <= bound, "{} pieces", pieces(&assembly));
        }
    }

    #[test]
    fn pieces_that_contradict_are_refused() {
        let mut assembly = Assembly::new(100);
        let now = Instant::now();
        let mut add = |part| assembly.add(key(1, 1), part, now);
        assert_eq!(add(part(0, 2, 101, b"a")), Err(Refused::TooLarge));
        assert_eq!(add(part(2, 2, 2, b"a")), Err(Refused::Malformed), "index");
        assert_eq!(add(part(0, 2, 2, b"")), Err(Refused::Malformed), "empty");
        assert_eq!(add(part(0, 2, 2, b"abc")), Err(Refused::Malformed), "longer than the whole");
        assert_eq!(add(part(0, u32::MAX, 2, b"a")), Err(Refused::Malformed), "count");
        assert_eq!(add(part(0, 2, 5, b"ab")), Ok(None));
        assert_eq!(add(part(1, 3, 5, b"abc")), Err(Refused::Part), "another count");
        assert_eq!(add(part(0, 2, 5, b"ab")), Ok(None));
        assert_eq!(add(part(1, 2, 5, b"cd")), Err(Refused::Part), "a byte is missing");
        assert_eq!(add(part(0, 2, 5, b"ab")), Ok(None));
        assert_eq!(add(part(0, 2, 5, b"ab")), Err(Refused::Part), "twice the same");
    }
}
