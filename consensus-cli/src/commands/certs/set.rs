//! `certs set`: all that a cluster needs in one command, as often as one likes.
//!
//! What is there is kept, what is missing is made, what ends soon or is no longer for what is asked is renewed
//! for its key. An interrupted run is taken up by the next: a certificate is the last file of its pair, so a key
//! without one has never been used. What is handed out is a copy, laid out by machine; the CA's key never
//! leaves its directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::files::{self, CERTIFICATE_MODE, KEY_MODE};
use super::make::{self, Paths};
use super::show::now_ms;
use super::view::Certificate;
use crate::args::certs::{InitArgs, IssueArgs, Owner, Role, SetArgs, host_of};
use crate::output::{Verdict, json};

/// A trial's CA, as `certs init` makes it.
const CA_DAYS: u32 = 3650;

/// What a probe on a node may do with the node's certificate.
const NODE_ROLES: [Role; 1] = [Role::Read];

/// What became of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Made,
    Kept,
    Renewed,
}

#[derive(Serialize)]
struct Named {
    name: String,
    state: State,
}

#[derive(Serialize)]
struct HandedOut {
    directory: String,
    /// Those that were not there, or not the same.
    files: Vec<String>,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    directory: String,
    certificates: Vec<Named>,
    handed_out: Vec<HandedOut>,
}

pub(super) fn run(args: &SetArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let wanted = wanted(args)?;
    let ca = authority(args)?;
    let mut certificates = vec![Named { name: "ca".to_owned(), state: ca }];
    for wanted in &wanted {
        certificates.push(Named { name: wanted.name.clone(), state: wanted.provide(args, ca)? });
    }
    let mut handed_out = Vec::new();
    if let Some(top) = &args.hand_out {
        for wanted in &wanted {
            handed_out.push(wanted.hand_out(args, top)?);
        }
    }
    let directory = args.dir.display().to_string();
    let document = Document { schema: "consensus-cli/certs-set/1", directory, certificates, handed_out };
    if args.json {
        json::line(out, &document)?
    } else {
        print(out, &document)?
    }
    Ok(Verdict::Fine)
}

fn print(out: &mut dyn Write, document: &Document) -> std::io::Result<()> {
    for state in [State::Made, State::Renewed, State::Kept] {
        let of_state = document.certificates.iter().filter(|one| one.state == state);
        let names: Vec<&str> = of_state.map(|one| one.name.as_str()).collect();
        if !names.is_empty() {
            let word = format!("{state:?}").to_lowercase();
            writeln!(out, "{word:<8} in {}: {}", document.directory, names.join(", "))?;
        }
    }
    for HandedOut { directory, files } in &document.handed_out {
        let what = if files.is_empty() { "nothing new".to_owned() } else { files.join(", ") };
        writeln!(out, "handed out in {directory}: {what}")?;
    }
    Ok(())
}

/// A certificate that is to be there.
struct Wanted {
    name: String,
    node: Option<u64>,
    hosts: Vec<String>,
    roles: Vec<Role>,
    owner: Option<Owner>,
}

/// All of them, the nodes first.
fn wanted(args: &SetArgs) -> anyhow::Result<Vec<Wanted>> {
    let owner = |name: &str| {
        let own = args.owners.iter().find(|of| of.name.as_deref() == Some(name));
        own.or_else(|| args.owners.iter().find(|of| of.name.is_none())).map(|of| of.owner)
    };
    let mut wanted = Vec::new();
    for id in 1..=args.nodes {
        let name = format!("node{id}");
        let hosts = args.hosts.iter().map(|host| host_of(host, id)).collect();
        let owner = owner(&name);
        wanted.push(Wanted { name, node: Some(id), hosts, roles: NODE_ROLES.to_vec(), owner });
    }
    for (name, roles) in &args.clients {
        if wanted.iter().any(|other| other.name == *name) {
            bail!("--client {name} is given twice");
        }
        let owner = owner(name);
        wanted.push(Wanted {
            name: name.clone(),
            node: None,
            hosts: Vec::new(),
            roles: roles.clone(),
            owner,
        });
    }
    for name in args.owners.iter().filter_map(|of| of.name.as_ref()) {
        if !wanted.iter().any(|wanted| wanted.name == *name) {
            bail!("--owner {name}=...: the set has no node or client {name}");
        }
    }
    Ok(wanted)
}

fn authority(args: &SetArgs) -> anyhow::Result<State> {
    let paths = Paths::new(&args.dir, "ca");
    if paths.certificate.exists() {
        return Ok(State::Kept);
    }
    discard_unused(&paths)?;
    let init = InitArgs { dir: args.dir.clone(), name: args.name.clone(), days: CA_DAYS, json: false };
    make::init(&init, &mut std::io::sink())?;
    Ok(State::Made)
}

/// Removes a key for which no certificate was made: the run before was interrupted between the two.
fn discard_unused(paths: &Paths) -> anyhow::Result<()> {
    match std::fs::remove_file(&paths.key) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", paths.key.display()))
        }
        _ => Ok(()),
    }
}

impl Wanted {
    /// Sees to it that the certificate is there, and is of the CA that is.
    fn provide(&self, args: &SetArgs, ca: State) -> anyhow::Result<State> {
        let paths = Paths::new(&args.dir, &self.name);
        let state = if !paths.certificate.exists() {
            discard_unused(&paths)?;
            State::Made
        } else {
            let there = Certificate::read_first(&paths.certificate, now_ms())?;
            if ca == State::Kept && self.is_served_by(&there, args) {
                return Ok(State::Kept);
            }
            State::Renewed
        };
        let issue = IssueArgs {
            dir: args.dir.clone(),
            node: self.node,
            hosts: self.hosts.clone(),
            client: self.node.is_none().then(|| self.name.clone()),
            roles: self.roles.clone(),
            days: None,
            valid_for: None,
            renew: state == State::Renewed,
            json: false,
        };
        make::issue(&issue, &mut std::io::sink()).with_context(|| self.name.clone())?;
        Ok(state)
    }

    /// Whether a certificate is for these names and roles, and long enough.
    fn is_served_by(&self, certificate: &Certificate, args: &SetArgs) -> bool {
        let mut roles: Vec<&str> = self.roles.iter().map(|role| role.unit()).collect();
        // Who administers may read, and the certificate says so once.
        roles.retain(|role| *role != Role::Read.unit() || !self.roles.contains(&Role::Admin));
        let has_roles = roles.len() == certificate.roles.len()
            && roles.iter().all(|role| certificate.roles.contains(role));
        let has_hosts = self.hosts.iter().all(|host| certificate.hosts.contains(host));
        has_roles && has_hosts && certificate.days_left >= i64::from(args.renew_before)
    }

    /// Copies what belongs on this one's machine.
    fn hand_out(&self, args: &SetArgs, top: &Path) -> anyhow::Result<HandedOut> {
        let directory = top.join(&self.name);
        files::create_directory_for(self.owner, &directory)?;
        let own = Paths::new(&args.dir, &self.name);
        let mut copies = vec![
            (Paths::new(&args.dir, "ca").certificate, "ca.crt".to_owned(), CERTIFICATE_MODE),
            (own.key, "tls.key".to_owned(), KEY_MODE),
            (own.certificate, "tls.crt".to_owned(), CERTIFICATE_MODE),
        ];
        if self.node.is_some() {
            copies.extend((1..=args.nodes).map(|id| {
                let name = format!("node{id}");
                (Paths::new(&args.dir, &name).certificate, format!("{name}.crt"), CERTIFICATE_MODE)
            }));
        }
        let mut changed = Vec::new();
        for (from, name, mode) in copies {
            if self.copy(&from, &directory.join(&name), mode)? {
                changed.push(name);
            }
        }
        Ok(HandedOut { directory: directory.display().to_string(), files: changed })
    }

    /// Whether there was anything to copy.
    fn copy(&self, from: &Path, to: &PathBuf, mode: u32) -> anyhow::Result<bool> {
        let content = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let same = match std::fs::read(to) {
            Ok(there) => there == content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(|| format!("reading {}", to.display())),
        };
        if !same {
            files::replace_for(self.owner, to, &content, mode)?;
        }
        Ok(!same)
    }
}
