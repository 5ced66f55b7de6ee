//! What each client uses of this node, and when that is too much: so that a client who takes more than its part
//! hinders itself and not the others.
//!
//! A client is an [`Identity`]. [`Clients`] has an [`Account`] for each, bounded in number; a connection is
//! accepted with [`Clients::connect`] and brings its account along to the services, which ask it before they
//! take something ([`account`]) and return it by dropping what they got. What arrives is counted before it is
//! decoded ([`metered`]); a reader that takes nothing is found by [`stall`].
//!
//! What it does not do: share out what all clients together may have. A bound is fixed, for the pool in
//! `application::ledger` too, and who comes first is served first.

pub mod account;
mod bucket;
mod identity;
pub(crate) mod metered;
pub(crate) mod stall;
mod table;

pub use account::{Account, Exceeded, InFlight, Limit, Slot};
pub use identity::Identity;
pub use table::{Clients, Connection};
