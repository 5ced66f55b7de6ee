//! How the services' messages are decoded: as prost does it, after a look at what they would take in memory.
//!
//! Two bytes are enough for an empty transaction or an empty Raft message, and each takes a hundred or some
//! hundred when decoded, so a bound in bytes alone bounds nothing. Of the messages that hold lists of others the
//! members are counted before anything is decoded; many of them must have some size on average. What a message
//! says is not judged here.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::{cita::exchange, ordering, peer};

/// So many members are never too many.
const MEMBERS_MAX: usize = 1 << 16;
/// Bytes that each has at least on average, if there are more.
const MEMBER_BYTES_MIN: usize = 32;

/// A list within a message: what is in it, and the fields that lead there.
type List = (&'static str, &'static [u32]);

/// The lists of a message that others may send as they like.
fn lists(message: TypeId) -> &'static [List] {
    let is = |other: TypeId| message == other;
    if is(TypeId::of::<ordering::SubmitBatch>()) {
        &[("transactions", &[2])]
    } else if is(TypeId::of::<peer::ForwardRequest>()) {
        &[("transactions", &[3])]
    } else if is(TypeId::of::<peer::PeerFrame>()) {
        &[("messages and entries", &[2, 1, 7])]
    } else if is(TypeId::of::<exchange::Envelope>()) {
        &[("messages and entries", &[11, 1, 7]), ("founders", &[13, 3]), ("members", &[14, 1])]
    } else {
        &[]
    }
}

/// The codec of all services.
#[derive(Clone, Debug)]
pub struct Codec<T, U> {
    of: PhantomData<(T, U)>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self { of: PhantomData }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Counting<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Counting { of: PhantomData }
    }
}

/// Decodes what is not too much.
#[derive(Clone, Debug)]
pub struct Counting<U> {
    of: PhantomData<U>,
}

impl<U: Message + Default + 'static> Decoder for Counting<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let encoded = encoded.copy_to_bytes(encoded.remaining());
        count(TypeId::of::<U>(), &encoded).map_err(Status::invalid_argument)?;
        U::decode(encoded).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Refuses more members than the bytes are worth.
fn count(message: TypeId, encoded: &Bytes) -> Result<(), String> {
    // A member takes two bytes at least, so most messages need no look.
    if encoded.len() <= 2 * MEMBERS_MAX {
        return Ok(());
    }
    for (what, path) in lists(message) {
        let (members, bytes) = (members(encoded, path), encoded.len());
        if members > MEMBERS_MAX && members * MEMBER_BYTES_MIN > bytes {
            return Err(format!(
                "a message of {bytes} bytes has {members} {what}, must have at most {MEMBERS_MAX} unless each has \
                 {MEMBER_BYTES_MIN} bytes on average"
            ));
        }
    }
    Ok(())
}

/// How many there are of each field on a path.
fn members(encoded: &Bytes, path: &[u32]) -> usize {
    let Some((first, rest)) = path.split_first() else { return 0 };
    let mut count = 0;
    // What cannot be read is left to the decoder.
    let _ = walk(encoded.clone(), |field, body| {
        if field == *first {
            count += 1 + members(&body, rest);
        }
    });
    count
}

/// Shows each field of an encoded message with its bytes (none, if it is a number) until one cannot be read.
///
/// # Errors
/// Why one cannot be read.
pub fn walk(mut rest: Bytes, mut see: impl FnMut(u32, Bytes)) -> Result<(), DecodeError> {
    while !rest.is_empty() {
        let (field, wire_type) = decode_key(&mut rest)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut rest)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            see(field, rest.split_to(length));
        } else {
            skip_field(wire_type, field, &mut rest, DecodeContext::default())?;
            see(field, Bytes::new());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Transaction;
    use crate::{raft, records};

    fn judged<U: Message + 'static>(message: &U) -> Result<(), String> {
        count(TypeId::of::<U>(), &message.encode_to_vec().into())
    }

    fn transactions(count: usize, bytes: usize) -> Vec<Transaction> {
        vec![records::Transaction { id: Bytes::new(), payload: vec![1; bytes].into() }; count]
    }

    #[test]
    fn many_small_transactions_are_refused_and_large_frames_are_not() {
        let batch = |count, bytes| ordering::SubmitBatch {
            transactions: transactions(count, bytes),
            ..ordering::SubmitBatch::default()
        };
        assert_eq!(judged(&batch(MEMBERS_MAX, 0)), Ok(()));
        assert_eq!(judged(&batch(2 * MEMBERS_MAX, MEMBER_BYTES_MIN)), Ok(()));
        assert_eq!(
            judged(&batch(MEMBERS_MAX + 1, 0)),
            Err("a message of 131074 bytes has 65537 transactions, must have at most 65536 unless each has 32 bytes \
                 on average"
                .to_owned())
        );
        let forwarded =
            peer::ForwardRequest { transactions: transactions(MEMBERS_MAX + 1, 0), ..Default::default() };
        assert!(judged(&forwarded).is_err());
    }

    #[test]
    fn many_small_raft_messages_or_entries_are_refused_wherever_they_are() {
        let messages = |messages, entries| {
            let entries = vec![raft::Entry::default(); entries];
            vec![raft::Message { entries, ..raft::Message::default() }; messages]
        };
        for (count, entries, fits) in [(1000, 50, true), (MEMBERS_MAX + 1, 0, false), (2, 40_000, false)] {
            let batch = peer::RaftBatch { messages: messages(count, entries) };
            let frame = peer::PeerFrame { frame: Some(peer::peer_frame::Frame::Raft(batch)) };
            assert_eq!(judged(&frame).is_ok(), fits, "{count} of {entries}");
            let batch = exchange::RaftBatch { messages: messages(count, entries) };
            let body = Some(exchange::envelope::Body::Raft(batch));
            assert_eq!(judged(&exchange::Envelope { body, ..Default::default() }).is_ok(), fits, "{count}");
        }
        let roster = vec![exchange::Seat::default(); MEMBERS_MAX + 1];
        let body = Some(exchange::envelope::Body::Invitation(exchange::Invitation { roster }));
        assert!(judged(&exchange::Envelope { body, ..Default::default() }).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for bytes in [&[0xff; 20][..], &[0x12, 0xff, 0xff, 0xff], &[0x12, 5, 1]] {
            assert_eq!(count(TypeId::of::<ordering::SubmitBatch>(), &Bytes::copy_from_slice(bytes)), Ok(()));
        }
    }
}
