//! What one client may use, as clients see it: what is refused, in which words, and that others are served meanwhile.

mod edge_harness;

use std::fmt::Write;
use std::time::Duration;

use consensus_proto::ordering::ordering_client::OrderingClient;
use consensus_proto::ordering::{
    Block, DeliverRequest, Reason, Refused, SubmitBatch, SubmitBatchReply, SubmitRequest, TipRequest,
    deliver_request, outcome,
};
use consensus_server::config::{Config, Listen};
use consensus_server::lifecycle::{Listeners, Server};
use edge_harness::certificates::{Authority, Identity, Tls};
use edge_harness::{Cluster, alone, client_channel, free, log, ordering, transaction};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Long enough on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

async fn metrics(server: &Server) -> String {
    let mut connection = TcpStream::connect(server.config().listen.ops).await.expect("listens");
    connection
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("written");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("answered");
    String::from_utf8(answer).expect("text")
}

/// Waits until a node tells this.
async fn told(server: &Server, text: &str) {
    let told = async {
        while !metrics(server).await.contains(text) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        panic!("no {text} in\n{}", metrics(server).await);
    }
}

fn refused_series(limit: &str, count: u64) -> String {
    format!("consensus_clients_refused_total{{limit=\"limits.client.{limit}\"}} {count}\n")
}

/// A submission stream.
struct Stream {
    batches: mpsc::Sender<SubmitBatch>,
    replies: Streaming<SubmitBatchReply>,
    sequence: u64,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self, Status> {
        let (batches, outgoing) = mpsc::channel(64);
        let replies = OrderingClient::new(channel).submit_stream(ReceiverStream::new(outgoing)).await?;
        Ok(Self { batches, replies: replies.into_inner(), sequence: 0 })
    }

    /// Sends a frame of so many transactions and returns the refusal, if it was refused.
    async fn submit(&mut self, name: &str, count: usize) -> Option<Refused> {
        self.sequence += 1;
        let transactions = (0..count).map(|number| transaction(format!("{name}-{number}"), "x")).collect();
        let batch = SubmitBatch { sequence: self.sequence, transactions, ..Default::default() };
        self.batches.send(batch).await.expect("the stream goes on");
        let reply = tokio::time::timeout(PATIENCE, self.replies.message()).await.expect("in time");
        let reply = reply.expect("the stream goes on").expect("an answer");
        assert_eq!(reply.sequence, self.sequence);
        let counts: u32 = reply.outcomes.iter().map(|outcome| outcome.count).sum();
        assert_eq!(counts as usize, count, "each transaction has an outcome");
        reply.outcomes.into_iter().find_map(|outcome| match outcome.outcome {
            Some(outcome::Outcome::Refused(refused)) => Some(refused),
            _ => None,
        })
    }
}

#[tokio::test]
async fn who_submits_too_fast_is_told_the_limit_and_when_to_come_back() {
    let cluster = alone("[limits.client]\ntransactions_per_s = 20\ntransactions_burst = 20\n").await;
    let server = &cluster.servers[0];
    let mut stream = Stream::open(client_channel(server).await).await.expect("opened");
    // More than the bucket holds passes when that is full, and is owed: for five seconds, whatever the machine does.
    assert_eq!(stream.submit("burst", 100).await, None);
    let refused = stream.submit("more", 10).await.expect("too fast");
    assert_eq!(refused.reason(), Reason::Overloaded);
    assert_eq!(
        refused.message,
        "10 transactions more than this client may send now, limits.client.transactions_per_s is 20"
    );
    assert!((1..=4500).contains(&refused.retry_after_ms), "{refused:?}");
    let request = SubmitRequest { payload: "one".into(), ..Default::default() };
    let status = ordering(server).await.submit(request).await.expect_err("too fast");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limits.client.transactions_per_s is 20"), "{status}");
    let retry = status.metadata().get("retry-after-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    assert!(retry.is_some_and(|ms: u64| (1..=4500).contains(&ms)), "{status:?}");
    told(server, &refused_series("transactions_per_s", 2)).await;
    // Who does not wait is read more slowly: a second for each refusal.
    let mut refusals = 0;
    while stream.submit("later", 10).await.is_some() {
        refusals += 1;
        assert!(refusals <= 10, "it is read as fast as before");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn streams_are_bounded_and_their_places_come_back() {
    let limits = "[limits.client]\nsubmit_streams_max = 1\ndeliver_streams_max = 1\ncalls_inflight_max = 2\n";
    let cluster = alone(limits).await;
    let server = &cluster.servers[0];
    let channel = client_channel(server).await;
    let first = Stream::open(channel.clone()).await.expect("opened");
    let status = Stream::open(channel.clone()).await.err().expect("two of one");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        status.message(),
        "2 submission streams of this client, limits.client.submit_streams_max is 1"
    );
    let request = DeliverRequest::default();
    let delivery = OrderingClient::new(channel.clone()).deliver(request).await.expect("opened");
    let status =
        OrderingClient::new(channel.clone()).tip(TipRequest::default()).await.expect_err("three of two");
    assert!(status.message().contains("limits.client.calls_inflight_max is 2"), "{status}");
    drop(first);
    let again = async {
        loop {
            match OrderingClient::new(channel.clone()).deliver(request).await {
                Err(status) if status.message().contains("deliver_streams_max is 1") => return,
                Err(status) => assert!(status.message().contains("calls_inflight_max"), "{status}"),
                Ok(_) => panic!("two streams of blocks of one"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the first stream's place is free");
    drop(delivery);
    let again = async { while OrderingClient::new(channel.clone()).deliver(request).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("the delivery's place is free");
    cluster.stop().await;
}

/// One node over TLS.
struct Alone {
    server: Server,
    authority: Authority,
    _data: TempDir,
}

impl Alone {
    async fn start(limits: &str) -> Self {
        let (data, authority) = (TempDir::new().expect("a directory"), Authority::new("authority"));
        let own = authority.issue("node1", &[]);
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = data.path().join(name);
            std::fs::write(&path, text).expect("writes");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("own file");
        };
        write("node.crt", &own.certificate);
        write("node.key", &own.key);
        write("ca.crt", &authority.pem);
        let bound = Listeners::bind(&free()).await.expect("free ports");
        let Listen { client, peer, ops } = bound.addresses().expect("bound");
        let mut text = String::new();
        write!(
            text,
            "[node]\nid = 1\ncluster = 'test'\ndata_dir = 'data'\n[raft]\ntick_ms = 20\n\
             [security]\ncertificate = 'node.crt'\nkey = 'node.key'\nca = 'ca.crt'\n\
             [listen]\nclient = '{client}'\npeer = '{peer}'\nops = '{ops}'\n\
             [[peers]]\nid = 1\npeer = '{peer}'\nclient = '{client}'\npublic_key = '{}'\n{limits}",
            own.pin()
        )
        .expect("a string");
        let config = Config::parse(&text, "test", data.path()).expect("valid");
        let server = Server::start(config, bound, log()).await.expect("starts");
        let mut status = server.chain().watch_status();
        status.wait_for(|status| status.leader.is_some()).await.expect("runs");
        Self { server, authority, _data: data }
    }

    fn caller(&self, identity: &Identity) -> Tls {
        Tls::new(self.server.config().listen.client, &self.authority, Some(identity))
    }
}

#[tokio::test]
async fn one_who_takes_all_that_it_may_hinders_nobody_else() {
    let node = Alone::start(
        "[limits.client]\ntransactions_per_s = 1\ntransactions_burst = 1000\nconnections_max = 2\n",
    )
    .await;
    // One key is one client, whatever its certificate says.
    let mallory = node.authority.issue("mallory", &["submit"]);
    let renewed = node.authority.renew_as(&mallory.key, "somebody", &["submit"], 2040);
    let alice = node.authority.issue("alice", &["submit"]);
    let mut flood =
        Stream::open(node.caller(&mallory).channel().await.expect("let in")).await.expect("opened");
    let mut second =
        Stream::open(node.caller(&renewed).channel().await.expect("let in")).await.expect("opened");
    assert_eq!(flood.submit("burst", 1000).await, None);
    assert!(second.submit("more", 10).await.is_some(), "the burst is spent");
    // A third connection is told why it is closed.
    let error = match node.caller(&mallory).channel().await {
        Ok(channel) => Stream::open(channel).await.err().map(|status| format!("{status:?}")),
        Err(error) => Some(format!("{error:?}")),
    };
    let error = error.expect("three of two");
    assert!(error.contains("limits.client.connections_max is 2"), "{error}");
    let mut content =
        Stream::open(node.caller(&alice).channel().await.expect("let in")).await.expect("opened");
    for number in 0..5 {
        assert_eq!(content.submit(&format!("alice-{number}"), 100).await, None, "alice has her own");
    }
    told(&node.server, &refused_series("connections_max", 1)).await;
    told(&node.server, "consensus_security_refused_total{at=\"client\",reason=\"limit\"} 1\n").await;
    told(&node.server, "consensus_clients_known 2\n").await;
    told(&node.server, "consensus_clients_connections 3\n").await;
    let audit = node.server.config().data_dir.join(consensus_core::audit::FILE);
    node.server.stop().await;
    let written = std::fs::read_to_string(audit).expect("written");
    let line = written.lines().find(|line| line.contains("\"reason\":\"limit\"")).expect("a line");
    assert!(line.contains("CN=mallory at 127.0.0.1:") && line.contains("\"action\":\"access\""), "{line}");
    assert!(
        line.contains("refused: 3 connections of this client, limits.client.connections_max is 2"),
        "{line}"
    );
}

/// A node whose chain is far larger than what fits on its way to a reader, and a reader that has not begun.
async fn slow_reader(stall_ms: u64) -> (Cluster, Streaming<Block>) {
    let cluster = alone(&format!("[limits]\ndeliver_stall_ms = {stall_ms}\n")).await;
    let server = &cluster.servers[0];
    let mut client = ordering(server).await;
    for _ in 0..8 {
        let payload = bytes::Bytes::from(rand::random_iter().take(1 << 20).collect::<Vec<u8>>());
        client.submit(SubmitRequest { payload, ..Default::default() }).await.expect("committed");
    }
    let request = DeliverRequest { from: deliver_request::From::Oldest.into(), ..Default::default() };
    let blocks = client.deliver(request).await.expect("opened").into_inner();
    (cluster, blocks)
}

/// What comes before the end, and the end.
async fn rest(blocks: &mut Streaming<Block>) -> (usize, Status) {
    let mut count = 0;
    loop {
        match tokio::time::timeout(PATIENCE, blocks.message()).await.expect("in time") {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("the stream has no end"),
            Err(status) => return (count, status),
        }
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_told_so_when_it_reads_on() {
    let (cluster, mut blocks) = slow_reader(1500).await;
    told(&cluster.servers[0], "consensus_clients_deliver_cut_total 1\n").await;
    let (count, status) = rest(&mut blocks).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("took nothing for longer than limits.deliver_stall_ms"), "{status}");
    assert!(count < 8, "{count} blocks were on their way");
    cluster.stop().await;
}

#[tokio::test]
async fn the_connection_of_a_reader_that_never_reads_on_is_closed() {
    let (cluster, mut blocks) = slow_reader(100).await;
    told(&cluster.servers[0], "consensus_clients_connections 0\n").await;
    let (count, status) = rest(&mut blocks).await;
    assert!(count < 8 && status.code() != Code::Ok, "{count} {status:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_reader_that_waits_for_blocks_is_not_slow() {
    let cluster = alone("[limits]\ndeliver_stall_ms = 100\n").await;
    let mut client = ordering(&cluster.servers[0]).await;
    let request = DeliverRequest { from: deliver_request::From::Live.into(), ..Default::default() };
    let mut blocks = client.deliver(request).await.expect("opened").into_inner();
    for number in 0..4 {
        // Longer than a reader may take nothing.
        let waited = tokio::time::timeout(Duration::from_millis(300), blocks.message()).await;
        assert!(waited.is_err(), "there is no block yet");
        let payload = format!("{number}").into();
        client.submit(SubmitRequest { payload, ..Default::default() }).await.expect("committed");
        let block = tokio::time::timeout(PATIENCE, blocks.message()).await.expect("in time");
        assert!(block.expect("goes on").is_some());
    }
    assert!(metrics(&cluster.servers[0]).await.contains("consensus_clients_deliver_cut_total 0\n"));
    cluster.stop().await;
}
