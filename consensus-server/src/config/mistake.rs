//! What is wrong with a configuration, in words that lead to the place: file, line, key, value, bound.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use thiserror::Error;

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Line in the file, from 1; `None` where the file says nothing about it.
    pub line: Option<usize>,
    /// The key with its section, e.g. `raft.tick_ms`; empty where the text itself cannot be read.
    pub key: String,
    /// What is wrong, value and bound included.
    pub what: String,
}

/// All mistakes of one file; never empty.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub struct Mistakes {
    /// The file as it was named.
    pub file: String,
    /// The mistakes by line; those without a line come last.
    pub list: Vec<Mistake>,
}

/// Largest file: a longer one is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest key and longest words of a line on screen.
const SHOWN_CHARACTERS_MAX: usize = 900;

/// The text of a file.
///
/// # Errors
/// That it cannot be read, as the only mistake.
pub(super) fn read(path: &Path) -> Result<String, Mistakes> {
    let unreadable = |why: String| Mistakes {
        file: path.display().to_string(),
        list: vec![Mistake { line: None, key: String::new(), what: format!("cannot be read: {why}") }],
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        unreadable(format!("it is no UTF-8 text from byte {position} on"))
    })
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, mistake) in self.list.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(line) = mistake.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
            if !mistake.key.is_empty() {
                write!(f, "{} ", legible(&mistake.key))?;
            }
            f.write_str(&legible(&mistake.what))?;
        }
        Ok(())
    }
}

/// What a file says, as a part of one line on screen: of moderate length, and nothing that a terminal obeys.
pub(super) fn legible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(4 * SHOWN_CHARACTERS_MAX));
    let mut characters = text.chars();
    for character in characters.by_ref().take(SHOWN_CHARACTERS_MAX) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    match characters.count() {
        0 => {}
        more => shown.push_str(&format!("... ({more} more characters)")),
    }
    shown
}

/// Where the lines of a text begin, so that each of many mistakes finds its own at once.
#[derive(Debug)]
pub(super) struct Lines {
    newlines: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self { newlines: text.match_indices('\n').map(|(position, _)| position).collect() }
    }

    /// The line of a byte position, from 1.
    pub(super) fn at(&self, position: usize) -> usize {
        1 + self.newlines.partition_point(|newline| *newline < position)
    }
}

/// What the TOML reader or serde found wrong: syntax, a wrong type, an unknown or a missing key.
pub(super) fn of_text(text: &str, error: &toml::de::Error) -> Mistake {
    let place = error.span().map(|span: Range<usize>| span.start);
    // Of a key with too many parts the reader does not say where it is.
    let line = Some(Lines::of(text).at(place.unwrap_or_else(|| most_dots(text))));
    let message = error
        .message()
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("recursion limit", "nested too deep");
    match key_of(error) {
        Some(key) => Mistake { line, key: format!("{key}:"), what: message },
        None => Mistake { line, key: String::new(), what: message },
    }
}

/// Where the line with most dots begins, the first of several.
fn most_dots(text: &str) -> usize {
    let (mut start, mut most) = (0, (0, 0));
    for line in text.split_inclusive('\n') {
        let dots = line.matches('.').count();
        if dots > most.0 {
            most = (dots, start);
        }
        start += line.len();
    }
    most.1
}

/// The key that serde was reading; the reader knows it only as a trailing "in `key`" of its own text.
fn key_of(error: &toml::de::Error) -> Option<String> {
    let mut bare = error.clone();
    bare.set_input(None);
    let text = bare.to_string();
    let last = text.trim_end().lines().last()?;
    let key = last.strip_prefix("in `")?.strip_suffix('`')?;
    Some(key.to_owned())
}
