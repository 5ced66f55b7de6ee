//! The ordering service: submissions in, blocks out.
//!
//! Thin: requests are checked for form, the ledger decides, outcomes become replies. A refusal of a single
//! submission is a gRPC status; in a stream it is an answer like any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus_core::limits::TRANSACTION_ID_BYTES_MAX;
use consensus_proto::ordering::ordering_server::Ordering;
use consensus_proto::ordering::{
    Block, DeliverRequest, GetBlockRequest, GetTransactionRequest, Outcome, Proof, ProveRequest, Reason,
    SubmitBatch, SubmitBatchReply, SubmitReply, SubmitRequest, TipReply, TipRequest, TransactionStatus,
    get_block_request, outcome, submit_reply,
};
use consensus_proto::records::Transaction;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::answer::{Directory, acknowledgement, count, fill_id, status_of, word};
use super::deliver::{Blocks, deliver};
use super::encode;
use super::limited;
use super::pump::{Begun, Replies, pump};
use crate::application::ledger::{LedgerHandle, Submission, refused};
use crate::clients::stall::Progress;
use crate::clients::{Account, Exceeded, InFlight};
use crate::config::Config;
use crate::security::Caller;
use crate::telemetry::metrics::{Ended, OrderingMetrics};
use crate::telemetry::trace::{Parent, Span, Tracer};

/// After a frame that came too soon its stream is read no further for at most this long.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The service of one chain.
#[derive(Clone, Debug)]
pub struct OrderingService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: LedgerHandle,
    directory: Directory,
    metrics: OrderingMetrics,
    tracer: Tracer,
    frames_max: usize,
    stop: CancellationToken,
}

impl OrderingService {
    /// After `stop`, streams end: what was taken is still answered.
    pub fn new(
        ledger: LedgerHandle,
        config: &Arc<Config>,
        metrics: OrderingMetrics,
        stop: CancellationToken,
    ) -> Self {
        let directory = Directory::new(config.clone());
        let frames_max = config.queues.stream_frames_max;
        let tracer = ledger.tracer();
        Self { shared: Arc::new(Shared { ledger, directory, metrics, tracer, frames_max, stop }) }
    }
}

impl Shared {
    /// What the caller says about its trace. A stream says it once for all its frames.
    fn parent(&self, metadata: &MetadataMap) -> Parent {
        if self.tracer.is_on() { Parent::of_metadata(metadata) } else { Parent::None }
    }

    /// Orders a frame and counts what became of it.
    async fn submit(&self, mut submission: Submission, parent: Parent) -> Vec<Outcome> {
        let began = Instant::now();
        let _in_flight = self.metrics.frame_began();
        let span = self.tracer.enter("submit", parent);
        submission.trace = span.as_ref().map(Span::context);
        let transactions = submission.transactions.len();
        let mut outcomes = self.ledger.submit(submission).await;
        self.directory.complete(&mut outcomes);
        count(&self.metrics, &outcomes, began.elapsed());
        if let Some(span) = span {
            answered(span.with("consensus.transactions", transactions as i64), &outcomes);
        }
        outcomes
    }

    fn begin(
        self: Arc<Self>,
        batch: SubmitBatch,
        account: Option<&Arc<Account>>,
        parent: Parent,
    ) -> Result<Begun<impl Future<Output = SubmitBatchReply> + use<>, SubmitBatchReply>, Status> {
        let SubmitBatch { sequence, mut transactions, acknowledgement: level } = batch;
        let acknowledgement = acknowledgement(level)?;
        let taken = match take(account, &transactions) {
            Ok(taken) => taken,
            Err(exceeded) => {
                let outcomes = vec![too_much(transactions.len(), &exceeded)];
                let refused = Ended::Refused(word(Reason::Overloaded));
                self.metrics.submitted(refused, transactions.len() as u64);
                let pause = exceeded.retry_after.min(PAUSE_MAX);
                return Ok(Begun::TooSoon(SubmitBatchReply { sequence, outcomes }, pause));
            }
        };
        transactions.iter_mut().for_each(fill_id);
        Ok(Begun::Work(async move {
            let _taken = taken;
            let submission = Submission { transactions, acknowledgement, hops: 0, trace: None };
            SubmitBatchReply { sequence, outcomes: self.submit(submission, parent).await }
        }))
    }
}

#[tonic::async_trait]
impl Ordering for OrderingService {
    type SubmitStreamStream = Replies<SubmitBatchReply>;
    type DeliverStream = Blocks;

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        let parent = self.shared.parent(request.metadata());
        let account = account(request.extensions());
        let SubmitRequest { id, payload, acknowledgement: level } = request.into_inner();
        let acknowledgement = acknowledgement(level)?;
        let mut transaction = Transaction { id, payload };
        fill_id(&mut transaction);
        let id = transaction.id.clone();
        let transactions = vec![transaction];
        let _taken = take(account.as_ref(), &transactions).map_err(|exceeded| {
            self.shared.metrics.submitted(Ended::Refused(word(Reason::Overloaded)), 1);
            limited::status_of(&exceeded)
        })?;
        let submission = Submission { transactions, acknowledgement, hops: 0, trace: None };
        let outcomes = self.shared.submit(submission, parent).await;
        let outcome = match outcomes.into_iter().next().and_then(|outcome| outcome.outcome) {
            Some(outcome::Outcome::Committed(committed)) => submit_reply::Outcome::Committed(committed),
            Some(outcome::Outcome::Accepted(accepted)) => submit_reply::Outcome::Accepted(accepted),
            Some(outcome::Outcome::Refused(refused)) => return Err(status_of(&refused)),
            None => return Err(Status::internal("the submission has no outcome")),
        };
        Ok(Response::new(SubmitReply { id, outcome: Some(outcome) }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitBatch>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let shared = self.shared.clone();
        let (frames_max, stop) = (shared.frames_max, shared.stop.clone());
        let parent = shared.parent(request.metadata());
        let account = account(request.extensions());
        Ok(Response::new(pump(request.into_inner(), frames_max, stop, move |batch| {
            shared.clone().begin(batch, account.as_ref(), parent)
        })))
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<Blocks>, Status> {
        let Shared { ledger, directory, metrics, stop, .. } = &*self.shared;
        let progress = request.extensions().get::<Arc<Progress>>().cloned().unwrap_or_default();
        let blocks = deliver(
            request.get_ref(),
            ledger.clone(),
            directory.clone(),
            metrics.clone(),
            progress,
            stop.clone(),
        )?;
        Ok(Response::new(blocks))
    }

    async fn get_block(&self, request: Request<GetBlockRequest>) -> Result<Response<Block>, Status> {
        let ledger = &self.shared.ledger;
        let tip = ledger.tip().height;
        let number = match request.into_inner().block {
            Some(get_block_request::Block::Number(0)) => {
                return Err(Status::invalid_argument("block 0 does not exist, the first block is 1"));
            }
            Some(get_block_request::Block::Number(number)) => number,
            Some(get_block_request::Block::Newest(_)) if tip == 0 => {
                return Err(Status::not_found("the chain has no block yet"));
            }
            Some(get_block_request::Block::Newest(_)) => tip,
            None => return Err(Status::invalid_argument("neither a number nor newest is set")),
        };
        match ledger.block(number).await {
            Ok(Some(block)) => Ok(Response::new(encode::block(&block, false))),
            Ok(None) => {
                Err(Status::not_found(format!("block {number} does not exist here, the tip is {tip}")))
            }
            Err(error) => Err(self.shared.directory.ledger_error(&error)),
        }
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<TransactionStatus>, Status> {
        let id = request.into_inner().id;
        check_id(&id)?;
        let state = self.shared.ledger.transaction(id).await;
        state
            .map(|state| Response::new(encode::transaction(state)))
            .map_err(|error| self.shared.directory.ledger_error(&error))
    }

    async fn tip(&self, request: Request<TipRequest>) -> Result<Response<TipReply>, Status> {
        let ledger = &self.shared.ledger;
        let tip = if request.into_inner().linearizable {
            ledger.linearizable_tip().await.map_err(|error| self.shared.directory.ledger_error(&error))?
        } else {
            ledger.tip()
        };
        Ok(Response::new(encode::tip(&tip)))
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Result<Response<Proof>, Status> {
        let id = request.into_inner().id;
        check_id(&id)?;
        match self.shared.ledger.prove(id.clone()).await {
            Ok(Some(proof)) => Ok(Response::new(encode::proof(proof))),
            Ok(None) => {
                Err(Status::not_found(format!("transaction {} is not in the chain", hex::encode(&id))))
            }
            Err(error) => Err(self.shared.directory.ledger_error(&error)),
        }
    }
}

/// What the caller uses of this node, where that is counted.
fn account(extensions: &Extensions) -> Option<Arc<Account>> {
    extensions.get::<Caller>().and_then(Caller::account).cloned()
}

/// Counts transactions as under way, as long as what is returned lives.
fn take(account: Option<&Arc<Account>>, transactions: &[Transaction]) -> Result<Option<InFlight>, Exceeded> {
    let bytes = transactions.iter().map(|transaction| transaction.id.len() + transaction.payload.len()).sum();
    account.map(|account| account.submit(transactions.len(), bytes)).transpose()
}

/// The outcome of transactions that are more than their client may have under way.
fn too_much(count: usize, exceeded: &Exceeded) -> Outcome {
    let mut outcome = refused(count, Reason::Overloaded, exceeded.to_string(), None);
    if let Some(outcome::Outcome::Refused(refused)) = &mut outcome.outcome {
        refused.retry_after_ms = exceeded.retry_after_ms();
    }
    outcome
}

/// Ends the span of a submission.
fn answered(mut span: Span, outcomes: &[Outcome]) {
    let mut height = 0;
    for outcome in outcomes {
        match &outcome.outcome {
            Some(outcome::Outcome::Committed(at)) => height = height.max(at.height),
            Some(outcome::Outcome::Refused(refused)) => span.fail(refused.message.clone()),
            Some(outcome::Outcome::Accepted(_)) | None => {}
        }
    }
    if height > 0 {
        span.note("consensus.height", height as i64);
    }
}

fn check_id(id: &[u8]) -> Result<(), Status> {
    if id.is_empty() || id.len() > TRANSACTION_ID_BYTES_MAX {
        let bytes = id.len();
        let what = format!("id of {bytes} bytes, must be between 1 and {TRANSACTION_ID_BYTES_MAX}");
        return Err(Status::invalid_argument(what));
    }
    Ok(())
}
