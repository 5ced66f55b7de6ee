//! What waits for one peer, and the stream of frames that takes it away.
//!
//! Bounded in messages and bytes: what does not fit is dropped, counted and reported, and Raft sends it
//! again. Everything that waits when the stream is ready for more goes into one frame. Messages are taken
//! only by the session that is open; when it ends, what still waits is dropped, because it is stale by the
//! time the next one opens. Every snapshot message gets exactly one report. A ping passes everything that waits, and
//! its time begins when the stream takes it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_core::replica::{Message, PeerReport};
use consensus_proto::peer::{Hello, PeerFrame, RaftBatch, peer_frame::Frame};
use futures_util::Stream;

use super::book::Peer;
use super::wire;
use crate::telemetry::metrics::DropCause;

/// Told what became of a peer or of a snapshot on its way to it. Must not wait.
pub type Report = dyn Fn(NodeId, PeerReport) + Send + Sync;

/// Bounds of the queue to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Messages that wait.
    pub messages_max: usize,
    /// Their bytes.
    pub bytes_max: u64,
    /// A frame is closed before the message that would bring it above this many bytes; a single larger one
    /// goes alone.
    pub frame_bytes: u64,
    /// Largest message.
    pub message_bytes_max: u64,
}

/// What waits for one peer.
pub struct Outbox {
    peer: Arc<Peer>,
    bounds: Bounds,
    report: Arc<Report>,
    state: Mutex<State>,
}

/// Where the way to the peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// No stream, and none is being made: nothing waits.
    #[default]
    Down,
    /// A stream is being made: messages wait.
    Connecting,
    /// The peer has welcomed us: messages are taken.
    Open,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    bytes: u64,
    phase: Phase,
    session: u64,
    reader: Option<Waker>,
    /// Whether the loss of messages was reported since the phase began.
    reported: bool,
    /// Number of the newest ping.
    pings: u64,
    ping: Ping,
}

/// What became of the newest ping.
#[derive(Clone, Copy, Default)]
enum Ping {
    /// It is answered or given up, or there was none.
    #[default]
    None,
    /// It waits for the stream.
    Waits,
    /// The stream has taken it.
    Sent(Instant),
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("peer", &self.peer.node_id()).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Empty and down.
    pub fn new(peer: Arc<Peer>, bounds: Bounds, report: Arc<Report>) -> Self {
        Self { peer, bounds, report, state: Mutex::default() }
    }

    /// The peer.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes messages on their way, in order. Never waits.
    pub fn push(&self, messages: impl IntoIterator<Item = Message>) {
        let mut lost = Lost::default();
        let (reader, unreachable) = {
            let mut state = self.lock();
            for message in messages {
                self.push_one(&mut state, message, &mut lost);
            }
            self.gauge(&state);
            let full = lost.full + lost.too_large > 0;
            let first_down = lost.down > 0 && !std::mem::replace(&mut state.reported, true);
            let reader = if state.phase == Phase::Open { state.reader.take() } else { None };
            (reader, full || first_down)
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        self.account(&lost, unreachable);
    }

    fn push_one(&self, state: &mut State, message: Message, lost: &mut Lost) {
        let bytes = wire::queued_bytes(&message);
        let cause = if state.phase == Phase::Down {
            &mut lost.down
        } else if bytes > self.bounds.message_bytes_max {
            &mut lost.too_large
        } else if state.queue.len() >= self.bounds.messages_max || state.bytes + bytes > self.bounds.bytes_max
        {
            &mut lost.full
        } else {
            state.bytes += bytes;
            state.queue.push_back(message);
            return;
        };
        *cause += 1;
        lost.snapshots += u64::from(wire::is_snapshot(&message));
    }

    /// Counts and reports what was lost. Not under the lock.
    fn account(&self, lost: &Lost, unreachable: bool) {
        let series = self.peer.series();
        for (cause, messages) in [
            (DropCause::Disconnected, lost.down),
            (DropCause::QueueFull, lost.full),
            (DropCause::TooLarge, lost.too_large),
        ] {
            if messages > 0 {
                series.dropped(cause, messages);
            }
        }
        for _ in 0..lost.snapshots {
            (self.report)(self.peer.node_id(), PeerReport::SnapshotFailed);
        }
        if unreachable {
            (self.report)(self.peer.node_id(), PeerReport::Unreachable);
        }
    }

    fn gauge(&self, state: &State) {
        let series = self.peer.series();
        series.queue_bytes.set(state.bytes as i64);
        series.queue_messages.set(state.queue.len() as i64);
    }

    /// A stream is going to be made: its frames. Messages wait from now on, for [`open`](Self::open).
    pub fn begin(self: &Arc<Self>, hello: Hello) -> Frames {
        let mut state = self.lock();
        state.session += 1;
        state.phase = Phase::Connecting;
        Frames { outbox: self.clone(), session: state.session, hello: Some(hello) }
    }

    /// The peer has welcomed this node.
    pub fn open(&self) {
        let reader = {
            let mut state = self.lock();
            state.phase = Phase::Open;
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Asks the peer for a sign of life; a question that it has not answered is given up.
    pub fn ping(&self) {
        let reader = {
            let mut state = self.lock();
            if state.phase != Phase::Open {
                return;
            }
            state.pings += 1;
            state.ping = Ping::Waits;
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The peer has answered this ping: how long that took, if it is the newest one.
    pub fn pong(&self, number: u64) -> Option<Duration> {
        let mut state = self.lock();
        let Ping::Sent(at) = state.ping else { return None };
        if number != state.pings {
            return None;
        }
        state.ping = Ping::None;
        Some(at.elapsed())
    }

    /// The stream broke or was never made: what waits is lost, which is reported once until the next attempt.
    pub fn end(&self) {
        let mut lost = Lost::default();
        let reader = {
            let mut state = self.lock();
            state.session += 1;
            state.phase = Phase::Down;
            state.reported = true;
            state.ping = Ping::None;
            state.bytes = 0;
            lost.down = state.queue.len() as u64;
            lost.snapshots = state.queue.drain(..).filter(wire::is_snapshot).count() as u64;
            self.gauge(&state);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        self.account(&lost, true);
    }
}

/// What a call lost, by cause.
#[derive(Default)]
struct Lost {
    down: u64,
    full: u64,
    too_large: u64,
    snapshots: u64,
}

/// One session's frames: the hello, then whatever waits, until the session ends.
#[derive(Debug)]
pub struct Frames {
    outbox: Arc<Outbox>,
    session: u64,
    hello: Option<Hello>,
}

impl Stream for Frames {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(PeerFrame { frame: Some(Frame::Hello(hello)) }));
        }
        let outbox = &self.outbox;
        let taken = {
            let mut state = outbox.lock();
            if state.session != self.session {
                return Poll::Ready(None);
            }
            if matches!(state.ping, Ping::Waits) && state.phase == Phase::Open {
                state.ping = Ping::Sent(Instant::now());
                return Poll::Ready(Some(PeerFrame { frame: Some(Frame::Ping(state.pings)) }));
            }
            if state.phase != Phase::Open || state.queue.is_empty() {
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let taken = take_frame(&mut state, outbox.bounds.frame_bytes);
            outbox.gauge(&state);
            taken
        };
        let series = outbox.peer.series();
        series.sent_frames.inc();
        series.sent_messages.inc_by(taken.len() as u64);
        for _ in taken.iter().filter(|message| wire::is_snapshot(message)) {
            (outbox.report)(outbox.peer.node_id(), PeerReport::SnapshotDelivered);
        }
        let messages = taken.into_iter().map(wire::encode).collect();
        Poll::Ready(Some(PeerFrame { frame: Some(Frame::Raft(RaftBatch { messages })) }))
    }
}

/// Takes what fits into a frame, at least one message.
fn take_frame(state: &mut State, frame_bytes: u64) -> Vec<Message> {
    let mut bytes = 0;
    let mut count = 0;
    for message in &state.queue {
        let more = wire::queued_bytes(message);
        if count > 0 && bytes + more > frame_bytes {
            break;
        }
        bytes += more;
        count += 1;
    }
    state.bytes -= bytes;
    state.queue.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use consensus_core::replica::eraftpb::{Entry, MessageType};
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::config::Config;
    use crate::telemetry::Metrics;
    use crate::telemetry::metrics::PeerMetrics;
    use crate::transport::book::Book;

    struct World {
        outbox: Arc<Outbox>,
        reports: Arc<Mutex<Vec<PeerReport>>>,
    }

    impl World {
        fn new(messages_max: usize, bytes_max: u64) -> Self {
            let text = "node = { id = 1, cluster = 'c' }\nsecurity = { insecure = true }\n\
                        peers = [{ id = 1, peer = 'a:1', client = 'a:2' }, { id = 2, peer = 'b:1', client = 'b:2' }]";
            let config = Config::parse(text, "test", Path::new("")).expect("valid");
            let book = Book::new(&config, &[], &PeerMetrics::new(&Metrics::new(1), "main"));
            let peer = book.iter().next().expect("one peer").clone();
            let reports = Arc::new(Mutex::new(Vec::new()));
            let seen = reports.clone();
            let report = move |_: NodeId, report| seen.lock().expect("no panic").push(report);
            let bounds = Bounds { messages_max, bytes_max, frame_bytes: 2000, message_bytes_max: 4000 };
            Self { outbox: Arc::new(Outbox::new(peer, bounds, Arc::new(report))), reports }
        }

        fn reports(&self) -> Vec<PeerReport> {
            std::mem::take(&mut self.reports.lock().expect("no panic"))
        }

        fn session(&self) -> Frames {
            let mut frames = self.outbox.begin(Hello::default());
            let first = frames.next().now_or_never().flatten().expect("ready").frame;
            assert!(matches!(first, Some(Frame::Hello(_))));
            frames
        }
    }

    fn append(bytes: usize) -> Message {
        let entry = Entry { data: vec![0; bytes].into(), ..Default::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries(vec![entry].into());
        message
    }

    fn snapshot() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message
    }

    fn sizes(frames: &mut Frames) -> Vec<usize> {
        let mut sizes = Vec::new();
        while let Some(Some(frame)) = frames.next().now_or_never() {
            let Some(Frame::Raft(batch)) = frame.frame else { panic!("a second hello") };
            sizes.push(batch.messages.len());
        }
        sizes
    }

    #[test]
    fn what_waits_goes_into_one_frame_within_its_bound() {
        let world = World::new(100, 1 << 20);
        let mut frames = world.session();
        world.outbox.open();
        world.outbox.push((0..10).map(|_| Message::default()));
        assert_eq!(sizes(&mut frames), [10]);
        world.outbox.push([append(700), append(700), append(700), append(3000)]);
        assert_eq!(sizes(&mut frames), [2, 1, 1]);
        assert_eq!(world.outbox.peer().queue_bytes(), 0);
    }

    #[test]
    fn an_overflow_of_messages_is_counted_and_reported() {
        let world = World::new(3, 1 << 20);
        let _frames = world.session();
        world.outbox.push((0..5).map(|_| Message::default()));
        assert_eq!(world.outbox.peer().dropped(), 2);
        assert_eq!(world.reports(), [PeerReport::Unreachable]);
    }

    #[test]
    fn an_overflow_of_bytes_is_counted_and_what_fits_stays() {
        let world = World::new(100, 3000);
        let mut frames = world.session();
        world.outbox.push([append(2000), append(2000), append(10)]);
        assert_eq!(world.outbox.peer().dropped(), 1);
        world.outbox.open();
        assert_eq!(sizes(&mut frames).iter().sum::<usize>(), 2);
    }

    #[test]
    fn a_message_larger_than_any_may_be_is_dropped_and_counted() {
        let world = World::new(100, 1 << 20);
        let _frames = world.session();
        world.outbox.push([append(4000)]);
        assert_eq!((world.outbox.peer().dropped(), world.reports()), (1, vec![PeerReport::Unreachable]));
    }

    /// The number of a ping that leaves now.
    fn ping(frames: &mut Frames) -> Option<u64> {
        match frames.next().now_or_never().flatten()?.frame {
            Some(Frame::Ping(number)) => Some(number),
            other => panic!("{other:?} instead of a ping"),
        }
    }

    #[test]
    fn a_ping_passes_what_waits_and_only_the_answer_to_the_newest_counts() {
        let world = World::new(100, 1 << 20);
        let outbox = &world.outbox;
        let mut frames = world.session();
        outbox.ping();
        outbox.open();
        assert!(frames.next().now_or_never().is_none(), "none before the welcome");
        outbox.push([append(1)]);
        outbox.ping();
        assert_eq!(outbox.pong(1), None, "it has not left");
        assert_eq!(ping(&mut frames), Some(1));
        assert_eq!(sizes(&mut frames), [1]);
        outbox.ping();
        assert_eq!(outbox.pong(1), None, "given up");
        assert_eq!(ping(&mut frames), Some(2));
        assert_eq!(outbox.pong(1), None);
        assert!(outbox.pong(2).is_some());
        assert_eq!(outbox.pong(2), None, "counted once");
        outbox.ping();
        assert_eq!(ping(&mut frames), Some(3));
        outbox.end();
        assert_eq!(outbox.pong(3), None, "of a stream that is gone");
    }

    #[test]
    fn nothing_is_taken_before_the_welcome() {
        let world = World::new(100, 1 << 20);
        let mut frames = world.session();
        world.outbox.push([append(1)]);
        assert!(frames.next().now_or_never().is_none());
        world.outbox.open();
        assert_eq!(sizes(&mut frames), [1]);
    }

    #[test]
    fn a_broken_stream_drops_what_waits_and_is_reported_once_until_the_next_attempt() {
        let world = World::new(100, 1 << 20);
        let mut frames = world.session();
        world.outbox.push([append(1)]);
        world.outbox.end();
        world.outbox.push([append(1)]);
        world.outbox.push([append(1)]);
        assert_eq!((world.outbox.peer().dropped(), world.reports()), (3, vec![PeerReport::Unreachable]));
        assert!(matches!(frames.next().now_or_never(), Some(None)), "the old session's frames end");
        let mut frames = world.session();
        world.outbox.open();
        assert_eq!(sizes(&mut frames), Vec::<usize>::new());
    }

    #[test]
    fn every_snapshot_gets_exactly_one_report() {
        let world = World::new(1, 1 << 20);
        world.outbox.push([snapshot()]);
        assert_eq!(world.reports(), [PeerReport::SnapshotFailed, PeerReport::Unreachable], "down");
        let mut frames = world.session();
        world.outbox.push([snapshot(), snapshot()]);
        assert_eq!(
            world.reports(),
            [PeerReport::SnapshotFailed, PeerReport::Unreachable],
            "the second does not fit"
        );
        world.outbox.open();
        assert_eq!(sizes(&mut frames), [1]);
        assert_eq!(world.reports(), [PeerReport::SnapshotDelivered]);
        world.outbox.push([snapshot()]);
        world.outbox.end();
        assert_eq!(
            world.reports(),
            [PeerReport::SnapshotFailed, PeerReport::Unreachable],
            "the stream broke"
        );
    }
}
