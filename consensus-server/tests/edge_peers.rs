//! The peer port as a stranger sees it: who is refused and in which words, and that noise does no harm.

mod edge_harness;

use std::net::SocketAddr;

use consensus_proto::peer::peer_client::PeerClient;
use consensus_proto::peer::{
    ForwardRequest, Hello, PeerFrame, RaftBatch, ReadIndexRequest, peer_frame::Frame,
};
use consensus_proto::raft::Message;
use consensus_server::lifecycle::Server;
use edge_harness::{Cluster, alone, hello, metric, ordering, peer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

fn frame(hello: Hello) -> PeerFrame {
    PeerFrame { frame: Some(Frame::Hello(hello)) }
}

/// Opens a stream of messages; the welcome's node id.
async fn open(client: &mut PeerClient<Channel>, frames: Vec<PeerFrame>) -> Result<u64, Status> {
    let mut answers = client.messages(futures_util::stream::iter(frames)).await?.into_inner();
    Ok(answers.message().await?.expect("a welcome").node_id)
}

#[tokio::test]
async fn whoever_differs_is_refused_in_words_that_name_the_difference() {
    let cluster = Cluster::start_without(1, &[2], "").await;
    let server = &cluster.servers[0];
    let good = hello(server, 2);
    let mut client = peer(server).await;
    let genesis = server.chain().identity().genesis_hash;
    let cases: [(&str, Hello, String); 8] = [
        (
            "version",
            Hello { protocol_version: 2, ..good.clone() },
            "protocol version differs: the caller has 2, this node has 1".to_owned(),
        ),
        (
            "cluster",
            Hello { cluster: "other".to_owned(), ..good.clone() },
            "cluster differs: the caller has \"other\", this node has \"test\"".to_owned(),
        ),
        (
            "chain",
            Hello { chain: "side".to_owned(), ..good.clone() },
            "chain differs: the caller has \"side\", this node has \"main\"".to_owned(),
        ),
        (
            "incarnation",
            Hello { chain_incarnation: 9, ..good.clone() },
            "chain incarnation differs: the caller has 9, this node has 1".to_owned(),
        ),
        (
            "genesis",
            Hello { genesis_hash: vec![7; 32].into(), ..good.clone() },
            format!("genesis hash differs: the caller has {}, this node has {genesis}", "07".repeat(32)),
        ),
        (
            "receiver",
            Hello { to_node_id: 5, ..good.clone() },
            "the caller looks for node 5, this is node 1".to_owned(),
        ),
        (
            "stranger",
            Hello { node_id: 8, ..good.clone() },
            "node 8 is no other member of the chain in this node's configuration".to_owned(),
        ),
        (
            "itself",
            Hello { node_id: 1, ..good.clone() },
            "node 1 is no other member of the chain in this node's configuration".to_owned(),
        ),
    ];
    for (name, hello, words) in cases {
        let refused = open(&mut client, vec![frame(hello.clone())]).await.expect_err(name);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{name}");
        assert!(refused.message().starts_with(&words), "{name}: {}", refused.message());
        let hello = Some(hello);
        let refused = client.read_index(ReadIndexRequest { hello: hello.clone() }).await.expect_err(name);
        assert!(refused.message().starts_with(&words), "{name}: {}", refused.message());
        let requests = futures_util::stream::iter([ForwardRequest { hello, ..Default::default() }]);
        let refused = client.forward(requests).await.expect_err(name);
        assert!(refused.message().starts_with(&words), "{name}: {}", refused.message());
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_store_that_was_replaced_is_refused() {
    let cluster = Cluster::start_without(1, &[9], "").await;
    let server = &cluster.servers[0];
    let mut client = peer(server).await;
    let good = hello(server, 9);
    assert_eq!(open(&mut client, vec![frame(good.clone())]).await.expect("welcome"), 1);
    assert_eq!(open(&mut client, vec![frame(good.clone())]).await.expect("the same store again"), 1);
    let replaced = Hello { store_incarnation: vec![1; 16].into(), ..good.clone() };
    let refused = open(&mut client, vec![frame(replaced)]).await.expect_err("another store");
    assert!(
        refused.message().starts_with("store of node 9 was replaced: recorded 0909"),
        "{}",
        refused.message()
    );
    let short = Hello { store_incarnation: vec![1; 3].into(), ..good };
    let refused = open(&mut client, vec![frame(short)]).await.expect_err("no store");
    assert_eq!(refused.message(), "store incarnation of node 9 has 3 bytes, must have 16");
    cluster.stop().await;
}

#[tokio::test]
async fn a_stream_without_a_hello_or_with_nonsense_is_closed_and_the_next_one_is_served() {
    let cluster = Cluster::start_without(1, &[2], "").await;
    let server = &cluster.servers[0];
    let mut client = peer(server).await;
    let raft = |messages| PeerFrame { frame: Some(Frame::Raft(RaftBatch { messages })) };
    for frames in [vec![], vec![raft(vec![])], vec![PeerFrame { frame: None }]] {
        let refused = open(&mut client, frames).await.expect_err("no hello");
        assert_eq!(refused.message(), "the first frame must be a hello");
    }
    // A message of a type that nobody knows, and one that the chain's gate refuses.
    let unknown = Message { msg_type: 99, ..Message::default() };
    let forged = Message { msg_type: 3, from: 7, to: 1, term: 1, ..Message::default() };
    let good = || frame(hello(server, 2));
    assert_eq!(open(&mut client, vec![good(), raft(vec![unknown, forged])]).await.expect("welcome"), 1);
    let mut answers =
        client.messages(futures_util::stream::iter([good(), good()])).await.expect("welcome").into_inner();
    answers.message().await.expect("no error").expect("a welcome");
    assert_eq!(answers.message().await.expect_err("ended").message(), "a second hello");
    assert_eq!(open(&mut client, vec![good()]).await.expect("the server lives"), 1);
    cluster.stop().await;
}

/// What a page of the operations listener holds.
async fn page(server: &Server, path: &str) -> String {
    let mut connection = TcpStream::connect(server.config().listen.ops).await.expect("listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("is answered");
    answer
}

#[tokio::test]
async fn a_frame_that_is_no_message_ends_its_stream_and_is_counted_and_an_end_is_not() {
    use prost::Message as _;
    use tonic::codegen::Service as _;
    use tonic::codegen::http::Request;

    let cluster = Cluster::start_without(1, &[2], "").await;
    let server = &cluster.servers[0];
    let framed = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
        [&[0][..], &length, bytes].concat()
    };
    let counted = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("messages_malformed_total{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let good = frame(hello(server, 2));
    let mut client = peer(server).await;
    assert_eq!(open(&mut client, vec![good.clone()]).await.expect("welcome"), 1);
    assert_eq!(counted(&page(server, "/metrics").await), [""; 0]);

    let body = [framed(&good.encode_to_vec()), framed(b"\xff\xff\xff")].concat();
    let request =
        Request::post(format!("http://{}/consensus.peer.v1.Peer/Messages", server.config().listen.peer))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(axum::body::Body::from(body)))
            .expect("a request");
    let mut channel = Channel::from_shared(format!("http://{}", server.config().listen.peer))
        .expect("an address")
        .connect()
        .await
        .expect("listens");
    std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("is ready");
    let answer = channel.call(request).await.expect("a welcome");
    // The answer ends after the count.
    let answer = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1 << 20).await;
    drop(answer);
    let counted = counted(&page(server, "/metrics").await);
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert!(counted[0].contains("peer=\"2\"") && counted[0].contains("reason=\"frame\"} 1"), "{counted:?}");
    assert_eq!(open(&mut client, vec![good]).await.expect("the server lives"), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_ping_is_answered_by_its_number_and_one_without_a_number_ends_the_stream() {
    let cluster = Cluster::start_without(1, &[2], "").await;
    let server = &cluster.servers[0];
    let ping = |number| PeerFrame { frame: Some(Frame::Ping(number)) };
    let frames = [frame(hello(server, 2)), ping(7), ping(u64::MAX), ping(0)];
    let answers = peer(server).await.messages(futures_util::stream::iter(frames)).await;
    let mut answers = answers.expect("accepted").into_inner();
    let welcome = answers.message().await.expect("no error").expect("a welcome");
    assert!(welcome.answers_pings && welcome.pong == 0, "{welcome:?}");
    for number in [7, u64::MAX] {
        assert_eq!(answers.message().await.expect("no error").expect("a pong").pong, number);
    }
    assert_eq!(answers.message().await.expect_err("ended").message(), "a ping without a number");
    cluster.stop().await;
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_as_far_as_answers_are_taken_and_the_node_lives() {
    let cluster = Cluster::start_without(1, &[2], "").await;
    let server = &cluster.servers[0];
    let pings = (1..=100_000).map(|number| PeerFrame { frame: Some(Frame::Ping(number)) });
    let frames = std::iter::once(frame(hello(server, 2))).chain(pings);
    let mut client = peer(server).await;
    let answers = client.messages(futures_util::stream::iter(frames.collect::<Vec<_>>())).await;
    let mut answers = answers.expect("accepted").into_inner();
    let mut last = 0;
    while let Ok(Some(answer)) = answers.message().await {
        assert!(answer.pong == 0 || answer.pong > last, "in order, once: {} after {last}", answer.pong);
        last = answer.pong;
    }
    assert!(last > 0);
    assert_eq!(open(&mut client, vec![frame(hello(server, 2))]).await.expect("the server lives"), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn nodes_measure_the_way_there_and_back_to_each_other() {
    let cluster = Cluster::start(2, "").await;
    for (server, peer) in cluster.servers.iter().zip([2, 1]) {
        let series = format!("consensus_peer_round_trip_seconds_count{{chain=\"main\",peer=\"{peer}\"}}");
        let ops = server.config().listen.ops;
        while metric(ops, &series).await.expect("is there from the start") < 2.0 {
            tokio::task::yield_now().await;
        }
        let sum = metric(ops, &series.replace("_count", "_sum")).await.expect("with the count");
        assert!(sum > 0.0 && sum < 60.0, "{sum} s");
    }
    cluster.stop().await;
}

/// Sends bytes and reads until the other side hangs up.
async fn noise(address: SocketAddr, bytes: &[u8]) {
    let mut connection = TcpStream::connect(address).await.expect("listens");
    // The server may hang up before it has read everything.
    let _ = connection.write_all(bytes).await;
    let _ = connection.shutdown().await;
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
}

#[tokio::test]
async fn noise_on_any_port_closes_its_connection_and_the_server_lives() {
    let seed = 7;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let cluster = alone("").await;
    let server: &Server = &cluster.servers[0];
    let listen = server.config().listen;
    for address in [listen.peer, listen.client, listen.ops] {
        for preface in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
            let garbage: Vec<u8> = (0..4096).map(|_| rng.random()).collect();
            noise(address, &[preface, &garbage].concat()).await;
        }
    }
    let request = consensus_proto::ordering::SubmitRequest { payload: "after".into(), ..Default::default() };
    ordering(server).await.submit(request).await.expect("the server lives");
    cluster.stop().await;
}
