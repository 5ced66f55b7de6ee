//! One ordered stream of Raft messages to each peer, over a gRPC connection of its own.
//!
//! A task for each peer connects, presents this node, waits for the welcome and then lets the stream take
//! what waits in the peer's [`Outbox`]; when the stream breaks it tries again with a jittered back-off from
//! 50 ms to 2 s. Client data travels on other connections, so a heartbeat never waits behind it. The other
//! direction (messages that arrive) is the peer service's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_core::replica::{Message, PeerReport};
use consensus_proto::peer::PeerWelcome;
use consensus_proto::peer::peer_client::PeerClient;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::connect::{Backoff, CONNECT_TIMEOUT, connect_to, refused_call};
use super::handshake::Handshake;
use super::outbox::{Bounds, Frames, Outbox, Report};
use crate::chain::ChainHandle;
use crate::config::Config;
use crate::security::dialer::Dialer;
use crate::telemetry::metrics::PeerMetrics;
use crate::telemetry::{Throttle, Told};

/// How often a line is written that each message can provoke.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How often a peer is asked for a sign of life, to measure the way there and back.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A stream that lasted this long was a good one: the next attempt begins with the shortest wait.
const GOOD_SESSION: Duration = Duration::from_secs(2);
/// How often a peer is asked for its certificate again while the last one that it showed is near its end.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// The longest wait after attempts that failed: whoever turns away an ended certificate counts them.
const LOOK_AGAIN_LAST: Duration = Duration::from_secs(300);

/// The streams of one chain.
pub struct PeerStreams {
    handshake: Arc<Handshake>,
    dialer: Dialer,
    metrics: PeerMetrics,
    message_bytes_max: usize,
    outboxes: BTreeMap<NodeId, Arc<Outbox>>,
    chain: Arc<std::sync::OnceLock<ChainHandle>>,
    stranger_log: Throttle,
    stop: CancellationToken,
}

impl fmt::Debug for PeerStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStreams").field("peers", &self.outboxes.keys()).finish_non_exhaustive()
    }
}

impl PeerStreams {
    /// Not connected yet: [`start`](Self::start) does that, once the chain runs.
    pub fn new(config: &Config, handshake: Arc<Handshake>, dialer: Dialer, metrics: PeerMetrics) -> Self {
        let chain: Arc<std::sync::OnceLock<ChainHandle>> = Arc::default();
        let reports_to = chain.clone();
        let report: Arc<Report> = Arc::new(move |peer: NodeId, report: PeerReport| {
            if let Some(chain) = reports_to.get() {
                chain.report_peer(peer, report);
            }
        });
        let bounds = Bounds {
            messages_max: config.queues.peer_messages_max,
            bytes_max: config.queues.peer_bytes_max,
            frame_bytes: config.limits.append_bytes_max,
            message_bytes_max: config.limits.message_bytes_max(),
        };
        let outbox = |peer: &Arc<super::book::Peer>| {
            (peer.node_id(), Arc::new(Outbox::new(peer.clone(), bounds, report.clone())))
        };
        Self {
            outboxes: handshake.book().iter().map(outbox).collect(),
            message_bytes_max: config.limits.message_bytes_max() as usize,
            handshake,
            dialer,
            metrics,
            chain,
            stranger_log: Throttle::new(LOG_EVERY),
            stop: CancellationToken::new(),
        }
    }

    /// Connects to all peers, and keeps on doing so until [`stop`](Self::stop). Reports go to `chain`.
    pub fn start(&self, chain: ChainHandle) -> Vec<JoinHandle<()>> {
        // Started twice would be two streams to each peer; the first chain stays.
        assert!(self.chain.set(chain).is_ok(), "the streams of a chain are started once");
        let run = |outbox: &Arc<Outbox>| {
            let link = Arc::new(Link {
                outbox: outbox.clone(),
                handshake: self.handshake.clone(),
                dialer: self.dialer.clone(),
                metrics: self.metrics.clone(),
                message_bytes_max: self.message_bytes_max,
            });
            let (looking, stop, stopped) = (link.clone(), self.stop.clone(), self.stop.clone());
            let stream = tokio::spawn(async move {
                stop.run_until_cancelled(link.run()).await;
            });
            let look = tokio::spawn(async move {
                stopped.run_until_cancelled(looking.look_again()).await;
            });
            [stream, look]
        };
        self.outboxes.values().flat_map(run).collect()
    }

    /// Closes all streams; the tasks end.
    pub fn stop(&self) {
        self.stop.cancel();
        for outbox in self.outboxes.values() {
            outbox.end();
            outbox.peer().set_connected(false);
        }
    }
}

impl Transport for PeerStreams {
    fn send(&self, messages: Vec<Message>) {
        // Messages for one peer usually follow each other: one lock for each run.
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let to = first.to;
            let run =
                std::iter::once(first).chain(std::iter::from_fn(|| messages.next_if(|next| next.to == to)));
            match NodeId::new(to).and_then(|id| self.outboxes.get(&id)) {
                Some(outbox) => outbox.push(run),
                None => {
                    let lost = run.count();
                    if let Some(held_back) = self.stranger_log.pass() {
                        tracing::warn!(
                            to,
                            lost,
                            held_back,
                            "messages for a node that is no peer of this chain"
                        );
                    }
                }
            }
        }
    }
}

/// The way to one peer.
struct Link {
    outbox: Arc<Outbox>,
    handshake: Arc<Handshake>,
    dialer: Dialer,
    metrics: PeerMetrics,
    message_bytes_max: usize,
}

impl Link {
    /// Connects again and again.
    async fn run(&self) {
        let mut backoff = Backoff::new();
        let mut told = Told::default();
        loop {
            let began = Instant::now();
            let frames = self.outbox.begin(self.handshake.hello(self.outbox.peer().node_id()));
            let failure = self.session(frames).await;
            self.outbox.peer().set_connected(false);
            self.outbox.end();
            let peer = self.outbox.peer();
            if began.elapsed() >= GOOD_SESSION {
                backoff.reset();
                told = Told::default();
            }
            let (address, peer) = (peer.address(), peer.node_id().get());
            if told.is_due(&failure, Instant::now()) {
                tracing::warn!(peer, address, failure, "no stream to a peer, trying again");
            } else {
                tracing::debug!(peer, address, failure, "no stream to a peer");
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// Connects for a moment, to see whether the peer has a new certificate by now.
    async fn look_again(&self) {
        let mut wait = LOOK_AGAIN_EVERY;
        loop {
            tokio::time::sleep(wait).await;
            let peer = self.outbox.peer();
            // Why it failed is the stream's to tell.
            let failed =
                self.dialer.saw_an_end(peer.node_id()) && connect_to(peer, &self.dialer).await.is_err();
            wait = if failed { (2 * wait).min(LOOK_AGAIN_LAST) } else { LOOK_AGAIN_EVERY };
        }
    }

    /// One stream from its connection to its end; returns why it ended.
    async fn session(&self, frames: Frames) -> String {
        let peer = self.outbox.peer();
        let channel = match connect_to(peer, &self.dialer).await {
            Ok(channel) => channel,
            Err(why) => return why,
        };
        let mut client = PeerClient::new(channel)
            .max_encoding_message_size(self.message_bytes_max)
            .max_decoding_message_size(self.message_bytes_max);
        let opening = async {
            let mut answers = client.messages(frames).await?.into_inner();
            let welcome = answers.message().await?;
            Ok::<_, tonic::Status>((answers, welcome))
        };
        let (mut answers, welcome) = match tokio::time::timeout(2 * CONNECT_TIMEOUT, opening).await {
            Ok(Ok((answers, Some(welcome)))) => (answers, welcome),
            Ok(Ok((_, None))) => return "closed by the peer before its welcome".to_owned(),
            Ok(Err(status)) => return self.refused_there(&status),
            Err(_) => return format!("no welcome within {} ms", 2 * CONNECT_TIMEOUT.as_millis()),
        };
        if let Err(refused) = self.handshake.accept_welcome(peer, &welcome) {
            self.metrics.handshake_refused(refused.difference);
            return refused.to_string();
        }
        peer.series().connects.inc();
        peer.set_connected(true);
        self.outbox.open();
        tracing::info!(peer = peer.node_id().get(), address = peer.address(), "stream to a peer is open");
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                // An older peer would end the stream over a frame that it does not know.
                _ = pings.tick(), if welcome.answers_pings => {
                    self.outbox.ping();
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => self.on_answer(&answer),
                Ok(None) => return "closed by the peer".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    fn on_answer(&self, answer: &PeerWelcome) {
        let peer = self.outbox.peer();
        peer.heard();
        if let Some(took) = self.outbox.pong(answer.pong) {
            peer.series().round_trip.observe(took.as_secs_f64());
        }
    }

    fn refused_there(&self, status: &tonic::Status) -> String {
        if status.code() == tonic::Code::FailedPrecondition {
            self.metrics.handshake_refused("refused-by-peer");
            return format!("refused by the peer: {}", status.message());
        }
        refused_call(status)
    }
}
