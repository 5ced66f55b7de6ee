//! Which certificate a server presents now: a handshake that only looks.
//!
//! Nothing is sent behind the handshake, and what is presented is shown, not trusted.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::view::Certificate;
use crate::remote::Address;

/// Longest wait for the connection, and for each piece of the handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// The certificates that the server at an address presents, its own first.
///
/// # Errors
/// If there is no server, or it does not speak TLS.
pub(super) fn presented(address: &Address, now_ms: u64) -> anyhow::Result<Vec<Certificate>> {
    let chain = handshake(address).with_context(|| format!("{address}: no TLS handshake"))?;
    chain.iter().map(|der| Certificate::from_der(&address.to_string(), der, now_ms)).collect()
}

fn handshake(address: &Address) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LooksOnly(provider)))
        .with_no_client_auth();
    let (host, port) = address.host_and_port();
    let name = ServerName::try_from(host.to_owned())?;
    let at = (host, port).to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    // It ends here, so that the server has nothing to refuse.
    while connection.peer_certificates().is_none() {
        if connection.wants_write() {
            connection.write_tls(&mut stream)?;
        } else if connection.read_tls(&mut stream)? == 0 {
            bail!("the server ended the connection");
        } else {
            connection.process_new_packets()?;
        }
    }
    Ok(connection
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|der| der.clone().into_owned())
        .collect())
}

/// Checks that the server has the key of what it presents, and nothing about who vouches for it.
#[derive(Debug)]
struct LooksOnly(Arc<CryptoProvider>);

impl ServerCertVerifier for LooksOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
