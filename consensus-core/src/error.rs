//! Classes of failure.
//!
//! Every error of this crate says by its class what its consumer may do about it; the modules define
//! the errors themselves.

/// What a consumer may do about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing is wrong with the request; the same request may succeed later.
    Retry,
    /// The request can never succeed as it is.
    Reject,
    /// This chain must stop: what is durable can no longer be trusted or extended.
    Halt,
}
