//! `certs show`: subject, roles, names, validity and public key of certificates.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::presented::presented;
use super::view::Certificate;
use crate::args::certs::ShowArgs;
use crate::output::{Verdict, json, table, text};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    /// All of them are.
    valid: bool,
    certificates: Vec<Certificate>,
}

pub(super) fn run(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let now_ms = now_ms();
    let mut certificates = Vec::new();
    for file in &args.files {
        certificates.extend(Certificate::read(file, now_ms)?);
    }
    for address in &args.at {
        certificates.extend(presented(address, now_ms)?);
    }
    let valid = certificates.iter().all(Certificate::is_valid);
    if args.json {
        json::line(out, &Document { schema: "consensus-cli/certs/1", valid, certificates })?;
    } else {
        for certificate in &certificates {
            print(out, certificate)?;
        }
    }
    Ok(Verdict::finding_if(!valid))
}

/// Now, in Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// For people, and for the configuration of the other nodes.
pub(super) fn print(out: &mut dyn Write, certificate: &Certificate) -> std::io::Result<()> {
    let Certificate { file, subject, issuer, roles, hosts, public_key, .. } = certificate;
    let left = match certificate.days_left {
        days @ 0.. => format!("{} left", text::count(days as u64, "day")),
        days => format!("{} ago", text::count(days.unsigned_abs(), "day")),
    };
    let words = match certificate.validity {
        "expired" => "EXPIRED, ",
        "not yet valid" => "NOT YET VALID, ",
        _ => "",
    };
    let validity = format!(
        "{words}{} to {} ({left})",
        text::time(certificate.not_before_ms),
        text::time(certificate.not_after_ms)
    );
    let mut rows = vec![("subject", subject.clone()), ("issuer", issuer.clone())];
    if certificate.ca {
        rows.push(("use", "CA: vouches for others".to_owned()));
    }
    if !roles.is_empty() {
        rows.push(("roles", roles.join(", ")));
    }
    if !hosts.is_empty() {
        rows.push(("hosts", hosts.join(", ")));
    }
    rows.push(("validity", validity));
    rows.push(("public key", public_key.clone()));
    if let (Some(node), false) = (certificate.node_id, certificate.ca) {
        rows.push(("[[peers]]", format!("public_key = \"{public_key}\"  # node {node}")));
    }
    table::fields(out, file, &rows)
}
