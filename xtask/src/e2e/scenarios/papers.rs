//! Certificates, as `consensus-cli certs` makes and shows them, and their way to where they are used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::e2e::cli::Cli;
use crate::e2e::cluster::Cluster;

/// What a certificate says, of that what matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) serial: String,
    pub(crate) public_key: String,
}

#[derive(Deserialize)]
struct Made {
    certificate: Certificate,
}

#[derive(Deserialize)]
struct Shown {
    certificates: Vec<Certificate>,
}

/// A CA.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    cli: Cli,
    directory: PathBuf,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Papers {
    pub(crate) certificate: Certificate,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn create(cli: &Cli, directory: &Path, name: &str) -> Result<Self> {
        let authority = Self { cli: cli.clone(), directory: directory.to_path_buf() };
        authority.make("init", &["--name", name])?;
        Ok(authority)
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    pub(crate) fn issue_node(&self, id: u64, hosts: &[&str]) -> Result<Papers> {
        let id = id.to_string();
        let hosts = hosts.iter().flat_map(|host| ["--host", *host]);
        let arguments = ["--node", &id].into_iter().chain(hosts).collect::<Vec<_>>();
        self.issue(&format!("node{id}"), &arguments)
    }

    /// Gives each node of a cluster a certificate, this CA to trust, and the public keys of the others.
    pub(crate) fn equip(&self, cluster: &mut Cluster) -> Result<()> {
        let mut pins = BTreeMap::new();
        for node in cluster.nodes() {
            let papers = self.issue_node(node.id(), &["127.0.0.1"])?;
            papers.install(node.directory())?;
            install_file(&self.ca(), &node.directory().join("ca.crt"))?;
            pins.insert(node.id(), papers.certificate.public_key);
        }
        cluster.pin(pins)
    }

    pub(crate) fn issue_client(&self, name: &str, roles: &[&str]) -> Result<Papers> {
        let roles = roles.iter().flat_map(|role| ["--role", *role]);
        let arguments = ["--client", name].into_iter().chain(roles).collect::<Vec<_>>();
        self.issue(name, &arguments)
    }

    /// One that ends at once.
    pub(crate) fn issue_short(&self, name: &str, role: &str) -> Result<Papers> {
        self.issue(name, &["--client", name, "--role", role, "--valid-for", "1s"])
    }

    /// A new certificate of a node for its old key.
    pub(crate) fn renew(&self, id: u64) -> Result<Papers> {
        self.issue(&format!("node{id}"), &["--node", &id.to_string(), "--renew"])
    }

    /// The same, for some days only.
    pub(crate) fn renew_for(&self, id: u64, days: u32) -> Result<Papers> {
        let days = days.to_string();
        self.issue(&format!("node{id}"), &["--node", &id.to_string(), "--renew", "--days", &days])
    }

    /// The same for a key that another CA has vouched for.
    pub(crate) fn renew_of(&self, other: &Self, id: u64) -> Result<Papers> {
        for file in [format!("node{id}.crt"), format!("node{id}.key")] {
            install_file(&other.directory.join(&file), &self.directory.join(&file))?;
        }
        self.renew(id)
    }

    fn issue(&self, name: &str, arguments: &[&str]) -> Result<Papers> {
        let certificate = self.make("issue", arguments)?;
        let file = |ending| self.directory.join(format!("{name}.{ending}"));
        Ok(Papers { certificate, cert: file("crt"), key: file("key") })
    }

    fn make(&self, what: &str, arguments: &[&str]) -> Result<Certificate> {
        let mut command = self.cli.command(["certs", what, "--json", "--dir"]);
        command.arg(&self.directory).args(arguments);
        let Made { certificate } = self.cli.document(&mut command)?;
        Ok(certificate)
    }
}

impl Papers {
    /// The command line of whoever has them.
    pub(crate) fn cli(&self, cli: &Cli, trusted: &Path) -> Cli {
        cli.over_tls(Some(trusted), Some((&self.cert, &self.key)))
    }

    /// Puts them where a node looks for them.
    pub(crate) fn install(&self, directory: &Path) -> Result<()> {
        install_file(&self.key, &directory.join("node.key"))?;
        install_file(&self.cert, &directory.join("node.crt"))
    }

    /// Whether their time is over.
    pub(crate) fn are_over(&self, cli: &Cli) -> Result<bool> {
        Ok(cli.ask(cli.command(["certs", "show"]).arg(&self.cert))?.code == Some(1))
    }
}

/// What a server presents to whoever connects now.
pub(crate) fn presented(cli: &Cli, address: &str) -> Result<Certificate> {
    let Shown { certificates } =
        cli.document(&mut cli.command(["certs", "show", "--json", "--at", address]))?;
    certificates.into_iter().next().with_context(|| format!("{address} presents nothing"))
}

/// Copies a file with its permissions, in one step for whoever reads it.
pub(crate) fn install_file(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    let copy = || -> std::io::Result<()> {
        fs::copy(from, &beside)?;
        fs::rename(&beside, to)
    };
    copy().with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Puts several files into one.
pub(crate) fn bundle(parts: &[PathBuf], to: &Path) -> Result<()> {
    let join = || -> std::io::Result<()> {
        let mut whole = File::create(to)?;
        parts.iter().try_for_each(|part| std::io::copy(&mut File::open(part)?, &mut whole).map(drop))
    };
    join().with_context(|| format!("writing {}", to.display()))
}
