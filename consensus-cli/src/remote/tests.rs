//! Calls over TLS to a node of the tests, and each way in which they are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser as _;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::args::{Cli, Command};
use crate::fake_node::FakeNode;
use crate::output::Verdict;

const PATIENCE: Duration = Duration::from_secs(10);

/// A CA with a node's and a client's certificate, made by the command line.
struct Certificates(tempfile::TempDir);

fn certs(line: &str) {
    let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
    let Command::Certs(args) = cli.command else { panic!("{line}") };
    crate::commands::certs::run(&args, &mut std::io::sink()).expect(line);
}

impl Certificates {
    fn new(host: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let dir = directory.path().display().to_string();
        certs(&format!("consensus-cli certs init --dir {dir} --name test"));
        certs(&format!("consensus-cli certs issue --dir {dir} --node 1 --host {host}"));
        certs(&format!("consensus-cli certs issue --dir {dir} --client alice --role read"));
        Self(directory)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate that expired long ago, for the key that `name` has already.
    fn expire(&self, name: &str) {
        let pem = |file: &str| std::fs::read_to_string(self.file(file)).expect("reads");
        let key = |name: &str| KeyPair::from_pem(&pem(&format!("{name}.key"))).expect("a key");
        let mut authority = CertificateParams::default();
        authority.distinguished_name = rcgen::DistinguishedName::new();
        authority.distinguished_name.push(DnType::CommonName, "test");
        let issuer = Issuer::new(authority, key("ca"));
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key(name), &issuer).expect("signs");
        std::fs::write(self.file(&format!("{name}.crt")), certificate.pem()).expect("writes");
    }

    fn arguments(&self) -> TlsArgs {
        let file = |name| Some(self.file(name));
        TlsArgs { ca: file("ca.crt"), cert: file("alice.crt"), key: file("alice.key") }
    }

    fn access(&self) -> Access {
        Access::new(&self.arguments()).expect("the files are fine")
    }

    /// Lets in whoever `ca` vouches for.
    fn acceptor(&self, ca: &Path, protocol: &[u8]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let chain = vec![CertificateDer::from_pem_file(self.file("node1.crt")).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(self.file("node1.key")).expect("a key");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("they belong together");
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// A node at height 7 that lets in whoever `ca` vouches for.
    async fn serve(&self, ca: &Path) -> Address {
        let acceptor = self.acceptor(ca, b"h2");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let (streams, incoming) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    streams.send(Ok::<_, std::io::Error>(stream)).await.expect("is served");
                }
            }
        });
        FakeNode::default().at_height(7).serve_streams(incoming);
        address
    }
}

/// The height at the node's tip, or why there is none.
async fn tip(access: &Access, address: &Address) -> Result<u64, String> {
    let nodes = [address.clone()];
    let asked = first_answer(access, &nodes, PATIENCE, async |node| {
        let wanted = consensus_proto::ordering::TipRequest::default();
        Ok(node.ordering().tip(request(wanted, PATIENCE)).await?.into_inner().height)
    });
    asked.await.map(|(_, height)| height).map_err(|error| format!("{:#}", error.into_error()))
}

async fn refusal(access: &Access, address: &Address) -> String {
    tip(access, address).await.expect_err("refused")
}

#[tokio::test]
async fn a_node_answers_over_tls_to_a_certificate_of_its_ca() {
    let certificates = Certificates::new("127.0.0.1");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    assert_eq!(tip(&certificates.access(), &node).await, Ok(7));
}

#[tokio::test]
async fn a_node_of_another_ca_is_not_trusted() {
    let (certificates, others) = (Certificates::new("127.0.0.1"), Certificates::new("127.0.0.1"));
    let node = others.serve(&others.file("ca.crt")).await;
    let said = refusal(&certificates.access(), &node).await;
    assert!(said.contains("from a CA that is not in") && said.contains("ca.crt (--ca)"), "{said}");
}

#[tokio::test]
async fn a_client_of_another_ca_is_told_whose_ca_is_missing_where() {
    let (certificates, others) = (Certificates::new("127.0.0.1"), Certificates::new("127.0.0.1"));
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    let arguments = TlsArgs { ca: Some(certificates.file("ca.crt")), ..others.arguments() };
    let said = refusal(&Access::new(&arguments).expect("fine"), &node).await;
    assert!(said.contains("does not know the CA of") && said.contains("alice.crt (--cert)"), "{said}");
}

#[tokio::test]
async fn a_node_under_another_name_is_told_with_the_names_it_has() {
    let certificates = Certificates::new("n1.example");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    let said = refusal(&certificates.access(), &node).await;
    assert!(said.contains("not for 127.0.0.1 but for n1.example"), "{said}");
}

#[tokio::test]
async fn an_expired_certificate_is_told_whose_it_is() {
    let certificates = Certificates::new("127.0.0.1");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    certificates.expire("alice");
    let said = refusal(&certificates.access(), &node).await;
    assert!(said.contains("alice.crt (--cert) has expired"), "{said}");
    let certificates = Certificates::new("127.0.0.1");
    certificates.expire("node1");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    let said = refusal(&certificates.access(), &node).await;
    assert!(said.contains("the node's certificate has expired"), "{said}");
}

#[tokio::test]
async fn a_call_without_a_certificate_is_told_what_is_missing() {
    let certificates = Certificates::new("127.0.0.1");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    let arguments = TlsArgs { cert: None, key: None, ..certificates.arguments() };
    let said = refusal(&Access::new(&arguments).expect("fine"), &node).await;
    assert!(said.contains("wants a certificate") && said.contains("--cert and --key"), "{said}");
}

#[tokio::test]
async fn plaintext_to_a_tls_port_is_told_what_to_give() {
    let certificates = Certificates::new("127.0.0.1");
    let node = certificates.serve(&certificates.file("ca.crt")).await;
    let said = refusal(&Access::default(), &node).await;
    assert!(said.contains("TLS") && said.contains("--ca, --cert and --key"), "{said}");
}

#[tokio::test]
async fn tls_to_a_plaintext_port_is_told_what_to_leave_out() {
    let certificates = Certificates::new("127.0.0.1");
    let node = FakeNode::default().at_height(7).serve();
    let said = refusal(&certificates.access(), &node).await;
    assert!(said.contains("no TLS here") && said.contains("leave out --ca"), "{said}");
}

#[tokio::test]
async fn a_submission_over_tls_to_a_plaintext_port_ends_at_once() {
    use crate::submission::{self, Ending, Options, source};
    let certificates = Certificates::new("127.0.0.1");
    let options = Options {
        nodes: vec![FakeNode::default().serve()],
        access: certificates.access(),
        acknowledgement: consensus_proto::ordering::Acknowledgement::Committed,
        window: 1,
        batch: 1,
        ordered: false,
        timeout: 3 * PATIENCE,
    };
    let transaction = source::single("id".into(), "payload".into());
    let mut nobody = Nobody;
    let submitted = submission::run(options, transaction, &mut nobody);
    let ending = tokio::time::timeout(PATIENCE, submitted).await.expect("at once").expect("no error");
    assert!(
        matches!(&ending, Ending::WrongProtocol(what) if what.contains("speaks no TLS here")),
        "{ending:?}"
    );
}

/// Is told, and does not mind.
struct Nobody;

impl crate::submission::Observer for Nobody {
    fn on_fate(
        &mut self,
        _: &crate::submission::Item,
        _: crate::submission::Fate,
        _: Option<Duration>,
    ) -> anyhow::Result<()> {
        Ok(())
    }

    fn on_round(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn on_read(&mut self, _: u64, _: u64) {}

    fn on_trouble(&mut self, _: &str, _: Option<&Address>) {}
}

/// A listener for operations that answers each question with what it was asked, once the caller has shown a
/// certificate of `ca`.
async fn serve_pages(certificates: &Certificates, ca: &Path) -> Address {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let acceptor = certificates.acceptor(ca, b"http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut question = vec![0; 1024];
            let read = stream.read(&mut question).await.expect("reads");
            let page = String::from_utf8_lossy(&question[..read]).into_owned();
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{page}");
            stream.write_all(answer.as_bytes()).await.expect("writes");
            stream.shutdown().await.expect("ends");
        }
    });
    address
}

#[tokio::test]
async fn a_page_is_asked_for_over_tls_and_what_is_wrong_with_certificates_is_told() {
    let certificates = Certificates::new("127.0.0.1");
    let node = serve_pages(&certificates, &certificates.file("ca.crt")).await;
    let answer = certificates.access().page(&node, "/livez").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("GET /livez HTTP/1.1"), "{answer}");
    let error = Access::default().page(&node, "/livez").await.expect_err("refused");
    assert!(error.to_string().contains("TLS"), "{error}");
    certificates.expire("alice");
    let error = certificates.access().page(&node, "/livez").await.expect_err("refused");
    assert_eq!(Kind::of(&error), Some(Kind::Expired), "{error}");
    certificates.expire("node1");
    let node = serve_pages(&certificates, &certificates.file("ca.crt")).await;
    let error = certificates.access().page(&node, "/livez").await.expect_err("refused");
    assert_eq!(Kind::of(&error), Some(Kind::Expired), "{error}");
}

#[tokio::test]
async fn a_probe_takes_expired_certificates_for_a_sign_of_life_only_if_it_is_told_to() {
    let certificates = Certificates::new("127.0.0.1");
    let node = serve_pages(&certificates, &certificates.file("ca.crt")).await;
    let (dir, out) = (certificates.0.path().display().to_string(), &mut Vec::new());
    let ask = async |more: &str, out: &mut Vec<u8>| {
        let line = format!(
            "consensus-cli health --ops {node} --ca {dir}/ca.crt --cert {dir}/alice.crt --key {dir}/alice.key {more}"
        );
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("is understood");
        let Command::Health(args) = cli.command else { panic!("{line}") };
        crate::commands::health::run(args, out).await
    };
    assert_eq!(ask("--ready", out).await.expect("an answer"), Verdict::Fine);
    certificates.expire("alice");
    assert!(ask("", out).await.is_err());
    out.clear();
    assert_eq!(ask("--accept-expired", out).await.expect("alive"), Verdict::Fine);
    let said = String::from_utf8_lossy(out);
    assert!(said.starts_with("alive: ") && said.contains("has expired"), "{said}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let certificates = Certificates::new("127.0.0.1");
    let refused = |arguments: &TlsArgs| format!("{:#}", Access::new(arguments).expect_err("refused"));
    let all = certificates.arguments();
    let said = refused(&TlsArgs { key: None, ..all.clone() });
    assert!(said.contains("missing: --key"), "{said}");
    let said = refused(&TlsArgs { ca: Some(certificates.file("nothing")), ..all.clone() });
    assert!(said.contains("nothing") && said.contains("No such file"), "{said}");
    let said = refused(&TlsArgs { ca: all.key.clone(), ..all.clone() });
    assert!(said.contains("alice.key has no certificate"), "{said}");
    let said = refused(&TlsArgs { key: Some(certificates.file("node1.key")), ..all.clone() });
    assert!(said.contains("do not belong together"), "{said}");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(certificates.file("alice.key"), open).expect("may");
    let said = refused(&all);
    assert!(said.contains("alice.key") && said.contains("mode 0640") && said.contains("chmod 600"), "{said}");
}

#[test]
fn addresses_are_host_and_port() {
    for good in ["127.0.0.1:7001", "node-1.example:65535", "[::1]:9", "http://a:1", "http://a:1/"] {
        assert!(good.parse::<Address>().is_ok(), "{good}");
    }
    for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:1/path", "https://a:1", "a b:1", "a:1?x"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_closed_port_is_told_as_refused_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address: Address = listener.local_addr().expect("has one").to_string().parse().expect("parses");
    drop(listener);
    let access = Access::default();
    let error =
        access.connect(&address, Duration::from_secs(2), Patience::Alone).await.expect_err("nobody listens");
    assert!(error.to_string().contains("connection refused"), "{error}");
}
