//! The wire to a node, in plaintext or over mutual TLS, and in words why there is none.
//!
//! A refused certificate is often told only after the handshake, where it reaches the caller as a broken
//! HTTP/2 connection. So the wire itself notes what it hears ([`Note`]), and errors are explained from that.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, anyhow, bail};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::Address;
use crate::args::certs::TlsArgs;
use crate::commands::certs::refuse_readable_key;

/// What a TLS record begins with that says why a connection ends. HTTP/2 begins with something else.
const ALERT: u8 = 0x15;

const HOW: &str = "--ca, --cert and --key (or CONSENSUS_CA, CONSENSUS_CERT and CONSENSUS_KEY)";

/// What is spoken within TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// gRPC.
    Http2,
    /// The pages for operations.
    Http1,
}

impl Protocol {
    /// As TLS announces it (RFC 7301).
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }
}

/// The certificates of one user.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    ca: PathBuf,
    /// None: the caller does not say who it is.
    cert: Option<PathBuf>,
}

impl Tls {
    /// Reads the files; `None` if none is given. With the CA alone the caller does not say who it is, which a
    /// node of ours refuses.
    ///
    /// # Errors
    /// A file that is missing beside others, or cannot be used.
    pub(super) fn read(args: &TlsArgs) -> anyhow::Result<Option<Self>> {
        let (ca, own) = match (&args.ca, &args.cert, &args.key) {
            (None, None, None) => return Ok(None),
            (Some(ca), None, None) => (ca, None),
            (Some(ca), Some(cert), Some(key)) => (ca, Some((cert, key))),
            (ca, cert, key) => {
                let names = [("--ca", ca), ("--cert", cert), ("--key", key)];
                let missing: Vec<_> =
                    names.iter().filter(|(_, file)| file.is_none()).map(|(name, _)| *name).collect();
                bail!("TLS needs all of {HOW}; missing: {}", missing.join(", "));
            }
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).with_context(|| format!("{} has a CA that cannot be used", ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, private) = (certificates(cert)?, private_key(key)?);
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    anyhow!("{} and {} do not belong together: {error}", cert.display(), key.display())
                })?
            }
        };
        config.alpn_protocols = vec![Protocol::Http2.name().to_vec()];
        Ok(Some(Self { config: Arc::new(config), ca: ca.clone(), cert: own.map(|(cert, _)| cert.clone()) }))
    }

    /// For connections of one protocol.
    fn config(&self, protocol: Protocol) -> Arc<ClientConfig> {
        match protocol {
            Protocol::Http2 => self.config.clone(),
            Protocol::Http1 => {
                let mut config = ClientConfig::clone(&self.config);
                config.alpn_protocols = vec![protocol.name().to_vec()];
                Arc::new(config)
            }
        }
    }

    /// A failure in words, with what to do about it.
    fn explain(&self, error: &rustls::Error, host: &str) -> String {
        let ca = self.ca.display();
        let cert = self.cert.as_ref().map_or_else(|| "nothing".to_owned(), |cert| cert.display().to_string());
        match error {
            rustls::Error::InvalidCertificate(cause) => match cause {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    format!("the node's certificate is from a CA that is not in {ca} (--ca)")
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the node's certificate has expired: renew it there".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the node's certificate is not valid yet: do the clocks agree?".to_owned()
                }
                CertificateError::NotValidForName => other_name(host, "other names"),
                CertificateError::NotValidForNameContext { presented, .. } => {
                    other_name(host, &presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "))
                }
                other => format!("the node's certificate cannot be accepted: {other}"),
            },
            rustls::Error::AlertReceived(alert) => match alert {
                // The second of a CA of the same name with another key.
                AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                    format!("the node does not know the CA of {cert} (--cert): its security.ca must have it")
                }
                AlertDescription::CertificateExpired => {
                    format!("the node says that {cert} (--cert) has expired: renew it")
                }
                AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                    "the node wants a certificate and has got none: give --cert and --key".to_owned()
                }
                AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate => {
                    format!("the node does not accept {cert} (--cert): {alert:?}; its log says why")
                }
                other => format!("the node ended the TLS handshake: {other:?}"),
            },
            rustls::Error::InvalidMessage(_) => format!("the node speaks no TLS here: leave out {HOW}"),
            other => format!("TLS: {other}"),
        }
    }
}

/// A name as the certificate has it, out of `DnsName("…")` and `IpAddress(…)`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn other_name(host: &str, names: &str) -> String {
    format!(
        "the node's certificate is not for {host} but for {names}: use such a name, or issue it for this one"
    )
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    refuse_readable_key(path)?;
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| anyhow!("{} has no private key: {error}", path.display()))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let pem = std::fs::read(path).with_context(|| format!("reading {shown}"))?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("{shown} is no PEM file: {error}"))?;
    if found.is_empty() {
        bail!("{shown} has no certificate");
    }
    Ok(found)
}

/// The newest thing heard on the wire that explains a failure.
#[derive(Clone, Debug, Default)]
pub(super) struct Note(Arc<Mutex<Option<Heard>>>);

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    words: String,
    kind: Option<Kind>,
}

/// What callers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One side speaks TLS and the other does not, without a doubt: no other try will end otherwise.
    WrongProtocol,
    /// The certificate of one side has expired.
    Expired,
}

impl Kind {
    /// Of an error of ours, wherever it came through.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        error.downcast_ref::<Refusal>().map(|refusal| refusal.kind)
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidMessage(_) => Some(Self::WrongProtocol),
            rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => Some(Self::Expired),
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => Some(Self::Expired),
            _ => None,
        }
    }
}

impl Heard {
    /// As an error about this address.
    pub(super) fn at(self, address: &Address) -> anyhow::Error {
        let what = format!("{address}: {}", self.words);
        match self.kind {
            Some(kind) => anyhow::Error::new(Refusal { kind, what }),
            None => anyhow!(what),
        }
    }
}

impl Note {
    fn set(&self, kind: Option<Kind>, words: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Heard { words, kind });
    }

    /// What was heard, if anything.
    pub(super) fn heard(&self) -> Option<Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connection that did not come about for a reason that callers tell apart.
#[derive(Debug)]
struct Refusal {
    kind: Kind,
    what: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refusal {}

/// Opens wires to one node.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) note: Note,
}

impl Connector {
    pub(super) async fn open(self, protocol: Protocol) -> io::Result<Wire> {
        let (host, port) = self.address.host_and_port();
        let stream = TcpStream::connect((host, port)).await?;
        // Small messages must not wait for acknowledgements.
        stream.set_nodelay(true)?;
        let Some(tls) = self.tls.clone() else {
            let stream = Stream::Plain(stream);
            return Ok(Wire { stream, heard_any: false, connector: self });
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        match TlsConnector::from(tls.config(protocol)).connect(name, stream).await {
            Ok(stream) => {
                let stream = Stream::Secured(Box::new(stream));
                Ok(Wire { stream, heard_any: true, connector: self })
            }
            Err(error) => {
                let cause = rustls_error(&error);
                let words = match cause {
                    Some(cause) => tls.explain(cause, host),
                    None if is_end(&error) => "the node ended the TLS handshake without a reason".to_owned(),
                    None => return Err(error),
                };
                self.note.set(cause.and_then(Kind::of_tls), words.clone());
                Err(io::Error::other(words))
            }
        }
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let opening = self.clone().open(Protocol::Http2);
        Box::pin(async { opening.await.map(TokioIo::new) })
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// An open connection that listens for the reason of its end.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    heard_any: bool,
    connector: Connector,
}

impl Wire {
    /// Notes what a read says about the other side.
    fn hear(&mut self, read: &io::Result<()>, bytes: &[u8]) {
        let closed = match read {
            Ok(()) => bytes.is_empty(),
            Err(error) => is_end(error),
        };
        match (&self.connector.tls, read) {
            (Some(tls), Err(error)) => {
                if let Some(cause) = rustls_error(error) {
                    let words = tls.explain(cause, self.connector.address.host_and_port().0);
                    self.connector.note.set(Kind::of_tls(cause), words);
                }
            }
            (None, _) if !self.heard_any && bytes.first() == Some(&ALERT) => {
                let words = format!("the node speaks TLS here: give {HOW}");
                self.connector.note.set(Some(Kind::WrongProtocol), words);
            }
            (None, _) if !self.heard_any && closed => {
                let words = format!("the node closed the connection at once; if it speaks TLS, give {HOW}");
                self.connector.note.set(None, words);
            }
            _ => {}
        }
        self.heard_any = true;
    }
}

impl Wire {
    /// What a failed write says: whoever closes at once may do so before anything is read.
    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) => {
                let failed = Err(error);
                if !self.heard_any {
                    self.hear(&failed, &[]);
                }
                Poll::Ready(failed.map(|()| 0))
            }
            other => other,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Secured(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        };
        if let Poll::Ready(read) = &read
            && (read.is_err() || !self.heard_any)
        {
            self.hear(read, &buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secured(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        };
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Secured(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        };
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secured(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
