//! What a CITA-Cloud node's other services are served: the controller its configuration and its checks, the
//! network the messages that came for this service.
//!
//! No handler waits for anything: the controller calls under the lock that our own calls to it need. An
//! error status makes a caller repeat the same call up to ten times, so every answer is a code in the body.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus_proto::cita::common::{ConsensusConfiguration, ProposalWithProof, StatusCode};
use consensus_proto::cita::consensus_service_server::{
    ConsensusService as ConsensusApi, ConsensusServiceServer,
};
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_msg_handler_service_server::{
    NetworkMsgHandlerService as NetworkMsgHandlerApi, NetworkMsgHandlerServiceServer,
};
use tokio::sync::watch;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};
use tonic_health::server::HealthReporter;

use super::counted::Counted;
use crate::config::cita::Reconfigured;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::CallMetrics;

/// CITA-Cloud's code for success.
const CODE_SUCCESS: u32 = 0;
/// CITA-Cloud's code for a message that is meant for another module (ModuleNotController).
const CODE_FOREIGN_MODULE: u32 = 152;
/// The module that this service is in the network.
const MODULE: &str = "consensus";
/// Largest message: what CITA-Cloud's network itself carries at most. A bound closer to what a block needs
/// would refuse blocks that others agreed on under larger bounds, and that is answered by ten repetitions.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Calls in flight on one connection. Each is answered at once; the network begins one for each message.
const STREAMS_MAX: u32 = 1024;
/// Bytes of one call that wait for this service to take them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all calls of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often a line that others can provoke is written.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What the controller asks.
#[derive(Clone, Debug)]
pub struct ConsensusService {
    newest: watch::Sender<Option<Reconfigured>>,
}

impl ConsensusService {
    /// The newest configuration is put into `newest`: a controller that catches up sends hundreds a second,
    /// of which only the last counts. One that is older than what is there arrived late and is ignored; that a
    /// controller was set back is found by asking it, which is done every few seconds and after each failure.
    pub fn new(newest: watch::Sender<Option<Reconfigured>>) -> Self {
        Self { newest }
    }
}

#[tonic::async_trait]
impl ConsensusApi for ConsensusService {
    /// Always success: any other answer stops the controller's sync halfway through a block.
    async fn reconfigure(
        &self,
        request: Request<ConsensusConfiguration>,
    ) -> Result<Response<StatusCode>, Status> {
        let ConsensusConfiguration { height, block_interval, validators } = request.into_inner();
        let block_interval = Duration::from_secs(u64::from(block_interval));
        let validators = validators.into_iter().map(Vec::from).collect();
        let told = Reconfigured { height, block_interval, validators };
        let taken = self.newest.send_if_modified(|newest| {
            let newer = newest.as_ref().is_none_or(|newest| newest.height <= told.height);
            if newer {
                *newest = Some(told);
            }
            newer
        });
        tracing::debug!(height, taken, "configuration from the controller");
        Ok(Response::new(code(CODE_SUCCESS)))
    }

    /// Always success: Raft leaves no proof in a block, so there is nothing to find wrong here, and any other
    /// answer makes the controller distrust the peer that it has the block from.
    async fn check_block(&self, request: Request<ProposalWithProof>) -> Result<Response<StatusCode>, Status> {
        let height = request.get_ref().proposal.as_ref().map_or(0, |proposal| proposal.height);
        tracing::debug!(height, "block of the controller's sync");
        Ok(Response::new(code(CODE_SUCCESS)))
    }
}

/// Takes a message of a node, by origin and content, without waiting; whether it did. What it does not take
/// it counts.
pub type TakeMessage = Arc<dyn Fn(u64, Bytes) -> bool + Send + Sync>;

/// What the network brings.
#[derive(Clone)]
pub struct NetworkMsgHandlerService {
    take: TakeMessage,
    foreign_log: Arc<Throttle>,
}

impl fmt::Debug for NetworkMsgHandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkMsgHandlerService").finish_non_exhaustive()
    }
}

impl NetworkMsgHandlerService {
    /// Hands every message to `take`.
    pub fn new(take: TakeMessage) -> Self {
        Self { take, foreign_log: Arc::new(Throttle::new(LOG_EVERY)) }
    }
}

#[tonic::async_trait]
impl NetworkMsgHandlerApi for NetworkMsgHandlerService {
    /// Success also for a message that is dropped, because a queue is full or nothing runs that could want
    /// it: the network has no use for another code, and a repetition would only add to the flood. Whoever
    /// sent it sends anew what still matters.
    async fn process_network_msg(
        &self,
        request: Request<NetworkMsg>,
    ) -> Result<Response<StatusCode>, Status> {
        let NetworkMsg { module, r#type, origin, msg } = request.into_inner();
        if module != MODULE {
            if let Some(held_back) = self.foreign_log.pass() {
                let module: String = module.chars().take(64).collect();
                tracing::warn!(module, origin, held_back, "message for another module, refused");
            }
            return Ok(Response::new(code(CODE_FOREIGN_MODULE)));
        }
        let bytes = msg.len();
        let taken = (self.take)(origin, msg);
        tracing::trace!(origin, r#type, bytes, taken, "message from the network");
        Ok(Response::new(code(CODE_SUCCESS)))
    }
}

const fn code(code: u32) -> StatusCode {
    StatusCode { code }
}

/// What the node's other services are served, with health and reflection; further services can be added.
///
/// # Errors
/// The descriptors cannot be read, which they always can.
pub fn cita_router(
    consensus: ConsensusService,
    network: NetworkMsgHandlerService,
    calls: &CallMetrics,
) -> anyhow::Result<(Router, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(consensus_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("consensus.ConsensusService")
        .with_service_name("network.NetworkMsgHandlerService")
        .with_service_name("grpc.health.v1.Health")
        .build_v1()?;
    let consensus = ConsensusServiceServer::new(consensus).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let network = NetworkMsgHandlerServiceServer::new(network).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let router = super::server(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(super::CLIENT_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(super::CLIENT_KEEPALIVE_TIMEOUT))
        .add_service(Counted::new(consensus, &["Reconfigure", "CheckBlock"], calls.clone()))
        .add_service(Counted::new(network, &["ProcessNetworkMsg"], calls.clone()))
        .add_service(health)
        .add_service(reflection);
    Ok((router, reporter))
}
