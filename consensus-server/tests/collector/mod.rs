//! A collector of traces in this process: it takes spans over OTLP/gRPC as OpenTelemetry's own would, and shows them
//! to the test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// How long a test waits for spans.
const PATIENCE: Duration = Duration::from_secs(60);

/// A span's ids, in hex.
pub(crate) type Ids = (String, String);

/// A span as the collector sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `service.name` and `service.instance.id` of its process.
    pub(crate) service: String,
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) span: String,
    /// Empty for the first span of a trace.
    pub(crate) parent: String,
    pub(crate) links: Vec<Ids>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) failed: bool,
    pub(crate) nanos: (u64, u64),
}

impl Seen {
    pub(crate) fn ids(&self) -> Ids {
        (self.trace.clone(), self.span.clone())
    }
}

#[derive(Clone)]
struct Taker(watch::Sender<Vec<Seen>>);

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let seen = seen(request.into_inner());
        self.0.send_modify(|all| all.extend(seen));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    list.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}

fn seen(request: ExportTraceServiceRequest) -> Vec<Seen> {
    let mut all = Vec::new();
    for of_process in request.resource_spans {
        let process = attributes(of_process.resource.unwrap_or_default().attributes);
        let named = |key: &str| process.get(key).cloned().unwrap_or_default();
        for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Seen {
                service: named("service.name"),
                node: named("service.instance.id"),
                name: span.name,
                trace: hex::encode(span.trace_id),
                span: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                links: span
                    .links
                    .into_iter()
                    .map(|link| (hex::encode(link.trace_id), hex::encode(link.span_id)))
                    .collect(),
                attributes: attributes(span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
            });
        }
    }
    all
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A collector that runs as long as the test's runtime.
pub(crate) struct Collector {
    address: SocketAddr,
    spans: watch::Receiver<Vec<Seen>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let (listener, address) = listen().await;
        Self::serve(address, tokio_stream::wrappers::TcpListenerStream::new(listener))
    }

    /// One that speaks TLS, under `https://`.
    pub(crate) async fn start_tls(config: ServerConfig) -> Self {
        let (listener, address) = listen().await;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (ready, incoming) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                // Whoever fails in the handshake is no connection.
                let Ok(mut secured) = acceptor.accept(connection).await else { continue };
                let (inner, mut outer) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut secured, &mut outer).await });
                if ready.send(Ok(inner)).await.is_err() {
                    return;
                }
            }
        });
        Self::serve(address, tokio_stream::wrappers::ReceiverStream::new(incoming))
    }

    fn serve<C>(
        address: SocketAddr,
        incoming: impl Stream<Item = std::io::Result<C>> + Send + 'static,
    ) -> Self
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (sender, spans) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Taker(sender));
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { address, spans }
    }

    /// The section `[tracing]` that leads here.
    pub(crate) fn section(&self, ratio: &str) -> String {
        section(self.address, ratio)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for one that speaks TLS, believed if this file vouches for it.
    pub(crate) fn section_tls(&self, authorities: &Path) -> String {
        let (address, ca) = (self.address, authorities.display());
        format!("[tracing]\nendpoint = 'https://{address}'\nca = '{ca}'\nratio = 1.0\n")
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.spans.borrow().clone()
    }

    /// Waits until the spans satisfy a condition, for as long as a test has patience; returns them in any case.
    pub(crate) async fn until(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut spans = self.spans.clone();
        let waited = tokio::time::timeout(PATIENCE, spans.wait_for(|spans| enough(spans))).await;
        drop(waited);
        self.spans()
    }
}

/// The section `[tracing]` for a collector at this address.
pub(crate) fn section(address: SocketAddr, ratio: &str) -> String {
    format!("[tracing]\nendpoint = 'http://{address}'\nratio = {ratio}\nservice_name = 'ordering'\n")
}
