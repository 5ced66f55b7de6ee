//! The exchange over the chain's network service: one call for each envelope, over one connection.
//!
//! The service answers at once and promises nothing; a code other than 0 counts as a failure. It must know
//! where to bring what arrives, so this node registers until that is accepted, and again whenever the
//! connection was lost, since a service that was restarted may have forgotten. The connection itself tells:
//! it is noticed when it is dropped, without asking.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_proto::cita::common::StatusCode;
use consensus_proto::cita::network::network_service_client::NetworkServiceClient;
use consensus_proto::cita::network::{NetworkMsg, RegisterInfo};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Carrier;
use super::envelope::is_part;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::ExchangeMetrics;
use crate::transport::connect::{CONNECT_TIMEOUT, innermost};
use crate::transport::local;

/// The module that this node is to the network service.
pub const MODULE: &str = "consensus";
/// Type of a message that holds an envelope. Not one of those that the network holds back.
const TYPE: &str = "consensus.exchange";
/// The same for a piece of a large one.
const TYPE_PART: &str = "consensus.exchange.part";
/// Who calls, for the network service's metrics.
const CLIENT_NAME: &str = "consensus";
/// Between attempts to register.
const REGISTER_EVERY: Duration = Duration::from_secs(1);
/// How often a failure to register is told.
const REGISTER_LOG_EVERY: Duration = Duration::from_secs(60);
/// Before the first attempt after a connection was lost, so that one that is lost again and again costs little.
const AFTER_LOSS: Duration = Duration::from_millis(100);
/// Deadline for the answer to one.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Carries envelopes over the network service of this node.
#[derive(Clone)]
pub struct NetworkCarrier {
    client: NetworkServiceClient<Channel>,
    port: u16,
    lost: Arc<Notify>,
    metrics: ExchangeMetrics,
}

impl fmt::Debug for NetworkCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkCarrier").finish_non_exhaustive()
    }
}

impl NetworkCarrier {
    /// Over the service on this port of this host. Connects when it is first used, within a runtime; to be
    /// [`start`](Self::start)ed so that messages of others come.
    pub fn new(network_port: u16, metrics: ExchangeMetrics) -> Self {
        let lost = Arc::new(Notify::new());
        let channel = local::channel(network_port, CONNECT_TIMEOUT, lost.clone());
        let client = NetworkServiceClient::new(channel)
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX);
        Self { client, port: network_port, lost, metrics }
    }

    /// Registers this node as the one that serves `NetworkMsgHandlerService` on `handler_port`, and again each
    /// time that the network service was gone, until `stop`.
    pub fn start(&self, handler_port: u16, stop: CancellationToken) -> JoinHandle<()> {
        let carrier = self.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(carrier.keep_registered(handler_port)).await;
        })
    }

    async fn keep_registered(self, handler_port: u16) {
        loop {
            self.register(handler_port).await;
            self.metrics.registered();
            self.lost.notified().await;
            self.metrics.unregistered();
            tracing::info!("connection to the network service was lost, registering again");
            tokio::time::sleep(AFTER_LOSS).await;
        }
    }

    /// Until it is accepted.
    async fn register(&self, handler_port: u16) {
        let log = Throttle::new(REGISTER_LOG_EVERY);
        loop {
            let info = RegisterInfo {
                module_name: MODULE.to_owned(),
                hostname: "localhost".to_owned(),
                port: handler_port.to_string(),
            };
            let mut client = self.client.clone();
            let call = client.register_network_msg_handler(request(info));
            let answer = match tokio::time::timeout(REGISTER_TIMEOUT, call).await {
                Ok(answer) => accepted(answer),
                Err(_) => Err(format!("no answer within {} ms", REGISTER_TIMEOUT.as_millis())),
            };
            match answer {
                Ok(()) => return tracing::info!(port = handler_port, "registered with the network service"),
                Err(why) => {
                    if let Some(held_back) = log.pass() {
                        let network_port = self.port;
                        tracing::warn!(
                            network_port,
                            why,
                            held_back,
                            "the network service does not register this node, trying again"
                        );
                    }
                }
            }
            tokio::time::sleep(REGISTER_EVERY).await;
        }
    }
}

impl Carrier for NetworkCarrier {
    fn carry(&self, _to: NodeId, origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let mut client = self.client.clone();
        Box::pin(async move {
            let r#type = if is_part(&envelope) { TYPE_PART } else { TYPE };
            let (module, r#type) = (MODULE.to_owned(), r#type.to_owned());
            let message = NetworkMsg { module, r#type, origin, msg: envelope };
            accepted(client.send_msg(request(message)).await)
        })
    }

    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let mut client = self.client.clone();
        Box::pin(async move {
            let (module, r#type) = (MODULE.to_owned(), TYPE.to_owned());
            let message = NetworkMsg { module, r#type, origin: 0, msg: envelope };
            accepted(client.broadcast(request(message)).await)
        })
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("client-name", MetadataValue::from_static(CLIENT_NAME));
    request
}

fn accepted(answer: Result<Response<StatusCode>, Status>) -> Result<(), String> {
    match answer {
        Ok(answer) => match answer.into_inner().code {
            0 => Ok(()),
            code => Err(format!("the network service answered code {code}")),
        },
        Err(status) => {
            let why = status.source().map_or_else(|| status.message().to_owned(), innermost);
            Err(format!("the network service cannot be called: {why}"))
        }
    }
}
