//! The certificates of a running node: those in use, exchanged when the files change, and how long they last.
//!
//! The files are looked at each second. What has changed is taken up when two looks in a row have found the same,
//! since somebody may be half way through copying three files, and at once when it is asked for (SIGHUP).
//! New handshakes use it; connections that are there stay. What cannot be used changes nothing and raises
//! an alarm until it is mended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use consensus_core::audit::Entry;
use consensus_core::ids::NodeId;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Certificate;
use super::alarms::{Alarms, Kind};
use super::expiry::{Level, Watch};
use super::files::{Credentials, FileError, Files, Plan};
use super::refusals::Refusals;
use crate::audit::AuditLog;
use crate::config::{Config, Pin};
use crate::telemetry::metrics::SecurityMetrics;
use crate::telemetry::unix_time_ms;

/// The files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A look at the files.
type Look = Result<Files, FileError>;

/// The certificates of a running node.
#[derive(Debug)]
pub struct Tls {
    plan: Plan,
    /// Which member has which public key.
    members: BTreeMap<Pin, NodeId>,
    current: RwLock<Arc<Credentials>>,
    /// The newest certificate that each other member has shown.
    shown: Mutex<BTreeMap<NodeId, Certificate>>,
    watch: Mutex<Watch>,
    refusals: Arc<Refusals>,
    alarms: Arc<Alarms>,
    metrics: SecurityMetrics,
    asked: Notify,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(super) fn load(
        config: &Config,
        tls: &crate::config::Tls,
        refusals: Arc<Refusals>,
        alarms: Arc<Alarms>,
        metrics: SecurityMetrics,
    ) -> Result<Self, FileError> {
        let plan = Plan::new(config, tls);
        let credentials = Credentials::new(Files::read(tls)?, &plan)?;
        let others = config.others();
        let members = others.flat_map(|member| member.public_keys.iter().map(|pin| (*pin, member.node_id)));
        let tls = Self {
            plan,
            members: members.collect(),
            current: RwLock::new(Arc::new(credentials)),
            shown: Mutex::default(),
            watch: Mutex::default(),
            refusals,
            alarms,
            metrics,
            asked: Notify::new(),
        };
        tls.announce();
        tls.look_at_expiry();
        Ok(tls)
    }

    /// Those in use.
    pub(super) fn current(&self) -> Arc<Credentials> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Somebody has shown a certificate that is in order.
    pub(super) fn seen(&self, certificate: &Certificate) {
        if let Some(node_id) = self.members.get(&certificate.pin) {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.insert(*node_id, certificate.clone());
        }
    }

    /// Whether the certificate that a node showed last is near its end or past it.
    pub(super) fn saw_an_end(&self, node_id: NodeId) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(&node_id).is_some_and(|certificate| Level::of(certificate, now()) != Level::Fine)
    }

    /// Looks at the files at once.
    pub(super) fn reload(&self) {
        self.asked.notify_one();
    }

    /// Looks at the files and at the calendar until `stop`.
    pub(super) async fn keep(self: Arc<Self>, audit: AuditLog, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before: Option<Look> = None;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => false,
                () = self.asked.notified() => true,
            };
            let tls = self.plan.tls().clone();
            let Ok(look) = tokio::task::spawn_blocking(move || Files::read(&tls)).await else { return };
            if (asked || before.as_ref() == Some(&look))
                && let Some(entry) = self.take_up(&look, asked)
            {
                // A failure is logged there; certificates in use are no less so without a line.
                let _ = audit.record(entry).await;
            }
            before = Some(look);
            self.look_at_expiry();
        }
    }

    /// Exchanges the certificates if there are others and they can be used; what is to be written down of it.
    fn take_up(&self, look: &Look, asked: bool) -> Option<Entry> {
        let same = look.as_ref().is_ok_and(|files| *files == self.current().files);
        if same {
            if self.alarms.clear(Kind::Files) || asked {
                tracing::info!("the certificate files are those in use");
            }
            return None;
        }
        let entry = |outcome: &str| Entry::new("node", "certificates", outcome);
        let made = look.clone().and_then(|files| Credentials::new(files, &self.plan));
        match made {
            Ok(credentials) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
                self.alarms.clear(Kind::Files);
                self.metrics.reloaded("taken-up");
                self.announce();
                let own = &self.current().own;
                Some(entry("done").with("certificate", &own.subject).with("public_key", own.pin))
            }
            Err(error) => {
                if !self.alarms.raise(Kind::Files, error.to_string()) && !asked {
                    return None;
                }
                self.metrics.reloaded("refused");
                tracing::warn!(%error, "new certificate files cannot be used, those before stay in use");
                Some(entry(&format!("refused: {error}")))
            }
        }
    }

    fn announce(&self) {
        let current = self.current();
        let Certificate { subject, pin, .. } = &current.own;
        let days_left = current.own.days_left(now());
        let authorities = current.authorities.len();
        tracing::info!(certificate = subject, public_key = %pin, days_left, authorities, "certificates in use");
    }

    /// Tells how long each certificate lasts, with a warning when that is not long.
    fn look_at_expiry(&self) {
        let now = now();
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alarming = Vec::new();
        for (name, certificate) in self.certificates() {
            let days_left = certificate.days_left(now);
            self.metrics.days_left(&name, days_left);
            let level = Level::of(&certificate, now);
            let news = watch.is_news(&name, level, now);
            let Some(words) = level.words(days_left) else { continue };
            if news {
                let subject = &certificate.subject;
                match level {
                    Level::Soon | Level::Fine => {
                        tracing::warn!(certificate = name, subject, days_left, "a certificate ends soon");
                    }
                    Level::VerySoon => {
                        tracing::error!(
                            certificate = name,
                            subject,
                            days_left,
                            "a certificate ends very soon"
                        );
                    }
                    Level::Ended => {
                        tracing::error!(certificate = name, subject, days_left, "a certificate has ended");
                    }
                }
            }
            alarming.push(format!("{name}: {words}"));
        }
        if alarming.is_empty() {
            self.alarms.clear(Kind::Expiry);
        } else {
            self.alarms.raise(Kind::Expiry, alarming.join("; "));
        }
    }

    /// Every certificate that this node depends on, by name.
    fn certificates(&self) -> Vec<(String, Certificate)> {
        let current = self.current();
        let mut all = vec![("own".to_owned(), current.own.clone())];
        // The one that ends last: until then there is somebody to vouch.
        if let Some(last) = current.authorities.iter().max_by_key(|authority| authority.not_after) {
            all.push(("ca".to_owned(), last.clone()));
        }
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(shown.iter().map(|(node_id, shown)| (format!("node {node_id}"), shown.clone())));
        all
    }

    pub(super) fn json(&self) -> Value {
        let now = now();
        let one = |(name, certificate): &(String, Certificate)| {
            json!({
                "certificate": name,
                "subject": certificate.subject,
                "public_key": certificate.pin.to_string(),
                "not_after": certificate.not_after,
                "days_left": certificate.days_left(now),
            })
        };
        self.certificates().iter().map(one).collect()
    }
}

/// Unix time in seconds.
fn now() -> i64 {
    (unix_time_ms() / 1000) as i64
}
