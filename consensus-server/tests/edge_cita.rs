//! The services of a CITA-Cloud node and its operations listener, on free ports, called as the controller, the
//! network, a probe and a scraper call them.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use consensus_proto::cita::common::{ConsensusConfiguration, Proposal, ProposalWithProof};
use consensus_proto::cita::consensus_service_client::ConsensusServiceClient;
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_msg_handler_service_client::NetworkMsgHandlerServiceClient;
use consensus_server::audit::AuditLog;
use consensus_server::config::LogFormat;
use consensus_server::config::cita::Reconfigured;
use consensus_server::ops::health::{Check, Checks};
use consensus_server::ops::{OpsView, http};
use consensus_server::services::cita::{ConsensusService, NetworkMsgHandlerService, cita_router};
use consensus_server::services::{bind_everywhere, incoming, report_health};
use consensus_server::telemetry::metrics::CallMetrics;
use consensus_server::telemetry::{Metrics, logging};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Live, and ready if somebody says so.
#[derive(Debug)]
struct View {
    ready: AtomicBool,
}

impl OpsView for View {
    fn liveness(&self) -> Checks {
        Checks(vec![Check { name: "driver", ok: true, found: "turns over".to_owned() }])
    }

    fn readiness(&self) -> Checks {
        let ok = self.ready.load(Ordering::Relaxed);
        Checks(vec![Check { name: "leader", ok, found: "as told".to_owned() }])
    }

    fn status_json(&self) -> Value {
        json!({ "height": 7 })
    }

    fn cluster_json(&self) -> BoxFuture<'_, Value> {
        Box::pin(std::future::ready(json!({ "nodes": [] })))
    }
}

/// Everything that is served, and what became of it.
struct Served {
    grpc: SocketAddr,
    ops: SocketAddr,
    view: Arc<View>,
    newest: watch::Receiver<Option<Reconfigured>>,
    messages: Arc<Mutex<Vec<(u64, Bytes)>>>,
    full: Arc<AtomicBool>,
    _stopping: watch::Sender<bool>,
    /// Of the audit log.
    _directory: tempfile::TempDir,
    /// The log filter is this one's.
    _subscriber: Box<dyn Any>,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn any_port() -> (TcpListener, SocketAddr) {
    let listener = bind_everywhere("port", 0).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, SocketAddr::from(([127, 0, 0, 1], port)))
}

impl Served {
    async fn start() -> Self {
        let view = Arc::new(View { ready: AtomicBool::new(false) });
        let metrics = Arc::new(Metrics::new(1));
        let calls = CallMetrics::new(&metrics, &[1.0, 500.0]);
        let (subscriber, log) = logging::build("info", LogFormat::Human).expect("valid");
        metrics.watch_log(log.clone());
        let stop = CancellationToken::new();
        let (newest_sender, newest) = watch::channel(None);
        let (messages, full) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (taken, refusing) = (messages.clone(), full.clone());
        let network = NetworkMsgHandlerService::new(Arc::new(move |origin, msg| {
            let room = !refusing.load(Ordering::Relaxed);
            if room {
                taken.lock().expect("not poisoned").push((origin, msg));
            }
            room
        }));
        let (router, reporter) =
            cita_router(ConsensusService::new(newest_sender), network, &calls).expect("descriptors");
        let (listener, grpc) = any_port().await;
        let serving =
            router.serve_with_incoming_shutdown(incoming(listener, "grpc"), stop.clone().cancelled_owned());
        tokio::spawn(serving);
        let (stopping, stop_seen) = watch::channel(false);
        tokio::spawn(report_health(reporter, view.clone(), None, stop_seen));
        let (listener, ops) = any_port().await;
        let directory = tempfile::tempdir().expect("a directory");
        let audit = AuditLog::new(directory.path());
        let served_ops = http::Ops { view: view.clone(), metrics, log, audit, refusals: None };
        tokio::spawn(http::serve(listener, served_ops, stop.clone()));
        Self {
            grpc,
            ops,
            view,
            newest,
            messages,
            full,
            _stopping: stopping,
            _directory: directory,
            _subscriber: Box::new(subscriber),
            stop,
        }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).expect("an address");
        endpoint.connect().await.expect("listens")
    }

    async fn http(&self, request: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(self.ops).await.expect("listens");
        let (line, body) = request.split_once('\n').unwrap_or((request, ""));
        let text = format!(
            "{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(text.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("text");
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (code, body.expect("headers end"))
    }

    async fn count(&self, series: &str) -> Option<u64> {
        let (_, text) = self.http("GET /metrics").await;
        let line = text.lines().find(|line| line.split(' ').next() == Some(series))?;
        line.split(' ').nth(1)?.parse().ok()
    }
}

fn configuration(height: u64, block_interval: u32) -> ConsensusConfiguration {
    let validators = vec![Bytes::from(vec![1; 20]), Bytes::from(vec![2; 20])];
    ConsensusConfiguration { height, block_interval, validators }
}

/// A call of a client that names itself.
fn from<T>(client: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("client-name", client.parse().expect("ascii"));
    request
}

fn message(module: &str, origin: u64, msg: Vec<u8>) -> NetworkMsg {
    NetworkMsg { module: module.to_owned(), r#type: "raft".to_owned(), origin, msg: msg.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_configurations_is_answered_at_once_and_only_the_newest_counts() {
    let served = Served::start().await;
    let client = ConsensusServiceClient::new(served.channel().await);
    let mut calls = tokio::task::JoinSet::new();
    for height in 0..1000 {
        let mut client = client.clone();
        calls.spawn(async move { client.reconfigure(from("controller", configuration(height, 3))).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.expect("no panic").expect("no error").into_inner().code, 0);
    }
    let newest = served.newest.borrow().clone().expect("told");
    assert_eq!((newest.height, newest.block_interval), (999, Duration::from_secs(3)));
    assert_eq!(newest.validators, [vec![1; 20], vec![2; 20]]);

    let mut client = client;
    client.reconfigure(configuration(998, 9)).await.expect("answered: late ones as well");
    assert_eq!(served.newest.borrow().as_ref().map(|newest| newest.height), Some(999));
    client.reconfigure(configuration(999, 0)).await.expect("answered");
    let newest = served.newest.borrow().clone().expect("told");
    assert_eq!(
        (newest.height, newest.block_interval),
        (999, Duration::ZERO),
        "the same height said anew counts"
    );
    assert_eq!(served.count("controller_to_Reconfigure_count").await, Some(1000), "only those with a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_the_controllers_sync_is_never_refused() {
    let served = Served::start().await;
    let mut client =
        ConsensusServiceClient::new(served.channel().await).max_encoding_message_size(usize::MAX);
    let proposal = Proposal { height: 8, data: vec![7; 8 << 20].into() };
    let block = ProposalWithProof { proposal: Some(proposal), proof: Bytes::new() };
    for block in [block, ProposalWithProof::default()] {
        let answer = client.check_block(from("controller", block)).await.expect("no error");
        assert_eq!(answer.into_inner().code, 0);
    }
    assert_eq!(served.count("controller_to_CheckBlock_count").await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_any_size_are_handed_on_and_foreign_ones_are_refused() {
    let served = Served::start().await;
    let mut client =
        NetworkMsgHandlerServiceClient::new(served.channel().await).max_encoding_message_size(usize::MAX);
    let large: Vec<u8> = (0..8 << 20).map(|byte: u32| byte as u8).collect();
    for msg in [b"small".to_vec(), large.clone()] {
        let request = from("network", message("consensus", 7, msg));
        assert_eq!(client.process_network_msg(request).await.expect("no error").into_inner().code, 0);
    }
    let foreign = client.process_network_msg(message("controller", 7, b"x".to_vec())).await;
    assert_ne!(foreign.expect("an error would be sent again").into_inner().code, 0);
    served.full.store(true, Ordering::Relaxed);
    let dropped = client.process_network_msg(message("consensus", 7, b"x".to_vec())).await;
    assert_eq!(dropped.expect("an error would be sent again").into_inner().code, 0);

    let messages = served.messages.lock().expect("not poisoned").clone();
    assert_eq!(messages.len(), 2, "neither the foreign nor the dropped one");
    assert_eq!(messages[0], (7, Bytes::from_static(b"small")));
    assert!(messages[1] == (7, Bytes::from(large)), "8 MiB arrive as they were sent");
    assert_eq!(served.count("network_to_ProcessNetworkMsg_count").await, Some(2), "only those with a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_learns_that_it_lives_and_whether_it_is_ready() {
    let served = Served::start().await;
    let mut client = HealthClient::new(served.channel().await);
    let mut watched =
        client.watch(HealthCheckRequest { service: "ready".to_owned() }).await.expect("there").into_inner();
    let mut wait_for = async |status: ServingStatus| {
        while watched.message().await.expect("no error").expect("goes on").status() != status {}
    };
    wait_for(ServingStatus::NotServing).await;
    let check = client.check(HealthCheckRequest::default()).await.expect("there");
    assert_eq!(
        check.into_inner().status(),
        ServingStatus::Serving,
        "nobody restarts it for want of a leader"
    );
    assert_eq!(served.http("GET /readyz").await, (503, "leader: as told\n".to_owned()));
    served.view.ready.store(true, Ordering::Relaxed);
    wait_for(ServingStatus::Serving).await;
    assert_eq!(served.http("GET /readyz").await, (200, "ok\n".to_owned()));
    let unknown = client.check(HealthCheckRequest { service: "other".to_owned() }).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_and_scrapers_find_what_they_know_and_are_told_what_there_is() {
    let served = Served::start().await;
    assert_eq!(served.http("GET /livez").await, (200, "ok\n".to_owned()));
    assert_eq!(served.http("GET /status").await, (200, "{\"height\":7}".to_owned()));
    let (code, text) = served.http("GET /metrics").await;
    assert_eq!(code, 200);
    for series in [
        "controller_to_Reconfigure_bucket{le=\"500.0\"} 0",
        "controller_to_CheckBlock_count 0",
        "network_to_ProcessNetworkMsg_count 0",
        "consensus_log_lost_lines_total 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} in\n{text}");
    }
    let (code, help) = served.http("GET /elsewhere").await;
    assert!(code == 404 && help.contains("/metrics"), "{code} {help}");
    assert_eq!(served.http("PUT /log\ndebug").await, (200, "info\n".to_owned()), "from this host");
    assert_eq!(served.http("GET /log").await, (200, "debug\n".to_owned()));
}
