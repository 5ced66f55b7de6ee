//! Transactions for the pools of random controllers, all the time, in a thread of its own.
//!
//! A controller that is dead or hangs misses some; nobody is promised anything here. The newest ones are kept,
//! so that they can be given to controllers that have forgotten them, as one does that keeps its pool on disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::e2e::http;
use crate::e2e::random::Random;

/// Between two batches.
const PERIOD: Duration = Duration::from_millis(200);

/// Bytes of a transaction.
const BYTES: usize = 200;

/// Transactions that are kept: those of a few seconds.
const KEPT_MAX: usize = 2_000;

/// Puts transactions on until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    is_stopped: Arc<AtomicBool>,
    newest: Arc<Mutex<VecDeque<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to give controllers with control listeners on `ports` so many transactions together.
    pub(super) fn start(ports: Vec<u16>, per_second: u32, seed: u64) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let newest = Arc::<Mutex<VecDeque<String>>>::default();
        let (stopped, kept) = (is_stopped.clone(), newest.clone());
        let count = (f64::from(per_second) * PERIOD.as_secs_f64()).ceil() as u32;
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed);
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let port = ports[random.below(ports.len() as u64) as usize];
                let bodies = (number..number + count).map(|number| body(seed, number)).collect::<Vec<_>>();
                number += count;
                keep(&kept, &bodies);
                // Whoever is dead cannot take any.
                let _ = http::post(port, "/txs", &json!({ "bodies": bodies }));
                std::thread::sleep(PERIOD);
            }
        });
        Self { is_stopped, newest, thread: Some(thread) }
    }

    /// Gives the newest transactions once more to the controller with its control listener on `port`.
    pub(super) fn give_again(&self, port: u16) -> Result<()> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        http::post(port, "/txs", &json!({"bodies": newest, "local": true})).map(drop)
    }
}

fn keep(newest: &Mutex<VecDeque<String>>, bodies: &[String]) {
    let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
    newest.extend(bodies.iter().cloned());
    let surplus = newest.len().saturating_sub(KEPT_MAX);
    newest.drain(..surplus);
}

/// A transaction that no other load has.
fn body(seed: u64, number: u32) -> String {
    format!("{:-<BYTES$}", format!("{seed:x} {number} "))
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has said so itself.
            let _ = thread.join();
        }
    }
}
