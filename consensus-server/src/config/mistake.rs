//! What is wrong with a configuration, in words that lead to the place: file, line, key, value, bound.

use std::fmt;
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

/// The text of a file.
///
/// # Errors
/// That it cannot be read, as the only mistake.
pub(super) fn read(path: &Path) -> Result<String, Mistakes> {
    let unreadable = |error| Mistakes {
        file: path.display().to_string(),
        list: vec![Mistake { line: None, key: String::new(), what: format!("cannot be read: {error}") }],
    };
    std::fs::read_to_string(path).map_err(unreadable)
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
                write!(f, "{} ", mistake.key)?;
            }
            f.write_str(&mistake.what)?;
        }
        Ok(())
    }
}

/// The line of a byte position, from 1.
pub(super) fn line_of(text: &str, position: usize) -> usize {
    let before = text.as_bytes().iter().take(position);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// What the TOML reader or serde found wrong: syntax, a wrong type, an unknown or a missing key.
pub(super) fn of_text(text: &str, error: &toml::de::Error) -> Mistake {
    let line = error.span().map(|span: Range<usize>| line_of(text, span.start));
    let message =
        error.message().replace("unknown field", "unknown key").replace("missing field", "missing key");
    match key_of(error) {
        Some(key) => Mistake { line, key: format!("{key}:"), what: message },
        None => Mistake { line, key: String::new(), what: message },
    }
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
