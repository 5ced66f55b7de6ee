//! The core of the consensus service: one chain's Raft replica, the built-in ledger and their storage.
//!
//! Nothing here knows a network, a clock, an async runtime or the operating system's randomness; time
//! arrives as [`replica::Event::Tick`] and every answer to the outside leaves as a
//! [`replica::Effect`]. The server runs a replica in production, the simulator (`sim`) runs the same
//! code under one seed.
//!
//! * [`audit`]: lines of the log of administrative actions, and their check.
//! * [`ids`], [`limits`], [`error`]: names, bounds and classes of failure that all rooms share.
//! * [`reach`]: marks at places that the simulator's seeds have to reach; nothing in other builds.
//! * [`replica`]: consensus of one chain on this node, as a pure function of events.
//! * [`ledger`]: transactions to blocks, as pure logic.
//! * [`storage`]: what is durable, on RocksDB and in memory.

pub mod audit;
pub mod error;
pub mod ids;
pub mod ledger;
pub mod limits;
pub mod mutant;
pub mod reach;
pub mod replica;
pub mod storage;

#[cfg(feature = "sim")]
pub mod sim;
