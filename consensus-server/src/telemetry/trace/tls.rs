//! The connection to a collector over TLS.
//!
//! The collector must show a certificate for the host of the endpoint, under one of the authorities of a file. The
//! file is read at the start, so that a mistake is found there, and again for each connection, so that new
//! authorities need no restart. The node shows no certificate of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};

/// Where OTLP over gRPC is served.
const PORT: u16 = 4317;

/// Connects to a collector.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    authorities: PathBuf,
}

impl Connector {
    /// With the authorities of this file.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn new(authorities: &Path) -> anyhow::Result<Self> {
        configuration(authorities)?;
        Ok(Self { authorities: authorities.to_owned() })
    }

    async fn connect(self, endpoint: Uri) -> io::Result<TlsStream<TcpStream>> {
        let file = self.authorities;
        let read = tokio::task::spawn_blocking(move || configuration(&file)).await;
        let config =
            read.map_err(io::Error::other)?.map_err(|error| io::Error::other(format!("{error:#}")))?;
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let stream = TcpStream::connect((host, endpoint.port_u16().unwrap_or(PORT))).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, endpoint: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(endpoint).await.map(TokioIo::new) })
    }
}

/// Whom to trust, as the file says now.
fn configuration(file: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let named = || file.display().to_string();
    let content = std::fs::read(file).with_context(named)?;
    let mut roots = RootCertStore::empty();
    for (position, der) in CertificateDer::pem_slice_iter(&content).enumerate() {
        let numbered = || format!("{}: certificate {}", file.display(), position + 1);
        roots.add(der.with_context(numbered)?).with_context(numbered)?;
    }
    if roots.is_empty() {
        anyhow::bail!("{}: holds no certificate, must be PEM", file.display());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .with_context(named)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_that_cannot_be_used_is_named_with_what_is_wrong() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("ca.pem");
        let said = |file: &Path| format!("{:#}", Connector::new(file).expect_err("unusable"));
        assert!(said(&file).contains("ca.pem: No such file"), "{}", said(&file));
        std::fs::write(&file, "no certificate").expect("written");
        assert!(said(&file).ends_with("ca.pem: holds no certificate, must be PEM"), "{}", said(&file));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, empty).expect("written");
        assert!(said(&file).contains("ca.pem: certificate 1: "), "{}", said(&file));
    }
}
