//! Runs the commands and judges how they end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::draws::Draws;
use super::stores::Store;

/// No command may take longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the output of commands goes, beside the directory.
const OUT: &str = "out";
const ERR: &str = "err";

const COMMANDS: [&[&str]; 12] = [
    &["verify", "data"],
    &["verify", "data"],
    &["verify", "data", "--json"],
    &["dump", "data"],
    &["dump", "data", "--json", "--payloads"],
    &["dump", "data", "--from", "3", "--to", "5"],
    &["hard-state", "data"],
    &["snapshot", "data", "--data"],
    &["peers", "data", "--json"],
    &["blocks", "data"],
    &["blocks", "data", "--from", "7", "--no-payloads"],
    &["dump", "data", "--chain", "main"],
];

/// How a command ended.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

/// The commands of a program, and what `dump` says of directories that are whole.
pub(crate) struct Commands {
    cli: PathBuf,
    whole: BTreeMap<&'static str, String>,
}

impl Commands {
    pub(crate) fn new(cli: PathBuf, stores: &[Store]) -> Self {
        let dump = |store: &Store| {
            for arguments in COMMANDS {
                let blocks_elsewhere = arguments[0] == "blocks" && store.name == "cita";
                let no_main = arguments.contains(&"main") && store.name == "cita";
                let ended = run(&cli, arguments, store.path());
                let code = if blocks_elsewhere || no_main { 2 } else { 0 };
                assert_eq!(ended.status.code(), Some(code), "{} {arguments:?}: {}", store.name, ended.err);
            }
            (store.name, run(&cli, &["dump", "data", "--json", "--payloads"], store.path()).out)
        };
        let whole = stores.iter().map(dump).collect();
        Self { cli, whole }
    }

    /// Two of the commands on a damaged directory; their exit codes.
    pub(crate) fn judge(
        &self,
        draws: &mut Draws<'_>,
        store: &Store,
        top: &Path,
        damage: &[String],
    ) -> Vec<i32> {
        let before = state_of(&top.join("data"));
        let commands = [draws.pick(&COMMANDS), draws.pick(&COMMANDS)];
        let codes = commands.map(|arguments| {
            let told = format!("{} directory, {damage:?}, {arguments:?}", store.name);
            let ended = run(&self.cli, arguments, top);
            let code = ended.judge(&told);
            if arguments[0] == "verify" && code == 0 {
                let dump = run(&self.cli, &["dump", "data", "--json", "--payloads"], top);
                assert_eq!(dump.out, self.whole[store.name], "{told}: found clean, and yet another");
            }
            code
        });
        let after = state_of(&top.join("data"));
        let files = before.keys().chain(after.keys());
        let changed: Vec<&PathBuf> = files.filter(|file| before.get(*file) != after.get(*file)).collect();
        assert!(changed.is_empty(), "{} directory, {damage:?}, {commands:?} changed {changed:?}", store.name);
        codes.to_vec()
    }
}

impl Ended {
    /// The exit code, which is one of three and has words to it.
    fn judge(&self, told: &str) -> i32 {
        let Self { status, out, err } = self;
        let code = status.code().unwrap_or_else(|| panic!("{told}: {status}\n{err}"));
        assert!((0..=2).contains(&code), "{told}: {code}\n{err}");
        assert!(!err.contains("panicked"), "{told}\n{err}");
        let lines: Vec<&str> = err.lines().collect();
        assert!(lines.len() <= 20, "{told}: {} lines\n{err}", lines.len());
        let legible = |line: &&str| line.chars().count() <= 2100 && !line.contains(char::is_control);
        assert!(lines.iter().all(legible), "{told}: not to be read\n{err:?}");
        match code {
            2 => {
                assert!(lines.last().is_some_and(|line| line.contains("data")), "{told}: nothing said\n{err}")
            }
            1 => assert!(!out.is_empty() || !err.is_empty(), "{told}: nothing said"),
            _ => {}
        }
        code
    }
}

fn run(cli: &Path, arguments: &[&str], top: &Path) -> Ended {
    let to = |name: &str| File::create(top.join(name)).unwrap();
    let mut child = Command::new(cli)
        .args(arguments)
        .current_dir(top)
        .env_remove("CONSENSUS_NODES")
        .stdin(Stdio::null())
        .stdout(to(OUT))
        .stderr(to(ERR))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{arguments:?} takes longer than {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let from = |name: &str| String::from_utf8_lossy(&fs::read(top.join(name)).unwrap()).into_owned();
    Ended { status, out: from(OUT), err: from(ERR) }
}

/// Everything about a file that may not change: kind and rights, time of the last change, length, content.
type State = (u32, i64, i64, u64, Option<Vec<u8>>);

fn state_of(directory: &Path) -> BTreeMap<PathBuf, State> {
    let mut states = BTreeMap::new();
    collect(directory, &mut states);
    states
}

fn collect(path: &Path, states: &mut BTreeMap<PathBuf, State>) {
    let found = fs::symlink_metadata(path).unwrap();
    let content = if found.is_file() { fs::read(path).ok() } else { None };
    let (mode, seconds, nanoseconds) = (found.mode(), found.mtime(), found.mtime_nsec());
    let length = if found.is_dir() { 0 } else { found.len() };
    states.insert(path.to_owned(), (mode, seconds, nanoseconds, length, content));
    if found.is_dir() {
        for file in fs::read_dir(path).unwrap() {
            collect(&file.unwrap().path(), states);
        }
    }
}
