//! The three ends of a run: what must hold did not, or nobody can tell because it was not put to the test,
//! or it passed.

use std::fmt;

use anyhow::{Result, bail};

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Failed(Vec<String>),
    /// Nothing is wrong, and not everything that was asked for was tested.
    NotCovered(Vec<String>),
    Passed,
}

/// The error of a run that has not tested what it was to test; the exit code is 2.
#[derive(Clone, Debug)]
pub(crate) struct NotCovered(usize);

impl fmt::Display for NotCovered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not covered: {} things that the run was to test have not happened", self.0)
    }
}

impl std::error::Error for NotCovered {}

impl Verdict {
    /// A finding weighs more than a gap.
    pub(crate) fn reach(findings: Vec<String>, gaps: Vec<String>) -> Self {
        match (findings.is_empty(), gaps.is_empty()) {
            (false, _) => Self::Failed(findings),
            (true, false) => Self::NotCovered(gaps),
            (true, true) => Self::Passed,
        }
    }

    /// As the end of this command.
    ///
    /// # Errors
    /// Unless it passed.
    pub(crate) fn into_result(self) -> Result<()> {
        match self {
            Self::Failed(findings) => bail!("chaos: {} findings", findings.len()),
            Self::NotCovered(gaps) => Err(NotCovered(gaps.len()).into()),
            Self::Passed => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(findings) => write!(formatter, "FAILED\n    {}", findings.join("\n    ")),
            Self::NotCovered(gaps) => write!(formatter, "NOT COVERED\n    {}", gaps.join("\n    ")),
            Self::Passed => formatter.write_str(
                "passed: every acknowledged transaction is in the chain once, at its place, in real-time order, on every node",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_fails_a_gap_alone_is_not_covered_and_neither_passes() {
        let text = |what: &str| vec![what.to_owned()];
        assert_eq!(Verdict::reach(text("lost"), text("gap")), Verdict::Failed(text("lost")));
        let not_covered = Verdict::reach(Vec::new(), text("gap"));
        assert_eq!(not_covered, Verdict::NotCovered(text("gap")));
        let error = not_covered.into_result().expect_err("is no pass");
        assert!(error.downcast_ref::<NotCovered>().is_some());
        let error = Verdict::Failed(text("lost")).into_result().expect_err("fails");
        assert!(error.downcast_ref::<NotCovered>().is_none());
        assert!(Verdict::reach(Vec::new(), Vec::new()).into_result().is_ok());
    }
}
