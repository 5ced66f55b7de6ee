//! The arguments of `certs`, as typed, and the options that name certificates for a connection.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use rustls::pki_types::ServerName;

use super::duration;
use crate::remote::Address;

/// With which certificates to talk to nodes; without any, in plaintext.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TlsArgs {
    /// TLS: the CA that vouches for the nodes (PEM; several one after the other are fine)
    #[arg(long, value_name = "FILE", env = "CONSENSUS_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// TLS: this user's certificate (PEM)
    #[arg(long, value_name = "FILE", env = "CONSENSUS_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// TLS: its private key (PEM)
    #[arg(long, value_name = "FILE", env = "CONSENSUS_KEY")]
    pub(crate) key: Option<PathBuf>,
}

/// Arguments of `certs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consensus-cli certs set --dir certs --nodes 4 --host 'n{id}.example' --client alice=submit,read
  consensus-cli certs init --dir certs --name 'trial CA'
  consensus-cli certs issue --dir certs --node 1 --host 10.0.0.1 --host n1.example
  consensus-cli certs issue --dir certs --client alice --role submit --role read
  consensus-cli certs issue --dir certs --node 1 --renew     same key, names and roles, new dates
  consensus-cli certs show certs/node1.crt                   the line for [[peers]], and the days left
  consensus-cli certs show --at n1.example:7400              what a node presents now

A small CA for trials and closed networks. The CA's key lies in DIR/ca.key without a password: keep DIR on
one machine and away from the nodes, which need only ca.crt and their own two files. Certificates of any
other CA serve as well; deploy/docs/security.md says what they need.")]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    pub(crate) command: CertsCommand,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Makes a CA: DIR/ca.crt and DIR/ca.key
    Init(InitArgs),
    /// Makes a node's or a client's certificate and key
    Issue(IssueArgs),
    /// Makes what is missing of a whole set: the CA, all nodes' and clients' certificates
    Set(SetArgs),
    /// Shows what certificates say; exit 1 if one is not valid today
    Show(ShowArgs),
}

/// Arguments of `certs init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Directory of the CA; created with mode 0700 if it is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What the CA is called
    #[arg(long, value_name = "NAME", value_parser = ca_name)]
    pub(crate) name: String,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    pub(crate) days: u32,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `certs issue`.
#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// Directory of the CA; the new files go there too
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// For a node: nodeID.crt and nodeID.key, good for serving and for calling other nodes
    #[arg(long, value_name = "ID", required_unless_present = "client", conflicts_with = "client", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) node: Option<u64>,
    /// An address or a host name at which the node is called; may be given several times
    #[arg(long = "host", value_name = "HOST", conflicts_with = "client", value_parser = host)]
    pub(crate) hosts: Vec<String>,
    /// For a client: NAME.crt and NAME.key
    #[arg(long, value_name = "NAME", value_parser = client_name)]
    pub(crate) client: Option<String>,
    /// What the client, or who calls with the node's certificate, may do; may be given several times
    ///
    /// A node's certificate needs none; with `read`, a probe on the node can ask with it.
    #[arg(long = "role", value_enum, value_name = "ROLE")]
    pub(crate) roles: Vec<Role>,
    /// How long it is valid [default: 365, or as long as the CA]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    pub(crate) days: Option<u32>,
    /// The same for less than a day, to try out what happens when it expires
    #[arg(long, value_name = "DURATION", conflicts_with = "days", value_parser = duration)]
    pub(crate) valid_for: Option<Duration>,
    /// A new certificate for the key there is, with the names and roles of the old one unless others are
    /// given; pins stay as they are
    #[arg(long)]
    pub(crate) renew: bool,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `certs set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consensus-cli certs set --dir certs --nodes 4 --host 'n{id}.example' --host localhost \\
      --client alice=submit,read --client operator=admin
  consensus-cli certs set --dir certs --nodes 4 --host 'n{id}.example' --hand-out machines

Run again, it makes what is missing, renews (same key) what ends within --renew-before or lacks a name or a role
that is asked for, and leaves everything else as it is. Files that are handed out are replaced in one step, and
running nodes take them up. The certificates of nodes have the role read, so that a probe on a node can ask with
them.

--hand-out DIR makes a directory for each node and client, with what belongs on its machine and nothing else:
  DIR/node1/  ca.crt tls.crt tls.key, and node1.crt node2.crt ... of all nodes, for [[peers]] certificate
  DIR/alice/  ca.crt tls.crt tls.key")]
pub(crate) struct SetArgs {
    /// Directory of the CA; the new files go there too
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What the CA is called if it is made now
    #[arg(long, value_name = "NAME", default_value = "trial CA", value_parser = ca_name)]
    pub(crate) name: String,
    /// Certificates for the nodes 1 to N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    pub(crate) nodes: u64,
    /// An address or a host name at which the nodes are called, {id} being a node's number and {ordinal} the one
    /// below it; may be given several times
    #[arg(long = "host", value_name = "HOST", required = true, value_parser = host_of_each)]
    pub(crate) hosts: Vec<String>,
    /// A client and its roles; may be given several times
    #[arg(long = "client", value_name = "NAME=ROLE,...", value_parser = client_and_roles)]
    pub(crate) clients: Vec<(String, Vec<Role>)>,
    /// Renew what ends within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=DAYS_MAX))]
    pub(crate) renew_before: u32,
    /// Lay out a directory for each node and client in this one
    #[arg(long, value_name = "DIR")]
    pub(crate) hand_out: Option<PathBuf>,
    /// Whom the handed-out files belong to (needs root); NAME= for one node or client only
    #[arg(long = "owner", value_name = "[NAME=]UID:GID", requires = "hand_out")]
    pub(crate) owners: Vec<OwnerOf>,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// A user and a group of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// Whom files belong to: those of one name, or all others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwnerOf {
    pub(crate) name: Option<String>,
    pub(crate) owner: Owner,
}

impl FromStr for OwnerOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "must be UID:GID or NAME=UID:GID, two numbers";
        let (name, ids) = match text.split_once('=') {
            Some((name, ids)) => (Some(name.to_owned()), ids),
            None => (None, text),
        };
        let (user, group) = ids.split_once(':').ok_or(SHAPE)?;
        let number = |text: &str| text.parse().map_err(|_| SHAPE);
        Ok(Self { name, owner: Owner { user: number(user)?, group: number(group)? } })
    }
}

/// Arguments of `certs show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Files with certificates (PEM)
    #[arg(value_name = "FILE", required_unless_present = "at")]
    pub(crate) files: Vec<PathBuf>,
    /// Show what the server at this address presents now; it is shown, not trusted
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) at: Vec<Address>,
    /// JSON with stable field names
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a client's certificate allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Submit transactions
    Submit,
    /// Read blocks, transactions, proofs and the status
    Read,
    /// Operate nodes; may read too
    Admin,
}

impl Role {
    /// As it is in a certificate: an organizational unit.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The role of an organizational unit; none if it is a department of another kind.
    pub(crate) fn of_unit(unit: &str) -> Option<Self> {
        [Self::Submit, Self::Read, Self::Admin].into_iter().find(|role| role.unit() == unit)
    }
}

/// A hundred years.
const DAYS_MAX: i64 = 36_500;
/// Most members of a chain.
const NODES_MAX: u64 = 64;

/// Longest common name that X.509 allows.
const NAME_CHARS_MAX: usize = 64;

fn ca_name(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "name has {chars} characters, must have 1 to {NAME_CHARS_MAX} that can be shown"
        ));
    }
    Ok(text.to_owned())
}

/// A name that is a file's name too, and neither the CA's nor a node's.
fn client_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_CHARS_MAX {
        return Err(format!("name has {} characters, must have 1 to {NAME_CHARS_MAX}", text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if !text.chars().all(allowed) || text.starts_with(['.', '-']) {
        return Err("name must be of letters, digits and -_.@, and start with a letter or digit".to_owned());
    }
    let of_node = text.strip_prefix("node").is_some_and(|rest| rest.parse::<u64>().is_ok());
    if text == "ca" || of_node {
        return Err(format!("{text} is the name of other files of the directory; choose another"));
    }
    Ok(text.to_owned())
}

fn host(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be an IP address or a host name, without a port".to_owned()),
    }
}

/// A host name with places for a node's number.
fn host_of_each(text: &str) -> Result<String, String> {
    host(&host_of(text, NODES_MAX)).map(|_| text.to_owned())
}

/// What such a name is for one node.
pub(crate) fn host_of(text: &str, id: u64) -> String {
    text.replace("{id}", &id.to_string()).replace("{ordinal}", &id.saturating_sub(1).to_string())
}

fn client_and_roles(text: &str) -> Result<(String, Vec<Role>), String> {
    let (name, roles) = text.split_once('=').ok_or("must be NAME=ROLE, or NAME=ROLE,ROLE")?;
    let role = |unit: &str| {
        Role::of_unit(unit).ok_or_else(|| format!("{unit:?} is no role, must be submit, read or admin"))
    };
    Ok((client_name(name)?, roles.split(',').map(role).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;

    fn refusal(line: &str) -> String {
        let words = line.split_whitespace();
        Cli::try_parse_from(words).expect_err(line).to_string()
    }

    #[test]
    fn a_certificate_is_a_nodes_or_a_clients() {
        let issue = "consensus-cli certs issue --dir d";
        assert!(refusal(issue).contains("required"));
        assert!(refusal(&format!("{issue} --node 1 --client a")).contains("cannot be used with"));
        assert!(refusal(&format!("{issue} --client a --host h")).contains("cannot be used with"));
        assert!(refusal(&format!("{issue} --node 0")).contains("1.."));
        assert!(refusal(&format!("{issue} --client a --role root")).contains("possible values"));
        assert!(refusal(&format!("{issue} --node 1 --days 0")).contains("1..=36500"));
    }

    #[test]
    fn a_set_names_its_mistakes() {
        let set = "consensus-cli certs set --dir d --nodes 4";
        assert!(refusal(set).contains("--host"));
        let set = format!("{set} --host n{{id}}.example");
        for (more, expected) in [
            ("--client a", "must be NAME=ROLE"),
            ("--client a=", "\"\" is no role"),
            ("--client a=read,root", "\"root\" is no role, must be submit, read or admin"),
            ("--client node3=read", "is the name of other files"),
            ("--host a/b", "must be an IP address or a host name"),
            ("--owner 1000:1000", "--hand-out"),
            ("--hand-out out --owner 1000", "must be UID:GID or NAME=UID:GID"),
            ("--hand-out out --owner a=b:c", "must be UID:GID or NAME=UID:GID"),
        ] {
            let said = refusal(&format!("{set} {more}"));
            assert!(said.contains(expected), "{more}: {said}");
        }
        assert!(refusal("consensus-cli certs set --dir d --host h --nodes 65").contains("1..=64"));
    }

    #[test]
    fn names_that_are_no_hosts_or_would_be_other_files_are_refused() {
        let issue = "consensus-cli certs issue --dir d";
        for host in ["10.0.0.1:7400", "a/b", "*.example", ""] {
            let line = ["consensus-cli", "certs", "issue", "--dir", "d", "--node", "1", "--host", host];
            assert!(Cli::try_parse_from(line).is_err(), "{host}");
        }
        for (name, why) in [("ca", "other files"), ("node7", "other files"), ("../x", "must be of letters")] {
            assert!(refusal(&format!("{issue} --client {name}")).contains(why), "{name}");
        }
        for host in ["10.0.0.1", "::1", "n1.example", "localhost"] {
            let line = format!("{issue} --node 1 --host {host}");
            assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{host}");
        }
    }
}
