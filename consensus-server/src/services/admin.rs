//! Operating this node: its status, leadership, what it logs.

use std::sync::Arc;
use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::replica::Refusal;
use consensus_proto::admin::admin_server::Admin;
use consensus_proto::admin::{
    NodeStatus, SetLogFilterReply, SetLogFilterRequest, StatusRequest, TransferLeaderReply,
    TransferLeaderRequest, VoidBlockReply, VoidBlockRequest,
};
use tonic::{Request, Response, Status};

use super::answer::Directory;
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::ops::NodeView;
use crate::telemetry::LogControl;

/// A transfer that has not happened by then is reported as such; it may still happen.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// The service of one node.
#[derive(Clone, Debug)]
pub struct AdminService {
    view: Arc<NodeView>,
    directory: Directory,
    config: Arc<Config>,
    log: LogControl,
}

impl AdminService {
    /// `log` is the filter that may be changed.
    pub fn new(view: Arc<NodeView>, config: Arc<Config>, log: LogControl) -> Self {
        Self { view, directory: Directory::new(config.clone()), config, log }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<NodeStatus>, Status> {
        Ok(Response::new(self.view.status()))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let to = NodeId::new(request.into_inner().to_node_id);
        if let Some(to) = to
            && self.config.member(to).is_none()
        {
            return Err(Status::invalid_argument(format!("node {to} is no member of the chain")));
        }
        tracing::info!(to = to.map_or(0, NodeId::get), "transfer of leadership asked for");
        transfer(self.view.chain(), to, |refusal| self.directory.refusal(refusal)).await
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterReply>, Status> {
        set_log_filter(&self.log, request)
    }

    async fn void_block(&self, _: Request<VoidBlockRequest>) -> Result<Response<VoidBlockReply>, Status> {
        let what = "this is no CITA-Cloud node: what the built-in ledger has agreed on is never given up";
        Err(Status::failed_precondition(what))
    }
}

/// Moves leadership, and says who leads then.
pub(crate) async fn transfer(
    chain: &ChainHandle,
    to: Option<NodeId>,
    refused: impl Fn(&Refusal) -> Status,
) -> Result<Response<TransferLeaderReply>, Status> {
    match tokio::time::timeout(TRANSFER_TIMEOUT, chain.transfer_leader(to)).await {
        Ok(Ok(())) => {
            let status = chain.status();
            let leader_id = status.leader.map_or(0, NodeId::get);
            Ok(Response::new(TransferLeaderReply { leader_id, term: status.term }))
        }
        Ok(Err(refusal)) => Err(refused(&refusal)),
        Err(_) => {
            let what = format!("leadership has not moved within {} s", TRANSFER_TIMEOUT.as_secs());
            Err(Status::deadline_exceeded(what))
        }
    }
}

/// Changes what is logged, and says what was logged before.
pub(crate) fn set_log_filter(
    log: &LogControl,
    request: Request<SetLogFilterRequest>,
) -> Result<Response<SetLogFilterReply>, Status> {
    let filter = request.into_inner().filter;
    let previous = log.set(&filter).map_err(Status::invalid_argument)?;
    tracing::info!(filter, previous, "log filter changed");
    Ok(Response::new(SetLogFilterReply { previous }))
}
