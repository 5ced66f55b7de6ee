//! The bodies of the fuzz targets: plain functions over bytes, called by the tests beside them and by the
//! binaries in `consensus-core/fuzz`. Each panics when what it claims does not hold.

mod draws;
mod messages;
pub(crate) mod peer_messages;
pub(crate) mod records;

pub(crate) mod rig;
pub(crate) mod states;
