//! Operations: what machines and people ask a node over plain HTTP, and the view that answers them.
//!
//! [`NodeView`] gathers the state of the node from its parts; [`health`] says what live and ready mean;
//! [`http`] serves `/metrics`, `/livez`, `/readyz`, `/status` and `/log`. Nothing here changes the node
//! except its log filter.

pub mod health;
pub mod http;
mod view;

pub use view::NodeView;
