//! Connections to the services beside this node, which are called for every message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

use super::gathering::Gathering;

/// To a port of this host. Connects when it is first used, within a runtime, and again after a loss; `lost`
/// is told of each connection that is dropped.
pub(crate) fn channel(port: u16, connect_timeout: Duration, lost: Arc<Notify>) -> Channel {
    let uri = Uri::builder().scheme("http").authority(format!("localhost:{port}")).path_and_query("/");
    let uri = uri.build().expect("a host and a port make an address");
    Endpoint::from(uri).connect_timeout(connect_timeout).connect_with_connector_lazy(Connector { lost })
}

/// Makes connections that tell when they are dropped.
#[derive(Clone)]
struct Connector {
    lost: Arc<Notify>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Watched>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let lost = self.lost.clone();
        Box::pin(async move {
            let port = uri.port_u16().unwrap_or(80);
            let stream = TcpStream::connect((uri.host().unwrap_or("localhost"), port)).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(Watched { stream: Gathering::new(stream), lost }))
        })
    }
}

/// A connection that tells when it is dropped.
struct Watched {
    stream: Gathering<TcpStream>,
    lost: Arc<Notify>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.lost.notify_one();
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
