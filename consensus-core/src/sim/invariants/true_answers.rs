//! A1: a ticket is answered once, and an answer that says "applied" names the entry that was proposed under this
//! ticket (contract of [`crate::replica::Effect::Answer`]; pitfall: a leader that takes whatever stands at an
//! index for its own proposal).

use super::{Verdict, Violation};
use crate::sim::image::EntryDigest;

const NAME: &str = "A1 true answers";

/// Judges answers.
#[derive(Debug, Default)]
pub struct TrueAnswers;

impl TrueAnswers {
    /// A node answers a ticket; `asked`: somebody waits for it.
    pub fn answered(&self, node: u64, ticket: u64, asked: bool) -> Verdict {
        if asked {
            return Ok(());
        }
        Err(Violation::new(NAME, format!("n{node} answers ticket {ticket}, for which nobody waits")))
    }

    /// A proposal with this content is said to be applied in `term` at an index whose committed entry is
    /// `canonical`.
    pub fn applied(
        &self,
        node: u64,
        content: u64,
        index: u64,
        term: u64,
        canonical: Option<EntryDigest>,
    ) -> Verdict {
        let claimed = EntryDigest { term, content };
        if canonical == Some(claimed) {
            return Ok(());
        }
        let detail = format!("n{node} says that {claimed:?} is at index {index}, committed is {canonical:?}");
        Err(Violation::new(NAME, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_answer_and_another_entry_are_violations() {
        TrueAnswers.answered(1, 7, true).unwrap();
        TrueAnswers.answered(1, 7, false).expect_err("nobody waits for it");
        let entry = EntryDigest { term: 2, content: 9 };
        TrueAnswers.applied(1, 9, 4, 2, Some(entry)).unwrap();
        TrueAnswers.applied(1, 8, 4, 2, Some(entry)).expect_err("another content");
        TrueAnswers.applied(1, 9, 4, 1, Some(entry)).expect_err("another term");
        TrueAnswers.applied(1, 9, 4, 2, None).expect_err("nothing is committed there");
    }
}
