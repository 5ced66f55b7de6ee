//! `certs`: a small certificate authority for trials and closed networks, and a look at any certificate.
//!
//! Keys are ECDSA P-256. A client's roles are organizational units of its subject (`submit`, `read`, `admin`);
//! a node is known to the others by the SHA-256 of its public key (SubjectPublicKeyInfo), which a renewal
//! keeps. There is no revocation: a role ends with its certificate or with its CA.
//!
//! `certs set` makes everything that a cluster needs and lays it out for each of its machines.
//!
//! JSON: `certs init` and `certs issue` print `consensus-cli/certs-made/1` (`certificate_file`, `key_file`,
//! `certificate`), `certs set` prints `consensus-cli/certs-set/1` (`certificates[]` with `name` and `state`: `made`,
//! `kept` or `renewed`; `handed_out[]` with `directory` and `files`, those that changed), `certs show` prints `consensus-cli/certs/1` (`valid`, `certificates[]`); a certificate is a
//! [`view::Certificate`].

mod files;
mod make;
mod presented;
mod set;
mod show;
mod view;

use std::io::Write;

use crate::args::certs::{CertsArgs, CertsCommand};
use crate::output::Verdict;

pub(crate) use files::refuse_readable_key;

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, understood or written, named.
pub(crate) fn run(args: &CertsArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    match &args.command {
        CertsCommand::Init(args) => make::init(args, out),
        CertsCommand::Issue(args) => make::issue(args, out),
        CertsCommand::Set(args) => set::run(args, out),
        CertsCommand::Show(args) => show::run(args, out),
    }
}
