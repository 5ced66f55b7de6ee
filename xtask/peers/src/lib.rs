//! Stand-ins for the CITA-Cloud services that the consensus service talks to: controller and network.
//!
//! A node of a CITA-Cloud chain is several processes that find each other by the ports in one configuration
//! file. For end-to-end runs this crate plays all of them but consensus: it answers with the codes, locks,
//! caches and retries of the real services, keeps a ledger of its own as the oracle, and does what a script
//! on its control listener says: errors, hangs, lost answers, rollback, loss, reordering. It executes no
//! transactions, checks no signatures and is no part of what we ship.
//!
//! [`chain`] is the pure part (what a block is, which verdict it gets), [`ledger`] the file; [`controller`]
//! and [`network`] are the two services, [`config`] what they read, [`call`] how they call others. [`collector`] takes
//! traces, for measurements.

pub mod call;
pub mod chain;
pub mod collector;
pub mod config;
mod control;
pub mod controller;
pub mod ledger;
pub mod network;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the services wait between tries. The default is what the real ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two tries to register, and between two tries to be heard by consensus.
    pub register: Duration,
    /// Without a new block for this long a controller tells the others its height again.
    pub quiet: Duration,
    /// A request for blocks that is not answered for this long is sent again.
    pub fetch: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            register: Duration::from_secs(3),
            quiet: Duration::from_secs(60),
            fetch: Duration::from_secs(1),
        }
    }
}

/// Microseconds since 1970.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    now_us() / 1000
}
