//! The body of a client's request, of which no message is received before there is room for the whole of it.
//!
//! A message of gRPC says its length in front. Room for so many bytes is taken then, first of the client's own and
//! then of what all clients have, and returned when the message is complete: what becomes of it is counted
//! elsewhere. Meanwhile nothing is read, so the sender fills the stream's window and waits. Who announces much and
//! sends slowly takes room from itself first.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tonic::Status;
use tonic::body::Body;

/// Room is counted in pieces of this size.
const PIECE_BYTES: u64 = 1 << 10;
/// Compression flag and length in front of each message.
const HEAD_BYTES: usize = 5;

/// Room for what is being received; clones are of the same.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pieces: Arc<Semaphore>,
    most: u32,
}

impl Pool {
    /// Of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes.div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX).max(1);
        Self { pieces: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// What is larger than all of it takes all of it.
    fn pieces(&self, bytes: u32) -> u32 {
        (u64::from(bytes).div_ceil(PIECE_BYTES) as u32).min(self.most)
    }

    fn try_take(&self, bytes: u32) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.pieces.clone().try_acquire_many_owned(self.pieces(bytes))
    }

    async fn take(self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        let pieces = self.pieces(bytes);
        // Nobody closes it.
        self.pieces.acquire_many_owned(pieces).await.ok()
    }
}

/// Where one client takes room.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    own: Option<Pool>,
    all: Pool,
}

/// Room that is taken until it is dropped.
type Held = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

impl Room {
    /// A client's own part, if there is such a bound, of all.
    pub(super) fn new(own_bytes_max: Option<u64>, all: Pool) -> Self {
        Self { own: own_bytes_max.map(Pool::new), all }
    }

    fn try_take(&self, bytes: u32) -> Option<Held> {
        let own = self.own.as_ref().map(|own| own.try_take(bytes)).transpose().ok()?;
        let all = self.all.try_take(bytes).ok()?;
        Some((own, Some(all)))
    }

    async fn take(self, bytes: u32) -> Held {
        let own = match self.own {
            Some(own) => own.take(bytes).await,
            None => None,
        };
        (own, self.all.take(bytes).await)
    }
}

type Waiting = Pin<Box<dyn Future<Output = Held> + Send>>;

/// A request's body.
pub(crate) struct Metered {
    inner: Body,
    room: Room,
    /// What came and is not passed on yet.
    stash: Bytes,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Of the message that is being received.
    remaining: u32,
    held: Option<Held>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

impl Metered {
    /// Of a call of the client whose room that is.
    pub(crate) fn new(inner: Body, room: Room) -> Self {
        Self {
            inner,
            room,
            stash: Bytes::new(),
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            remaining: 0,
            held: None,
            waiting: None,
        }
    }

    /// How much of the stash may be passed on now. Stops in front of the last byte of a head for whose message
    /// there is no room yet.
    fn pass(&mut self) -> usize {
        let mut passed = 0;
        while passed < self.stash.len() {
            if self.remaining > 0 {
                let piece = (self.stash.len() - passed).min(self.remaining as usize);
                passed += piece;
                self.remaining -= piece as u32;
                if self.remaining == 0 {
                    self.held = None;
                }
                continue;
            }
            self.head[self.head_bytes] = self.stash[passed];
            if self.head_bytes + 1 < HEAD_BYTES {
                self.head_bytes += 1;
                passed += 1;
                continue;
            }
            let bytes = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]);
            if self.held.is_none() && bytes > 0 {
                self.held = self.room.try_take(bytes);
                if self.held.is_none() {
                    self.waiting = Some(Box::pin(self.room.clone().take(bytes)));
                    return passed;
                }
            }
            (self.head_bytes, self.remaining) = (0, bytes);
            passed += 1;
        }
        passed
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                self.held = Some(ready!(waiting.as_mut().poll(cx)));
                self.waiting = None;
            }
            let passed = self.pass();
            if passed > 0 {
                return Poll::Ready(Some(Ok(Frame::data(self.stash.split_to(passed)))));
            }
            if self.waiting.is_some() {
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(mut data) => self.stash = data.copy_to_bytes(data.remaining()),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stash.is_empty() && self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt;
    use http_body::Body as _;

    use super::*;

    /// A body of given pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&(bytes as u32).to_be_bytes());
        message.extend(std::iter::repeat_n(7, bytes));
        message
    }

    /// `wire` cut into pieces of `piece` bytes.
    fn metered(wire: &[u8], piece: usize, room: &Room) -> Metered {
        let pieces = wire.chunks(piece).map(Bytes::copy_from_slice).collect();
        Metered::new(Body::new(Pieces(pieces)), room.clone())
    }

    fn room(own: Option<u64>, all: u64) -> Room {
        Room::new(own, Pool::new(all))
    }

    fn free(pool: &Pool) -> usize {
        pool.pieces.available_permits()
    }

    /// What comes without waiting; `None` behind it: the end.
    fn received(body: &mut Metered) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).now_or_never() {
                Some(Some(frame)) => {
                    bytes.extend_from_slice(frame.expect("no error").data_ref().expect("data"))
                }
                Some(None) => return (bytes, true),
                None => return (bytes, false),
            }
        }
    }

    #[test]
    fn what_fits_comes_unchanged_however_it_is_cut() {
        let wire = [message(3000), message(0), message(1), message(70_000), message(0)].concat();
        for piece in [1, 2, 4, 5, 6, 7, 1000, 3005, 100_000] {
            let room = room(Some(128 << 10), 1 << 20);
            let mut body = metered(&wire, piece, &room);
            assert_eq!(received(&mut body), (wire.clone(), true), "pieces of {piece}");
            assert_eq!((free(&room.all), room.own.as_ref().map(free)), (1024, Some(128)), "all is returned");
        }
    }

    #[test]
    fn no_message_is_received_before_there_is_room_for_the_whole() {
        let room = room(Some(10 << 10), 1 << 20);
        let first = message(8 << 10);
        let mut one = metered(&first[..100], 50, &room);
        assert_eq!(received(&mut one).0.len(), 100, "its sender takes its time");
        let wire = [message(1000), message(4 << 10)].concat();
        let mut two = metered(&wire, 512, &room);
        assert_eq!(received(&mut two), (wire[..1000 + 5 + 4].to_vec(), false), "the second waits");
        drop(one);
        assert_eq!(received(&mut two), (wire[1000 + 5 + 4..].to_vec(), true));
        assert_eq!((free(&room.all), room.own.as_ref().map(free)), (1024, Some(10)));
    }

    #[test]
    fn a_client_that_waits_for_its_own_room_takes_none_of_others() {
        let all = Pool::new(100 << 10);
        let (slow, other) = (Room::new(Some(20 << 10), all.clone()), Room::new(Some(20 << 10), all.clone()));
        let wire = message(15 << 10);
        let mut open: Vec<_> = (0..50).map(|_| metered(&wire[..20], 20, &slow)).collect();
        let passed: usize = open.iter_mut().map(|body| received(body).0.len()).sum();
        assert_eq!(passed, 20 + 49 * 4, "one has room, the others only the begin of a head");
        assert_eq!(free(&all), 85, "the room of one message");
        let mut body = metered(&wire, 1000, &other);
        assert_eq!(received(&mut body), (wire, true));
    }

    #[test]
    fn what_is_larger_than_all_room_passes_alone() {
        let room = room(None, 4 << 10);
        let wire = message(50_000);
        let mut body = metered(&wire, 1000, &room);
        assert_eq!(received(&mut body), (wire, true));
        let mut large = metered(&message(50_000)[..10], 10, &room);
        received(&mut large);
        let mut other = metered(&message(1), 10, &room);
        assert_eq!(received(&mut other), (message(1)[..4].to_vec(), false));
    }

    #[test]
    fn a_call_that_is_given_up_while_it_waits_is_forgotten() {
        let room = room(None, 4 << 10);
        let mut large = metered(&message(4 << 10)[..10], 10, &room);
        received(&mut large);
        let mut waits = metered(&message(100), 10, &room);
        received(&mut waits);
        drop(waits);
        drop(large);
        assert_eq!(free(&room.all), 4);
    }
}
