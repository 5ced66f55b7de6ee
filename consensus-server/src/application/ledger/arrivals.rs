//! Who waits for a height to be applied here.
//!
//! A submission that was forwarded to the leader is answered when its block is readable on this node. With
//! a thousand of them waiting, each new block wakes exactly those that it concerns.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Waiters by height.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    height: u64,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Arrivals {
    pub(super) fn new(height: u64) -> Self {
        Self { state: Mutex::new(State { height, waiting: BTreeMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when `height` has arrived; `false` if the ledger ends before.
    pub(super) async fn reached(&self, height: u64) -> bool {
        let arrived = {
            let mut state = self.lock();
            if state.height >= height {
                return true;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.entry(height).or_default().push(sender);
            receiver
        };
        arrived.await.is_ok()
    }

    /// Wakes everybody who waits for `height` or less.
    pub(super) fn arrive(&self, height: u64) {
        let woken = {
            let mut state = self.lock();
            state.height = state.height.max(height);
            if state.waiting.first_key_value().is_none_or(|(first, _)| *first > height) {
                return;
            }
            let later = state.waiting.split_off(&(height + 1));
            std::mem::replace(&mut state.waiting, later)
        };
        for sender in woken.into_values().flatten() {
            // Whoever waited may have gone.
            let _ = sender.send(());
        }
    }

    /// Nothing will arrive any more.
    pub(super) fn end(&self) {
        self.lock().waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_height_wakes_exactly_those_that_it_concerns() {
        let arrivals = Arrivals::new(3);
        assert!(arrivals.reached(3).await, "already there");
        let mut four = std::pin::pin!(arrivals.reached(4));
        let mut six = std::pin::pin!(arrivals.reached(6));
        assert!(four.as_mut().now_or_never().is_none());
        assert!(six.as_mut().now_or_never().is_none());
        arrivals.arrive(5);
        assert!(four.as_mut().now_or_never().is_some());
        assert!(six.as_mut().now_or_never().is_none());
        arrivals.end();
        assert!(!six.await);
    }
}
