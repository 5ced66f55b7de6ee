//! Looks all the time which alerts fire, and remembers since when and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::prometheus::{self, Alert};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Labels that say nothing about whom an alert is about.
const COMMON: [&str; 5] = ["alertname", "severity", "cluster", "job", "chain"];

/// An alert about somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    alert: String,
    who: String,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// For each that fired at some time: when it began, and when it was over.
    firing: BTreeMap<Key, Vec<(Instant, Option<Instant>)>>,
    looks: u64,
}

impl Seen {
    /// Takes in what is active now.
    fn look(&mut self, now: Instant, alerts: &[Alert]) {
        let firing = alerts.iter().filter(|alert| alert.state == "firing").map(key).collect::<BTreeSet<_>>();
        for (key, times) in &mut self.firing {
            if let Some((_, end @ None)) = times.last_mut().filter(|_| !firing.contains(key)) {
                *end = Some(now);
            }
        }
        for key in firing {
            let times = self.firing.entry(key).or_default();
            if times.last().is_none_or(|(_, end)| end.is_some()) {
                times.push((now, None));
            }
        }
        self.looks += 1;
    }

    /// When an alert first fired since then, and about whom.
    pub(super) fn fired(&self, alert: &str, since: Instant) -> Option<(Instant, String)> {
        let about = self.firing.iter().filter(|(key, _)| key.alert == alert);
        let times = about.flat_map(|(key, times)| times.iter().map(move |time| (time, &key.who)));
        let since_then = times.filter(|((_, end), _)| end.is_none_or(|end| end >= since));
        since_then.map(|((begin, _), who)| ((*begin).max(since), who.clone())).min()
    }

    /// When an alert was over, about whomever; nothing while it fires or if it never did.
    pub(super) fn over(&self, alert: &str) -> Option<Instant> {
        let about = self.firing.iter().filter(|(key, _)| key.alert == alert);
        let ends = about.filter_map(|(_, times)| times.last().map(|(_, end)| *end));
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// What fires now.
    pub(super) fn firing(&self) -> BTreeSet<String> {
        let now = self.firing.iter().filter(|(_, times)| times.last().is_some_and(|(_, end)| end.is_none()));
        now.map(|(key, _)| format!("{} {}", key.alert, key.who).trim_end().to_owned()).collect()
    }

    /// How often it was looked.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }
}

fn key(alert: &Alert) -> Key {
    let own = alert.labels.iter().filter(|(name, _)| !COMMON.contains(&name.as_str()));
    let own =
        own.map(|(name, value)| if name == "instance" { value.clone() } else { format!("{name} {value}") });
    let who = own.collect::<Vec<_>>().join(", ");
    Key { alert: alert.labels.get("alertname").cloned().unwrap_or_default(), who }
}

/// The one who looks.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look at the Prometheus at a loopback port.
    pub(super) fn start(port: u16) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (writes, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // One look that fails is one look fewer; that there are any is seen by who waits for something.
                if let Ok(alerts) = prometheus::alerts(port) {
                    writes.lock().unwrap_or_else(PoisonError::into_inner).look(Instant::now(), &alerts);
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// Asks what was seen.
    pub(super) fn seen<T>(&self, ask: impl FnOnce(&Seen) -> T) -> T {
        ask(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(name: &str, instance: &str, state: &str) -> Alert {
        let labels = [("alertname", name), ("instance", instance), ("severity", "warning")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Alert { labels: labels.into(), state: state.to_owned() }
    }

    #[test]
    fn an_alert_is_over_when_it_fires_about_nobody_and_pending_is_not_firing() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        let (one, two) = (alert("Down", "node1", "firing"), alert("Down", "node2", "firing"));
        seen.look(at(0), &[alert("Down", "node1", "pending")]);
        assert_eq!((seen.fired("Down", at(0)), seen.over("Down")), (None, None));
        seen.look(at(1), std::slice::from_ref(&one));
        seen.look(at(2), &[one, two.clone()]);
        seen.look(at(3), &[two]);
        assert_eq!(seen.fired("Down", at(0)), Some((at(1), "node1".to_owned())));
        assert_eq!(seen.over("Down"), None);
        assert_eq!(Vec::from_iter(seen.firing()), ["Down node2"]);
        seen.look(at(4), &[]);
        assert_eq!(seen.over("Down"), Some(at(4)));
        assert_eq!(seen.fired("Down", at(5)), None, "that was before");
        seen.look(at(6), &[alert("Down", "node2", "firing")]);
        assert_eq!(seen.fired("Down", at(5)), Some((at(6), "node2".to_owned())));
        assert_eq!(seen.over("Down"), None, "it fires again");
    }
}
