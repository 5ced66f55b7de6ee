//! The commands, one per file. Each takes its arguments and a writer and returns its verdict; errors are
//! for what could not be found out.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod block;
pub(crate) mod blocks;
pub(crate) mod certs;
pub(crate) mod deliver;
pub(crate) mod dump;
pub(crate) mod hard_state;
pub(crate) mod health;
pub(crate) mod peers;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod transfer;
pub(crate) mod tx;
pub(crate) mod verify;
pub(crate) mod void;
