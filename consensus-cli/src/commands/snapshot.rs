//! `snapshot`: the newest snapshot of each chain, if there is one.

use std::io::Write;

use serde::Serialize;

use crate::args::SnapshotArgs;
use crate::cita;
use crate::commands::dump::members;
use crate::offline::{self, Problem, Problems, Store};
use crate::output::{Verdict, json, table, text};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    directory: String,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    identity: Option<json::Identity>,
    snapshot: Option<json::Snapshot>,
    /// Null for a chain that is none of CITA-Cloud's.
    cita: Option<cita::State>,
    installing: Option<json::Position>,
    problems: Vec<Problem>,
}

/// Runs the command; a damaged record is a finding, having no snapshot is not.
///
/// # Errors
/// If the directory cannot be opened or read.
pub(crate) fn run(args: &SnapshotArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let store = Store::open(&args.store.directory, args.store.chain.as_deref())?;
    let mut chains = Vec::new();
    for chain in &store.chains {
        let mut problems = Problems::default();
        problems.require("identity", &chain.identity);
        problems.allow("snapshot", &chain.snapshot);
        problems.allow("installing", &chain.installing);
        let snapshot = chain.snapshot.present().map(|snapshot| json::Snapshot::new(snapshot, args.data));
        let installing = chain.installing.present().copied().map(json::Position::from);
        let cita = cita::State::read(&store.reader, chain, &mut problems);
        if !args.store.json {
            let rows = rows(snapshot.as_ref(), cita.as_ref(), installing);
            table::fields(out, &offline::heading(chain), &rows)?;
            problems.print(out)?;
        }
        chains.push(Chain {
            identity: offline::identity(chain),
            snapshot,
            cita,
            installing,
            problems: problems.0,
        });
    }
    let verdict = Verdict::finding_if(chains.iter().any(|chain| !chain.problems.is_empty()));
    if args.store.json {
        json::line(out, &Document { schema: "consensus-cli/snapshot/1", directory: store.shown(), chains })?;
    }
    Ok(verdict)
}

fn rows(
    snapshot: Option<&json::Snapshot>,
    cita: Option<&cita::State>,
    installing: Option<json::Position>,
) -> Vec<(&'static str, String)> {
    let state = cita.into_iter().flat_map(cita::State::rows);
    let Some(snapshot) = snapshot else {
        return std::iter::once(("snapshot", "none".to_owned())).chain(state).collect();
    };
    let mut rows = vec![
        ("index", snapshot.index.to_string()),
        ("term", snapshot.term.to_string()),
        ("members", members(&snapshot.conf_state, cita.is_some())),
        ("size", text::size(snapshot.bytes)),
    ];
    rows.extend(state);
    if let Some(installing) = installing {
        rows.push(("installing", format!("{} of term {}", installing.index, installing.term)));
    }
    rows.extend(snapshot.data.clone().map(|data| ("data", data)));
    rows
}
