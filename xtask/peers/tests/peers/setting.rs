//! Several nodes in one process: real stand-ins on ephemeral ports, and in the place of each consensus
//! service one that answers what it is told and commits what the test wants.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cita_peers::config::{ControllerConfig, Module, NetworkConfig, origin};
use cita_peers::{Timing, call, controller, network};
use consensus_proto::cita::common::{
    ConsensusConfiguration, ConsensusConfigurationResponse, Empty, Proposal, ProposalWithProof, StatusCode,
};
use consensus_proto::cita::consensus_service_server::{ConsensusService, ConsensusServiceServer};
use consensus_proto::cita::controller::consensus2_controller_service_client::Consensus2ControllerServiceClient;
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_msg_handler_service_server::{
    NetworkMsgHandlerService, NetworkMsgHandlerServiceServer,
};
use consensus_proto::cita::network::network_service_client::NetworkServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const TIMING: Timing = Timing {
    register: Duration::from_millis(50),
    quiet: Duration::from_millis(500),
    fetch: Duration::from_millis(200),
};

/// In the place of a consensus service.
#[derive(Clone, Debug)]
pub(super) struct Consensus {
    /// What CheckBlock answers.
    pub(super) check_code: Arc<AtomicU32>,
    /// The height of the newest Reconfigure.
    pub(super) height: Arc<AtomicU64>,
    messages: mpsc::Sender<NetworkMsg>,
}

#[tonic::async_trait]
impl ConsensusService for Consensus {
    async fn reconfigure(
        &self,
        request: Request<ConsensusConfiguration>,
    ) -> Result<Response<StatusCode>, Status> {
        self.height.store(request.into_inner().height, Ordering::Release);
        Ok(Response::new(StatusCode { code: 0 }))
    }

    async fn check_block(&self, _: Request<ProposalWithProof>) -> Result<Response<StatusCode>, Status> {
        Ok(Response::new(StatusCode { code: self.check_code.load(Ordering::Acquire) }))
    }
}

#[tonic::async_trait]
impl NetworkMsgHandlerService for Consensus {
    async fn process_network_msg(
        &self,
        request: Request<NetworkMsg>,
    ) -> Result<Response<StatusCode>, Status> {
        self.messages
            .try_send(request.into_inner())
            .map_err(|_| Status::internal("the test reads nothing"))?;
        Ok(Response::new(StatusCode { code: 0 }))
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Bytes,
    pub(super) controller: Consensus2ControllerServiceClient<Channel>,
    pub(super) network: NetworkServiceClient<Channel>,
    pub(super) consensus: Consensus,
    /// What the network handed to consensus.
    pub(super) messages: mpsc::Receiver<NetworkMsg>,
    controller_control: u16,
    network_control: u16,
    _directory: TempDir,
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Nodes of one chain with block interval 3, whose networks know each other.
pub(super) async fn nodes(count: u8) -> Vec<Node> {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(listener().await);
    }
    let ports = peers.iter().map(|(_, port)| *port).collect::<Vec<_>>();
    let addresses = (1..=count).map(|number| Bytes::from(vec![number; 20])).collect::<Vec<_>>();
    let mut nodes = Vec::new();
    for (index, (peers, port)) in peers.into_iter().enumerate() {
        let others = ports.iter().copied().filter(|other| *other != port).collect();
        nodes.push(node(index, &addresses, (peers, port), others).await);
    }
    for node in &nodes {
        let connected = |status: &Value| status["peers"].as_array().unwrap().len() == nodes.len() - 1;
        node.network_status(connected).await;
        node.status(|status| status["counts"]["reconfigure"]["answered"] == 1).await;
    }
    nodes
}

async fn node(index: usize, addresses: &[Bytes], peers: (TcpListener, u16), others: Vec<u16>) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let address = addresses[index].clone();
    let (consensus_listener, consensus_port) = listener().await;
    let (network_listener, network_port) = listener().await;
    let (controller_listener, controller_port) = listener().await;
    let (network_control, network_control_port) = listener().await;
    let (controller_control, controller_control_port) = listener().await;
    let module =
        |name: &str, port| Module { module_name: name.to_owned(), hostname: "127.0.0.1".to_owned(), port };
    let network_config = NetworkConfig {
        grpc_port: network_port,
        port: peers.1,
        chain: 7,
        node: origin(&address),
        validator: origin(&address),
        modules: vec![module("consensus", consensus_port), module("controller", controller_port)],
        peers: others,
    };
    let controller_config = ControllerConfig {
        controller_port,
        consensus_port,
        network_port,
        address: address.clone(),
        block_interval: 3,
        validators: addresses.to_vec(),
        chain_id: Bytes::from_static(b"chain"),
        genesis_ms: 1,
    };
    let (messages, received) = mpsc::channel(10_000);
    let consensus =
        Consensus { check_code: Arc::default(), height: Arc::new(AtomicU64::new(u64::MAX)), messages };
    let router = Server::builder()
        .add_service(ConsensusServiceServer::new(consensus.clone()).max_decoding_message_size(usize::MAX))
        .add_service(NetworkMsgHandlerServiceServer::new(consensus.clone()));
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(consensus_listener)));
    let options = network::Options {
        control: network_control,
        listener: Some(network_listener),
        peers: Some(peers.0),
        seed: index as u64,
    };
    tokio::spawn(network::run(network_config, options));
    let path = directory.path().to_path_buf();
    tokio::spawn(async move {
        let options = controller::Options {
            directory: &path,
            is_synced: false,
            timing: TIMING,
            control: controller_control,
            listener: Some(controller_listener),
        };
        controller::run(controller_config, options).await
    });
    let channel = |port| call::channel("127.0.0.1", port).unwrap();
    Node {
        address,
        controller: Consensus2ControllerServiceClient::new(channel(controller_port))
            .max_decoding_message_size(usize::MAX),
        network: NetworkServiceClient::new(channel(network_port)),
        consensus,
        messages: received,
        controller_control: controller_control_port,
        network_control: network_control_port,
        _directory: directory,
    }
}

impl Node {
    pub(super) async fn propose(&mut self) -> Result<Proposal, u32> {
        let answer = self.controller.get_proposal(Empty {}).await.unwrap().into_inner();
        match answer.status.unwrap().code {
            0 => Ok(answer.proposal.unwrap()),
            code => Err(code),
        }
    }

    pub(super) async fn check(&mut self, proposal: &Proposal) -> u32 {
        self.controller.check_proposal(proposal.clone()).await.unwrap().into_inner().code
    }

    pub(super) async fn commit(
        &mut self,
        proposal: &Proposal,
    ) -> Result<(u32, ConsensusConfiguration), Status> {
        let block = ProposalWithProof { proposal: Some(proposal.clone()), proof: Bytes::new() };
        let answer: ConsensusConfigurationResponse = self.controller.commit_block(block).await?.into_inner();
        Ok((answer.status.unwrap().code, answer.config.unwrap()))
    }

    pub(super) async fn ping(&mut self) -> ConsensusConfiguration {
        let ping = Proposal { height: u64::MAX, data: Bytes::new() };
        let (code, configuration) = self.commit(&ping).await.unwrap();
        assert_eq!(code, 0);
        configuration
    }

    /// The controller's status, when it is as wanted.
    pub(super) async fn status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        poll(|| http(self.controller_control, "GET", "/status", None), wanted).await
    }

    /// The network's status, when it is as wanted.
    pub(super) async fn network_status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        poll(|| http(self.network_control, "GET", "/status", None), wanted).await
    }

    /// Waits until the controller is at a height.
    pub(super) async fn at(&self, height: u64) -> Value {
        self.status(|status| status["height"] == height).await
    }

    pub(super) async fn blocks(&self) -> Value {
        http(self.controller_control, "GET", "/blocks?txs=true", None).await.unwrap()
    }

    pub(super) async fn order(&self, path: &str, body: Value) -> Value {
        http(self.controller_control, "POST", path, Some(body)).await.unwrap()
    }

    pub(super) async fn order_network(&self, path: &str, body: Value) -> Value {
        http(self.network_control, "POST", path, Some(body)).await.unwrap()
    }

    /// Broadcasts `count` numbered messages of module consensus, or sends them to one node.
    pub(super) async fn send_numbered(&mut self, to: Option<&Bytes>, count: u32) {
        for number in 0..count {
            let message = NetworkMsg {
                module: "consensus".to_owned(),
                r#type: "numbered".to_owned(),
                origin: to.map_or(0, |address| origin(address)),
                msg: Bytes::copy_from_slice(&number.to_be_bytes()),
            };
            let sent = match to {
                Some(_) => self.network.send_msg(message).await,
                None => self.network.broadcast(message).await,
            };
            assert_eq!(sent.unwrap().into_inner().code, 0);
        }
    }

    /// The numbers of the next messages.
    pub(super) async fn numbers(&mut self, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let message = tokio::time::timeout(PATIENCE, self.messages.recv()).await.unwrap().unwrap();
            numbers.push(u32::from_be_bytes(message.msg[..].try_into().unwrap()));
        }
        numbers
    }
}

/// Commits the next block of `nodes[leader]` on all nodes, after they have checked it. Returns it.
pub(super) async fn next_block(nodes: &mut [Node], leader: usize) -> Proposal {
    let proposal = nodes[leader].propose().await.unwrap();
    for node in nodes.iter_mut() {
        assert_eq!(node.check(&proposal).await, 0);
    }
    for node in nodes.iter_mut() {
        let (code, configuration) = node.commit(&proposal).await.unwrap();
        assert_eq!((code, configuration.height), (0, proposal.height));
    }
    proposal
}

async fn poll<Asked>(ask: impl Fn() -> Asked, wanted: impl Fn(&Value) -> bool) -> Value
where
    Asked: Future<Output = std::io::Result<Value>>,
{
    let end = Instant::now() + PATIENCE;
    let mut last = json!(null);
    while Instant::now() < end {
        if let Ok(value) = ask().await {
            if wanted(&value) {
                return value;
            }
            last = value;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within {PATIENCE:?}: {last:#}");
}

async fn http(port: u16, method: &str, path: &str, body: Option<Value>) -> std::io::Result<Value> {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    Ok(serde_json::from_str(body).unwrap())
}
