//! The stories that end-to-end runs tell.

pub(super) mod certs;
pub(super) mod default;
pub(super) mod flood;
pub(super) mod mistakes;
pub(super) mod page;
pub(crate) mod papers;
pub(super) mod restart;
pub(super) mod upgrade;
