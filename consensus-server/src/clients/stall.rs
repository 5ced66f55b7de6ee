//! The body of an answer that is watched: whether somebody still takes what is in it.
//!
//! It is passed on in small pieces, and each time the connection asks for the next one, the reader has made room. When
//! it has not asked for a while, the call is told to end ([`Progress::is_stalled`]), which the reader sees once it
//! reads on; when it does not do that either, its connection is closed, since what is already on its way to it
//! cannot be taken back otherwise.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// A reader that takes so little is seen to go on.
const PIECE_BYTES: usize = 64 << 10;

/// How a reader goes on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Since when a piece is out of which nothing is known; `None`: the reader waits for us.
    handed: Mutex<Option<Instant>>,
    stalled: AtomicBool,
}

impl Progress {
    fn note(&self, handed: Option<Instant>) {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = handed;
    }

    fn handed(&self) -> Option<Instant> {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call is to end, because its reader takes nothing.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Tells the call to end.
    pub(crate) fn stalled(&self) {
        self.stalled.store(true, Ordering::Release);
    }

    /// Returns when the reader has taken nothing for `patience`.
    pub(crate) async fn silence(&self, patience: Duration) {
        while let Some(at) = self.look(Instant::now(), patience) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// When to look again; `None` if the reader has taken nothing for `patience`.
    fn look(&self, now: Instant, patience: Duration) -> Option<Instant> {
        match self.handed() {
            Some(handed) if now >= handed + patience => None,
            Some(handed) => Some(handed + patience),
            None => Some(now + patience),
        }
    }
}

/// An answer's body that notes how its reader goes on. What comes with it is dropped at its end.
pub(crate) struct Watched<T> {
    inner: Body,
    progress: Arc<Progress>,
    stash: Bytes,
    _held: T,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Of a call that holds `held`.
    pub(crate) fn new(inner: Body, progress: Arc<Progress>, held: T) -> Self {
        Self { inner, progress, stash: Bytes::new(), _held: held }
    }
}

impl<T: Unpin> http_body::Body for Watched<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.progress.note(None);
        while this.stash.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(mut data) => this.stash = data.copy_to_bytes(data.remaining()),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = this.stash.split_to(this.stash.len().min(PIECE_BYTES));
        this.progress.note(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.stash.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body::Body as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn watched(bytes: usize) -> (Watched<()>, Arc<Progress>) {
        struct One(Option<Bytes>);
        impl http_body::Body for One {
            type Data = Bytes;
            type Error = Status;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                // As a stream that waits for the next block.
                self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
            }
        }
        let progress = Arc::new(Progress::default());
        let body = Body::new(One(Some(vec![0; bytes].into())));
        (Watched::new(body, progress.clone(), ()), progress)
    }

    /// The bytes of the next piece; `None` if there is none yet.
    fn next(body: &mut Watched<()>) -> Option<usize> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).now_or_never()?;
        Some(frame.expect("more").expect("no error").data_ref().expect("data").len())
    }

    #[test]
    fn a_reader_that_takes_nothing_is_found_and_one_that_takes_little_is_not() {
        let (mut body, progress) = watched(3 * PIECE_BYTES);
        let start = Instant::now();
        assert_eq!(progress.look(start, PATIENCE), Some(start + PATIENCE), "nothing was given to it");
        let mut last = start;
        for _ in 0..3 {
            assert_eq!(next(&mut body), Some(PIECE_BYTES));
            let handed = progress.handed().expect("a piece is out");
            assert!(handed > last, "each piece counts anew");
            last = handed;
            let almost = handed + PATIENCE - Duration::from_millis(1);
            assert_eq!(progress.look(almost, PATIENCE), Some(handed + PATIENCE));
            assert_eq!(progress.look(handed + PATIENCE, PATIENCE), None);
        }
    }

    #[test]
    fn a_reader_that_waits_for_the_next_block_is_not_slow() {
        let (mut body, progress) = watched(10);
        assert_eq!(next(&mut body), Some(10));
        assert_eq!(next(&mut body), None);
        let late = Instant::now() + 20 * PATIENCE;
        assert_eq!(progress.look(late, PATIENCE), Some(late + PATIENCE));
    }

    #[tokio::test]
    async fn silence_is_noticed_by_itself() {
        let (mut body, progress) = watched(10);
        next(&mut body);
        progress.silence(Duration::from_millis(10)).await;
        assert!(!progress.is_stalled());
        progress.stalled();
        assert!(progress.is_stalled());
    }
}
