//! S5: at the moment a node counts an entry committed, a majority of the voters has it on disk (Raft
//! paper, section 5.3 with "durable before heard"; thesis, section 10.2.1 for the leader's own disk).
//!
//! This finds an acknowledgement before persistence without any crash.

use super::{Verdict, Violation};
use crate::sim::image::{EntryDigest, LogImage};

/// Counts durable copies.
#[derive(Debug)]
pub struct DurableQuorum {
    quorum: usize,
}

impl DurableQuorum {
    /// For this many voters.
    pub fn new(voters: usize) -> Self {
        Self { quorum: voters / 2 + 1 }
    }

    /// A node counts the entry at `index` committed; `images` are the durable images of all voters.
    pub fn commits<'a>(
        &self,
        node: u64,
        index: u64,
        digest: EntryDigest,
        images: impl Iterator<Item = &'a LogImage>,
    ) -> Verdict {
        let copies = images.filter(|image| image.holds(index, digest)).count();
        if copies >= self.quorum {
            return Ok(());
        }
        Err(Violation::new(
            "S5 durable quorum",
            format!(
                "n{node} counts index {index} of term {} committed with {copies} durable copies",
                digest.term
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_voters_is_no_majority() {
        let digest = EntryDigest { term: 1, content: 9 };
        let mut with = LogImage::default();
        with.push(digest);
        let without = LogImage::default();
        let check = DurableQuorum::new(4);
        check.commits(1, 1, digest, [&with, &with, &without, &without].into_iter()).expect_err("two of four");
        check.commits(1, 1, digest, [&with, &with, &with, &without].into_iter()).unwrap();
    }
}
