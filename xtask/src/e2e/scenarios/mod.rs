//! The stories that end-to-end runs tell.

pub(super) mod default;
pub(super) mod mistakes;
pub(super) mod restart;
