//! Tells what comes for the first time from what was doubled, comes late, or is of a process that has ended.
//!
//! A sender numbers its envelopes within a session, which it draws when its process starts. Of each store
//! that speaks under a node's id the newest session is followed, with a window of the last numbers; sessions
//! before it are remembered, because what is still under way of them must not open them again. Stores are
//! kept apart, so that a stray process under a member's id cannot end that member's session. All in memory:
//! after a restart of this node a late message may pass once more, which Raft and the letters bear.

use std::collections::VecDeque;

use consensus_core::ids::StoreIncarnation;

use crate::telemetry::metrics::Refused;

/// Numbers below the highest one that are still told apart; what is older counts as doubled.
const WINDOW: u64 = 1024;
/// Ended sessions that are remembered for each store.
const ENDED_MAX: usize = 16;
/// Stores that are followed for each sender; the one not heard for the longest makes room.
const STORES_MAX: usize = 4;

/// What came from one sender.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The store heard last is at the end.
    stores: Vec<Store>,
}

#[derive(Debug)]
struct Store {
    incarnation: StoreIncarnation,
    session: u64,
    window: Window,
    ended: VecDeque<u64>,
}

impl Sessions {
    /// Takes note of an envelope, once.
    pub(super) fn admit(
        &mut self,
        incarnation: StoreIncarnation,
        session: u64,
        sequence: u64,
    ) -> Result<(), Refused> {
        if sequence == 0 {
            return Err(Refused::Malformed);
        }
        let known = self.stores.iter().position(|store| store.incarnation == incarnation);
        let mut store = match known {
            Some(at) => self.stores.remove(at),
            None => {
                if self.stores.len() == STORES_MAX {
                    self.stores.remove(0);
                }
                Store { incarnation, session, window: Window::default(), ended: VecDeque::new() }
            }
        };
        let admitted = store.admit(session, sequence);
        self.stores.push(store);
        admitted
    }
}

impl Store {
    fn admit(&mut self, session: u64, sequence: u64) -> Result<(), Refused> {
        if self.session != session {
            if self.ended.contains(&session) {
                return Err(Refused::OldSession);
            }
            if self.ended.len() == ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back(std::mem::replace(&mut self.session, session));
            self.window = Window::default();
        }
        if self.window.admit(sequence) { Ok(()) } else { Err(Refused::Duplicate) }
    }
}

/// Which of the last numbers have come.
#[derive(Debug)]
struct Window {
    highest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self { highest: 0, seen: [0; (WINDOW / 64) as usize] }
    }
}

impl Window {
    /// True the first time.
    fn admit(&mut self, number: u64) -> bool {
        if number > self.highest {
            let step = number - self.highest;
            if step >= WINDOW {
                self.seen = [0; (WINDOW / 64) as usize];
            } else {
                (self.highest + 1..number).for_each(|skipped| self.set(skipped, false));
            }
            self.highest = number;
            self.set(number, true);
            return true;
        }
        if self.highest - number >= WINDOW || self.is_set(number) {
            return false;
        }
        self.set(number, true);
        true
    }

    fn place(number: u64) -> (usize, u64) {
        let slot = number % WINDOW;
        ((slot / 64) as usize, 1 << (slot % 64))
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, number: u64, seen: bool) {
        let (word, bit) = Self::place(number);
        if seen {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const STORE: StoreIncarnation = StoreIncarnation([1; 16]);

    #[test]
    fn in_any_order_each_number_passes_once_and_none_below_the_window() {
        for seed in 0..50 {
            let rng = &mut SmallRng::seed_from_u64(seed);
            let mut window = Window::default();
            let mut came = BTreeSet::new();
            let mut around: u64 = 1;
            for _ in 0..5000 {
                let leap = rng.random_ratio(1, 500);
                around += rng.random_range(0..if leap { 3000 } else { 3 });
                let number = (around + rng.random_range(0..1500)).saturating_sub(1500).max(1);
                let highest = came.last().copied().unwrap_or(0);
                let fresh = number + WINDOW > highest && came.insert(number);
                assert_eq!(window.admit(number), fresh, "number {number}, highest {highest}, seed {seed}");
            }
        }
    }

    #[test]
    fn the_highest_number_of_all_is_a_number_like_others() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(STORE, 1, u64::MAX), Ok(()));
        assert_eq!(sessions.admit(STORE, 1, u64::MAX), Err(Refused::Duplicate));
        assert_eq!(sessions.admit(STORE, 1, 0), Err(Refused::Malformed));
    }

    #[test]
    fn a_new_session_begins_anew_and_the_one_before_is_over() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(STORE, 70, 5), Ok(()));
        assert_eq!(sessions.admit(STORE, 7, 1), Ok(()));
        assert_eq!(sessions.admit(STORE, 70, 6), Err(Refused::OldSession));
        assert_eq!(sessions.admit(STORE, 7, 1), Err(Refused::Duplicate));
        assert_eq!(sessions.admit(STORE, 7, 2), Ok(()));
        for session in 100..100 + ENDED_MAX as u64 {
            assert_eq!(sessions.admit(STORE, session, 1), Ok(()));
        }
        assert_eq!(sessions.admit(STORE, 7, 3), Err(Refused::OldSession), "of the last sessions");
    }

    #[test]
    fn a_stray_store_does_not_end_the_session_of_another() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.admit(STORE, 1, 1), Ok(()));
        assert_eq!(sessions.admit(StoreIncarnation([2; 16]), 2, 1), Ok(()));
        assert_eq!(sessions.admit(STORE, 1, 2), Ok(()));
        for stray in 3..50 {
            assert_eq!(sessions.admit(StoreIncarnation([stray; 16]), 2, 1), Ok(()));
        }
        assert_eq!(sessions.stores.len(), STORES_MAX);
    }
}
