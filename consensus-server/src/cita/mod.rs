//! The consensus service of a CITA-Cloud node, in place of `consensus_raft`.
//!
//! Puts together what the node's other services see (gRPC on one port, metrics on another), the exchange
//! with the consensus services of the other nodes, and the seat in the chain's group (`seat`), which runs the
//! chain with the controller as its application. Starts in the order in which things are needed: the
//! controller may call as soon as the port is open, long before this node has a seat.

mod admin;
mod founding;
mod group;
pub mod member;
mod seat;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use self::admin::CitaAdmin;
use self::member::Member;
use self::view::CitaView;
use crate::application::controller::GrpcController;
use crate::audit::AuditLog;
use crate::config::CitaConfig;
use crate::config::cita::address::Short;
use crate::lifecycle;
use crate::ops::http::{self, Ops};
use crate::services::{self, cita::ConsensusService, cita::NetworkMsgHandlerService};
use crate::telemetry::LogControl;
use crate::telemetry::metrics::{CallMetrics, ExchangeMetrics, Metrics};
use crate::telemetry::trace::{self, Exporter};
use crate::transport::cita::direct::{DirectCarrier, ExchangeService};
use crate::transport::cita::network::NetworkCarrier;
use crate::transport::cita::{Carrier, Exchange, Letter};

/// The seat's part of stopping.
const SEAT_STOP_MAX: Duration = Duration::from_millis(1700);
/// Connections get this long to finish.
const CONNECTIONS_STOP_MAX: Duration = Duration::from_millis(200);
/// A second signal while the service stops.
const EXIT_IMPATIENT: i32 = 1;

/// Runs the service until a signal comes.
///
/// # Errors
/// Why it could not start or go on.
pub async fn run(config: CitaConfig, log: LogControl) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut service = Service::start(config, log).await?;
    let outcome = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        ended = &mut service.seat => ended.context("the seat's task panicked")?,
    };
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(EXIT_IMPATIENT);
    });
    service.stop().await;
    outcome
}

/// A service that runs.
struct Service {
    view: Arc<CitaView>,
    audit: AuditLog,
    seat: JoinHandle<anyhow::Result<()>>,
    exchange: Arc<Exchange>,
    stopping: watch::Sender<bool>,
    /// The seat is given up.
    leave: CancellationToken,
    /// Everything else ends.
    rest: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Carries spans to the collector, if there is one.
    exporter: Option<Exporter>,
}

impl Service {
    async fn start(config: CitaConfig, log: LogControl) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            validator = hex::encode(&config.own_address),
            grpc_listen_port = config.grpc_port,
            network_port = config.network_port,
            controller_port = config.controller_port,
            metrics_port = config.metrics.port,
            admin_addr = config.admin.map(tracing::field::display),
            raft_data_path = %config.data_dir.display(),
            "starting"
        );
        let grpc = services::bind_everywhere("grpc_listen_port", config.grpc_port).await?;
        let ops = match config.metrics.port {
            Some(port) => Some(services::bind_everywhere("metrics_port", port).await?),
            None => None,
        };
        let admin = match config.admin {
            Some(address) => Some(admin::bind(address).await?),
            None => None,
        };
        let audit = AuditLog::new(&config.data_dir);
        audit.note("start", &lifecycle::started(config.digest)).await;
        let metrics = Arc::new(Metrics::new(config.node_id.get()));
        metrics.configured(config.digest);
        metrics.watch_log(log.clone());
        metrics.watch_runtime();
        let rest = CancellationToken::new();
        let mut tasks = Vec::new();
        let port = grpc.local_addr()?.port();
        let (exchange, letters) = exchange(&config, &metrics, port, &rest, &mut tasks);
        let (newest, hints) = watch::channel(None);
        let leave = CancellationToken::new();
        let name = Short(config.node_id).to_string();
        let (tracer, exporter) = trace::start_if_wanted(config.tracing.as_ref(), &name, &metrics)?;
        let (seat, view) = Member {
            config: config.clone(),
            controller: Arc::new(GrpcController::on_port(config.controller_port)),
            exchange: exchange.clone(),
            letters,
            hints,
            metrics: metrics.clone(),
            tracer,
            stop: leave.clone(),
        }
        .seat();
        let (stopping, stop_seen) = watch::channel(false);
        let calls = CallMetrics::new(&metrics, &config.metrics.buckets_ms);
        let taken = exchange.clone();
        let network = NetworkMsgHandlerService::new(Arc::new(move |origin, message: Bytes| {
            taken.receive(origin, message)
        }));
        let (router, reporter) = services::cita::cita_router(ConsensusService::new(newest), network, &calls)?;
        let router = router.add_service(ExchangeService::new(exchange.clone(), rest.clone()).into_server());
        tasks.push(tokio::spawn(services::report_health(reporter, view.clone(), None, stop_seen)));
        tasks.push(serve(router, grpc, "grpc_listen_port", rest.clone()));
        if let Some(listener) = admin {
            let router = services::admin_router(CitaAdmin::new(view.clone(), log.clone(), audit.clone()))?;
            tasks.push(serve(router, listener, "admin_addr", rest.clone()));
        }
        if let Some(listener) = ops {
            let (view, metrics, audit) = (view.clone(), metrics.clone(), audit.clone());
            let ops = Ops { view, metrics, log, audit, refusals: None };
            tasks.push(serve_ops(listener, ops, rest.clone()));
        }
        let seat = tokio::spawn(seat.run());
        Ok(Self { view, audit, seat, exchange, stopping, leave, rest, tasks, exporter })
    }

    /// Stops in order: leadership is handed over, the chain ends, the connections close.
    async fn stop(self) {
        let Self { view, audit, seat, exchange, stopping, leave, rest, tasks, exporter } = self;
        tracing::info!("stopping");
        view.stop();
        stopping.send_replace(true);
        leave.cancel();
        if !seat.is_finished() && tokio::time::timeout(SEAT_STOP_MAX, seat).await.is_err() {
            let bound_ms = SEAT_STOP_MAX.as_millis() as u64;
            tracing::error!(bound_ms, "the chain has not stopped in time");
        }
        exchange.stop();
        rest.cancel();
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let ends = tokio::time::timeout(CONNECTIONS_STOP_MAX, futures_util::future::join_all(tasks));
        if tokio::join!(ends, trace::stop(exporter)).0.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        audit.note("stop", &[]).await;
        tracing::info!("stopped");
    }
}

/// The exchange, over what the configuration says.
fn exchange(
    config: &CitaConfig,
    metrics: &Metrics,
    port: u16,
    stop: &CancellationToken,
    tasks: &mut Vec<JoinHandle<()>>,
) -> (Arc<Exchange>, mpsc::Receiver<Letter>) {
    let exchange_metrics = ExchangeMetrics::new(metrics, group::CHAIN);
    let network = NetworkCarrier::new(config.network_port, exchange_metrics.clone());
    tasks.push(network.start(port, stop.clone()));
    let mut carrier: Arc<dyn Carrier> = Arc::new(network);
    if let Some(peers) = &config.peers {
        let addresses: BTreeMap<_, _> = peers.iter().map(|peer| (peer.node_id, peer.at.clone())).collect();
        let direct = DirectCarrier::new(addresses, carrier);
        tasks.extend(direct.start(stop));
        carrier = Arc::new(direct);
    }
    member::exchange(config, &exchange_metrics, carrier)
}

/// `key` is the listener's in the configuration.
fn serve(
    router: Router,
    listener: TcpListener,
    key: &'static str,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let incoming = services::incoming(listener, key);
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(listener = key, %error, "serving has ended");
        }
    })
}

fn serve_ops(listener: TcpListener, ops: Ops, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, ops, stop).await {
            tracing::error!(listener = "metrics_port", %error, "serving has ended");
        }
    })
}
