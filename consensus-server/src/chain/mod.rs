//! The hall: one running chain.
//!
//! A driver task (`driver.rs`) owns the replica and is the only place on the hot path that selects over inputs. It
//! never awaits input or output: `effects.rs` hands every effect to somebody who does (the transport, the
//! writer, the application), and their answers come back through the inbox (`inbox.rs`) as events. Everybody else
//! holds a [`ChainHandle`].

mod driver;
mod effects;
mod handle;
mod inbox;
mod latency;
mod observer;
mod start;
mod ticks;
mod writer;

pub use handle::ChainHandle;
pub use observer::{ChainObserver, PersistStats, RoundStats, SnapshotStep, Unobserved};
pub use start::{ChainStart, RunningChain, StartError, start};
pub use writer::{ChainWriter, NodeWriter};
