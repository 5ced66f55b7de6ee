//! S14: a linearizable read sees everything that was acknowledged before it began (Raft thesis,
//! section 6.4).

use super::{Verdict, Violation};

/// The highest acknowledged position.
#[derive(Debug, Default)]
pub struct FreshReads {
    acknowledged: u64,
    answered: u64,
}

impl FreshReads {
    /// A client was told that its transaction is in the entry at this index.
    pub fn acknowledged(&mut self, index: u64) {
        self.acknowledged = self.acknowledged.max(index);
    }

    /// A read begins: what it has to see at least.
    pub fn begin(&self) -> u64 {
        self.acknowledged
    }

    /// A read that had to see `least` is answered.
    pub fn answered(&mut self, node: u64, least: u64, index: u64) -> Verdict {
        self.answered += 1;
        if index >= least {
            return Ok(());
        }
        Err(Violation::new(
            "S14 fresh reads",
            format!("n{node} answers a read with index {index}, acknowledged before it was {least}"),
        ))
    }

    /// How many reads were answered.
    pub fn reads(&self) -> u64 {
        self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_behind_an_acknowledgement_is_stale() {
        let mut check = FreshReads::default();
        check.acknowledged(7);
        check.acknowledged(5);
        let least = check.begin();
        check.answered(1, least, 7).unwrap();
        check.answered(1, least, 6).expect_err("stale");
    }
}
