//! How far the data files reach, as the engine's manifest says it: which write-ahead logs are still needed, and the
//! number of the newest write that needs none.
//!
//! It follows the published layout of RocksDB's manifest: each record is one change, a list of `tag varint | value`;
//! the changes of one atomic group count together or not at all. Only what answers the question is kept. A change
//! with a tag that is not known here ends the look without an answer, and without harm: the engine judges the
//! manifest itself.

use std::collections::BTreeMap;

/// Tags of changes.
mod tag {
    pub(super) const COMPARATOR: u64 = 1;
    pub(super) const LOG_NUMBER: u64 = 2;
    pub(super) const NEXT_FILE_NUMBER: u64 = 3;
    pub(super) const LAST_SEQUENCE: u64 = 4;
    pub(super) const COMPACT_CURSOR: u64 = 5;
    pub(super) const DELETED_FILE: u64 = 6;
    pub(super) const PREVIOUS_LOG_NUMBER: u64 = 9;
    pub(super) const LEAST_LOG_KEPT: u64 = 10;
    pub(super) const NEW_FILE: u64 = 103;
    pub(super) const FAMILY: u64 = 200;
    pub(super) const FAMILY_ADDED: u64 = 201;
    pub(super) const FAMILY_DROPPED: u64 = 202;
    pub(super) const FAMILY_MAX: u64 = 203;
    pub(super) const IN_ATOMIC_GROUP: u64 = 300;
    /// Tags with this bit carry their length, whoever knows them.
    pub(super) const SKIPPABLE: u64 = 1 << 13;
    /// Ends the fields of a new file.
    pub(super) const FIELDS_END: u64 = 1;
}

/// What a manifest says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    /// Logs with a lower number are not needed.
    pub(super) first_log: u64,
    /// The newest write that is in the data files; 0 if none is.
    pub(super) last_write: u64,
}

/// The part of a change that matters.
#[derive(Clone, Copy, Default, Debug)]
struct Change {
    family: u64,
    added: bool,
    dropped: bool,
    log_number: Option<u64>,
    least_log_kept: Option<u64>,
    last_write: Option<u64>,
    /// Changes of the same group that follow.
    group_rest: Option<u64>,
}

/// Reads the records of one manifest in their order.
#[derive(Debug)]
pub(super) struct Manifest {
    /// The first log that each family needs.
    families: BTreeMap<u64, u64>,
    least_log_kept: u64,
    last_write: u64,
    /// Changes of a group that is not complete yet.
    group: Vec<Change>,
    understood: bool,
}

impl Manifest {
    /// A manifest without records: there is the default family and nothing in it.
    pub(super) fn new() -> Self {
        let families = BTreeMap::from([(0, 0)]);
        Self { families, least_log_kept: 0, last_write: 0, group: Vec::new(), understood: true }
    }

    /// Takes the next record.
    pub(super) fn take(&mut self, record: &[u8]) {
        let Some(change) = Change::read(record) else {
            self.understood = false;
            return;
        };
        match change.group_rest {
            None => self.apply(change),
            Some(rest) => {
                self.group.push(change);
                if rest == 0 {
                    std::mem::take(&mut self.group).into_iter().for_each(|change| self.apply(change));
                }
            }
        }
    }

    fn apply(&mut self, change: Change) {
        if change.dropped {
            self.families.remove(&change.family);
        } else if change.added {
            self.families.insert(change.family, change.log_number.unwrap_or(0));
        } else if let (Some(number), Some(known)) = (change.log_number, self.families.get_mut(&change.family))
        {
            *known = number.max(*known);
        }
        self.least_log_kept = self.least_log_kept.max(change.least_log_kept.unwrap_or(0));
        self.last_write = self.last_write.max(change.last_write.unwrap_or(0));
    }

    /// What it says; `None` if part of it was not understood.
    pub(super) fn reach(&self) -> Option<Reach> {
        let unflushed = self.families.values().min().copied().unwrap_or(0);
        let first_log = self.least_log_kept.max(unflushed);
        self.understood.then_some(Reach { first_log, last_write: self.last_write })
    }
}

impl Change {
    /// `None` if the record has a tag that is not known here or ends too early.
    fn read(record: &[u8]) -> Option<Self> {
        let mut change = Self::default();
        let rest = &mut { record };
        while !rest.is_empty() {
            match varint(rest)? {
                tag::LOG_NUMBER => change.log_number = Some(varint(rest)?),
                tag::LAST_SEQUENCE => change.last_write = Some(varint(rest)?),
                tag::LEAST_LOG_KEPT => change.least_log_kept = Some(varint(rest)?),
                tag::FAMILY => change.family = varint(rest)?,
                tag::FAMILY_DROPPED => change.dropped = true,
                tag::IN_ATOMIC_GROUP => change.group_rest = Some(varint(rest)?),
                tag::FAMILY_ADDED => {
                    change.added = true;
                    skip(rest)?;
                }
                tag::NEXT_FILE_NUMBER | tag::PREVIOUS_LOG_NUMBER | tag::FAMILY_MAX => {
                    varint(rest)?;
                }
                tag::COMPARATOR => skip(rest)?,
                tag::COMPACT_CURSOR => {
                    varint(rest)?;
                    skip(rest)?;
                }
                tag::DELETED_FILE => {
                    varint(rest)?;
                    varint(rest)?;
                }
                tag::NEW_FILE => skip_new_file(rest)?,
                other if other & tag::SKIPPABLE != 0 => skip(rest)?,
                _ => return None,
            }
        }
        Some(change)
    }
}

/// Level, number, size, first and last key, first and last write, fields.
fn skip_new_file(rest: &mut &[u8]) -> Option<()> {
    for _ in 0..3 {
        varint(rest)?;
    }
    skip(rest)?;
    skip(rest)?;
    varint(rest)?;
    varint(rest)?;
    while varint(rest)? != tag::FIELDS_END {
        skip(rest)?;
    }
    Some(())
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Passes over bytes that say their length.
fn skip(rest: &mut &[u8]) -> Option<()> {
    let length = varint(rest)?;
    *rest = rest.get(usize::try_from(length).ok()?..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers below 128 are a byte each, those of the families' tags two.
    const FAMILY_1: [u8; 3] = [200, 1, 1];
    const ADDED: [u8; 9] = [200, 1, 1, 201, 1, 3, b'l', b'o', b'g'];

    fn reach(records: &[Vec<u8>]) -> Option<(u64, u64)> {
        let mut manifest = Manifest::new();
        records.iter().for_each(|record| manifest.take(record));
        manifest.reach().map(|reach| (reach.first_log, reach.last_write))
    }

    #[test]
    fn the_least_log_of_all_families_is_needed_and_the_highest_write_counts() {
        let mut records = vec![ADDED.to_vec(), vec![2, 8, 4, 44]];
        assert_eq!(reach(&records), Some((0, 44)), "the family needs all logs still");
        records.push([&[2, 5, 4, 40][..], &FAMILY_1].concat());
        assert_eq!(reach(&records), Some((5, 44)));
        records.push(vec![10, 7]);
        assert_eq!(reach(&records), Some((7, 44)), "older logs are not kept");
        records.push([&FAMILY_1[..], &[202, 1]].concat());
        assert_eq!(reach(&records), Some((8, 44)), "a dropped family needs nothing");
    }

    #[test]
    fn an_atomic_group_counts_when_it_is_complete() {
        let member = |log: u8, rest: u8| vec![2, log, 4, 50 + log, 172, 2, rest];
        let mut records = vec![member(8, 2), member(9, 1)];
        assert_eq!(reach(&records), Some((0, 0)));
        records.push(member(10, 0));
        assert_eq!(reach(&records), Some((10, 60)));
    }

    #[test]
    fn files_are_passed_over_and_unknown_or_cut_changes_have_no_answer() {
        let file = [103, 0, 9, 100, 2, b'a', b'b', 1, b'c', 1, 7, 5, 1, 3, 13, 0, 1, 4, 7];
        assert_eq!(reach(&[file.to_vec()]), Some((0, 7)));
        for length in 1..file.len() - 2 {
            assert_eq!(reach(&[file[..length].to_vec()]), None, "cut to {length}");
        }
        let skippable = [129, 64, 2, 1, 1, 4, 7];
        assert_eq!(reach(&[skippable.to_vec()]), Some((0, 7)));
        assert_eq!(reach(&[vec![4, 7], vec![11, 1]]), None, "nobody knows what 11 is");
        assert_eq!(reach(&[[&[4][..], &[0xff; 10]].concat()]), None, "no number is so long");
    }
}
