//! Virtual time: what happens next.
//!
//! A queue of happenings ordered by time in microseconds since the start of the run, and by the order of
//! their scheduling where times are equal. There is no other clock.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// One millisecond in the unit of the schedule.
pub const MILLISECOND: u64 = 1_000;

/// One second in the unit of the schedule.
pub const SECOND: u64 = 1_000_000;

/// Happenings to come.
#[derive(Debug)]
pub struct Schedule<T> {
    heap: BinaryHeap<Reverse<Scheduled<T>>>,
    now_us: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Scheduled<T> {
    at_us: u64,
    sequence: u64,
    what: T,
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Scheduled<T> {}

impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.sequence).cmp(&(other.at_us, other.sequence))
    }
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now_us: 0, sequence: 0 }
    }
}

impl<T> Schedule<T> {
    /// The present, in microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Lets something happen at a time, or now if that has passed.
    pub fn at(&mut self, at_us: u64, what: T) {
        self.sequence += 1;
        let at_us = at_us.max(self.now_us);
        self.heap.push(Reverse(Scheduled { at_us, sequence: self.sequence, what }));
    }

    /// Lets something happen after a delay.
    pub fn after(&mut self, delay_us: u64, what: T) {
        self.at(self.now_us.saturating_add(delay_us), what);
    }

    /// Goes on to the next happening, unless it lies after `until_us`: then time stands there.
    pub fn next(&mut self, until_us: u64) -> Option<T> {
        let due = self.heap.peek().is_some_and(|Reverse(first)| first.at_us <= until_us);
        if !due {
            self.now_us = self.now_us.max(until_us);
            return None;
        }
        let Reverse(first) = self.heap.pop()?;
        self.now_us = first.at_us;
        Some(first.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happenings_come_by_time_and_then_in_the_order_of_scheduling() {
        let mut schedule = Schedule::default();
        schedule.at(20, "c");
        schedule.at(10, "a");
        schedule.at(10, "b");
        schedule.at(99, "late");
        let order: Vec<_> = std::iter::from_fn(|| schedule.next(50)).collect();
        assert_eq!(order, ["a", "b", "c"]);
        assert_eq!(schedule.now_us(), 50);
        schedule.at(1, "the past is now");
        assert_eq!(schedule.next(50), Some("the past is now"));
        assert_eq!(schedule.now_us(), 50);
    }
}
