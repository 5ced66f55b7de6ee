//! What commands print: [`json`] for programs, [`table`] and [`text`] for people.
//!
//! Commands write into a `Write` that is handed to them; nothing prints on its own but progress and
//! notes on standard error.

pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod text;

/// What a command found: its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// 0.
    Fine,
    /// 1: a finding, a refusal, something asked for is not there.
    Finding,
    /// 2: neither can be said.
    CannotTell,
}

impl Verdict {
    /// `Finding` if there is one.
    pub(crate) fn finding_if(found: bool) -> Self {
        if found { Self::Finding } else { Self::Fine }
    }

    /// The worse of two: not knowing outweighs a finding, a finding outweighs fine.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::CannotTell, _) | (_, Self::CannotTell) => Self::CannotTell,
            (Self::Finding, _) | (_, Self::Finding) => Self::Finding,
            (Self::Fine, Self::Fine) => Self::Fine,
        }
    }
}
