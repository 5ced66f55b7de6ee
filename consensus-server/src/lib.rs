//! The consensus service: gRPC around the replica and the ledger.
//!
//! * [`chain`]: one running chain: the driver and the handle that everybody else holds.
//! * [`application`]: what a chain orders entries for: the built-in ledger, or a user's state machine.
//! * [`node`]: the chains of this process.
//! * [`transport`]: how messages reach the other nodes.

pub mod application;
pub mod chain;
pub mod node;
pub mod transport;
pub mod config;
pub mod telemetry;
pub mod ops;
pub mod services;
