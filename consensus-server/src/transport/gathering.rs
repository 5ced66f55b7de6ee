//! A connection that gathers what is written within one turn of the runtime and hands it to the system in
//! one piece.
//!
//! HTTP/2 writes the head and the body of a call one after the other, and the answers to calls that came
//! together one by one. Each of these small writes is a call of the system, and on the same machine a thread
//! that is woken at the other end: with a call for every message they were a third of what a block cost.
//! Here a flush lets everything that is ready run once before it sends, so that what belongs together leaves
//! together. Large writes pass through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A write of more bytes is not held.
const SMALL_BYTES_MAX: usize = 4 << 10;
/// So many bytes are held at most.
const HELD_BYTES_MAX: usize = 16 << 10;

/// A connection whose small writes wait for the others of their turn.
#[derive(Debug)]
pub struct Gathering<S> {
    inner: S,
    held: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// The others have had their turn.
    waited: bool,
}

impl<S> Gathering<S> {
    /// Over this connection.
    pub fn new(inner: S) -> Self {
        Self { inner, held: Vec::new(), sent: 0, waited: false }
    }

    fn is_held(&self, bytes: usize) -> bool {
        // What is on its way is not written to.
        bytes <= SMALL_BYTES_MAX && self.sent == 0 && self.held.len() + bytes <= HELD_BYTES_MAX
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.held.clear();
        (self.sent, self.waited) = (0, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.is_held(bytes) {
            slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
            return Poll::Ready(Ok(bytes));
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() && !self.waited {
            self.waited = true;
            // A task that wakes itself comes after those that are ready.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: Connected> Connected for Gathering<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes so many bytes at a time, and every second time none.
    #[derive(Clone, Debug)]
    struct Peer {
        pieces: Rc<RefCell<Vec<Vec<u8>>>>,
        takes: usize,
        busy: bool,
    }

    impl Peer {
        fn taking(takes: usize) -> Self {
            Self { pieces: Rc::default(), takes, busy: false }
        }

        fn pieces(&self) -> Vec<usize> {
            self.pieces.borrow().iter().map(Vec::len).collect()
        }

        fn all(&self) -> Vec<u8> {
            self.pieces.borrow().concat()
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.busy = !self.busy && self.takes < bytes.len();
            if self.busy {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.takes);
            self.pieces.borrow_mut().push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_flush_waits_one_turn_and_sends_all_of_it_in_one_piece() {
        let peer = Peer::taking(usize::MAX);
        let (mut connection, mut cx) = (Gathering::new(peer.clone()), Context::from_waker(Waker::noop()));
        for part in [&b"head"[..], b"body"] {
            assert!(Pin::new(&mut connection).poll_write(&mut cx, part).is_ready());
            if part == b"head" {
                assert!(Pin::new(&mut connection).poll_flush(&mut cx).is_pending());
            }
        }
        assert_eq!(peer.pieces(), [0; 0], "nothing has left before the others had their turn");
        assert!(Pin::new(&mut connection).poll_flush(&mut cx).is_ready());
        assert_eq!(peer.all(), b"headbody");
        assert_eq!(peer.pieces(), [8]);
        assert!(
            Pin::new(&mut connection).poll_flush(&mut cx).is_ready(),
            "nothing is held: no turn is waited"
        );
    }

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order_whatever_the_peer_takes_at_a_time() {
        for takes in [1, 7, 1000, 5000, usize::MAX] {
            let peer = Peer::taking(takes);
            let mut connection = Gathering::new(peer.clone());
            let mut written = Vec::new();
            for (index, length) in
                [1, 100, 4096, 4097, 3, 20_000, 16, 4096, 4096, 4096, 4096, 9].into_iter().enumerate()
            {
                let bytes = vec![index as u8; length];
                connection.write_all(&bytes).await.expect("written");
                written.extend(bytes);
                if index % 3 == 0 {
                    connection.flush().await.expect("flushed");
                    assert!(peer.all() == written, "after write {index}, {takes} at a time");
                }
            }
            connection.shutdown().await.expect("shut down");
            assert!(peer.all() == written, "at the end, {takes} at a time");
        }
    }

    #[tokio::test]
    async fn no_more_than_the_bound_is_held() {
        let mut connection = Gathering::new(Peer::taking(usize::MAX));
        for _ in 0..1000 {
            connection.write_all(&[1; 1000]).await.expect("written");
            assert!(connection.held.len() <= HELD_BYTES_MAX);
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_any_more_is_an_error() {
        let mut connection = Gathering::new(Peer::taking(0));
        connection.write_all(b"held").await.expect("held");
        let error = connection.flush().await.expect_err("nothing is taken");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
