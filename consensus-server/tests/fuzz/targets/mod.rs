//! The bodies of the fuzz targets: plain functions over bytes, called by the tests beside them and by the
//! binaries in `consensus-server/fuzz`. Each panics when what it claims does not hold.

pub(crate) mod configuration;
#[allow(dead_code, reason = "the targets of the core use all of it")]
#[path = "../../../../consensus-core/tests/fuzz/targets/draws.rs"]
mod draws;
pub(crate) mod envelopes;
pub(crate) mod heap;
pub(crate) mod ordering;
mod rig;
