//! The certificates of the compose file: where they got to, who may not read them, and one of them renewed under a
//! running node.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::engine::{Container, Project, docker, docker_logged};
use crate::e2e::cli::Cli;
use crate::workspace::{output, spoken};

/// What a certificate says, of that what matters here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Presented {
    serial: String,
    public_key: String,
}

#[derive(Deserialize)]
struct Shown {
    certificates: Vec<Presented>,
}

/// How long a call may take that cannot succeed.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The user and group that Prometheus's image runs as.
const PROMETHEUS: &str = "65534:65534";

/// The command line with the operator's certificate, copied out of its volume.
pub(super) fn operator(project: &Project, cli: &Cli, directory: &Path) -> Result<Cli> {
    let own = directory.join("operator");
    let from = format!("{}:/certs/operator", project.container("certs")?);
    docker(["cp", &from, &own.display().to_string()])?;
    let (ca, cert, key) = (own.join("ca.crt"), own.join("tls.crt"), own.join("tls.key"));
    Ok(cli.over_tls(Some(&ca), Some((&cert, &key))))
}

/// A node's container has what is its own, and nothing of the CA and the others beyond what everybody may know.
pub(super) fn apart(container: &Container, id: u64, nodes: u64) -> Result<()> {
    let listed = docker(["exec", &container.id, "ls", "/certs"])?;
    let mut expected = vec!["ca.crt".to_owned(), "tls.crt".to_owned(), "tls.key".to_owned()];
    expected.extend((1..=nodes).map(|node| format!("node{node}.crt")));
    expected.sort();
    let mut found: Vec<&str> = listed.split_whitespace().collect();
    found.sort_unstable();
    ensure!(found == expected, "node {id} has {found:?} in /certs, must have {expected:?}");
    Ok(())
}

/// Whoever comes without a certificate is told so at once.
pub(super) fn closed_to_plaintext(cli: &Cli, address: &str) -> Result<()> {
    let plain = Cli::new(cli.path().to_path_buf());
    let started = Instant::now();
    let answer = plain.ask(&mut plain.command(["submit", "--to", address, "hello"]))?;
    let said = format!("{}{}", answer.stdout, answer.stderr);
    ensure!(
        answer.code == Some(2) && said.contains("the node speaks TLS here"),
        "a submission in plaintext ended with {:?}: {said}",
        answer.code
    );
    let took = started.elapsed();
    ensure!(took < AT_ONCE, "a submission in plaintext was refused after {}", spoken(took));
    Ok(())
}

/// What the README types works: the client's service, and the command line in a node's container.
pub(super) fn documented_commands(project: &Project, log: &Path) -> Result<()> {
    docker_logged(&mut project.compose(&["run", "--rm", "-T", "client", "submit", "hello"]), log)?;
    docker_logged(&mut project.compose(&["run", "--rm", "-T", "client"]), log)?;
    docker_logged(&mut project.compose(&["exec", "-T", "node1", "consensus-cli", "status"]), log)
}

/// Prometheus's user can use Prometheus's certificate at a node's listener for operations, from another container.
pub(super) fn scraped(project: &Project, image: &str, network: &str) -> Result<()> {
    let volume = format!("{}_prometheus-certs:/certs:ro", project.name());
    let mut command = vec!["run", "--rm", "--network", network, "--user", PROMETHEUS, "--volume", &volume];
    command.extend(["--read-only", "--cap-drop", "ALL", image]);
    command.extend(["consensus-cli", "health", "--ops", "node1:7402", "--ready"]);
    command.extend(["--ca", "/certs/ca.crt", "--cert", "/certs/tls.crt", "--key", "/certs/tls.key"]);
    output(Command::new("docker").args(command)).map(drop)
}

/// What the node at an address presents to whoever connects now.
pub(super) fn presented(cli: &Cli, address: &str) -> Result<Presented> {
    let Shown { certificates } =
        cli.document(&mut cli.command(["certs", "show", "--json", "--at", address]))?;
    certificates.into_iter().next().with_context(|| format!("{address} presents nothing"))
}

/// Has the service of the compose file renew a node's certificate and hand it out.
pub(super) fn renew(project: &Project, id: u64, log: &Path) -> Result<()> {
    let node = format!("--node={id}");
    let renew = ["consensus-cli", "certs", "issue", "--dir=/certs/ca", "--renew", &node];
    let run = ["run", "--rm", "-T", "--no-deps", "certs"];
    docker_logged(&mut project.compose(&[&run[..], &renew].concat()), log)?;
    docker_logged(&mut project.compose(&run), log)
}

impl Presented {
    /// Whether it is another certificate of the same key.
    pub(super) fn renews(&self, old: &Self) -> bool {
        self.serial != old.serial && self.public_key == old.public_key
    }
}
