//! `verify`: everything about a data directory that can be checked without another node.
//!
//! Storage: every record's checksum, the log's contiguity and terms, and what must fit together (commit and
//! applied within the log, the high-water mark, the snapshot). Ledger: numbers, previous hashes, data hashes,
//! timestamps, the transactions' index and the tip. Audit log: that no line was changed or removed. A finding is an object with `kind` (of storage findings:
//! `damaged`, `missing`, `gap`, `term`, `relation`, `stray`; of the ledger: `chain`; of the audit log: `audit-changed`, `audit-replaced`,
//! `audit-missing`, `audit-misplaced`, `audit-unreadable`, `audit-torn`), `at` and `cause`.

use std::io::Write;
use std::ops::ControlFlow;

use consensus_core::audit::{Finding as AuditFinding, Report};
use consensus_core::ledger::{self, HashRule};
use consensus_core::storage::inspect::{self, ChainInspection, FINDINGS_MAX};
use consensus_core::storage::{EntryKind, Error};
use serde::Serialize;

use crate::args::StoreArgs;
use crate::cita;
use crate::commands::audit::{self, Summary};
use crate::offline::{self, Problem, Problems, Store, is_damage};
use crate::output::{Verdict, json, text};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    directory: String,
    clean: bool,
    /// A process was writing meanwhile; all is as of the moment of opening.
    in_use: bool,
    findings_total: u64,
    /// About the directory as a whole.
    findings: Vec<Finding>,
    /// The log of administrative actions; null if there is none.
    audit: Option<Summary>,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    identity: Option<json::Identity>,
    checked: Checked,
    /// What is not checked here; null if nothing.
    note: Option<&'static str>,
    findings_total: u64,
    /// The first of them.
    findings: Vec<Finding>,
}

#[derive(Default, Serialize)]
struct Checked {
    entries: u64,
    log_bytes: u64,
    application_records: u64,
    blocks: u64,
    transactions: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    kind: String,
    at: String,
    cause: String,
}

/// Runs the command.
///
/// # Errors
/// If the directory cannot be opened for another reason than damage.
pub(crate) fn run(args: &StoreArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let document = match Store::open(&args.directory, args.chain.as_deref()) {
        Ok(store) => {
            let audit = audit::check(&args.directory, &mut |_| {})?;
            verify(&store, audit)
        }
        Err(error) => match error.downcast_ref::<Error>() {
            Some(damage) if is_damage(damage) => unopened(args, damage),
            _ => return Err(error),
        },
    };
    if args.json {
        json::line(out, &document)?;
    } else {
        print(out, &document)?;
    }
    Ok(Verdict::finding_if(!document.clean))
}

fn unopened(args: &StoreArgs, error: &Error) -> Document {
    let at = args.directory.display().to_string();
    let finding = Finding { kind: "damaged".to_owned(), at: at.clone(), cause: error.to_string() };
    Document {
        schema: "consensus-cli/verify/1",
        directory: at,
        clean: false,
        in_use: false,
        findings_total: 1,
        findings: vec![finding],
        audit: None,
        chains: Vec::new(),
    }
}

fn verify(store: &Store, audit: Option<Report>) -> Document {
    let chains: Vec<Chain> = store.chains.iter().map(|chain| verify_chain(store, chain)).collect();
    let mut findings = Vec::new();
    if chains.is_empty() {
        let cause = "there is no chain in it".to_owned();
        findings.push(Finding { kind: "missing".to_owned(), at: store.shown(), cause });
    }
    let summary = audit.as_ref().map(Summary::new);
    let in_audit_total = audit.as_ref().map_or(0, |report| report.findings_total);
    let in_directory = findings.len() as u64 + in_audit_total;
    for AuditFinding { kind, at, cause } in audit.map(|report| report.findings).unwrap_or_default() {
        findings.push(Finding { kind: format!("audit-{kind}"), at, cause });
    }
    let findings_total = in_directory + chains.iter().map(|chain| chain.findings_total).sum::<u64>();
    Document {
        schema: "consensus-cli/verify/1",
        directory: store.shown(),
        clean: findings_total == 0,
        in_use: store.reader.beside_writer(),
        findings_total,
        findings,
        audit: summary,
        chains,
    }
}

fn verify_chain(store: &Store, chain: &ChainInspection) -> Chain {
    let storage = inspect::verify_chain(&*store.reader, chain.chain);
    let mut verified = Chain {
        identity: offline::identity(chain),
        checked: Checked {
            entries: storage.entries,
            log_bytes: storage.log_bytes,
            application_records: storage.application_records,
            ..Checked::default()
        },
        note: None,
        findings_total: storage.findings_total,
        findings: storage
            .findings
            .into_iter()
            .map(|finding| Finding { kind: kind(finding.kind), at: finding.key, cause: finding.cause })
            .collect(),
    };
    if cita::is_cita(chain) {
        verified.note = Some(cita::BLOCKS_ELSEWHERE);
        verify_cita(store, chain, &mut verified);
    } else {
        verify_ledger(store, chain, &mut verified);
    }
    verified
}

/// Whether everything that the chain's application wrote can be read.
fn verify_cita(store: &Store, chain: &ChainInspection, verified: &mut Chain) {
    let name = offline::name(chain);
    let mut add = |at: String, cause: String| {
        verified.findings_total += 1;
        if verified.findings.len() < 2 * FINDINGS_MAX {
            verified.findings.push(Finding { kind: "chain".to_owned(), at, cause });
        }
    };
    let mut problems = Problems::default();
    cita::State::read(&store.reader, chain, &mut problems);
    for Problem { record, cause } in problems.0 {
        add(format!("{record} of chain {name}"), cause);
    }
    // What the storage cannot read is among its own findings.
    let _ = inspect::scan_log(&*store.reader, chain.chain, 0, None, &mut |scanned| {
        if let Ok(entry) = scanned.entry
            && entry.kind == EntryKind::Normal
            && !entry.data.is_empty()
            && let Err(cause) = cita::Agreed::decode(&entry.data)
        {
            add(format!("log {} of chain {name}", entry.index), cause);
        }
        ControlFlow::Continue(())
    });
}

fn verify_ledger(store: &Store, chain: &ChainInspection, verified: &mut Chain) {
    let Some(genesis) = chain.identity.present().map(|identity| identity.genesis_hash) else { return };
    let name = offline::name(chain);
    let mut findings_total = 0;
    let findings = &mut verified.findings;
    let mut add = |height: u64, cause: String| {
        findings_total += 1;
        if findings.len() < 2 * FINDINGS_MAX {
            findings.push(Finding {
                kind: "chain".to_owned(),
                at: format!("block {height} of chain {name}"),
                cause,
            });
        }
    };
    let outcome = ledger::verify_chain(
        &*store.reader,
        chain.chain,
        genesis,
        HashRule::default(),
        0..u64::MAX,
        &mut |finding| {
            let ledger::Finding { height, what, expected, found } = finding;
            add(height, format!("{what} is {found}, expected {expected}"));
        },
    );
    match outcome {
        Ok(checked) => {
            verified.checked.blocks = checked.blocks;
            verified.checked.transactions = checked.transactions;
        }
        Err(error) => add(0, format!("the check of the chain ended: {error}")),
    }
    verified.findings_total += findings_total;
}

/// The kind's name as it is in JSON everywhere.
fn kind(kind: inspect::FindingKind) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{kind:?}").to_lowercase(),
    }
}

fn print(out: &mut dyn Write, document: &Document) -> std::io::Result<()> {
    for finding in document.findings.iter().chain(document.chains.iter().flat_map(|chain| &chain.findings)) {
        writeln!(out, "{:<8} {}: {}", finding.kind, finding.at, text::one_line(&finding.cause))?;
    }
    let shown: usize =
        document.chains.iter().map(|chain| chain.findings.len()).sum::<usize>() + document.findings.len();
    if document.findings_total > shown as u64 {
        writeln!(out, "and {} more", document.findings_total - shown as u64)?;
    }
    for chain in &document.chains {
        let Checked { entries, log_bytes, application_records, blocks, transactions } = &chain.checked;
        let name = chain.identity.as_ref().map_or("unknown", |identity| &identity.chain);
        let ledger = match chain.note {
            Some(_) => String::new(),
            None => {
                format!(
                    "{} with {}, ",
                    text::count(*blocks, "block"),
                    text::count(*transactions, "transaction")
                )
            }
        };
        writeln!(
            out,
            "chain {name}: {} in the log ({}), {ledger}{} of the application: {}",
            text::count(*entries, "record"),
            text::size(*log_bytes),
            text::count(*application_records, "record"),
            verdict(chain.findings_total),
        )?;
        if let Some(note) = chain.note {
            writeln!(out, "chain {name}: {note}")?;
        }
    }
    if let Some(Summary { records, last, last_hash, findings_total, .. }) = &document.audit {
        let (count, verdict) = (text::count(*records, "record"), verdict(*findings_total));
        writeln!(out, "audit log: {count}, the last is {last} with hash {last_hash}: {verdict}")?;
    }
    let in_use = if document.in_use { " (in use; as of the moment of opening)" } else { "" };
    writeln!(out, "{}: {}{in_use}", document.directory, verdict(document.findings_total))
}

fn verdict(findings: u64) -> String {
    match findings {
        0 => "clean".to_owned(),
        _ => text::count(findings, "finding"),
    }
}
