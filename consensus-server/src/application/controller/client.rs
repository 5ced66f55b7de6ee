//! The controller over gRPC.
//!
//! One channel, connected when it is needed. No call is repeated here: what to do after a failure depends on
//! what the call was for, which `desk` knows. Deadlines are long, because a block may take its controller
//! many seconds and an abandoned call may still take effect.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus_proto::cita::common;
use consensus_proto::cita::controller::consensus2_controller_service_client::Consensus2ControllerServiceClient;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::code::Code;
use super::{CallFailed, Configuration, Controller, Fetched};
use crate::telemetry::trace::TraceContext;
use crate::transport::connect::innermost;
use crate::transport::local;

/// Connecting to a service on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that only reads.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// A call that executes a block.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(120);
/// The height that makes `CommitBlock` only tell.
const PING_HEIGHT: u64 = u64::MAX;

/// The controller beside this node.
#[derive(Clone, Debug)]
pub struct GrpcController {
    client: Consensus2ControllerServiceClient<Channel>,
    port: u16,
}

impl GrpcController {
    /// On a port of this machine; nothing is connected yet. To be made within a runtime.
    pub fn on_port(port: u16) -> Self {
        // Nobody asks when a connection was lost: calls tell.
        let channel = local::channel(port, CONNECT_TIMEOUT, Arc::default());
        let client = Consensus2ControllerServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { client, port }
    }
}

/// The deadline stays on this side: a controller that was told of it would abandon its work.
async fn within<T>(
    port: u16,
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallFailed> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(CallFailed(match status.source() {
            Some(cause) => format!("{} (controller_port {port})", innermost(cause)),
            None => format!("{:?}: {}", status.code(), status.message()),
        })),
        Err(_) => {
            Err(CallFailed(format!("no answer within {} s (controller_port {port})", timeout.as_secs())))
        }
    }
}

fn request<T>(message: T, trace: Option<TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    // How CITA-Cloud's services tell their callers apart in their metrics.
    request.metadata_mut().insert("client-name", MetadataValue::from_static("consensus"));
    if let Some(trace) = trace {
        trace.to_metadata(request.metadata_mut());
    }
    request
}

fn code(status: Option<common::StatusCode>) -> Code {
    Code(status.unwrap_or_default().code)
}

fn configuration(config: common::ConsensusConfiguration) -> Configuration {
    Configuration {
        height: config.height,
        block_interval: Duration::from_secs(config.block_interval.into()),
        validators: config.validators,
    }
}

impl GrpcController {
    fn commit_block(
        &self,
        height: u64,
        data: Bytes,
        timeout: Duration,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<(Code, Option<Configuration>), CallFailed>> {
        let (mut client, port) = (self.client.clone(), self.port);
        async move {
            let proposal = Some(common::Proposal { height, data });
            let message = common::ProposalWithProof { proposal, proof: Bytes::new() };
            let answer = within(port, timeout, client.commit_block(request(message, trace))).await?;
            Ok((code(answer.status), answer.config.map(configuration)))
        }
        .boxed()
    }
}

impl Controller for GrpcController {
    fn ping(&self) -> BoxFuture<'static, Result<(Code, Option<Configuration>), CallFailed>> {
        self.commit_block(PING_HEIGHT, Bytes::new(), READ_TIMEOUT, None)
    }

    fn proposal(&self, trace: Option<TraceContext>) -> BoxFuture<'static, Result<Fetched, CallFailed>> {
        let (mut client, port) = (self.client.clone(), self.port);
        async move {
            let message = request(common::Empty {}, trace);
            let answer = within(port, READ_TIMEOUT, client.get_proposal(message)).await?;
            let code = code(answer.status);
            Ok(match answer.proposal {
                Some(proposal) if matches!(code, Code::SUCCESS | Code::NO_TRANSACTION) => {
                    Ok((proposal.height, proposal.data))
                }
                _ => Err(code),
            })
        }
        .boxed()
    }

    fn check(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<Code, CallFailed>> {
        let (mut client, port) = (self.client.clone(), self.port);
        async move {
            let message = request(common::Proposal { height, data }, trace);
            let answer = within(port, READ_TIMEOUT, client.check_proposal(message)).await?;
            Ok(Code(answer.code))
        }
        .boxed()
    }

    fn commit(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<(Code, Option<Configuration>), CallFailed>> {
        self.commit_block(height, data, COMMIT_TIMEOUT, trace)
    }
}
