//! Connections of this node to other nodes: in plaintext, or over TLS to exactly the node that is meant.
//!
//! TLS 1.3 lets a caller believe that all is well before the other side has judged its certificate. Here a
//! connection counts as made when the first bytes of the other side have come, as those of every gRPC server do
//! by themselves; so a refusal is the failure of the connection, with the reason in words, and not that of
//! the first call on it.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use consensus_core::ids::NodeId;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};

use super::acceptor::reason;
use super::certificate::Certificate;
use super::refusals::{Place, Reason};
use super::tls::Tls;

/// Makes connections to other nodes.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Option<Arc<Tls>>,
}

impl Dialer {
    pub(super) fn new(tls: Option<Arc<Tls>>) -> Self {
        Self { tls }
    }

    /// What connects to one node over TLS; `None`: in plaintext.
    pub(crate) fn connector(&self, node_id: NodeId, address: &str) -> Option<Connector> {
        let tls = self.tls.clone()?;
        Some(Connector { tls, node_id, address: address.to_owned() })
    }

    /// Whether the certificate that a node showed last is near its end or past it. Connections outlive renewals, so
    /// only another handshake tells whether it has a new one.
    pub(crate) fn saw_an_end(&self, node_id: NodeId) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.saw_an_end(node_id))
    }
}

/// Connects to one node over TLS.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tls: Arc<Tls>,
    node_id: NodeId,
    address: String,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

impl Connector {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let Some(config) = self.tls.current().to_node(self.node_id) else {
            return Err(io::Error::other(format!("no public key is known of node {}", self.node_id)));
        };
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let connected = TlsConnector::from(config).connect(self.name(), stream).await;
        let mut stream = connected.map_err(|error| self.failed(&error))?;
        if stream.fill_buf().await.map_err(|error| self.failed(&error))?.is_empty() {
            return Err(io::Error::other("hung up after the TLS handshake"));
        }
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        if let Some(certificate) = shown.and_then(|der| Certificate::parse(der).ok()) {
            self.tls.seen(&certificate);
        }
        Ok(stream)
    }

    /// What the node is called in the handshake; nothing is decided by it.
    fn name(&self) -> ServerName<'static> {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        ServerName::try_from(host).unwrap_or_else(|_| {
            let name = format!("node-{}.invalid", self.node_id);
            ServerName::try_from(name).expect("letters, digits, a dash and a dot make a name")
        })
    }

    /// Counts a failed handshake; whoever wanted the connection logs the words.
    fn failed(&self, error: &io::Error) -> io::Error {
        let (reason, what) = reason(error);
        let what = match reason {
            Reason::Plaintext => "speaks no TLS; this node does".to_owned(),
            Reason::HungUp => {
                "hung up during the TLS handshake, as a node does that speaks plaintext".to_owned()
            }
            _ => what,
        };
        self.tls.refusals().counted(Place::Outgoing, reason);
        io::Error::other(what)
    }
}
