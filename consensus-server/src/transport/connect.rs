//! How connections between nodes are made: one place for deadlines, keep-alive and windows.
//!
//! A connection is made when it is needed and given up when it breaks; who holds it decides when to try
//! again, with [`Backoff`].

use std::time::Duration;

use rand::Rng;
use tonic::transport::{Channel, Endpoint};

use super::book::Peer;
use crate::security::dialer::Dialer;

/// Deadline for the connection itself, and for the answer to a handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An idle or stuck connection is asked for a sign of life this often.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Without an answer for this long it counts as broken.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes under way on one stream before the receiver must have taken some.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for all streams of a connection together.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_secs(2);

/// Connects to `host:port` in plaintext. Names are resolved anew each time.
pub(super) async fn connect(address: &str) -> Result<Channel, String> {
    made(endpoint(address)?.connect()).await
}

/// Connects to another node, in plaintext or over TLS.
pub(super) async fn connect_to(peer: &Peer, dialer: &Dialer) -> Result<Channel, String> {
    match dialer.connector(peer.node_id(), peer.address()) {
        Some(connector) => made(endpoint(peer.address())?.connect_with_connector(connector)).await,
        None => connect(peer.address()).await,
    }
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

async fn made<F>(connection: F) -> Result<Channel, String>
where
    F: Future<Output = Result<Channel, tonic::transport::Error>>,
{
    // The deadline of the endpoint does not cover the resolution of the name.
    match tokio::time::timeout(2 * CONNECT_TIMEOUT, connection).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(innermost(&error)),
        Err(_) => Err(format!("no connection within {} ms", 2 * CONNECT_TIMEOUT.as_millis())),
    }
}

/// Why a call on a new connection failed. Where the other side speaks TLS, its first word has no sense in HTTP/2,
/// which says no more than that.
pub(super) fn refused_call(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost).unwrap_or_default();
    if cause.contains("frame with invalid size") {
        return format!("{cause}: the other side may speak TLS");
    }
    status.message().to_owned()
}

/// The cause at the bottom, which is what people need ("connection refused").
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let words = cause.to_string().to_lowercase();
    // The number says nothing that the words do not.
    words.split(" (os error").next().unwrap_or(&words).to_owned()
}

/// Waits between attempts: doubling from 50 ms to 2 s, each drawn between half of it and all of it.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::up_to(BACKOFF_LAST)
    }

    /// Doubling up to `last` instead.
    pub(super) fn up_to(last: Duration) -> Self {
        Self { next: BACKOFF_FIRST, last }
    }

    /// After a success.
    pub(super) fn reset(&mut self) {
        self.next = BACKOFF_FIRST;
    }

    /// How long to wait before the next attempt.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.last);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_50_ms_to_2_s_with_jitter() {
        let mut backoff = Backoff::new();
        let mut full = BACKOFF_FIRST;
        for _ in 0..10 {
            let wait = backoff.wait();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(BACKOFF_LAST);
        }
        assert_eq!(full, BACKOFF_LAST);
        backoff.reset();
        assert!(backoff.wait() <= BACKOFF_FIRST);
    }
}
