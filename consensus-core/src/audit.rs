//! The log of administrative actions: its lines, and the check that none was changed or removed.
//!
//! A line is a JSON object with a sequence number, and the SHA-256 of the line before it (`previous`); its last
//! field `hash` is the SHA-256 of everything before that field. The chain goes on over files: [`FILE`] is
//! written to, and is renamed to [`rotated_name`] when it is full. What was changed by accident or by somebody
//! who does not know this is found by [`Checker`]; whoever may write the files and knows it can write a new
//! chain, or cut off its end. Against that, keep a copy of the newest line elsewhere.
//!
//! Pure: time is an argument, files are the caller's.

mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::Hash;

pub use check::{Checker, Finding, FindingKind, Report};

/// The file that is written to, in the data directory.
pub const FILE: &str = "audit.log";

/// A file is full with this many bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Full files that are kept.
pub const FULL_FILES_MAX: usize = 8;

/// Longest text of an actor, an action, an argument or an outcome; more is cut, and the cut is marked.
pub const TEXT_CHARS_MAX: usize = 512;

/// Most arguments of a record; more are left out.
pub const ARGUMENTS_MAX: usize = 16;

/// The action that says that full files were removed; its argument [`THROUGH`] is their last sequence number.
pub const PRUNED: &str = "audit-pruned";

/// See [`PRUNED`].
pub const THROUGH: &str = "through";

/// What stands between a line's content and its hash.
const HASH_FIELD: &str = ",\"hash\":\"";
const LINE_END: &str = "\"}";

/// What happened, before it has a place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who: a certificate's subject, or an address; `node` for the node itself.
    pub actor: String,
    /// What.
    pub action: String,
    /// With what.
    pub arguments: BTreeMap<String, String>,
    /// What came of it; `begun` before that is known.
    pub outcome: String,
}

impl Entry {
    /// An entry without arguments.
    pub fn new(actor: &str, action: &str, outcome: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            action: action.to_owned(),
            arguments: BTreeMap::new(),
            outcome: outcome.to_owned(),
        }
    }

    /// The same with one more argument.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.arguments.insert(name.to_owned(), value.to_string());
        self
    }
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// From 1 on, without gaps.
    pub sequence: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// See [`Entry`].
    pub actor: String,
    /// See [`Entry`].
    pub action: String,
    /// See [`Entry`].
    pub arguments: BTreeMap<String, String>,
    /// See [`Entry`].
    pub outcome: String,
    /// Hash of the record before, hexadecimal; zeros for the first.
    pub previous: String,
}

/// How far the chain is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tail {
    /// Sequence number of the newest record; 0 without any.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Tail {
    /// The line that comes next, with its end, and how far the chain is behind it.
    pub fn line(&self, at_ms: u64, entry: &Entry) -> (String, Self) {
        let arguments = entry.arguments.iter().take(ARGUMENTS_MAX);
        let record = Record {
            sequence: self.sequence.saturating_add(1),
            at_ms,
            actor: shorten(&entry.actor),
            action: shorten(&entry.action),
            arguments: arguments.map(|(name, value)| (shorten(name), shorten(value))).collect(),
            outcome: shorten(&entry.outcome),
            previous: self.hash.to_string(),
        };
        let mut line = serde_json::to_string(&record).expect("text and numbers are always JSON");
        line.pop();
        let hash = digest(line.as_bytes());
        line.push_str(HASH_FIELD);
        line.push_str(&hash.to_string());
        line.push_str(LINE_END);
        line.push('\n');
        (line, Self { sequence: record.sequence, hash })
    }

    /// How far the chain is behind a line; `None` if that is no record as it was written.
    pub fn behind(line: &[u8]) -> Option<Self> {
        match Parsed::new(line) {
            Parsed::Intact(record, hash) => Some(Self { sequence: record.sequence, hash }),
            Parsed::Changed(..) | Parsed::Unreadable(_) => None,
        }
    }
}

/// What a line turned out to be.
pub(crate) enum Parsed {
    /// As it was written.
    Intact(Record, Hash),
    /// A record whose content does not have the hash that it says.
    Changed(Record, Hash),
    /// No record.
    Unreadable(String),
}

impl Parsed {
    /// Reads a line without its end.
    pub(crate) fn new(line: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(line) else {
            return Self::Unreadable("it is no text".to_owned());
        };
        let hashed = text.strip_suffix(LINE_END).and_then(|text| text.rsplit_once(HASH_FIELD));
        let hash = hashed
            .and_then(|(content, digits)| {
                Some((content, digits, Hash::from_slice(&hex::decode(digits).ok()?)?))
            })
            // As it is written: in lower case.
            .filter(|(_, digits, hash)| hash.to_string() == *digits)
            .map(|(content, _, hash)| (content, hash));
        let Some((content, hash)) = hash else {
            return Self::Unreadable("it does not end with its hash".to_owned());
        };
        match serde_json::from_str::<Record>(&format!("{content}}}")) {
            Err(error) => Self::Unreadable(format!("it is no record: {error}")),
            Ok(record) if digest(content.as_bytes()) == hash => Self::Intact(record, hash),
            Ok(record) => Self::Changed(record, hash),
        }
    }
}

/// SHA-256.
pub fn digest(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

/// What a full file that begins with this record is called.
pub fn rotated_name(first_sequence: u64) -> String {
    format!("audit-{first_sequence:012}.log")
}

/// The first record of a full file; `None` if it is not called like one.
pub fn rotated_first(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".log")?;
    let number = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??;
    (rotated_name(number) == name).then_some(number)
}

/// A text of bounded length, the cut marked.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_that_names_the_line_before() {
        let entry = Entry::new("CN=alice", "log-filter", "done").with("filter", "info");
        let (first, tail) = Tail::default().line(7, &entry);
        let (second, _) = tail.line(8, &entry);
        let read = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
        assert_eq!(read(&first)["previous"], "0".repeat(64));
        assert_eq!(read(&second)["previous"], read(&first)["hash"]);
        assert_eq!(read(&second)["sequence"], 2);
        assert_eq!(read(&second)["arguments"]["filter"], "info");
        assert_eq!(Tail::behind(first.trim_end().as_bytes()), Some(tail));
        let content = first.split(",\"hash\"").next().expect("content");
        assert_eq!(read(&first)["hash"], digest(content.as_bytes()).to_string());
    }

    #[test]
    fn texts_are_bounded_and_cannot_break_a_line() {
        let entry =
            Entry::new(&"x".repeat(100_000), "a\nb\",\"hash\":\"", "\u{0}").with("k", "ü".repeat(9_999));
        let many = (0..100).fold(entry, |entry, n| entry.with(&n.to_string(), n));
        let (line, tail) = Tail::default().line(1, &many);
        assert!(line.len() < 16 << 10, "{}", line.len());
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(Tail::behind(line.trim_end().as_bytes()), Some(tail));
    }

    #[test]
    fn full_files_are_known_by_their_names() {
        assert_eq!(rotated_first(&rotated_name(17)), Some(17));
        assert_eq!(rotated_first(&rotated_name(u64::MAX)), Some(u64::MAX));
        for name in ["audit.log", "audit-.log", "audit-1.log", "audit-+00000000001.log", "audit-x.log"] {
            assert_eq!(rotated_first(name), None, "{name}");
        }
    }
}
