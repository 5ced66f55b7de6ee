//! Configuration files, a node's own and a CITA-Cloud node's: every text is either a configuration whose bounds
//! hold, which are asked here once more, or has mistakes that name their places.
//!
//! Never a panic, in bounded time and memory; a second look says the same.

mod bounds;
mod texts;

use std::path::Path;

use consensus_server::config::{CitaConfig, Config, Mistakes};
use tempfile::TempDir;

use super::draws::Draws;
use super::heap::peak_of;
use bounds::{cita_bounds, own_bounds};

/// The file's name in messages.
const NAME: &str = "file.toml";
/// Longest line of a message.
const MESSAGE_CHARACTERS_MAX: usize = 2000;
/// Memory of a check beside the text's, and for each byte of it: values know their places.
const HEAP_BYTES: usize = 1 << 20;
const HEAP_PER_BYTE: usize = 400;

/// What runs came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) texts: u64,
    pub(crate) own_valid: u64,
    pub(crate) cita_valid: u64,
    pub(crate) mistakes: u64,
    pub(crate) warnings: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.texts += other.texts;
        self.own_valid += other.own_valid;
        self.cita_valid += other.cita_valid;
        self.mistakes += other.mistakes;
        self.warnings += other.warnings;
    }
}

/// The directory that the files with addresses are in.
#[derive(Debug)]
pub(crate) struct Target {
    directory: TempDir,
}

impl Target {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        for (name, content) in texts::ADDRESS_FILES {
            std::fs::write(directory.path().join(name), content).expect("a file");
        }
        Self { directory }
    }

    /// Texts until the bytes are used up.
    pub(crate) fn run(&self, bytes: &[u8]) -> Report {
        let mut report = Report::default();
        let mut draws = Draws::new(bytes);
        while !draws.is_empty() {
            report.texts += 1;
            match draws.below(16) {
                0 => self.bytes(&draws.bytes(), &mut report),
                1..=3 => self.own(&texts::own_keys(&mut draws), &mut report),
                4..=6 => self.cita(&texts::cita_keys(&mut draws), &mut report),
                7..=10 => self.own(&texts::own_example(&mut draws), &mut report),
                11..=14 => self.cita(&texts::cita_example(&mut draws), &mut report),
                _ => {
                    let text = texts::cita_example(&mut draws);
                    self.own(&text, &mut report);
                    self.cita(&text, &mut report);
                }
            }
        }
        report
    }

    /// A file of any bytes.
    fn bytes(&self, bytes: &[u8], report: &mut Report) {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                self.own(text, report);
                self.cita(text, report);
            }
            Err(_) => {
                let path = self.directory.path().join("bytes.toml");
                std::fs::write(&path, bytes).expect("a file");
                let said = Config::load(&path).expect_err("no text").to_string();
                assert_eq!(said, CitaConfig::load(&path).expect_err("no text").to_string());
                assert!(said.contains("bytes.toml") && said.contains("cannot be read"), "{said}");
                report.mistakes += 1;
            }
        }
    }

    pub(crate) fn own(&self, text: &str, report: &mut Report) {
        let base = Path::new("base");
        let (parsed, heap) = peak_of(|| Config::parse(text, NAME, base));
        within(heap, text);
        match &parsed {
            Ok(config) => {
                report.own_valid += 1;
                own_bounds(config);
            }
            Err(mistakes) => report.mistakes += named(mistakes, text),
        }
        assert_eq!(parsed, Config::parse(text, NAME, base), "another answer to the same text");
    }

    pub(crate) fn cita(&self, text: &str, report: &mut Report) {
        let base = self.directory.path();
        let (parsed, heap) = peak_of(|| CitaConfig::parse(text, NAME, base));
        within(heap, text);
        match &parsed {
            Ok(config) => {
                report.cita_valid += 1;
                report.warnings += config.warnings.len() as u64;
                cita_bounds(config);
                for warning in &config.warnings {
                    legible(warning);
                }
            }
            Err(mistakes) => report.mistakes += named(mistakes, text),
        }
        assert_eq!(parsed, CitaConfig::parse(text, NAME, base), "another answer to the same text");
    }
}

fn within(heap: usize, text: &str) {
    let bound = HEAP_BYTES + HEAP_PER_BYTE * text.len();
    assert!(heap <= bound, "{} bytes of text took {heap} bytes of memory, more than {bound}", text.len());
}

/// Each mistake says where and what, on a line of its own; how many there are.
fn named(mistakes: &Mistakes, text: &str) -> u64 {
    assert!(!mistakes.list.is_empty(), "refused without a mistake");
    let said = mistakes.to_string();
    let lines: Vec<&str> = said.split('\n').collect();
    assert_eq!(lines.len(), mistakes.list.len(), "a line for each: {said:?}");
    lines.into_iter().for_each(legible);
    let last = 1 + text.matches('\n').count();
    for mistake in &mistakes.list {
        let placed = mistake.line.is_some_and(|line| (1..=last).contains(&line));
        assert!(placed || mistake.line.is_none(), "{mistake:?} is not among {last} lines");
        let named = !mistake.key.is_empty() || mistake.what.contains("[consensus_raft]");
        assert!(placed || named, "{mistake:?} names neither key nor line");
        assert!(!mistake.what.is_empty(), "{mistake:?} says nothing");
    }
    mistakes.list.len() as u64
}

/// One line of moderate length that no terminal takes for a command.
fn legible(line: &str) {
    assert!(line.starts_with(NAME), "another file: {line:?}");
    assert!(!line.contains(char::is_control), "control characters: {line:?}");
    let characters = line.chars().count();
    assert!(characters <= MESSAGE_CHARACTERS_MAX, "{characters} characters: {line:?}");
}
