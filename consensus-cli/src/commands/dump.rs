//! `dump`: everything of a data directory, log entries decoded.
//!
//! Entries are read and printed one by one, so the log's length costs time and no memory.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::ops::ControlFlow;
use std::rc::Rc;

use consensus_core::storage::inspect::{self, ChainInspection, Field};
use consensus_core::storage::rocks::RocksReader;
use consensus_core::storage::{Position, Result as StorageResult};
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use crate::args::DumpArgs;
use crate::cita;
use crate::entry::Entry;
use crate::offline::{self, Problem, Problems, Store};
use crate::output::text::NodeName;
use crate::output::{Verdict, json, table, text};

/// Runs the command; a record that is missing or damaged is a finding.
///
/// # Errors
/// If the directory cannot be opened or read.
pub(crate) fn run(args: &DumpArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let store = Store::open(&args.store.directory, args.store.chain.as_deref())?;
    let chains: Vec<Chain<'_>> = store.chains.iter().map(|chain| Chain::new(&store, chain, args)).collect();
    let damaged = || chains.iter().any(|chain| !chain.problems.is_empty() || chain.entries.damaged.get() > 0);
    if args.store.json {
        json::line(out, &Dump { schema: "consensus-cli/dump/1", directory: store.shown(), chains: &chains })?;
        return Ok(Verdict::finding_if(damaged()));
    }
    for (chain, inspection) in chains.iter().zip(&store.chains) {
        print(out, chain, inspection)?;
    }
    Ok(Verdict::finding_if(damaged()))
}

#[derive(Serialize)]
struct Dump<'a> {
    schema: &'static str,
    directory: String,
    chains: &'a [Chain<'a>],
}

#[derive(Serialize)]
struct Chain<'a> {
    identity: Option<json::Identity>,
    hard_state: Option<json::HardState>,
    applied: Option<json::Applied>,
    installing: Option<json::Position>,
    snapshot: Option<json::Snapshot>,
    tip: Option<Tip>,
    /// Null for a chain that is none of CITA-Cloud's.
    cita: Option<cita::State>,
    log: Log,
    problems: Vec<Problem>,
    entries: Entries<'a>,
    /// Why the entries end before the end of the range; null if they do not.
    entries_end: EntriesEnd,
}

/// The end of the built-in ledger; null for a chain of another application.
#[derive(Serialize)]
struct Tip {
    height: u64,
    hash: String,
    log_index: u64,
    timestamp_ms: u64,
    transactions: u64,
}

#[derive(Serialize)]
struct Log {
    /// The entry before the first one that is kept.
    truncated: Option<json::Position>,
    /// Null if the log is empty.
    first_index: Option<u64>,
    last_index: Option<u64>,
    /// The last entry as the newest write recorded it.
    high_water: Option<json::Position>,
    /// Where terms begin.
    terms: Vec<json::Position>,
}

impl<'a> Chain<'a> {
    fn new(store: &'a Store, chain: &'a ChainInspection, args: &DumpArgs) -> Self {
        let position = |field: &Field<Position>| field.present().copied().map(json::Position::from);
        let mut problems = Problems::default();
        problems.require("identity", &chain.identity);
        problems.require("hard state", &chain.hard_state);
        problems.require("applied", &chain.applied);
        problems.require("truncated", &chain.truncated);
        problems.require("high water", &chain.high_water);
        problems.allow("snapshot", &chain.snapshot);
        problems.allow("installing", &chain.installing);
        problems.allow("first entry", &chain.first_index);
        problems.allow("last entry", &chain.last_index);
        for (index, start) in &chain.terms {
            problems.allow(&format!("term start {index}"), start);
        }
        let tip = store.ledger(chain).and_then(|ledger| match ledger.tip() {
            Ok(tip) => Some(tip).filter(|tip| tip.log_index > 0),
            Err(error) => {
                problems.0.push(Problem { record: "tip".to_owned(), cause: error.to_string() });
                None
            }
        });
        let cita = cita::State::read(&store.reader, chain, &mut problems);
        let entries = Entries::new(&store.reader, chain, args);
        Self {
            identity: offline::identity(chain),
            hard_state: chain.hard_state.present().map(json::HardState::from),
            applied: chain.applied.present().map(json::Applied::from),
            installing: position(&chain.installing),
            snapshot: chain.snapshot.present().map(|snapshot| json::Snapshot::new(snapshot, false)),
            tip: tip.map(|tip| Tip {
                height: tip.height,
                hash: tip.hash.to_string(),
                log_index: tip.log_index,
                timestamp_ms: tip.timestamp_ms,
                transactions: tip.transactions,
            }),
            cita,
            log: Log {
                truncated: position(&chain.truncated),
                first_index: chain.first_index.present().copied(),
                last_index: chain.last_index.present().copied(),
                high_water: position(&chain.high_water),
                terms: chain.terms.iter().filter_map(|(_, start)| position(start)).collect(),
            },
            problems: problems.0,
            entries_end: entries.end.clone(),
            entries,
        }
    }
}

/// The entries of a range, read when they are printed.
struct Entries<'a> {
    reader: &'a RocksReader,
    chain: &'a ChainInspection,
    from: u64,
    /// Exclusive.
    to: Option<u64>,
    limit: u64,
    of_cita: bool,
    payloads: bool,
    /// Damaged ones seen while printing.
    damaged: Cell<u64>,
    end: EntriesEnd,
}

/// Damage that ends the reading of entries, known once they are printed.
#[derive(Clone, Default)]
struct EntriesEnd(Rc<RefCell<Option<String>>>);

impl Serialize for EntriesEnd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.borrow().serialize(serializer)
    }
}

impl<'a> Entries<'a> {
    fn new(reader: &'a RocksReader, chain: &'a ChainInspection, args: &DumpArgs) -> Self {
        Self {
            reader,
            chain,
            from: args.from.unwrap_or(0),
            to: args.to.and_then(|to| to.checked_add(1)),
            limit: args.limit.unwrap_or(u64::MAX),
            of_cita: cita::is_cita(chain),
            payloads: args.payloads,
            damaged: Cell::new(0),
            end: EntriesEnd::default(),
        }
    }

    /// Visits the entries until the visitor breaks, the limit is reached or damage ends it.
    fn visit(&self, mut each: impl FnMut(&Entry) -> ControlFlow<()>) -> StorageResult<()> {
        let mut left = self.limit;
        if left == 0 || self.to.is_some_and(|to| to <= self.from) {
            return Ok(());
        }
        let outcome = inspect::scan_log(self.reader, self.chain.chain, self.from, self.to, &mut |scanned| {
            let entry = Entry::new(scanned, self.of_cita, self.payloads);
            self.damaged.set(self.damaged.get() + u64::from(entry.error.is_some()));
            left -= 1;
            match each(&entry) {
                ControlFlow::Continue(()) if left > 0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        match outcome {
            Err(error) if offline::is_damage(&error) => {
                self.damaged.set(self.damaged.get() + 1);
                *self.end.0.borrow_mut() = Some(error.to_string());
                Ok(())
            }
            outcome => outcome,
        }
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        let mut outcome = Ok(());
        let scanned = self.visit(|entry| {
            outcome = sequence.serialize_element(entry);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        scanned.map_err(S::Error::custom)?;
        sequence.end()
    }
}

fn print(out: &mut dyn Write, chain: &Chain<'_>, inspection: &ChainInspection) -> anyhow::Result<()> {
    let none = || "-".to_owned();
    let position = |position: Option<json::Position>| {
        position.map_or_else(none, |position| format!("{} of term {}", position.index, position.term))
    };
    let by_address = chain.cita.is_some();
    let mut rows = Vec::new();
    if let Some(identity) = &chain.identity {
        rows.push(("incarnation", format!("{} (id {})", identity.chain_incarnation, identity.chain_id)));
        rows.push((
            "store",
            format!("{}, created {}", identity.store_incarnation, text::time(identity.created_at_ms)),
        ));
        rows.push(match chain.cita {
            Some(_) => ("group", cita::group(identity).to_owned()),
            None => ("genesis", identity.genesis_hash.clone()),
        });
    }
    if let Some(state) = &chain.hard_state {
        let vote = state.vote.map_or_else(
            || "no vote".to_owned(),
            |vote| format!("vote for {}", NodeName::new(vote, by_address)),
        );
        rows.push(("hard state", format!("term {}, {vote}, commit {}", state.term, state.commit)));
    }
    if let Some(applied) = &chain.applied {
        rows.push(("applied", applied.index.to_string()));
        rows.push(("members", members(&applied.conf_state, by_address)));
    }
    let snapshot = chain.snapshot.as_ref();
    let snapshot = snapshot.map(|s| format!("{} of term {}, {}", s.index, s.term, text::size(s.bytes)));
    rows.push(("snapshot", snapshot.unwrap_or_else(none)));
    if chain.installing.is_some() {
        rows.push(("installing", position(chain.installing)));
    }
    rows.extend(chain.cita.iter().flat_map(cita::State::rows));
    if let Some(tip) = &chain.tip {
        let transactions = text::count(tip.transactions, "transaction");
        rows.push(("tip", format!("height {} (entry {}), {transactions}", tip.height, tip.log_index)));
        rows.push(("tip hash", tip.hash.clone()));
    }
    let range = chain.log.first_index.zip(chain.log.last_index);
    rows.push(("log", range.map_or_else(|| "empty".to_owned(), |(first, last)| format!("{first}..={last}"))));
    rows.push(("compacted to", position(chain.log.truncated)));
    rows.push(("high water", position(chain.log.high_water)));
    table::fields(out, &offline::heading(inspection), &rows)?;
    Problems(chain.problems.clone()).print(out)?;
    writeln!(out, "  {:>10} {:>6}  {:<15} {:>10}  content", "index", "term", "kind", "bytes")?;
    let mut outcome = Ok(());
    chain.entries.visit(|entry| {
        outcome = print_entry(out, entry);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    if let Some(cause) = &*chain.entries_end.0.borrow() {
        writeln!(out, "  PROBLEM the entries end here: {cause}")?;
    }
    Ok(())
}

fn print_entry(out: &mut dyn Write, entry: &Entry) -> std::io::Result<()> {
    let term = entry.term.map_or_else(|| "-".to_owned(), |term| term.to_string());
    let Entry { index, kind, bytes, .. } = entry;
    let line = format!("  {index:>10} {term:>6}  {kind:<15} {bytes:>10}  {}", entry.summary());
    writeln!(out, "{}", line.trim_end())?;
    if let Some(data) = entry.data.as_ref().filter(|_| entry.cita.is_some()) {
        writeln!(out, "  {:>10} {:>6}  {}", "", "", text::shorten(data, 200))?;
    }
    let transactions = entry.block.iter().flat_map(|block| &block.transactions);
    for (position, transaction) in transactions.enumerate() {
        if let Some(payload) = &transaction.payload {
            writeln!(out, "  {:>10} {position:>6}  {}  {}", "", transaction.id, text::shorten(payload, 200))?;
        }
    }
    Ok(())
}

/// A membership for people.
pub(crate) fn members(state: &json::ConfState, by_address: bool) -> String {
    let mut words = format!("voters {}", table::nodes(&state.voters, by_address));
    for (name, nodes) in [
        ("learners", &state.learners),
        ("outgoing voters", &state.voters_outgoing),
        ("learners next", &state.learners_next),
    ] {
        if !nodes.is_empty() {
            words.push_str(&format!("; {name} {}", table::nodes(nodes, by_address)));
        }
    }
    words
}
