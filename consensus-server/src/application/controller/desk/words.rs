//! What the desk says and hears.

use std::time::Instant;

use bytes::Bytes;

use crate::application::controller::agreement::AgreedBlock;
use crate::application::controller::code::Code;
use crate::application::controller::{CallFailed, Configuration, Fetched};

/// A call to the controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::application::controller) enum Call {
    /// Height and configuration.
    Ping,
    /// Would it commit this?
    Check {
        /// The height.
        height: u64,
        /// The proposal.
        data: Bytes,
    },
    /// Commit this.
    Commit {
        /// The height.
        height: u64,
        /// The proposal.
        data: Bytes,
    },
    /// A proposal.
    Fetch,
}

/// What a call led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::application::controller) enum Reply {
    /// To `Ping` and `Commit`.
    Configured(Result<(Code, Option<Configuration>), CallFailed>),
    /// To `Check`.
    Checked(Result<Code, CallFailed>),
    /// To `Fetch`.
    Fetched(Result<Fetched, CallFailed>),
}

/// What the rest of the application must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::application::controller) enum Notice {
    /// Height or configuration changed.
    Moved,
    /// The controller's verdict on the leader's candidate.
    Verdict(Candidate, Code),
    /// The controller's own proposal.
    Proposal(u64, Bytes),
    /// It has none.
    NoProposal(String),
    /// An agreed block cannot be committed for now.
    Stuck(Stuck),
}

/// What the leader wants to have checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::application::controller) struct Candidate {
    pub(in crate::application::controller) term: u64,
    pub(in crate::application::controller) number: u64,
    pub(in crate::application::controller) height: u64,
    pub(in crate::application::controller) data: Bytes,
}

/// An agreed block that the controller does not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::application::controller) struct Stuck {
    pub(in crate::application::controller) height: u64,
    pub(in crate::application::controller) code: Code,
    pub(super) since: Instant,
    pub(super) told: bool,
}

/// What must never be committed any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::application::controller) struct Promise {
    pub(in crate::application::controller) from_height: u64,
    pub(in crate::application::controller) upto_index: u64,
}

impl Promise {
    /// Whether this block is among them.
    pub(super) fn covers(&self, block: &AgreedBlock) -> bool {
        block.height >= self.from_height && block.index <= self.upto_index
    }
}

impl Reply {
    /// The controller's code; `None` without an answer.
    pub(in crate::application::controller) fn code(&self) -> Option<Code> {
        match self {
            Self::Configured(answer) => answer.as_ref().ok().map(|(code, _)| *code),
            Self::Checked(answer) => answer.as_ref().ok().copied(),
            Self::Fetched(answer) => {
                answer.as_ref().ok().map(|fetched| fetched.as_ref().err().copied().unwrap_or(Code::SUCCESS))
            }
        }
    }
}
