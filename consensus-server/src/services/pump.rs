//! A stream of frames in, a stream of replies out, many frames in flight.
//!
//! Frames begin in the order of their arrival (the work of each is polled once before the next is read), are
//! answered as they complete, and no more than a bound of them are in flight: then the stream is not read,
//! which the sender feels as back-pressure. After a frame that came too soon nothing is read for a while, so that who
//! sends more than it may gets fewer refusals instead of more. When the sender is done, what is in flight is still answered;
//! when it is gone, it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Replies that wait for the stream to take them.
const REPLIES_MAX: usize = 64;

/// The replies of a pump.
pub(crate) type Replies<T> = ReceiverStream<Result<T, Status>>;

/// What a frame has come to.
pub(crate) enum Begun<Work, Out> {
    /// Work that answers it.
    Work(Work),
    /// It came too soon: its answer, and how long to read nothing.
    TooSoon(Out, Duration),
}

/// Starts a pump. `begin` says what a frame has come to; an error of it ends the stream. After
/// `stop` nothing more is read.
pub(crate) fn pump<In, Out, Work, Begin>(
    frames: Streaming<In>,
    inflight_max: usize,
    stop: CancellationToken,
    begin: Begin,
) -> Replies<Out>
where
    In: Send + 'static,
    Out: Send + 'static,
    Work: Future<Output = Out> + Send + 'static,
    Begin: FnMut(In) -> Result<Begun<Work, Out>, Status> + Send + 'static,
{
    let (replies, outgoing) = mpsc::channel(REPLIES_MAX);
    let inflight = FuturesUnordered::new();
    let pump = Pump { frames, inflight, inflight_max, replies, begin, resume: None };
    tokio::spawn(pump.run(stop));
    ReceiverStream::new(outgoing)
}

struct Pump<In, Out, Work, Begin> {
    frames: Streaming<In>,
    inflight: FuturesUnordered<Pin<Box<Work>>>,
    inflight_max: usize,
    replies: mpsc::Sender<Result<Out, Status>>,
    begin: Begin,
    /// Until then nothing is read.
    resume: Option<Instant>,
}

/// Why a pump reads no more.
enum End {
    /// The sender is done: what is in flight is answered.
    Finish(Option<Status>),
    /// Nobody reads the answers.
    Gone,
}

impl<In, Out, Work, Begin> Pump<In, Out, Work, Begin>
where
    Work: Future<Output = Out>,
    Begin: FnMut(In) -> Result<Begun<Work, Out>, Status>,
{
    async fn run(mut self, stop: CancellationToken) {
        let last = match self.read(&stop).await {
            End::Gone => return,
            End::Finish(last) => last,
        };
        while let Some(reply) = self.inflight.next().await {
            if self.replies.send(Ok(reply)).await.is_err() {
                return;
            }
        }
        if let Some(status) = last {
            // Nobody may be there to read it.
            let _ = self.replies.send(Err(status)).await;
        }
    }

    async fn read(&mut self, stop: &CancellationToken) -> End {
        loop {
            let reply = tokio::select! {
                () = stop.cancelled() => return End::Finish(Some(super::answer::stopping())),
                () = self.replies.closed() => return End::Gone,
                () = until(self.resume), if self.resume.is_some() => {
                    self.resume = None;
                    continue;
                }
                frame = self.frames.message(), if self.inflight.len() < self.inflight_max && self.resume.is_none() => match frame {
                    Ok(Some(frame)) => match self.start(frame).await {
                        Ok(Some(reply)) => reply,
                        Ok(None) => continue,
                        Err(status) => return End::Finish(Some(status)),
                    },
                    Ok(None) => return End::Finish(None),
                    // The sender's connection broke, or it sent what cannot be decoded.
                    Err(status) => return End::Finish(Some(status)),
                },
                Some(reply) = self.inflight.next(), if !self.inflight.is_empty() => reply,
            };
            if self.replies.send(Ok(reply)).await.is_err() {
                return End::Gone;
            }
        }
    }

    /// Begins a frame's work, so that its place in the order is taken; its reply if it is there at once.
    async fn start(&mut self, frame: In) -> Result<Option<Out>, Status> {
        let work = match (self.begin)(frame)? {
            Begun::Work(work) => work,
            Begun::TooSoon(reply, pause) => {
                self.resume = Some(Instant::now() + pause);
                return Ok(Some(reply));
            }
        };
        let mut work = Box::pin(work);
        match std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            Poll::Ready(reply) => Ok(Some(reply)),
            Poll::Pending => {
                self.inflight.push(work);
                Ok(None)
            }
        }
    }
}

async fn until(resume: Option<Instant>) {
    if let Some(resume) = resume {
        sleep_until(resume).await;
    }
}
