//! Measures the calls of a service whose clients name themselves, as those of CITA-Cloud do.
//!
//! From the arrival of a call's headers to its answer, the message's way included. Calls without the
//! metadata `client-name` are not counted, nor are methods that the service does not have.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use crate::telemetry::metrics::CallMetrics;

/// The metadata in which a client names itself.
const CLIENT_NAME: &str = "client-name";

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    methods: &'static [&'static str],
    calls: CallMetrics,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S, methods: &'static [&'static str], calls: CallMetrics) -> Self {
        Self { inner, methods, calls }
    }

    /// Who calls what, if that is to be counted.
    fn call_of(&self, request: &http::Request<Body>) -> Option<(String, &'static str)> {
        let client = request.headers().get(CLIENT_NAME)?.to_str().ok()?;
        let called = request.uri().path().rsplit('/').next()?;
        let method = self.methods.iter().find(|method| **method == called)?;
        Some((client.to_owned(), method))
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.call_of(&request);
        let arrived = Instant::now();
        let answer = self.inner.call(request);
        let calls = self.calls.clone();
        Box::pin(async move {
            let answer = answer.await;
            if let Some((client, method)) = call {
                calls.answered(&client, method, arrived.elapsed());
            }
            answer
        })
    }
}
