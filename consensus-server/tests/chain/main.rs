//! Stories of running chains and nodes, in one process and without a network.

mod application;
mod forwarding;
mod harness;
mod ledger;
mod node;
