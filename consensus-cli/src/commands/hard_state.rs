//! `hard-state`: term, vote and commit index of each chain.

use std::io::Write;

use serde::Serialize;

use crate::args::StoreArgs;
use crate::cita;
use crate::offline::{self, Problem, Problems, Store};
use crate::output::text::NodeName;
use crate::output::{Verdict, json, table};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    directory: String,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    identity: Option<json::Identity>,
    hard_state: Option<json::HardState>,
    problems: Vec<Problem>,
}

/// Runs the command; a missing or damaged record is a finding.
///
/// # Errors
/// If the directory cannot be opened or read.
pub(crate) fn run(args: &StoreArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let store = Store::open(&args.directory, args.chain.as_deref())?;
    let mut chains = Vec::new();
    for chain in &store.chains {
        let mut problems = Problems::default();
        problems.require("identity", &chain.identity);
        problems.require("hard state", &chain.hard_state);
        let hard_state = chain.hard_state.present().map(json::HardState::from);
        if !args.json {
            let by_address = cita::is_cita(chain);
            let rows = hard_state.iter().flat_map(|state| {
                let vote = state
                    .vote
                    .map_or_else(|| "none".to_owned(), |vote| NodeName::new(vote, by_address).to_string());
                [("term", state.term.to_string()), ("vote", vote), ("commit", state.commit.to_string())]
            });
            table::fields(out, &offline::heading(chain), &Vec::from_iter(rows))?;
            problems.print(out)?;
        }
        chains.push(Chain { identity: offline::identity(chain), hard_state, problems: problems.0 });
    }
    let verdict = Verdict::finding_if(chains.iter().any(|chain| !chain.problems.is_empty()));
    if args.json {
        json::line(
            out,
            &Document { schema: "consensus-cli/hard-state/1", directory: store.shown(), chains },
        )?;
    }
    Ok(verdict)
}
