//! Mutual TLS as nodes, clients and strangers see it: who is let in, who is turned away and in which words, and
//! that certificates change while the node runs.

mod edge_harness;

use std::fmt::Write;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use consensus_proto::admin::admin_client::AdminClient;
use consensus_proto::admin::{StatusRequest, TransferLeaderRequest};
use consensus_proto::ordering::ordering_client::OrderingClient;
use consensus_proto::ordering::{SubmitBatch, SubmitRequest, TipRequest};
use consensus_proto::peer::peer_client::PeerClient;
use consensus_proto::peer::{PeerFrame, peer_frame::Frame};
use consensus_server::config::{Config, Listen};
use consensus_server::lifecycle::{Listeners, Server};
use edge_harness::certificates::{Authority, Identity, Tls};
use edge_harness::{free, hello, log, transaction};
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

/// Long enough for a look at the files, twice, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes of one chain that speak TLS.
struct Nodes {
    servers: Vec<Server>,
    authority: Authority,
    identities: Vec<Identity>,
    data: TempDir,
}

fn place(directory: &Path, name: &str, content: &str) {
    let path = directory.join(name);
    // As a careful operator does it: never half a file, never one that others may read.
    let new = directory.join(format!("{name}.new"));
    std::fs::write(&new, content).expect("writes");
    std::fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("own file");
    std::fs::rename(new, path).expect("renames");
}

impl Nodes {
    async fn start(count: usize) -> Self {
        let authority = Authority::new("authority");
        let identities = (1..=count).map(|id| authority.issue(&format!("node{id}"), &[])).collect();
        Self::start_with(authority, identities, "", |_, text| text).await
    }

    /// `extra` goes into `[security]`; `edit` changes the text of a node's configuration.
    async fn start_with(
        authority: Authority,
        identities: Vec<Identity>,
        extra: &str,
        edit: impl Fn(usize, String) -> String,
    ) -> Self {
        Self::start_at(free(), authority, identities, extra, edit).await
    }

    /// The same on other addresses than those of this host.
    async fn start_at(
        listen: Listen,
        authority: Authority,
        identities: Vec<Identity>,
        extra: &str,
        edit: impl Fn(usize, String) -> String,
    ) -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let mut listeners = Vec::new();
        let mut members = String::new();
        for (id, identity) in (1..).zip(&identities) {
            let bound = Listeners::bind(&listen).await.expect("free ports");
            let Listen { client, peer, .. } = bound.addresses().expect("bound");
            let pin = identity.pin();
            write!(
                members,
                "[[peers]]\nid = {id}\npeer = '{peer}'\nclient = '{client}'\npublic_key = '{pin}'\n"
            )
            .expect("a string");
            listeners.push(bound);
        }
        let mut servers = Vec::new();
        for ((id, bound), identity) in (1..).zip(listeners).zip(&identities) {
            let Listen { client, peer, ops } = bound.addresses().expect("bound");
            place(data.path(), &format!("node{id}.crt"), &identity.certificate);
            place(data.path(), &format!("node{id}.key"), &identity.key);
            place(data.path(), &format!("ca{id}.crt"), &authority.pem);
            let text = format!(
                "[node]\nid = {id}\ncluster = 'test'\ndata_dir = 'node{id}'\n[raft]\ntick_ms = 20\n\
                 [security]\ncertificate = 'node{id}.crt'\nkey = 'node{id}.key'\nca = 'ca{id}.crt'\n{extra}\
                 [listen]\nclient = '{client}'\npeer = '{peer}'\nops = '{ops}'\n{members}"
            );
            let config = Config::parse(&edit(id, text), "test", data.path()).expect("valid");
            servers.push(Server::start(config, bound, log()).await.expect("starts"));
        }
        Self { servers, authority, identities, data }
    }

    async fn alone() -> Self {
        let nodes = Self::start(1).await;
        nodes.led().await;
        nodes
    }

    /// Waits until everybody knows a leader.
    async fn led(&self) {
        for server in &self.servers {
            let mut status = server.chain().watch_status();
            let known = status.wait_for(|status| status.leader.is_some());
            tokio::time::timeout(PATIENCE, known).await.expect("a leader in time").expect("runs");
        }
    }

    fn listen(&self) -> Listen {
        self.servers[0].config().listen
    }

    /// A caller of the client listener of the first node.
    fn client(&self, units: &[&str]) -> Tls {
        Tls::new(self.listen().client, &self.authority, Some(&self.authority.issue("alice", units)))
    }

    async fn metrics(&self, position: usize) -> String {
        get(self.servers[position].config().listen.ops, "/metrics").await
    }

    /// Waits until the node has counted it.
    async fn counted(&self, position: usize, at: &str, reason: &str) {
        let series = format!("consensus_security_refused_total{{at=\"{at}\",reason=\"{reason}\"}}");
        self.told(position, "/metrics", &series).await;
    }

    /// Waits until the node tells a text.
    async fn told(&self, position: usize, path: &str, text: &str) {
        self.tells(position, path, text, true).await;
    }

    /// Waits until the node tells a text, or does not tell it any more.
    async fn tells(&self, position: usize, path: &str, text: &str, wanted: bool) {
        let ops = self.servers[position].config().listen.ops;
        let told = async {
            while get(ops, path).await.contains(text) != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        if told.is_err() {
            let lacks = if wanted { "no" } else { "still" };
            panic!("{lacks} {text} in\n{}", get(ops, path).await);
        }
    }

    /// The audit log of a node.
    fn written_down(&self, position: usize) -> String {
        let path = self.servers[position].config().data_dir.join(consensus_core::audit::FILE);
        std::fs::read_to_string(path).expect("the node has written it")
    }

    async fn stop(self) {
        futures_util::future::join_all(self.servers.into_iter().map(Server::stop)).await;
    }
}

/// A page of the operations listener, in plaintext.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).await.expect("listens");
    http(&mut connection, "GET", path, "").await
}

async fn http(
    connection: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    method: &str,
    path: &str,
    body: &str,
) -> String {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("answered");
    String::from_utf8(answer).expect("text")
}

async fn submit(channel: Channel, payload: &str) -> Result<(), tonic::Status> {
    let request = SubmitRequest { payload: payload.to_owned().into(), ..Default::default() };
    OrderingClient::new(channel).submit(request).await.map(drop)
}

#[tokio::test]
async fn nodes_find_each_other_over_tls_and_a_follower_forwards() {
    let nodes = Nodes::start(3).await;
    nodes.led().await;
    let alice = nodes.authority.issue("alice", &["submit"]);
    for server in &nodes.servers {
        let caller = Tls::new(server.config().listen.client, &nodes.authority, Some(&alice));
        let payload = format!("at {}", server.config().node_id);
        submit(caller.channel().await.expect("let in"), &payload).await.expect("committed");
    }
    nodes.told(0, "/status", "\"mode\":\"tls\"").await;
    nodes.told(0, "/metrics", "consensus_security_certificate_days_left{certificate=\"node 2\"}").await;
    nodes.stop().await;
}

#[tokio::test]
async fn each_role_does_its_own_and_nothing_else() {
    let nodes = Nodes::alone().await;
    // (units, may submit, may read, may change)
    for (units, submits, reads, changes) in [
        (&["submit"][..], true, false, false),
        (&["read"], false, true, false),
        (&["admin"], false, true, true),
        (&["submit", "admin"], true, true, true),
        (&["accounting"], false, false, false),
        (&[], false, false, false),
    ] {
        let channel = nodes.client(units).channel().await.expect("an authority vouches");
        let submitted = submit(channel.clone(), "x").await;
        let read = OrderingClient::new(channel.clone()).tip(TipRequest::default()).await.map(drop);
        let mut admin = AdminClient::new(channel);
        let looked = admin.status(StatusRequest::default()).await.map(drop);
        // There is nobody to transfer to; who may ask is told so.
        let changed = admin.transfer_leader(TransferLeaderRequest { to_node_id: 9 }).await.map(drop);
        for (what, result, allowed) in [
            ("submit", submitted, submits),
            ("read", read, reads),
            ("status", looked, reads),
            ("change", changed, changes),
        ] {
            let denied = result.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied);
            assert_eq!(!denied, allowed, "{units:?} {what}: {result:?}");
        }
    }
    // What was asked for is written down with the holder of the certificate, what nobody may is not carried out.
    for (name, asked) in
        [("OU=admin,CN=alice", true), ("OU=admin,OU=submit,CN=alice", true), ("OU=read,CN=alice", false)]
    {
        let actor = format!("\"actor\":\"{name} at 127.0.0.1:");
        let is_action = |line: &str| line.contains(&actor) && line.contains("\"action\":\"transfer-leader\"");
        assert_eq!(
            nodes.written_down(0).lines().any(is_action),
            asked,
            "{name} in\n{}",
            nodes.written_down(0)
        );
    }
    let channel = nodes.client(&["read"]).channel().await.expect("let in");
    let denied = submit(channel, "x").await.expect_err("no role");
    assert_eq!(
        denied.message(),
        "Submit: needs the role \"submit\", the certificate of OU=read,CN=alice has: read"
    );
    nodes.counted(0, "client", "role").await;
    nodes.stop().await;
}

/// What a caller gets instead of a connection.
async fn turned_away(tls: &Tls) -> String {
    let mut bytes = [0; 1];
    match tls.connect().await {
        Err(error) => error.to_string(),
        Ok(mut stream) => match stream.read(&mut bytes).await {
            Err(error) => error.to_string(),
            Ok(count) => panic!("let in: {count} bytes"),
        },
    }
}

#[tokio::test]
async fn each_stranger_is_turned_away_with_its_reason() {
    let nodes = Nodes::alone().await;
    let Listen { client, peer, .. } = nodes.listen();
    let ours = &nodes.authority;
    // Of the same name, as somebody would who wants to be taken for it.
    let other = Authority::new("authority");
    let third = Authority::new("somebody");
    let expired = ours.issue_expired("alice", &["submit"]);
    let (alice, mallory, trudy) = (
        ours.issue("alice", &["submit"]),
        other.issue("alice", &["submit"]),
        third.issue("trudy", &["admin"]),
    );
    for (at, address) in [("client", client), ("peer", peer)] {
        for (shown, reason, words) in [
            (None, "no-certificate", "CertificateRequired"),
            (Some(&mallory), "unknown-authority", ""),
            (Some(&trudy), "unknown-authority", "UnknownCA"),
            (Some(&expired), "expired", "CertificateExpired"),
        ] {
            let said = turned_away(&Tls::new(address, ours, shown)).await;
            assert!(said.contains(words), "{at} {reason}: {said}");
            nodes.counted(0, at, reason).await;
        }
        // Somebody who trusts another authority hangs up by itself.
        let said = turned_away(&Tls::new(address, &third, Some(&alice))).await;
        assert!(said.contains("UnknownIssuer"), "{said}");
        nodes.counted(0, at, "distrust").await;
        let mut plaintext = TcpStream::connect(address).await.expect("listens");
        plaintext.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
        plaintext.read_to_end(&mut Vec::new()).await.expect("closed");
        nodes.counted(0, at, "plaintext").await;
    }
    // A client is no node, whoever vouches for it.
    let said = turned_away(&Tls::new(peer, ours, Some(&alice))).await;
    assert!(said.contains("CertificateUnknown"), "{said}");
    nodes.counted(0, "peer", "public-key").await;
    // Nodes speak TLS 1.3 only, clients may speak 1.2.
    turned_away(&Tls::speaking(peer, ours, Some(&alice), &[&TLS12], b"h2")).await;
    nodes.counted(0, "peer", "version").await;
    let older = Tls::speaking(client, ours, Some(&alice), &[&TLS12], b"h2");
    submit(older.channel().await.expect("let in"), "1.2").await.expect("committed");
    // A second one of a kind is only counted, until the node stops.
    turned_away(&Tls::new(client, ours, Some(&expired))).await;
    let path = nodes.servers[0].config().data_dir.join(consensus_core::audit::FILE);
    let Nodes { servers, data, .. } = nodes;
    futures_util::future::join_all(servers.into_iter().map(Server::stop)).await;
    let written = std::fs::read_to_string(path).expect("the node has written it");
    drop(data);
    for (at, reason, lines) in [
        ("client", "no-certificate", 1),
        ("client", "unknown-authority", 2),
        ("client", "expired", 2),
        ("client", "plaintext", 1),
        ("client", "distrust", 1),
        ("peer", "public-key", 1),
        ("peer", "version", 1),
    ] {
        let kind = format!("\"arguments\":{{\"at\":\"{at}\",\"left_out\":\"0\",\"reason\":\"{reason}\"}}");
        let count = written.lines().filter(|line| line.contains(&kind)).count();
        assert_eq!(count, lines, "{at} {reason} in\n{written}");
    }
    let mut checker = consensus_core::audit::Checker::default();
    checker.file(consensus_core::audit::FILE, written.as_bytes(), true, &mut |_| {});
    let report = checker.finish();
    assert_eq!(report.findings_total, 0, "{report:?}");
}

#[tokio::test]
async fn a_node_cannot_speak_for_another_one() {
    let authority = Authority::new("authority");
    let identities: Vec<_> = (1..=3).map(|id| authority.issue(&format!("node{id}"), &[])).collect();
    let nodes = Nodes::start_with(authority, identities, "", |_, text| text).await;
    let server = &nodes.servers[0];
    let second = Tls::new(nodes.listen().peer, &nodes.authority, Some(&nodes.identities[1]));
    let mut client = PeerClient::new(second.channel().await.expect("a member"));
    let frames = [PeerFrame { frame: Some(Frame::Hello(hello(server, 3))) }];
    let refused = client.messages(futures_util::stream::iter(frames)).await.expect_err("another node's name");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let pin = nodes.identities[1].pin();
    let words =
        format!("the caller says it is node 3, CN=node2 has the public key {pin}, which is not that node's");
    assert_eq!(refused.message(), words);
    let text = nodes.metrics(0).await;
    assert!(
        text.contains("consensus_peer_handshakes_refused_total{chain=\"main\",reason=\"public key\"} 1"),
        "{text}"
    );
    nodes.stop().await;
}

#[tokio::test]
async fn a_node_with_another_key_than_configured_is_not_called_and_both_sides_say_why() {
    let lines = edge_harness::capture();
    let authority = Authority::new("authority");
    let identities: Vec<_> = (1..=2).map(|id| authority.issue(&format!("node{id}"), &[])).collect();
    let (right, wrong) = (identities[1].pin().to_string(), authority.issue("x", &[]).pin().to_string());
    // The first node expects another key of the second one.
    let edit = |id: usize, text: String| if id == 1 { text.replace(&right, &wrong) } else { text };
    let nodes = Nodes::start_with(authority, identities, "", edit).await;
    nodes.counted(0, "outgoing", "public-key").await;
    nodes.counted(0, "peer", "public-key").await;
    nodes.counted(1, "outgoing", "distrust").await;
    nodes.counted(1, "peer", "distrust").await;
    for words in [
        format!("CN=node2 has the public key {right}, which is not the one that [[peers]] has for it"),
        format!("CN=node2 has the public key {right}, which is no other member's"),
        "does not accept this node's certificate: its public key is not the one that the other side"
            .to_owned(),
    ] {
        assert!(
            lines.text().to_lowercase().contains(&words.to_lowercase()),
            "no {words:?} in\n{}",
            lines.text()
        );
    }
    nodes.stop().await;
}

#[tokio::test]
async fn tls_on_a_plaintext_port_and_plaintext_on_a_tls_port_are_told_by_both_sides() {
    let lines = edge_harness::capture();
    let authority = Authority::new("authority");
    let identities: Vec<_> = (1..=2).map(|id| authority.issue(&format!("node{id}"), &[])).collect();
    // The second node speaks plaintext.
    let edit = |id: usize, text: String| {
        let files = format!("certificate = 'node{id}.crt'\nkey = 'node{id}.key'\nca = 'ca{id}.crt'\n");
        if id == 2 { text.replace(&files, "insecure = true\n") } else { text }
    };
    let nodes = Nodes::start_with(authority, identities, "", edit).await;
    nodes.counted(0, "peer", "plaintext").await;
    nodes.counted(1, "peer", "tls").await;
    nodes.told(1, "/status", "\"mode\":\"insecure\"").await;
    let stream = Tls::new(nodes.servers[1].config().listen.client, &nodes.authority, None).connect().await;
    assert!(stream.is_err());
    nodes.counted(1, "client", "tls").await;
    for words in [
        "all listeners speak plaintext",
        "speaks no TLS, this listener does",
        "speaks TLS, this listener plaintext",
        "the other side may speak TLS",
    ] {
        assert!(lines.text().contains(words), "no {words:?} in\n{}", lines.text());
    }
    // Either the first bytes in plaintext come first, or the end.
    let (text, ends) =
        (lines.text(), "hung up during the tls handshake, as a node does that speaks plaintext");
    assert!(text.contains(ends) || text.contains("speaks no tls; this node does"), "{text}");
    nodes.stop().await;
}

/// The serial number and the end of the certificate that a new connection is shown.
async fn shown(tls: &Tls) -> Vec<u8> {
    let stream = tls.connect().await.expect("let in");
    stream.get_ref().1.peer_certificates().expect("shown")[0].as_ref().to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_while_a_stream_goes_on() {
    let nodes = Nodes::alone().await;
    let alice = nodes.client(&["submit"]);
    let (batches, outgoing) = mpsc::channel(4);
    let mut ordering = OrderingClient::new(alice.channel().await.expect("let in"));
    let mut replies =
        ordering.submit_stream(ReceiverStream::new(outgoing)).await.expect("opened").into_inner();
    let mut sequence = 0;
    let mut acknowledged = async || {
        sequence += 1;
        let transactions = vec![transaction(format!("t{sequence}"), "x")];
        let batch = SubmitBatch { sequence, transactions, ..Default::default() };
        batches.send(batch).await.expect("the stream goes on");
        replies.message().await.expect("the stream goes on").expect("an answer");
    };
    acknowledged().await;
    let before = shown(&alice).await;

    let directory = nodes.data.path();
    let renewed = nodes.authority.renew_as(&nodes.identities[0].key, "node1 renewed", &[], 2090);
    place(directory, "node1.crt", &renewed.certificate);
    nodes.told(0, "/metrics", "consensus_security_reloads_total{outcome=\"taken-up\"} 1").await;
    assert_ne!(shown(&alice).await, before, "new connections are shown the new one");
    nodes.told(0, "/status", "CN=node1 renewed").await;
    acknowledged().await;

    // What cannot be used changes nothing and is said.
    let stranger = nodes.authority.issue("node1", &[]);
    for (name, content, mode, words) in [
        (
            "node1.crt",
            stranger.certificate.as_str(),
            0o600,
            "node1.key: is not the key of the certificate in",
        ),
        ("node1.crt", "nonsense", 0o600, "node1.crt: holds no certificate, must be PEM"),
        (
            "node1.key",
            nodes.identities[0].key.as_str(),
            0o644,
            "others than its owner have rights on it (644)",
        ),
        ("node1.key", "nonsense", 0o600, "node1.key: holds no private key"),
        ("ca1.crt", "", 0o600, "ca1.crt: holds no certificate"),
    ] {
        let good = std::fs::read_to_string(directory.join(name)).expect("there");
        std::fs::write(directory.join(name), content).expect("writes");
        std::fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).expect("own file");
        nodes.told(0, "/status", words).await;
        nodes.told(0, "/metrics", "consensus_security_alarm{alarm=\"files\"} 1").await;
        nodes.told(0, "/cluster", "\"alarms\":[\"new certificate files cannot be used").await;
        shown(&alice).await;
        acknowledged().await;
        place(directory, name, &good);
        nodes.told(0, "/metrics", "consensus_security_alarm{alarm=\"files\"} 0").await;
        assert!(nodes.written_down(0).contains(words), "{words} in\n{}", nodes.written_down(0));
    }
    let written = nodes.written_down(0);
    assert!(written.contains("\"certificate\":\"CN=node1 renewed\""), "{written}");
    nodes.stop().await;
}

#[tokio::test]
async fn authorities_are_exchanged_one_after_the_other_through_a_bundle_of_both() {
    let nodes = Nodes::start(2).await;
    nodes.led().await;
    let directory = nodes.data.path();
    let next = Authority::new("next authority");
    let taken_up = async |times: u32| {
        for position in 0..2 {
            let series = format!("consensus_security_reloads_total{{outcome=\"taken-up\"}} {times}");
            nodes.told(position, "/metrics", &series).await;
        }
    };
    for id in 1..=2 {
        place(directory, &format!("ca{id}.crt"), &format!("{}{}", nodes.authority.pem, next.pem));
    }
    taken_up(1).await;
    for (id, identity) in (1..).zip(&nodes.identities) {
        let renewed = next.renew_as(&identity.key, &format!("node{id}"), &[], 2090);
        place(directory, &format!("node{id}.crt"), &renewed.certificate);
    }
    taken_up(2).await;
    let client = nodes.listen().client;
    let (old, new) = (nodes.authority.issue("alice", &["submit"]), next.issue("alice", &["submit"]));
    for shown in [&old, &new] {
        let channel = Tls::new(client, &next, Some(shown)).channel().await.expect("both vouch");
        submit(channel, "between").await.expect("committed");
    }
    for id in 1..=2 {
        place(directory, &format!("ca{id}.crt"), &next.pem);
    }
    taken_up(3).await;
    let channel = Tls::new(client, &next, Some(&new)).channel().await.expect("the new one vouches");
    submit(channel, "after").await.expect("committed");
    turned_away(&Tls::new(client, &next, Some(&old))).await;
    nodes.counted(0, "client", "unknown-authority").await;
    nodes.stop().await;
}

#[tokio::test]
async fn when_all_certificates_have_expired_the_rescue_lets_them_in() {
    let authority = Authority::new("authority");
    let expired = |authority: &Authority| -> Vec<Identity> {
        (1..=2).map(|id| authority.issue_expired(&format!("node{id}"), &[])).collect()
    };
    let identities = expired(&authority);
    let alice = authority.issue_expired("alice", &["submit"]);
    let nodes = Nodes::start_with(authority, identities, "", |_, text| text).await;
    nodes.counted(0, "outgoing", "expired").await;
    nodes.counted(0, "peer", "distrust").await;
    nodes.told(0, "/status", "own: has ended").await;
    let late = Tls::in_2020(nodes.listen().client, &nodes.authority, &alice);
    assert!(turned_away(&late).await.contains("CertificateExpired"));
    let Nodes { servers, authority, identities, data: _data } = nodes;
    futures_util::future::join_all(servers.into_iter().map(Server::stop)).await;

    let nodes = Nodes::start_with(authority, identities, "accept_expired = true\n", |_, text| text).await;
    nodes.led().await;
    nodes.told(0, "/status", "security.accept_expired").await;
    let late = Tls::in_2020(nodes.listen().client, &nodes.authority, &alice);
    submit(late.channel().await.expect("let in"), "late").await.expect("committed");
    // Nobody else gets in by it.
    let stranger = Authority::new("somebody").issue_expired("trudy", &["submit"]);
    turned_away(&Tls::in_2020(nodes.listen().client, &nodes.authority, &stranger)).await;
    nodes.counted(0, "client", "unknown-authority").await;
    let metrics = nodes.metrics(0).await;
    assert!(!metrics.contains("reason=\"expired\"}"), "{metrics}");
    assert!(metrics.contains("consensus_security_alarm{alarm=\"accept-expired\"} 1"), "{metrics}");

    // The other one learns of a renewal although their streams stay.
    nodes.told(0, "/status", "node 2: has ended").await;
    let renewed = nodes.authority.renew_as(&nodes.identities[1].key, "node2 renewed", &[], 2090);
    place(nodes.data.path(), "node2.crt", &renewed.certificate);
    nodes.told(0, "/status", "CN=node2 renewed").await;
    nodes.tells(0, "/status", "node 2: has ended", false).await;
    nodes.stop().await;
}

#[tokio::test]
async fn operations_beyond_this_host_are_read_and_changed_by_role() {
    let authority = Authority::new("authority");
    let identities = vec![authority.issue("node1", &[])];
    let everywhere = Listen { ops: SocketAddr::from(([0, 0, 0, 0], 0)), ..free() };
    let nodes = Nodes::start_at(everywhere, authority, identities, "", |_, text| text).await;
    let address = nodes.listen().ops;
    let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let ask = async |units: &[&str], method: &'static str, body: &'static str| {
        let shown = nodes.authority.issue("alice", units);
        let tls = Tls::speaking(address, &nodes.authority, Some(&shown), &[&TLS13], b"http/1.1");
        let mut stream = tls.connect().await.expect("let in");
        http(&mut stream, method, "/log", body).await
    };
    // A filter that makes no sense: whoever may change it is told so.
    for (units, reads, changes) in
        [(&["read"][..], "200 OK", "403 Forbidden"), (&["admin"], "200 OK", "400 Bad"), (&[], "403", "403")]
    {
        let read = ask(units, "GET", "").await;
        assert!(read.starts_with(&format!("HTTP/1.1 {reads}")), "{units:?}: {read}");
        let changed = ask(units, "PUT", "inof").await;
        assert!(changed.starts_with(&format!("HTTP/1.1 {changes}")), "{units:?}: {changed}");
    }
    turned_away(&Tls::speaking(address, &nodes.authority, None, &[&TLS13], b"http/1.1")).await;
    nodes.stop().await;
}

#[tokio::test]
async fn a_node_does_not_start_with_files_that_cannot_protect_it() {
    let authority = Authority::new("authority");
    let identity = authority.issue("node1", &[]);
    let directory = TempDir::new().expect("a temporary directory");
    let started = async |pin: &str| {
        let bound = Listeners::bind(&free()).await.expect("free ports");
        let Listen { client, peer, ops } = bound.addresses().expect("bound");
        let text = format!(
            "[node]\nid = 1\ncluster = 'test'\n[security]\ncertificate = 'n.crt'\nkey = 'n.key'\nca = 'ca.crt'\n\
             [listen]\nclient = '{client}'\npeer = '{peer}'\nops = '{ops}'\n\
             [[peers]]\nid = 1\npeer = '{peer}'\nclient = '{client}'\npublic_key = '{pin}'\n"
        );
        let config = Config::parse(&text, "test", directory.path()).expect("valid");
        Server::start(config, bound, log()).await
    };
    let pin = identity.pin().to_string();
    let refusal = async |pin: &str, words: &str| {
        let said = format!("{:#}", started(pin).await.expect_err(words));
        assert!(said.contains(words), "no {words:?} in {said}");
        assert!(!directory.path().join("data").exists(), "nothing is touched: {words}");
    };
    refusal(&pin, "n.crt: cannot be read: No such file").await;
    place(directory.path(), "n.crt", &identity.certificate);
    place(directory.path(), "n.key", &authority.issue("other", &[]).key);
    place(directory.path(), "ca.crt", &authority.pem);
    refusal(&pin, "n.key: is not the key of the certificate in").await;
    place(directory.path(), "n.key", &identity.key);
    std::fs::set_permissions(directory.path().join("n.key"), Permissions::from_mode(0o640))
        .expect("own file");
    refusal(&pin, "n.key: others than its owner have rights on it (640), must be 600 or 400").await;
    place(directory.path(), "n.key", &identity.key);
    let another = authority.issue("other", &[]).pin().to_string();
    refusal(&another, "n.crt: is for the public key sha256:").await;
    place(directory.path(), "ca.crt", &identity.key);
    refusal(&pin, "ca.crt: holds no certificate, must be PEM").await;
    place(directory.path(), "ca.crt", &authority.pem);
    let server = started(&pin).await.expect("all is well");
    let rights = std::fs::metadata(directory.path().join("data")).expect("made").permissions().mode();
    assert_eq!(rights & 0o777, 0o700);
    server.stop().await;
}
