//! Who waits for which transactions, and the answers so far.
//!
//! A frame is what one submission brought: many transactions and one opaque token of the caller. Outcomes arrive
//! for ranges of a frame, in any order; when the last transaction has its outcome, the frame is completed once,
//! with its outcomes as runs in the order of its transactions. Nothing is kept per transaction here.

use std::mem;

use thiserror::Error;

use super::block::InvalidTransaction;
use super::ledger::Location;
use crate::error::Class;
use crate::ids::Hash;

/// What became of a run of consecutive transactions of one frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// How many transactions, > 0.
    pub count: u32,
    /// What became of them.
    pub outcome: Outcome,
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in the chain.
    Committed {
        /// The block.
        height: u64,
        /// Position of the run's first transaction; those that follow in the run follow in the block.
        index: u32,
        /// The block's hash.
        block_hash: Hash,
        /// It was in the chain, or on its way there, before it was offered.
        duplicate: bool,
    },
    /// It is in the pipeline. Only as a verdict, never in a completion.
    Accepted,
    /// It is not in the chain, or that is unknown.
    Refused(Refusal),
}

impl Outcome {
    pub(super) fn committed(at: Location, duplicate: bool) -> Self {
        let Location { height, index, block_hash } = at;
        Self::Committed { height, index, block_hash, duplicate }
    }

    /// Whether a run of `count` with this outcome goes on with `next`.
    fn continues(&self, count: u32, next: &Self) -> bool {
        match (self, next) {
            (
                Self::Committed { height, index, block_hash, duplicate },
                Self::Committed {
                    height: next_height,
                    index: next_index,
                    block_hash: next_hash,
                    duplicate: next_duplicate,
                },
            ) => {
                height == next_height
                    && *next_index == index + count
                    && block_hash == next_hash
                    && duplicate == next_duplicate
            }
            _ => self == next,
        }
    }

    /// The outcome of the transaction that is `by` further in a run.
    pub(super) fn advanced(&self, by: u32) -> Self {
        let mut advanced = self.clone();
        if let Self::Committed { index, .. } = &mut advanced {
            *index += by;
        }
        advanced
    }

    /// The same for somebody who offered the transaction again.
    pub(super) fn for_duplicate(&self) -> Self {
        let mut outcome = self.clone();
        if let Self::Committed { duplicate, .. } = &mut outcome {
            *duplicate = true;
        }
        outcome
    }
}

/// Why a transaction was refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// It can never be in a block.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// The pipeline is full.
    #[error("{what} is at its bound of {bound}")]
    Overloaded {
        /// The bound's name.
        what: &'static str,
        /// The bound.
        bound: u64,
    },
    /// It was discarded before it was proposed: it will not be in the chain unless it is submitted again.
    #[error("leadership was lost before the transaction was proposed")]
    NotProposed,
    /// It was proposed, and this node cannot know what becomes of it. Submitting it again under the same id is
    /// harmless.
    #[error("leadership was lost with the transaction in flight, the outcome is unknown")]
    OutcomeUnknown,
    /// The chain has halted on this node.
    #[error("the chain has halted on this node")]
    Halted,
}

impl Refusal {
    /// What the consumer may do.
    pub fn class(&self) -> Class {
        match self {
            Self::Invalid(_) => Class::Reject,
            Self::Overloaded { .. } | Self::NotProposed | Self::OutcomeUnknown => Class::Retry,
            Self::Halted => Class::Halt,
        }
    }
}

/// Adds a run at the end of a list, as part of the last one where it goes on with it.
pub(super) fn push_run(runs: &mut Vec<Run>, count: u32, outcome: Outcome) {
    match runs.last_mut() {
        Some(last) if last.outcome.continues(last.count, &outcome) => last.count += count,
        _ => runs.push(Run { count, outcome }),
    }
}

/// All outcomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion<T> {
    /// The frame's token.
    pub token: T,
    /// The outcomes; their counts add up to the frame's transactions.
    pub outcomes: Vec<Run>,
}

/// Some transactions of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slots {
    pub(super) frame: u32,
    pub(super) first: u32,
    pub(super) count: u32,
}

#[derive(Debug)]
struct OpenFrame<T> {
    token: T,
    unresolved: u32,
    /// Outcomes with the position of their first transaction, in the order of their arrival.
    outcomes: Vec<(u32, Run)>,
}

/// The frames that wait, and those that are complete and not yet taken.
#[derive(Debug)]
pub(super) struct Pool<T> {
    frames: Vec<Option<OpenFrame<T>>>,
    free: Vec<u32>,
    completed: Vec<Completion<T>>,
}

impl<T> Pool<T> {
    pub(super) fn new() -> Self {
        Self { frames: Vec::new(), free: Vec::new(), completed: Vec::new() }
    }

    /// The number that the next frame will have.
    pub(super) fn next_frame(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.frames.len() as u32)
    }

    /// Takes a frame with the verdicts on its transactions; those accepted are unresolved.
    pub(super) fn open(&mut self, token: T, verdicts: &[Run]) {
        let accepted = |run: &Run| run.outcome == Outcome::Accepted;
        let unresolved = verdicts.iter().filter(|run| accepted(run)).map(|run| run.count).sum();
        if unresolved == 0 {
            self.completed.push(Completion { token, outcomes: verdicts.to_vec() });
            return;
        }
        let mut outcomes = Vec::new();
        let mut first = 0;
        for run in verdicts {
            if !accepted(run) {
                outcomes.push((first, run.clone()));
            }
            first += run.count;
        }
        let frame = Some(OpenFrame { token, unresolved, outcomes });
        match self.free.pop() {
            Some(free) => self.frames[free as usize] = frame,
            None => self.frames.push(frame),
        }
    }

    /// Gives unresolved transactions of a frame their outcome, and completes the frame if they were the last.
    pub(super) fn resolve(&mut self, slots: Slots, outcome: Outcome) {
        let place = &mut self.frames[slots.frame as usize];
        let frame = place.as_mut().expect("a frame is open while transactions of it are unresolved");
        frame.outcomes.push((slots.first, Run { count: slots.count, outcome }));
        frame.unresolved -= slots.count;
        if frame.unresolved > 0 {
            return;
        }
        let frame = place.take().expect("it was there a moment ago");
        self.free.push(slots.frame);
        self.completed.push(Completion { token: frame.token, outcomes: in_order(frame.outcomes) });
    }

    pub(super) fn take_completed(&mut self) -> Vec<Completion<T>> {
        mem::take(&mut self.completed)
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.frames.len() - self.free.len()
    }
}

fn in_order(mut outcomes: Vec<(u32, Run)>) -> Vec<Run> {
    outcomes.sort_unstable_by_key(|(first, _)| *first);
    let mut runs: Vec<Run> = Vec::with_capacity(outcomes.len());
    for (_, run) in outcomes {
        push_run(&mut runs, run.count, run.outcome);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(height: u64, index: u32) -> Outcome {
        Outcome::committed(Location { height, index, block_hash: Hash([height as u8; 32]) }, false)
    }

    fn accepted(count: u32) -> Run {
        Run { count, outcome: Outcome::Accepted }
    }

    #[test]
    fn a_frame_is_completed_once_with_its_runs_in_order() {
        let mut pool = Pool::new();
        let refused = Run { count: 1, outcome: Outcome::Refused(Refusal::Halted) };
        let frame = pool.next_frame();
        pool.open("token", &[accepted(2), refused.clone(), accepted(3)]);
        pool.resolve(Slots { frame, first: 4, count: 2 }, at(2, 0));
        pool.resolve(Slots { frame, first: 0, count: 1 }, at(1, 3));
        pool.resolve(Slots { frame, first: 3, count: 1 }, at(1, 5));
        assert!(pool.take_completed().is_empty());
        pool.resolve(Slots { frame, first: 1, count: 1 }, at(1, 4));
        let expected = [
            Run { count: 2, outcome: at(1, 3) },
            refused,
            Run { count: 1, outcome: at(1, 5) },
            Run { count: 2, outcome: at(2, 0) },
        ];
        let completed = pool.take_completed();
        assert_eq!(completed.len(), 1);
        assert_eq!((completed[0].token, completed[0].outcomes.as_slice()), ("token", expected.as_slice()));
        assert_eq!(pool.waiting(), 0);
    }

    #[test]
    fn a_frame_without_accepted_transactions_is_complete_at_once() {
        let mut pool = Pool::new();
        pool.open(1, &[]);
        pool.open(2, &[Run { count: 3, outcome: at(9, 0) }]);
        let completed = pool.take_completed();
        assert_eq!(completed.len(), 2);
        assert_eq!(completed[0], Completion { token: 1, outcomes: Vec::new() });
        assert_eq!(pool.waiting(), 0);
    }

    #[test]
    fn numbers_of_completed_frames_are_used_again() {
        let mut pool = Pool::new();
        for token in 0..10 {
            let frame = pool.next_frame();
            assert_eq!(frame, 0);
            pool.open(token, &[accepted(1)]);
            pool.resolve(Slots { frame, first: 0, count: 1 }, at(1, 0));
        }
        assert_eq!(pool.take_completed().len(), 10);
    }

    #[test]
    fn runs_are_joined_only_where_positions_follow_each_other() {
        let mut runs = Vec::new();
        push_run(&mut runs, 2, at(1, 0));
        push_run(&mut runs, 1, at(1, 2));
        push_run(&mut runs, 1, at(1, 4));
        push_run(&mut runs, 1, at(2, 5));
        push_run(&mut runs, 1, at(2, 6).for_duplicate());
        let counts: Vec<_> = runs.iter().map(|run| run.count).collect();
        assert_eq!(counts, [3, 1, 1, 1]);
    }
}
