//! P4: what clients saw is the history of one log: an acknowledged transaction is in the chain exactly once,
//! where its client was told; one without an answer at most once; nothing is there that nobody submitted; all
//! nodes delivered prefixes of one sequence; and the order agrees with real time (our promise to ordering clients;
//! rules in [`crate::sim::history`]).
//!
//! Recorded during a run, judged at its end.

use std::collections::BTreeMap;

use super::{CanonicalBlock, Verdict, Violation};
use crate::ids::Hash;
use crate::sim::history::{self, Id, Operation};

const NAME: &str = "P4 client history";

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

/// A block as it was delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Delivered {
    hash: Hash,
    ids: Vec<Id>,
}

/// What all nodes together delivered.
#[derive(Debug, Default)]
struct Chain {
    /// By height: the position of the block's first transaction, and its hash.
    blocks: BTreeMap<u64, (u64, Hash)>,
    ids: Vec<Id>,
}

/// All operations and deliveries of a run.
#[derive(Debug)]
pub struct ClientHistory {
    /// When each transaction was first submitted.
    began: BTreeMap<Id, u64>,
    acknowledgements: Vec<Acknowledgement>,
    /// By node and height. A node that became a snapshot has not delivered what is in it.
    delivered: Vec<BTreeMap<u64, Delivered>>,
}

impl ClientHistory {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { began: BTreeMap::new(), acknowledgements: Vec::new(), delivered: vec![BTreeMap::new(); nodes] }
    }

    /// A client submits a transaction, perhaps again.
    pub fn submits(&mut self, client: u64, number: u64, now_us: u64) {
        self.began.entry((client, number)).or_insert(now_us);
    }

    /// A client was answered.
    pub fn acknowledged(&mut self, acknowledgement: Acknowledgement) {
        self.acknowledgements.push(acknowledgement);
    }

    /// How many answers there were.
    pub fn count(&self) -> u64 {
        self.acknowledgements.len() as u64
    }

    /// A node delivers a block, after a restart perhaps once more.
    pub fn delivers(&mut self, node: usize, height: u64, block: &CanonicalBlock) -> Verdict {
        let block = Delivered { hash: block.hash, ids: block.transactions.clone() };
        let first = self.delivered[node].entry(height).or_insert_with(|| block.clone());
        if *first == block {
            return Ok(());
        }
        Err(Violation::new(
            NAME,
            format!("n{} delivers height {height} as {first:?} and as {block:?}", node + 1),
        ))
    }

    /// Judges the run.
    pub fn judge(&self) -> Verdict {
        self.check().map_err(|why| Violation::new(NAME, why))
    }

    fn check(&self) -> Result<(), String> {
        let chain = self.chain()?;
        let mut operations: BTreeMap<Id, Operation> = self
            .began
            .iter()
            .map(|(id, began)| (*id, Operation { id: *id, began: *began, acknowledged: None }))
            .collect();
        for told in &self.acknowledgements {
            let block = chain.blocks.get(&told.height).filter(|(_, hash)| *hash == told.hash);
            let (start, _) = block.ok_or_else(|| format!("{told:?}, but no node delivered that block"))?;
            let operation = operations.get_mut(&(told.client, told.number));
            let operation = operation.ok_or_else(|| format!("{told:?}, but it was never submitted"))?;
            if operation.acknowledged.is_some() {
                return Err(format!("{told:?}, which had its answer"));
            }
            operation.acknowledged = Some((told.acknowledged_us, start + told.position));
        }
        let operations: Vec<Operation> = operations.into_values().collect();
        let whole: Vec<Vec<Id>> = self.delivered.iter().map(whole_sequence).collect();
        let mut sequences: Vec<&[Id]> = whole.iter().map(Vec::as_slice).collect();
        sequences.push(&chain.ids);
        history::check(&operations, &sequences)
    }

    /// From all nodes together, because one that became a snapshot has not delivered everything.
    fn chain(&self) -> Result<Chain, String> {
        let mut all: BTreeMap<u64, &Delivered> = BTreeMap::new();
        for (height, block) in self.delivered.iter().flatten() {
            let first = all.entry(*height).or_insert(block);
            if *first != block {
                return Err(format!("height {height} is delivered as {first:?} and as {block:?}"));
            }
        }
        let mut chain = Chain::default();
        for ((height, block), expected) in all.into_iter().zip(1..) {
            if height != expected {
                return Err(format!("no node delivered height {expected}"));
            }
            chain.blocks.insert(height, (chain.ids.len() as u64, block.hash));
            chain.ids.extend(&block.ids);
        }
        Ok(chain)
    }
}

/// What a node delivered from height 1 on, up to the first height that it did not.
fn whole_sequence(delivered: &BTreeMap<u64, Delivered>) -> Vec<Id> {
    let contiguous = delivered.iter().zip(1..).take_while(|((height, _), expected)| *height == expected);
    contiguous.flat_map(|((_, block), _)| block.ids.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(height: u64, numbers: &[u64]) -> CanonicalBlock {
        let transactions = numbers.iter().map(|number| (1, *number)).collect();
        CanonicalBlock { hash: Hash([height as u8; 32]), index: height, transactions }
    }

    fn told(number: u64, height: u64, position: u64) -> Acknowledgement {
        let hash = Hash([height as u8; 32]);
        let (submitted_us, acknowledged_us) = (number * 10, number * 10 + 5);
        Acknowledgement { client: 1, number, submitted_us, acknowledged_us, height, position, hash }
    }

    /// Two nodes; the second one became a snapshot of height 1.
    fn history(acknowledgements: &[Acknowledgement]) -> ClientHistory {
        let mut history = ClientHistory::new(2);
        (1..=3).for_each(|number| history.submits(1, number, number * 10));
        history.submits(1, 1, 99);
        history.delivers(0, 1, &block(1, &[1])).unwrap();
        history.delivers(0, 2, &block(2, &[2, 3])).unwrap();
        history.delivers(1, 2, &block(2, &[2, 3])).unwrap();
        acknowledgements.iter().for_each(|told| history.acknowledged(*told));
        history
    }

    #[test]
    fn places_are_counted_through_the_blocks() {
        history(&[told(1, 1, 0), told(2, 2, 0), told(3, 2, 1)]).judge().unwrap();
        history(&[told(3, 2, 0)]).judge().expect_err("it is at the next place");
        history(&[told(3, 3, 0)]).judge().expect_err("there is no such block");
        history(&[told(4, 2, 0)]).judge().expect_err("nobody submitted it");
        history(&[told(1, 1, 0), told(1, 1, 0)]).judge().expect_err("two answers");
        history(&[Acknowledgement { hash: Hash([9; 32]), ..told(1, 1, 0) }])
            .judge()
            .expect_err("another block");
    }

    #[test]
    fn two_contents_of_a_height_and_a_height_that_nobody_delivered_are_violations() {
        let mut forked = history(&[]);
        forked.delivers(0, 2, &block(2, &[2])).expect_err("delivered before with more");
        forked.delivers(1, 3, &block(3, &[4])).unwrap();
        forked.judge().expect_err("nobody submitted it");
        let mut forked = history(&[]);
        forked.delivers(1, 1, &block(1, &[3])).unwrap();
        forked.judge().expect_err("the nodes differ");
        let mut gap = history(&[]);
        gap.delivers(0, 4, &block(4, &[])).unwrap();
        gap.judge().expect_err("height 3 is missing");
    }
}
