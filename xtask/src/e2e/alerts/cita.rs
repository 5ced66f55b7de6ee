//! The troupe of a CITA-Cloud chain: four validators between stand-ins for controller and network.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::act::Act;
use super::prometheus::Target;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::play::{PATIENCE, Play};
use crate::e2e::cita::scenarios::{four, stuck};
use crate::e2e::http;
use crate::workspace;

/// Seconds.
const INTERVAL: u32 = 1;

/// How long a controller hangs: longer than it takes to be noticed.
const HANGS: Duration = Duration::from_secs(25);

/// How often leadership is to be handed over, and how long that may take each time.
const HAND_OVERS: usize = 20;

/// Everything that can be logged.
const LOUD: &str = "trace";
const USUAL: &str = "info";

/// A chain under way.
pub(super) struct Cita<'a> {
    play: Play<'a>,
}

impl<'a> Cita<'a> {
    /// Writes the directories; nothing runs yet.
    pub(super) fn create(telling: &'a Telling<'a>) -> Result<Self> {
        Ok(Self { play: Play::new(telling, "alerts", &four(INTERVAL))? })
    }

    /// Where the nodes are scraped.
    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |(number, node): (usize, &crate::e2e::cita::chain::Node)| Target {
            name: format!("node{number}"),
            cluster: "cita",
            address: SocketAddr::from(([127, 0, 0, 1], node.ports().metrics)),
        };
        self.play.chain.nodes().iter().enumerate().map(target).collect()
    }

    /// Starts what does not run, and waits until all controllers have what one of them has.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.play.chain.start_all()?;
        self.play.grow(2)?;
        self.play.level().map(drop)
    }

    /// Stops everything; the oracle has its say.
    pub(super) fn finish(self) -> Result<()> {
        self.play.finish()
    }

    fn follower(&self) -> Result<usize> {
        Ok((self.play.leader()?.node + 1) % 4)
    }
}

/// Two of four controllers are gone, the others cannot make a quorum.
pub(super) fn controllers(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let leader = troupe.play.leader()?.node;
    act.begins();
    for node in [leader, (leader + 1) % 4] {
        troupe.play.chain.kill(node, Service::Controller)?;
    }
    act.fired()?;
    troupe.play.chain.start_service(Service::Controller)?;
    act.ends();
    Ok(())
}

/// One controller takes no block.
pub(super) fn behind(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.follower()?;
    act.begins();
    let hang = json!({"call": "commit", "hang_ms": HANGS.as_millis() as u64});
    troupe.play.chain.node(node).order("/faults", &hang)?;
    let end = Instant::now() + HANGS;
    act.fired()?;
    troupe.play.pause(end.saturating_duration_since(Instant::now()))?;
    act.ends();
    Ok(())
}

/// All processes die with a block agreed on that nobody has, and its transactions with them.
pub(super) fn voided(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    act.begins();
    stuck::with_all(&mut troupe.play)?;
    act.fired()?;
    act.ends();
    Ok(())
}

/// The network service of one node is gone.
pub(super) fn network(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.follower()?;
    act.begins();
    troupe.play.chain.kill(node, Service::Network)?;
    act.fired()?;
    troupe.play.chain.start(node, Service::Network)?;
    act.ends();
    Ok(())
}

/// The controller of whoever leads dies, again and again.
pub(super) fn hand_overs(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let mut away = None;
    act.begins();
    for _ in 0..HAND_OVERS {
        if act.have_fired() {
            break;
        }
        let leader = troupe.play.leader()?.node;
        troupe.play.chain.kill(leader, Service::Controller)?;
        if let Some(node) = away.replace(leader) {
            troupe.play.chain.start(node, Service::Controller)?;
        }
        let chain = &troupe.play.chain;
        troupe.play.interrupt().poll(PATIENCE, Duration::from_millis(100), || {
            Ok(chain.leader().filter(|now| now.node != leader).map(drop))
        })?;
        troupe.play.grow(1)?;
    }
    act.ends();
    troupe.play.chain.start_service(Service::Controller)?;
    act.fired()
}

/// A node that was given another chain's identity, on the same network.
pub(super) fn foreign(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.follower()?;
    let home = troupe.play.chain.node(node).directory().to_path_buf();
    let (file, data) = (home.join("config.toml"), troupe.play.chain.node(node).consensus_data());
    let (before, aside) = (std::fs::read_to_string(&file).context("config.toml")?, home.join("aside"));
    troupe.play.chain.kill(node, Service::Consensus)?;
    std::fs::rename(&data, &aside).with_context(|| data.display().to_string())?;
    std::fs::write(&file, other_chain(&before)?).with_context(|| file.display().to_string())?;
    act.begins();
    troupe.play.chain.start(node, Service::Consensus)?;
    act.fired()?;
    troupe.play.chain.kill(node, Service::Consensus)?;
    std::fs::write(&file, before).with_context(|| file.display().to_string())?;
    let made = if data.is_dir() { std::fs::remove_dir_all(&data) } else { Ok(()) };
    made.and_then(|()| std::fs::rename(&aside, &data)).with_context(|| data.display().to_string())?;
    troupe.play.chain.start(node, Service::Consensus)?;
    act.ends();
    Ok(())
}

/// The configuration with another `chain_id` wherever it stands.
fn other_chain(text: &str) -> Result<String> {
    let (_, rest) = text.split_once("chain_id = \"").context("config.toml names no chain_id")?;
    let (id, _) = rest.split_once('"').context("a chain_id without an end")?;
    let other = id.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect::<String>();
    ensure!(other != id, "another chain_id");
    Ok(text.replace(id, &other))
}

/// Nobody reads what a node logs.
pub(super) fn log(troupe: &mut Cita<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.follower()?;
    let ports = troupe.play.chain.node(node).ports().clone();
    let file = troupe.play.chain.node(node).directory().join("consensus.log");
    let aside = file.with_extension("aside");
    troupe.play.chain.kill(node, Service::Consensus)?;
    std::fs::rename(&file, &aside).with_context(|| file.display().to_string())?;
    let pipe = Pipe::create(&file)?;
    troupe.play.chain.start(node, Service::Consensus)?;
    troupe.play.grow(2)?;
    act.begins();
    http::put_text(ports.metrics, "/log", LOUD)?;
    pipe.stall(true);
    act.fired()?;
    http::put_text(ports.metrics, "/log", USUAL)?;
    pipe.stall(false);
    act.ends();
    troupe.play.pause(Duration::from_secs(2))?;
    troupe.play.chain.kill(node, Service::Consensus)?;
    drop(pipe);
    std::fs::remove_file(&file).and_then(|()| std::fs::rename(&aside, &file)).context("consensus.log")?;
    troupe.play.chain.start(node, Service::Consensus)
}

/// A pipe in a file's place, which is read or not.
struct Pipe {
    stalled: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pipe {
    fn create(path: &Path) -> Result<Self> {
        workspace::output(Command::new("mkfifo").arg(path))?;
        // Open both ways, it has a writer and a reader whoever else comes and goes.
        let mut pipe = File::options().read(true).write(true).open(path).context("mkfifo")?;
        let (stalled, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stands, stopped) = (Arc::clone(&stalled), Arc::clone(&stop));
        rustix::io::ioctl_fionbio(&pipe, true).context("a pipe that does not wait")?;
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while !stopped.load(Ordering::Relaxed) {
                let has_read = !stands.load(Ordering::Relaxed) && pipe.read(&mut buffer).is_ok();
                if !has_read {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Ok(Self { stalled, stop, thread: Some(thread) })
    }

    fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
