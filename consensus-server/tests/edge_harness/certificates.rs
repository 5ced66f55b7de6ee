//! Authorities, certificates, and callers that show them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

use consensus_server::config::Pin;

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate with its key.
#[derive(Clone, Default)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    /// The line of `[[peers]]` for its public key.
    pub(crate) fn pin(&self) -> Pin {
        let key = KeyPair::from_pem(&self.key).expect("a key");
        Pin::of_public_key(&rcgen::PublicKeyData::subject_public_key_info(&key))
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("PEM");
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }

    /// A server of HTTP/2 that shows it and asks for nothing.
    pub(crate) fn server_config(&self) -> ServerConfig {
        let (chain, key) = self.parts();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn named(name: &str, units: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // One kind of attribute is kept once, so the second goes by its number.
    let kinds = [DnType::OrganizationalUnitName, DnType::CustomDnType(vec![2, 5, 4, 11])];
    assert!(units.len() <= kinds.len());
    for (kind, unit) in kinds.into_iter().zip(units) {
        params.distinguished_name.push(kind, *unit);
    }
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Identity {
        let certificate = params.signed_by(key, &self.issuer).expect("signed").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// For a new key.
    pub(crate) fn issue(&self, name: &str, units: &[&str]) -> Identity {
        self.sign(&named(name, units), &KeyPair::generate().expect("a key"))
    }

    /// A certificate that ended years ago.
    pub(crate) fn issue_expired(&self, name: &str, units: &[&str]) -> Identity {
        self.renew_as(&KeyPair::generate().expect("a key").serialize_pem(), name, units, 2021)
    }

    /// A certificate for a key that is there, until the first day of a year.
    pub(crate) fn renew_as(&self, key: &str, name: &str, units: &[&str], year: i32) -> Identity {
        let mut params = named(name, units);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        self.sign(&params, &KeyPair::from_pem(key).expect("a key"))
    }
}

/// A clock that has stopped in the middle of 2020.
#[derive(Debug)]
struct In2020;

impl TimeProvider for In2020 {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_593_561_600)))
    }
}

/// A caller over TLS: what it trusts, what it shows, what it speaks.
#[derive(Clone)]
pub(crate) struct Tls {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(address: SocketAddr, trusted: &Authority, shown: Option<&Identity>) -> Self {
        Self::speaking(address, trusted, shown, rustls::ALL_VERSIONS, b"h2")
    }

    /// A caller whose clock is in 2020, when what has expired was valid.
    pub(crate) fn in_2020(address: SocketAddr, trusted: &Authority, shown: &Identity) -> Self {
        Self::with_clock(address, trusted, Some(shown), rustls::ALL_VERSIONS, b"h2", Arc::new(In2020))
    }

    pub(crate) fn speaking(
        address: SocketAddr,
        trusted: &Authority,
        shown: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
        protocol: &[u8],
    ) -> Self {
        Self::with_clock(address, trusted, shown, versions, protocol, Arc::new(DefaultTimeProvider))
    }

    fn with_clock(
        address: SocketAddr,
        trusted: &Authority,
        shown: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
        protocol: &[u8],
        clock: Arc<dyn TimeProvider>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(trusted.pem.as_bytes()).expect("PEM");
        roots.add(root).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shown {
            Some(identity) => {
                let (chain, key) = identity.parts();
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Self { address, config: Arc::new(config) }
    }

    /// A connection whose own side of the handshake is done.
    pub(crate) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }

    /// For calls.
    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect_with_connector(self.clone()).await
    }
}

impl Service<Uri> for Tls {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let tls = self.clone();
        Box::pin(async move { tls.connect().await.map(TokioIo::new) })
    }
}
