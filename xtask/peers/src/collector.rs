//! A collector of traces that takes every span and looks at none.
//!
//! It answers OTLP over gRPC (opentelemetry-proto, `TraceService/Export`) with an empty message, so that what it
//! costs to send spans can be measured without the cost of keeping them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be listened on.
pub async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    tonic::transport::Server::builder().add_service(Collector).serve(listen).await?;
    Ok(())
}

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct Collector;

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The empty message: whatever is in the request is passed over.
        let mut grpc = Grpc::new(ProstCodec::<(), ()>::default());
        Box::pin(async move { Ok(grpc.unary(Taken, request).await) })
    }
}

/// The answer to everything.
struct Taken;

impl UnaryService<()> for Taken {
    type Response = ();
    type Future = Ready<Result<Response<()>, Status>>;

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}
