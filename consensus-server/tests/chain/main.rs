//! Stories of running chains and nodes, in one process and without a network.

mod application;
mod harness;
mod ledger;
mod node;
