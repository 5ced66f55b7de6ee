//! The stand-in controller: keeps a chain, judges proposals, takes blocks from consensus and from others.
//!
//! It starts as the real one does: registers with the network until it is heard, tells consensus its height
//! in a loop of its own, and only then opens its server. One lock, [`Controller::gate`], is held through
//! each GetProposal, CheckProposal and CommitBlock and through the whole import of a block, calls to
//! consensus included; so a consensus service that waits for its controller inside such a call hangs here
//! too. Only a ping, and CommitBlock of a height that others were told of, are answered without it.

mod control;
pub mod faults;
mod message;
mod service;
mod sync;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Latch, MutexGuard as LatchGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use consensus_proto::cita::common::ConsensusConfiguration;
use consensus_proto::cita::controller::consensus2_controller_service_server::Consensus2ControllerServiceServer;
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_msg_handler_service_server::NetworkMsgHandlerServiceServer;
use prost::Message;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::{Instant, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::Timing;
use crate::call::{self, Consensus, Network};
use crate::chain::Chain;
use crate::config::ControllerConfig;
use crate::ledger::{FILE_NAME, Ledger};
use faults::Faults;
use message::ChainStatus;
use sync::Fetching;

/// Messages on their way to the network at once; more are dropped, as a network may.
const SENDING_MAX: usize = 256;

/// What a controller is started with beside its configuration.
#[derive(Debug)]
pub struct Options<'a> {
    /// Where its ledger is.
    pub directory: &'a Path,
    /// Whether blocks are synced to disk.
    pub is_synced: bool,
    /// How long it waits between tries.
    pub timing: Timing,
    /// The control listener.
    pub control: TcpListener,
    /// Where it serves, if that is not to be opened on the configured port at the right moment.
    pub listener: Option<TcpListener>,
}

/// A running controller.
#[derive(Debug)]
pub(crate) struct Controller {
    config: ControllerConfig,
    timing: Timing,
    /// The chain's write lock, as long calls hold it. The file is behind it.
    gate: Mutex<Ledger>,
    /// The chain itself; never held while anything waits.
    chain: Latch<Chain>,
    faults: Latch<Faults>,
    counts: Latch<Counts>,
    fetching: Fetching,
    is_syncing: AtomicBool,
    /// The height that others and pings are told. Falls behind when consensus cannot be told of an import.
    told_height: AtomicU64,
    /// When which block will have been executed.
    execution: Latch<Option<(Bytes, Instant)>>,
    consensus: Consensus,
    network: Network,
    announcement: Notify,
    sending: Arc<Semaphore>,
}

/// What a controller has seen since it started.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Answers to GetProposal by code.
    get_proposal: BTreeMap<u32, u64>,
    /// Answers to CheckProposal by code.
    check_proposal: BTreeMap<u32, u64>,
    /// Answers to CommitBlock by code, pings aside.
    commit_block: BTreeMap<u32, u64>,
    pings: u64,
    committed: u64,
    imported: u64,
    check_block: Tries,
    reconfigure: Tries,
    /// Requests for blocks.
    fetches: u64,
    /// Requests for transactions.
    transaction_requests: u64,
    /// Blocks of others that did not fit on the own chain.
    misfits: u64,
}

/// Calls to consensus.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tries {
    answered: u64,
    failed: u64,
}

impl Controller {
    fn chain(&self) -> LatchGuard<'_, Chain> {
        // Nothing panics while one of these is held, unless the chain's own rules are broken.
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> LatchGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> LatchGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configuration(&self) -> ConsensusConfiguration {
        let chain = self.chain();
        let settings = chain.settings();
        ConsensusConfiguration {
            height: chain.height(),
            block_interval: settings.block_interval,
            validators: settings.validators.clone(),
        }
    }

    /// Tells consensus what is in force. True if it was heard.
    async fn reconfigure(&self) -> bool {
        let answer = self.consensus.reconfigure(self.configuration()).await;
        let is_heard = matches!(answer, Ok(0));
        let mut counts = self.counts();
        let count = if is_heard { &mut counts.reconfigure.answered } else { &mut counts.reconfigure.failed };
        *count += 1;
        is_heard
    }

    async fn reconfigure_until_heard(&self) {
        while !self.reconfigure().await {
            sleep(self.timing.register).await;
        }
    }

    /// Waits until a block has been executed. A call that comes again for the same block waits for what is
    /// left.
    async fn execute(&self, hash: &Bytes) {
        let delay = self.faults().delay;
        if delay.is_zero() {
            return;
        }
        let end = {
            let mut execution = self.execution.lock().unwrap_or_else(PoisonError::into_inner);
            match &*execution {
                Some((running, end)) if running == hash => *end,
                _ => {
                    let end = Instant::now() + delay;
                    *execution = Some((hash.clone(), end));
                    end
                }
            }
        };
        tokio::time::sleep_until(end).await;
    }

    /// Sends to one node, without waiting for it.
    fn send(self: &Arc<Self>, kind: &str, origin: u64, content: &impl Message) {
        let Ok(permit) = self.sending.clone().try_acquire_owned() else { return };
        let message = outgoing(kind, origin, content);
        let controller = self.clone();
        tokio::spawn(async move {
            if let Err(status) = controller.network.send(message).await {
                tracing::info!(%status, "a message was not taken by the network");
            }
            drop(permit);
        });
    }

    /// Sends to all nodes, without waiting for it.
    fn broadcast(self: &Arc<Self>, kind: &str, content: &impl Message) {
        let Ok(permit) = self.sending.clone().try_acquire_owned() else { return };
        let message = outgoing(kind, 0, content);
        let controller = self.clone();
        tokio::spawn(async move {
            if let Err(status) = controller.network.broadcast(message).await {
                tracing::info!(%status, "a message was not taken by the network");
            }
            drop(permit);
        });
    }

    fn chain_status(&self) -> ChainStatus {
        let chain = self.chain();
        let height = self.told_height.load(Ordering::Acquire).min(chain.height());
        ChainStatus { height, hash: chain.blocks()[height as usize].hash.clone() }
    }

    /// Tells the others where the chain ends, whenever that changes and when it has not for long.
    async fn run_announcements(self: Arc<Self>) {
        self.broadcast(message::CHAIN_STATUS_INIT, &self.chain_status());
        loop {
            let quiet = sleep(self.timing.quiet);
            let kind = tokio::select! {
                () = self.announcement.notified() => message::CHAIN_STATUS,
                () = quiet => {
                    if self.fetching.highest() > self.chain().height() {
                        self.chain().forget_proposals();
                    }
                    message::CHAIN_STATUS_INIT
                }
            };
            let content = outgoing(kind, 0, &self.chain_status());
            if let Err(status) = self.network.broadcast(content).await {
                tracing::info!(%status, "the height could not be announced");
            }
        }
    }
}

fn outgoing(kind: &str, origin: u64, content: &impl Message) -> NetworkMsg {
    NetworkMsg {
        module: message::MODULE.to_owned(),
        r#type: kind.to_owned(),
        origin,
        msg: Bytes::from(content.encode_to_vec()),
    }
}

/// Runs a controller until it fails.
///
/// # Errors
/// When its ledger cannot be opened or a port is taken.
pub async fn run(config: ControllerConfig, options: Options<'_>) -> Result<()> {
    let Options { directory, is_synced, timing, control, listener } = options;
    let mut chain = Chain::new(&config);
    let ledger = Ledger::open(&directory.join(FILE_NAME), is_synced, &mut chain)?;
    let (fetching, answers) = Fetching::new();
    let controller = Arc::new(Controller {
        consensus: Consensus::new(call::channel("localhost", config.consensus_port)?),
        network: Network::new(call::channel("localhost", config.network_port)?),
        timing,
        gate: Mutex::new(ledger),
        told_height: AtomicU64::new(chain.height()),
        chain: Latch::new(chain),
        faults: Latch::default(),
        counts: Latch::default(),
        fetching,
        is_syncing: AtomicBool::new(false),
        execution: Latch::default(),
        announcement: Notify::new(),
        sending: Arc::new(Semaphore::new(SENDING_MAX)),
        config,
    });
    let serving = serve(controller.clone(), listener, answers);
    tokio::try_join!(serving, crate::control::serve(control, control::router(controller)))?;
    Ok(())
}

/// Starts in the order of the real controller.
async fn serve(
    controller: Arc<Controller>,
    listener: Option<TcpListener>,
    answers: sync::Answers,
) -> Result<()> {
    let port = controller.config.controller_port;
    while !matches!(controller.network.register(message::MODULE, port).await, Ok(0)) {
        sleep(controller.timing.register).await;
    }
    let telling = controller.clone();
    tokio::spawn(async move { telling.reconfigure_until_heard().await });
    let listener = match listener {
        Some(listener) => listener,
        None => TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("port {port}"))?,
    };
    let handler = service::Service(controller.clone());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = Server::builder()
        .add_service(
            Consensus2ControllerServiceServer::new(handler.clone()).max_decoding_message_size(usize::MAX),
        )
        .add_service(NetworkMsgHandlerServiceServer::new(handler).max_decoding_message_size(usize::MAX));
    tokio::spawn(controller.clone().run_announcements());
    tokio::spawn(controller.run_sync(answers));
    router.serve_with_incoming(incoming).await.context("controller service")
}
