//! S17: nothing panics, no chain halts without a fault that demands it, and every node starts on what it wrote
//! (our promise that neither disk nor wire can bring a node down; inventory of panics in the raft crate).
//!
//! A replica catches panics of the crate below it and halts with the reason `bug!`; a panic elsewhere ends the
//! run and is reported under this name.

use super::{Verdict, Violation};

const NAME: &str = "S17 no panic";

/// Judges halts.
#[derive(Debug, Default)]
pub struct NoPanic;

impl NoPanic {
    /// A running replica; `halted` is why it is not.
    pub fn runs(&self, node: u64, halted: Option<&str>) -> Verdict {
        halted.map_or(Ok(()), |reason| Err(Violation::new(NAME, format!("n{node} halts: {reason}"))))
    }

    /// A node starts, or says why it does not.
    ///
    /// # Errors
    /// The violation.
    pub fn starts<T>(&self, node: u64, started: Result<T, String>) -> Result<T, Violation> {
        started.map_err(|why| Violation::new(NAME, format!("n{node} does not start: {why}")))
    }

    /// The run panicked.
    pub fn panicked(why: &str) -> Violation {
        Violation::new(NAME, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_and_a_node_that_does_not_start_are_violations() {
        NoPanic.runs(1, None).unwrap();
        NoPanic.runs(1, Some("bug! panic: index out of bounds")).expect_err("halted");
        assert_eq!(NoPanic.starts(1, Ok(7)).unwrap(), 7);
        NoPanic.starts(1, Err::<(), _>("a gap".to_owned())).expect_err("does not start");
    }
}
