//! `certs` as a user runs it, its certificates held against other implementations of TLS and X.509.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, client::WebPkiServerVerifier};
use serde_json::Value;

struct World {
    top: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { top: tempfile::tempdir().expect("a directory") }
    }

    /// With a CA, node 1 and the client alice.
    fn issued() -> Self {
        let world = Self::new();
        world.fine("init --dir certs --name trial --days 100");
        world.fine("issue --dir certs --node 1 --host 10.0.0.1 --host n1.example --days 30");
        world.fine("issue --dir certs --client alice --role submit --role read");
        world
    }

    fn file(&self, name: &str) -> PathBuf {
        self.top.path().join("certs").join(name)
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consensus-cli"));
        command.current_dir(self.top.path()).arg("certs").args(arguments.split_whitespace());
        command.output().expect("the program runs")
    }

    fn fine(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "certs {arguments}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn refused(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "certs {arguments}");
        String::from_utf8(output.stderr).expect("text")
    }

    fn show(&self, name: &str) -> Value {
        let text = self.fine(&format!("show certs/{name} --json"));
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&document["schema"], &document["valid"]),
            (&"consensus-cli/certs/1".into(), &true.into())
        );
        document["certificates"][0].clone()
    }

    fn der(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(name)).expect("a certificate")
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der("ca.crt")).expect("a CA");
        Arc::new(roots)
    }

    /// Whether a TLS client accepts it from a server of this name.
    fn serves(&self, name: &str, host: &str) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots(), provider).build();
        let host = ServerName::try_from(host.to_owned()).expect("a name");
        use rustls::client::danger::ServerCertVerifier as _;
        let verifier = verifier.expect("a verifier");
        verifier.verify_server_cert(&self.der(name), &[], &host, &[], UnixTime::now()).map(drop)
    }

    /// Whether a TLS server accepts it from a client.
    fn calls(&self, name: &str) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider).build();
        verifier.expect("a verifier").verify_client_cert(&self.der(name), &[], UnixTime::now()).map(drop)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o7777
}

/// What openssl says; nothing where it is not installed.
fn openssl(arguments: &[&str], files: &[&Path]) -> Option<String> {
    let output = Command::new("openssl").args(arguments).args(files).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[test]
fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
    let world = World::issued();
    assert_eq!(mode(&world.file("")), 0o700);
    for key in ["ca.key", "node1.key", "alice.key"] {
        assert_eq!(mode(&world.file(key)), 0o600, "{key}");
    }
    let before = fs::read(world.file("ca.key")).expect("reads");
    assert!(world.refused("init --dir certs --name other").contains("certs/ca.key exists already"));
    assert!(world.refused("issue --dir certs --node 1 --host x").contains("node1.key exists already"));
    assert_eq!(fs::read(world.file("ca.key")).expect("reads"), before);
}

#[test]
fn a_node_may_serve_and_call_under_its_names_and_a_client_may_only_call() {
    let world = World::issued();
    for host in ["10.0.0.1", "n1.example"] {
        world.serves("node1.crt", host).expect(host);
    }
    assert!(world.serves("node1.crt", "n2.example").is_err());
    world.calls("node1.crt").expect("a node calls others");
    world.calls("alice.crt").expect("a client calls");
    assert!(world.serves("alice.crt", "10.0.0.1").is_err(), "a client serves nobody");
    assert!(World::issued().calls("alice.crt").is_ok());
}

#[test]
fn show_tells_names_roles_days_and_the_line_for_the_configuration() {
    let world = World::issued();
    let node = world.show("node1.crt");
    assert_eq!(node["node_id"], 1);
    assert_eq!(node["hosts"], serde_json::json!(["10.0.0.1", "n1.example"]));
    assert_eq!(node["days_left"], 29, "29 whole days and almost another");
    assert_eq!(world.show("ca.crt")["ca"], true);
    let alice = world.show("alice.crt");
    assert_eq!((&alice["name"], &alice["ca"]), (&"alice".into(), &false.into()));
    assert_eq!(alice["roles"], serde_json::json!(["submit", "read"]));
    let text = world.fine("show certs/node1.crt certs/ca.crt");
    let key = node["public_key"].as_str().expect("text");
    assert!(text.contains(&format!("public_key = \"{key}\"  # node 1")), "{text}");
    assert!(text.contains("29 days left") && text.contains("CN=node1") && text.contains("vouches"), "{text}");
}

#[test]
fn roles_are_kept_apart_and_admin_includes_read() {
    let world = World::issued();
    for (name, roles, expected) in [
        ("a", "--role submit", vec!["submit"]),
        ("b", "--role admin", vec!["admin"]),
        ("c", "--role read --role admin --role submit", vec!["submit", "admin"]),
        ("d", "--role read --role submit --role read", vec!["submit", "read"]),
    ] {
        world.fine(&format!("issue --dir certs --client {name} {roles}"));
        assert_eq!(world.show(&format!("{name}.crt"))["roles"], serde_json::json!(expected), "{roles}");
    }
}

#[test]
fn openssl_reads_the_same_out_of_the_files() {
    let world = World::issued();
    let (ca, node, alice) = (world.file("ca.crt"), world.file("node1.crt"), world.file("alice.crt"));
    let Some(text) = openssl(&["x509", "-noout", "-text", "-in"], &[&alice]) else { return };
    for part in ["OU = submit", "OU = read", "CN = alice", "TLS Web Client Authentication", "prime256v1"] {
        assert!(text.contains(part) || text.contains(&part.replace(" = ", "=")), "{part}: {text}");
    }
    let text = openssl(&["verify", "-x509_strict", "-CAfile"], &[&ca, &node, &alice]).expect("installed");
    assert_eq!(text.matches(": OK").count(), 2, "{text}");
    let public = world.top.path().join("public.der");
    let arguments = ["pkey", "-pubout", "-outform", "DER", "-out", public.to_str().expect("text"), "-in"];
    openssl(&arguments, &[&world.file("node1.key")]).expect("installed");
    let digest = openssl(&["dgst", "-sha256", "-r"], &[&public]).expect("installed");
    let digest = digest.split_whitespace().next().expect("a digest").to_owned();
    assert_eq!(world.show("node1.crt")["public_key"], format!("sha256:{digest}"));
}

#[test]
fn a_renewal_keeps_key_names_and_roles_and_has_a_number_of_its_own() {
    let world = World::issued();
    for (name, owner) in [("node1", "--node 1"), ("alice", "--client alice")] {
        let file = format!("{name}.crt");
        let (key, before) = (fs::read(world.file(&format!("{name}.key"))).expect("reads"), world.show(&file));
        world.fine(&format!("issue --dir certs {owner} --renew --days 60"));
        let after = world.show(&file);
        for same in ["public_key", "hosts", "roles", "subject"] {
            assert_eq!(before[same], after[same], "{same}");
        }
        assert_ne!(before["serial"], after["serial"]);
        assert_eq!(after["days_left"], 59);
        assert_eq!(fs::read(world.file(&format!("{name}.key"))).expect("reads"), key);
    }
    world.fine("issue --dir certs --node 1 --renew --host new.example");
    assert_eq!(world.show("node1.crt")["hosts"], serde_json::json!(["new.example"]));
    let said = world.refused("issue --dir certs --node 2 --renew");
    assert!(said.contains("nothing to renew") && said.contains("node2.crt"), "{said}");
}

#[test]
fn a_new_ca_vouches_for_the_old_keys() {
    let world = World::issued();
    let pin = world.show("node1.crt")["public_key"].clone();
    world.fine("init --dir next --name next");
    for file in ["node1.crt", "node1.key"] {
        fs::copy(world.file(file), world.top.path().join("next").join(file)).expect("copies");
    }
    world.fine("issue --dir next --node 1 --renew");
    fs::copy(world.top.path().join("next/node1.crt"), world.file("node1.crt")).expect("copies");
    assert_eq!(world.show("node1.crt")["public_key"], pin);
    assert!(world.serves("node1.crt", "10.0.0.1").is_err(), "the old CA does not vouch for it");
    fs::copy(world.top.path().join("next/ca.crt"), world.file("ca.crt")).expect("copies");
    world.serves("node1.crt", "10.0.0.1").expect("the new one does");
}

#[test]
fn an_expired_certificate_is_a_finding() {
    let world = World::issued();
    world.fine("issue --dir certs --client bob --role read --valid-for 1ms");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while world.run("show certs/bob.crt").status.success() {
        assert!(std::time::Instant::now() < deadline, "it does not expire");
    }
    let output = world.run("show certs/bob.crt certs/alice.crt");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("EXPIRED") && text.contains("CN=alice"), "{text}");
}

#[test]
fn nothing_outlives_its_ca() {
    let world = World::issued();
    let said = world.refused("issue --dir certs --node 2 --host x --days 101");
    assert!(said.contains("the CA expires before that") && said.contains("ask for at most"), "{said}");
    world.fine("issue --dir certs --node 2 --host x");
    assert_eq!(world.show("node2.crt")["days_left"], 99, "without a wish as long as the CA");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let world = World::issued();
    let said = world.refused("issue --dir nowhere --node 1 --host x");
    assert!(said.contains("no CA in nowhere") && said.contains("certs init"), "{said}");
    assert!(world.refused("show certs/none.crt").contains("certs/none.crt: No such file"));
    assert!(world.refused("show certs/alice.key").contains("it holds a private key"));
    fs::write(world.file("text.crt"), "hello").expect("writes");
    assert!(world.refused("show certs/text.crt").contains("text.crt has no certificate"));
    let torn = fs::read_to_string(world.file("alice.crt")).expect("reads").replace("MII", "AAA");
    fs::write(world.file("torn.crt"), torn).expect("writes");
    assert!(world.refused("show certs/torn.crt").contains("certificate 1 of certs/torn.crt"));
    assert!(world.refused("issue --dir certs --node 3").contains("--host"));
    assert!(world.refused("issue --dir certs --client c").contains("without a --role"));
    fs::set_permissions(world.file("ca.key"), fs::Permissions::from_mode(0o644)).expect("may");
    let said = world.refused("issue --dir certs --node 3 --host x");
    assert!(said.contains("ca.key") && said.contains("mode 0644"), "{said}");
    fs::set_permissions(world.file("ca.key"), fs::Permissions::from_mode(0o600)).expect("may");
    fs::copy(world.file("node1.key"), world.file("ca.key")).expect("copies");
    let said = world.refused("issue --dir certs --node 3 --host x");
    assert!(said.contains("certs/ca.key is not the key of certs/ca.crt"), "{said}");
}

/// What a run of `certs set` says it did: the certificates of each state, and the files handed out to each.
fn set(world: &World, more: &str) -> (Value, Value) {
    let text = world.fine(&format!(
        "set --dir certs --nodes 2 --host n{{id}}.example --host pod-{{ordinal}} --host 127.0.0.1 \
         --client alice=submit,read --client root=admin,read --hand-out out --json {more}"
    ));
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["schema"], "consensus-cli/certs-set/1");
    (document["certificates"].clone(), document["handed_out"].clone())
}

/// Those of a state, by name.
fn names(certificates: &Value, state: &str) -> Vec<String> {
    let all = certificates.as_array().expect("a list").iter();
    let of_state = all.filter(|one| one["state"] == state);
    of_state.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

/// The number of files that were handed out.
fn handed_out(document: &Value) -> usize {
    let bundles = document.as_array().expect("a list").iter();
    bundles.map(|bundle| bundle["files"].as_array().expect("a list").len()).sum()
}

#[test]
fn a_set_is_complete_after_the_first_run_and_left_alone_by_the_next() {
    let world = World::new();
    let (certificates, _) = set(&world, "");
    assert_eq!(names(&certificates, "made"), ["ca", "node1", "node2", "alice", "root"]);
    for (node, host) in
        [("node1", "n1.example"), ("node1", "pod-0"), ("node2", "n2.example"), ("node2", "pod-1")]
    {
        world.serves(&format!("{node}.crt"), host).expect(host);
    }
    assert!(world.serves("node1.crt", "n2.example").is_err());
    assert_eq!(world.show("node1.crt")["roles"], serde_json::json!(["read"]), "for a probe");
    assert_eq!(world.show("root.crt")["roles"], serde_json::json!(["admin"]), "admin may read too");
    let before = fs::read(world.file("node1.crt")).expect("reads");
    let (certificates, out) = set(&world, "");
    assert_eq!(names(&certificates, "kept").len(), 5);
    assert_eq!(handed_out(&out), 0, "{out}");
    assert_eq!(fs::read(world.file("node1.crt")).expect("reads"), before);
}

#[test]
fn each_machine_gets_its_own_key_the_cas_certificate_and_no_other_key() {
    let world = World::new();
    set(&world, "");
    let files = |name: &str| {
        let entries = fs::read_dir(world.top.path().join("out").join(name)).expect("is there");
        let names = entries.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(files("node1"), ["ca.crt", "node1.crt", "node2.crt", "tls.crt", "tls.key"]);
    assert_eq!(files("alice"), ["ca.crt", "tls.crt", "tls.key"]);
    for (name, own) in [("node2", "node2"), ("alice", "alice")] {
        let directory = world.top.path().join("out").join(name);
        for (copy, original) in [("tls.key", format!("{own}.key")), ("tls.crt", format!("{own}.crt"))] {
            let read = |path: PathBuf| fs::read(path).expect("reads");
            assert_eq!(read(directory.join(copy)), read(world.file(&original)), "{name} {copy}");
        }
        assert_eq!((mode(&directory), mode(&directory.join("tls.key"))), (0o700, 0o600), "{name}");
    }
}

#[test]
fn a_set_renews_what_ends_soon_or_lacks_a_name_or_a_role_and_keeps_the_key() {
    let world = World::new();
    set(&world, "");
    let pin = world.show("node1.crt")["public_key"].clone();
    let (certificates, out) = set(&world, "--renew-before 366");
    assert_eq!(names(&certificates, "renewed"), ["node1", "node2", "alice", "root"]);
    assert_eq!(handed_out(&out), 2 * 3 + 2, "own certificate and both of [[peers]], no key: {out}");
    assert_eq!(world.show("node1.crt")["public_key"], pin);
    let (certificates, _) = set(&world, "--host more.example");
    assert_eq!(names(&certificates, "renewed"), ["node1", "node2"]);
    world.serves("node1.crt", "more.example").expect("the new name");
    world.fine("issue --dir certs --client alice --role read --renew");
    let (certificates, _) = set(&world, "");
    assert_eq!(names(&certificates, "renewed"), ["alice"], "a role that is asked for");
}

#[test]
fn an_interrupted_set_is_completed() {
    let world = World::new();
    set(&world, "");
    // As if the power had gone between the key and its certificate, and before anything was copied.
    fs::remove_file(world.file("node2.crt")).expect("removes");
    fs::remove_dir_all(world.top.path().join("out/node2")).expect("removes");
    let (certificates, out) = set(&world, "");
    assert_eq!(names(&certificates, "made"), ["node2"]);
    assert_eq!(handed_out(&out), 5 + 1, "{out}");
    world.serves("node2.crt", "n2.example").expect("is good");
    // Without its CA's certificate nothing is worth anything: another CA, for the same keys.
    fs::remove_file(world.file("ca.crt")).expect("removes");
    let (certificates, _) = set(&world, "");
    assert_eq!(names(&certificates, "made"), ["ca"]);
    assert_eq!(names(&certificates, "renewed").len(), 4);
    world.serves("node1.crt", "n1.example").expect("of the new CA");
}

#[test]
fn handed_out_files_belong_to_whom_is_said() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let own = fs::metadata(world.top.path()).expect("is there");
    let (user, group) = (own.uid(), own.gid());
    set(&world, &format!("--owner {user}:{group}"));
    let alone = "set --dir more --nodes 1 --host h --client c=read --hand-out more-out";
    if user != 0 {
        let said = world.refused(&format!("{alone} --owner {}:{group}", user + 1));
        assert!(said.contains("giving") && said.contains(&format!("user {}", user + 1)), "{said}");
        return;
    }
    world.fine(&format!("{alone} --owner 1000:1000 --owner c=65534:65533"));
    for (name, expected) in [("node1", (1000, 1000)), ("c", (65534, 65533))] {
        for file in ["", "ca.crt", "tls.key", "tls.crt"] {
            let found = fs::metadata(world.top.path().join("more-out").join(name).join(file)).expect(file);
            assert_eq!((found.uid(), found.gid()), expected, "{name}/{file}");
        }
    }
    let said = world.refused(&format!("{alone} --owner d=1:1"));
    assert!(said.contains("the set has no node or client d"), "{said}");
}
