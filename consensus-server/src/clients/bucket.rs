//! A token bucket: so many a second, and so many at once after a pause.
//!
//! Kept as the one moment at which it will be full again. What is larger than the whole bucket passes when that
//! is full, and is paid for afterwards.

use std::time::{Duration, Instant};

use crate::config::Rate;

/// One client's tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// When it is full, unless it is.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// Takes `count` tokens, or says when they will be there.
    pub(super) fn take(&mut self, count: u64, now: Instant) -> Result<(), Duration> {
        let (cost, whole) = (self.time_for(count), self.time_for(self.rate.burst));
        let missing = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let most = whole.max(cost);
        let after = missing.saturating_add(cost);
        if after > most {
            return Err(after.saturating_sub(most));
        }
        self.full_at = now.checked_add(after);
        Ok(())
    }

    /// Whether it is as if nothing had ever been taken.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    fn time_for(&self, count: u64) -> Duration {
        let nanos = u128::from(count) * 1_000_000_000 / u128::from(self.rate.per_s.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> (Bucket, Instant) {
        (Bucket::new(Rate { per_s: 100, burst: 20 }), Instant::now())
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut bucket, start) = bucket();
        assert_eq!(bucket.take(20, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(10)));
        assert_eq!(bucket.take(3, start + Duration::from_millis(10)), Err(Duration::from_millis(20)));
        let mut taken = 0;
        for ms in 0..1000 {
            taken += u32::from(bucket.take(1, start + Duration::from_millis(ms)).is_ok());
        }
        assert_eq!(taken, 99, "a hundred in each second; the last is due when it ends");
    }

    #[test]
    fn what_is_told_to_wait_for_is_there_then_and_not_before() {
        let (mut bucket, start) = bucket();
        bucket.take(15, start).expect("a burst");
        let wait = bucket.take(12, start).expect_err("too much at once");
        let almost = wait.saturating_sub(Duration::from_millis(1));
        assert!(bucket.take(12, start + almost).is_err());
        assert_eq!(bucket.take(12, start + wait), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for() {
        let (mut bucket, start) = bucket();
        assert_eq!(bucket.take(200, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(1810)));
        assert_eq!(bucket.take(200, start + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        assert!(!bucket.is_full(start + Duration::from_millis(1999)));
        assert!(bucket.is_full(start + Duration::from_secs(2)));
    }

    #[test]
    fn time_that_passes_fills_no_more_than_the_bucket() {
        let (mut bucket, start) = bucket();
        bucket.take(20, start).expect("a burst");
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(20, later), Ok(()));
        assert!(bucket.take(1, later).is_err());
    }
}
