//! A node's part in its chain without the services around it.
//!
//! For whoever brings a controller and a carrier along: `run` puts gRPC in front of it, tests put several of
//! them into one process. It opens no port and knows no other node than through its carrier.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::group;
use super::seat::{self, Seat};
use super::view::CitaView;
use crate::application::controller::Controller;
use crate::config::CitaConfig;
use crate::config::cita::Reconfigured;
use crate::config::cita::address::Short;
use crate::ops::OpsView;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{
    ChainMetrics, ControllerMetrics, ExchangeMetrics, StoreMetrics, WriterMetrics,
};
use crate::telemetry::trace::Tracer;
use crate::transport::cita::{Carrier, Exchange, ExchangeConfig, Letter};

/// What is larger goes through the network in pieces of this size.
const CHUNK_BYTES: u64 = 1 << 20;
/// Raft messages and letters that wait for one node.
const QUEUE_MESSAGES_MAX: usize = 1024;

/// What a member is made of.
pub struct Member {
    /// Its configuration; ports are not looked at.
    pub config: Arc<CitaConfig>,
    /// Its controller.
    pub controller: Arc<dyn Controller>,
    /// Its end of the exchange, from [`exchange`].
    pub exchange: Arc<Exchange>,
    /// What comes out of there.
    pub letters: mpsc::Receiver<Letter>,
    /// What the controller says of its own accord.
    pub hints: watch::Receiver<Option<Reconfigured>>,
    /// Where its series are registered, once.
    pub metrics: Arc<Metrics>,
    /// Makes its spans.
    pub tracer: Tracer,
    /// Makes it stop.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("node", &self.config.node_id).finish_non_exhaustive()
    }
}

impl Member {
    /// Looks for its seat and keeps it until it is told to stop; and what can be seen of it meanwhile. The task
    /// fails if the consensus state cannot be used.
    pub fn start(self) -> (impl Future<Output = anyhow::Result<()>> + Send + 'static, Arc<dyn OpsView>) {
        let (seat, view) = self.seat();
        (seat.run(), view)
    }

    /// The seat, and what can be seen of it.
    pub(super) fn seat(self) -> (Seat, Arc<CitaView>) {
        let Self { config, controller, exchange, letters, hints, metrics, tracer, stop } = self;
        let chain_metrics =
            Arc::new(ChainMetrics::new(&metrics, group::CHAIN).naming(named).tracing(&tracer));
        let address = hex::encode(&config.own_address);
        let view = Arc::new(CitaView::new(config.node_id, address, exchange.clone(), chain_metrics.clone()));
        let seat = Seat {
            config,
            controller,
            exchange,
            letters,
            hints,
            view: view.clone(),
            chain_metrics,
            controller_metrics: ControllerMetrics::new(&metrics, group::CHAIN),
            writer_metrics: WriterMetrics::new(&metrics),
            store_metrics: StoreMetrics::new(&metrics),
            stop,
        };
        (seat, view)
    }
}

/// A node as people know it.
fn named(id: u64) -> String {
    NodeId::new(id).map_or_else(|| "none".to_owned(), |id| Short(id).to_string())
}

/// A node's end of the exchange over a carrier, sized by its configuration. Its series are registered once.
pub fn exchange(
    config: &CitaConfig,
    metrics: &ExchangeMetrics,
    carrier: Arc<dyn Carrier>,
) -> (Arc<Exchange>, mpsc::Receiver<Letter>) {
    let message_bytes_max = seat::message_bytes_max(config);
    let exchange = ExchangeConfig {
        node: config.node_id,
        chain: config.chain.clone().map(Bytes::from).unwrap_or_default(),
        session: rand::random(),
        message_bytes_max,
        chunk_bytes: CHUNK_BYTES,
        queue_messages_max: QUEUE_MESSAGES_MAX,
        queue_bytes_max: 2 * message_bytes_max,
    };
    Exchange::new(exchange, carrier, metrics.clone())
}
