//! The checker of client histories agrees with an exhaustive one, stateright's, on ten thousand small random
//! histories, sound ones and broken ones.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used)]

use consensus_core::sim::history::{Id, Operation, check};
use consensus_core::sim::rng::{Rng, Stream};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// Histories that are compared.
const HISTORIES: u64 = 10_000;

/// Operations of a history at most.
const OPERATIONS_MAX: u64 = 8;

/// One log that everybody appends to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Log(Vec<Id>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    Append(Id),
    ReadAll,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Position(u64),
    Everything(Vec<Id>),
}

impl SequentialSpec for Log {
    type Op = Call;
    type Ret = Answer;

    fn invoke(&mut self, call: &Call) -> Answer {
        match call {
            Call::Append(id) => {
                self.0.push(*id);
                Answer::Position(self.0.len() as u64 - 1)
            }
            Call::ReadAll => Answer::Everything(self.0.clone()),
        }
    }
}

/// A history: operations, and what three nodes delivered; the first of them the most.
#[derive(Clone, Debug)]
struct History {
    operations: Vec<Operation>,
    sequences: Vec<Vec<Id>>,
}

impl History {
    /// What some correct log might have done.
    fn sound(rng: &mut Rng) -> Self {
        let mut operations = Vec::new();
        let mut effects: Vec<(u64, usize)> = Vec::new();
        for number in 0..rng.between(1, OPERATIONS_MAX) {
            let began = rng.below(20);
            let takes_effect = began + rng.below(6);
            let ends = takes_effect + rng.below(6);
            let answered = rng.below(4) > 0;
            if answered || rng.coin() {
                effects.push((takes_effect * 100 + rng.below(100), operations.len()));
            }
            let acknowledged = answered.then_some((ends, 0));
            operations.push(Operation { id: (number, 1), began, acknowledged });
        }
        effects.sort_unstable();
        for (position, (_, operation)) in (0..).zip(&effects) {
            if let Some((_, told)) = &mut operations[*operation].acknowledged {
                *told = position;
            }
        }
        let all: Vec<Id> = effects.iter().map(|(_, operation)| operations[*operation].id).collect();
        let mut prefix = || all[..rng.below(all.len() as u64 + 1) as usize].to_vec();
        let sequences = vec![prefix(), prefix()];
        Self { operations, sequences: [vec![all], sequences].concat() }
    }

    /// Changes something, which need not make it wrong.
    fn spoil(&mut self, rng: &mut Rng) {
        let node = rng.below(3) as usize;
        let operation = rng.below(self.operations.len() as u64) as usize;
        let length = self.sequences[node].len() as u64;
        let (one, other) = (rng.below(length) as usize, rng.below(length) as usize);
        let changed = &mut self.operations[operation];
        match rng.below(8) {
            0 if length > 0 => self.sequences[node].swap(one, other),
            1 if length > 0 => drop(self.sequences[node].remove(one)),
            2 if length > 0 => self.sequences[node][one] = self.sequences[node][other],
            3 => self.sequences[0].push((99, 1)),
            4 => changed.began = rng.below(changed.acknowledged.map_or(25, |(ended, _)| ended + 1)),
            5 => changed.acknowledged = None,
            6 => changed.acknowledged = Some((25, rng.below(OPERATIONS_MAX))),
            _ => {
                let began = changed.began;
                changed.acknowledged = changed.acknowledged.map(|(_, told)| (began.max(rng.below(25)), told));
            }
        }
    }

    /// By enumeration: some order of the operations explains the answers and the longest sequence, which is read
    /// at the end; and the other sequences begin as it does.
    fn is_right(&self) -> bool {
        let longest = self.sequences.iter().max_by_key(|sequence| sequence.len()).unwrap();
        if !self.sequences.iter().all(|sequence| longest.starts_with(sequence)) {
            return false;
        }
        // Where times are equal, operations ran side by side: beginnings come first.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (thread, operation) in self.operations.iter().enumerate() {
            events.push((operation.began, false, thread));
            events.extend(operation.acknowledged.map(|(ended, _)| (ended, true, thread)));
        }
        events.sort_unstable();
        let mut tester = LinearizabilityTester::new(Log::default());
        for (_, ends, thread) in events {
            let operation = &self.operations[thread];
            match operation.acknowledged {
                Some((_, told)) if ends => tester.on_return(thread, Answer::Position(told)).map(drop),
                _ => tester.on_invoke(thread, Call::Append(operation.id)).map(drop),
            }
            .unwrap();
        }
        let reader = self.operations.len();
        tester.on_invoke(reader, Call::ReadAll).unwrap();
        tester.on_return(reader, Answer::Everything(longest.clone())).unwrap();
        tester.is_consistent()
    }
}

#[test]
fn it_agrees_with_the_enumeration_of_all_orders() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..HISTORIES {
        let mut rng = Rng::new(seed, Stream::Workload, 0);
        let mut history = History::sound(&mut rng);
        for _ in 0..rng.below(3) {
            history.spoil(&mut rng);
        }
        let sequences: Vec<&[Id]> = history.sequences.iter().map(Vec::as_slice).collect();
        let judged = check(&history.operations, &sequences);
        assert_eq!(judged.is_ok(), history.is_right(), "seed {seed}: {judged:?}, {history:#?}");
        if judged.is_ok() { right += 1 } else { wrong += 1 }
    }
    println!("{right} right, {wrong} wrong");
    assert!(right > 2_000 && wrong > 2_000, "{right} right, {wrong} wrong");
}
