//! Looks through the nodes' logs for what must not be there: panics, and errors that no injected fault
//! explains.
//!
//! ERROR means that a person must look. The only fault of this run that a node must call for a person about
//! is a full disk.

use std::path::Path;

use anyhow::{Context, Result};

/// Findings that are listed per log; the rest is counted.
const LISTED_MAX: usize = 3;

/// What is wrong in a node's log. `was_full`: its disk was.
pub(crate) fn findings(node: u64, log: &Path, was_full: bool) -> Result<Vec<String>> {
    let bytes = std::fs::read(log).with_context(|| log.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let bad = text.lines().filter(|line| is_bad(line, was_full)).collect::<Vec<_>>();
    let mut findings =
        bad.iter().take(LISTED_MAX).map(|line| format!("log of node {node}: {line}")).collect::<Vec<_>>();
    if bad.len() > LISTED_MAX {
        findings.push(format!("log of node {node}: and {} more lines of this kind", bad.len() - LISTED_MAX));
    }
    Ok(findings)
}

fn is_bad(line: &str, was_full: bool) -> bool {
    if line.contains("panicked at") {
        return true;
    }
    let is_error = line.split_whitespace().take(2).any(|word| word == "ERROR") || line.starts_with("error:");
    let is_explained = was_full && (line.contains("No space left on device") || line.contains("halted"));
    is_error && !is_explained
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_are_found_and_other_lines_are_not() {
        assert!(is_bad("thread 'main' panicked at src/a.rs:1:2:", true));
        assert!(is_bad("2026-11-20T16:00:00Z ERROR the chain has halted", false));
        assert!(is_bad("error: cannot open the store", false));
        assert!(!is_bad("2026-11-20T16:00:00Z  WARN node 2 does not answer: ERROR 7", false));
    }

    #[test]
    fn a_full_disk_explains_the_errors_that_name_it() {
        let line = "2026-11-20T16:00:00Z ERROR write failed: No space left on device";
        assert!(is_bad(line, false) && !is_bad(line, true));
        assert!(is_bad("2026-11-20T16:00:00Z ERROR record damaged", true));
    }
}
