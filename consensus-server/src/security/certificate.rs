//! What a certificate says: whose it is, which key it is for, until when, and which roles it gives.
//!
//! Only read here; whether an authority vouches for it is judged in [`super::verifier`]. Text from a
//! certificate is escaped and cut off, since whoever made it chose it and it ends up in log lines.

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::DirectoryString;

use super::roles::Roles;
use crate::config::Pin;

/// Most characters of a subject that are kept.
const SUBJECT_CHARACTERS_MAX: usize = 256;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// The attribute organizationalUnitName (RFC 4519, 2.20).
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The distinguished name of whom it is for.
    pub subject: String,
    /// The public key.
    pub pin: Pin,
    /// What its holder may do as a client: the organizational units of the subject that are roles.
    pub roles: Roles,
    /// The second from which on it holds, in Unix time.
    pub not_before: i64,
    /// The last second at which it holds, in Unix time.
    pub not_after: i64,
}

impl Certificate {
    /// Of a certificate in DER.
    ///
    /// # Errors
    /// In words, if it is none.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let certificate = x509_cert::Certificate::from_der(der)
            .map_err(|error| format!("is no X.509 certificate: {error}"))?;
        let content = certificate.tbs_certificate();
        let key = content.subject_public_key_info().to_der();
        let key = key.map_err(|error| format!("has no public key that can be read: {error}"))?;
        let subject = content.subject();
        let units: Vec<String> = subject.iter().filter_map(unit).collect();
        let seconds = |time: x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        Ok(Self {
            subject: shown(&subject.to_string()),
            pin: Pin::of_public_key(&key),
            roles: Roles::of(units.iter().map(String::as_str)),
            not_before: seconds(content.validity().not_before),
            not_after: seconds(content.validity().not_after),
        })
    }

    /// Whole days until its end at a Unix time in seconds; negative from its end on.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(DAY_SECONDS)
    }
}

/// The organizational unit that an attribute of a subject is, if it is one.
fn unit(attribute: &AttributeTypeAndValue) -> Option<String> {
    if attribute.oid != ORGANIZATIONAL_UNIT {
        return None;
    }
    let text = attribute.value.decode_as::<DirectoryString>().ok()?;
    Some(text.value().into_owned())
}

fn shown(text: &str) -> String {
    text.escape_debug().take(SUBJECT_CHARACTERS_MAX).collect()
}
