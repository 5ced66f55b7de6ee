//! What came in with other crates, by the rules in `deny.toml`: bans, licences, sources and advisories.
//!
//! `cargo deny` judges. Where it is not installed, or the database of advisories cannot be reached, that part is
//! skipped and said to be, in a line of its own: a machine without a network can still run everything else.

use anyhow::Result;

use crate::workspace::{Workspace, output};

/// What needs nothing but the lock file and the sources.
const OFFLINE: [&str; 3] = ["bans", "licenses", "sources"];

/// Checks all that can be checked here; what was skipped, a line each.
///
/// # Errors
/// What breaks a rule, as `cargo deny` says it.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let skipped = judge(|arguments| output(workspace.cargo().arg("deny").args(arguments)))?;
    for line in &skipped {
        println!("   SKIPPED: {line}");
    }
    Ok(skipped)
}

fn judge(deny: impl Fn(&[&str]) -> Result<String>) -> Result<Vec<String>> {
    if deny(&["--version"]).is_err() {
        let how = "`cargo install --locked cargo-deny` brings it";
        return Ok(vec![format!("dependencies: cargo-deny is not installed; {how}")]);
    }
    let check = ["--log-level", "error", "check", "--hide-inclusion-graph"];
    deny(&[&check[..], &OFFLINE].concat())?;
    if let Err(error) = deny(&["fetch", "db"]) {
        let error = format!("{error:#}");
        let why = error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        return Ok(vec![format!("advisories: their database cannot be reached ({})", why.trim())]);
    }
    deny(&[&check[..], &["advisories"]].concat())?;
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    /// What is skipped where the calls whose first word is one of `failing` fail, and what was called.
    fn judged(failing: &[&str]) -> (Result<Vec<String>>, Vec<String>) {
        let calls = RefCell::new(Vec::new());
        let result = judge(|arguments| {
            calls.borrow_mut().push(arguments.join(" "));
            let last = arguments.last().copied().unwrap_or_default();
            if failing.contains(&last) {
                bail!("`cargo deny` failed: first\nCould not resolve host\n");
            }
            Ok(String::new())
        });
        (result, calls.into_inner())
    }

    #[test]
    fn a_missing_tool_and_a_database_out_of_reach_are_skipped_in_words() {
        let (skipped, calls) = judged(&["--version"]);
        let skipped = skipped.expect("no failure");
        assert!(skipped[0].contains("cargo-deny is not installed"), "{skipped:?}");
        assert_eq!(calls.len(), 1);
        let (skipped, calls) = judged(&["db"]);
        let skipped = skipped.expect("no failure");
        assert_eq!(skipped, ["advisories: their database cannot be reached (Could not resolve host)"]);
        assert!(calls[1].ends_with("bans licenses sources"), "{calls:?}");
    }

    #[test]
    fn what_breaks_a_rule_fails_and_nothing_is_skipped_where_all_is_there() {
        assert!(judged(&["sources"]).0.is_err());
        assert!(judged(&["advisories"]).0.is_err());
        let (skipped, calls) = judged(&[]);
        assert!(skipped.expect("no failure").is_empty());
        assert_eq!(calls.len(), 4);
    }
}
