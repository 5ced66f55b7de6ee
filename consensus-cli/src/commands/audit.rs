//! `audit`: the log of administrative actions of a data directory; its check is part of `verify` too.
//!
//! Exit 1 if the chain does not hold. JSON (`consensus-cli/audit/1`), one line per record: `sequence`, `at_ms`,
//! `actor`, `action`, `arguments`, `outcome`, `hash` of the record before as `previous`.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use consensus_core::audit::{self, Checker, Record, Report};
use serde::Serialize;

use crate::args::audit::AuditArgs;
use crate::output::{Verdict, json, text};

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    record: &'a Record,
}

/// What `verify` says about the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) records: u64,
    /// Sequence numbers of the first record that is kept and of the last.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Hash of the last record: keep it elsewhere to notice a log that was cut off or written anew.
    pub(crate) last_hash: String,
    pub(crate) findings_total: u64,
}

impl Summary {
    pub(crate) fn new(report: &Report) -> Self {
        Self {
            records: report.records,
            first: report.first,
            last: report.tail.sequence,
            last_hash: report.tail.hash.to_string(),
            findings_total: report.findings_total,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no log, or it cannot be read.
pub(crate) fn run(args: &AuditArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let last = args.last.map(|last| usize::try_from(last).unwrap_or(usize::MAX));
    let mut newest = VecDeque::new();
    let mut keep = |record: &Record| {
        newest.push_back(record.clone());
        if last.is_some_and(|last| newest.len() > last) {
            newest.pop_front();
        }
    };
    let Some(report) = check(&args.directory, &mut keep)? else {
        bail!("{} has no {}: no node has run there that writes one", args.directory.display(), audit::FILE);
    };
    for record in &newest {
        if args.json {
            json::line(out, &Line { schema: "consensus-cli/audit/1", record })?;
        } else {
            print(out, record)?;
        }
    }
    for finding in &report.findings {
        let words = format!("{:<10} {}: {}", finding.kind.to_string(), finding.at, finding.cause);
        if args.json { eprintln!("{words}") } else { writeln!(out, "{words}")? }
    }
    let more = report.findings_total - report.findings.len() as u64;
    if more > 0 {
        eprintln!("and {more} more");
    }
    Ok(Verdict::finding_if(report.findings_total > 0))
}

/// Reads and checks the log of a directory; `None` if there is none.
///
/// # Errors
/// The operating system's.
pub(crate) fn check(directory: &Path, on_record: &mut dyn FnMut(&Record)) -> anyhow::Result<Option<Report>> {
    // A file that is renamed between the listing and the reading is looked for again.
    let mut attempts = 0;
    loop {
        attempts += 1;
        match read(directory) {
            Ok(files) if files.is_empty() => return Ok(None),
            Ok(files) => {
                let mut checker = Checker::default();
                for (name, content) in &files {
                    checker.file(name, content, name == audit::FILE, on_record);
                }
                return Ok(Some(checker.finish()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && attempts < 3 => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("reading the audit log of {}", directory.display()));
            }
        }
    }
}

/// The files, the oldest first.
fn read(directory: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut full = BTreeMap::new();
    let mut current = false;
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        current |= name == audit::FILE;
        if let Some(first) = audit::rotated_first(name) {
            full.insert(first, name.to_owned());
        }
    }
    let names = full.into_values().chain(current.then(|| audit::FILE.to_owned()));
    names.map(|name| std::fs::read(directory.join(&name)).map(|content| (name, content))).collect()
}

fn print(out: &mut dyn Write, record: &Record) -> std::io::Result<()> {
    let Record { sequence, at_ms, actor, action, outcome, arguments, .. } = record;
    let arguments: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let line = format!(
        "{sequence:>6}  {}  {}  {action} {}: {}",
        text::time(*at_ms),
        text::show(actor.as_bytes()),
        arguments.join(" "),
        text::show(outcome.as_bytes())
    );
    writeln!(out, "{}", line.replace(" :", ":"))
}
