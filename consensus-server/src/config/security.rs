//! Who may talk to a node, as its configuration says: in plaintext, or over mutual TLS with whom.
//!
//! `[security]` has one of two meanings, and a file that has neither is a mistake, so that nobody runs
//! unprotected without having written it down. This node's own files are read where TLS is set up
//! (`crate::security`), not here; of the members' certificates only the public keys are taken, once.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;
use x509_cert::der::{Decode, Encode};

use super::file::{self, Typed};
use super::validate::Check;

/// What a public key is written with in front.
const PIN_PREFIX: &str = "sha256:";
/// Public keys of one member: the one it has and those it may change to.
const PINS_MAX: usize = 4;
/// Largest file with a member's certificate.
pub(super) const CERTIFICATE_BYTES_MAX: u64 = 1 << 20;

/// How the listeners are protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Security {
    /// Mutual TLS; `None`: plaintext on all listeners.
    pub tls: Option<Tls>,
    /// Whether operations are served in plaintext beyond this host, for reading.
    pub ops_plaintext: bool,
}

/// Where the certificates of mutual TLS are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// This node's certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that vouch for nodes and clients.
    pub ca: PathBuf,
    /// Whether certificates of others are accepted after their end: a way back when all have expired.
    pub accept_expired: bool,
}

impl Security {
    /// Plaintext everywhere.
    pub const INSECURE: Self = Self { tls: None, ops_plaintext: false };

    /// Whether a listener for operations at this address speaks TLS: on this host's own addresses it never
    /// does.
    pub fn ops_speaks_tls(&self, ops: SocketAddr) -> bool {
        self.tls.is_some() && !self.ops_plaintext && !ops.ip().to_canonical().is_loopback()
    }
}

/// A public key that a member must have: the SHA-256 of its SubjectPublicKeyInfo (RFC 5280), written
/// `sha256:` and 64 hex digits. It stays the same when a certificate is renewed for the same key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// Of a SubjectPublicKeyInfo in DER.
    pub fn of_public_key(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }

    /// Of the first certificate of a PEM file, which is its owner's.
    fn of_certificate_file(path: &Path) -> Result<Self, String> {
        let pem = regular_file(path).map_err(|error| format!("cannot be read: {error}"))?;
        if pem.len() as u64 > CERTIFICATE_BYTES_MAX {
            return Err(format!("has more than {CERTIFICATE_BYTES_MAX} bytes"));
        }
        let der = CertificateDer::pem_slice_iter(&pem).next().ok_or("holds no certificate, must be PEM")?;
        let der = der.map_err(|error| format!("is no PEM file: {error}"))?;
        let certificate = x509_cert::Certificate::from_der(&der)
            .map_err(|error| format!("holds no X.509 certificate: {error}"))?;
        let key = certificate.tbs_certificate().subject_public_key_info().to_der();
        key.map(|key| Self::of_public_key(&key)).map_err(|error| format!("has no public key: {error}"))
    }
}

/// The content of a file, cut off beyond what is read of it; a pipe or a device is waited for by nobody.
fn regular_file(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(CERTIFICATE_BYTES_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN_PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix(PIN_PREFIX).ok_or("must begin with \"sha256:\"")?;
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| "must have 64 hex digits after \"sha256:\"")?;
        Ok(Self(bytes))
    }
}

/// The public keys of a member as typed: one, or several while it changes its key.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text \"sha256:...\" or a list of them")]
pub(crate) enum PinsTyped {
    One(String),
    Several(Vec<String>),
}

impl Check {
    /// `[security]`, with what it means for the listener of operations.
    pub(super) fn security(
        &mut self,
        typed: &file::Security,
        listen: &file::Listen,
        ops: SocketAddr,
        base: &Path,
    ) -> Security {
        let flag = |typed: &Typed<bool>| typed.as_ref().is_some_and(|typed| *typed.as_ref());
        let files = [
            ("security.certificate", &typed.certificate, "the file of this node's certificate"),
            ("security.key", &typed.key, "the file of its private key"),
            ("security.ca", &typed.ca, "the file of the authorities that vouch for nodes and clients"),
        ];
        let ops_plaintext = flag(&typed.ops_plaintext);
        if flag(&typed.insecure) {
            for (key, at, _) in files {
                if let Some(at) = at {
                    self.mistake(key, at, "is given, must not be with security.insecure".to_owned());
                }
            }
            if let (Some(at), true) = (&typed.accept_expired, flag(&typed.accept_expired)) {
                self.mistake("security.accept_expired", at, "is true, which only TLS reads".to_owned());
            }
            return Security { tls: None, ops_plaintext };
        }
        if files.iter().all(|(_, at, _)| at.is_none()) {
            let what = "is missing, must be either insecure = true (plaintext on all listeners) or certificate, key \
                        and ca";
            self.mistake_at("[security]", &typed.insecure, what.to_owned());
            if let (Some(at), false) = (&listen.ops, ops.ip().to_canonical().is_loopback() || ops_plaintext) {
                let what = format!(
                    "is {ops}, which is not only this host: needs certificates, security.insecure or \
                     security.ops_plaintext"
                );
                self.mistake("listen.ops", at, what);
            }
            return Security { tls: None, ops_plaintext };
        }
        let [certificate, key, ca] = files.map(|(name, at, what)| match at {
            Some(path) if !path.as_ref().is_empty() => base.join(path.as_ref()),
            _ => {
                let state = if at.is_some() { "empty" } else { "missing" };
                self.mistake_at(name, at, format!("is {state}, must be {what}"));
                base.to_owned()
            }
        });
        let accept_expired = flag(&typed.accept_expired);
        Security { tls: Some(Tls { certificate, key, ca, accept_expired }), ops_plaintext }
    }

    /// The public keys of one member, as the file says or as its certificate has it. `others` are those that are
    /// taken, by member.
    pub(super) fn public_keys(
        &mut self,
        peer: &file::Peer,
        base: &Path,
        others: &mut Vec<(Pin, u64)>,
    ) -> Vec<Pin> {
        const KEY: &str = "peers.certificate";
        let id = *peer.id.as_ref();
        let Some(typed) = &peer.certificate else { return self.pins(id, &peer.public_key, others) };
        if peer.public_key.is_some() {
            self.mistake(KEY, typed, "is given, must not be beside peers.public_key".to_owned());
            return Vec::new();
        }
        let path = base.join(typed.as_ref());
        match Pin::of_certificate_file(&path) {
            Ok(pin) => {
                self.free(KEY, typed, pin, others);
                others.push((pin, id));
                vec![pin]
            }
            Err(why) => {
                self.mistake(KEY, typed, format!("is {:?}: {} {why}", typed.as_ref(), path.display()));
                Vec::new()
            }
        }
    }

    /// A public key is one member's.
    fn free<T>(&mut self, key: &str, at: &Spanned<T>, pin: Pin, others: &[(Pin, u64)]) {
        if let Some((_, other)) = others.iter().find(|(other, _)| *other == pin) {
            self.mistake(key, at, format!("is {pin}, which is given for node {other} too"));
        }
    }

    /// Public keys as the file says.
    fn pins(&mut self, id: u64, typed: &Typed<PinsTyped>, others: &mut Vec<(Pin, u64)>) -> Vec<Pin> {
        const KEY: &str = "peers.public_key";
        let Some(typed) = typed else { return Vec::new() };
        let texts = match typed.as_ref() {
            PinsTyped::One(text) => std::slice::from_ref(text),
            PinsTyped::Several(texts) => texts.as_slice(),
        };
        if texts.is_empty() || texts.len() > PINS_MAX {
            let count = texts.len();
            self.mistake(KEY, typed, format!("has {count} keys, must have between 1 and {PINS_MAX}"));
        }
        let mut pins = Vec::with_capacity(texts.len().min(PINS_MAX));
        for text in texts.iter().take(PINS_MAX) {
            match text.parse::<Pin>() {
                Ok(pin) => {
                    self.free(KEY, typed, pin, others);
                    others.push((pin, id));
                    pins.push(pin);
                }
                Err(why) => self.mistake(KEY, typed, format!("is {text:?}, {why}")),
            }
        }
        pins
    }

    /// Every member has a public key once there is TLS.
    pub(super) fn pinned(&mut self, peers: &[Spanned<file::Peer>]) {
        let unknown = |peer: &file::Peer| peer.public_key.is_none() && peer.certificate.is_none();
        for peer in peers.iter().filter(|peer| unknown(peer.as_ref())) {
            let what = format!(
                "is missing for node {}, must be the SHA-256 of its public key (sha256:...), or peers.certificate \
                 the file of its certificate: TLS is on",
                peer.as_ref().id.as_ref()
            );
            self.mistake("peers.public_key", peer, what);
        }
    }
}
