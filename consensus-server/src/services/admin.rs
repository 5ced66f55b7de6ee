//! Operating this node: its status, leadership, what it logs.

use std::sync::Arc;
use std::time::Duration;

use consensus_core::audit::Entry;
use consensus_core::ids::NodeId;
use consensus_core::replica::Refusal;
use consensus_proto::admin::admin_server::Admin;
use consensus_proto::admin::{
    NodeStatus, SetLogFilterReply, SetLogFilterRequest, StatusRequest, TransferLeaderReply,
    TransferLeaderRequest, VoidBlockReply, VoidBlockRequest,
};
use tonic::{Request, Response, Status};

use super::answer::Directory;
use crate::audit::AuditLog;
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::ops::NodeView;
use crate::security::Caller;
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
    audit: AuditLog,
}

impl AdminService {
    /// `log` is the filter that may be changed; what is done is written into `audit`.
    pub fn new(view: Arc<NodeView>, config: Arc<Config>, log: LogControl, audit: AuditLog) -> Self {
        Self { view, directory: Directory::new(config.clone()), config, log, audit }
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
        let entry = transfer_entry(&request);
        let to = NodeId::new(request.into_inner().to_node_id);
        let action = async {
            if let Some(to) = to
                && self.config.member(to).is_none()
            {
                return Err(Status::invalid_argument(format!("node {to} is no member of the chain")));
            }
            tracing::info!(to = to.map_or(0, NodeId::get), "transfer of leadership asked for");
            transfer(self.view.chain(), to, |refusal| self.directory.refusal(refusal)).await
        };
        self.audit.carry_out(entry, action).await
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterReply>, Status> {
        set_log_filter(&self.log, &self.audit, request).await
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
pub(crate) async fn set_log_filter(
    log: &LogControl,
    audit: &AuditLog,
    request: Request<SetLogFilterRequest>,
) -> Result<Response<SetLogFilterReply>, Status> {
    let entry = Entry::new(&caller(&request), "log-filter", "").with("filter", &request.get_ref().filter);
    let action = async {
        let filter = request.into_inner().filter;
        let previous = log.set(&filter).map_err(Status::invalid_argument)?;
        tracing::info!(filter, previous, "log filter changed");
        Ok(Response::new(SetLogFilterReply { previous }))
    };
    audit.carry_out(entry, action).await
}

/// What a transfer of leadership is written down as.
pub(crate) fn transfer_entry(request: &Request<TransferLeaderRequest>) -> Entry {
    let to = match request.get_ref().to_node_id {
        0 => "any".to_owned(),
        to => to.to_string(),
    };
    Entry::new(&caller(request), "transfer-leader", "").with("to", to)
}

/// Who asks: the holder of the certificate and the address, in plaintext the address alone.
pub(crate) fn caller<T>(request: &Request<T>) -> String {
    if let Some(caller) = request.extensions().get::<Caller>() {
        return caller.to_string();
    }
    request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}
