//! The exchange over direct gRPC streams between consensus services, for speed.
//!
//! One client stream to each node whose address is configured, made anew with a jittered back-off when it
//! breaks; the others are reached over another carrier. The stream's own window holds back a sender whose
//! receiver is slow. Who sends is told by the envelopes and judged by the exchange, not by the connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_proto::cita::exchange::exchange_client::ExchangeClient;
use consensus_proto::cita::exchange::exchange_server::{Exchange as ExchangeApi, ExchangeServer};
use consensus_proto::cita::exchange::{Delivered, Envelope};
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Carrier, Exchange};
use crate::config::cita::address::Short;
use crate::telemetry::Told;
use crate::transport::connect::{Backoff, connect};

/// Envelopes that wait for a stream's window.
const WAITING_MAX: usize = 4;
/// A single message on a stream may be as large as this many of this node's pieces, since others may be set to
/// larger ones.
const PIECES: u64 = 4;
/// A stream that lasted this long was a good one: the next attempt begins with the shortest wait.
const GOOD_SESSION: Duration = Duration::from_secs(2);

/// Carries envelopes over direct streams.
pub struct DirectCarrier {
    links: BTreeMap<NodeId, Arc<Link>>,
    fallback: Arc<dyn Carrier>,
}

/// The way to one node.
struct Link {
    node: NodeId,
    address: String,
    /// Where its stream takes envelopes from, while there is one.
    stream: Mutex<Option<mpsc::Sender<Envelope>>>,
}

impl fmt::Debug for DirectCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectCarrier").field("nodes", &self.links.keys()).finish_non_exhaustive()
    }
}

impl DirectCarrier {
    /// To the nodes with an address (`host:port`); to all others over `fallback`. Not connected before
    /// [`start`](Self::start).
    pub fn new(addresses: BTreeMap<NodeId, String>, fallback: Arc<dyn Carrier>) -> Self {
        let link = |(node, address)| (node, Arc::new(Link { node, address, stream: Mutex::default() }));
        Self { links: addresses.into_iter().map(link).collect(), fallback }
    }

    /// Connects to all of them, again and again until `stop`.
    pub fn start(&self, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let run = |link: &Arc<Link>| {
            let (link, stop) = (link.clone(), stop.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(link.run()).await;
                link.set(None);
            })
        };
        self.links.values().map(run).collect()
    }
}

impl Carrier for DirectCarrier {
    fn carry(&self, to: NodeId, origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let Some(link) = self.links.get(&to) else {
            return self.fallback.carry(to, origin, envelope);
        };
        let stream = link.stream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let stream = stream.ok_or("no stream to it is open")?;
            let envelope = Envelope::decode(envelope).map_err(|error| error.to_string())?;
            stream.send(envelope).await.map_err(|_| "the stream to it broke".to_owned())
        })
    }

    /// Over the network and every stream: the network may not be there at all.
    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let streams: Vec<NodeId> = self.links.keys().copied().collect();
        let sent: Vec<_> = streams.into_iter().map(|to| self.carry(to, to.get(), envelope.clone())).collect();
        let fallback = self.fallback.announce(envelope);
        Box::pin(async move {
            let outcomes = futures_util::future::join_all(sent).await;
            fallback.await.or_else(|why| outcomes.into_iter().find(Result::is_ok).unwrap_or(Err(why)))
        })
    }

    fn address(&self, to: NodeId, origin: u64) -> String {
        self.links.get(&to).map_or_else(|| self.fallback.address(to, origin), |link| link.address.clone())
    }
}

impl Link {
    fn set(&self, stream: Option<mpsc::Sender<Envelope>>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    async fn run(&self) {
        let mut backoff = Backoff::new();
        let mut told = Told::default();
        loop {
            let began = Instant::now();
            let failure = self.session().await;
            self.set(None);
            let (peer, address) = (Short(self.node), &self.address);
            if began.elapsed() >= GOOD_SESSION {
                backoff.reset();
                told = Told::default();
            }
            if told.is_due(&failure, Instant::now()) {
                tracing::warn!(%peer, address, failure, "no direct stream to a peer, trying again");
            } else {
                tracing::debug!(%peer, address, failure, "no direct stream to a peer");
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// One stream from its connection to its end; returns why it ended.
    async fn session(&self) -> String {
        let channel = match connect(&self.address).await {
            Ok(channel) => channel,
            Err(why) => return why,
        };
        let (envelopes, outgoing) = mpsc::channel(WAITING_MAX);
        self.set(Some(envelopes));
        tracing::info!(peer = %Short(self.node), address = self.address, "direct stream to a peer is open");
        let mut client = ExchangeClient::new(channel).max_encoding_message_size(usize::MAX);
        match client.deliver(ReceiverStream::new(outgoing)).await {
            Ok(_) => "closed by the peer".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    }
}

/// Takes what other consensus services send directly.
#[derive(Clone, Debug)]
pub struct ExchangeService {
    exchange: Arc<Exchange>,
    stop: CancellationToken,
}

impl ExchangeService {
    /// After `stop`, streams end.
    pub fn new(exchange: Arc<Exchange>, stop: CancellationToken) -> Self {
        Self { exchange, stop }
    }

    /// As a server takes it, with its bound of message size.
    pub fn into_server(self) -> ExchangeServer<Self> {
        // Large envelopes come in pieces, over streams as well.
        let bytes_max = PIECES * self.exchange.piece_bytes_max();
        ExchangeServer::new(self).max_decoding_message_size(bytes_max as usize)
    }
}

#[tonic::async_trait]
impl ExchangeApi for ExchangeService {
    async fn deliver(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Delivered>, Status> {
        let mut envelopes = request.into_inner();
        loop {
            let envelope = tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("this node is stopping")),
                envelope = envelopes.message() => envelope?,
            };
            match envelope {
                // The address of a direct stream is not one that the network service knows.
                Some(envelope) => self.exchange.receive_decoded(0, envelope),
                None => return Ok(Response::new(Delivered {})),
            };
        }
    }
}
