//! Requests on their way to the leader: transactions over one stream, and questions for a read index.
//!
//! A link to a node is made when the first request for it comes and kept while it works; it has a connection
//! of its own, so client data never delays Raft's messages. Many frames are in flight on it and each gets the
//! leader's real answer. A node to which no Raft stream is open is refused at once instead of after a
//! time-out; when a link breaks, whatever was on it has an unknown outcome and is answered so.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus_core::ids::NodeId;
use consensus_core::replica::Refusal;
use consensus_proto::ordering::{Acknowledgement, Outcome, Reason};
use consensus_proto::peer::peer_client::PeerClient;
use consensus_proto::peer::{ForwardReply, ForwardRequest, ReadIndexReply, ReadIndexRequest};
use consensus_proto::records::Transaction;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::Forwarder;
use super::connect::{CONNECT_TIMEOUT, connect_to, refused_call};
use super::handshake::Handshake;
use crate::application::ledger::{no_leader, refused};
use crate::security::dialer::Dialer;
use crate::telemetry::trace::TraceContext;

/// Frames in flight on one link.
const FRAMES_MAX: usize = 8192;
/// Requests that wait for the link's task.
const JOBS_MAX: usize = 1024;
/// Reads that wait for the next question to the leader.
const READS_MAX: usize = 65_536;
/// A leader that does not answer a question for a read index within this time is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The links of one chain.
pub struct PeerForwarder {
    shared: Arc<Shared>,
}

struct Shared {
    handshake: Arc<Handshake>,
    dialer: Dialer,
    message_bytes_max: usize,
    links: Mutex<BTreeMap<NodeId, mpsc::Sender<Job>>>,
    stop: CancellationToken,
}

impl fmt::Debug for PeerForwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerForwarder").finish_non_exhaustive()
    }
}

/// Something for the leader.
enum Job {
    Frame(Frame),
    Read(oneshot::Sender<Result<u64, Refusal>>),
}

struct Frame {
    transactions: Vec<Transaction>,
    acknowledgement: Acknowledgement,
    trace: Option<TraceContext>,
    answer: oneshot::Sender<Vec<Outcome>>,
}

/// A frame that was written to the stream.
struct Sent {
    count: usize,
    answer: oneshot::Sender<Vec<Outcome>>,
}

impl PeerForwarder {
    /// Without links; they are made when they are needed.
    pub fn new(handshake: Arc<Handshake>, dialer: Dialer, message_bytes_max: u64) -> Self {
        let shared = Shared {
            handshake,
            dialer,
            message_bytes_max: message_bytes_max as usize,
            links: Mutex::default(),
            stop: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Closes all links; what is in flight is answered as unknown.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// Hands a job to the link of `leader`, which is made if there is none. Gives the job back if it cannot be
    /// taken.
    fn hand_over(self: &Arc<Self>, leader: NodeId, mut job: Job) -> Result<(), Job> {
        let connected = self.handshake.book().peer(leader).is_some_and(|peer| peer.connected());
        if !connected || self.stop.is_cancelled() {
            return Err(job);
        }
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&leader) {
            match link.try_send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(back)) => return Err(back),
                Err(mpsc::error::TrySendError::Closed(back)) => job = back,
            }
        }
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        sender.try_send(job).map_err(|error| error.into_inner())?;
        links.insert(leader, sender);
        let (shared, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut link = Link::new(leader, jobs);
            stop.run_until_cancelled(link.run(&shared)).await;
            link.give_up();
        });
        Ok(())
    }
}

impl Forwarder for PeerForwarder {
    fn forward(
        &self,
        leader: NodeId,
        transactions: Vec<Transaction>,
        acknowledgement: Acknowledgement,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Vec<Outcome>> {
        let count = transactions.len();
        let (answer, outcomes) = oneshot::channel();
        let frame = Frame { transactions, acknowledgement, trace, answer };
        let handed_over = self.shared.hand_over(leader, Job::Frame(frame));
        Box::pin(async move {
            match handed_over {
                Ok(()) => outcomes.await.unwrap_or_else(|_| vec![unknown(count, leader)]),
                Err(_) => vec![no_leader(count, Some(leader))],
            }
        })
    }

    fn read_index(&self, leader: NodeId) -> BoxFuture<'static, Result<u64, Refusal>> {
        let (answer, index) = oneshot::channel();
        let handed_over = self.shared.hand_over(leader, Job::Read(answer));
        let refusal = Refusal::NotLeader { leader: Some(leader) };
        Box::pin(async move {
            match handed_over {
                Ok(()) => index.await.unwrap_or(Err(refusal)),
                Err(_) => Err(refusal),
            }
        })
    }
}

fn unknown(count: usize, leader: NodeId) -> Outcome {
    let message = format!("the connection to the leader (node {leader}) broke, the outcome is unknown");
    refused(count, Reason::LeadershipLost, message, Some(leader))
}

/// One link: its task's state.
struct Link {
    leader: NodeId,
    jobs: mpsc::Receiver<Job>,
    inflight: HashMap<u64, Sent>,
    sequence: u64,
    /// Reads that the question under way answers, and those that came after it began.
    asked: Vec<oneshot::Sender<Result<u64, Refusal>>>,
    waiting: Vec<oneshot::Sender<Result<u64, Refusal>>>,
}

/// An open link.
struct Open {
    client: PeerClient<Channel>,
    requests: mpsc::Sender<ForwardRequest>,
    replies: Streaming<ForwardReply>,
}

type Question = BoxFuture<'static, Result<ReadIndexReply, Status>>;

impl Link {
    fn new(leader: NodeId, jobs: mpsc::Receiver<Job>) -> Self {
        Self { leader, jobs, inflight: HashMap::new(), sequence: 0, asked: Vec::new(), waiting: Vec::new() }
    }

    /// Works until the link breaks.
    async fn run(&mut self, shared: &Shared) {
        let failure = match self.open(shared).await {
            Ok(open) => self.serve(shared, open).await,
            Err(why) => why,
        };
        tracing::info!(peer = self.leader.get(), failure, "link for forwarded requests closed");
    }

    async fn open(&self, shared: &Shared) -> Result<Open, String> {
        let peer = shared.handshake.book().peer(self.leader).ok_or("no such peer")?;
        let mut client = PeerClient::new(connect_to(peer, &shared.dialer).await?)
            .max_encoding_message_size(shared.message_bytes_max)
            .max_decoding_message_size(shared.message_bytes_max);
        let (requests, outgoing) = mpsc::channel(FRAMES_MAX + 1);
        let hello = ForwardRequest { hello: Some(shared.handshake.hello(self.leader)), ..Default::default() };
        requests.try_send(hello).map_err(|_| "the stream takes nothing")?;
        let opening = client.forward(ReceiverStream::new(outgoing));
        let replies = match tokio::time::timeout(2 * CONNECT_TIMEOUT, opening).await {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) => return Err(refused_call(&status)),
            Err(_) => return Err(format!("no answer within {} ms", 2 * CONNECT_TIMEOUT.as_millis())),
        };
        Ok(Open { client, requests, replies })
    }

    async fn serve(&mut self, shared: &Shared, mut open: Open) -> String {
        let mut question: Option<Question> = None;
        loop {
            tokio::select! {
                job = self.jobs.recv(), if self.inflight.len() < FRAMES_MAX => match job {
                    Some(Job::Frame(frame)) => {
                        if let Err(why) = self.write(&open.requests, frame, shared.message_bytes_max) {
                            return why;
                        }
                    }
                    Some(Job::Read(answer)) => self.wait_for_read(answer),
                    None => return "not needed any more".to_owned(),
                },
                reply = open.replies.message() => match reply {
                    Ok(Some(reply)) => self.on_reply(reply),
                    Ok(None) => return "closed by the peer".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                answer = async { question.as_mut().expect("polled only if there is one").await }, if question.is_some() => {
                    question = None;
                    self.on_read_index(answer);
                }
            }
            if question.is_none() && !self.waiting.is_empty() {
                self.asked = std::mem::take(&mut self.waiting);
                question = Some(self.ask(shared, open.client.clone()));
            }
        }
    }

    fn write(
        &mut self,
        requests: &mpsc::Sender<ForwardRequest>,
        frame: Frame,
        bytes_max: usize,
    ) -> Result<(), String> {
        self.sequence += 1;
        let request = ForwardRequest {
            sequence: self.sequence,
            hello: None,
            acknowledgement: frame.acknowledgement.into(),
            hops: 1,
            trace: frame.trace.map(TraceContext::to_bytes).unwrap_or_default(),
            transactions: frame.transactions,
        };
        let sent = Sent { count: request.transactions.len(), answer: frame.answer };
        let bytes = request.encoded_len();
        if bytes > bytes_max {
            // On the stream it would break the link and everything else on it.
            let message = format!("frame of {bytes} bytes, at most {bytes_max} can be forwarded");
            let _ = sent.answer.send(vec![refused(sent.count, Reason::Invalid, message, Some(self.leader))]);
            return Ok(());
        }
        self.inflight.insert(self.sequence, sent);
        // There is room for as many as may be in flight, so only a stream that has ended refuses.
        requests.try_send(request).map_err(|_| "the stream has ended".to_owned())
    }

    fn on_reply(&mut self, reply: ForwardReply) {
        let Some(sent) = self.inflight.remove(&reply.sequence) else { return };
        let answered: u64 = reply.outcomes.iter().map(|outcome| u64::from(outcome.count)).sum();
        let outcomes = if answered == sent.count as u64 {
            reply.outcomes
        } else {
            vec![unknown(sent.count, self.leader)]
        };
        // Whoever asked may have gone.
        let _ = sent.answer.send(outcomes);
    }

    fn wait_for_read(&mut self, answer: oneshot::Sender<Result<u64, Refusal>>) {
        if self.waiting.len() >= READS_MAX {
            let _ =
                answer.send(Err(Refusal::Overloaded { what: "the queue of reads", bound: READS_MAX as u64 }));
            return;
        }
        self.waiting.push(answer);
    }

    /// One question answers all reads that waited when it began.
    fn ask(&self, shared: &Shared, mut client: PeerClient<Channel>) -> Question {
        let request = ReadIndexRequest { hello: Some(shared.handshake.hello(self.leader)) };
        Box::pin(async move {
            match tokio::time::timeout(READ_TIMEOUT, client.read_index(request)).await {
                Ok(reply) => reply.map(tonic::Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("no answer from the leader")),
            }
        })
    }

    fn on_read_index(&mut self, answer: Result<ReadIndexReply, Status>) {
        let index = answer.map(|reply| reply.index).map_err(|status| {
            tracing::debug!(
                peer = self.leader.get(),
                why = status.message(),
                "no read index from the leader"
            );
            Refusal::NotLeader { leader: None }
        });
        for reader in self.asked.drain(..) {
            // Whoever asked may have gone.
            let _ = reader.send(index.clone());
        }
    }

    /// Answers everything that the link still holds. What was written may have taken effect, what was not has
    /// not.
    fn give_up(&mut self) {
        for (_, sent) in self.inflight.drain() {
            let _ = sent.answer.send(vec![unknown(sent.count, self.leader)]);
        }
        self.jobs.close();
        let mut reads: Vec<_> = self.asked.drain(..).chain(self.waiting.drain(..)).collect();
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                Job::Frame(frame) => {
                    let _ = frame.answer.send(vec![no_leader(frame.transactions.len(), Some(self.leader))]);
                }
                Job::Read(answer) => reads.push(answer),
            }
        }
        for reader in reads {
            let _ = reader.send(Err(Refusal::NotLeader { leader: Some(self.leader) }));
        }
    }
}
