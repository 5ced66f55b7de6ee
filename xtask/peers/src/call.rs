//! How CITA-Cloud's services call each other: lazily connected, and retried.
//!
//! A call that ends with one of some codes is made again, up to ten times with growing pauses, for at most
//! ten seconds in all. So a handler that answers with an error status gets the same message many times.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use consensus_proto::cita::common::{
    ConsensusConfiguration, Proposal, ProposalWithProof, StatusCode as BodyCode,
};
use consensus_proto::cita::consensus_service_client::ConsensusServiceClient;
use consensus_proto::cita::network::network_msg_handler_service_client::NetworkMsgHandlerServiceClient;
use consensus_proto::cita::network::network_service_client::NetworkServiceClient;
use consensus_proto::cita::network::{NetworkMsg, RegisterInfo};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// Tries of one call.
const TRIES_MAX: u32 = 10;
/// Pause after the first try.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// All tries together.
const TOTAL_MAX: Duration = Duration::from_secs(10);

/// A connection to another service of this node, made when it is needed first.
///
/// # Errors
/// When the host is not a name.
pub fn channel(hostname: &str, port: u16) -> Result<Channel> {
    let address = format!("http://{hostname}:{port}");
    let endpoint = Endpoint::from_shared(address.clone()).with_context(|| address)?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// Makes a call until it ends with something that another try would not change.
///
/// # Errors
/// The status of the last try.
pub async fn retried<T, F, Made>(mut call: F) -> Result<T, Status>
where
    F: FnMut() -> Made,
    Made: Future<Output = Result<Response<T>, Status>>,
{
    let end = Instant::now() + TOTAL_MAX;
    let mut pause = PAUSE_FIRST;
    for attempt in 1.. {
        let answer = match timeout_at(end, call()).await {
            Ok(answer) => answer,
            Err(_) => return Err(Status::deadline_exceeded("no answer within 10 s")),
        };
        match answer {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => {
                let is_last = attempt >= TRIES_MAX || Instant::now() + pause >= end;
                if is_last || !is_retried(status.code()) {
                    return Err(status);
                }
            }
        }
        sleep(pause.mul_f64(rand::random_range(0.8..=1.2))).await;
        pause = pause.mul_f64(1.5).min(PAUSE_MAX);
    }
    unreachable!("the loop has no end but its returns")
}

fn is_retried(code: Code) -> bool {
    matches!(
        code,
        Code::DataLoss
            | Code::Internal
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
    )
}

/// A request that says who asks, as the services' metrics expect it.
fn named<T>(client: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("client-name", MetadataValue::from_static(client));
    request
}

/// The consensus service, as its controller calls it.
#[derive(Clone, Debug)]
pub struct Consensus(ConsensusServiceClient<Channel>);

impl Consensus {
    /// On `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(ConsensusServiceClient::new(channel).max_decoding_message_size(usize::MAX))
    }

    /// Tells what is in force.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn reconfigure(&self, configuration: ConsensusConfiguration) -> Result<u32, Status> {
        let call = || {
            let (mut client, message) = (self.0.clone(), configuration.clone());
            async move { client.reconfigure(named("controller", message)).await }
        };
        retried(call).await.map(|answer| answer.code)
    }

    /// Asks whether a block that came by sync may be taken.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn check_block(&self, height: u64, data: Bytes) -> Result<u32, Status> {
        let block = ProposalWithProof { proposal: Some(Proposal { height, data }), proof: Bytes::new() };
        let call = || {
            let (mut client, message) = (self.0.clone(), block.clone());
            async move { client.check_block(named("controller", message)).await }
        };
        retried(call).await.map(|answer| answer.code)
    }
}

/// The network service, as a controller calls it.
#[derive(Clone, Debug)]
pub struct Network(NetworkServiceClient<Channel>);

impl Network {
    /// On `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(NetworkServiceClient::new(channel).max_decoding_message_size(usize::MAX))
    }

    /// Presents a module.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn register(&self, module: &str, port: u16) -> Result<u32, Status> {
        let call = || {
            let mut client = self.0.clone();
            let message = RegisterInfo {
                module_name: module.to_owned(),
                hostname: "localhost".to_owned(),
                port: port.to_string(),
            };
            async move { client.register_network_msg_handler(named("controller", message)).await }
        };
        retried(call).await.map(|answer| answer.code)
    }

    /// Sends to one node.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn send(&self, message: NetworkMsg) -> Result<u32, Status> {
        let call = || {
            let (mut client, message) = (self.0.clone(), message.clone());
            async move { client.send_msg(named("controller", message)).await }
        };
        retried(call).await.map(|answer| answer.code)
    }

    /// Sends to all nodes.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn broadcast(&self, message: NetworkMsg) -> Result<u32, Status> {
        let call = || {
            let (mut client, message) = (self.0.clone(), message.clone());
            async move { client.broadcast(named("controller", message)).await }
        };
        retried(call).await.map(|answer| answer.code)
    }
}

/// A module that handles messages, as the network calls it.
#[derive(Clone, Debug)]
pub struct Handler(NetworkMsgHandlerServiceClient<Channel>);

impl Handler {
    /// On `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(NetworkMsgHandlerServiceClient::new(channel).max_decoding_message_size(usize::MAX))
    }

    /// Hands over one message.
    ///
    /// # Errors
    /// The status of the last try.
    pub async fn process(&self, message: NetworkMsg) -> Result<u32, Status> {
        let call = || {
            let (mut client, message) = (self.0.clone(), message.clone());
            async move { client.process_network_msg(named("network", message)).await }
        };
        retried(call).await.map(|answer: BodyCode| answer.code)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_internal_error_is_tried_ten_times_and_a_refusal_once() {
        for (code, expected) in [(Code::Internal, 10), (Code::InvalidArgument, 1)] {
            let tries = Cell::new(0);
            let call = || {
                tries.set(tries.get() + 1);
                async move { Err::<Response<()>, _>(Status::new(code, "no")) }
            };
            assert_eq!(retried(call).await.unwrap_err().code(), code);
            assert_eq!(tries.get(), expected, "{code}");
        }
    }
}
