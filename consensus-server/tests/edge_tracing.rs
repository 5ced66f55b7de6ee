//! Traces of real nodes, as a collector gets them: complete where something is sampled, nothing where not, and no
//! harm when the collector is none.

mod collector;
mod edge_harness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use collector::{Collector, Seen, section};
use consensus_core::ids::NodeId;
use consensus_proto::ordering::{SubmitBatch, SubmitReply, SubmitRequest, TipRequest, submit_reply};
use consensus_server::lifecycle::Server;
use edge_harness::certificates::Authority;
use edge_harness::{Cluster, alone, metric, ordering, transaction};
use tokio::net::TcpListener;
use tonic::Request;

const CALLER: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

/// A submission whose caller says this about its trace.
async fn submit(server: &Server, payload: String, traceparent: Option<&str>) -> SubmitReply {
    let mut request = Request::new(SubmitRequest { payload: payload.into(), ..Default::default() });
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse().expect("a header"));
    }
    ordering(server).await.submit(request).await.expect("committed").into_inner()
}

fn height(reply: &SubmitReply) -> u64 {
    let Some(submit_reply::Outcome::Committed(committed)) = &reply.outcome else { panic!("{reply:?}") };
    committed.height
}

/// Waits until every node has applied this block.
async fn level(cluster: &Cluster, height: u64) {
    for server in &cluster.servers {
        let mut client = ordering(server).await;
        while client.tip(TipRequest::default()).await.expect("answers").into_inner().height < height {
            tokio::task::yield_now().await;
        }
    }
}

/// What is missing in the trace of a block for it to be complete: the leader's spans, and each node's own.
fn missing(root: &Seen, spans: &[&Seen], nodes: &[String]) -> Vec<String> {
    let mut expected = BTreeSet::from([(root.node.clone(), "propose".to_owned(), String::new())]);
    for node in nodes {
        for name in ["sync", "commit", "apply"] {
            expected.insert((node.clone(), name.to_owned(), String::new()));
        }
        if *node != root.node {
            expected.insert((root.node.clone(), "replicate".to_owned(), node.clone()));
        }
    }
    for span in spans.iter().filter(|span| span.span != root.span) {
        let peer = span.attributes.get("consensus.peer").cloned().unwrap_or_default();
        let what = (span.node.clone(), span.name.clone(), peer);
        assert!(expected.remove(&what), "once and expected: {what:?}");
    }
    expected.into_iter().map(|(node, name, peer)| format!("{name} {peer} of {node}")).collect()
}

/// Traces that begin with a block: their first span, and all of them.
fn blocks(spans: &[Seen]) -> Vec<(&Seen, Vec<&Seen>)> {
    let mut traces: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.trace).or_default().push(span);
    }
    let roots = spans.iter().filter(|span| span.name == "block");
    roots.map(|root| (root, traces[root.trace.as_str()].clone())).collect()
}

fn complete(spans: &[Seen], nodes: &[String]) -> usize {
    blocks(spans).iter().filter(|(root, all)| missing(root, all, nodes).is_empty()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nearly_every_sampled_block_has_one_trace_with_the_spans_of_all_nodes() {
    let collector = Collector::start().await;
    // A change of the leader would begin some submissions and blocks anew, as it should; that is not the claim here.
    let cluster = Cluster::start_ticking(200, 3, &[], |_| collector.section("1.0")).await;
    let nodes: Vec<String> =
        cluster.servers.iter().map(|server| server.config().node_id.to_string()).collect();
    let first = height(&submit(cluster.follower().await, "first".to_owned(), None).await);
    level(&cluster, first).await;
    let mut client = ordering(cluster.follower().await).await;
    let mut heights = BTreeSet::new();
    for n in 0..60 {
        heights.insert(height(&submit(&cluster.servers[n % 3], format!("one by one {n}"), None).await));
    }
    let frames: Vec<SubmitBatch> = (0..200)
        .map(|sequence| {
            let transactions = (0..5).map(|n| transaction(format!("s{sequence}-{n}"), "x")).collect();
            SubmitBatch { sequence, transactions, acknowledgement: 0 }
        })
        .collect();
    let replies = client.submit_stream(futures_util::stream::iter(frames)).await.expect("opens");
    let mut replies = replies.into_inner();
    while let Some(reply) = replies.message().await.expect("no error of the stream") {
        assert_eq!(reply.outcomes.iter().map(|outcome| outcome.count).sum::<u32>(), 5);
    }
    let tip = client.tip(TipRequest::default()).await.expect("answers").into_inner().height;
    // The spans of a submission end after those of its block, and travel by themselves.
    let told = |spans: &[Seen]| {
        let submissions =
            ["submit", "order"].map(|name| spans.iter().filter(|span| span.name == name).count());
        complete(spans, &nodes) as u64 >= tip && submissions.iter().all(|count| *count >= 261)
    };
    let spans = collector.until(told).await;

    let blocks = blocks(&spans);
    assert!(blocks.len() >= 60, "{} blocks", blocks.len());
    let whole = complete(&spans, &nodes);
    let lacking: Vec<_> = blocks.iter().map(|(root, all)| missing(root, all, &nodes)).collect();
    let lacking: Vec<_> = lacking.iter().filter(|missing| !missing.is_empty()).collect();
    println!("{whole} of {} traces are complete, {} spans", blocks.len(), spans.len());
    assert!(whole * 100 >= blocks.len() * 99, "{whole} of {}, {lacking:?}", blocks.len());
    for (root, all) in &blocks {
        assert_eq!(root.parent, "", "{root:?}");
        assert!(!root.failed && root.attributes.contains_key("consensus.height"), "{root:?}");
        for span in all.iter().filter(|span| span.span != root.span) {
            assert_eq!(span.parent, root.span, "{span:?}");
            assert!(span.nanos.0 <= span.nanos.1 && span.service == "ordering", "{span:?}");
        }
    }
    submissions_and_blocks_link(&spans);
    cluster.stop().await;
}

/// Every submission's trace is whole, and leads to its block and back.
fn submissions_and_blocks_link(spans: &[Seen]) {
    let by_ids: BTreeMap<_, _> = spans.iter().map(|span| (span.ids(), span)).collect();
    let named = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    assert_eq!(named("submit").count(), 261);
    assert_eq!(named("order").count(), 261);
    assert!(named("forward").count() >= 200, "a follower was asked");
    for order in named("order") {
        let above = by_ids[&(order.trace.clone(), order.parent.clone())];
        let submit = match above.name.as_str() {
            "submit" => above,
            "forward" => by_ids[&(above.trace.clone(), above.parent.clone())],
            other => panic!("{other} above an order"),
        };
        assert_eq!((submit.name.as_str(), submit.parent.as_str()), ("submit", ""));
        assert!(!order.links.is_empty(), "{order:?}");
        for link in &order.links {
            let block = by_ids[link];
            assert_eq!(block.name, "block");
            assert!(block.links.contains(&order.ids()) || block.links.len() == 32, "{block:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_trace_goes_on_and_one_that_cannot_be_read_is_ignored() {
    let collector = Collector::start().await;
    let cluster = alone(&collector.section("0")).await;
    let server = &cluster.servers[0];
    for (n, traceparent) in [
        None,
        Some("garbage"),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"),
        Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]
    .into_iter()
    .enumerate()
    {
        submit(server, format!("not traced {n}"), traceparent).await;
    }
    let mut statuses = server.chain().watch_status();
    let index = statuses.wait_for(|status| status.applied > 5).await.expect("runs").applied;
    let id = server.chain().id();
    let log = server.chain().reader().entries(id, 1, index + 1, u64::MAX).expect("readable");
    assert!(log.len() >= 5 && log.iter().all(|entry| entry.context.is_empty()), "{log:?}");

    let (trace, span) = CALLER;
    submit(server, "traced".to_owned(), Some(&format!("00-{trace}-{span}-01"))).await;
    let names = |spans: &[Seen]| spans.iter().map(|span| span.name.clone()).collect::<BTreeSet<_>>();
    let spans = collector.until(|spans| names(spans).len() >= 7).await;
    let expected = ["apply", "block", "commit", "order", "propose", "submit", "sync"];
    assert_eq!(names(&spans), expected.map(str::to_owned).into());
    assert_eq!(spans.len(), expected.len(), "nothing else was traced: {spans:?}");
    let submit = spans.iter().find(|span| span.name == "submit").expect("just seen");
    assert_eq!((submit.trace.as_str(), submit.parent.as_str()), CALLER);
    let order = spans.iter().find(|span| span.name == "order").expect("just seen");
    assert_eq!((order.trace.as_str(), &order.parent), (trace, &submit.span));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_trace_has_the_same_chain_as_those_that_do() {
    let collector = Collector::start().await;
    let section = |id| if id == 3 { String::new() } else { collector.section("1") };
    let cluster = Cluster::start_each(3, &[], section).await;
    let plain = NodeId::new(3).expect("not 0");
    let through = &cluster.servers[0];
    let mut last = height(&submit(through, "first".to_owned(), None).await);
    while cluster.leader().await == plain {
        // The other one may lack the newest entry for an instant.
        let _ = cluster.server(plain).chain().transfer_leader(NodeId::new(1)).await;
    }
    for n in 0..20 {
        last = height(&submit(through, format!("block {n}"), None).await);
    }
    level(&cluster, last).await;
    let mut hashes = BTreeSet::new();
    for server in &cluster.servers {
        let mut client = ordering(server).await;
        let request = consensus_proto::ordering::GetBlockRequest {
            block: Some(consensus_proto::ordering::get_block_request::Block::Number(last)),
        };
        hashes.insert(client.get_block(request).await.expect("is there").into_inner().hash);
        // The status that is published may lag behind the log for an instant.
        let mut statuses = server.chain().watch_status();
        loop {
            let last = statuses.borrow_and_update().last;
            let log = server.chain().reader().entries(server.chain().id(), 1, last + 1, u64::MAX);
            let log = log.expect("readable");
            if log.iter().filter(|entry| !entry.context.is_empty()).count() >= 20 {
                break;
            }
            let changed = tokio::time::timeout(Duration::from_secs(20), statuses.changed()).await;
            changed.expect("the same log everywhere").expect("runs");
        }
    }
    assert_eq!(hashes.len(), 1);
    let applied = |spans: &[Seen]| spans.iter().filter(|span| span.name == "apply").count();
    let spans = collector.until(|spans| applied(spans) >= 40).await;
    assert!(applied(&spans) >= 40, "{}", applied(&spans));
    cluster.stop().await;
}

/// Submits for a while and stops, with a collector of which nothing comes.
async fn goes_on_without_a_collector(address: SocketAddr) {
    let cluster = alone(&section(address, "1.0")).await;
    let server = &cluster.servers[0];
    let ops = server.config().listen.ops;
    let began = Instant::now();
    for n in 0..50 {
        submit(server, format!("untold {n}"), None).await;
    }
    println!("50 submissions one by one took {:?}", began.elapsed());
    let dropped = "consensus_tracing_spans_dropped_total{reason=\"export-failed\"}";
    while metric(ops, dropped).await == Some(0.0) {
        submit(server, format!("meanwhile {:?}", began.elapsed()), None).await;
    }
    assert!(metric(ops, dropped).await > Some(0.0));
    assert_eq!(metric(ops, "consensus_tracing_spans_exported_total").await, Some(0.0));
    let began = Instant::now();
    cluster.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_costs_dropped_spans_and_nothing_else() {
    // Connections are taken by the system and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    goes_on_without_a_collector(silent.local_addr().expect("bound")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_absent_costs_dropped_spans_and_nothing_else() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    goes_on_without_a_collector(gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_sends_the_spans_that_are_left() {
    let collector = Collector::start().await;
    let cluster = alone(&collector.section("1.0")).await;
    submit(&cluster.servers[0], "last".to_owned(), None).await;
    cluster.stop().await;
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "submit"), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_go_over_tls_to_a_collector_that_the_authorities_vouch_for_and_to_no_other() {
    let (authority, stranger) = (Authority::new("collectors"), Authority::new("strangers"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, &authority.pem).expect("written");
    let honest = Collector::start_tls(authority.issue("collector", &[]).server_config()).await;
    let other = Collector::start_tls(stranger.issue("collector", &[]).server_config()).await;
    let cluster = alone(&honest.section_tls(&file)).await;
    submit(&cluster.servers[0], "told".to_owned(), None).await;
    let spans = honest.until(|spans| spans.iter().any(|span| span.name == "submit")).await;
    assert!(spans.iter().any(|span| span.name == "submit"), "{spans:?}");
    cluster.stop().await;

    let cluster = alone(&other.section_tls(&file)).await;
    let ops = cluster.servers[0].config().listen.ops;
    submit(&cluster.servers[0], "not told".to_owned(), None).await;
    let dropped = "consensus_tracing_spans_dropped_total{reason=\"export-failed\"}";
    while metric(ops, dropped).await == Some(0.0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(metric(ops, "consensus_tracing_spans_exported_total").await, Some(0.0));
    cluster.stop().await;
    assert!(other.spans().is_empty());
}
