//! Keeps what lasts or alternates from being said again and again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What lasts is said again after this long.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How many things are kept apart.
const TOLD_MAX: usize = 8;

/// What was said in log lines lately. What lasts is said again now and then, and what alternates only so often.
#[derive(Debug, Default)]
pub struct Told(VecDeque<(String, Instant)>);

impl Told {
    /// Whether this is to be said now, and from then on counts as said.
    pub fn is_due(&mut self, text: &str, now: Instant) -> bool {
        if let Some((_, at)) = self.0.iter_mut().find(|(told, _)| told == text) {
            let due = now.duration_since(*at) >= TELL_AGAIN;
            *at = if due { now } else { *at };
            return due;
        }
        if self.0.len() >= TOLD_MAX {
            self.0.pop_front();
        }
        self.0.push_back((text.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_again_and_what_alternates_is_not_told_each_time() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_due("a", now) && told.is_due("b", now));
        let soon = now + TELL_AGAIN - Duration::from_millis(1);
        assert!(!told.is_due("a", soon) && !told.is_due("b", soon));
        let later = now + TELL_AGAIN;
        assert!(told.is_due("a", later) && !told.is_due("a", later));
        for text in 0..100 {
            assert!(told.is_due(&text.to_string(), later));
        }
        assert_eq!(told.0.len(), TOLD_MAX);
    }
}
