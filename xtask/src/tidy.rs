//! `cargo xtask tidy`: the house rules that neither the compiler nor clippy knows.
//!
//! Three kinds: rules on the text of one Rust file ([`rules`]), rules on what one part of the tree may
//! know of another ([`directions`]), and rules on documents and the tree as a whole ([`tree`], [`catalogue`]). Each rule
//! has a name, a reason in its message, and a test with a text that breaks it. An exception is a line in
//! the rule's allow-list with its reason, never a comment in the code.

mod catalogue;
mod directions;
mod rules;
mod source;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use source::Source;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, message } = self;
        match line {
            0 => write!(formatter, "{path}: [{rule}] {message}"),
            line => write!(formatter, "{path}:{line}: [{rule}] {message}"),
        }
    }
}

/// Checks the whole tree and prints each finding.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let root = workspace.root();
    let files = tracked_files(root)?;
    let mut sources = Vec::new();
    let mut findings = Vec::new();
    for path in &files {
        let bytes = std::fs::read(root.join(path)).with_context(|| path.display().to_string())?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let path = path.to_string_lossy().into_owned();
        findings.extend(tree::text(root, &path, &text));
        if path.ends_with(".rs") {
            sources.push(Source::new(path, text));
        }
    }
    source::mark_external_test_modules(&mut sources);
    for source in &sources {
        findings.extend(rules::all(source));
        findings.extend(directions::modules(source));
    }
    findings.extend(directions::crates(&workspace.metadata()?)?);
    findings.extend(tree::documents(root)?);
    findings.extend(catalogue::check(root, &sources)?);

    for source in sources.iter().filter(|source| source.lines() > rules::LINES_WITH_TESTS) {
        println!("   long with its tests: {} ({} lines)", source.path(), source.lines());
    }
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} places break the house rules", findings.len());
    }
    println!("   {} files, {} of them Rust", files.len(), sources.len());
    Ok(())
}

/// The files that belong to the project, relative to `root`, sorted.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let entry = entry.with_context(|| directory.display().to_string())?;
            let name = entry.file_name();
            let kind = entry.file_type().with_context(|| entry.path().display().to_string())?;
            if kind.is_dir() && !["target", ".git", "data"].iter().any(|skipped| name == *skipped) {
                directories.push(entry.path());
            } else if kind.is_file() && name != "Cargo.lock" && name != "LICENSE" {
                files.push(entry.path().strip_prefix(root).context("a file outside the root")?.to_path_buf());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The position of each place where `token` stands as a whole path or word in `code`.
fn occurrences<'a>(code: &'a str, token: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = code.as_bytes();
    code.match_indices(token).map(|(position, _)| position).filter(move |&position| {
        let starts_word = token.as_bytes().first().is_some_and(|&byte| is_word(byte));
        let ends_word = token.as_bytes().last().is_some_and(|&byte| is_word(byte));
        let before = position.checked_sub(1).map(|index| bytes[index]);
        let after = bytes.get(position + token.len()).copied();
        !(starts_word && before.is_some_and(is_word) || ends_word && after.is_some_and(is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_as_a_word_only() {
        let code = "HashMap MyHashMap HashMaps x.unwrap() y.unwrap_or(0)";
        assert_eq!(occurrences(code, "HashMap").collect::<Vec<_>>(), [0]);
        assert_eq!(occurrences(code, ".unwrap()").count(), 1);
    }

    #[test]
    fn a_finding_reads_like_a_compilers() {
        let finding = Finding { path: "a.rs".into(), line: 3, rule: "marks", message: "no dbg!".into() };
        assert_eq!(finding.to_string(), "a.rs:3: [marks] no dbg!");
    }
}
