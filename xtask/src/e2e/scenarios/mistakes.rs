//! The mistakes that people make, and the damage that disks do, against real processes: each must lead to
//! words that name the thing, and none to a panic.
//!
//! A table shows what was said, so that somebody can judge whether it would have helped.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::e2e::Stage;
use crate::e2e::cli::Block;
use crate::e2e::cluster::Cluster;
use crate::e2e::process::{Process, tail};
use crate::e2e::random::Random;

/// How long a node may take to refuse to start, or to become ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Transactions in the chain that is damaged.
const TRANSACTIONS: usize = 500;

/// More than a transaction may have.
const OVERSIZED_BYTES: usize = 11 << 20;

/// Characters of a message that the table shows.
const SHOWN_CHARACTERS: usize = 160;

/// Configurations with one mistake each: its name, what is appended, what must be said.
const CONFIGURATIONS: [(&str, &str, &[&str]); 7] = [
    ("unknown key", "[raft]\ntick = 5\n", &["node.toml:", "tick", "unknown"]),
    ("wrong type", "[raft]\ntick_ms = \"fast\"\n", &["node.toml:", "tick_ms", "string"]),
    ("value below its bound", "[raft]\ntick_ms = 1\n", &["node.toml:", "raft.tick_ms", "is 1", "must be"]),
    ("values that contradict", "[raft]\nelection_ticks = 2\nheartbeat_ticks = 5\n", &["node.toml:", "raft."]),
    ("unknown log filter", "[log]\nfilter = \"consensus=loud\"\n", &["node.toml:", "log.filter", "loud"]),
    ("unknown log format", "[log]\nformat = \"xml\"\n", &["node.toml:", "log.format", "human", "json"]),
    ("not TOML", "[raft\n", &["node.toml:"]),
];

/// Flags of the scenario.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seed of the flipped bytes [default: another one each time]
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Use the binaries as they are
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Makes every mistake.
///
/// # Errors
/// When a mistake passes in silence, is answered without the words that name it, or leads to a panic.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    println!("mistakes; seed {seed}");
    let directory = stage.run_directory(&format!("mistakes-{seed}"))?;
    let mut mistakes = Mistakes { stage, directory: directory.clone(), random: Random::new(seed), failed: 0 };
    let result = mistakes.make_all();
    let failed = mistakes.failed;
    result.with_context(|| format!("logs and data are in {}", directory.display()))?;
    ensure!(
        failed == 0,
        "{failed} mistakes are not answered well; logs and data are in {}",
        directory.display()
    );
    std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
}

struct Mistakes<'a> {
    stage: &'a Stage,
    directory: PathBuf,
    random: Random,
    failed: u32,
}

impl Mistakes<'_> {
    fn make_all(&mut self) -> Result<()> {
        self.configurations()?;
        let mut cluster = self.cluster("node", "")?;
        self.start(&mut cluster)?;
        self.transactions(&cluster)?;
        self.port_in_use()?;
        self.directory_in_use(&cluster)?;
        self.garbage(&mut cluster)?;
        let chain = self.fill(&cluster)?;
        cluster.kill(1)?;
        // The dead node's files as they are, before anybody opens them again.
        self.flipped_bytes("killed", &cluster, &chain)?;
        self.foreign_directories(&cluster)?;
        self.start(&mut cluster)?;
        let stop = cluster.stop(1)?;
        ensure!(stop.status.success(), "the node ended with {}", stop.status);
        self.flipped_bytes("stopped", &cluster, &chain)
    }

    /// A cluster of one node in a directory of its own.
    fn cluster(&mut self, name: &str, extra: &str) -> Result<Cluster> {
        Cluster::create(self.stage.server(), &self.directory.join(name), 1, &mut self.random, extra)
    }

    fn start(&self, cluster: &mut Cluster) -> Result<()> {
        cluster.start_all()?;
        let ready = cluster.leader(self.stage.cli(), self.stage.interrupt(), PATIENCE);
        ready.map(drop).context("the node does not become ready")
    }

    /// Notes what was said to a mistake and whether it has all of `words`.
    fn judge(&mut self, mistake: &str, said: &str, words: &[&str]) {
        let missing = words.iter().filter(|word| !said.contains(*word)).collect::<Vec<_>>();
        let panicked = said.contains("panicked");
        let line = said.lines().rev().find(|line| words.iter().any(|word| line.contains(word)));
        let line = line.or_else(|| said.lines().last()).unwrap_or("(nothing)").trim();
        let line = line.replace(&self.directory.display().to_string(), "DIR");
        println!("  {mistake:<36}  {}", line.chars().take(SHOWN_CHARACTERS).collect::<String>());
        if panicked || !missing.is_empty() {
            self.failed += 1;
            println!(
                "    NOT WELL: {}",
                if panicked { "a panic".to_owned() } else { format!("no word of {missing:?}") }
            );
            println!("    {}", said.lines().rev().take(12).collect::<Vec<_>>().join("\n    "));
        }
    }

    /// Starts a node that must refuse to, and returns what it said.
    fn refusal(&self, mut command: Command, log: &Path) -> Result<String> {
        let mut process = Process::start("the node", &mut command, log)?;
        match process.wait(PATIENCE)? {
            Some(status) if !status.success() => Ok(tail(log, 30)),
            Some(_) => bail!("the node ended as if all were well; its log is {}", log.display()),
            None => bail!("the node runs in spite of the mistake; its log is {}", log.display()),
        }
    }

    fn configurations(&mut self) -> Result<()> {
        for (name, extra, words) in CONFIGURATIONS {
            let cluster = self.cluster(&format!("config {name}"), extra)?;
            let said = self.refusal(cluster.command(1)?, &cluster.node(1)?.log())?;
            self.judge(name, &said, words);
        }
        let mut command = Command::new(self.stage.server());
        command.args(["run", "--config", "nowhere.toml"]).current_dir(&self.directory);
        let said = self.refusal(command, &self.directory.join("nowhere.log"))?;
        self.judge("no such configuration", &said, &["nowhere.toml", "No such file"]);

        let cluster = self.cluster("config stranger", "")?;
        let path = cluster.node(1)?.config();
        let text = std::fs::read_to_string(&path)?.replacen("id = 1", "id = 9", 1);
        std::fs::write(&path, text)?;
        let said = self.refusal(cluster.command(1)?, &cluster.node(1)?.log())?;
        self.judge("not one of the peers", &said, &["node.toml:", "node.id", "is 9", "peers"]);
        Ok(())
    }

    fn transactions(&mut self, cluster: &Cluster) -> Result<()> {
        let address = cluster.addresses_from(1);
        let file = self.directory.join("oversized");
        std::fs::write(&file, vec![b'x'; OVERSIZED_BYTES])?;
        let file = file.display().to_string();
        let long = "x".repeat(65);
        let cases: [(&str, &[&str], &[&str]); 3] = [
            ("oversized transaction", &["--file", &file], &["11534", "at most 10485760"]),
            ("empty transaction", &[""], &["empty"]),
            ("id that is too long", &["--id", &long, "text"], &["65", "1 to 64"]),
        ];
        for (name, arguments, words) in cases {
            let mut command = self.stage.cli().command(["submit", "--to", &address, "--timeout", "5s"]);
            let answer = self.stage.cli().ask(command.args(arguments))?;
            ensure!(answer.code != Some(0), "{name}: accepted: {}", answer.stdout);
            self.judge(name, &format!("{}\n{}", answer.stdout, answer.stderr), words);
        }
        Ok(())
    }

    /// Another node with an address that is taken, each of the three in turn.
    fn port_in_use(&mut self) -> Result<()> {
        for which in ["client", "peer", "ops"] {
            let cluster = self.cluster(&format!("port {which}"), "")?;
            let ports = cluster.node(1)?.ports();
            let port = match which {
                "client" => ports.client,
                "peer" => ports.peer,
                _ => ports.ops,
            };
            let holder = TcpListener::bind(("127.0.0.1", port)).context("the port is not free")?;
            let said = self.refusal(cluster.command(1)?, &cluster.node(1)?.log())?;
            drop(holder);
            self.judge(&format!("{which} port in use"), &said, &[&port.to_string(), "in use"]);
        }
        Ok(())
    }

    /// Another node whose data directory belongs to the one that runs.
    fn directory_in_use(&mut self, running: &Cluster) -> Result<()> {
        let said = self.start_on("in use", &running.node(1)?.data(), |text| text)?;
        let process = running.node(1)?.process_id().context("the node does not run")?.to_string();
        self.judge("directory in use", &said, &["in use", &process]);
        Ok(())
    }

    /// Starts a node on somebody else's data directory, its configuration changed by `change`.
    fn start_on(&mut self, name: &str, data: &Path, change: impl Fn(String) -> String) -> Result<String> {
        let cluster = self.cluster(name, "")?;
        let path = cluster.node(1)?.config();
        let data = format!("data_dir = \"{}\"", data.display());
        let text = std::fs::read_to_string(&path)?.replace("data_dir = \"data\"", &data);
        std::fs::write(&path, change(text))?;
        self.refusal(cluster.command(1)?, &cluster.node(1)?.log())
    }

    fn foreign_directories(&mut self, stopped: &Cluster) -> Result<()> {
        let data = stopped.node(1)?.data();
        let said = self.start_on("foreign cluster", &data, |text| {
            text.replace("cluster = \"e2e\"", "cluster = \"x\"")
        })?;
        self.judge("another cluster's data", &said, &["foreign", "cluster", "e2e", "x"]);
        let said = self.start_on("foreign node", &data, |text| text.replace("id = 1\n", "id = 2\n"))?;
        self.judge("another node's data", &said, &["foreign", "node", "1", "2"]);
        let letter = self.directory.join("letter.txt");
        std::fs::write(&letter, "dear reader\n")?;
        let said = self.start_on("foreign file", &letter, |text| text)?;
        self.judge("a file for a directory", &said, &["letter.txt"]);
        ensure!(std::fs::read(&letter)? == b"dear reader\n", "the file is changed");
        Ok(())
    }

    /// Garbage on both gRPC ports: the node must go on.
    fn garbage(&mut self, cluster: &mut Cluster) -> Result<()> {
        let ports = cluster.node(1)?.ports();
        for (name, port) in [("peer", ports.peer), ("client", ports.client), ("ops", ports.ops)] {
            for preface in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
                let mut stream =
                    TcpStream::connect(("127.0.0.1", port)).context("the node does not listen")?;
                let noise = (0..4096).map(|_| self.random.next() as u8).collect::<Vec<_>>();
                // The node may hang up at once, which is an answer.
                let _ = stream.write_all(preface).and_then(|()| stream.write_all(&noise));
            }
            let mut submit =
                self.stage.cli().command(["submit", "--to", &cluster.addresses_from(1), "after noise"]);
            let answer = self.stage.cli().ask(&mut submit)?;
            cluster.expect_running()?;
            let log = tail(&cluster.node(1)?.log(), 200);
            ensure!(!log.contains("panicked"), "garbage on the {name} port leads to a panic");
            self.judge(&format!("garbage on the {name} port"), &answer.stdout, &["committed"]);
        }
        Ok(())
    }

    /// Puts transactions into the chain and returns it.
    fn fill(&self, cluster: &Cluster) -> Result<Vec<Block>> {
        let input = self.directory.join("input");
        let lines = (0..TRANSACTIONS).map(|number| format!("transaction {number}\n")).collect::<String>();
        std::fs::write(&input, lines)?;
        let mut command = self.stage.cli().command(["submit", "--to", &cluster.addresses_from(1), "--lines"]);
        let answer = self.stage.cli().ask(command.arg(&input))?;
        ensure!(answer.code == Some(0), "submitting failed: {}{}", answer.stdout, answer.stderr);
        self.stage.cli().chain(&cluster.addresses_from(1))
    }

    /// One flipped byte in each kind of file of a store that nobody has open, each time in a fresh copy.
    fn flipped_bytes(&mut self, how: &str, ended: &Cluster, chain: &[Block]) -> Result<()> {
        let original = ended.node(1)?.data();
        for file in largest_of_each_kind(&original)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut cluster = self.cluster(&format!("{how} {name}"), "")?;
            let data = cluster.node(1)?.data();
            copy_directory(&original, &data)?;
            let copy = data.join(file.strip_prefix(&original)?);
            let mut bytes = std::fs::read(&copy)?;
            // In the middle half: not in a header that says what the file is, not in a torn tail.
            let place = bytes.len() / 4 + self.random.below(bytes.len() as u64 / 2) as usize;
            bytes[place] ^= 1 << self.random.below(8);
            std::fs::write(&copy, bytes)?;
            let said = self.life_after_damage(&mut cluster, chain)?;
            let mistake = format!("byte {place} of {name}, {how}");
            match said {
                Some(said) => self.judge(&mistake, &said, &[]),
                None => println!("  {mistake:<36}  harmless: the chain is whole"),
            }
        }
        Ok(())
    }

    /// What the offline check and the node say to damage; nothing if neither sees any and the chain is the
    /// same as before.
    fn life_after_damage(&self, cluster: &mut Cluster, chain: &[Block]) -> Result<Option<String>> {
        let mut verify = self.stage.cli().command(["verify"]);
        let verified = self.stage.cli().ask(verify.arg(cluster.node(1)?.data()))?;
        let found = verified.code != Some(0);
        let words = format!("{}\n{}", verified.stdout, verified.stderr);
        ensure!(!found || !words.trim().is_empty(), "verify ends with {:?} and says nothing", verified.code);
        cluster.start(1)?;
        let address = cluster.addresses_from(1);
        let mut log = String::new();
        let node_log = cluster.node(1)?.log();
        let outcome = self.stage.interrupt().poll(PATIENCE, Duration::from_millis(50), || {
            if cluster.expect_running().is_err() {
                log = tail(&node_log, 30);
                return Ok(Some(None));
            }
            let Ok(status) = self.stage.cli().status(&address) else { return Ok(None) };
            if let Some(reason) = status.halt_reason() {
                log = reason;
                return Ok(Some(None));
            }
            Ok(status
                .agreed_leader()
                .map(|_| self.stage.cli().chain(&address).map_err(|error| format!("{error:#}")).into()))
        })?;
        let Some(outcome) = outcome else {
            bail!("neither ready nor halted nor ended: {}", tail(&node_log, 10))
        };
        match outcome {
            None => Ok(Some(format!("{words}\n{log}"))),
            Some(Err(error)) => Ok(Some(format!("{words}\n{error}"))),
            Some(Ok(after)) => {
                ensure!(after == chain, "a flipped byte changes the chain in silence");
                Ok(found.then_some(words))
            }
        }
    }
}

/// The largest file of each kind below the store's directory.
fn largest_of_each_kind(data: &Path) -> Result<Vec<PathBuf>> {
    let mut largest: std::collections::BTreeMap<String, (u64, PathBuf)> = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(data.join("db")).with_context(|| data.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().map(|text| text.to_string_lossy().into_owned());
        let kind = extension.unwrap_or_else(|| name.split('-').next().unwrap_or_default().to_owned());
        let length = path.metadata()?.len();
        // Locks are empty and notes for people are read by nobody.
        let matters =
            path.is_file() && length > 64 && !name.starts_with("LOG") && !name.starts_with("OPTIONS");
        if matters && largest.get(&kind).is_none_or(|(before, _)| *before < length) {
            largest.insert(kind, (length, path));
        }
    }
    ensure!(!largest.is_empty(), "{} has no file that matters", data.display());
    Ok(largest.into_values().map(|(_, path)| path).collect())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry.with_context(|| from.display().to_string())?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}
