//! A bounded queue between those who log and a thread that writes, so that a slow or full disk, or a pipe
//! that nobody reads, never makes consensus wait.
//!
//! A line that finds the queue full, or that cannot be written, is lost and counted; once lines can be
//! written again a line tells how many were. [`LogQueue::flush`] is for the end of the process.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::log_file::RotatingFile;

/// Lines that wait for the writer.
const LINES_MAX: usize = 8192;
/// Their bytes.
const BYTES_MAX: u64 = 8 << 20;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 64 << 10;
/// After an error nothing is tried for so long; what arrives meanwhile is lost.
const PAUSE: Duration = Duration::from_secs(1);
/// Lines that were lost are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Where the thread writes.
#[derive(Debug)]
pub enum LogSink {
    /// Standard output, for containers.
    Stdout,
    /// Files.
    Files(RotatingFile),
    /// Anything.
    #[cfg(test)]
    Test(tests::Slow),
}

impl LogSink {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::Files(file) => file.append(lines),
            #[cfg(test)]
            Self::Test(slow) => slow.append(lines),
        }
    }
}

/// The way to the writing thread.
#[derive(Clone)]
pub struct LogQueue {
    orders: SyncSender<Order>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicU64,
    lost: AtomicU64,
}

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl LogQueue {
    /// Starts the thread. It ends with the last handle.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(sink: LogSink) -> io::Result<Self> {
        let (orders, queue) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let writer = Writer { sink, queue, counts: counts.clone(), told: 0, tell_after: None, paused: None };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { orders, counts })
    }

    /// Lines that were lost so far.
    pub fn lost_lines(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything logged so far is written, at most `longest`; whether it is.
    pub fn flush(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        let (done, written) = sync_channel(1);
        let mut order = Order::Flush(done);
        // The queue may be full of lines, in which case the order waits for its place.
        while let Err(TrySendError::Full(back)) = self.orders.try_send(order) {
            if Instant::now() >= deadline {
                return false;
            }
            order = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn push(&self, line: Vec<u8>) {
        let bytes = line.len() as u64;
        let before = self.counts.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > BYTES_MAX || self.orders.try_send(Order::Line(line)).is_err() {
            self.counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine { queue: self, line: Vec::new() }
    }
}

/// One line on its way to the queue, where it goes when it is complete.
#[derive(Debug)]
pub struct LogLine<'a> {
    queue: &'a LogQueue,
    line: Vec<u8>,
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.queue.push(std::mem::take(&mut self.line));
        }
    }
}

/// The thread's part.
struct Writer {
    sink: LogSink,
    queue: Receiver<Order>,
    counts: Arc<Counts>,
    told: u64,
    tell_after: Option<Instant>,
    /// Nothing is tried before.
    paused: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            // Lines that were lost are told even if nothing else is logged.
            let order = match self.queue.recv_timeout(TELL_EVERY) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => {
                    self.tell_losses();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.write_from(order);
            self.tell_losses();
        }
    }

    /// Writes an order and what waits behind it, in batches.
    fn write_from(&mut self, first: Order) {
        let mut batch = Vec::new();
        let mut lines = 0;
        let mut next = Some(first);
        while let Some(order) = next.take().or_else(|| self.queue.try_recv().ok()) {
            match order {
                Order::Line(line) => {
                    if !batch.is_empty() && batch.len() + line.len() > BATCH_BYTES {
                        self.write(&batch, lines);
                        (lines, batch) = (0, Vec::new());
                    }
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                Order::Flush(done) => {
                    self.write(&batch, lines);
                    (lines, batch) = (0, Vec::new());
                    // Nobody may be there any more to hear it.
                    let _ = done.try_send(());
                }
            }
        }
        self.write(&batch, lines);
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        if lines == 0 {
            return;
        }
        let paused = self.paused.is_some_and(|until| Instant::now() < until);
        if paused || self.sink.append(batch).is_err() {
            self.counts.lost.fetch_add(lines, Ordering::Relaxed);
            if !paused {
                self.paused = Some(Instant::now() + PAUSE);
            }
        } else {
            self.paused = None;
        }
        // Only now, so that a write that hangs fills the queue and not the memory.
        self.counts.queued_bytes.fetch_sub(batch.len() as u64, Ordering::Relaxed);
    }

    /// Says how many lines were lost, once lines can be written again. The line takes the common way through
    /// the queue.
    fn tell_losses(&mut self) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        let now = Instant::now();
        if lost == self.told
            || self.paused.is_some_and(|until| now < until)
            || self.tell_after.is_some_and(|after| now < after)
        {
            return;
        }
        self.tell_after = Some(now + TELL_EVERY);
        tracing::warn!(lines = lost - self.told, total = lost, "log lines were lost");
        self.told = lost;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Writes into memory once somebody lets it, one write for each leave.
    #[derive(Debug)]
    pub struct Slow {
        leave: Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Slow {
        pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
            if !self.leave.recv().unwrap_or(true) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.written.lock().expect("not poisoned").extend_from_slice(lines);
            Ok(())
        }
    }

    fn slow() -> (LogQueue, SyncSender<bool>, Arc<Mutex<Vec<u8>>>) {
        let (allow, leave) = sync_channel(1024);
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue =
            LogQueue::start(LogSink::Test(Slow { leave, written: written.clone() })).expect("a thread");
        (queue, allow, written)
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (queue, allow, written) = slow();
        drop(allow);
        for line in 0..1000 {
            let mut writer = queue.make_writer();
            write!(writer, "line ").expect("memory");
            writeln!(writer, "{line}").expect("memory");
        }
        assert!(queue.flush(LONG));
        let expected: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&written.lock().expect("not poisoned")), expected);
        assert_eq!(queue.lost_lines(), 0);
    }

    #[test]
    fn a_disk_that_hangs_makes_nobody_wait_and_what_is_lost_is_counted() {
        let (queue, allow, written) = slow();
        let lines = LINES_MAX as u64 * 3;
        for _ in 0..lines {
            queue.make_writer().write_all(b"x\n").expect("never fails");
        }
        let lost = queue.lost_lines();
        assert!(lost >= LINES_MAX as u64, "{lost} of {lines} lost");
        assert!(!queue.flush(Duration::from_millis(10)), "it hangs");
        drop(allow);
        assert!(queue.flush(LONG));
        assert_eq!(written.lock().expect("not poisoned").len() as u64 / 2, lines - lost);
    }

    #[test]
    fn the_bytes_that_wait_are_bounded_too() {
        let (queue, _allow, _written) = slow();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            queue.make_writer().write_all(&line).expect("never fails");
        }
        assert!(queue.lost_lines() >= 12, "{} of 20 MiB lost", queue.lost_lines());
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let (queue, allow, written) = slow();
        // The second one is not asked for unless this test itself takes longer than the pause.
        allow.send(false).expect("there");
        allow.send(false).expect("there");
        queue.make_writer().write_all(b"lost\n").expect("never fails");
        assert!(queue.flush(LONG));
        assert_eq!(queue.lost_lines(), 1);
        queue.make_writer().write_all(b"during the pause\n").expect("never fails");
        assert!(queue.flush(LONG));
        assert_eq!(queue.lost_lines(), 2);
        assert!(written.lock().expect("not poisoned").is_empty());
    }
}
