//! The certificate, the key and the authorities, from their files to what handshakes use.
//!
//! [`Files`] is what is on disk at one moment, so that a change can be seen by comparing; [`Credentials`] is the
//! same understood and checked. A mistake names the file and what is wrong with it. Nothing of a private
//! key gets into a message or a log line.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus_core::ids::NodeId;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedProtocolVersion};
use thiserror::Error as ThisError;

use super::Certificate;
use super::refusals::Place;
use super::verifier::Verifier;
use crate::config::{Config, Pin, Tls};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Rights of others than the owner, and those of them beyond reading by the group.
const RIGHTS_OF_OTHERS: u32 = 0o077;
const RIGHTS_BEYOND_THE_GROUPS: u32 = 0o037;
const ROOT: u32 = 0;

/// What is wrong with one of the files.
#[derive(Clone, PartialEq, Eq, Debug, ThisError)]
#[error("{}: {what}", file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl FileError {
    fn new(file: &Path, what: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), what: what.to_string() }
    }
}

/// The contents of the three files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    key_rights: Rights,
    ca: Vec<u8>,
}

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rights {
    owner: u32,
    mode: u32,
}

impl Rights {
    /// Whether nobody but `user` can use a private key. What is root's own is handed to a service through its
    /// group, as Kubernetes does with secrets.
    fn keep_private(self, user: u32) -> bool {
        let rights = match self.owner == ROOT && user != ROOT {
            true => RIGHTS_BEYOND_THE_GROUPS,
            false => RIGHTS_OF_OTHERS,
        };
        self.mode & rights == 0
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Files {
    /// Reads all three.
    pub(super) fn read(tls: &Tls) -> Result<Self, FileError> {
        let (certificate, _) = read(&tls.certificate)?;
        let (key, key_rights) = read(&tls.key)?;
        let (ca, _) = read(&tls.ca)?;
        Ok(Self { certificate, key, key_rights, ca })
    }
}

/// The content of a file and its rights.
fn read(path: &Path) -> Result<(Vec<u8>, Rights), FileError> {
    let unreadable = |error: std::io::Error| FileError::new(path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let rights = Rights { owner: metadata.uid(), mode: metadata.mode() };
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::new(path, format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok((content, rights))
}

/// Who this node is, and whom it knows.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    tls: Tls,
    own: NodeId,
    members: BTreeMap<NodeId, Vec<Pin>>,
}

impl Plan {
    pub(super) fn new(config: &Config, tls: &Tls) -> Self {
        let members = config.members.iter().map(|member| (member.node_id, member.public_keys.clone()));
        Self { tls: tls.clone(), own: config.node_id, members: members.collect() }
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }
}

/// What handshakes use.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) files: Files,
    /// This node's certificate.
    pub(super) own: Certificate,
    /// Those that vouch for others.
    pub(super) authorities: Vec<Certificate>,
    client: Arc<ServerConfig>,
    peer: Arc<ServerConfig>,
    ops: Arc<ServerConfig>,
    to_nodes: BTreeMap<NodeId, Arc<ClientConfig>>,
}

impl Credentials {
    /// For a listener.
    pub(super) fn listener(&self, place: Place) -> Arc<ServerConfig> {
        match place {
            Place::Client => &self.client,
            Place::Ops => &self.ops,
            Place::Peer | Place::Outgoing => &self.peer,
        }
        .clone()
    }

    /// For a connection to another node.
    pub(super) fn to_node(&self, node_id: NodeId) -> Option<Arc<ClientConfig>> {
        self.to_nodes.get(&node_id).cloned()
    }

    /// Understands and checks the contents of the files.
    pub(super) fn new(files: Files, plan: &Plan) -> Result<Self, FileError> {
        let Plan { tls, own: node_id, members } = plan;
        let (chain, mut parsed) = certificates(&tls.certificate, &files.certificate)?;
        let own = parsed.swap_remove(0);
        if !files.key_rights.keep_private(rustix::process::geteuid().as_raw()) {
            let rights = files.key_rights.mode & 0o777;
            let what = format!("others than its owner have rights on it ({rights:03o}), must be 600 or 400");
            return Err(FileError::new(&tls.key, what));
        }
        let provider = Arc::new(ring::default_provider());
        let key = certified(tls, chain, &files.key, &provider)?;
        if let Some(pins) = members.get(node_id)
            && !pins.is_empty()
            && !pins.contains(&own.pin)
        {
            let what =
                format!("is for the public key {}, [[peers]] has another one for node {node_id}", own.pin);
            return Err(FileError::new(&tls.certificate, what));
        }
        let (anchors, authorities) = certificates(&tls.ca, &files.ca)?;
        let mut roots = RootCertStore::empty();
        for anchor in anchors {
            roots.add(anchor).map_err(|error| FileError::new(&tls.ca, error))?;
        }
        let build = |error: Error| FileError::new(&tls.certificate, error);
        let anybody = Verifier::new(Arc::new(roots), &provider, tls.accept_expired)
            .map_err(|error| FileError::new(&tls.ca, error))?;
        let others = members.iter().filter(|(id, _)| *id != node_id);
        let pins = others.clone().flat_map(|(_, pins)| pins.iter().copied()).collect();
        let peers = anybody.only(pins, "is no other member's");
        let listener = |versions: &[_], verifier: &Arc<Verifier>, protocol: &[u8]| {
            server(&provider, versions, verifier.clone(), &key, protocol).map_err(build)
        };
        let mut to_nodes = BTreeMap::new();
        for (id, pins) in others {
            let verifier = anybody.only(pins.clone(), "is not the one that [[peers]] has for it");
            to_nodes.insert(*id, client(&provider, verifier, &key).map_err(build)?);
        }
        let anybody = Arc::new(anybody);
        Ok(Self {
            client: listener(&[&TLS12, &TLS13], &anybody, b"h2")?,
            peer: listener(&[&TLS13], &peers, b"h2")?,
            ops: listener(&[&TLS12, &TLS13], &anybody, b"http/1.1")?,
            to_nodes,
            files,
            own,
            authorities,
        })
    }
}

/// The certificates of a file, at least one.
fn certificates(
    path: &Path,
    content: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, Vec<Certificate>), FileError> {
    let mut chain = Vec::new();
    let mut parsed = Vec::new();
    for (position, der) in CertificateDer::pem_slice_iter(content).enumerate() {
        let numbered = |what: String| FileError::new(path, format!("certificate {}: {what}", position + 1));
        let der = der.map_err(|error| numbered(error.to_string()))?;
        parsed.push(Certificate::parse(&der).map_err(numbered)?);
        chain.push(der);
    }
    if chain.is_empty() {
        return Err(FileError::new(path, "holds no certificate, must be PEM"));
    }
    Ok((chain, parsed))
}

/// The certificate with its key, which must belong together.
fn certified(
    tls: &Tls,
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, FileError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        let what = "holds no private key, must be PEM with PKCS#8, SEC1 or PKCS#1 and not encrypted";
        FileError::new(&tls.key, what)
    })?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            let what = format!("is not the key of the certificate in {}", tls.certificate.display());
            FileError::new(&tls.key, what)
        }
        other => FileError::new(&tls.key, other),
    })?;
    Ok(Arc::new(certified))
}

/// Sessions are never resumed: whoever comes back is judged by the files as they are then.
fn server(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<Verifier>,
    key: &Arc<CertifiedKey>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn client(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    key: &Arc<CertifiedKey>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_owners_alone_unless_root_hands_it_to_the_services_group() {
        let keeps =
            |owner: u32, mode: u32, user: u32| Rights { owner, mode: 0o100_000 | mode }.keep_private(user);
        for mode in [0o600, 0o400] {
            assert!(keeps(1000, mode, 1000) && keeps(ROOT, mode, ROOT), "{mode:o}");
        }
        for mode in [0o640, 0o440] {
            assert!(keeps(ROOT, mode, 1000), "{mode:o}: a secret of Kubernetes");
            assert!(!keeps(1000, mode, 1000) && !keeps(ROOT, mode, ROOT), "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o604, 0o650] {
            assert!(!keeps(ROOT, mode, 1000), "{mode:o}");
        }
    }
}
