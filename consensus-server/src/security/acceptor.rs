//! New connections of one listener, in plaintext or after their TLS handshake.
//!
//! Handshakes are done beside each other, in a bounded number, of which one address gets only a part: somebody
//! who connects and says nothing holds up nobody. Clients are let in as far as their bounds go
//! ([`crate::clients`]). A handshake that fails is counted and logged with its
//! reason and the address it came from, and the caller gets the reason as an alert of TLS. Each handshake
//! uses the certificates as they are on disk then.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;
use super::refusals::{Place, Reason, Refusals, why};
use super::stream::{Caller, Stream};
use super::tls::Tls;
use crate::clients::{Clients, Exceeded, Identity};
use crate::telemetry::Throttle;

/// Wait after an error of accepting.
const PAUSE: Duration = Duration::from_millis(100);
/// How often such an error is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// A handshake that is not done by then is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way on one listener; further connections wait in the system's queue.
const HANDSHAKES_MAX: usize = 256;
/// Of these, from one address.
const HANDSHAKES_OF_ADDRESS_MAX: usize = 64;
/// Connections whose handshake is done and that nobody has taken up yet.
const DONE_MAX: usize = 16;
/// How long, and for how many bytes, a refused caller is listened to, so that it gets the alert.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 << 10;

/// The connections of one listener.
#[derive(Debug)]
pub struct Acceptor {
    address: SocketAddr,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Plain { listener: TcpListener, log: Throttle, door: Door },
    Tls(mpsc::Receiver<Stream>),
}

impl Acceptor {
    /// In plaintext.
    pub(super) fn plain(listener: TcpListener, door: Door) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let log = Throttle::new(LOG_EVERY);
        Ok(Self { address, source: Source::Plain { listener, log, door } })
    }

    /// Over TLS. Runs until it is dropped, within a runtime.
    pub(super) fn tls(listener: TcpListener, door: Door, tls: Arc<Tls>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (done, connections) = mpsc::channel(DONE_MAX);
        let shared = Arc::new(Shared { door, tls, crowd: Arc::default(), done });
        tokio::spawn(async move {
            let done = shared.done.clone();
            tokio::select! {
                () = done.closed() => {}
                () = shared.run(listener) => {}
            }
        });
        Ok(Self { address, source: Source::Tls(connections) })
    }

    /// The next connection.
    pub async fn next(&mut self) -> Stream {
        match &mut self.source {
            Source::Plain { listener, log, door } => loop {
                let (stream, remote) = accept(listener, log, door.place.as_str()).await;
                match door.enter(remote, None) {
                    Ok(caller) => return Stream::plain(stream, caller, door.place, door.refusals.clone()),
                    // Its buffer is empty: if not all of it goes out, the caller only lacks the words.
                    Err(exceeded) => drop(stream.try_write(&goodbye(&exceeded))),
                }
            },
            Source::Tls(connections) => match connections.recv().await {
                Some(stream) => stream,
                // Only if the runtime is going down.
                None => std::future::pending().await,
            },
        }
    }
}

impl axum::serve::Listener for Acceptor {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        let stream = self.next().await;
        let remote = stream.remote();
        (stream, remote)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// The next connection of a listener; errors of accepting (no file descriptor left, most of all) are waited
/// out.
pub(crate) async fn accept(
    listener: &TcpListener,
    log: &Throttle,
    name: &'static str,
) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                // Without it small frames wait for acknowledgements; a connection that refuses is broken.
                if stream.set_nodelay(true).is_ok() {
                    return (stream, remote);
                }
            }
            Err(error) => {
                if let Some(held_back) = log.pass() {
                    tracing::warn!(listener = name, %error, held_back, "connections cannot be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Who is let in at one listener.
#[derive(Debug)]
pub(super) struct Door {
    place: Place,
    refusals: Arc<Refusals>,
    /// Those whose use is counted, if it is.
    clients: Option<Clients>,
}

impl Door {
    /// Of a listener; `clients` are counted if it is theirs.
    pub(super) fn new(place: Place, refusals: Arc<Refusals>, clients: Option<Clients>) -> Self {
        Self { place, refusals, clients }
    }

    /// Lets somebody in who has shown this.
    fn enter(&self, remote: SocketAddr, certificate: Option<Arc<Certificate>>) -> Result<Caller, Exceeded> {
        let mut caller = Caller::uncounted(remote, certificate);
        if let Some(clients) = &self.clients {
            let identity = Identity::of(caller.certificate.as_deref(), remote);
            let connected = clients.connect(identity);
            caller.connection = Some(Arc::new(connected.inspect_err(|why| self.refuse_limit(&caller, why))?));
        }
        Ok(caller)
    }

    /// Whether there is room for anybody.
    fn has_room(&self, remote: SocketAddr) -> bool {
        let Some(clients) = &self.clients else { return true };
        clients.room().inspect_err(|why| self.refuse_limit(&remote, why)).is_ok()
    }

    fn refuse_limit(&self, who: &dyn fmt::Display, why: &Exceeded) {
        self.refusals.refused(self.place, Reason::Limit, who, &why.to_string());
    }
}

/// The words for a client that has too many connections: in HTTP/2 (RFC 9113) an empty SETTINGS, with which a
/// server begins, and a GOAWAY with ENHANCE_YOUR_CALM.
fn goodbye(why: &Exceeded) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let words = why.to_string();
    let length = 8 + words.len() as u32;
    let mut bytes = SETTINGS.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    // No flags, of the connection as a whole, no stream was taken.
    bytes.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    bytes.extend_from_slice(words.as_bytes());
    bytes
}

/// One listener's handshakes.
#[derive(Debug)]
struct Shared {
    door: Door,
    tls: Arc<Tls>,
    crowd: Arc<Crowd>,
    done: mpsc::Sender<Stream>,
}

impl Shared {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let log = Throttle::new(LOG_EVERY);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let (stream, remote) = accept(&listener, &log, self.door.place.as_str()).await;
            if !self.door.has_room(remote) {
                continue;
            }
            match self.crowd.enter(remote.ip()) {
                Some(place) => {
                    let shared = self.clone();
                    tokio::spawn(async move { shared.handshake(stream, remote, (permit, place)).await });
                }
                None => {
                    let what =
                        format!("has {HANDSHAKES_OF_ADDRESS_MAX} handshakes under way, at most that many");
                    self.refuse(Reason::Crowded, remote, &what);
                }
            }
        }
    }

    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        _held: (OwnedSemaphorePermit, Entered),
    ) {
        let config = self.tls.current().listener(self.door.place);
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake(config, stream)).await;
        let (mut stream, certificate) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err((reason, what))) => return self.refuse(reason, remote, &what),
            Err(_) => {
                let what = format!("no TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs());
                return self.refuse(Reason::TimedOut, remote, &what);
            }
        };
        self.tls.seen(&certificate);
        match self.door.enter(remote, Some(Arc::new(certificate))) {
            Ok(caller) => {
                let stream = Stream::tls(stream, caller, self.door.place, self.door.refusals.clone());
                // Nobody takes connections any more when the node stops.
                let _ = self.done.send(stream).await;
            }
            Err(exceeded) => {
                // If it cannot be said, the caller only lacks the words.
                let _ = tokio::time::timeout(LINGER, stream.write_all(&goodbye(&exceeded))).await;
                linger(stream).await;
            }
        }
    }

    fn refuse(&self, reason: Reason, remote: SocketAddr, what: &str) {
        self.door.refusals.refused(self.door.place, reason, &remote, what);
    }
}

/// The handshake, and whose certificate was shown.
async fn shake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
) -> Result<(TlsStream<TcpStream>, Certificate), (Reason, String)> {
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let Some(der) = shown else {
                return Err((Reason::NoCertificate, "shows no certificate, must show one".to_owned()));
            };
            match Certificate::parse(der) {
                Ok(certificate) => Ok((stream, certificate)),
                Err(what) => Err((Reason::Certificate, what)),
            }
        }
        Err((error, stream)) => {
            let reason = reason(&error);
            linger(stream).await;
            Err(reason)
        }
    }
}

/// Why a handshake failed.
pub(super) fn reason(error: &io::Error) -> (Reason, String) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => why(error),
        None => (Reason::HungUp, format!("hung up during the TLS handshake: {error}")),
    }
}

/// Closes a connection in such a way that what was written last arrives: unread bytes would undo it.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let drained = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // Whatever happens, the connection is closed.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Handshakes under way by address.
#[derive(Debug, Default)]
struct Crowd {
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// A handshake's place in the crowd, until it is dropped.
#[derive(Debug)]
struct Entered {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Entered> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let here = addresses.entry(address).or_default();
        if *here >= HANDSHAKES_OF_ADDRESS_MAX {
            return None;
        }
        *here += 1;
        Some(Entered { crowd: self.clone(), address })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut addresses = self.crowd.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = addresses.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_only_a_part_of_the_handshakes() {
        let crowd = Arc::new(Crowd::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut entered: Vec<_> = (0..HANDSHAKES_OF_ADDRESS_MAX).filter_map(|_| crowd.enter(one)).collect();
        assert_eq!(entered.len(), HANDSHAKES_OF_ADDRESS_MAX);
        assert!(crowd.enter(one).is_none());
        assert!(crowd.enter(other).is_some(), "another address is not held up");
        entered.pop();
        assert!(crowd.enter(one).is_some());
        drop(entered);
        assert!(crowd.addresses.lock().expect("no panic").is_empty(), "nothing is kept of those who left");
    }
}
