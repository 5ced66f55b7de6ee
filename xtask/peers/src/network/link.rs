//! The ways between this network and the others: one bounded queue and one connection to each peer, and one
//! connection from each.
//!
//! What is queued for a peer that cannot be reached is dropped after a while, as a real network drops it; a
//! full queue drops what is new.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Latch, MutexGuard as LatchGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use consensus_proto::cita::network::NetworkMsg;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Network;
use super::frame::{self, Frame, Hello};

/// Messages that wait for one peer.
const MESSAGES_MAX: usize = 65_536;
/// Their bytes.
const BYTES_MAX: usize = 256 << 20;
/// Before a peer that could not be reached is tried again.
const RECONNECT: Duration = Duration::from_millis(100);
/// Bytes gathered for one write.
const WRITE_BYTES: usize = 64 << 10;

/// The way to one peer.
#[derive(Debug)]
pub(super) struct Link {
    /// Its port.
    port: u16,
    state: Latch<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// Who is there, while it is.
    peer: Option<Hello>,
    dropped: u64,
}

impl Link {
    pub(super) fn new(port: u16) -> Self {
        Self { port, state: Latch::default(), arrived: Notify::new() }
    }

    fn state(&self) -> LatchGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is at the other end, while it can be reached.
    pub(super) fn peer(&self) -> Option<Hello> {
        self.state().peer
    }

    /// Messages that were not sent.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Queues an encoded frame. Never waits.
    pub(super) fn push(&self, frame: Bytes) {
        let mut state = self.state();
        let is_full = state.queue.len() >= MESSAGES_MAX || state.bytes + frame.len() > BYTES_MAX;
        if state.peer.is_none() || is_full && !state.queue.is_empty() {
            state.dropped += 1;
            return;
        }
        state.bytes += frame.len();
        state.queue.push_back(frame);
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Bytes> {
        let mut state = self.state();
        let frame = state.queue.pop_front()?;
        state.bytes -= frame.len();
        Some(frame)
    }

    fn set_peer(&self, peer: Option<Hello>) {
        let mut state = self.state();
        if peer.is_none() {
            state.dropped += state.queue.len() as u64;
            state.queue.clear();
            state.bytes = 0;
        }
        state.peer = peer;
    }
}

impl Network {
    /// Keeps a connection to one peer, for ever.
    pub(super) async fn run_link(self: Arc<Self>, link: Arc<Link>) {
        loop {
            if let Err(error) = self.send_over(&link).await {
                tracing::debug!(port = link.port, "peer: {error:#}");
            }
            link.set_peer(None);
            sleep(RECONNECT).await;
        }
    }

    async fn send_over(&self, link: &Link) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", link.port)).await?;
        stream.set_nodelay(true)?;
        frame::write(&mut stream, &self.hello().encode_to_vec()).await?;
        let peer: Hello = frame::read(&mut stream).await?;
        ensure!(peer.chain == self.config.chain, "it belongs to chain {:016x}", peer.chain);
        link.set_peer(Some(peer));
        let (mut reader, writer) = stream.into_split();
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, writer);
        loop {
            while let Some(frame) = link.pop() {
                self.unpaused().await;
                frame::write(&mut writer, &frame).await?;
            }
            writer.flush().await?;
            tokio::select! {
                () = link.arrived.notified() => {}
                // The peer says nothing on this connection; what can be read is its end.
                ended = reader.read_u8() => anyhow::bail!("it has gone: {ended:?}"),
            }
        }
    }

    /// Hears all peers, for ever.
    pub(super) async fn run_listener(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(RECONNECT).await;
                continue;
            };
            let network = self.clone();
            tokio::spawn(async move {
                if let Err(error) = network.receive_from(stream).await {
                    tracing::debug!("peer: {error:#}");
                }
            });
        }
    }

    async fn receive_from(self: &Arc<Self>, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let peer: Hello = frame::read(&mut stream).await?;
        frame::write(&mut stream, &self.hello().encode_to_vec()).await?;
        ensure!(peer.chain == self.config.chain, "it belongs to chain {:016x}", peer.chain);
        let (reader, _writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(WRITE_BYTES, reader);
        loop {
            let Frame { message } = frame::read(&mut reader).await?;
            self.unpaused().await;
            let is_blocked = self.faults().is_blocked_in(peer.origins());
            if let Some(message) = message.filter(|_| !is_blocked) {
                self.deliver(message);
            }
        }
    }
}

/// The frame that carries a message.
pub(super) fn encoded(message: NetworkMsg) -> Bytes {
    Bytes::from(Frame { message: Some(message) }.encode_to_vec())
}
