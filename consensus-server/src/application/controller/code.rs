//! What a controller's status codes mean to consensus.
//!
//! The numbers are CITA-Cloud's (`status-code` 6.7); only those that change what consensus does have a name
//! here. Codes that are a multiple of 100 say that a service behind the controller is not ready.

use std::fmt;

/// A status code from the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u32);

/// What follows from a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It is done.
    Done,
    /// The controller has this height already.
    AlreadyThere,
    /// The controller misses blocks below this height and fetches them itself.
    Behind,
    /// The controller misses transactions and has asked the proposer for them.
    TransactionsMissing,
    /// The controller, or a service behind it, cannot answer now.
    NotNow,
    /// The controller does not want this block.
    Refused,
}

impl Code {
    /// Success.
    pub const SUCCESS: Self = Self(0);
    /// No transaction: a relic that counted as success.
    pub const NO_TRANSACTION: Self = Self(109);
    /// Transactions of the proposal are not in the pool.
    pub const NONE_RAW_TX: Self = Self(119);
    /// Above the next height.
    pub const PROPOSAL_TOO_HIGH: Self = Self(128);
    /// At or below the present height.
    pub const PROPOSAL_TOO_LOW: Self = Self(129);
    /// The controller imports blocks by sync.
    pub const NODE_IN_SYNC: Self = Self(139);
    /// The executor has this block already; the controller goes on by itself.
    pub const REENTER_BLOCK: Self = Self(502);

    /// What follows from it.
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::SUCCESS | Self::NO_TRANSACTION => Meaning::Done,
            Self::PROPOSAL_TOO_LOW => Meaning::AlreadyThere,
            Self::PROPOSAL_TOO_HIGH => Meaning::Behind,
            Self::NONE_RAW_TX => Meaning::TransactionsMissing,
            Self::NODE_IN_SYNC | Self::REENTER_BLOCK => Meaning::NotNow,
            Self(code) if code.is_multiple_of(100) => Meaning::NotNow,
            Self(_) => Meaning::Refused,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "success",
            112 => "no proposal",
            119 => "transactions missing",
            123 => "cannot be decoded",
            128 => "height too high",
            129 => "height too low",
            130 => "proposal check failed",
            139 => "controller in sync mode",
            153 => "quota exceeded",
            155 => "state root differs",
            500 => "executor not ready",
            502 => "block is being executed",
            600 => "storage not ready",
            code if code.is_multiple_of(100) => "service not ready",
            _ => "refused",
        };
        write!(f, "{} ({name})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_not_ready_are_asked_again_and_refusals_are_not_taken_for_that() {
        for code in [300, 400, 500, 600, 502, 139] {
            assert_eq!(Code(code).meaning(), Meaning::NotNow, "{code}");
        }
        for code in [112, 123, 130, 153, 155] {
            assert_eq!(Code(code).meaning(), Meaning::Refused, "{code}");
        }
        assert_eq!(Code(0).meaning(), Meaning::Done);
        assert_eq!(Code(129).meaning(), Meaning::AlreadyThere);
        assert_eq!(Code(128).meaning(), Meaning::Behind);
        assert_eq!(Code(119).meaning(), Meaning::TransactionsMissing);
    }
}
