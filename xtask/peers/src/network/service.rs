//! What a network serves to the modules of its node: send, broadcast, and a registration that does nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use consensus_proto::cita::common::StatusCode;
use consensus_proto::cita::network::network_service_server::NetworkService;
use consensus_proto::cita::network::{NetworkMsg, RegisterInfo};
use tonic::{Request, Response, Status};

use super::Network;
use crate::chain::code;

/// A network as its modules see it.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Network>);

#[tonic::async_trait]
impl NetworkService for Service {
    async fn send_msg(&self, request: Request<NetworkMsg>) -> Result<Response<StatusCode>, Status> {
        self.0.send(request.into_inner());
        Ok(Response::new(StatusCode { code: code::SUCCESS }))
    }

    async fn broadcast(&self, request: Request<NetworkMsg>) -> Result<Response<StatusCode>, Status> {
        self.0.broadcast(request.into_inner());
        Ok(Response::new(StatusCode { code: code::SUCCESS }))
    }

    async fn register_network_msg_handler(
        &self,
        _: Request<RegisterInfo>,
    ) -> Result<Response<StatusCode>, Status> {
        self.0.counts().registrations += 1;
        let refusals = &self.0.refusals;
        let left = refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        let code = if left.is_ok() { code::NETWORK_NOT_READY } else { code::SUCCESS };
        Ok(Response::new(StatusCode { code }))
    }
}
