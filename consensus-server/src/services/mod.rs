//! What the node offers over gRPC. One file a service, all of them thin: decode, ask a handle, encode.
//!
//! Clients and peers have listeners of their own, so that neither can crowd out the other; [`client_router`]
//! and [`peer_router`] say what is served where, and under which bounds; [`limited`] holds each client to its own. [`cita`] is what a CITA-Cloud node's
//! other services are served.

pub(crate) mod admin;
mod answer;
pub mod cita;
mod counted;
mod deliver;
mod encode;
mod health;
mod incoming;
mod limited;
mod ordering;
mod peer;
mod pump;

use std::sync::Arc;
use std::time::Duration;

use consensus_proto::admin::admin_server::{Admin, AdminServer};
use consensus_proto::ordering::ordering_server::OrderingServer;
use consensus_proto::peer::peer_server::PeerServer;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::server::HealthReporter;

pub use admin::AdminService;
pub use health::report as report_health;
pub use incoming::{accepted, bind_everywhere, incoming};
pub use ordering::OrderingService;
pub use peer::PeerService;

use crate::config::{self, CLIENT_CONNECTION_WINDOW_BYTES, CLIENT_STREAM_WINDOW_BYTES, Config};
use crate::security::refusals::Refusals;
use crate::security::roles::Authorized;
use crate::transport::connect::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use limited::Limited;

/// A silent client is asked for a sign of life this often.
const CLIENT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Without an answer for this long its connection is closed.
const CLIENT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that a connection may reset before they were taken up; more is an attack.
const PENDING_RESETS_MAX: usize = 64;
/// Bytes of headers of one request.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Largest message of the admin service.
const ADMIN_BYTES_MAX: usize = 1 << 20;
/// Calls in flight on one connection of an operator.
const ADMIN_STREAMS_MAX: u32 = 64;
/// Calls in flight on one connection of a peer.
const PEER_STREAMS_MAX: u32 = 256;

/// Largest message of a client in bytes: less than what fits between nodes, where it may be forwarded.
pub fn client_message_bytes_max(config: &Config) -> usize {
    config::client_message_bytes_max(&config.limits) as usize
}

/// What clients are served: ordering, admin, health and reflection, to each what its role is for.
pub fn client_router(
    config: &Config,
    ordering: OrderingService,
    admin: AdminService,
    refusals: &Arc<Refusals>,
) -> anyhow::Result<(Router, HealthReporter)> {
    let bytes_max = client_message_bytes_max(config);
    let reply_bytes_max = config.limits.message_bytes_max() as usize;
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(consensus_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("consensus.ordering.v1.Ordering")
        .with_service_name("consensus.admin.v1.Admin")
        .with_service_name("grpc.health.v1.Health")
        .build_v1()?;
    let ordering = OrderingServer::new(ordering)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(reply_bytes_max);
    let admin = AdminServer::new(admin)
        .max_decoding_message_size(ADMIN_BYTES_MAX)
        .max_encoding_message_size(ADMIN_BYTES_MAX);
    let router = server(config.queues.connection_streams_max)
        .initial_stream_window_size(CLIENT_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CLIENT_CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(CLIENT_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(CLIENT_KEEPALIVE_TIMEOUT))
        .add_service(Authorized::new(Limited::new(ordering, config.clients.deliver_stall), refusals.clone()))
        .add_service(Authorized::new(admin, refusals.clone()))
        .add_service(Authorized::new(health, refusals.clone()))
        .add_service(Authorized::new(reflection, refusals.clone()));
    Ok((router, reporter))
}

/// What a CITA-Cloud node's operator is served, on a listener of its own: admin and reflection.
pub fn admin_router<A: Admin>(admin: A) -> anyhow::Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(consensus_proto::DESCRIPTORS)
        .with_service_name("consensus.admin.v1.Admin")
        .build_v1()?;
    let admin = AdminServer::new(admin)
        .max_decoding_message_size(ADMIN_BYTES_MAX)
        .max_encoding_message_size(ADMIN_BYTES_MAX);
    Ok(server(ADMIN_STREAMS_MAX)
        .http2_keepalive_interval(Some(CLIENT_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(CLIENT_KEEPALIVE_TIMEOUT))
        .add_service(admin)
        .add_service(reflection))
}

/// What the other nodes are served.
pub fn peer_router(config: &Config, peer: PeerService) -> Router {
    let bytes_max = config.limits.message_bytes_max() as usize;
    server(PEER_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(
            PeerServer::new(peer).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max),
        )
}

fn server(streams_max: u32) -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(streams_max)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}
