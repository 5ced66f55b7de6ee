//! Whether the other side of a connection is who it must be.
//!
//! An authority in `security.ca` must vouch for its certificate, which must be valid now, and between nodes its
//! public key must be one that the configuration knows: of any other member for a node that calls, of exactly
//! the called member for the one that answers. The name in a certificate decides nothing between nodes: a key is
//! the stricter proof, and addresses may change. With `accept_expired` a certificate that was valid at some
//! time will do.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use thiserror::Error as ThisError;

use super::Certificate;
use crate::config::Pin;

/// A certificate that is in order and whose public key is not one of those that it must be.
#[derive(Clone, Debug, ThisError)]
#[error("{subject} has the public key {pin}, which {must}")]
pub(super) struct UnknownKey {
    subject: String,
    pin: Pin,
    must: &'static str,
}

/// Judges certificates; see the module.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    accept_expired: bool,
    /// The public keys of which it must have one.
    keys: Option<Keys>,
}

#[derive(Clone, Debug)]
struct Keys {
    pins: Vec<Pin>,
    must: &'static str,
}

impl Verifier {
    /// Of anybody for whom one of `roots` vouches.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        accept_expired: bool,
    ) -> Result<Self, VerifierBuilderError> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { roots, clients, algorithms, accept_expired, keys: None })
    }

    /// Only of whoever has one of these public keys besides; `must` completes "its public key".
    pub(super) fn only(&self, pins: Vec<Pin>, must: &'static str) -> Arc<Self> {
        Arc::new(Self { keys: Some(Keys { pins, must }), ..self.clone() })
    }

    /// Verifies at a time, and once more at one before the first end if ended certificates are accepted.
    fn at(
        &self,
        now: UnixTime,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        verify: impl Fn(UnixTime) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let verified = match verify(now) {
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) if self.accept_expired => {
                let all = std::iter::once(end_entity).chain(intermediates);
                let ends = all.filter_map(|der| Some(Certificate::parse(der).ok()?.not_after));
                let first_end = ends.min().and_then(|end| u64::try_from(end).ok()).unwrap_or_default();
                verify(UnixTime::since_unix_epoch(Duration::from_secs(first_end)))
            }
            verified => verified,
        };
        verified.and_then(|()| self.known(end_entity))
    }

    fn known(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(Keys { pins, must }) = &self.keys else { return Ok(()) };
        let Certificate { subject, pin, .. } = Certificate::parse(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if pins.contains(&pin) {
            return Ok(());
        }
        let unknown = UnknownKey { subject, pin, must };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(unknown)))))
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verify = |now| self.clients.verify_client_cert(end_entity, intermediates, now).map(drop);
        self.at(now, end_entity, intermediates, verify)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.keys.is_none() {
            // Neither a name nor a key would say who it is.
            return Err(Error::General("a server is known by its public key only".to_owned()));
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let verify = |now| {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )
        };
        self.at(now, end_entity, intermediates, verify)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
