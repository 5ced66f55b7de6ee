//! Judges what clients saw: their operations against the sequences that were delivered.
//!
//! Four rules, which together say that the history is that of one log that everybody appends to (linearizability
//! of Herlihy and Wing for an append-only log; our promise to ordering clients):
//! * all delivered sequences are prefixes of the longest;
//! * nothing is in it that nobody submitted, and nothing twice;
//! * what was acknowledged is in it, where its client was told;
//! * what was acknowledged before another operation began stands before it.
//!
//! An operation without an answer may have taken effect at any time after its beginning, or never. It takes
//! O(n log n). The test `sim_history` compares it with an exhaustive checker. Nothing here knows the simulator.

use std::collections::BTreeMap;

/// What is appended: a client's number and the client's number for it.
pub type Id = (u64, u64);

/// An operation of a client. Times are in any unit of one clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What it appends; no two operations have the same.
    pub id: Id,
    /// When it began.
    pub began: u64,
    /// When its answer arrived, with the position that it named, from 0; `None`: it has no answer.
    pub acknowledged: Option<(u64, u64)>,
}

/// Judges a history; the words say what is wrong.
///
/// # Errors
/// The first rule that is broken.
pub fn check(operations: &[Operation], sequences: &[&[Id]]) -> Result<(), String> {
    let longest = sequences.iter().max_by_key(|sequence| sequence.len()).copied().unwrap_or_default();
    for sequence in sequences {
        let fork = sequence.iter().zip(longest).position(|(one, other)| one != other);
        if let Some(at) = fork {
            return Err(format!(
                "at position {at} one node has {:?}, another {:?}",
                sequence[at], longest[at]
            ));
        }
    }
    let mut places: BTreeMap<Id, u64> = BTreeMap::new();
    for (position, id) in (0..).zip(longest) {
        if let Some(first) = places.insert(*id, position) {
            return Err(format!("{id:?} is at positions {first} and {position}"));
        }
    }
    let mut placed: Vec<(u64, Operation)> = Vec::with_capacity(longest.len());
    for operation in operations {
        let place = places.remove(&operation.id);
        match operation.acknowledged {
            Some((_, told)) if place != Some(told) => {
                return Err(format!("{operation:?}, but it is at {place:?}"));
            }
            Some(_) | None => placed.extend(place.map(|place| (place, *operation))),
        }
    }
    if let Some((id, position)) = places.first_key_value() {
        return Err(format!("{id:?} at position {position} was never submitted"));
    }
    real_time(placed)
}

/// Whether the log's order agrees with real time: along the log, nothing may have ended before the latest beginning
/// so far.
fn real_time(mut placed: Vec<(u64, Operation)>) -> Result<(), String> {
    placed.sort_unstable_by_key(|(place, _)| *place);
    let mut latest: Option<Operation> = None;
    for (_, operation) in placed {
        let began = latest.map_or(0, |latest| latest.began);
        if let (Some(latest), Some((ended, _))) = (latest, operation.acknowledged)
            && ended < began
        {
            return Err(format!("{latest:?} began after {operation:?} had ended, and stands before it"));
        }
        if latest.is_none_or(|latest| operation.began > latest.began) {
            latest = Some(operation);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: u64, began: u64, acknowledged: Option<(u64, u64)>) -> Operation {
        Operation { id: (1, number), began, acknowledged }
    }

    fn judge(operations: &[Operation], numbers: &[u64]) -> Result<(), String> {
        let sequence: Vec<Id> = numbers.iter().map(|number| (1, *number)).collect();
        check(operations, &[&sequence, &sequence[..sequence.len() / 2]])
    }

    #[test]
    fn a_lost_doubled_moved_or_invented_operation_is_found() {
        let first = operation(1, 0, Some((5, 0)));
        let open = operation(3, 0, None);
        judge(&[first, operation(2, 10, Some((15, 1)))], &[1, 2]).unwrap();
        judge(&[first, open], &[1, 3]).expect("one without an answer may be there");
        judge(&[first, open], &[1]).expect("or not");
        judge(&[first, open], &[3]).expect_err("lost");
        judge(&[first], &[1, 1]).expect_err("doubled");
        judge(&[first, open], &[3, 1]).expect_err("moved");
        judge(&[first], &[1, 4]).expect_err("invented");
    }

    #[test]
    fn an_order_against_real_time_is_found() {
        let (first, second) = (operation(1, 0, Some((5, 1))), operation(2, 3, Some((8, 0))));
        judge(&[first, second], &[2, 1]).expect("they ran at the same time");
        let late = operation(2, 10, Some((15, 0)));
        judge(&[first, late], &[2, 1]).expect_err("it began when the other had ended");
        let open = operation(2, 10, None);
        judge(&[first, open], &[2, 1]).expect_err("without an answer too");
    }

    #[test]
    fn two_sequences_that_part_are_found() {
        let operations = [operation(1, 0, None), operation(2, 0, None), operation(3, 0, None)];
        check(&operations, &[&[(1, 1), (1, 2)], &[(1, 1), (1, 3)]]).expect_err("they part at 1");
        check(&operations, &[&[(1, 1), (1, 2), (1, 3)], &[(1, 1), (1, 2)], &[]]).unwrap();
    }
}
