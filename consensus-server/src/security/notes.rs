//! Which refusals go into the audit log: the first of each kind at once, further ones at growing distances, with
//! how many were left out.
//!
//! Whoever is refused decides how often, and must not fill the disk or push out of the log what operators did: a
//! kind that goes on for days gets a line an hour. What was left out last is told when the node stops, or when its
//! time has come, whatever happens then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus_core::audit::Entry;

use super::refusals::{Place, Reason};

/// Distance of the second line from the first; each further one is twice as far.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Longest distance.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// What is known of each kind of refusal.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kinds: BTreeMap<(Place, Reason), Kind>,
}

/// One kind.
#[derive(Debug)]
struct Kind {
    next: Instant,
    pause: Duration,
    left_out: u64,
    /// The newest that was left out: who, and in which words.
    newest: (String, String),
}

impl Notes {
    /// Somebody was refused; the line to write now, if there is one.
    pub(super) fn refused(
        &mut self,
        place: Place,
        reason: Reason,
        who: String,
        what: String,
        now: Instant,
    ) -> Option<Entry> {
        let Some(kind) = self.kinds.get_mut(&(place, reason)) else {
            let newest = (String::new(), String::new());
            let kind = Kind { next: now + PAUSE_MIN, pause: PAUSE_MIN, left_out: 0, newest };
            self.kinds.insert((place, reason), kind);
            return Some(entry(place, reason, &who, &what, 0));
        };
        kind.newest = (who, what);
        if now < kind.next {
            kind.left_out += 1;
            return None;
        }
        Some(kind.line(place, reason, now))
    }

    /// Lines about what was left out, of those whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry> {
        self.left_out(|kind| now >= kind.next, now)
    }

    /// Lines about all that was left out.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Entry> {
        self.left_out(|_| true, now)
    }

    fn left_out(&mut self, is_due: impl Fn(&Kind) -> bool, now: Instant) -> Vec<Entry> {
        let due = self.kinds.iter_mut().filter(|(_, kind)| kind.left_out > 0 && is_due(kind));
        due.map(|((place, reason), kind)| {
            // The newest stands for itself in its line.
            kind.left_out -= 1;
            kind.line(*place, *reason, now)
        })
        .collect()
    }

    /// A line could not be written: it is one of those that were left out.
    pub(super) fn lost(&mut self, place: Place, reason: Reason) {
        if let Some(kind) = self.kinds.get_mut(&(place, reason)) {
            kind.left_out += 1;
        }
    }
}

impl Kind {
    /// The newest as a line, with the count of those before it.
    fn line(&mut self, place: Place, reason: Reason, now: Instant) -> Entry {
        let quiet = self.left_out == 0 && now.duration_since(self.next) >= self.pause;
        self.pause = if quiet { PAUSE_MIN } else { (2 * self.pause).min(PAUSE_MAX) };
        self.next = now + self.pause;
        let (who, what) = &self.newest;
        entry(place, reason, who, what, std::mem::take(&mut self.left_out))
    }
}

fn entry(place: Place, reason: Reason, who: &str, what: &str, left_out: u64) -> Entry {
    let outcome = format!("refused: {what}");
    Entry::new(who, "access", &outcome)
        .with("at", place.as_str())
        .with("reason", reason.as_str())
        .with("left_out", left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(notes: &mut Notes, reason: Reason, now: Instant) -> Option<u64> {
        let entry = notes.refused(Place::Client, reason, "alice".to_owned(), "why".to_owned(), now)?;
        assert_eq!((entry.actor.as_str(), entry.outcome.as_str()), ("alice", "refused: why"));
        Some(left_out(&entry))
    }

    fn left_out(entry: &Entry) -> u64 {
        entry.arguments["left_out"].parse().expect("a number")
    }

    #[test]
    fn a_flood_of_a_week_is_some_hundred_lines_and_none_is_uncounted() {
        let (mut notes, start) = (Notes::default(), Instant::now());
        let (mut lines, mut told) = (0, 0);
        let seconds = 7 * 24 * 60 * 60;
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            if let Some(left_out) = refuse(&mut notes, Reason::Limit, now) {
                lines += 1;
                told += 1 + left_out;
            }
        }
        for entry in notes.rest(start + Duration::from_secs(seconds)) {
            told += 1 + left_out(&entry);
        }
        assert!((150..200).contains(&lines), "{lines}");
        assert_eq!(told, seconds);
    }

    #[test]
    fn a_flood_of_one_kind_hides_no_other_one() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        for _ in 0..1000 {
            refuse(&mut notes, Reason::Plaintext, now);
        }
        assert_eq!(refuse(&mut notes, Reason::Role, now), Some(0));
    }

    #[test]
    fn after_a_quiet_time_the_next_one_is_written_at_once_and_soon_again() {
        let (mut notes, start) = (Notes::default(), Instant::now());
        assert_eq!(refuse(&mut notes, Reason::Role, start), Some(0));
        assert_eq!(refuse(&mut notes, Reason::Role, start + PAUSE_MIN / 2), None);
        let second = start + PAUSE_MIN;
        assert_eq!(refuse(&mut notes, Reason::Role, second), Some(1));
        assert_eq!(refuse(&mut notes, Reason::Role, second + PAUSE_MIN), None, "twice as far");
        assert_eq!(notes.due(second + PAUSE_MIN), []);
        assert_eq!(
            notes.due(second + 2 * PAUSE_MIN).len(),
            1,
            "what was left out is told without a further one"
        );
        let quiet = second + 100 * PAUSE_MIN;
        assert_eq!(refuse(&mut notes, Reason::Role, quiet), Some(0));
        assert_eq!(refuse(&mut notes, Reason::Role, quiet + PAUSE_MIN), Some(0), "as at first");
    }

    #[test]
    fn what_cannot_be_written_is_counted_with_the_next() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        assert_eq!(refuse(&mut notes, Reason::Role, now), Some(0));
        notes.lost(Place::Client, Reason::Role);
        assert_eq!(refuse(&mut notes, Reason::Role, now + PAUSE_MIN), Some(1));
    }
}
