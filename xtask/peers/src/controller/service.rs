//! What a controller serves: consensus, and messages of other controllers.
//!
//! Errors are codes in the answer, never a gRPC status, except where a script wants the outcome unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use consensus_proto::cita::common::{
    ConsensusConfigurationResponse, Empty, Proposal, ProposalResponse, ProposalWithProof, StatusCode,
};
use consensus_proto::cita::controller::consensus2_controller_service_server::Consensus2ControllerService;
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_msg_handler_service_server::NetworkMsgHandlerService;
use prost::Message;
use tokio::sync::MutexGuard;
use tonic::{Request, Response, Status};

use super::Controller;
use super::faults::{Call, Outcome};
use super::message::{self, BlockRequest, Blocks, ChainStatus, TransactionRequest, Transactions};
use crate::chain::block::hash;
use crate::chain::{Arrival, Judgement, Refusal, code};
use crate::config::origin;
use crate::ledger::Ledger;
use crate::now_ms;

/// The height with which CommitBlock only asks.
const PING: u64 = u64::MAX;
/// Exit code of a process that a script lets die, as of one that was killed.
const EXIT_KILLED: i32 = 137;

/// A controller as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Controller>);

impl Controller {
    /// Locks the chain and lets the script have its way: the code to answer with, if it names one.
    async fn enter(&self, call: Call) -> (MutexGuard<'_, Ledger>, Option<u32>) {
        let ledger = self.gate.lock().await;
        let hang = self.faults().hang(call);
        if let Some(end) = hang {
            tokio::time::sleep_until(end).await;
        }
        let code = self.faults().code(call);
        (ledger, code)
    }

    async fn proposal(&self) -> Result<Proposal, u32> {
        let (_ledger, scripted) = self.enter(Call::Get).await;
        if let Some(code) = scripted {
            return Err(code);
        }
        if self.is_syncing.load(Ordering::Acquire) {
            return Err(code::NODE_IN_SYNC_MODE);
        }
        let (height, data) = self.chain().propose(now_ms());
        Ok(Proposal { height, data })
    }

    async fn check(self: &Arc<Self>, proposal: &Proposal) -> u32 {
        let (ledger, scripted) = self.enter(Call::Check).await;
        if let Some(code) = scripted {
            return code;
        }
        let checked = self.chain().check(proposal.height, &proposal.data, now_ms());
        let Err(Refusal { code, missing, proposer }) = checked else { return code::SUCCESS };
        match code {
            code::NONE_RAW_TX => {
                self.counts().transaction_requests += 1;
                let request = TransactionRequest { hashes: missing };
                self.send(message::SYNC_TX, origin(&proposer), &request);
            }
            code::PROPOSAL_TOO_HIGH => {
                drop(ledger);
                self.on_too_high();
            }
            _ => {}
        }
        code
    }

    /// Commits a block. The status is an error only where a script says so. What others were told of is done
    /// already, also while the chain is locked; what came meanwhile is too low.
    async fn commit(&self, height: u64, data: Bytes) -> Result<u32, Status> {
        if height <= self.told_height.load(Ordering::Acquire) {
            return Ok(code::SUCCESS);
        }
        let (mut ledger, scripted) = self.enter(Call::Commit).await;
        if let Some(code) = scripted {
            return Ok(code);
        }
        let judgement = self.chain().judge_commit(height, &data);
        let block = match judgement {
            Judgement::Next(block) => block,
            Judgement::Here => return Ok(code::PROPOSAL_TOO_LOW),
            Judgement::Refused(refusal) => {
                drop(ledger);
                if refusal.code == code::PROPOSAL_TOO_HIGH {
                    self.on_too_high();
                }
                return Ok(refusal.code);
            }
        };
        let hash = hash(&data);
        self.execute(&hash).await;
        let outcome = self.faults().outcome();
        if outcome == Some(Outcome::ExitBeforeStore) {
            std::process::exit(EXIT_KILLED);
        }
        // From here to the chain's own record nothing waits, so a caller that goes away changes nothing.
        let arrived_us = match ledger.append(&block, &data, &hash, Arrival::Commit) {
            Ok(arrived_us) => arrived_us,
            Err(error) => {
                tracing::error!("block {height} cannot be stored: {error:#}");
                return Err(Status::internal(format!("{error:#}")));
            }
        };
        if outcome == Some(Outcome::ExitAfterStore) {
            std::process::exit(EXIT_KILLED);
        }
        self.chain().append(block, data, Arrival::Commit, arrived_us);
        self.told_height.store(height, Ordering::Release);
        self.counts().committed += 1;
        drop(ledger);
        self.announcement.notify_one();
        self.try_sync();
        if outcome == Some(Outcome::Unavailable) {
            return Err(Status::unavailable("the answer is lost, as ordered"));
        }
        Ok(code::SUCCESS)
    }

    /// Others must be ahead, and consensus will not bring what is missing.
    fn on_too_high(&self) {
        self.chain().forget_proposals();
        self.announcement.notify_one();
        self.try_sync();
    }

    fn on_message(self: &Arc<Self>, message: NetworkMsg) -> u32 {
        let NetworkMsg { r#type, origin, msg, .. } = message;
        let handled = match r#type.as_str() {
            message::CHAIN_STATUS => {
                ChainStatus::decode(msg).map(|status| self.on_chain_status(origin, &status, false))
            }
            message::CHAIN_STATUS_INIT => {
                ChainStatus::decode(msg).map(|status| self.on_chain_status(origin, &status, true))
            }
            message::SYNC_BLOCK => {
                BlockRequest::decode(msg).map(|request| self.on_block_request(origin, &request))
            }
            message::SYNC_BLOCK_RESPOND => {
                Blocks::decode(msg).map(|blocks| self.fetching.on_blocks(origin, blocks))
            }
            message::SYNC_TX => {
                TransactionRequest::decode(msg).map(|request| self.on_transaction_request(origin, &request))
            }
            message::SYNC_TX_RESPOND | message::SEND_TXS => {
                Transactions::decode(msg).map(|transactions| self.on_transactions(transactions))
            }
            _ => return code::DECODE_ERROR,
        };
        handled.map_or(code::DECODE_ERROR, |()| code::SUCCESS)
    }

    fn on_transaction_request(self: &Arc<Self>, origin: u64, request: &TransactionRequest) {
        let bodies = {
            let chain = self.chain();
            request.hashes.iter().filter_map(|hash| chain.pool.body(hash)).collect::<Vec<_>>()
        };
        if !bodies.is_empty() {
            self.send(message::SYNC_TX_RESPOND, origin, &Transactions { bodies });
        }
    }

    fn on_transactions(&self, transactions: Transactions) {
        let mut chain = self.chain();
        for body in transactions.bodies {
            chain.pool.insert(body);
        }
    }
}

#[tonic::async_trait]
impl Consensus2ControllerService for Service {
    async fn get_proposal(&self, _: Request<Empty>) -> Result<Response<ProposalResponse>, Status> {
        let (code, proposal) = match self.0.proposal().await {
            Ok(proposal) => (code::SUCCESS, Some(proposal)),
            Err(code) => (code, None),
        };
        *self.0.counts().get_proposal.entry(code).or_default() += 1;
        Ok(Response::new(ProposalResponse { status: Some(StatusCode { code }), proposal }))
    }

    async fn check_proposal(&self, request: Request<Proposal>) -> Result<Response<StatusCode>, Status> {
        let code = self.0.check(&request.into_inner()).await;
        *self.0.counts().check_proposal.entry(code).or_default() += 1;
        Ok(Response::new(StatusCode { code }))
    }

    async fn commit_block(
        &self,
        request: Request<ProposalWithProof>,
    ) -> Result<Response<ConsensusConfigurationResponse>, Status> {
        let Proposal { height, data } = request.into_inner().proposal.unwrap_or_default();
        let code = if height == PING {
            self.0.counts().pings += 1;
            code::SUCCESS
        } else {
            let code = self.0.commit(height, data).await?;
            *self.0.counts().commit_block.entry(code).or_default() += 1;
            code
        };
        let mut config = self.0.configuration();
        config.height = if height == PING { self.0.told_height.load(Ordering::Acquire) } else { height };
        Ok(Response::new(ConsensusConfigurationResponse {
            status: Some(StatusCode { code }),
            config: Some(config),
        }))
    }
}

#[tonic::async_trait]
impl NetworkMsgHandlerService for Service {
    async fn process_network_msg(
        &self,
        request: Request<NetworkMsg>,
    ) -> Result<Response<StatusCode>, Status> {
        let message = request.into_inner();
        let code =
            if message.module == message::MODULE { self.0.on_message(message) } else { code::DECODE_ERROR };
        Ok(Response::new(StatusCode { code }))
    }
}
