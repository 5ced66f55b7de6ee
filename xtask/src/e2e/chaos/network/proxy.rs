//! A proxy for each link: the first node connects to it, it connects to the second.
//!
//! A connection carries bytes both ways, each way under the rule of its own direction. A silent link keeps
//! what it has been given and delivers it when the rule is lifted, as TCP does after a short outage: so old
//! messages arrive late. All of it is threads and blocking sockets with short time-outs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;

use super::pump::{self, Direction};
use super::rules::{Board, Effect, Effects, Link, Passage, Rule};

/// Longest wait for the node behind a proxy.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// All links of a cluster.
#[derive(Debug)]
pub(crate) struct Proxies {
    board: Arc<Board>,
    links: Vec<Proxy>,
}

#[derive(Debug)]
struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Who connects, and to whom.
    link: Link,
    target: SocketAddr,
    board: Arc<Board>,
    seed: u64,
    is_stopped: AtomicBool,
    connections: Mutex<Vec<Arc<Connection>>>,
}

/// A connection through a proxy, for as long as one of its threads lives.
#[derive(Debug)]
pub(super) struct Connection {
    /// The end of the node that has connected.
    dialer: TcpStream,
    /// The end of the node that was connected to.
    target: TcpStream,
    pub(super) is_ended: AtomicBool,
    /// The dialer's end is gone, the other one stays.
    pub(super) is_half_open: AtomicBool,
}

impl Proxies {
    /// Opens a proxy for every ordered pair of `peers`, each on a free loopback port.
    pub(crate) fn start(peers: &[(u64, SocketAddr)], seed: u64) -> Result<Self> {
        let board = Arc::new(Board::default());
        let mut links = Vec::new();
        for (from, _) in peers {
            for (to, target) in peers.iter().filter(|(to, _)| to != from) {
                links.push(Proxy::start((*from, *to), *target, Arc::clone(&board), seed)?);
            }
        }
        Ok(Self { board, links })
    }

    /// Where `from` reaches `to`.
    pub(crate) fn address(&self, from: u64, to: u64) -> Option<SocketAddr> {
        self.links.iter().find(|proxy| proxy.shared.link == (from, to)).map(|proxy| proxy.address)
    }

    pub(super) fn apply(&self, rules: BTreeMap<Link, Rule>) {
        let refused = rules.iter().filter(|(_, rule)| rule.passage == Passage::Refused);
        let refused = refused.map(|(link, _)| *link).collect::<Vec<_>>();
        self.board.replace(rules);
        refused.into_iter().for_each(|(from, to)| self.reset(from, to));
    }

    pub(super) fn effects(&self) -> Effects {
        self.board.effects()
    }

    pub(super) fn reset(&self, one: u64, other: u64) {
        let between = |link: Link| link == (one, other) || link == (other, one);
        self.links.iter().filter(|proxy| between(proxy.shared.link)).for_each(|proxy| proxy.shared.reset());
    }

    pub(super) fn half_open(&self, node: u64) {
        self.links.iter().filter(|p| p.shared.link.0 == node).for_each(|proxy| proxy.shared.half_open());
    }

    pub(super) fn close_half_open(&self) {
        self.links.iter().for_each(|proxy| proxy.shared.close_half_open());
    }
}

impl Proxy {
    fn start(link: Link, target: SocketAddr, board: Arc<Board>, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for a proxy")?;
        let address = listener.local_addr().context("a proxy without an address")?;
        let shared = Arc::new(Shared {
            link,
            target,
            board,
            seed,
            is_stopped: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.accept(&listener))
        };
        Ok(Self { shared, address, accepting: Some(accepting) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; if that fails, it has ended already.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        self.shared.end_all();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for (number, dialer) in (0..).zip(listener.incoming()) {
            if self.is_stopped.load(Ordering::Relaxed) {
                return;
            }
            let Ok(dialer) = dialer else { continue };
            if self.is_refused() {
                reset_at_close(&dialer);
                self.board.count(Effect::Reset);
                continue;
            }
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.connect(dialer, number));
        }
    }

    fn is_refused(&self) -> bool {
        let (from, to) = self.link;
        [(from, to), (to, from)].iter().any(|link| self.board.rule(*link).passage == Passage::Refused)
    }

    /// Connects to the node behind this proxy. One that is down refuses, and the dialer is told by a reset.
    fn connect(&self, dialer: TcpStream, number: u64) {
        let Ok(target) = TcpStream::connect_timeout(&self.target, CONNECT_LIMIT) else {
            reset_at_close(&dialer);
            return;
        };
        // A connection that cannot be set up is dropped, which both ends notice.
        let _ = self.carry(dialer, target, number);
    }

    fn carry(&self, dialer: TcpStream, target: TcpStream, number: u64) -> std::io::Result<()> {
        for stream in [&dialer, &target] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(pump::WAKE))?;
            stream.set_write_timeout(Some(pump::WAKE))?;
        }
        let connection = Arc::new(Connection {
            dialer: dialer.try_clone()?,
            target: target.try_clone()?,
            is_ended: AtomicBool::new(false),
            is_half_open: AtomicBool::new(false),
        });
        {
            let mut connections = self.connections();
            connections.retain(|connection| !connection.is_ended.load(Ordering::Relaxed));
            connections.push(Arc::clone(&connection));
        }
        // The link may have been cut while this connection was being made.
        if self.is_refused() && connection.reset() {
            self.board.count(Effect::Reset);
        }
        let (from, to) = self.link;
        let ways = [
            ((from, to), dialer.try_clone()?, target.try_clone()?, true),
            ((to, from), target, dialer, false),
        ];
        for (link, source, sink, is_outward) in ways {
            let seed = self.seed ^ (from << 48) ^ (to << 40) ^ (u64::from(is_outward) << 32) ^ number;
            let board = Arc::clone(&self.board);
            let connection = Arc::clone(&connection);
            Direction { link, is_outward, board, connection, seed }.start(source, sink);
        }
        Ok(())
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) -> usize {
        let connections = std::mem::take(&mut *self.connections());
        connections.iter().filter(|connection| connection.reset()).count()
    }

    fn reset(&self) {
        (0..self.end_all()).for_each(|_| self.board.count(Effect::Reset));
    }

    fn half_open(&self) {
        for connection in self.connections().iter() {
            let is_new = !connection.is_half_open.swap(true, Ordering::Relaxed);
            if is_new && connection.dialer.shutdown(std::net::Shutdown::Both).is_ok() {
                self.board.count(Effect::HalfOpened);
            }
        }
    }

    fn close_half_open(&self) {
        // Who is not kept here is closed when its last thread ends.
        self.connections().retain(|connection| {
            let is_half_open = connection.is_half_open.load(Ordering::Relaxed);
            if is_half_open {
                connection.reset();
            }
            !is_half_open
        });
    }
}

impl Connection {
    /// Lets its threads end, and both ends with a reset. False if it has ended before.
    fn reset(&self) -> bool {
        reset_at_close(&self.dialer);
        reset_at_close(&self.target);
        !self.is_ended.swap(true, Ordering::Relaxed)
    }
}

/// Closing this socket sends a reset.
fn reset_at_close(stream: &TcpStream) {
    // Without it the close is an orderly one, which is a milder fault.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A proxy from node 1 to node 2 and both ends of a connection through it.
    fn connected() -> (Proxies, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("bound");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let proxies = Proxies::start(&[(1, nowhere), (2, target)], 1).expect("start");
        let mut dialer = TcpStream::connect(proxies.address(1, 2).expect("exists")).expect("connects");
        let (mut accepted, _) = listener.accept().expect("is connected");
        for stream in [&mut dialer, &mut accepted] {
            stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        }
        // Once a byte has come through, the proxy knows the connection.
        dialer.write_all(b"!").expect("sends");
        received(&mut accepted, 1);
        (proxies, dialer, accepted)
    }

    fn received(stream: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).expect("arrives");
        bytes
    }

    #[test]
    fn bytes_pass_both_ways() {
        let (_proxies, mut dialer, mut accepted) = connected();
        dialer.write_all(b"there").expect("sends");
        assert_eq!(received(&mut accepted, 5), b"there");
        accepted.write_all(b"back").expect("sends");
        assert_eq!(received(&mut dialer, 4), b"back");
    }

    #[test]
    fn a_silent_direction_keeps_its_bytes_until_it_is_healed_and_the_other_one_passes() {
        let (proxies, mut dialer, mut accepted) = connected();
        proxies.apply(BTreeMap::from([((1, 2), Rule::passage(Passage::Silent))]));
        dialer.write_all(b"late").expect("sends");
        accepted.write_all(b"now").expect("sends");
        assert_eq!(received(&mut dialer, 3), b"now");
        let end = Instant::now() + LIMIT;
        while proxies.effects().held == 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        accepted.set_nonblocking(true).expect("is set");
        let kind = accepted.read(&mut [0; 4]).expect_err("nothing is there").kind();
        assert_eq!(kind, ErrorKind::WouldBlock);
        accepted.set_nonblocking(false).expect("is set");
        proxies.apply(BTreeMap::new());
        assert_eq!(received(&mut accepted, 4), b"late");
    }

    #[test]
    fn a_delay_is_kept_and_a_slow_link_takes_its_time() {
        let (proxies, mut dialer, mut accepted) = connected();
        let delay = Duration::from_millis(150);
        proxies.apply(BTreeMap::from([((1, 2), Rule { delay, ..Rule::default() })]));
        let started = Instant::now();
        dialer.write_all(b"x").expect("sends");
        received(&mut accepted, 1);
        assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
        proxies.apply(BTreeMap::from([((1, 2), Rule { bytes_per_s: Some(10_000), ..Rule::default() })]));
        let started = Instant::now();
        dialer.write_all(&[0; 3000]).expect("sends");
        received(&mut accepted, 3000);
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        let effects = proxies.effects();
        assert!(effects.delayed > 0 && effects.slowed > 0, "{effects:?}");
    }

    #[test]
    fn a_reset_reaches_both_ends_and_a_refused_link_takes_no_new_connection() {
        let (proxies, mut dialer, mut accepted) = connected();
        proxies.apply(BTreeMap::from([((2, 1), Rule::passage(Passage::Refused))]));
        for stream in [&mut dialer, &mut accepted] {
            let kind = stream.read(&mut [0; 1]).expect_err("is reset").kind();
            assert_eq!(kind, ErrorKind::ConnectionReset);
        }
        // The kernel takes the connection; it is reset before a byte has come.
        let again = TcpStream::connect(proxies.address(1, 2).expect("exists"));
        let came = again.and_then(|mut stream| stream.read(&mut [0; 1]));
        assert!(matches!(came, Err(ref error) if error.kind() == ErrorKind::ConnectionReset), "{came:?}");
        assert_eq!(proxies.effects().reset, 2);
    }

    #[test]
    fn a_half_open_connection_is_over_for_the_dialer_alone() {
        let (proxies, mut dialer, mut accepted) = connected();
        proxies.half_open(1);
        assert_eq!(dialer.read(&mut [0; 1]).expect("ends"), 0);
        accepted.write_all(b"anyone?").expect("nobody has told this end");
        accepted.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
        let kind = accepted.read(&mut [0; 1]).expect_err("nothing comes").kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind:?}");
        assert_eq!(proxies.effects().half_opened, 1);
        proxies.close_half_open();
        accepted.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let kind = accepted.read(&mut [0; 1]).expect_err("is reset").kind();
        assert_eq!(kind, ErrorKind::ConnectionReset);
    }
}
