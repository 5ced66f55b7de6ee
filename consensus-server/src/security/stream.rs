//! A connection that somebody made to this node, in plaintext or over TLS, and who that is.
//!
//! The services see a [`Caller`] with each request. A plaintext connection that begins like TLS is told apart
//! by its first byte, so that the log says what went wrong; it costs one comparison for each connection. One that
//! says nothing at all is closed after a while, and so is one that is cut off ([`Connection::cut`]).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected as HttpConnected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::Certificate;
use super::acceptor::Acceptor;
use super::refusals::{Place, Reason, Refusals};
use crate::clients::{Account, Connection};

/// First byte of every handshake of TLS (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// A connection of a client or a node that has said nothing by then is closed: both speak first.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Caller {
    /// From where.
    pub remote: SocketAddr,
    /// What it has shown; `None`: the connection is in plaintext.
    pub certificate: Option<Arc<Certificate>>,
    /// Its place among the clients, if it is one.
    pub connection: Option<Arc<Connection>>,
}

impl Caller {
    /// Somebody whose use of this node is not counted.
    pub(crate) fn uncounted(remote: SocketAddr, certificate: Option<Arc<Certificate>>) -> Self {
        Self { remote, certificate, connection: None }
    }

    /// What it uses of this node, if that is counted.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.connection.as_ref().map(|connection| connection.account())
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.certificate {
            Some(certificate) => write!(f, "{} at {}", certificate.subject, self.remote),
            None => self.remote.fmt(f),
        }
    }
}

impl HttpConnected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::uncounted(*stream.remote_addr(), None)
    }
}

impl HttpConnected<IncomingStream<'_, Acceptor>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Acceptor>) -> Self {
        stream.io().caller.clone()
    }
}

/// A connection; see the module.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    caller: Caller,
    /// Until the first bytes are there.
    opening: Option<Opening>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is looked at when the first bytes come, or do not come.
#[derive(Debug)]
struct Opening {
    place: Place,
    refusals: Arc<Refusals>,
    /// None where the caller may take its time.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Opening {
    fn new(place: Place, refusals: Arc<Refusals>, silence_max: Duration) -> Self {
        let patience = match place {
            Place::Client | Place::Peer => Some(Box::pin(tokio::time::sleep(silence_max))),
            Place::Ops | Place::Outgoing => None,
        };
        Self { place, refusals, patience }
    }

    /// The connection is closed for this reason.
    fn refuse(&self, reason: Reason, caller: &Caller, kind: io::ErrorKind, what: &str) -> io::Error {
        self.refusals.refused(self.place, reason, caller, what);
        io::Error::new(kind, what.to_owned())
    }
}

impl Stream {
    pub(super) fn plain(stream: TcpStream, caller: Caller, place: Place, refusals: Arc<Refusals>) -> Self {
        Self::new(Inner::Plain(stream), caller, Opening::new(place, refusals, SILENCE_MAX))
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        caller: Caller,
        place: Place,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self::new(Inner::Tls(Box::new(stream)), caller, Opening::new(place, refusals, SILENCE_MAX))
    }

    fn new(inner: Inner, caller: Caller, opening: Opening) -> Self {
        let cut = caller.connection.as_ref().map(|connection| Box::pin(connection.is_cut()));
        Self { inner, caller, opening: Some(opening), cut }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.caller.remote
    }

    /// Reads, whatever it is.
    fn poll_inner(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }

    /// Reads the first bytes.
    fn poll_opening(
        &mut self,
        mut opening: Opening,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        match self.poll_inner(cx, into) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                if let Some(patience) = &mut opening.patience
                    && patience.as_mut().poll(cx).is_ready()
                {
                    let what = format!("says nothing for {} s", SILENCE_MAX.as_secs());
                    let error = opening.refuse(Reason::Silent, &self.caller, io::ErrorKind::TimedOut, &what);
                    return Poll::Ready(Err(error));
                }
                self.opening = Some(opening);
                return Poll::Pending;
            }
        }
        match (&self.inner, into.filled().get(before)) {
            (Inner::Plain(_), Some(&TLS_HANDSHAKE)) => {
                let what = "speaks TLS, this listener plaintext";
                let error = opening.refuse(Reason::Tls, &self.caller, io::ErrorKind::InvalidData, what);
                Poll::Ready(Err(error))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match self.opening.take() {
            None => self.poll_inner(cx, into),
            Some(opening) => self.poll_opening(opening, cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Inner::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::metrics::SecurityMetrics;

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed_and_counted() {
        let metrics = Metrics::new(1);
        let refusals = Arc::new(Refusals::new(SecurityMetrics::new(&metrics)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let silent = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listens");
        let (accepted, remote) = listener.accept().await.expect("connected");
        let opening = Opening::new(Place::Client, refusals, Duration::from_millis(20));
        let mut stream = Stream::new(Inner::Plain(accepted), Caller::uncounted(remote, None), opening);
        let mut bytes = [0; 8];
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut bytes)).await;
        let error = read.expect("in time").expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let series = "consensus_security_refused_total{at=\"client\",reason=\"silent\"} 1";
        assert!(metrics.encode().contains(series), "{}", metrics.encode());
        drop(silent);
    }
}
