//! One direction of one connection through a proxy: a thread that reads, a thread that writes, and a bounded
//! queue of pieces between them, so that a delay does not narrow the link.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::proxy::Connection;
use super::rules::{Board, Effect, Link, Passage};
use crate::e2e::random::Random;

/// How often a waiting thread looks whether its connection has ended.
pub(super) const WAKE: Duration = Duration::from_millis(100);

/// How often a held piece looks whether it may pass.
const LOOK: Duration = Duration::from_millis(10);

/// Largest piece.
const PIECE_BYTES: usize = 16 << 10;

/// Pieces that are under way at most; beyond it the sender has to wait.
const PIECES_MAX: usize = 64;

/// Bytes that pass at once on a slow link.
const SLOW_BYTES: usize = 256;

/// One way of a connection.
pub(super) struct Direction {
    pub(super) link: Link,
    /// From the node that has connected to the other one.
    pub(super) is_outward: bool,
    pub(super) board: Arc<Board>,
    pub(super) connection: Arc<Connection>,
    pub(super) seed: u64,
}

struct Piece {
    due: Instant,
    is_delayed: bool,
    bytes: Vec<u8>,
}

impl Direction {
    /// Starts both threads; they end with the connection.
    pub(super) fn start(self, source: TcpStream, sink: TcpStream) {
        let (sender, pieces) = sync_channel(PIECES_MAX);
        let this = Arc::new(self);
        let reader = Arc::clone(&this);
        std::thread::spawn(move || reader.read(source, &sender));
        std::thread::spawn(move || this.write(sink, &pieces));
    }

    fn is_ended(&self) -> bool {
        self.connection.is_ended.load(Ordering::Relaxed)
    }

    fn is_half_open(&self) -> bool {
        self.connection.is_half_open.load(Ordering::Relaxed)
    }

    /// The end that a half-open connection lacks is the dialer's: source outwards, sink inwards.
    fn read(&self, mut source: TcpStream, pieces: &SyncSender<Piece>) {
        let mut random = Random::new(self.seed);
        let mut buffer = vec![0; PIECE_BYTES];
        while !self.is_ended() {
            match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let rule = self.board.rule(self.link);
                    let jitter = Duration::from_micros(random.below(rule.jitter.as_micros() as u64 + 1));
                    let wait = rule.delay + jitter;
                    let piece = Piece {
                        due: Instant::now() + wait,
                        is_delayed: !wait.is_zero(),
                        bytes: buffer[..count].to_vec(),
                    };
                    if pieces.send(piece).is_err() {
                        return;
                    }
                }
                Err(error) if is_time_out(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn write(&self, mut sink: TcpStream, pieces: &Receiver<Piece>) {
        for piece in pieces {
            self.wait(&piece);
            let is_gone = self.is_half_open() && !self.is_outward;
            if !is_gone && self.deliver(&mut sink, &piece.bytes).is_err() && !self.is_half_open() {
                break;
            }
            if self.is_ended() {
                break;
            }
        }
        // The source has ended. What it has left half open stays so until somebody ends it.
        while self.is_outward && self.is_half_open() && !self.is_ended() {
            std::thread::sleep(LOOK);
        }
        self.connection.is_ended.store(true, Ordering::Relaxed);
    }

    /// Until the piece is due and the link lets it pass.
    fn wait(&self, piece: &Piece) {
        if piece.is_delayed {
            self.board.count(Effect::Delayed);
        }
        while !self.is_ended() {
            let left = piece.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(WAKE));
        }
        if self.board.rule(self.link).passage == Passage::Open {
            return;
        }
        self.board.count(Effect::Held);
        while !self.is_ended() && self.board.rule(self.link).passage != Passage::Open {
            std::thread::sleep(LOOK);
        }
    }

    fn deliver(&self, sink: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        let Some(bytes_per_s) = self.board.rule(self.link).bytes_per_s else {
            return self.write_all(sink, bytes);
        };
        self.board.count(Effect::Slowed);
        for part in bytes.chunks(SLOW_BYTES) {
            self.write_all(sink, part)?;
            // A link that has been healed meanwhile delivers the rest at once.
            if self.board.rule(self.link).bytes_per_s.is_some() {
                std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / bytes_per_s.max(1) as f64));
            }
        }
        Ok(())
    }

    /// As the standard one, but it looks from time to time whether the connection has ended.
    fn write_all(&self, sink: &mut TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.is_ended() {
                return Err(ErrorKind::ConnectionReset.into());
            }
            match sink.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_time_out(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_time_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
