//! A connection that somebody made to this node, in plaintext or over TLS, and who that is.
//!
//! The services see a [`Caller`] with each request. A plaintext connection that begins like TLS is told apart
//! by its first byte, so that the log says what went wrong; it costs one comparison for each connection.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected as HttpConnected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::Certificate;
use super::acceptor::Acceptor;
use super::refusals::{Place, Reason, Refusals};

/// First byte of every handshake of TLS (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Caller {
    /// From where.
    pub remote: SocketAddr,
    /// What it has shown; `None`: the connection is in plaintext.
    pub certificate: Option<Arc<Certificate>>,
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
        Self { remote: *stream.remote_addr(), certificate: None }
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
}

#[derive(Debug)]
enum Inner {
    /// With whom to tell if it turns out to be TLS, until the first bytes are there.
    Plain(TcpStream, Option<(Place, Arc<Refusals>)>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn plain(
        stream: TcpStream,
        remote: SocketAddr,
        place: Place,
        refusals: Arc<Refusals>,
    ) -> Self {
        let caller = Caller { remote, certificate: None };
        Self { inner: Inner::Plain(stream, Some((place, refusals))), caller }
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        remote: SocketAddr,
        certificate: Arc<Certificate>,
    ) -> Self {
        let caller = Caller { remote, certificate: Some(certificate) };
        Self { inner: Inner::Tls(Box::new(stream)), caller }
    }
}

impl Stream {
    pub(super) fn remote(&self) -> SocketAddr {
        self.caller.remote
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
        let Self { inner, caller } = &mut *self;
        match inner {
            Inner::Plain(stream, None) => Pin::new(stream).poll_read(cx, into),
            Inner::Plain(stream, first) => {
                let before = into.filled().len();
                ready!(Pin::new(stream).poll_read(cx, into))?;
                match (into.filled().get(before), first.take()) {
                    (Some(&TLS_HANDSHAKE), Some((place, refusals))) => {
                        let what = "speaks TLS, this listener plaintext";
                        refusals.refused(place, Reason::Tls, &caller.remote, what);
                        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)))
                    }
                    _ => Poll::Ready(Ok(())),
                }
            }
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Inner::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(stream, _) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
