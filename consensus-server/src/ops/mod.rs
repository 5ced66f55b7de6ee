//! Operations: what machines and people ask a node over plain HTTP, and the view that answers them.
//!
//! [`OpsView`] is what is asked; [`NodeView`] answers for the node, gathering its state from its parts;
//! [`health`] says what live and ready mean; [`http`] serves `/metrics`, `/livez`, `/readyz`, `/status`,
//! `/log`, and at `/` the status page with what it needs. Nothing here changes the node except its log filter.

pub mod health;
pub mod http;
mod view;

pub use view::{NodeView, OpsView};
pub(crate) use view::{change_json, change_record};
