//! `consensus-cli` as this command's only view of a running cluster and of data directories.
//!
//! The documents are those that `consensus-cli --json` prints; only the fields that are needed here are
//! named. A document of another form is an error, so that a change of the command line's promise is
//! noticed.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::workspace::shown;

/// A block; `transactions` is absent where only headers were asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) previous_hash: String,
    pub(crate) transactions: Option<Vec<Transaction>>,
}

/// A transaction in a block.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) id: String,
    pub(crate) payload: Option<String>,
}

/// What a client was told about one transaction.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) id: String,
    pub(crate) outcome: String,
    pub(crate) height: Option<u64>,
    pub(crate) index: Option<u64>,
    pub(crate) block_hash: Option<String>,
    /// It was in the chain before the sending that was answered.
    pub(crate) duplicate: bool,
    /// From the first sending to the answer, in microseconds.
    pub(crate) latency_us: Option<u64>,
    /// When the answer came, in milliseconds of Unix time.
    pub(crate) at_ms: u64,
}

impl Receipt {
    /// True if the transaction was acknowledged as being in the chain.
    pub(crate) fn is_committed(&self) -> bool {
        self.outcome == "committed"
    }
}

/// The summary of a submission.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    /// Longest time without an acknowledgement.
    pub(crate) longest_gap_ms: u64,
}

/// A node's newest block.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) height: u64,
    pub(crate) hash: String,
    pub(crate) transactions: u64,
}

/// All nodes, as `status` shows them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) leader: Option<Leader>,
    /// What the nodes disagree about.
    pub(crate) findings: Vec<String>,
}

impl Status {
    /// The leader, once every node that was asked is ready and they agree.
    pub(crate) fn agreed_leader(&self) -> Option<u64> {
        let ready = self.nodes.iter().all(|node| node.ready) && self.findings.is_empty();
        self.leader.as_ref().filter(|_| ready).map(|leader| leader.node_id)
    }

    /// Why a chain has halted, if one has.
    pub(crate) fn halt_reason(&self) -> Option<String> {
        let halted = self.nodes.iter().flat_map(|node| &node.chains).find(|chain| chain.state == "halted");
        halted.map(|chain| format!("halted: {}", chain.halt_reason))
    }
}

/// Who leads.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Leader {
    pub(crate) node_id: u64,
}

/// One node's line.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) ready: bool,
    pub(crate) chains: Vec<ChainStatus>,
}

/// One chain on a node.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChainStatus {
    pub(crate) state: String,
    pub(crate) halt_reason: String,
    pub(crate) first_index: u64,
    pub(crate) last_index: u64,
    pub(crate) height: u64,
}

/// What `verify` says about a data directory.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Verified {
    pub(crate) clean: bool,
}

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Cli {
    binary: PathBuf,
    /// With which certificates nodes are talked to.
    certificates: Vec<(&'static str, PathBuf)>,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary, certificates: Vec::new() }
    }

    /// The same over TLS, with whatever files are given.
    pub(crate) fn over_tls(&self, ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Self {
        let (cert, key) = own.unzip();
        let files = [("CONSENSUS_CA", ca), ("CONSENSUS_CERT", cert), ("CONSENSUS_KEY", key)];
        let given = files.into_iter().filter_map(|(name, file)| Some((name, file?.to_path_buf())));
        Self { binary: self.binary.clone(), certificates: given.collect() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.binary
    }

    /// A command with these arguments, not started.
    pub(crate) fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env_remove("CONSENSUS_NODES");
        for name in ["CONSENSUS_CA", "CONSENSUS_CERT", "CONSENSUS_KEY"] {
            command.env_remove(name);
        }
        command.envs(self.certificates.iter().map(|(name, file)| (name, file)));
        command
    }

    /// Runs a command to its end, whatever it says.
    pub(crate) fn ask(&self, command: &mut Command) -> Result<Answer> {
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start `{}`", shown(command)))?;
        Ok(Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Runs a command that prints one JSON document; exit code 1 is an answer too.
    pub(crate) fn document<T: DeserializeOwned>(&self, command: &mut Command) -> Result<T> {
        let answer = self.ask(command)?;
        if !matches!(answer.code, Some(0 | 1)) || answer.stdout.trim().is_empty() {
            bail!("`{}`: {}", shown(command), answer.stderr);
        }
        serde_json::from_str(answer.stdout.trim())
            .with_context(|| format!("`{}` printed a document of another form", shown(command)))
    }

    /// What all nodes at `addresses` say of themselves.
    pub(crate) fn status(&self, addresses: &str) -> Result<Status> {
        self.document(&mut self.command(["status", "--json", "--timeout", "2s", "--nodes", addresses]))
    }

    /// Asks for another leader, whatever the answer: a refusal is of the moment.
    pub(crate) fn transfer_leader(&self, to: u64, addresses: &str) -> Result<()> {
        let to = to.to_string();
        let arguments = ["transfer-leader", "--to", &to, "--timeout", "3s", "--nodes", addresses];
        self.ask(&mut self.command(arguments)).map(drop)
    }

    /// The newest block of the node at `address`.
    pub(crate) fn tip(&self, address: &str) -> Result<Tip> {
        self.document(&mut self.command(["tip", "--json", "--timeout", "2s", "--nodes", address]))
    }

    /// The whole chain of the node at `address`.
    pub(crate) fn chain(&self, address: &str) -> Result<Vec<Block>> {
        let mut command = self.command(["deliver", "--from", "oldest", "--json", "--nodes", address]);
        let answer = self.ask(&mut command)?;
        if answer.code != Some(0) {
            bail!("`{}`: {}", shown(&command), answer.stderr);
        }
        lines(&answer.stdout).with_context(|| shown(&command))
    }

    /// What is wrong with a data directory; nothing if it is clean.
    pub(crate) fn verify(&self, directory: &Path) -> Result<Option<String>> {
        let mut command = self.command(["verify", "--json"]);
        command.arg(directory);
        let answer = self.ask(&mut command)?;
        let verified: Option<Verified> = serde_json::from_str(answer.stdout.trim()).ok();
        match (answer.code, verified) {
            (Some(0), Some(Verified { clean: true })) => Ok(None),
            (Some(1), _) => Ok(Some(format!("{}{}", answer.stdout.trim(), answer.stderr))),
            _ => bail!("`{}`: {}{}", shown(&command), answer.stdout.trim(), answer.stderr),
        }
    }
}

/// The receipts in a file, one JSON document per line. The last line may be torn if its writer was killed.
pub(crate) fn receipts(path: &Path) -> Result<Vec<Receipt>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
    lines(complete).with_context(|| path.display().to_string())
}

fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not as expected: {line}")))
        .collect()
}

/// Bytes as the command line shows them: text without control characters as it is, other bytes as `hex:`
/// and digits.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("hex:") && !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.iter().fold("hex:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_the_command_line_shows_them() {
        assert_eq!(shown_bytes(b"plain text"), "plain text");
        assert_eq!(shown_bytes(b"a\tb"), "hex:610962");
        assert_eq!(shown_bytes(b"\xff"), "hex:ff");
        assert_eq!(shown_bytes(b"hex:00"), "hex:6865783a3030");
    }

    #[test]
    fn a_torn_last_receipt_is_left_out_and_a_strange_one_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("receipts");
        let good = r#"{"line":1,"id":"a-1","outcome":"committed","height":1,"index":0,"block_hash":"00","duplicate":false,"latency_us":9,"at_ms":7}"#;
        std::fs::write(&path, format!("{good}\n{{\"line\":2,\"id\"")).expect("is written");
        let read = receipts(&path).expect("is read");
        assert_eq!(read.len(), 1);
        assert!(read[0].is_committed());
        std::fs::write(&path, "{\"line\":2}\n").expect("is written");
        assert!(receipts(&path).is_err());
    }
}
