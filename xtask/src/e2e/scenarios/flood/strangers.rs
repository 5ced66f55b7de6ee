//! Who knocks without a certificate: connections that say nothing and handshakes that stop half way, from another
//! address of the loopback interface than that of the clients.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::e2e::cluster::Node;

/// Where they are.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Of each node's listeners, this many are held open.
const OPEN_MAX: usize = 120;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// The begin of a handshake of TLS: a record of 512 bytes is announced, and nine of them come.
const HALF: [u8; 14] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7];

/// A thread that knocks until it is stopped.
pub(super) struct Strangers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Strangers {
    /// At the client and the peer listeners of all nodes.
    pub(super) fn start(nodes: &[Node]) -> Self {
        let at = nodes
            .iter()
            .flat_map(|node| [SocketAddr::from(([127, 0, 0, 1], node.ports().client)), node.peer_address()]);
        let at: Vec<SocketAddr> = at.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || knock(&at, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// How many connections there were.
    pub(super) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn knock(at: &[SocketAddr], stop: &AtomicBool) -> u64 {
    let mut open: VecDeque<TcpStream> = VecDeque::new();
    let mut count = 0;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A connection that is not taken is one fewer.
        if let Ok(mut stream) = from_elsewhere(at[number % at.len()]) {
            if (number / at.len()).is_multiple_of(2) {
                let _ = stream.write_all(&HALF);
            }
            open.push_back(stream);
            count += 1;
        }
        if open.len() > OPEN_MAX * at.len() {
            open.pop_front();
        }
        std::thread::sleep(PAUSE);
    }
    count
}

fn from_elsewhere(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((FROM, 0)))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}
