//! Status codes of CITA-Cloud that the stand-ins answer with.

/// Done.
pub const SUCCESS: u32 = 0;
/// A transaction's body is not in the pool.
pub const NONE_RAW_TX: u32 = 119;
/// Bytes that are no block.
pub const DECODE_ERROR: u32 = 123;
/// The block's predecessor is not here yet.
pub const PROPOSAL_TOO_HIGH: u32 = 128;
/// A block of this height is here already.
pub const PROPOSAL_TOO_LOW: u32 = 129;
/// The block breaks a rule.
pub const PROPOSAL_CHECK_ERROR: u32 = 130;
/// The controller is fetching blocks.
pub const NODE_IN_SYNC_MODE: u32 = 139;
/// The network has not started its handlers.
pub const NETWORK_NOT_READY: u32 = 400;
