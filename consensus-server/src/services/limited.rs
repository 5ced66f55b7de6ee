//! Holds the calls of a service to what their clients may use: calls and streams are counted while they last,
//! messages are received when there is room for them, and streams of blocks end when their readers take nothing.
//!
//! A call that does not fit is refused with RESOURCE_EXHAUSTED, the bound in words, and the trailer
//! `retry-after-ms`. What a client submits is counted where it is known how much that is, in [`super::ordering`].

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use crate::clients::metered::Metered;
use crate::clients::stall::{Progress, Watched};
use crate::clients::{Account, Connection, Exceeded, Slot};
use crate::security::Caller;

const SUBMIT_STREAM: &str = "/consensus.ordering.v1.Ordering/SubmitStream";
const DELIVER: &str = "/consensus.ordering.v1.Ordering/Deliver";

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    deliver_stall: Duration,
}

impl<S> Limited<S> {
    /// A reader that takes no blocks for `deliver_stall` is not waited for.
    pub(super) fn new(inner: S, deliver_stall: Duration) -> Self {
        Self { inner, deliver_stall }
    }

    /// Takes what the call needs while it lasts.
    fn enter(&self, path: &str, caller: &Caller) -> Result<Option<Entered>, Exceeded> {
        let Some(connection) = &caller.connection else { return Ok(None) };
        let account = connection.account();
        let mut held = Held { slots: vec![account.call()?], watch: None };
        let progress = Arc::new(Progress::default());
        match path {
            SUBMIT_STREAM => held.slots.push(account.submit_stream()?),
            DELIVER => {
                held.slots.push(account.deliver_stream()?);
                let watch = Watch {
                    progress: progress.clone(),
                    connection: connection.clone(),
                    caller: caller.to_string(),
                    patience: self.deliver_stall,
                };
                held.watch = Some(watch.start());
            }
            _ => {}
        }
        Ok(Some(Entered { account: account.clone(), progress, held }))
    }
}

/// A call that goes on.
struct Entered {
    account: Arc<Account>,
    progress: Arc<Progress>,
    held: Held,
}

/// What a call holds.
#[derive(Debug)]
struct Held {
    /// Returned when the call has ended.
    slots: Vec<Slot>,
    /// Ends the watch.
    watch: Option<DropGuard>,
}

/// Watches a stream of blocks.
struct Watch {
    progress: Arc<Progress>,
    connection: Arc<Connection>,
    caller: String,
    patience: Duration,
}

impl Watch {
    /// Until what is returned is dropped.
    fn start(self) -> DropGuard {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(async move { stop.run_until_cancelled(self.run()).await });
        guard
    }

    async fn run(self) {
        let Self { progress, connection, caller, patience } = self;
        progress.silence(patience).await;
        connection.metrics().deliver_cut();
        let patience_ms = patience.as_millis() as u64;
        tracing::warn!(caller, patience_ms, "a reader takes no blocks, its stream is ended");
        progress.stalled();
        // It is told when it reads on. What waits for it in its connection leaves with that only.
        progress.silence(2 * patience).await;
        tracing::warn!(
            caller,
            patience_ms,
            "a reader whose stream was ended takes nothing, its connection is closed"
        );
        connection.cut();
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Limited<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Answer<S::Error>, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let entered = match request.extensions().get::<Caller>() {
            Some(caller) => self.enter(request.uri().path(), caller),
            None => Ok(None),
        };
        let Entered { account, progress, held } = match entered {
            Ok(Some(entered)) => entered,
            Ok(None) => return Either::Left(Box::pin(self.inner.call(request))),
            Err(exceeded) => return Either::Right(ready(Ok(status_of(&exceeded).into_http()))),
        };
        request.extensions_mut().insert(progress.clone());
        let request = request.map(|body| Body::new(Metered::new(body, account.room().clone())));
        let answer = self.inner.call(request);
        Either::Left(Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(Watched::new(body, progress, held))))
        }))
    }
}

/// A refusal as a status.
pub(super) fn status_of(exceeded: &Exceeded) -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert("retry-after-ms", exceeded.retry_after_ms().into());
    Status::with_metadata(tonic::Code::ResourceExhausted, exceeded.to_string(), trailers)
}
