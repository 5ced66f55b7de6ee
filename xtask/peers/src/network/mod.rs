//! The stand-in network: carries messages between the modules of the nodes of a chain.
//!
//! Answers 0 at once, whatever becomes of the message. What is sent to a node goes to whoever listens to
//! that origin; what is broadcast goes to all, and back to the sender if its origin is not its node's. Every
//! message that arrives is handed to its module by a task of its own, so order is not kept, and again if the
//! module answers with an error. Unlike the real one it speaks plain TCP and knows no priorities.

mod control;
pub mod faults;
mod frame;
mod link;
mod service;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex as Latch, MutexGuard as LatchGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use consensus_proto::cita::network::NetworkMsg;
use consensus_proto::cita::network::network_service_server::NetworkServiceServer;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::call::{self, Handler};
use crate::config::NetworkConfig;
use faults::Faults;
use frame::Hello;
use link::{Link, encoded};

/// Messages that are being handed to modules at once; more are dropped.
const DELIVERIES_MAX: usize = 16_384;
/// Messages that a fault holds back at once; more leave at once.
const DELAYED_MAX: usize = 65_536;
/// The module whose messages come from and go to validators.
const CONSENSUS: &str = "consensus";

/// What a network is started with beside its configuration.
#[derive(Debug)]
pub struct Options {
    /// The control listener.
    pub control: TcpListener,
    /// Where it serves its modules, if not on the configured port.
    pub listener: Option<TcpListener>,
    /// Where it hears its peers, if not on the configured port.
    pub peers: Option<TcpListener>,
    /// Of what is random.
    pub seed: u64,
}

/// A running network.
#[derive(Debug)]
pub(crate) struct Network {
    config: NetworkConfig,
    links: Vec<Arc<Link>>,
    modules: BTreeMap<String, Handler>,
    faults: Latch<Faults>,
    counts: Latch<Counts>,
    deliveries: Arc<Semaphore>,
    delayed: Arc<Semaphore>,
    /// Registrations that a script wants refused.
    refusals: AtomicU32,
}

/// What a network has seen since it started, by module and type.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    sent: BTreeMap<String, Volume>,
    received: BTreeMap<String, Volume>,
    /// Lost, as ordered.
    lost: u64,
    /// Sent to an origin that nobody listens to.
    unknown: u64,
    /// Not handed over: too many at once.
    crowded: u64,
    /// Not handed over: the module kept failing.
    failed: u64,
    registrations: u64,
}

/// Messages and what they weigh.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Volume {
    messages: u64,
    bytes: u64,
}

impl Network {
    fn faults(&self) -> LatchGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> LatchGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> Hello {
        Hello { chain: self.config.chain, node: self.config.node, validator: self.config.validator }
    }

    /// Returns when nothing is paused.
    async fn unpaused(&self) {
        loop {
            let Some(end) = self.faults().paused_until() else { return };
            // An end that lies far away may be taken back.
            tokio::select! {
                () = sleep_until(end) => return,
                () = sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// The origin that others see of a module of this node.
    fn own_origin(&self, module: &str) -> u64 {
        if module == CONSENSUS { self.config.validator } else { self.config.node }
    }

    /// A module sends to whoever listens to the message's origin.
    fn send(self: &Arc<Self>, mut message: NetworkMsg) {
        let target = message.origin;
        message.origin = self.own_origin(&message.module);
        count(&mut self.counts().sent, &message);
        let links = self.links.iter();
        let links = links.filter(|link| link.peer().is_some_and(|peer| peer.origins().contains(&target)));
        let links = links.cloned().collect::<Vec<_>>();
        if self.hello().origins().contains(&target) {
            self.deliver(message);
        } else if links.is_empty() {
            self.counts().unknown += 1;
        } else {
            self.depart(links, message);
        }
    }

    /// A module sends to all nodes of the chain.
    fn broadcast(self: &Arc<Self>, mut message: NetworkMsg) {
        message.origin = self.own_origin(&message.module);
        count(&mut self.counts().sent, &message);
        if message.origin != self.config.node {
            self.deliver(message.clone());
        }
        self.depart(self.links.clone(), message);
    }

    fn depart(self: &Arc<Self>, links: Vec<Arc<Link>>, message: NetworkMsg) {
        let module = message.module.clone();
        let frame = encoded(message);
        for link in links {
            let departures = {
                let mut faults = self.faults();
                let is_blocked = link.peer().is_some_and(|peer| faults.is_blocked_out(peer.origins()));
                if is_blocked { Vec::new() } else { faults.departures(&module) }
            };
            if departures.is_empty() {
                self.counts().lost += 1;
            }
            for delay in departures {
                self.depart_after(delay, &link, frame.clone());
            }
        }
    }

    fn depart_after(&self, delay: Duration, link: &Arc<Link>, frame: bytes::Bytes) {
        let permit = self.delayed.clone().try_acquire_owned();
        let Some(permit) = permit.ok().filter(|_| !delay.is_zero()) else {
            link.push(frame);
            return;
        };
        let link = link.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            link.push(frame);
            drop(permit);
        });
    }

    /// Hands a message to its module, by a task of its own.
    fn deliver(self: &Arc<Self>, message: NetworkMsg) {
        let Some(handler) = self.modules.get(&message.module).cloned() else { return };
        let Ok(permit) = self.deliveries.clone().try_acquire_owned() else {
            self.counts().crowded += 1;
            return;
        };
        count(&mut self.counts().received, &message);
        let network = self.clone();
        tokio::spawn(async move {
            if let Err(status) = handler.process(message).await {
                network.counts().failed += 1;
                tracing::info!(%status, "a message was not taken by its module");
            }
            drop(permit);
        });
    }
}

fn count(volumes: &mut BTreeMap<String, Volume>, message: &NetworkMsg) {
    let volume = volumes.entry(format!("{}/{}", message.module, message.r#type)).or_default();
    volume.messages += 1;
    volume.bytes += message.msg.len() as u64;
}

/// Runs a network until it fails.
///
/// # Errors
/// When a port is taken.
pub async fn run(config: NetworkConfig, options: Options) -> Result<()> {
    let Options { control, listener, peers, seed } = options;
    let mut modules = BTreeMap::new();
    for module in &config.modules {
        let channel = call::channel(&module.hostname, module.port)?;
        modules.insert(module.module_name.clone(), Handler::new(channel));
    }
    let bound = |port: u16| async move {
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("port {port}"))
    };
    let peers = match peers {
        Some(peers) => peers,
        None => bound(config.port).await?,
    };
    let listener = match listener {
        Some(listener) => listener,
        None => bound(config.grpc_port).await?,
    };
    let network = Arc::new(Network {
        links: config.peers.iter().map(|port| Arc::new(Link::new(*port))).collect(),
        config,
        modules,
        faults: Latch::new(Faults::new(seed)),
        counts: Latch::default(),
        deliveries: Arc::new(Semaphore::new(DELIVERIES_MAX)),
        delayed: Arc::new(Semaphore::new(DELAYED_MAX)),
        refusals: AtomicU32::new(0),
    });
    tokio::spawn(network.clone().run_listener(peers));
    for link in &network.links {
        tokio::spawn(network.clone().run_link(link.clone()));
    }
    let service = NetworkServiceServer::new(service::Service(network.clone()));
    let router = Server::builder().add_service(service.max_decoding_message_size(usize::MAX));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = async { router.serve_with_incoming(incoming).await.context("network service") };
    tokio::try_join!(serving, crate::control::serve(control, control::router(network.clone())))?;
    Ok(())
}
