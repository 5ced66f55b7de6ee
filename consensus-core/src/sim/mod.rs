//! The deterministic simulator: a whole cluster under one seed.
//!
//! The replicas, the ledger and the rules are those of production; network, disk, time, clients and faults
//! are simulated ([`network`], [`disk`], [`schedule`], [`clients`], `faults`). A seed stands for a printed
//! configuration ([`swarm`]) and decides everything else, so a failure is repeated by its seed alone. After
//! every step the safety properties are checked ([`invariants`]), at the end the recovery. [`run`] runs one
//! seed; the binary `simulate` runs many.
//!
//! Not here yet: membership changes, disk errors and corruption, lost stores, a controller as application.

pub mod application;
mod checks;
pub mod clients;
pub mod cluster;
pub mod disk;
mod faults;
pub mod forgery;
mod hash_chain;
pub mod history;
pub mod hunt;
pub mod image;
pub mod invariants;
mod liveness;
pub mod network;
pub mod node;
pub mod report;
pub mod rng;
mod rounds;
pub mod scenario;
pub mod schedule;
pub mod script;
pub mod shrink;
pub mod swarm;
pub mod trace;
mod work;

pub use crate::mutant::{self, Mutant};
pub use cluster::{Options, Sight, run};
pub use report::{Counters, Failure, Report};
pub use swarm::Swarm;
