//! `certs init` and `certs issue`: a CA, and what it vouches for.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use serde::Serialize;
use time::OffsetDateTime;

use super::files::{self, CERTIFICATE_MODE, KEY_MODE};
use super::show::{self, now_ms};
use super::view::{self, Certificate};
use crate::args::certs::{InitArgs, IssueArgs, Role};
use crate::output::{Verdict, json, text};

/// A certificate is valid from a little before now on, for machines whose clock is behind.
const CLOCK_DIFFERENCE_S: i64 = 300;
const DAY_S: i64 = 86_400;
/// Of a node or a client, unless something else is asked for.
const DAYS_DEFAULT: u32 = 365;

#[derive(Serialize)]
struct Made {
    schema: &'static str,
    certificate_file: String,
    key_file: String,
    certificate: Certificate,
}

/// The files of one name.
pub(super) struct Paths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Paths {
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        }
    }

    /// Tells what lies there now.
    fn tell(&self, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let certificate = Certificate::read_first(&self.certificate, now_ms())?;
        if as_json {
            let made = Made {
                schema: "consensus-cli/certs-made/1",
                certificate_file: self.certificate.display().to_string(),
                key_file: self.key.display().to_string(),
                certificate,
            };
            json::line(out, &made)?;
        } else {
            show::print(out, &certificate)?;
            writeln!(out, "  key         {}", self.key.display())?;
        }
        Ok(Verdict::Fine)
    }
}

pub(super) fn init(args: &InitArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let paths = Paths::new(&args.dir, "ca");
    let key = KeyPair::generate().context("making a key")?;
    let params = in_time(ca_params(&args.name), i64::from(args.days) * DAY_S)?;
    let certificate = params.self_signed(&key).context("making the CA's certificate")?;
    files::create_directory(&args.dir)?;
    files::create(&[
        (&paths.key, &key.serialize_pem(), KEY_MODE),
        (&paths.certificate, &certificate.pem(), CERTIFICATE_MODE),
    ])?;
    paths.tell(args.json, out)
}

pub(super) fn issue(args: &IssueArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let ca = Ca::open(&args.dir)?;
    let name = match (&args.client, args.node) {
        (Some(client), _) => client.clone(),
        (None, Some(node)) => format!("node{node}"),
        (None, None) => bail!("one of --node and --client is needed"),
    };
    let paths = Paths::new(&args.dir, &name);
    let (mut hosts, mut roles) = (args.hosts.clone(), args.roles.clone());
    let key = if args.renew {
        let old =
            Certificate::read_first(&paths.certificate, now_ms()).context("there is nothing to renew")?;
        if hosts.is_empty() {
            hosts = old.hosts;
        }
        if roles.is_empty() {
            roles = old.roles.iter().filter_map(|unit| Role::of_unit(unit)).collect();
        }
        read_key(&paths.key)?
    } else {
        KeyPair::generate().context("making a key")?
    };
    if args.node.is_some() && hosts.is_empty() {
        bail!("a node's certificate needs the addresses and names at which it is called: --host");
    }
    if args.client.is_some() && roles.is_empty() {
        bail!("a client's certificate without a --role allows nothing: submit, read or admin");
    }
    let mut params = in_time(named(&name), ca.lifetime_s(args)?)?;
    params.subject_alt_names =
        CertificateParams::new(hosts).context("the names of --host")?.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if args.node.is_some() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    add_roles(&mut params.distinguished_name, &roles);
    let certificate = params.signed_by(&key, &ca.issuer).context("signing the certificate")?;
    ca.check(certificate.der(), &paths)?;
    if args.renew {
        files::replace(&paths.certificate, &certificate.pem(), CERTIFICATE_MODE)?;
    } else {
        files::create(&[
            (&paths.key, &key.serialize_pem(), KEY_MODE),
            (&paths.certificate, &certificate.pem(), CERTIFICATE_MODE),
        ])?;
    }
    paths.tell(args.json, out)
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// From now on for so long, under a serial number of its own.
fn in_time(mut params: CertificateParams, lifetime_s: i64) -> anyhow::Result<CertificateParams> {
    let now_s = (now_ms() / 1000) as i64;
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).context("a time out of range");
    params.not_before = at(now_s - CLOCK_DIFFERENCE_S)?;
    params.not_after = at(now_s + lifetime_s)?;
    // A number of its own for each, also for those of one key: positive, and without a leading zero.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Puts roles into a subject as organizational units.
///
/// A name of `rcgen` has one value a type, so the second unit goes in under the type's number. There are never
/// more than two: who administers may read.
fn add_roles(subject: &mut DistinguishedName, roles: &[Role]) {
    if roles.contains(&Role::Submit) {
        subject.push(DnType::OrganizationalUnitName, Role::Submit.unit());
    }
    if let Some(role) = [Role::Admin, Role::Read].into_iter().find(|role| roles.contains(role)) {
        subject.push(DnType::CustomDnType(vec![2, 5, 4, 11]), role.unit());
    }
}

/// The CA of a directory.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Ca {
    fn open(directory: &Path) -> anyhow::Result<Self> {
        let paths = Paths::new(directory, "ca");
        let shown = paths.certificate.display();
        if !paths.certificate.exists() {
            bail!("there is no CA in {0} ({shown}): consensus-cli certs init --dir {0}", directory.display());
        }
        let certificate = Certificate::read_first(&paths.certificate, now_ms())?;
        let key = read_key(&paths.key)?;
        if view::public_key(&key.subject_public_key_info()) != certificate.public_key {
            bail!("{} is not the key of {shown}", paths.key.display());
        }
        if !certificate.ca {
            bail!("{shown} is no CA's certificate");
        }
        if !certificate.is_valid() {
            bail!("{shown} is {}: what it signs is not accepted", certificate.validity);
        }
        let issuer = Issuer::new(ca_params(&certificate.name), key);
        Ok(Self { issuer, certificate })
    }

    /// Whether a certificate names this CA. One that was made elsewhere may have a name that is not written so.
    fn check(&self, der: &[u8], paths: &Paths) -> anyhow::Result<()> {
        let made = Certificate::from_der(&paths.certificate.display().to_string(), der, now_ms())?;
        if made.issuer != self.certificate.subject {
            let (file, subject) = (&self.certificate.file, &self.certificate.subject);
            bail!("{file} is of {subject}, which certs init did not make: sign with the tool that did");
        }
        Ok(())
    }

    /// How long a certificate is to live: not longer than the CA.
    fn lifetime_s(&self, args: &IssueArgs) -> anyhow::Result<i64> {
        let ca_left_s = (self.certificate.not_after_ms / 1000) as i64 - (now_ms() / 1000) as i64;
        let wished_s = match (args.days, args.valid_for) {
            (None, None) => return Ok((i64::from(DAYS_DEFAULT) * DAY_S).min(ca_left_s)),
            (_, Some(time)) => (time.as_secs() as i64).max(1),
            (Some(days), None) => i64::from(days) * DAY_S,
        };
        if wished_s > ca_left_s {
            let until = text::time(self.certificate.not_after_ms);
            bail!("the CA expires before that, on {until}: ask for at most {} days", ca_left_s / DAY_S);
        }
        Ok(wished_s)
    }
}

fn read_key(path: &Path) -> anyhow::Result<KeyPair> {
    files::refuse_readable_key(path)?;
    let shown = path.display();
    let pem = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
    KeyPair::from_pem(&pem).map_err(|error| anyhow!("{shown} holds no private key that can be used: {error}"))
}
