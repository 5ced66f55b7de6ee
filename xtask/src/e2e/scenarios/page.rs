//! The status page as a person sees it, in a browser without a screen: when all is well, when nodes are silent
//! or lag, when the chain stands still, and when it is well again.
//!
//! The page's verdict is read from what the browser has made of it, and a picture of each is kept.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::e2e::Stage;
use crate::e2e::cluster::Cluster;
use crate::e2e::random::Random;
use crate::e2e::report::Phases;
use crate::workspace::{self, spoken};

/// Names under which browsers that can do it are found.
const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
/// How long is waited until the page says what it should.
const PATIENCE: Duration = Duration::from_secs(60);
/// The page's own clock runs on for so long before it is looked at: more than one of its turns.
const PAGE_TIME_MS: u32 = 5000;
/// Width and height of a desk's window, and of a phone's.
const DESK: &str = "1280,820";
const PHONE: &str = "500,1500";
/// So that a silent node soon lacks several.
const SMALL_BLOCKS: &str = "[block]\nmessages_max = 10\n";
/// Transactions between two looks.
const TRANSACTIONS: u64 = 200;

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the pictures go; by default `screenshots/` in the build directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pictures: Option<PathBuf>,
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Runs the scenario; without a browser it says so and that is all.
///
/// # Errors
/// When the page does not say what is the case.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let Some(browser) = find_browser() else {
        println!(
            "\nstatus page: SKIPPED, no browser is installed; one of {} is needed, e.g. `apt-get install chromium`",
            BROWSERS.join(", ")
        );
        return Ok(());
    };
    let pictures = options.pictures.clone().unwrap_or_else(|| stage.pictures());
    std::fs::create_dir_all(&pictures).with_context(|| pictures.display().to_string())?;
    let directory = stage.run_directory("page")?;
    let mut random = Random::new(Random::fresh_seed());
    let mut cluster = Cluster::create(stage.server(), &directory, 4, &mut random, SMALL_BLOCKS)?;
    let eye = Eye { browser, pictures, profile: directory.join("browser") };
    let result = play(stage, &eye, &mut cluster);
    drop(cluster);
    match result {
        Ok(()) => {
            println!("\nstatus page: says what is the case; pictures are in {}", eye.pictures.display());
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
        }
        Err(error) => Err(error.context(format!("logs and data are in {}", directory.display()))),
    }
}

fn play(stage: &Stage, eye: &Eye, cluster: &mut Cluster) -> Result<()> {
    let phases = Phases::start(false);
    phases.say("starting 4 nodes");
    cluster.start_all()?;
    let leader = cluster.leader(stage.cli(), stage.interrupt(), PATIENCE)?;
    let others = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>();
    let [asked, silent, dead] = others[..] else { bail!("a cluster of four") };
    let page = format!("http://{}/", cluster.node(asked)?.ops_address());
    submit(stage, cluster, leader)?;

    let well = format!("All well. Node {leader} leads, height ");
    see(stage, eye, &page, "well", "healthy", &[&well])?;
    phases.say("healthy: the page says so");

    cluster.freeze(silent)?;
    submit(stage, cluster, leader)?;
    let words = format!("node {silent} does not answer");
    see(stage, eye, &page, "warn", "one node silent", &[&words, "entries behind", "the chain stands still"])?;
    phases.say(&format!("node {silent} stands still: the page says so, and how far it is behind"));

    cluster.kill(dead)?;
    let standstill = "Stands still: 2 of 4 voters answer, 3 are needed";
    let words = format!("nodes {} and {} do not answer", silent.min(dead), silent.max(dead));
    see(stage, eye, &page, "bad", "leaderless", &[standstill, &words])?;
    phases.say(&format!("node {dead} killed, no majority: the page says so"));

    cluster.thaw(silent)?;
    cluster.start(dead)?;
    see(stage, eye, &page, "well", "healthy again", &["All well. Node "])?;
    phases.say("all are back: the page says so");
    for (name, level, cluster, words) in drawn_clusters() {
        let stand_in = StandIn::serve(stage.root(), cluster)?;
        see(stage, eye, &stand_in.page(), level, name, &words)?;
        phases.say(&format!("{name} (drawn): the page says so"));
    }
    for stop in cluster.stop_all()? {
        ensure!(stop.status.success(), "node {} ended with {}", stop.node, stop.status);
    }
    Ok(())
}

fn submit(stage: &Stage, cluster: &Cluster, leader: u64) -> Result<()> {
    let input = cluster.directory().join("input");
    let text = (1..=TRANSACTIONS).map(|number| format!("transaction {number}\n")).collect::<String>();
    std::fs::write(&input, text).with_context(|| input.display().to_string())?;
    let to = cluster.node(leader)?.address();
    let mut command = stage.cli().command(["submit", "--json", "--to", &to, "--lines"]);
    command.arg(&input);
    let answer = stage.cli().ask(&mut command)?;
    ensure!(answer.code == Some(0), "submitting failed: {}{}", answer.stdout, answer.stderr);
    Ok(())
}

/// Looks until the page has the level and all the words, then takes pictures of it.
fn see(stage: &Stage, eye: &Eye, page: &str, level: &str, name: &str, words: &[&str]) -> Result<()> {
    let level = format!("data-level=\"{level}\"");
    let mut seen = String::new();
    let found = stage.interrupt().poll(PATIENCE, Duration::from_millis(200), || {
        seen = eye.look(page)?;
        let there = seen.contains(&level) && words.iter().all(|words| seen.contains(words));
        Ok(there.then_some(()))
    })?;
    let name = name.replace(' ', "-");
    eye.picture(page, DESK, &format!("{name}.png"))?;
    eye.picture(page, PHONE, &format!("{name}-phone.png"))?;
    found.with_context(|| {
        format!(
            "the page has not said {level} and {words:?} within {}, but:\n{}",
            spoken(PATIENCE),
            plain(&seen)
        )
    })
}

/// Clusters in states that do not last or should never be: level, answer of `/cluster`, words of the page.
fn drawn_clusters() -> [(&'static str, &'static str, Value, Vec<&'static str>); 3] {
    let mut lagging = drawn();
    chain_of(&mut lagging, 3)["height"] = json!(88_000);
    chain_of(&mut lagging, 3)["tip_hash"] = json!("aa");
    chain_of(&mut lagging, 1)["sync_time_us"] = json!(1_250_000);
    let mut halted = drawn();
    chain_of(&mut halted, 4)["state"] = json!("halted");
    chain_of(&mut halted, 4)["halt_reason"] = json!("write failed: <no> space & \"quotes\"");
    let mut forked = drawn();
    chain_of(&mut forked, 2)["tip_hash"] = json!("ff");
    [
        (
            "lagging",
            "warn",
            lagging,
            vec!["node 3 is 3,234 blocks behind", "the disk of node 1 is slow: 1,250 ms for a sync"],
        ),
        ("halted", "warn", halted, vec!["node 4 has halted: write failed: &lt;no&gt; space &amp;"]),
        ("forked", "bad", forked, vec!["The chain has forked", "different blocks at height 91,234"]),
    ]
}

/// Four nodes of which all is well.
fn drawn() -> Value {
    let nodes = (1..=4).map(|id| {
        let role = if id == 2 { "leader" } else { "follower" };
        json!({
            "node_id": id, "address": format!("10.0.0.{id}:7400"), "own": id == 1, "reached": true,
            "status": { "ready": true, "not_ready_reason": "", "chains": [{
                "chain": "main", "state": "running", "halt_reason": "", "role": role, "term": 7, "leader_id": 2,
                "height": 91_234, "tip_hash": "ab", "last_index": 91_300, "voters": [1, 2, 3, 4], "peers": [],
                "sync_time_us": 900, "recent_leader_changes": [{ "at_ms": 0, "term": 7, "leader_id": 2 }],
            }]},
        })
    });
    json!({ "cluster": "drawn", "asked": 1, "now_ms": 7_200_000, "nodes": nodes.collect::<Vec<_>>() })
}

fn chain_of(cluster: &mut Value, node: usize) -> &mut Value {
    &mut cluster["nodes"][node - 1]["status"]["chains"][0]
}

/// Serves the page's own files and one answer to its question.
struct StandIn {
    address: SocketAddr,
    end: Arc<AtomicBool>,
}

impl StandIn {
    fn serve(root: &Path, cluster: Value) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let files = root.join("consensus-server/src/ops/page");
        let text = |name: &str| std::fs::read_to_string(files.join(name)).with_context(|| name.to_owned());
        let pages = [
            ("/", "text/html", text("index.html")?),
            ("/page.css", "text/css", text("page.css")?),
            ("/page.js", "text/javascript", text("page.js")?),
            ("/cluster", "application/json", cluster.to_string()),
        ];
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !ended.load(Ordering::Relaxed)) {
                // A browser that gives up a connection is no failure of the page.
                let _ = stream.and_then(|stream| answer(stream, &pages));
            }
        });
        Ok(Self { address, end })
    }

    fn page(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Its thread sees the end at its next connection.
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(mut stream: TcpStream, pages: &[(&str, &str, String)]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    lines.read_line(&mut request)?;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let (code, kind, body) = match pages.iter().find(|(known, ..)| *known == path) {
        Some((_, kind, body)) => ("200 OK", *kind, body.as_str()),
        None => ("404 Not Found", "text/plain", ""),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A browser without a screen.
struct Eye {
    browser: PathBuf,
    pictures: PathBuf,
    profile: PathBuf,
}

impl Eye {
    /// The page as the browser has it once its script has run for a while.
    fn look(&self, page: &str) -> Result<String> {
        workspace::output(self.command(page, DESK).arg("--dump-dom"))
    }

    fn picture(&self, page: &str, size: &str, name: &str) -> Result<()> {
        let picture = self.pictures.join(name);
        let mut command = self.command(page, size);
        command.arg(format!("--screenshot={}", picture.display()));
        workspace::output(&mut command)?;
        ensure!(picture.is_file(), "the browser has not made {}", picture.display());
        Ok(())
    }

    fn command(&self, page: &str, size: &str) -> Command {
        // A browser that hangs must not hang the run.
        let mut command = Command::new("timeout");
        command.arg("60").arg(&self.browser);
        command.args(["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
        // What is looked at is our own page; the sandbox cannot be had as root or in containers.
        command.args(["--no-sandbox", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", self.profile.display()));
        command.arg(format!("--window-size={size}"));
        command.arg(format!("--virtual-time-budget={PAGE_TIME_MS}"));
        command.arg(page);
        command
    }
}

/// The text of a page, for an error message.
fn plain(page: &str) -> String {
    let body = page.split_once("<main").map_or(page, |(_, body)| body);
    let mut text = String::new();
    let mut inside = true;
    for character in body.chars() {
        match character {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            _ if !inside => text.push(character),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn find_browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories = std::env::split_paths(&path).collect::<Vec<_>>();
    BROWSERS
        .iter()
        .flat_map(|name| directories.iter().map(move |directory: &PathBuf| directory.join(name)))
        .find(|candidate: &PathBuf| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_page_is_what_stands_between_its_tags() {
        let page = "<html><main id=\"a\"><b>All</b> well</main></html>";
        assert_eq!(plain(page), "All well");
    }
}
