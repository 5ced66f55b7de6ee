//! Who may talk to this node, and what they may do: mutual TLS, public keys of the members, roles of clients.
//!
//! [`Security`] is one node's protection: it makes the listeners ([`acceptor`]) and the connections to other nodes
//! ([`dialer`]), keeps the certificates up to date ([`tls`]) and counts who was turned away ([`refusals`]). [`roles`] is
//! the judgement in front of the client services. In plaintext all of it is as good as absent, but for the
//! warning.
//!
//! What it does not do: encrypt what is on disk, revoke a certificate before its end, end a connection whose
//! certificate has ended meanwhile, or anything for a CITA-Cloud node, whose peers are authenticated by its
//! network service.

pub mod acceptor;
mod alarms;
mod certificate;
pub mod dialer;
mod expiry;
mod files;
mod notes;
pub mod refusals;
pub mod roles;
pub mod stream;
pub mod tls;
mod verifier;

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use certificate::Certificate;
pub use files::FileError;
pub use stream::Caller;

use crate::audit::AuditLog;
use crate::clients::Clients;
use crate::config::Config;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::SecurityMetrics;
use acceptor::{Acceptor, Door};
use alarms::{Alarms, Kind};
use dialer::Dialer;
use refusals::{Place, Refusals};
use tls::Tls;

/// Rights of the data directory: its owner's.
const DATA_RIGHTS: u32 = 0o700;

/// One node's protection.
#[derive(Debug)]
pub struct Security {
    refusals: Arc<Refusals>,
    alarms: Arc<Alarms>,
    tls: Option<Arc<Tls>>,
    ops_speaks_tls: bool,
}

impl Security {
    /// As the configuration says; reads the certificate files.
    ///
    /// # Errors
    /// What is wrong with one of the files.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, FileError> {
        let metrics = SecurityMetrics::new(metrics);
        let refusals = Arc::new(Refusals::new(metrics.clone()));
        let alarms = Arc::new(Alarms::new(metrics.clone()));
        let tls = match &config.security.tls {
            Some(tls) => {
                if tls.accept_expired {
                    let what = "certificates are accepted after their end: security.accept_expired";
                    tracing::warn!(
                        what,
                        "an exception is in force; remove it when new certificates are in place"
                    );
                    alarms.raise(Kind::AcceptExpired, what.to_owned());
                }
                Some(Arc::new(Tls::load(config, tls, refusals.clone(), alarms.clone(), metrics)?))
            }
            None => {
                let what = "all listeners speak plaintext, and whoever reaches them may submit, read and act as \
                            a node: security.insecure";
                tracing::warn!(what, "this node is not protected");
                alarms.raise(Kind::Insecure, what.to_owned());
                None
            }
        };
        let ops_speaks_tls = config.security.ops_speaks_tls(config.listen.ops);
        Ok(Self { refusals, alarms, tls, ops_speaks_tls })
    }

    /// Accepts the connections of a listener, within a runtime. `clients` are counted if it is theirs.
    ///
    /// # Errors
    /// The system's.
    pub fn acceptor(
        &self,
        place: Place,
        listener: TcpListener,
        clients: Option<Clients>,
    ) -> io::Result<Acceptor> {
        let door = Door::new(place, self.refusals.clone(), clients);
        match &self.tls {
            Some(tls) if place != Place::Ops || self.ops_speaks_tls => {
                Acceptor::tls(listener, door, tls.clone())
            }
            _ => Acceptor::plain(listener, door),
        }
    }

    /// Makes connections to other nodes.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(self.tls.clone())
    }

    /// Who was turned away.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Looks at the certificate files and at the calendar until `stop`, and writes down what changes and who is
    /// turned away.
    pub fn keep(&self, audit: AuditLog, stop: CancellationToken) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(self.refusals.clone().write_down(audit.clone(), stop.clone()))];
        tasks.extend(self.tls.clone().map(|tls| tokio::spawn(tls.keep(audit, stop))));
        tasks
    }

    /// Looks at the certificate files at once.
    pub fn reload(&self) {
        match &self.tls {
            Some(tls) => tls.reload(),
            None => tracing::info!("nothing to read again: this node speaks plaintext"),
        }
    }

    /// What somebody should see to, a sentence each; plaintext alone is a choice.
    pub fn alarms(&self) -> Vec<String> {
        self.alarms.words()
    }

    /// For the status.
    pub fn json(&self) -> Value {
        json!({
            "mode": if self.tls.is_some() { "tls" } else { "insecure" },
            "certificates": self.tls.as_ref().map_or(json!([]), |tls| tls.json()),
            "alarms": self.alarms.json(),
        })
    }
}

/// Checks the certificate files of a configuration without starting anything; what they say of this node.
///
/// # Errors
/// What is wrong with one of them.
pub fn check(config: &Config) -> Result<Option<Certificate>, FileError> {
    let Some(tls) = &config.security.tls else { return Ok(None) };
    let plan = files::Plan::new(config, tls);
    let credentials = files::Credentials::new(files::Files::read(tls)?, &plan)?;
    Ok(Some(credentials.own))
}

/// Makes the data directory for its owner alone; of one that is there and open to others, warns.
///
/// # Errors
/// The system's.
pub fn data_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(DATA_RIGHTS).create(path)?;
    let rights = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if rights & !DATA_RIGHTS != 0 {
        tracing::warn!(
            data = %path.display(),
            rights = %format_args!("{rights:03o}"),
            should_be = %format_args!("{DATA_RIGHTS:03o}"),
            "others than its owner have rights on the data directory"
        );
    }
    Ok(())
}
