//! What other nodes say to this one: Raft messages, transactions on their way to the leader, questions for a
//! read index, and how it stands.
//!
//! Every call begins with a hello, which is judged by the handshake; a refusal names what differs and is
//! logged and counted here. Messages are brought into shape and handed to the chain, which never waits:
//! what it cannot take is dropped and Raft sends it again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use consensus_proto::admin::NodeStatus;
use consensus_proto::ordering::Acknowledgement;
use consensus_proto::peer::peer_server::Peer as PeerApi;
use consensus_proto::peer::{
    ForwardReply, ForwardRequest, Hello, PeerFrame, PeerWelcome, ReadIndexReply, ReadIndexRequest,
    StatusQuestion, peer_frame::Frame,
};
use consensus_proto::raft::Message as WireMessage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::answer::{Directory, acknowledgement, stopping};
use super::pump::{Begun, Replies, pump};
use crate::application::ledger::{LedgerHandle, Submission};
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::ops::NodeView;
use crate::security::Caller;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::PeerMetrics;
use crate::telemetry::trace::TraceContext;
use crate::transport::book::Peer;
use crate::transport::handshake::{Handshake, Refused};
use crate::transport::wire;

/// A caller that has not said hello by then is sent away.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Forwarded frames in flight on one stream.
const FRAMES_MAX: usize = 8192;
/// Answers of one stream that wait: the welcome, those to pings, the reason of the end.
const ANSWERS_MAX: usize = 8;
/// How often a line that peers can provoke is written.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Where the answers of one stream go.
type Answers = mpsc::Sender<Result<PeerWelcome, Status>>;

/// The service of one chain.
#[derive(Clone, Debug)]
pub struct PeerService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    chain: ChainHandle,
    ledger: LedgerHandle,
    view: Arc<NodeView>,
    handshake: Arc<Handshake>,
    directory: Directory,
    metrics: PeerMetrics,
    refused_log: Throttle,
    malformed_log: Throttle,
    stop: CancellationToken,
}

impl PeerService {
    /// After `stop`, streams end.
    pub fn new(
        ledger: LedgerHandle,
        view: Arc<NodeView>,
        handshake: Arc<Handshake>,
        config: &Arc<Config>,
        metrics: PeerMetrics,
        stop: CancellationToken,
    ) -> Self {
        let directory = Directory::new(config.clone());
        let (refused_log, malformed_log) = (Throttle::new(LOG_EVERY), Throttle::new(LOG_EVERY));
        let chain = view.chain().clone();
        let shared =
            Shared { chain, ledger, view, handshake, directory, metrics, refused_log, malformed_log, stop };
        Self { shared: Arc::new(shared) }
    }
}

impl Shared {
    fn accept(&self, caller: &Extensions, hello: Option<&Hello>) -> Result<Arc<Peer>, Status> {
        let Some(hello) = hello else {
            return Err(Status::invalid_argument("the first frame must be a hello"));
        };
        let Some(caller) = caller.get::<Caller>() else {
            return Err(Status::internal("the connection does not say who calls"));
        };
        let accepted = self.handshake.accept(hello, caller.certificate.as_deref());
        accepted.cloned().map_err(|refused| self.refuse(caller, hello, &refused))
    }

    fn refuse(&self, caller: &Caller, hello: &Hello, refused: &Refused) -> Status {
        self.metrics.handshake_refused(refused.difference);
        if let Some(held_back) = self.refused_log.pass() {
            let address: String = hello.address.chars().take(256).collect();
            tracing::warn!(peer = hello.node_id, address, %caller, why = %refused, held_back, "handshake refused");
        }
        Status::failed_precondition(refused.to_string())
    }

    /// Hands a frame's messages to the chain.
    fn deliver(&self, peer: &Peer, messages: Vec<WireMessage>) {
        peer.heard();
        peer.series().received_messages.inc_by(messages.len() as u64);
        let mut decoded = Vec::with_capacity(messages.len());
        for message in messages {
            match wire::decode(message) {
                Ok(message) => decoded.push(message),
                Err(error) => {
                    let reason = match error {
                        wire::Error::MessageType(_) => "message-type",
                        wire::Error::EntryType(_) => "entry-type",
                    };
                    self.on_malformed(peer, reason, &error);
                }
            }
        }
        self.chain.deliver_messages(peer.node_id(), decoded);
    }

    fn on_malformed(&self, peer: &Peer, reason: &'static str, error: &dyn fmt::Display) {
        self.metrics.malformed(peer.node_id(), reason);
        if let Some(held_back) = self.malformed_log.pass() {
            let peer = peer.node_id().get();
            tracing::warn!(peer, reason, %error, held_back, "message of a peer cannot be decoded, dropped");
        }
    }

    /// A stream that cannot be read on: a connection that ends is its sender's business, bytes that are no frame or
    /// no message are not.
    fn on_broken(&self, peer: &Peer, status: Status) -> Status {
        if matches!(status.code(), Code::Internal | Code::OutOfRange) {
            self.on_malformed(peer, "frame", &status.message());
        }
        status
    }

    /// One stream of messages, until either side ends it.
    async fn receive(
        self: Arc<Self>,
        peer: Arc<Peer>,
        mut frames: Streaming<PeerFrame>,
        answers: &Answers,
    ) -> Result<(), Status> {
        loop {
            let frame = tokio::select! {
                () = self.stop.cancelled() => return Err(stopping()),
                frame = frames.message() => frame.map_err(|status| self.on_broken(&peer, status))?,
            };
            match frame.map(|frame| frame.frame) {
                None => return Ok(()),
                Some(Some(Frame::Raft(batch))) => self.deliver(&peer, batch.messages),
                Some(Some(Frame::Ping(number))) => self.pong(answers, number)?,
                Some(Some(Frame::Hello(_))) => return Err(Status::invalid_argument("a second hello")),
                Some(None) => return Err(Status::invalid_argument("a frame without content")),
            }
        }
    }

    /// Answers a ping, unless answers are not taken; the place for the reason of the end stays free.
    fn pong(&self, answers: &Answers, number: u64) -> Result<(), Status> {
        if number == 0 {
            return Err(Status::invalid_argument("a ping without a number"));
        }
        if answers.capacity() > 1 {
            // Whoever asked may have gone.
            let _ = answers.try_send(Ok(PeerWelcome { pong: number, ..self.handshake.welcome() }));
        }
        Ok(())
    }

    fn begin(
        self: Arc<Self>,
        request: ForwardRequest,
    ) -> Result<Begun<impl Future<Output = ForwardReply>, ForwardReply>, Status> {
        if request.hops == 0 {
            return Err(Status::invalid_argument("hops is 0, a forwarded frame has at least 1"));
        }
        let acknowledgement: Acknowledgement = acknowledgement(request.acknowledgement)?;
        let ForwardRequest { sequence, transactions, hops, trace, .. } = request;
        let trace = TraceContext::from_bytes(&trace);
        Ok(Begun::Work(async move {
            let submission = Submission { transactions, acknowledgement, hops, trace };
            let mut outcomes = self.ledger.submit(submission).await;
            self.directory.complete(&mut outcomes);
            ForwardReply { sequence, outcomes }
        }))
    }
}

/// The first frame of a stream.
async fn first<T>(frames: &mut Streaming<T>) -> Result<Option<T>, Status> {
    tokio::time::timeout(HELLO_TIMEOUT, frames.message())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no hello within {} s", HELLO_TIMEOUT.as_secs())))?
}

#[tonic::async_trait]
impl PeerApi for PeerService {
    type MessagesStream = ReceiverStream<Result<PeerWelcome, Status>>;
    type ForwardStream = Replies<ForwardReply>;

    async fn messages(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        let (_, caller, mut frames) = request.into_parts();
        let hello = match first(&mut frames).await?.and_then(|frame| frame.frame) {
            Some(Frame::Hello(hello)) => Some(hello),
            Some(Frame::Raft(_) | Frame::Ping(_)) | None => None,
        };
        let peer = self.shared.accept(&caller, hello.as_ref())?;
        tracing::debug!(peer = peer.node_id().get(), "a peer opened its stream");
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        let welcome = Ok(self.shared.handshake.welcome());
        answers.try_send(welcome).map_err(|_| Status::internal("an empty channel takes two answers"))?;
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Err(status) = shared.receive(peer.clone(), frames, &answers).await {
                tracing::debug!(peer = peer.node_id().get(), why = status.message(), "a peer's stream ended");
                // Nobody may be there to read it.
                let _ = answers.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (_, caller, mut frames) = request.into_parts();
        let request = first(&mut frames).await?.unwrap_or_default();
        self.shared.accept(&caller, request.hello.as_ref())?;
        if !request.transactions.is_empty() {
            return Err(Status::invalid_argument("the first request of a stream must be only a hello"));
        }
        let (shared, stop) = (self.shared.clone(), self.shared.stop.clone());
        Ok(Response::new(pump(frames, FRAMES_MAX, stop, move |request| shared.clone().begin(request))))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.shared.accept(request.extensions(), request.get_ref().hello.as_ref())?;
        let index = self.shared.chain.read_index().await;
        let index = index.map_err(|refusal| self.shared.directory.refusal(&refusal))?;
        Ok(Response::new(ReadIndexReply { index }))
    }

    async fn status(&self, request: Request<StatusQuestion>) -> Result<Response<NodeStatus>, Status> {
        self.shared.accept(request.extensions(), request.get_ref().hello.as_ref())?;
        Ok(Response::new(self.shared.view.status()))
    }
}
