//! Rules on text files of every kind, and on the documents at the top.
//!
//! A document that names a file names one that exists; no text holds a path of the machine it was written
//! on; lines end without blanks and files with a newline.

use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;

/// Documents whose names in backticks must be files or directories of the tree.
const MAPS: [&str; 1] = ["ARCHITECTURE.md"];

/// Documents whose relative links must lead somewhere.
const LINKED: [&str; 4] = ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Endings by which a name in backticks is taken for a file.
const FILE_ENDINGS: [&str; 7] = [".rs", ".proto", ".toml", ".md", ".yaml", ".yml", ".sh"];

/// Checks the text of one file. `root` is where the checkout is.
pub(super) fn text(root: &Path, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let homes = ["home", "Users"].map(|name| format!("/{name}/"));
    let root = format!("{}/", root.display());
    for (number, line) in text.lines().enumerate() {
        let mut push = |rule, message: &str| {
            findings.push(Finding {
                path: path.to_owned(),
                line: number + 1,
                rule,
                message: message.to_owned(),
            });
        };
        if line.ends_with([' ', '\t']) {
            push("whitespace", "blanks at the end of the line");
        }
        if line.contains('\t') && path.ends_with(".rs") {
            push("whitespace", "a tab");
        }
        if line.contains('\r') {
            push("whitespace", "a carriage return");
        }
        if line.contains(&root) || homes.iter().any(|home| line.contains(home)) {
            push("machine-path", "a path of one machine");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let message = "no newline at the end of the file".to_owned();
        findings.push(Finding { path: path.to_owned(), line: 0, rule: "whitespace", message });
    }
    findings
}

/// Checks the documents at the top of the tree.
///
/// # Errors
/// When one of them is missing or unreadable.
pub(super) fn documents(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let exists = |name: &str| root.join(name).exists();
    for document in MAPS {
        let text = std::fs::read_to_string(root.join(document)).with_context(|| document.to_owned())?;
        findings.extend(names(document, &text, exists));
    }
    for document in LINKED {
        let text = std::fs::read_to_string(root.join(document)).with_context(|| document.to_owned())?;
        findings.extend(links(document, &text, exists));
    }
    Ok(findings)
}

/// Names of files in backticks that do not exist.
fn names(document: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in line.split('`').skip(1).step_by(2).filter(|name| is_file_name(name)) {
            if !exists(name) {
                let message = format!("`{name}` does not exist");
                findings.push(Finding {
                    path: document.to_owned(),
                    line: number + 1,
                    rule: "names",
                    message,
                });
            }
        }
    }
    findings
}

/// True for a name that only a file or a directory of the tree can have.
fn is_file_name(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    plain
        && !name.starts_with('/')
        && (name.contains('/') || FILE_ENDINGS.iter().any(|end| name.ends_with(end)))
}

/// Relative links that lead nowhere.
fn links(document: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_local && !exists(file) {
                let message = format!("the link to {target} leads nowhere");
                findings.push(Finding {
                    path: document.to_owned(),
                    line: number + 1,
                    rule: "links",
                    message,
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(findings: &[Finding]) -> Vec<(&'static str, usize)> {
        findings.iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn a_name_that_does_not_exist_is_found() {
        let text =
            "The `consensus-core/src/lib.rs` and\nthe `consensus-core/src/gone.rs`, `a::b` and `--flag`.\n";
        let findings = names("ARCHITECTURE.md", text, |name| name == "consensus-core/src/lib.rs");
        assert_eq!(rules(&findings), [("names", 2)]);
        assert_eq!(findings[0].message, "`consensus-core/src/gone.rs` does not exist");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "[a](LICENSE) [b](https://example.org/x) [c](gone.md#part) [d](#here)\n";
        let findings = links("README.md", text, |name| name == "LICENSE");
        assert_eq!(rules(&findings), [("links", 1)]);
    }

    #[test]
    fn blanks_tabs_and_a_missing_newline_are_found() {
        let root = Path::new("/somewhere");
        assert_eq!(rules(&text(root, "a.md", "a \nb\n")), [("whitespace", 1)]);
        assert_eq!(rules(&text(root, "a.rs", "\ta\n")), [("whitespace", 1)]);
        assert_eq!(rules(&text(root, "a.md", "a")), [("whitespace", 0)]);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        let line = format!("see /{}/anna/x and more\n", "home");
        assert_eq!(rules(&text(Path::new("/somewhere"), "a.md", &line)), [("machine-path", 1)]);
        assert_eq!(rules(&text(Path::new("/b/c"), "a.md", "run /b/c/d\n")), [("machine-path", 1)]);
        assert_eq!(rules(&text(Path::new("/b/c"), "a.md", "in /var/lib/consensus\n")), []);
    }
}
