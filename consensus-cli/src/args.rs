//! The command line, as typed.
//!
//! Everything that can be judged without a node or a directory is judged here (addresses, durations,
//! ids, ranges), so that a mistake ends with exit code 2 before anything is read or sent. What the
//! commands do is in `commands`.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod certs;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::audit::AuditArgs;
use self::bench::BenchArgs;
use self::certs::{CertsArgs, TlsArgs};
use crate::commands::health::HealthArgs;
use crate::output::text;
use crate::remote::Address;

const EXAMPLES: &str = "\
Examples:
  consensus-cli dump ./data --from 100 --to 120    log of a running or killed node
  consensus-cli verify ./data                      one line per finding
  consensus-cli submit --to 127.0.0.1:7400 'hello' one transaction into a block
  seq 1000 | consensus-cli submit --lines -        one transaction per line
  consensus-cli deliver --from oldest --follow     blocks as they come
  consensus-cli status --nodes n1:7400,n2:7400     do the nodes agree?
  consensus-cli certs --help                       certificates for TLS

Exit codes: 0 fine, 1 something was found or refused, 2 cannot tell (also: wrong usage).
Nodes may also be given by the environment variable CONSENSUS_NODES, and the certificates to talk to them
over TLS by CONSENSUS_CA, CONSENSUS_CERT and CONSENSUS_KEY.";

/// Inspects a consensus node's data offline and operates a live cluster.
#[derive(Debug, Parser)]
#[command(name = "consensus-cli", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Offline: everything of a data directory, log entries decoded
    Dump(DumpArgs),
    /// Offline: term, vote and commit index
    HardState(StoreArgs),
    /// Offline: the newest snapshot
    Snapshot(SnapshotArgs),
    /// Offline: each peer's last known progress, address and when it was heard
    Peers(StoreArgs),
    /// Offline: checks checksums, contiguity, terms, hash chain and what must fit together
    Verify(StoreArgs),
    /// Offline: the blocks of the built-in ledger as JSON lines
    Blocks(BlocksArgs),
    /// Offline: the log of administrative actions, checked
    Audit(AuditArgs),
    /// Makes and shows certificates for TLS
    Certs(CertsArgs),
    /// Submits one transaction, or each line of a file
    Submit(SubmitArgs),
    /// Prints blocks in order, live if asked to
    Deliver(DeliverArgs),
    /// Prints one block
    Block(BlockArgs),
    /// Where a transaction is
    Tx(TxArgs),
    /// Fetches the proof that a transaction is in the chain and verifies it here
    Prove(TxArgs),
    /// Height and hash of the newest block
    Tip(TipArgs),
    /// One line per node: role, term, leader, height, lag, peers; exit 1 if they disagree
    Status(StatusArgs),
    /// Whether one node is alive, or ready, by the exit code: for container engines and supervisors
    Health(HealthArgs),
    /// Moves leadership to another node
    TransferLeader(TransferArgs),
    /// Changes the log filter of running nodes
    LogFilter(LogFilterArgs),
    /// CITA-Cloud: gives up an agreed block that no controller can commit, without asking some validators
    VoidBlock(VoidBlockArgs),
    /// Generates load and measures it (used by `cargo xtask bench`)
    Bench(BenchArgs),
}

/// A data directory and one of its chains.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Data directory of a node; never written to, and the node may be running
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Only this chain, where the directory holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) chain: Option<String>,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// First log index to show [default: the first that is kept]
    #[arg(long, value_name = "INDEX", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    /// Last log index to show, inclusive [default: the last one]
    #[arg(long, value_name = "INDEX", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// Show at most this many entries, from the start of the range
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<u64>,
    /// Show the payloads of transactions too
    #[arg(long)]
    pub(crate) payloads: bool,
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Show the application's bytes in hexadecimal
    #[arg(long)]
    pub(crate) data: bool,
}

/// Arguments of `blocks`.
#[derive(Debug, Args)]
pub(crate) struct BlocksArgs {
    /// Data directory of a node; never written to, and the node may be running
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Only this chain, where the directory holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) chain: Option<String>,
    /// First height
    #[arg(long, value_name = "HEIGHT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: u64,
    /// Last height, inclusive [default: the tip]
    #[arg(long, value_name = "HEIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// Leave out the payloads of transactions
    #[arg(long)]
    pub(crate) no_payloads: bool,
}

/// Which nodes to ask, and for how long.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Addresses of nodes; the next one is asked when one does not answer
    #[arg(
        long = "nodes",
        visible_alias = "node",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        env = "CONSENSUS_NODES",
        default_value = DEFAULT_NODE
    )]
    pub(crate) nodes: Vec<Address>,
    /// How long to wait for one node's answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a node listens when it is started without a configuration.
pub(crate) const DEFAULT_NODE: &str = "127.0.0.1:7400";

/// When a submission counts as answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ack {
    /// In the leader's queue; may still be lost
    Accepted,
    /// Durable on a majority and readable on the node that answers
    Committed,
}

/// Arguments of `submit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consensus-cli submit --to 127.0.0.1:7400 'pay 5 to bob'
  consensus-cli submit --to n1:7400,n2:7400 --lines payments.txt --receipts receipts.jsonl
  generate | consensus-cli submit --lines - --client gen-7 --json

A transaction that is refused for a passing reason, or whose outcome is unknown, is submitted again
under the same id at the next address, so it is in the chain once whatever happens in between.
Empty lines are skipped. With --ordered the chain has the lines in the file's order even if nodes fail
in the middle; without it that holds only as long as nothing is refused.")]
pub(crate) struct SubmitArgs {
    /// The transaction
    #[arg(value_name = "TEXT", required_unless_present_any = ["file", "lines"], conflicts_with_all = ["file", "lines"])]
    pub(crate) text: Option<String>,
    /// One transaction: the content of this file
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    pub(crate) file: Option<PathBuf>,
    /// One transaction per line of this file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) lines: Option<PathBuf>,
    /// Addresses of nodes; the next one is used when one fails
    #[arg(
        long = "to",
        visible_aliases = ["nodes", "node"],
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        env = "CONSENSUS_NODES",
        default_value = DEFAULT_NODE
    )]
    pub(crate) nodes: Vec<Address>,
    /// Id of the one transaction, 1 to 64 bytes (`hex:..` for bytes) [default: CLIENT-1]
    #[arg(long, value_name = "ID", value_parser = transaction_id, conflicts_with_all = ["lines", "client"])]
    pub(crate) id: Option<Bytes>,
    /// Name that leads the ids CLIENT-LINE; what was submitted under the same name before is not repeated
    /// if it is among the last 262,144 transactions of the chain [default: random]
    #[arg(long, value_name = "NAME", value_parser = client_name)]
    pub(crate) client: Option<String>,
    /// When a transaction counts as done
    #[arg(long, value_enum, default_value = "committed")]
    pub(crate) ack: Ack,
    /// Transactions sent and not yet answered, at most
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Transactions per message, at most
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
    /// Send a message only when the one before is answered, so that order survives failures
    #[arg(long)]
    pub(crate) ordered: bool,
    /// Give up when nothing was acknowledged for so long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Write one JSON line per transaction here: line, id, outcome, height, index, block_hash
    #[arg(long, value_name = "FILE")]
    pub(crate) receipts: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where `deliver` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The first block.
    Oldest,
    /// The last block, then what follows.
    Newest,
    /// Only blocks that are not there yet.
    Live,
    /// This height.
    Height(u64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            "live" => Ok(Self::Live),
            number => match number.parse() {
                Ok(height) if height > 0 => Ok(Self::Height(height)),
                _ => Err("must be oldest, newest, live or a height from 1 on".to_owned()),
            },
        }
    }
}

/// Arguments of `deliver`.
#[derive(Debug, Args)]
pub(crate) struct DeliverArgs {
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
    /// `oldest`, `newest`, `live` or a height
    #[arg(long, value_name = "WHERE", default_value = "oldest")]
    pub(crate) from: From,
    /// Last height, inclusive; waited for if it is not there yet [default: the tip at the start]
    #[arg(long, value_name = "HEIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// Go on with new blocks for ever, at the next node when one fails
    #[arg(long, conflicts_with = "to")]
    pub(crate) follow: bool,
    /// Only headers and transaction counts
    #[arg(long)]
    pub(crate) headers_only: bool,
    /// Leave out the payloads of transactions
    #[arg(long)]
    pub(crate) no_payloads: bool,
}

/// Arguments of `block`.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// Height, or `newest`
    #[arg(value_name = "HEIGHT", value_parser = block_number)]
    pub(crate) number: BlockNumber,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// Which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockNumber {
    /// The last one.
    Newest,
    /// This height.
    Height(u64),
}

/// Arguments of `tx` and `prove`.
#[derive(Debug, Args)]
pub(crate) struct TxArgs {
    /// Id of the transaction (`hex:..` for bytes)
    #[arg(value_name = "ID", value_parser = transaction_id)]
    pub(crate) id: Bytes,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// Arguments of `tip`.
#[derive(Debug, Args)]
pub(crate) struct TipArgs {
    /// An answer that is at least as new as any acknowledgement before the call
    #[arg(long)]
    pub(crate) linearizable: bool,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
    /// An unreachable or not ready node is a finding too, and so is an alarm
    #[arg(long)]
    pub(crate) all: bool,
}

/// Arguments of `transfer-leader`.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Node id of the next leader, or on a CITA-Cloud chain its validator's address or the first 16 digits of
    /// that [default: the peer that is furthest on]
    #[arg(long, value_name = "ID", value_parser = node_id)]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// Arguments of `log-filter`.
#[derive(Debug, Args)]
pub(crate) struct LogFilterArgs {
    /// For example `info,consensus_core=debug`
    #[arg(value_name = "FILTER")]
    pub(crate) filter: String,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// Arguments of `void-block`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  consensus-cli void-block --node 127.0.0.1:50005 --height 4711 --without c1bcd410636e5ece

When all controllers have lost the transactions of a block that was agreed on, the block is given up by
itself as soon as every validator has promised never to commit it. This command is for the case that a
validator cannot be asked any more. It is for the node that leads, at its admin_addr.")]
pub(crate) struct VoidBlockArgs {
    /// Height of the block that is stuck, as the leader's status tells it
    #[arg(long, value_name = "HEIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) height: u64,
    /// Addresses of the validators that cannot be asked, or the first 16 digits of each
    #[arg(long, value_name = "ADDRESS", required = true, num_args = 1.., value_delimiter = ',', value_parser = validator)]
    pub(crate) without: Vec<Bytes>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) nodes: NodesArgs,
}

/// `250ms`, `5s`, `2m`; more than nothing and at most a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("must be a whole number with a unit: 250ms, 5s, 2m, 1h".to_owned()),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale_ms));
    match ms {
        Some(ms) if (1..=86_400_000).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err("must be from 1ms to 24h".to_owned()),
    }
}

/// Fewest bytes of a validator's address: those that tell it from the others.
const VALIDATOR_BYTES_MIN: usize = 8;

/// A validator's address, whole or cut after its first 8 bytes or later.
fn validator(value: &str) -> Result<Bytes, String> {
    let digits = value.strip_prefix("0x").unwrap_or(value);
    let address = hex::decode(digits).map_err(|error| format!("must be hexadecimal digits: {error}"))?;
    if address.len() < VALIDATOR_BYTES_MIN {
        return Err(format!("has {} digits, must have at least {}", digits.len(), 2 * VALIDATOR_BYTES_MIN));
    }
    Ok(address.into())
}

/// A number, or what a validator's address makes of itself. What has 16 hexadecimal digits is one.
fn node_id(value: &str) -> Result<u64, String> {
    let number = match validator(value) {
        Ok(address) if value.len() <= 2 * VALIDATOR_BYTES_MIN || value.len() > DECIMALS_MAX => {
            let mut first = [0; VALIDATOR_BYTES_MIN];
            first.copy_from_slice(&address[..VALIDATOR_BYTES_MIN]);
            u64::from_be_bytes(first)
        }
        _ => value.parse().map_err(|_| "must be a number or a validator's address".to_owned())?,
    };
    if number == 0 { Err("must not be 0".to_owned()) } else { Ok(number) }
}

/// Digits of the largest number: 18446744073709551615.
const DECIMALS_MAX: usize = 20;

fn transaction_id(value: &str) -> Result<Bytes, String> {
    let id = text::parse(value)?;
    let max = consensus_core::limits::TRANSACTION_ID_BYTES_MAX;
    if id.is_empty() || id.len() > max {
        return Err(format!("id has {} bytes, must have 1 to {max}", id.len()));
    }
    Ok(id)
}

/// Longest client name: with `-` and the longest line number it stays within a transaction id.
const CLIENT_NAME_BYTES_MAX: usize = consensus_core::limits::TRANSACTION_ID_BYTES_MAX - 21;

fn client_name(value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() > CLIENT_NAME_BYTES_MAX {
        return Err(format!("name has {} bytes, must have 1 to {CLIENT_NAME_BYTES_MAX}", value.len()));
    }
    if text::show(value.as_bytes()) != value {
        return Err("name has characters that cannot be shown, or starts with hex:".to_owned());
    }
    Ok(value.to_owned())
}

fn block_number(value: &str) -> Result<BlockNumber, String> {
    match (value, value.parse()) {
        ("newest", _) => Ok(BlockNumber::Newest),
        (_, Ok(height)) if height > 0 => Ok(BlockNumber::Height(height)),
        _ => Err("must be newest or a height from 1 on".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn refusal(line: &[&str]) -> String {
        Cli::try_parse_from(line).expect_err("refused").to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit_and_have_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err());
        assert!(duration("s").is_err());
        assert!(duration("0s").is_err());
        assert!(duration("25h").is_err());
        assert!(duration("99999999999999999999s").is_err());
    }

    #[test]
    fn submit_takes_exactly_one_kind_of_input() {
        assert!(refusal(&["consensus-cli", "submit"]).contains("required"));
        assert!(
            refusal(&["consensus-cli", "submit", "text", "--lines", "f"]).contains("cannot be used with")
        );
        assert!(
            refusal(&["consensus-cli", "submit", "--file", "f", "--lines", "f"])
                .contains("cannot be used with")
        );
    }

    #[test]
    fn an_id_that_is_too_long_is_refused_with_its_length() {
        let long = "x".repeat(65);
        assert!(refusal(&["consensus-cli", "tx", &long]).contains("id has 65 bytes, must have 1 to 64"));
        assert!(refusal(&["consensus-cli", "tx", "hex:0"]).contains("hex"));
    }

    #[test]
    fn nodes_are_numbers_or_addresses() {
        assert_eq!(node_id("3"), Ok(3));
        assert_eq!(node_id("13961232046414192334"), Ok(13_961_232_046_414_192_334), "20 digits");
        for text in ["c1bcd410636e5ece", "0xc1bcd410636e5ece8699d44ec1b47996d7895ebe"] {
            assert_eq!(node_id(text), Ok(0xc1bc_d410_636e_5ece), "{text}");
        }
        assert_eq!(node_id("1000000000000000"), Ok(0x1000_0000_0000_0000), "16 digits");
        for text in ["", "0", "x", "c1bcd410", "0000000000000000"] {
            assert!(node_id(text).is_err(), "{text}");
        }
        let line = ["consensus-cli", "void-block", "--height", "4", "--without", "c1bc"];
        assert!(refusal(&line).contains("has 4 digits, must have at least 16"));
        assert!(refusal(&line[..4]).contains("--without"));
    }

    #[test]
    fn heights_start_at_one() {
        assert!(refusal(&["consensus-cli", "block", "0"]).contains("from 1 on"));
        assert!(refusal(&["consensus-cli", "deliver", "--from", "0"]).contains("from 1 on"));
        assert!(refusal(&["consensus-cli", "dump", "d", "--from", "0"]).contains("1.."));
    }

    #[test]
    fn an_address_needs_host_and_port() {
        assert!(refusal(&["consensus-cli", "tip", "--nodes", "localhost"]).contains("host:port"));
        assert!(refusal(&["consensus-cli", "tip", "--nodes", "a:1,,b:2"]).contains("host:port"));
    }
}
