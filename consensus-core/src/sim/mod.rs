//! The deterministic simulator: a whole cluster under one seed.
//!
//! The replicas, the ledger and the rules are those of production; network, disk, time, clients and faults
//! are simulated ([`network`], [`disk`], [`schedule`], [`clients`], `faults`). A seed stands for a printed
//! configuration ([`swarm`]) and decides everything else, so a failure is repeated by its seed alone. After
//! every step the safety properties are checked ([`invariants`]), at the end the recovery. [`run`] runs one
//! seed; the binary `simulate` runs many.
//!
//! Every fault that a cluster survives may strike, and it has to hold and to go on; what it does not survive
//! (`atlas`) has to bring it to a standstill and to nothing else.
//!
//! Not here: a CITA-Cloud controller as application, bytes on the wire and in files (the codecs and RocksDB have
//! tests of their own), wall clocks, changes of the program's version.

pub mod application;
mod atlas;
pub mod canary;
mod checks;
pub mod clients;
pub mod cluster;
pub mod cut;
mod damage;
pub mod disk;
mod faults;
mod garbage;
mod hash_chain;
pub mod history;
pub mod hunt;
pub mod image;
pub mod invariants;
mod letters;
mod liveness;
pub mod network;
pub mod node;
mod operator;
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
