//! State files that are torn, emptied or gone, and a disk that is full: a node either goes on with all that
//! it has promised, or says in its first lines what is wrong and where, and joins anew when its state is
//! taken away. The others go on meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::four;
use super::health::expect_unready;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::{Service, consensus_status};
use crate::e2e::cita::play::{PATIENCE, Play, tell};
use crate::e2e::cita::seats::expect_one_group;

mod full;

/// Seconds.
const INTERVAL: u32 = 1;

/// Lines of a start within which it is said why it fails.
const FIRST_LINES: usize = 12;

/// Characters of a message that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// What is done to a store: its name, the files that it is done to, by the beginning and the end of their
/// names, and the part of them that is left; none where they are removed.
const DAMAGES: [(&str, (&str, &str), Option<f64>); 9] = [
    ("CURRENT emptied", ("CURRENT", ""), Some(0.0)),
    ("CURRENT gone", ("CURRENT", ""), None),
    ("the manifest emptied", ("MANIFEST-", ""), Some(0.0)),
    ("the write-ahead log torn", ("", ".log"), Some(0.5)),
    ("the write-ahead log gone", ("", ".log"), None),
    ("data files torn", ("", ".sst"), Some(0.5)),
    ("data files gone", ("", ".sst"), None),
    ("the synced mark emptied", ("synced", ""), Some(0.0)),
    ("the synced mark gone", ("synced", ""), None),
];

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "disk", &four(INTERVAL))?;
    tell(play, |play| {
        play.start()?;
        play.grow(3)?;
        for (number, (what, names, left)) in DAMAGES.into_iter().enumerate() {
            damage(play, number % 4, what, names, left)?;
        }
        Ok(())
    })?;
    full::run(telling)
}

/// Term and vote of a store, as far as it can be read.
fn promised(play: &Play<'_>, node: usize) -> Option<(u64, Value)> {
    let store = play.chain.node(node).consensus_data().join("store");
    let mut command = play.cli().command(["hard-state", "--json"]);
    let answer = play.cli().ask(command.arg(store)).ok()?;
    let document: Value = serde_json::from_str(answer.stdout.trim()).ok()?;
    let state = &document["chains"][0]["hard_state"];
    Some((state["term"].as_u64()?, state["vote"].clone()))
}

/// All files below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// Does damage to the files that are meant; how many there were.
fn spoil(directory: &Path, (begin, end): (&str, &str), left: Option<f64>) -> Result<usize> {
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    };
    let meant = files(directory)?.into_iter().filter(is_meant).collect::<Vec<_>>();
    for path in &meant {
        let spoilt = match left {
            None => std::fs::remove_file(path),
            Some(part) => File::options().write(true).open(path).and_then(|file| {
                let length = file.metadata()?.len();
                file.set_len((length as f64 * part) as u64)
            }),
        };
        spoilt.with_context(|| path.display().to_string())?;
    }
    Ok(meant.len())
}

/// What became of a start.
enum Start {
    /// The node has its place again.
    Seated,
    /// It ended, after these lines.
    Refused(String),
}

/// Starts a node's consensus and waits until it has its place or has ended.
fn start(play: &mut Play<'_>, node: usize) -> Result<Start> {
    let before = play.chain.node(node).log(Service::Consensus)?.len();
    play.chain.start(node, Service::Consensus)?;
    let height = play.height();
    let interrupt = play.interrupt();
    let outcome = interrupt.poll(PATIENCE, Duration::from_millis(50), || {
        if let Some(status) = play.chain.process_mut(node, Service::Consensus)?.ended()? {
            ensure!(!status.success(), "node {node} ended as if all were well");
            let said = play.chain.node(node).log(Service::Consensus)?;
            let said = said.get(before..).unwrap_or_default();
            return Ok(Some(Start::Refused(said.lines().take(FIRST_LINES).collect::<Vec<_>>().join("\n"))));
        }
        let Ok(status) = consensus_status(play.chain.node(node)) else { return Ok(None) };
        let chain = &status["chains"][0];
        let is_seated = chain["leader_id"].as_u64() > Some(0) && chain["height"].as_u64() >= Some(height);
        Ok(is_seated.then_some(Start::Seated))
    })?;
    outcome.with_context(|| {
        let log = play.chain.node(node).log(Service::Consensus).unwrap_or_default();
        let lines = log.lines().rev().take(FIRST_LINES).collect::<Vec<_>>();
        format!("node {node} neither has its place nor ends; the newest lines first:\n{}", lines.join("\n"))
    })
}

/// Checks that all of `words` were said, and shows what was.
fn judge(play: &mut Play<'_>, what: &str, said: &str, words: &[&str]) {
    let missing = words.iter().filter(|word| !said.contains(*word)).collect::<Vec<_>>();
    let line = said.lines().rev().find(|line| words.iter().any(|word| line.contains(word)));
    let line = line.or_else(|| said.lines().last()).unwrap_or("(nothing)").trim();
    play.say(&format!("{what}: {}", line.chars().take(SHOWN_CHARACTERS).collect::<String>()));
    play.expect(missing.is_empty() && !said.contains("panicked"), || {
        format!("{what}: no word of {missing:?} among the first lines:\n{said}")
    });
}

/// Nothing that a node has promised is forgotten: its term has not fallen, and its vote has not changed
/// within a term.
fn expect_promise_kept(play: &mut Play<'_>, node: usize, what: &str, before: &(u64, Value)) -> Result<()> {
    let after = promised(play, node).context("the store of a running node cannot be read")?;
    let is_kept = after.0 > before.0 || after == *before;
    play.say(&format!("{what}: the node goes on, term {} before and {} after", before.0, after.0));
    play.expect(is_kept, || format!("{what}: promised {before:?} before and {after:?} after"));
    Ok(())
}

fn damage(
    play: &mut Play<'_>,
    node: usize,
    what: &str,
    names: (&str, &str),
    left: Option<f64>,
) -> Result<()> {
    play.level()?;
    play.chain.kill(node, Service::Consensus)?;
    // What was in the write-ahead log alone is in data files after another start.
    play.chain.start(node, Service::Consensus)?;
    expect_one_group(play, &[0, 1, 2, 3])?;
    play.grow(1)?;
    play.chain.kill(node, Service::Consensus)?;
    let before = promised(play, node).context("the store of a killed node cannot be read")?;
    let data = play.chain.node(node).consensus_data();
    if spoil(&data, names, left)? == 0 {
        play.say(&format!("{what}: there are none"));
        play.chain.start(node, Service::Consensus)?;
        return expect_one_group(play, &[0, 1, 2, 3]);
    }
    let group = |play: &Play<'_>| {
        let status = consensus_status(play.chain.node((node + 1) % 4))?;
        Ok::<_, anyhow::Error>(status["chains"][0]["group"].clone())
    };
    let group_before = group(play)?;
    match start(play, node)? {
        Start::Refused(said) => {
            let store = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut words = vec!["cannot be used", &store, "move"];
            words.extend(Some(names.0).filter(|name| *name == "CURRENT"));
            judge(play, what, &said, &words);
            play.chain.reap(node, Service::Consensus)?;
            // The same again: no other outcome by chance, nothing half repaired.
            let Start::Refused(_) = start(play, node)? else {
                bail!("{what}: refused once, and started the second time without any change")
            };
            play.chain.reap(node, Service::Consensus)?;
            std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
            play.chain.start(node, Service::Consensus)?;
        }
        Start::Seated => expect_promise_kept(play, node, what, &before)?,
    }
    play.grow(1)?;
    expect_one_group(play, &[0, 1, 2, 3])?;
    let group_after = group(play)?;
    play.expect(group_after == group_before, || {
        format!("{what}: the chain's group was {group_before} and is {group_after}")
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_are_meant_are_cut_or_removed_wherever_they_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("db");
        std::fs::create_dir(&inner).expect("is made");
        for name in ["000004.log", "CURRENT"] {
            std::fs::write(inner.join(name), [7; 10]).expect("is written");
        }
        let length = |name: &str| std::fs::metadata(inner.join(name)).ok().map(|file| file.len());
        assert_eq!(spoil(directory.path(), ("", ".log"), Some(0.5)).expect("is done"), 1);
        assert_eq!((length("000004.log"), length("CURRENT")), (Some(5), Some(10)));
        assert_eq!(spoil(directory.path(), ("CURRENT", ""), None).expect("is done"), 1);
        assert_eq!(length("CURRENT"), None);
        assert_eq!(spoil(directory.path(), ("", ".sst"), None).expect("is done"), 0);
    }
}
