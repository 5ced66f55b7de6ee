//! What happened when: spans on lanes, notes and violations, for the verdict and for the timeline.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::network::{Link, Passage, Rule};

/// Where on the timeline something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Cluster,
    Node(u64),
    Link(Link),
}

/// What lasts for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Down,
    Paused,
    DiskFull,
    DiskHangs,
    Silent,
    Refused,
    Late,
    Slow,
    Lossy,
    HalfOpen,
    Resets,
    Episode,
    Recovery,
}

impl State {
    /// How a rule for a link is shown.
    pub(crate) fn of_rule(rule: Rule) -> Self {
        match rule.passage {
            Passage::Silent => Self::Silent,
            Passage::Refused => Self::Refused,
            Passage::Open if rule.bytes_per_s.is_some() => Self::Slow,
            Passage::Open if rule.loss_percent > 0 => Self::Lossy,
            Passage::Open => Self::Late,
        }
    }
}

/// A stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) lane: Lane,
    pub(crate) state: State,
    pub(crate) from: Duration,
    /// Nothing as long as it lasts.
    pub(crate) to: Option<Duration>,
    pub(crate) what: String,
}

/// A moment.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) at: Duration,
    pub(crate) is_violation: bool,
    pub(crate) what: String,
}

/// The place of a span, to end it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanId(usize);

/// Everything that has been written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) spans: Vec<Span>,
    pub(crate) marks: Vec<Mark>,
}

/// Writes down what happens, from many threads.
#[derive(Debug)]
pub(crate) struct Chronicle {
    started: Instant,
    started_unix_ms: u64,
    story: Mutex<Story>,
}

impl Chronicle {
    /// Begins now.
    pub(crate) fn start() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix_ms: now.as_millis() as u64,
            story: Mutex::new(Story::default()),
        }
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When it started, in milliseconds of Unix time.
    pub(crate) fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    pub(crate) fn begin(&self, lane: Lane, state: State, what: impl Into<String>) -> SpanId {
        let span = Span { lane, state, from: self.now(), to: None, what: what.into() };
        let mut story = self.story();
        story.spans.push(span);
        SpanId(story.spans.len() - 1)
    }

    pub(crate) fn end(&self, SpanId(place): SpanId) {
        let now = self.now();
        if let Some(span) = self.story().spans.get_mut(place) {
            span.to = Some(now);
        }
    }

    /// Says something, here and on the timeline.
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.mark(what.into(), false);
    }

    /// Something that must not be.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        self.mark(what.into(), true);
    }

    fn mark(&self, what: String, is_violation: bool) {
        let at = self.now();
        let sign = if is_violation { "VIOLATION: " } else { "" };
        println!("{:>6.1} s  {sign}{what}", at.as_secs_f64());
        self.story().marks.push(Mark { at, is_violation, what });
    }

    /// All violations so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        let story = self.story();
        story.marks.iter().filter(|mark| mark.is_violation).map(|mark| mark.what.clone()).collect()
    }

    /// Everything so far.
    pub(crate) fn told(&self) -> Story {
        self.story().clone()
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_an_end_once_they_are_over_and_violations_are_kept_apart() {
        let chronicle = Chronicle::start();
        let one = chronicle.begin(Lane::Node(1), State::Down, "killed");
        chronicle.begin(Lane::Node(2), State::Paused, "stopped");
        chronicle.end(one);
        chronicle.note("a note");
        chronicle.violation("two leaders");
        let story = chronicle.told();
        assert!(story.spans[0].to.is_some() && story.spans[1].to.is_none());
        assert_eq!(story.marks.len(), 2);
        assert_eq!(chronicle.violations(), ["two leaders"]);
    }
}
