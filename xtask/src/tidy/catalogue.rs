//! Rules on the catalogue of behaviours: what it says to be covered is.
//!
//! A row names what covers its claim in backticks: a test as `file.rs::test`, a property of the simulator by its
//! number, a place that the simulator reaches or a rule that it breaks as `Mark::Name` and `Mutant::Name`. Each of
//! them must exist, each number stands in one row only, and a row that names nothing says that it is not built or
//! does not apply. Whether a test shows what its row claims is for its readers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use super::source::Source;

/// The catalogue.
const PAGE: &str = "consensus-core/docs/catalogue.md";

/// Where the names of each kind are declared.
const MARKS: &str = "consensus-core/src/reach.rs";
const MUTANTS: &str = "consensus-core/src/mutant.rs";
const PROPERTIES: &str = "consensus-core/src/sim/";

/// How a row begins that names nothing.
const NOTHING: [&str; 2] = ["Not built", "Does not apply"];

/// Checks the catalogue.
///
/// # Errors
/// When it is missing or unreadable.
pub(super) fn check(root: &Path, sources: &[Source]) -> Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join(PAGE)).with_context(|| PAGE.to_owned())?;
    Ok(page(&text, sources))
}

fn page(text: &str, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    for (number, line) in lines.filter(|(_, line)| line.starts_with('|')) {
        let mut push = |message: String| {
            findings.push(Finding { path: PAGE.to_owned(), line: number, rule: "catalogue", message });
        };
        for name in line.split('`').skip(1).step_by(2).filter(|name| is_reference(name)) {
            if !exists(name, sources) {
                push(format!("`{name}` does not exist"));
            }
        }
        let Some((id, cover)) = row(line) else { continue };
        if let Some(former) = rows.insert(id, number) {
            push(format!("{id} is in line {former} already"));
        }
        let names = cover.split('`').skip(1).step_by(2).any(is_reference);
        if !names && !NOTHING.iter().any(|words| cover.starts_with(words)) {
            push(format!("{id} names nothing that covers it"));
        }
    }
    findings
}

/// Number and last cell of a row.
fn row(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let (id, cover) = (cells.first()?, cells.last()?);
    is_number(id).then_some((*id, *cover))
}

/// A capital letter and a number.
fn is_number(id: &str) -> bool {
    let digits = id.strip_prefix(|first: char| first.is_ascii_uppercase()).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_reference(name: &str) -> bool {
    is_number(name) || name.contains("::")
}

fn exists(name: &str, sources: &[Source]) -> bool {
    let at = |path: &'static str| sources.iter().filter(move |source| source.path().starts_with(path));
    match name.split_once("::") {
        None => {
            let declared = format!("\"{name} ");
            at(PROPERTIES).any(|source| source.text().contains(&declared))
        }
        Some(("Mark", mark)) => at(MARKS).any(|source| declares(source, mark, ",")),
        Some(("Mutant", mutant)) => at(MUTANTS).any(|source| declares(source, mutant, ":")),
        Some((file, test)) if file.ends_with(".rs") => {
            let end = format!("/{file}");
            let files = sources.iter().filter(|source| source.path().ends_with(&end));
            files.into_iter().any(|source| tests(source).any(|name| name == test))
        }
        Some(_) => false,
    }
}

/// Whether a line of the code is this name with this behind it.
fn declares(source: &Source, name: &str, behind: &str) -> bool {
    let mut lines = source.code().lines();
    lines.any(|line| line.trim().strip_prefix(name).is_some_and(|rest| rest.starts_with(behind)))
}

/// The names of a file's tests.
fn tests(source: &Source) -> impl Iterator<Item = &str> {
    let mut marked = false;
    source.code().lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        }
        let (_, signature) = line.split_once("fn ")?;
        std::mem::take(&mut marked).then(|| signature.split(['(', '<']).next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        let file = |path: &str, text: &str| Source::new(path.to_owned(), text.to_owned());
        vec![
            file(
                "a/src/stories.rs",
                "#[test]\npub(super) fn told() {}\nfn helper() {}\n// #[test]\nfn no() {}\n",
            ),
            file("a/tests/x.rs", "#[tokio::test(flavor = \"x\")]\nasync fn awaited() {}\n"),
            file(MARKS, "marks! {\n    /// Doc.\n    Reached,\n}\n"),
            file(MUTANTS, "    Broken: \"broken\", Seeds(40);\n"),
            file("consensus-core/src/sim/invariants/x.rs", "const NAME: &str = \"S12 agreed\";\n"),
        ]
    }

    fn messages(text: &str) -> Vec<String> {
        page(text, &sources()).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn what_covers_a_claim_must_exist() {
        let sound = "| M01 | a | `stories.rs::told`, `src/stories.rs::told`, `x.rs::awaited` |\n\
                     | M02 | b | `S12`, `Mark::Reached`, `Mutant::Broken` |\n";
        assert_eq!(messages(sound), [] as [&str; 0]);
        for name in [
            "stories.rs::helper",
            "stories.rs::no",
            "x.rs::told",
            "S1",
            "Mark::Broken",
            "Mutant::Reached",
            "Mark::Reach",
            "other::told",
        ] {
            let found = messages(&format!("| M01 | a | `S12`, `{name}` |\n"));
            assert_eq!(found, [format!("`{name}` does not exist")]);
        }
    }

    #[test]
    fn a_row_that_names_nothing_says_so_and_a_number_stands_once() {
        assert_eq!(messages("| M01 | a | surely somewhere |\n"), ["M01 names nothing that covers it"]);
        assert_eq!(
            messages("| M01 | a | Not built: why |\n| ID | a | b |\n|---|---|---|\n"),
            [] as [&str; 0]
        );
        assert_eq!(messages("| M01 | a | `S12` |\n| M01 | a | `S12` |\n"), ["M01 is in line 1 already"]);
    }
}
