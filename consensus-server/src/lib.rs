//! The consensus service: gRPC around the replica and the ledger.
//!
//! * [`config`]: what a node is told before it starts.
//! * [`security`]: who may talk to the node, and what they may do.
//! * [`clients`]: what each client uses of the node, and when that is too much.
//! * [`telemetry`]: log lines and metrics.
//! * [`chain`]: one running chain: the driver and the handle that everybody else holds.
//! * [`application`]: what a chain orders entries for: the built-in ledger, or a user's state machine.
//! * [`transport`]: how messages reach the other nodes.
//! * [`node`]: the chains of this process.
//! * [`audit`]: the log of administrative actions.
//! * [`services`] and [`ops`]: what is offered over gRPC and over HTTP.
//! * [`lifecycle`]: ordered start and drain; [`cita`]: the same for the consensus service of a CITA-Cloud node.

pub mod application;
pub mod audit;
pub mod chain;
pub mod cita;
pub mod clients;
pub mod config;
pub mod lifecycle;
pub mod node;
pub mod ops;
mod peer_records;
pub mod security;
pub mod services;
mod store_watch;
pub mod telemetry;
pub mod transport;
