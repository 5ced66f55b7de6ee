//! S15: no transaction id is in the chain twice (our promise of exactly-once ordering within the window of known
//! ids, which no run leaves).
//!
//! Judged at each block that is the first of its height.

use std::collections::BTreeMap;

use super::{Verdict, Violation};

/// Which ids are in the chain.
#[derive(Debug, Default)]
pub struct NoIdTwice {
    /// By client and number: the height, 0 for none.
    heights: BTreeMap<u64, Vec<u64>>,
}

impl NoIdTwice {
    /// The next block of the chain.
    pub fn block(&mut self, height: u64, transactions: &[(u64, u64)]) -> Verdict {
        for (client, number) in transactions {
            let column = *number as usize;
            let numbers = self.heights.entry(*client).or_default();
            numbers.resize(numbers.len().max(column + 1), 0);
            let first = std::mem::replace(&mut numbers[column], height);
            if first != 0 {
                let detail =
                    format!("transaction {number} of client {client} is at heights {first} and {height}");
                return Err(Violation::new("S15 no id twice", detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_comes_again_is_a_violation_within_a_block_and_across_blocks() {
        let mut check = NoIdTwice::default();
        check.block(1, &[(0, 1), (3, 1)]).unwrap();
        check.block(2, &[(0, 2)]).unwrap();
        check.block(3, &[(3, 1)]).expect_err("it is in block 1");
        NoIdTwice::default().block(1, &[(1, 1), (1, 1)]).expect_err("twice in one block");
    }
}
