//! The stories that are told of a CITA-Cloud chain, one a file.

use std::time::Duration;

use super::chain::Plan;

pub(super) mod disk;
pub(super) mod faults;
pub(super) mod health;
pub(super) mod heights;
pub(super) mod idle;
pub(super) mod intervals;
pub(super) mod kills;
pub(super) mod leader;
pub(super) mod network;
pub(super) mod pauses;
pub(super) mod power_cuts;
pub(super) mod quick;
pub(super) mod reshaping;
pub(super) mod restart;
pub(crate) mod stuck;
pub(super) mod validators;

/// From a start to the first block, and from a failure to a new leader, at most, the interval aside.
const RECOVERY_LIMIT: Duration = Duration::from_secs(3);

/// From the return of everything after a power cut to the next block, at most, also where an agreed block
/// has to be given up.
const VOIDED_LIMIT: Duration = Duration::from_secs(15);

/// The chain that most stories are told of: four validators.
pub(crate) fn four(block_interval: u32) -> Plan {
    Plan { nodes: 4, validators: 4, block_interval }
}

/// A block interval as a time.
fn seconds(block_interval: u32) -> Duration {
    Duration::from_secs(u64::from(block_interval))
}
