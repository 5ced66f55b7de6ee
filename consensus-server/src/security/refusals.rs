//! Who was turned away, where and why: a log line and a line of the audit log at bounded rates, and a count of all
//! of them.
//!
//! Each reason has its own rates, so that a flood of one does not hide another. What is merely odd (somebody
//! connects and says nothing, as probes of a port do) is counted, and logged for debugging only. Into the audit log goes who called this node in
//! vain, not whom this node has called.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consensus_core::audit::Entry;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::notes::Notes;
use super::roles::Denied;
use super::stream::Caller;
use super::verifier::UnknownKey;
use crate::audit::AuditLog;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::SecurityMetrics;

/// How often a line of one reason at one place is written.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Where somebody was turned away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The listener for clients.
    Client,
    /// The listener for the other nodes.
    Peer,
    /// The listener for operations.
    Ops,
    /// A connection of this node to another one.
    Outgoing,
}

impl Place {
    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Ops => "ops",
            Self::Outgoing => "outgoing",
        }
    }
}

/// Why somebody was turned away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It speaks plaintext, this listener TLS.
    Plaintext,
    /// It speaks TLS, this listener plaintext.
    Tls,
    /// It shows no certificate.
    NoCertificate,
    /// No authority that this node knows vouches for its certificate.
    UnknownAuthority,
    /// Its certificate has ended.
    Expired,
    /// Its certificate has not begun.
    NotYetValid,
    /// Its public key is not that of the node it must be.
    PublicKey,
    /// Something else is wrong with its certificate.
    Certificate,
    /// Its certificate does not give the role that it needs.
    Role,
    /// It is on another host, and without certificates only this one may do that.
    NotThisHost,
    /// It does not accept this node's certificate.
    Distrust,
    /// No version or cipher of TLS that both sides know.
    Version,
    /// The handshake took too long.
    TimedOut,
    /// Too many handshakes from its address are under way.
    Crowded,
    /// It hung up during the handshake.
    HungUp,
    /// It has connected and said nothing.
    Silent,
    /// It has as much as it may have, or all clients together have.
    Limit,
    /// Anything else.
    Handshake,
}

impl Reason {
    /// The word for labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Tls => "tls",
            Self::NoCertificate => "no-certificate",
            Self::UnknownAuthority => "unknown-authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::PublicKey => "public-key",
            Self::Certificate => "certificate",
            Self::Role => "role",
            Self::NotThisHost => "not-this-host",
            Self::Distrust => "distrust",
            Self::Version => "version",
            Self::TimedOut => "timed-out",
            Self::Crowded => "crowded",
            Self::HungUp => "hung-up",
            Self::Silent => "silent",
            Self::Limit => "limit",
            Self::Handshake => "handshake",
        }
    }
}

/// Lines for the audit log that wait for it; beyond that they are counted.
const LINES_MAX: usize = 64;
/// How often is looked for what was left out of the audit log.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Counts, logs and writes down who was turned away.
#[derive(Debug)]
pub struct Refusals {
    metrics: SecurityMetrics,
    logs: Mutex<BTreeMap<(Place, Reason), Arc<Throttle>>>,
    notes: Mutex<Notes>,
    lines: mpsc::Sender<Entry>,
    /// Until somebody writes them.
    unwritten: Mutex<Option<mpsc::Receiver<Entry>>>,
}

impl Refusals {
    /// Counted in `metrics`.
    pub fn new(metrics: SecurityMetrics) -> Self {
        let (lines, unwritten) = mpsc::channel(LINES_MAX);
        let unwritten = Mutex::new(Some(unwritten));
        Self { metrics, logs: Mutex::default(), notes: Mutex::default(), lines, unwritten }
    }

    /// Somebody was turned away, or has turned this node away.
    pub fn refused(&self, place: Place, reason: Reason, remote: &dyn fmt::Display, what: &str) {
        let (at, word) = (place.as_str(), reason.as_str());
        self.metrics.refused(at, word);
        if reason == Reason::HungUp {
            tracing::debug!(at, reason = word, %remote, what, "refused");
            return;
        }
        self.note(place, reason, remote, what);
        if let Some(held_back) = self.log(place, reason).pass() {
            tracing::warn!(at, reason = word, %remote, what, held_back, "refused");
        }
    }

    /// A caller may not do what it asked for.
    pub fn denied(&self, place: Place, caller: &Caller, denied: &Denied) {
        self.refused(place, denied.reason, caller, &denied.what);
    }

    /// The same without a line: whoever connects logs the words that it gets.
    pub fn counted(&self, at: Place, reason: Reason) {
        self.metrics.refused(at.as_str(), reason.as_str());
    }

    /// Writes what is to be written down into the audit log, until `stop` and then what was left out. Only the
    /// first call does anything.
    pub async fn write_down(self: Arc<Self>, audit: AuditLog, stop: CancellationToken) {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut unwritten) = unwritten else { return };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let lines = tokio::select! {
                () = stop.cancelled() => break,
                Some(line) = unwritten.recv() => vec![line],
                _ = looks.tick() => self.notes().due(Instant::now()),
            };
            write(&audit, lines).await;
        }
        let mut lines = Vec::new();
        while let Ok(line) = unwritten.try_recv() {
            lines.push(line);
        }
        lines.extend(self.notes().rest(Instant::now()));
        write(&audit, lines).await;
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, place: Place, reason: Reason, who: &dyn fmt::Display, what: &str) {
        let mut notes = self.notes();
        let line = notes.refused(place, reason, who.to_string(), what.to_owned(), Instant::now());
        if let Some(line) = line
            && self.lines.try_send(line).is_err()
        {
            notes.lost(place, reason);
        }
    }

    fn log(&self, at: Place, reason: Reason) -> Arc<Throttle> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry((at, reason)).or_insert_with(|| Arc::new(Throttle::new(LOG_EVERY))).clone()
    }
}

async fn write(audit: &AuditLog, lines: Vec<Entry>) {
    for line in lines {
        // A failure is logged there; nobody is let in because of it.
        let _ = audit.record(line).await;
    }
}

/// Why a handshake failed, with words for the log of the side that noticed it.
pub(super) fn why(error: &Error) -> (Reason, String) {
    match error {
        Error::InvalidMessage(_) => (Reason::Plaintext, "speaks no TLS, this listener does".to_owned()),
        Error::NoCertificatesPresented => {
            (Reason::NoCertificate, "shows no certificate, must show one".to_owned())
        }
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => (Reason::Distrust, of_alert(*alert)),
        Error::PeerIncompatible(error) => {
            (Reason::Version, format!("has no version or cipher of TLS in common with this node: {error:?}"))
        }
        Error::NoApplicationProtocol => {
            (Reason::Version, "speaks another protocol over TLS than this listener".to_owned())
        }
        other => (Reason::Handshake, other.to_string()),
    }
}

fn of_certificate(error: &CertificateError) -> (Reason, String) {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Reason::Expired, "its certificate has expired".to_owned())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            Reason::NotYetValid,
            "its certificate is not valid yet, or this node's clock is behind".to_owned(),
        ),
        // Another authority of the same name signs what looks right and is not.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            Reason::UnknownAuthority,
            "its certificate is signed by none of the authorities in security.ca".to_owned(),
        ),
        CertificateError::Other(other) => match other.0.downcast_ref::<UnknownKey>() {
            Some(unknown) => (Reason::PublicKey, unknown.to_string()),
            None => (Reason::Certificate, other.0.to_string()),
        },
        other => (Reason::Certificate, format!("its certificate is not accepted: {other}")),
    }
}

/// What the other side meant by its last word.
pub(super) fn of_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateRequired => return "asks for a certificate and got none".to_owned(),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is signed by none of the authorities that the other side knows"
        }
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "its public key is not the one that the other side knows of this node"
        }
        AlertDescription::UnsupportedCertificate => "it is not made for this use",
        AlertDescription::BadCertificate => "it cannot be read, or is for another name",
        AlertDescription::ProtocolVersion => return "has no version of TLS in common".to_owned(),
        other => return format!("ends the handshake with {other:?}"),
    };
    format!("does not accept this node's certificate: {why}")
}
