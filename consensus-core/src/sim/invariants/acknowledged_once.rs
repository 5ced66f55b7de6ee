//! P4: an acknowledged transaction is in the chain exactly once, where its client was told; one that was
//! not acknowledged at most once; nothing is in the chain that nobody submitted; and if one transaction was
//! acknowledged before another one was submitted, it stands before it (our promise to ordering clients).
//!
//! Judged at the end of a run over the canonical chain.

use std::collections::BTreeMap;

use super::{CanonicalBlock, Verdict, Violation};
use crate::ids::Hash;

const NAME: &str = "P4 acknowledged once";

/// What a client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledgement {
    /// The client.
    pub client: u64,
    /// Its transaction.
    pub number: u64,
    /// When it was first submitted.
    pub submitted_us: u64,
    /// When the answer arrived.
    pub acknowledged_us: u64,
    /// The block.
    pub height: u64,
    /// The place within the block.
    pub position: u64,
    /// The block's hash.
    pub hash: Hash,
}

/// All acknowledgements of a run, in the order of their arrival.
#[derive(Debug, Default)]
pub struct AcknowledgedOnce {
    acknowledgements: Vec<Acknowledgement>,
}

impl AcknowledgedOnce {
    /// A client was answered.
    pub fn acknowledged(&mut self, acknowledgement: Acknowledgement) {
        self.acknowledgements.push(acknowledgement);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.acknowledgements.len() as u64
    }

    /// Judges the chain; `submitted(client)` is the number of the client's last transaction, 1 is the first.
    pub fn judge(&self, blocks: &[CanonicalBlock], submitted: impl Fn(u64) -> u64) -> Verdict {
        let mut places = BTreeMap::new();
        for (height, block) in (1..).zip(blocks) {
            for (position, transaction) in (0..).zip(&block.transactions) {
                let (client, number) = *transaction;
                if number == 0 || number > submitted(client) {
                    let detail = format!("transaction {number} of client {client} was never submitted");
                    return Err(Violation::new(NAME, detail));
                }
                if let Some((first, _)) = places.insert((client, number), (height, position)) {
                    let detail =
                        format!("transaction {number} of client {client} is at heights {first} and {height}");
                    return Err(Violation::new(NAME, detail));
                }
            }
        }
        for told in &self.acknowledgements {
            let place = places.get(&(told.client, told.number)).copied();
            let hash = blocks.get((told.height as usize).wrapping_sub(1)).map(|block| block.hash);
            if place != Some((told.height, told.position)) || hash != Some(told.hash) {
                return Err(Violation::new(
                    NAME,
                    format!("{told:?}, but it is at {place:?} in block {hash:?}"),
                ));
            }
        }
        self.judge_order()
    }

    /// Whether the chain's order agrees with real time: a sweep over submissions by time with the highest
    /// place that was acknowledged before.
    fn judge_order(&self) -> Verdict {
        let mut by_submission: Vec<&Acknowledgement> = self.acknowledgements.iter().collect();
        by_submission.sort_by_key(|told| told.submitted_us);
        let mut by_arrival: Vec<&Acknowledgement> = self.acknowledgements.iter().collect();
        by_arrival.sort_by_key(|told| told.acknowledged_us);
        let mut arrived = by_arrival.into_iter().peekable();
        let mut highest: Option<&Acknowledgement> = None;
        for told in by_submission {
            while let Some(before) = arrived.next_if(|before| before.acknowledged_us < told.submitted_us) {
                let higher =
                    highest.is_none_or(|h| (h.height, h.position) < (before.height, before.position));
                highest = if higher { Some(before) } else { highest };
            }
            if let Some(before) = highest.filter(|h| (h.height, h.position) > (told.height, told.position)) {
                return Err(Violation::new(
                    NAME,
                    format!("{told:?} was submitted after {before:?} was acknowledged"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: u64, submitted_us: u64, height: u64) -> Acknowledgement {
        let hash = Hash([height as u8; 32]);
        Acknowledgement {
            client: 1,
            number,
            submitted_us,
            acknowledged_us: submitted_us + 5,
            height,
            position: 0,
            hash,
        }
    }

    fn judge(acknowledgements: &[Acknowledgement], chain: &[&[u64]]) -> Verdict {
        let mut check = AcknowledgedOnce::default();
        acknowledgements.iter().for_each(|told| check.acknowledged(*told));
        let blocks: Vec<CanonicalBlock> = (1..)
            .zip(chain)
            .map(|(height, numbers)| CanonicalBlock {
                hash: Hash([height; 32]),
                index: u64::from(height),
                transactions: numbers.iter().map(|number| (1, *number)).collect(),
            })
            .collect();
        check.judge(&blocks, |_| 3)
    }

    #[test]
    fn a_lost_doubled_moved_or_invented_transaction_is_a_violation() {
        judge(&[told(1, 0, 1), told(2, 10, 2)], &[&[1], &[2]]).unwrap();
        judge(&[told(1, 0, 1)], &[&[1], &[3]]).expect("one that was not acknowledged may be there");
        judge(&[told(1, 0, 1)], &[&[2]]).expect_err("lost");
        judge(&[told(1, 0, 1)], &[&[1], &[1]]).expect_err("doubled");
        judge(&[told(1, 0, 1)], &[&[2, 1]]).expect_err("moved");
        judge(&[], &[&[4]]).expect_err("invented");
    }

    #[test]
    fn an_order_against_real_time_is_a_violation() {
        judge(&[told(1, 0, 2), told(2, 3, 1)], &[&[2], &[1]]).expect("they were submitted at the same time");
        judge(&[told(1, 0, 2), told(2, 10, 1)], &[&[2], &[1]]).expect_err("against real time");
    }
}
