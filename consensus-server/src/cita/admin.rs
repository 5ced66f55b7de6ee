//! Operating a CITA-Cloud node: its status, leadership, what it logs, and the decision to give up a block.
//!
//! Served on `admin_addr` alone, never on the port that the node's other services use, and only where it is
//! configured. It is plaintext and asks nobody who he is: whoever reaches the address operates the node. So
//! it belongs on the loopback interface.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use consensus_core::audit::Entry;
use consensus_core::ids::NodeId;
use consensus_core::replica::Refusal;
use consensus_proto::admin::admin_server::Admin;
use consensus_proto::admin::{
    NodeStatus, SetLogFilterReply, SetLogFilterRequest, StatusRequest, TransferLeaderReply,
    TransferLeaderRequest, VoidBlockReply, VoidBlockRequest,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::view::CitaView;
use crate::application::controller::{Command, VOUCHED_FOR, VoidRefused};
use crate::audit::AuditLog;
use crate::chain::ChainHandle;
use crate::config::cita::address::{Short, peer_id};
use crate::services::admin;
use crate::telemetry::LogControl;

/// The application takes decisions at once, unless it is hanging.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens where the configuration says.
///
/// # Errors
/// The address is in use or not this host's.
pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            if !address.ip().is_loopback() {
                tracing::warn!(
                    admin_addr = %address,
                    "the admin service is not on a loopback address: whoever reaches it operates this node"
                );
            }
            Ok(listener)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("admin_addr {address} is in use")
        }
        Err(error) => bail!("admin_addr {address} cannot be listened on: {error}"),
    }
}

/// The service of one node.
#[derive(Clone, Debug)]
pub(super) struct CitaAdmin {
    view: Arc<CitaView>,
    log: LogControl,
    audit: AuditLog,
}

impl CitaAdmin {
    /// `log` is the filter that may be changed; what is done is written into `audit`.
    pub(super) fn new(view: Arc<CitaView>, log: LogControl, audit: AuditLog) -> Self {
        Self { view, log, audit }
    }

    /// Those of the controller's validators that are meant; an address may be cut after its first 8 bytes.
    fn validators(&self, addresses: &[Bytes]) -> Result<Vec<NodeId>, Status> {
        let known = self.view.controller_status().validators;
        let named = |address: &Bytes| {
            let id = peer_id(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let address = hex::encode(address);
            // With none known it is for the application to say so.
            if known.is_empty() || known.iter().any(|validator| validator.starts_with(&address)) {
                return Ok(id);
            }
            let list = known.join(", ");
            Err(Status::invalid_argument(format!("{address} is no validator; validators are {list}")))
        };
        addresses.iter().map(named).collect()
    }
}

#[tonic::async_trait]
impl Admin for CitaAdmin {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<NodeStatus>, Status> {
        Ok(Response::new(self.view.node_status()))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let entry = admin::transfer_entry(&request);
        let to = NodeId::new(request.into_inner().to_node_id);
        self.audit.carry_out(entry, self.transfer(to)).await
    }

    async fn set_log_filter(
        &self,
        request: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterReply>, Status> {
        admin::set_log_filter(&self.log, &self.audit, request).await
    }

    async fn void_block(
        &self,
        request: Request<VoidBlockRequest>,
    ) -> Result<Response<VoidBlockReply>, Status> {
        let caller = admin::caller(&request);
        let VoidBlockRequest { height, without } = request.into_inner();
        let names: Vec<String> = without.iter().map(hex::encode).collect();
        let entry =
            Entry::new(&caller, "void-block", "").with("height", height).with("without", names.join(" "));
        self.audit.carry_out(entry, self.void(height, &without)).await
    }
}

impl CitaAdmin {
    async fn transfer(&self, to: Option<NodeId>) -> Result<Response<TransferLeaderReply>, Status> {
        let Some((chain, _)) = self.view.seat() else {
            return Err(Status::failed_precondition(self.view.no_seat()));
        };
        if let Some(to) = to
            && !chain.status().voters.contains(&to.get())
        {
            let what = format!("{} is no voter of the chain's group", Short(to));
            return Err(Status::invalid_argument(what));
        }
        tracing::info!(to = to.map(|to| Short(to).to_string()), "transfer of leadership asked for");
        admin::transfer(&chain, to, |refusal| refused(&chain, refusal)).await
    }

    async fn void(&self, height: u64, without: &[Bytes]) -> Result<Response<VoidBlockReply>, Status> {
        let Some((chain, commands)) = self.view.seat() else {
            return Err(Status::failed_precondition(self.view.no_seat()));
        };
        let validators = self.validators(without)?;
        let (answer, outcome) = oneshot::channel();
        let busy = || Status::unavailable("this node takes no decision now: try again");
        commands.try_send(Command::VoidWithout { height, validators, answer }).map_err(|_| busy())?;
        match tokio::time::timeout(DECISION_TIMEOUT, outcome).await {
            Ok(Ok(Ok(()))) => {
                Ok(Response::new(VoidBlockReply { counts_for_ms: VOUCHED_FOR.as_millis() as u64 }))
            }
            Ok(Ok(Err(refusal))) => Err(undecided(&chain, &refusal)),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// Whom to ask instead, in words.
fn not_leader(chain: &ChainHandle) -> Status {
    let leader = match chain.status().leader {
        None => "nobody is known to lead".to_owned(),
        Some(leader) if leader == chain.identity().node_id => "it is about to, try again".to_owned(),
        Some(leader) => format!("ask {}", Short(leader)),
    };
    Status::failed_precondition(format!("{}: {leader}", VoidRefused::NotLeader))
}

fn undecided(chain: &ChainHandle, refusal: &VoidRefused) -> Status {
    match refusal {
        VoidRefused::NotLeader => not_leader(chain),
        VoidRefused::NothingStuck | VoidRefused::HasBlock(_) => {
            Status::failed_precondition(refusal.to_string())
        }
        VoidRefused::OtherHeight { .. }
        | VoidRefused::Nobody
        | VoidRefused::Own(_)
        | VoidRefused::NoValidator { .. } => Status::invalid_argument(refusal.to_string()),
    }
}

fn refused(chain: &ChainHandle, refusal: &Refusal) -> Status {
    match refusal {
        Refusal::NotLeader { .. } => not_leader(chain),
        Refusal::LeadershipLost { .. } => Status::unavailable(refusal.to_string()),
        Refusal::Overloaded { .. } => Status::resource_exhausted(refusal.to_string()),
        Refusal::TimedOut { .. } => Status::deadline_exceeded(refusal.to_string()),
        Refusal::EntrySize { .. } => Status::internal(refusal.to_string()),
        Refusal::Membership(_) | Refusal::Transfer(_) | Refusal::Halted => {
            Status::failed_precondition(refusal.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use consensus_proto::cita::common::{
        ConsensusConfiguration, ConsensusConfigurationResponse, Empty, Proposal, ProposalResponse,
        ProposalWithProof, StatusCode,
    };
    use consensus_proto::cita::controller::consensus2_controller_service_server::{
        Consensus2ControllerService, Consensus2ControllerServiceServer,
    };
    use tokio_util::sync::CancellationToken;
    use tonic::transport::Server;

    use super::super::Service;
    use super::*;
    use crate::config::{CitaConfig, LogFormat};
    use crate::services::incoming;
    use crate::telemetry::logging;

    const ADDRESS: [u8; 20] = [0xa0; 20];

    /// A controller at height 6 without anything to propose, for one validator.
    struct Idle;

    #[tonic::async_trait]
    impl Consensus2ControllerService for Idle {
        async fn get_proposal(&self, _: Request<Empty>) -> Result<Response<ProposalResponse>, Status> {
            let status = Some(StatusCode { code: 112 });
            Ok(Response::new(ProposalResponse { status, ..ProposalResponse::default() }))
        }

        async fn check_proposal(&self, _: Request<Proposal>) -> Result<Response<StatusCode>, Status> {
            Ok(Response::new(StatusCode { code: 112 }))
        }

        async fn commit_block(
            &self,
            _: Request<ProposalWithProof>,
        ) -> Result<Response<ConsensusConfigurationResponse>, Status> {
            let validators = vec![Bytes::copy_from_slice(&ADDRESS)];
            let config = Some(ConsensusConfiguration { height: 6, block_interval: 3, validators });
            let status = Some(StatusCode { code: 0 });
            Ok(Response::new(ConsensusConfigurationResponse { status, config }))
        }
    }

    async fn any_port() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        (listener, port)
    }

    async fn start(dir: &Path, controller_port: u16) -> (Service, CitaAdmin) {
        std::fs::write(dir.join("node_address"), hex::encode(ADDRESS)).expect("writes");
        let (nobody, network_port) = any_port().await;
        drop(nobody);
        let text = format!(
            "[consensus_raft]\nnode_addr = 'node_address'\nenable_metrics = false\ngrpc_listen_port = 0\n\
             network_port = {network_port}\ncontroller_port = {controller_port}\nraft_data_path = '{}'\n",
            dir.join("data").display()
        );
        let config = CitaConfig::parse(&text, "config.toml", dir).expect("valid");
        let log = logging::build("info", LogFormat::Human).expect("valid").1;
        let service = Service::start(config, log.clone()).await.expect("starts");
        let admin = CitaAdmin::new(service.view.clone(), log, service.audit.clone());
        (service, admin)
    }

    async fn void(admin: &CitaAdmin, height: u64, without: &[u8]) -> String {
        let without = vec![Bytes::copy_from_slice(without)];
        let refusal = admin.void_block(Request::new(VoidBlockRequest { height, without })).await;
        refusal.expect_err("refused").message().to_owned()
    }

    async fn status_when(admin: &CitaAdmin, is_so: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let looks = async {
            loop {
                let status =
                    admin.status(Request::new(StatusRequest {})).await.expect("answers").into_inner();
                if is_so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looks).await.expect("in time")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_without_a_seat_says_why_and_decides_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (nobody, port) = any_port().await;
        drop(nobody);
        let (service, admin) = start(dir.path(), port).await;
        let status = status_when(&admin, |status| !status.waits.is_empty()).await;
        assert!(status.waits.contains("the controller does not answer"), "{}", status.waits);
        assert!(status.chains.is_empty() && !status.ready, "{status:?}");
        assert_eq!((status.cluster.as_str(), status.validator.as_ref()), ("cita-cloud", &ADDRESS[..]));
        assert_eq!(status.controller.and_then(|controller| controller.height), None);
        let said = void(&admin, 7, &ADDRESS).await;
        assert!(
            said.starts_with("this node has no seat in the chain's group: the controller does not"),
            "{said}"
        );
        let to = TransferLeaderRequest { to_node_id: 0 };
        let said = admin.transfer_leader(Request::new(to)).await.expect_err("refused");
        assert!(said.message().starts_with("this node has no seat"), "{said}");
        service.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_decision_is_refused_where_there_is_nothing_to_decide() {
        let dir = tempfile::tempdir().expect("a directory");
        let (listener, port) = any_port().await;
        let stop = CancellationToken::new();
        let controller = Server::builder().add_service(Consensus2ControllerServiceServer::new(Idle));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(controller.serve_with_incoming_shutdown(incoming(listener, "controller"), stopped));
        let (service, admin) = start(dir.path(), port).await;
        let leads = |status: &NodeStatus| status.chains.iter().any(|chain| chain.role == "leader");
        let status = status_when(&admin, leads).await;
        assert_eq!((status.chains[0].height, status.chains[0].tip_hash.len()), (6, 0));
        let controller = status.controller.expect("told");
        assert_eq!(
            (controller.height, controller.validators),
            (Some(6), vec![Bytes::copy_from_slice(&ADDRESS)])
        );
        // It leads a moment before its application knows.
        while void(&admin, 7, &ADDRESS).await.contains("it is about to") {
            tokio::task::yield_now().await;
        }
        for without in [&ADDRESS[..], &ADDRESS[..8]] {
            let said = void(&admin, 7, without).await;
            assert!(said.starts_with("no block is stuck"), "{said}");
        }
        let said = void(&admin, 7, &[0xb0; 20]).await;
        let list = format!("{} is no validator; validators are {}", "b0".repeat(20), hex::encode(ADDRESS));
        assert_eq!(said, list);
        assert!(void(&admin, 7, &[1; 3]).await.contains("an address has 3 bytes"));
        let to = TransferLeaderRequest { to_node_id: 5 };
        let said = admin.transfer_leader(Request::new(to)).await.expect_err("refused");
        assert_eq!(said.message(), "0000000000000005 is no voter of the chain's group");
        service.stop().await;
        stop.cancel();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_key() {
        let (taken, port) = any_port().await;
        let address = taken.local_addr().expect("bound");
        let said = bind(address).await.expect_err("in use").to_string();
        assert_eq!(said, format!("admin_addr 127.0.0.1:{port} is in use"));
    }
}
