//! The check of a chain of audit records, file after file.
//!
//! What is found is told apart: a line whose content was changed, one that was replaced with a fitting hash,
//! records that are missing, lines that are no records, and the end of a line that was being written when the
//! power went.

use std::fmt;

use super::{PRUNED, Parsed, Record, THROUGH, Tail};
use crate::ids::Hash;

/// Findings that are kept; more are counted.
const FINDINGS_MAX: usize = 100;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// A record's content was changed after it was written.
    Changed,
    /// A record was exchanged for another with a hash that fits it, and not the chain.
    Replaced,
    /// Records are not there.
    Missing,
    /// A record is there again, or in another place.
    Misplaced,
    /// A line is no record.
    Unreadable,
    /// The newest line has no end: the node ended, or the power went, while it was written.
    Torn,
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Replaced => "replaced",
            Self::Missing => "missing",
            Self::Misplaced => "misplaced",
            Self::Unreadable => "unreadable",
            Self::Torn => "torn",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// File and line.
    pub at: String,
    /// In words.
    pub cause: String,
}

/// What a check found out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// Records that could be read.
    pub records: u64,
    /// Sequence number of the first that is kept; 0 without any.
    pub first: u64,
    /// How far the chain is.
    pub tail: Tail,
    /// All that was found.
    pub findings_total: u64,
    /// The first of it.
    pub findings: Vec<Finding>,
}

/// Checks files in their order.
#[derive(Clone, Default, Debug)]
pub struct Checker {
    report: Report,
    /// Lines since the last record that are none.
    unreadable: u64,
    /// Records up to this one were removed when their files were too many.
    pruned_through: u64,
}

impl Checker {
    /// Checks one file's content, the oldest file first; `newest` is the one that is written to.
    pub fn file(&mut self, name: &str, content: &[u8], newest: bool, on_record: &mut dyn FnMut(&Record)) {
        let mut lines = content.split(|byte| *byte == b'\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let at = format!("{name} line {}", number + 1);
            let ended = lines.peek().is_some();
            match (ended, newest) {
                (false, _) if line.is_empty() => {}
                (false, true) => {
                    let bytes = line.len();
                    let cause = format!(
                        "the newest line has no end ({bytes} bytes of it are there), as after a power cut; \
                         the node cuts it off when it starts"
                    );
                    self.find(FindingKind::Torn, at, cause);
                }
                _ => self.line(at, line, on_record),
            }
        }
    }

    /// What was found in all files.
    pub fn finish(mut self) -> Report {
        let first = self.report.first;
        if first > self.pruned_through.saturating_add(1) {
            let (from, to) = (self.pruned_through + 1, first - 1);
            let cause = format!(
                "{} at the beginning, and the log does not say that they were removed",
                span(from, to)
            );
            self.find(FindingKind::Missing, format!("before record {first}"), cause);
        }
        self.report
    }

    fn line(&mut self, at: String, line: &[u8], on_record: &mut dyn FnMut(&Record)) {
        let record = match Parsed::new(line) {
            Parsed::Unreadable(cause) => {
                self.unreadable += 1;
                return self.find(FindingKind::Unreadable, at, cause);
            }
            Parsed::Changed(record, hash) => {
                let cause = format!("record {} was changed after it was written", record.sequence);
                self.find(FindingKind::Changed, at.clone(), cause);
                self.place(at, &record, false);
                self.take(&record, hash, false);
                record
            }
            Parsed::Intact(record, hash) => {
                self.place(at, &record, true);
                self.take(&record, hash, true);
                record
            }
        };
        on_record(&record);
    }

    /// Holds a record against the one before it.
    fn place(&mut self, at: String, record: &Record, intact: bool) {
        let Tail { sequence: last, hash } = self.report.tail;
        if self.report.records == 0 {
            if record.sequence == 1 && record.previous != Hash::default().to_string() {
                let cause = "the first record names one before it".to_owned();
                self.find(FindingKind::Replaced, at, cause);
            }
            return;
        }
        let sequence = record.sequence;
        // Lines that cannot be read are records that are there, or what a node wrote over.
        let next_one = last.saturating_add(1);
        let next = next_one..=next_one.saturating_add(self.unreadable);
        if sequence <= last {
            let cause = format!("record {sequence} stands behind record {last}");
            self.find(FindingKind::Misplaced, at, cause);
        } else if !next.contains(&sequence) {
            let cause = format!("{} between this line and the one before", span(next_one, sequence - 1));
            self.find(FindingKind::Missing, at, cause);
        } else if sequence == next_one && intact && record.previous != hash.to_string() {
            let cause =
                format!("record {sequence} does not follow record {last}: one of the two was replaced");
            self.find(FindingKind::Replaced, at, cause);
        }
    }

    fn take(&mut self, record: &Record, hash: Hash, intact: bool) {
        if self.report.records == 0 {
            self.report.first = record.sequence;
        }
        self.report.records += 1;
        self.report.tail = Tail { sequence: record.sequence, hash };
        self.unreadable = 0;
        if intact && record.action == PRUNED {
            let through = record.arguments.get(THROUGH).and_then(|through| through.parse().ok()).unwrap_or(0);
            self.pruned_through = self.pruned_through.max(through);
        }
    }

    fn find(&mut self, kind: FindingKind, at: String, cause: String) {
        self.report.findings_total += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { kind, at, cause });
        }
    }
}

fn span(from: u64, to: u64) -> String {
    if from == to {
        format!("record {from} is missing")
    } else {
        format!("records {from} to {to} are missing")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Entry, digest};
    use super::*;

    fn lines(count: u64) -> Vec<String> {
        let mut tail = Tail::default();
        let mut lines = Vec::new();
        for number in 1..=count {
            let entry = Entry::new("CN=alice", "log-filter", "done").with("filter", number);
            let (line, next) = tail.line(1_000 + number, &entry);
            tail = next;
            lines.push(line);
        }
        lines
    }

    fn check(content: &str) -> Report {
        let mut checker = Checker::default();
        checker.file("audit.log", content.as_bytes(), true, &mut |_| {});
        checker.finish()
    }

    fn found(content: &str) -> Vec<(FindingKind, String)> {
        check(content).findings.into_iter().map(|finding| (finding.kind, finding.at)).collect()
    }

    fn at(line: u64) -> String {
        format!("audit.log line {line}")
    }

    #[test]
    fn a_chain_as_written_is_clean() {
        let report = check(&lines(5).concat());
        assert_eq!((report.records, report.first, report.tail.sequence), (5, 1, 5));
        assert_eq!(report.findings, []);
        assert_eq!(check(""), Report::default());
    }

    #[test]
    fn a_changed_line_is_told_as_changed() {
        let mut all = lines(5);
        all[2] = all[2].replace("CN=alice", "CN=mallory");
        assert_eq!(found(&all.concat()), [(FindingKind::Changed, at(3))]);
        let mut newest = lines(5);
        newest[4] = newest[4].replace("CN=alice", "CN=mallory");
        assert_eq!(found(&newest.concat()), [(FindingKind::Changed, at(5))], "the newest one too");
    }

    #[test]
    fn a_line_exchanged_with_a_fitting_hash_is_told_as_replaced() {
        let mut all = lines(5);
        let content = all[2].replace("CN=alice", "CN=mallory");
        let content = content.split(",\"hash\"").next().expect("content").to_owned();
        all[2] = format!("{content},\"hash\":\"{}\"}}\n", digest(content.as_bytes()));
        assert_eq!(found(&all.concat()), [(FindingKind::Replaced, at(4))]);
    }

    #[test]
    fn removed_lines_are_told_with_their_numbers() {
        let mut all = lines(6);
        all.drain(2..4);
        let report = check(&all.concat());
        assert_eq!(report.findings_total, 1);
        assert_eq!(report.findings[0].kind, FindingKind::Missing);
        assert!(report.findings[0].cause.contains("records 3 to 4 are missing"), "{report:?}");
        let beginning = check(&lines(4)[1..].concat());
        assert!(
            beginning.findings[0].cause.contains("record 1 is missing at the beginning"),
            "{beginning:?}"
        );
    }

    #[test]
    fn a_torn_newest_line_is_told_apart_from_damage() {
        let mut all = lines(3).concat();
        all.truncate(all.len() - 20);
        assert_eq!(found(&all), [(FindingKind::Torn, at(3))]);
        let mut checker = Checker::default();
        checker.file("audit-000000000001.log", all.as_bytes(), false, &mut |_| {});
        let older = checker.finish();
        assert_eq!(older.findings[0].kind, FindingKind::Unreadable, "an older file was ended by its node");
    }

    #[test]
    fn a_line_that_is_no_record_hides_no_other_finding() {
        let mut all = lines(6);
        all[2] = "garbage\n".to_owned();
        assert_eq!(found(&all.concat()), [(FindingKind::Unreadable, at(3))]);
        all.remove(4);
        assert_eq!(found(&all.concat()), [(FindingKind::Unreadable, at(3)), (FindingKind::Missing, at(5))]);
    }

    #[test]
    fn lines_in_another_order_are_misplaced() {
        let mut all = lines(4);
        all.swap(1, 2);
        let kinds: Vec<_> = found(&all.concat()).into_iter().map(|(kind, _)| kind).collect();
        assert!(kinds.contains(&FindingKind::Misplaced), "{kinds:?}");
    }

    #[test]
    fn a_chain_goes_on_over_files_and_may_begin_where_older_ones_were_removed() {
        let all = lines(6);
        let (_, tail) = (0, Tail::behind(all[5].trim_end().as_bytes()).expect("intact"));
        let (pruned, _) = tail.line(9, &Entry::new("node", PRUNED, "done").with(THROUGH, 2));
        let check = |files: &[String]| {
            let mut checker = Checker::default();
            for (number, file) in files.iter().enumerate() {
                checker.file("file", file.as_bytes(), number + 1 == files.len(), &mut |_| {});
            }
            checker.finish()
        };
        let report = check(&[all[2..4].concat(), all[4..].concat() + &pruned]);
        assert_eq!((report.first, report.tail.sequence, report.findings_total), (3, 7, 0), "{report:?}");
        let report = check(&[all[3..4].concat(), all[4..].concat() + &pruned]);
        assert!(report.findings[0].cause.contains("record 3 is missing"), "{report:?}");
    }

    proptest! {
        #[test]
        fn any_change_of_a_byte_is_found(place in 0usize..10_000, flip in 1u8..=255) {
            let mut content = lines(4).concat().into_bytes();
            let place = place % content.len();
            content[place] ^= flip;
            let mut checker = Checker::default();
            checker.file("audit.log", &content, true, &mut |_| {});
            prop_assert!(checker.finish().findings_total > 0, "byte {place}");
        }

        #[test]
        fn no_content_is_too_strange(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut checker = Checker::default();
            checker.file("audit.log", &content, true, &mut |_| {});
            let _ = checker.finish();
        }
    }
}
