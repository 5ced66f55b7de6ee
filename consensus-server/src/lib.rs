//! The consensus service: gRPC around the replica and the ledger.
//!
//! * [`chain`]: one running chain: the driver and the handle that everybody else holds.
//! * [`application`]: what a chain orders entries for: the built-in ledger, or a user's state machine.
//! * [`transport`]: how messages reach the other nodes.

pub mod application;
pub mod chain;
pub mod transport;
