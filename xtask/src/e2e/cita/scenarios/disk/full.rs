//! A disk without space, in memory, below one node's consensus.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    FIRST_LINES, INTERVAL, Start, expect_promise_kept, expect_unready, four, judge, promised, start,
};
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{Play, tell};
use crate::e2e::cita::seats::expect_one_group;
use crate::workspace;

/// The node whose disk it is.
const NODE: usize = 2;

/// Size of the disk: a few times what a small store needs.
const SIZE: &str = "size=48m";

/// Size of the proposals that fill what is left in open files, in bytes.
const PADDING: usize = 1 << 20;

/// Taken at once when the disk is filled, in bytes.
const PIECE: usize = 64 << 10;

/// A file system in memory, for as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn new(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(directory);
        workspace::output(&mut command)?;
        Ok(Self(directory.to_path_buf()))
    }

    /// Leaves no space. Returns the file that takes it.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut piece = vec![0; PIECE];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still has files open there keeps them; the directory is the run's own again.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(super) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "disk-full", &four(INTERVAL))?;
    let data = play.chain.node(NODE).consensus_data();
    let mount = match Mount::new(&data) {
        Ok(mount) => mount,
        Err(error) => {
            println!("SKIPPED: a full disk, which takes the right to mount one: {error:#}");
            return play.discard();
        }
    };
    tell(play, |play| {
        fill(play, &mount)?;
        // The directory below the disk is empty: the node joins its group anew.
        play.chain.kill(NODE, Service::Consensus)?;
        drop(mount);
        play.chain.start(NODE, Service::Consensus)?;
        expect_one_group(play, &[0, 1, 2, 3])
    })
}

fn fill(play: &mut Play<'_>, mount: &Mount) -> Result<()> {
    play.start()?;
    play.grow(2)?;
    play.level()?;
    let before = play.chain.node(NODE).log(Service::Consensus)?.len();
    let ballast = mount.fill()?;
    play.order_all("/proposal", &json!({"padding": PADDING}))?;
    expect_unready(play, NODE, "halted")?;
    let log = play.chain.node(NODE).log(Service::Consensus)?;
    let said = log.get(before..).unwrap_or_default().lines().take(FIRST_LINES).collect::<Vec<_>>();
    judge(play, "a full disk while it runs", &said.join("\n"), &["No space left on device"]);
    play.grow(2)?;
    play.chain.expect_running()?;
    play.order_all("/proposal", &json!({"padding": 0}))?;
    play.chain.kill(NODE, Service::Consensus)?;
    let promise = promised(play, NODE).context("the store on a full disk cannot be read")?;
    match start(play, NODE)? {
        Start::Refused(said) => {
            judge(play, "a full disk at start", &said, &["No space left on device", "raft-data-dir"]);
            play.chain.reap(NODE, Service::Consensus)?;
        }
        Start::Seated => {
            play.say("a full disk at start: there was space enough left");
            play.chain.kill(NODE, Service::Consensus)?;
        }
    }
    std::fs::remove_file(&ballast).with_context(|| ballast.display().to_string())?;
    match start(play, NODE)? {
        Start::Seated => expect_promise_kept(play, NODE, "there is space again", &promise)?,
        Start::Refused(said) => {
            play.expect(false, || format!("there is space again, and the node does not start:\n{said}"));
            play.chain.reap(NODE, Service::Consensus)?;
            return play.chain.start(NODE, Service::Consensus);
        }
    }
    play.grow(1)?;
    expect_one_group(play, &[0, 1, 2, 3])
}
