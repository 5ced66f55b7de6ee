//! What a certificate says, read from PEM.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use x509_cert::TbsCertificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::{DirectoryString, GeneralName};
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};

use crate::args::certs::Role;

const DAY_MS: i64 = 86_400_000;
/// The attributes commonName and organizationalUnitName (RFC 4519, 2.3 and 2.20).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Certificate {
    /// The file it is from.
    pub(crate) file: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Whether it may vouch for others.
    pub(crate) ca: bool,
    /// Hexadecimal.
    pub(crate) serial: String,
    /// The common name.
    pub(crate) name: String,
    /// The node it is for, if the common name says so.
    pub(crate) node_id: Option<u64>,
    /// `submit`, `read`, `admin`.
    pub(crate) roles: Vec<&'static str>,
    /// Host names and addresses.
    pub(crate) hosts: Vec<String>,
    pub(crate) not_before_ms: u64,
    pub(crate) not_after_ms: u64,
    /// Whole days until it expires; negative since when it has.
    pub(crate) days_left: i64,
    /// `valid`, `expired` or `not yet valid`.
    pub(crate) validity: &'static str,
    /// `sha256:` and the SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) public_key: String,
}

impl Certificate {
    /// All certificates of a file, as of now.
    ///
    /// # Errors
    /// If there is none, or one that cannot be understood.
    pub(crate) fn read(path: &Path, now_ms: u64) -> anyhow::Result<Vec<Self>> {
        let shown = path.display();
        let pem = std::fs::read(path).with_context(|| format!("reading {shown}"))?;
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(&pem) {
            let der = der.map_err(|error| anyhow!("{shown} is no PEM file: {error}"))?;
            let number = certificates.len() + 1;
            let certificate = Self::from_der(&shown.to_string(), &der, now_ms)
                .with_context(|| format!("certificate {number} of {shown}"))?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            let what = match pem.windows(11).any(|word| word == b"PRIVATE KEY") {
                true => "it holds a private key",
                false => "a PEM file with -----BEGIN CERTIFICATE----- is expected",
            };
            bail!("{shown} has no certificate: {what}");
        }
        Ok(certificates)
    }

    /// The first certificate of a file: its owner's.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_first(path: &Path, now_ms: u64) -> anyhow::Result<Self> {
        let first = Self::read(path, now_ms)?.into_iter().next();
        first.ok_or_else(|| anyhow!("{} has no certificate", path.display()))
    }

    /// As of now.
    ///
    /// # Errors
    /// If it cannot be understood.
    pub(crate) fn from_der(file: &str, der: &[u8], now_ms: u64) -> anyhow::Result<Self> {
        let whole = x509_cert::Certificate::from_der(der).context("it cannot be understood")?;
        let content = whole.tbs_certificate();
        let subject = content.subject();
        let name = subject.iter().find_map(|attribute| text(attribute, COMMON_NAME)).unwrap_or_default();
        let units = subject.iter().filter_map(|attribute| text(attribute, ORGANIZATIONAL_UNIT));
        let mut roles: Vec<Role> = units.filter_map(|unit| Role::of_unit(&unit)).collect();
        roles.sort_unstable();
        roles.dedup();
        let ms = |time: x509_cert::time::Time| time.to_unix_duration().as_millis() as u64;
        let (not_before_ms, not_after_ms) =
            (ms(content.validity().not_before), ms(content.validity().not_after));
        let constraints = content.get_extension::<BasicConstraints>().context("whether it is a CA's")?;
        let key = content.subject_public_key_info().to_der().context("its public key")?;
        Ok(Self {
            file: file.to_owned(),
            subject: subject.to_string(),
            issuer: content.issuer().to_string(),
            ca: constraints.is_some_and(|(_, constraints)| constraints.ca),
            serial: hex::encode(content.serial_number().as_bytes()),
            node_id: name.strip_prefix("node").and_then(|id| id.parse().ok()),
            name,
            roles: roles.into_iter().map(Role::unit).collect(),
            hosts: hosts(content)?,
            not_before_ms,
            not_after_ms,
            days_left: (not_after_ms as i64 - now_ms as i64).div_euclid(DAY_MS),
            validity: if now_ms > not_after_ms {
                "expired"
            } else if now_ms < not_before_ms {
                "not yet valid"
            } else {
                "valid"
            },
            public_key: public_key(&key),
        })
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.validity == "valid"
    }
}

/// A public key as configurations name it.
pub(crate) fn public_key(subject_public_key_info: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(subject_public_key_info)))
}

/// The text of an attribute of a name, if it is of this kind.
fn text(attribute: &AttributeTypeAndValue, kind: ObjectIdentifier) -> Option<String> {
    let value = || attribute.value.decode_as::<DirectoryString>().ok();
    (attribute.oid == kind).then(value).flatten().map(|text| text.value().into_owned())
}

fn hosts(content: &TbsCertificate) -> anyhow::Result<Vec<String>> {
    let names = content.get_extension::<SubjectAltName>().context("its names cannot be understood")?;
    Ok(names.map(|(_, SubjectAltName(names))| names.iter().filter_map(host).collect()).unwrap_or_default())
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_bytes()).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let v6 = <[u8; 16]>::try_from(bytes.as_bytes()).map(|bytes| Ipv6Addr::from(bytes).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}
