//! A chain's ticks: counted by the clock, handed to the replica when they matter.
//!
//! A replica knows for how many ticks it can be left alone, so its driver sets one alarm for the one that
//! matters and hands in the others together, whenever it wakes up. Ticks that a stall has swallowed are not
//! made up for: a process that was stopped for a while does not stand for election before it has heard what
//! its peers said in the meantime.

use std::time::Duration;

use tokio::time::Instant;

/// A driver looks around at least this often, so that a hanging one is told from one that sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Where a chain is in time.
#[derive(Debug)]
pub(super) struct Ticks {
    length: Duration,
    /// When the last tick that was handed in ended.
    counted: Instant,
    /// The tick after `counted` that matters next; at least 1.
    due: u64,
}

/// Ticks that have passed since the last round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Passed {
    /// Those that the replica did not wait for: they belong before everything that waits.
    pub(super) idle: u64,
    /// The one that it waits for has passed, too: after everything that waits.
    pub(super) due: bool,
    /// Those that a stall has swallowed: they are not handed in.
    pub(super) skipped: u64,
}

impl Passed {
    /// Whether there are any.
    pub(super) fn any(self) -> bool {
        self.idle > 0 || self.due
    }
}

impl Ticks {
    /// Ticks of this length, the first one due.
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { length, counted: now, due: 1 }
    }

    /// The replica can be left alone for this many ticks after those that were handed in.
    pub(super) fn sleep(&mut self, idle_ticks: u64) {
        let longest = (SLEEP_MAX.as_nanos() / self.length.as_nanos().max(1)).max(1) as u64;
        self.due = idle_ticks.clamp(1, longest);
    }

    /// When the tick that matters will have passed.
    pub(super) fn wake_at(&self) -> Instant {
        self.counted + self.length * u32::try_from(self.due).unwrap_or(u32::MAX)
    }

    /// Takes the ticks that have passed until now.
    pub(super) fn pass(&mut self, now: Instant) -> Passed {
        let whole = now.saturating_duration_since(self.counted).as_nanos() / self.length.as_nanos().max(1);
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        let late = whole.saturating_sub(self.due);
        if late == 0 {
            self.counted += self.length * u32::try_from(whole).unwrap_or(u32::MAX);
            let due = whole == self.due;
            return Passed { idle: whole - u64::from(due), due, skipped: 0 };
        }
        // Nobody knows when the stall began; the longer it was, the less is counted. The tick that matters is
        // not, unless it is the only one: peers get another to be heard.
        self.counted = now;
        if self.due == 1 {
            return Passed { idle: 0, due: true, skipped: whole - 1 };
        }
        let idle = (self.due - 1).saturating_sub(late - 1).max(1);
        Passed { idle, due: false, skipped: whole - idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// After `sleep`, at so many milliseconds after the start.
    fn passed(idle_ticks: u64, at_ms: u64) -> (u64, bool) {
        let start = Instant::now();
        let mut ticks = Ticks::new(TICK, start);
        ticks.sleep(idle_ticks);
        let passed = ticks.pass(start + Duration::from_millis(at_ms));
        let whole = at_ms / TICK.as_millis() as u64;
        assert_eq!(passed.idle + u64::from(passed.due) + passed.skipped, whole, "each tick is counted once");
        (passed.idle, passed.due)
    }

    #[test]
    fn idle_ticks_are_handed_in_whenever_something_happens_and_the_due_one_when_it_is() {
        assert_eq!(passed(4, 99), (0, false));
        assert_eq!(passed(4, 100), (1, false));
        assert_eq!(passed(4, 399), (3, false));
        assert_eq!(passed(4, 400), (3, true));
        assert_eq!(passed(4, 499), (3, true));
        assert_eq!(passed(1, 100), (0, true));
    }

    #[test]
    fn no_tick_is_lost_or_counted_twice() {
        let start = Instant::now();
        let mut ticks = Ticks::new(TICK, start);
        let (mut now, mut count) = (start, 0);
        for step in 0..1000_u64 {
            ticks.sleep(step % 7);
            now += Duration::from_millis(step * 37 % 90);
            let passed = ticks.pass(now);
            count += passed.idle + u64::from(passed.due);
            assert_eq!(count as u128, (now - start).as_millis() / 100);
        }
    }

    #[test]
    fn a_stall_counts_the_less_the_longer_it_was_and_never_makes_a_candidate() {
        assert_eq!(passed(10, 1100), (9, false), "one tick late");
        assert_eq!(passed(10, 1300), (7, false));
        assert_eq!(passed(10, 60_000), (1, false));
        assert_eq!(passed(1, 60_000), (0, true), "a chain that counts each tick counts one");
    }

    #[test]
    fn after_a_stall_the_next_tick_has_its_whole_length() {
        let start = Instant::now();
        let mut ticks = Ticks::new(TICK, start);
        ticks.sleep(10);
        let woken = start + Duration::from_millis(5050);
        ticks.pass(woken);
        ticks.sleep(9);
        assert_eq!(ticks.wake_at(), woken + 9 * TICK);
        assert!(!ticks.pass(woken + Duration::from_millis(99)).any());
    }

    #[test]
    fn a_driver_looks_around_once_a_second_however_little_there_is_to_do() {
        let start = Instant::now();
        for (length, idle_ticks, longest) in [(100, u64::MAX, 1000), (100, 0, 100), (5000, 3, 5000)] {
            let mut ticks = Ticks::new(Duration::from_millis(length), start);
            ticks.sleep(idle_ticks);
            assert_eq!(ticks.wake_at() - start, Duration::from_millis(longest));
        }
    }
}
