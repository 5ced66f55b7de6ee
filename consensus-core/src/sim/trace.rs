//! What happened in a run: a 128-bit hash over all of it, and the last steps for people.
//!
//! Two runs are the same if and only if (up to chance) their hashes are. Steps are small plain values;
//! they become text only when somebody reads them.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Write as _;

use super::rng::scramble;
use crate::replica::Message;
use crate::replica::eraftpb::MessageType;

/// Steps that are kept for the report of a failure.
const KEPT_STEPS: usize = 400;

/// A message as the trace knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct MessageDigest {
    kind: MessageType,
    from: u64,
    to: u64,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    entries: usize,
    reject: bool,
    content: u64,
}

impl MessageDigest {
    /// Of a message.
    pub fn of(message: &Message) -> Self {
        let mut content = ContentHasher::default();
        for entry in message.get_entries() {
            (entry.term, entry.index, &entry.data[..]).hash(&mut content);
        }
        let snapshot = message.get_snapshot().get_metadata();
        (snapshot.index, snapshot.term, &message.context[..], message.reject_hint).hash(&mut content);
        Self {
            kind: message.get_msg_type(),
            from: message.from,
            to: message.to,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            entries: message.get_entries().len(),
            reject: message.reject,
            content: content.finish(),
        }
    }
}

impl fmt::Display for MessageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        write!(
            f,
            " {}->{} term {} index {} logterm {}",
            self.from, self.to, self.term, self.index, self.log_term
        )?;
        write!(
            f,
            " commit {} entries {}{}",
            self.commit,
            self.entries,
            if self.reject { " reject" } else { "" }
        )
    }
}

/// One thing that happened. Node numbers are node ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[expect(missing_docs, reason = "the fields are the words of the events and effects they stand for")]
pub enum Step {
    Tick,
    Receive(MessageDigest),
    Send(MessageDigest),
    Lose(MessageDigest),
    Propose { term: u64, proposals: usize, bytes: usize },
    ReadIndex { ticket: u64 },
    Persist { number: u64, sync: bool, first: u64, entries: usize, truncate_from: Option<u64> },
    PersistTerm { term: u64, vote: u64, commit: u64 },
    Written { completions: usize },
    Persisted { number: u64 },
    Apply { first: u64, last: u64 },
    Applied { index: u64, height: u64 },
    BuildSnapshot,
    SnapshotBuilt { index: u64, bytes: usize },
    InstallSnapshot { index: u64 },
    SnapshotInstalled { index: u64, height: u64 },
    Request { term: u64, room: usize },
    Withdraw,
    Answer { ticket: u64, done: bool, index: u64 },
    Role { role: &'static str, term: u64, leader: u64 },
    Refused { from: u64, reason: &'static str },
    Report,
    PeerReport { peer: u64, report: &'static str },
    Transfer { to: u64 },
    Crash { boundary: &'static str, kept: usize, lost: usize },
    Start { term: u64, last: u64, applied: u64 },
    Pause { until_us: u64 },
    Partition { kind: &'static str },
    Fault { what: &'static str },
    Refuse,
    Begin { store: u64 },
    Drop { why: &'static str, message: MessageDigest },
    Replay(MessageDigest),
    Command { what: &'static str, about: u64 },
    Heal,
    Quiet,
    Submit { client: u64, number: u64, node: u64 },
    Reply { client: u64, number: u64, height: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive(message) => write!(f, "receive {message}"),
            Self::Send(message) => write!(f, "send {message}"),
            Self::Lose(message) => write!(f, "lose {message}"),
            Self::Replay(message) => write!(f, "replay {message}"),
            Self::Drop { why, message } => write!(f, "drop, {why}: {message}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A step with its time and node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Microseconds since the start.
    pub at_us: u64,
    /// Whose step; 0: nobody's.
    pub node: u64,
    /// What.
    pub step: Step,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5}.{:06} n{} {}", self.at_us / 1_000_000, self.at_us % 1_000_000, self.node, self.step)
    }
}

/// The history of a run.
#[derive(Debug)]
pub struct Trace {
    hasher: TraceHasher,
    steps: u64,
    last: VecDeque<Record>,
    verbose: bool,
}

impl Trace {
    /// An empty history; `verbose` prints each step to standard output.
    pub fn new(verbose: bool) -> Self {
        Self { hasher: TraceHasher::default(), steps: 0, last: VecDeque::with_capacity(KEPT_STEPS), verbose }
    }

    /// Adds a step.
    pub fn record(&mut self, at_us: u64, node: u64, step: Step) {
        (at_us, node, step).hash(&mut self.hasher);
        self.steps += 1;
        if self.last.len() == KEPT_STEPS {
            self.last.pop_front();
        }
        let record = Record { at_us, node, step };
        if self.verbose {
            // Nobody reads on: that is no reason to fail.
            let _ = writeln!(std::io::stdout(), "{record}");
        }
        self.last.push_back(record);
    }

    /// How many steps there were.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash over all steps.
    pub fn hash(&self) -> u128 {
        (u128::from(self.hasher.high) << 64) | u128::from(self.hasher.low)
    }

    /// The last steps, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Record> {
        self.last.iter()
    }
}

/// A hash of content that is the same in every process, for comparing entries. Not for adversaries.
#[derive(Debug, Default)]
pub(crate) struct ContentHasher {
    state: u64,
}

impl Hasher for ContentHasher {
    fn finish(&self) -> u64 {
        scramble(self.state)
    }

    fn write(&mut self, bytes: &[u8]) {
        for_words(bytes, |word| self.write_u64(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.state = (self.state.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// Two lanes of 64 bits with different multipliers.
#[derive(Debug, Default)]
struct TraceHasher {
    low: u64,
    high: u64,
}

impl Hasher for TraceHasher {
    fn finish(&self) -> u64 {
        self.low
    }

    fn write(&mut self, bytes: &[u8]) {
        for_words(bytes, |word| self.write_u64(word));
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.low = (self.low.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.high = (self.high.rotate_left(29) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }
}

/// Calls back with eight bytes at a time and then with the length, which tells a short end from zeros.
fn for_words(bytes: &[u8], mut take: impl FnMut(u64)) {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        take(u64::from_le_bytes(eight));
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    take(u64::from_le_bytes(rest));
    take(bytes.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_order_time_and_content_apart() {
        let hash_of = |steps: &[(u64, u64, Step)]| {
            let mut trace = Trace::new(false);
            for (at_us, node, step) in steps {
                trace.record(*at_us, *node, *step);
            }
            trace.hash()
        };
        let tick = (1, 1, Step::Tick);
        let heal = (1, 1, Step::Heal);
        assert_eq!(hash_of(&[tick, heal]), hash_of(&[tick, heal]));
        assert_ne!(hash_of(&[tick, heal]), hash_of(&[heal, tick]));
        assert_ne!(hash_of(&[tick]), hash_of(&[(2, 1, Step::Tick)]));
        assert_ne!(hash_of(&[tick]), hash_of(&[(1, 2, Step::Tick)]));
    }

    #[test]
    fn contents_that_differ_only_in_trailing_zeros_hash_differently() {
        let hash_of = |bytes: &[u8]| {
            let mut hasher = ContentHasher::default();
            hasher.write(bytes);
            hasher.finish()
        };
        assert_ne!(hash_of(&[1]), hash_of(&[1, 0]));
        assert_ne!(hash_of(&[]), hash_of(&[0; 8]));
    }
}
