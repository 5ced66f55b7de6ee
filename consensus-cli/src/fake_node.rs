//! For tests: a node that answers as a test tells it to.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use consensus_proto::admin::admin_server::{Admin, AdminServer};
use consensus_proto::admin::{
    NodeStatus, SetLogFilterReply, SetLogFilterRequest, StatusRequest, TransferLeaderReply,
    TransferLeaderRequest, VoidBlockReply, VoidBlockRequest,
};
use consensus_proto::ordering::ordering_server::{Ordering, OrderingServer};
use consensus_proto::ordering::{
    Block, DeliverRequest, GetBlockRequest, GetTransactionRequest, Proof, ProveRequest, SubmitBatch,
    SubmitBatchReply, SubmitReply, SubmitRequest, TipReply, TipRequest, TransactionStatus,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::remote::Address;

/// Where the answers of a submit stream go.
pub(crate) type Replies = mpsc::Sender<Result<SubmitBatchReply, Status>>;

type OnSubmit = Arc<dyn Fn(Streaming<SubmitBatch>, Replies) + Send + Sync>;
type OnDeliver = Arc<dyn Fn(DeliverRequest) -> Vec<Result<Block, Status>> + Send + Sync>;

/// A node; what a test does not tell it is not implemented.
#[derive(Clone, Default)]
pub(crate) struct FakeNode {
    submit: Option<OnSubmit>,
    deliver: Option<OnDeliver>,
    height: Option<u64>,
    status: Option<NodeStatus>,
}

impl FakeNode {
    /// What it does with a submit stream.
    pub(crate) fn on_submit(
        self,
        act: impl Fn(Streaming<SubmitBatch>, Replies) + Send + Sync + 'static,
    ) -> Self {
        Self { submit: Some(Arc::new(act)), ..self }
    }

    /// What it delivers; the stream ends behind it.
    pub(crate) fn on_deliver(
        self,
        act: impl Fn(DeliverRequest) -> Vec<Result<Block, Status>> + Send + Sync + 'static,
    ) -> Self {
        Self { deliver: Some(Arc::new(act)), ..self }
    }

    /// The height of its tip.
    pub(crate) fn at_height(self, height: u64) -> Self {
        Self { height: Some(height), ..self }
    }

    /// What it says of itself.
    pub(crate) fn with_status(self, status: NodeStatus) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Serves on a free port until the test's runtime ends.
    pub(crate) fn serve(self) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let listener = tokio::net::TcpListener::from_std(listener).expect("in a runtime");
        let server = tonic::transport::Server::builder()
            .add_service(AdminServer::new(self.clone()))
            .add_service(OrderingServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Serves on connections that a test has taken and secured.
    pub(crate) fn serve_streams(
        self,
        streams: mpsc::Receiver<std::io::Result<TlsStream<tokio::net::TcpStream>>>,
    ) {
        let incoming = ReceiverStream::new(streams).map(|stream| stream.map(Secured));
        let server = tonic::transport::Server::builder().add_service(OrderingServer::new(self));
        tokio::spawn(server.serve_with_incoming(incoming));
    }
}

/// A connection over TLS, of which the server need not know anything.
#[derive(Debug)]
struct Secured(TlsStream<tokio::net::TcpStream>);

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").to_string().parse().expect("an address")
}

fn untold<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the test does not tell"))
}

#[tonic::async_trait]
impl Ordering for FakeNode {
    type SubmitStreamStream = ReceiverStream<Result<SubmitBatchReply, Status>>;
    type DeliverStream = tokio_stream::Iter<std::vec::IntoIter<Result<Block, Status>>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitBatch>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let Some(act) = &self.submit else { return untold() };
        let (replies, answers) = mpsc::channel(64);
        act(request.into_inner(), replies);
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn deliver(
        &self,
        request: Request<DeliverRequest>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let Some(act) = &self.deliver else { return untold() };
        Ok(Response::new(tokio_stream::iter(act(request.into_inner()))))
    }

    async fn tip(&self, _: Request<TipRequest>) -> Result<Response<TipReply>, Status> {
        let Some(height) = self.height else { return untold() };
        Ok(Response::new(TipReply { height, ..TipReply::default() }))
    }

    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        untold()
    }

    async fn get_block(&self, _: Request<GetBlockRequest>) -> Result<Response<Block>, Status> {
        untold()
    }

    async fn get_transaction(
        &self,
        _: Request<GetTransactionRequest>,
    ) -> Result<Response<TransactionStatus>, Status> {
        untold()
    }

    async fn prove(&self, _: Request<ProveRequest>) -> Result<Response<Proof>, Status> {
        untold()
    }
}

#[tonic::async_trait]
impl Admin for FakeNode {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<NodeStatus>, Status> {
        let Some(status) = &self.status else { return untold() };
        Ok(Response::new(status.clone()))
    }

    async fn transfer_leader(
        &self,
        _: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        untold()
    }

    async fn set_log_filter(
        &self,
        _: Request<SetLogFilterRequest>,
    ) -> Result<Response<SetLogFilterReply>, Status> {
        untold()
    }

    async fn void_block(&self, _: Request<VoidBlockRequest>) -> Result<Response<VoidBlockReply>, Status> {
        untold()
    }
}
