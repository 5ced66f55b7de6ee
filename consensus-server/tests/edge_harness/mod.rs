//! Real nodes in this process: their listeners on free ports of the loopback interface, their data in
//! temporary directories.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod certificates;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use consensus_core::ids::NodeId;
use consensus_core::replica::health::{LAG_ENTRIES_MAX, is_ready};
use consensus_proto::admin::admin_client::AdminClient;
use consensus_proto::ordering::ordering_client::OrderingClient;
use consensus_proto::peer::Hello;
use consensus_proto::peer::peer_client::PeerClient;
use consensus_proto::records::Transaction;
use consensus_server::config::{Config, Listen, LogFormat};
use consensus_server::lifecycle::{Listeners, Server};
use consensus_server::telemetry::logging;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// Free ports of the loopback interface.
pub(crate) fn free() -> Listen {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    Listen { client: free, peer: free, ops: free }
}

/// Nodes of one chain.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    data: TempDir,
}

impl Cluster {
    /// Starts `count` nodes; `extra` is appended to each configuration.
    pub(crate) async fn start(count: u64, extra: &str) -> Self {
        Self::start_without(count, &[], extra).await
    }

    /// The same with further members that are never there: tests speak for them.
    pub(crate) async fn start_without(count: u64, absent: &[u64], extra: &str) -> Self {
        Self::start_each(count, absent, |_| extra.to_owned()).await
    }

    /// The same with something else appended for each node.
    pub(crate) async fn start_each(count: u64, absent: &[u64], extra: impl Fn(u64) -> String) -> Self {
        Self::start_ticking(20, count, absent, extra).await
    }

    /// The same with ticks of this length: elections wait ten times as long, and a busy machine leads to none.
    pub(crate) async fn start_ticking(
        tick_ms: u64,
        count: u64,
        absent: &[u64],
        extra: impl Fn(u64) -> String,
    ) -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let mut listeners = Vec::new();
        let mut members = String::new();
        for id in 1..=count {
            let bound = Listeners::bind(&free()).await.expect("free ports");
            let Listen { client, peer, .. } = bound.addresses().expect("bound");
            write!(members, "[[peers]]\nid = {id}\npeer = '{peer}'\nclient = '{client}'\n")
                .expect("a string");
            listeners.push(bound);
        }
        for id in absent {
            let line = format!("[[peers]]\nid = {id}\npeer = '127.0.0.{id}:1'\nclient = '127.0.0.{id}:2'\n");
            members.push_str(&line);
        }
        let mut servers = Vec::new();
        for (id, bound) in (1..).zip(listeners) {
            let Listen { client, peer, ops } = bound.addresses().expect("bound");
            let extra = extra(id);
            let text = format!(
                "[node]\nid = {id}\ncluster = 'test'\ndata_dir = 'node{id}'\n[raft]\ntick_ms = {tick_ms}\n\
                 [security]\ninsecure = true\n\
                 [listen]\nclient = '{client}'\npeer = '{peer}'\nops = '{ops}'\n{members}{extra}"
            );
            let config = Config::parse(&text, "test", data.path()).expect("valid");
            servers.push(Server::start(config, bound, log()).await.expect("starts"));
        }
        Self { servers, data }
    }

    /// Waits until all nodes know the same leader, and returns it.
    pub(crate) async fn leader(&self) -> NodeId {
        let first = &self.servers[0];
        loop {
            let mut status = first.chain().watch_status();
            let known = status.wait_for(|status| status.leader.is_some()).await.expect("runs");
            let leader = known.leader.expect("waited for");
            drop(known);
            let mut agreed = true;
            for server in &self.servers {
                let mut status = server.chain().watch_status();
                let known = status.wait_for(|status| status.leader.is_some()).await.expect("runs");
                agreed &= known.leader == Some(leader);
            }
            if agreed {
                return leader;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until all nodes are ready.
    pub(crate) async fn ready(&self) {
        for server in &self.servers {
            let mut status = server.chain().watch_status();
            let ready = status.wait_for(|status| is_ready(status, LAG_ENTRIES_MAX)).await;
            drop(ready.expect("runs"));
        }
    }

    /// A node that does not lead.
    pub(crate) async fn follower(&self) -> &Server {
        let leader = self.leader().await;
        self.servers.iter().find(|server| server.config().node_id != leader).expect("more than one node")
    }

    pub(crate) fn server(&self, id: NodeId) -> &Server {
        self.servers.iter().find(|server| server.config().node_id == id).expect("a member")
    }

    /// Stops a node and starts it again on the same data, at other addresses.
    pub(crate) async fn restart(&mut self, position: usize) {
        let stopped = self.servers.remove(position);
        let config = Config::clone(stopped.config());
        stopped.stop().await;
        let bound = Listeners::bind(&free()).await.expect("free ports");
        self.servers.insert(position, Server::start(config, bound, log()).await.expect("starts"));
    }

    pub(crate) async fn stop(self) {
        futures_util::future::join_all(self.servers.into_iter().map(Server::stop)).await;
    }

    pub(crate) fn directory(&self) -> &Path {
        self.data.path()
    }
}

/// A control whose subscriber nobody writes to.
pub(crate) fn log() -> logging::LogControl {
    logging::build("warn", LogFormat::Human).expect("valid").1
}

/// A node of one member with a configuration of its own.
pub(crate) async fn start_alone(config: Config) -> Server {
    let bound = Listeners::bind(&config.listen).await.expect("free ports");
    Server::start(config, bound, log()).await.expect("starts")
}

/// One node that leads its chain.
pub(crate) async fn alone(extra: &str) -> Cluster {
    let cluster = Cluster::start(1, extra).await;
    cluster.leader().await;
    cluster
}

/// What the nodes of this thread log, from now until it is dropped.
pub(crate) fn capture() -> Captured {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .finish();
    Captured { lines, _guard: tracing::subscriber::set_default(subscriber) }
}

/// Log lines of one thread.
pub(crate) struct Captured {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Captured {
    pub(crate) fn text(&self) -> String {
        let lines = self.lines.0.lock().expect("no panic");
        String::from_utf8_lossy(&lines).into_owned()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("listens")
}

pub(crate) async fn client_channel(server: &Server) -> Channel {
    channel(server.config().listen.client).await
}

pub(crate) async fn ordering(server: &Server) -> OrderingClient<Channel> {
    OrderingClient::new(channel(server.config().listen.client).await)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

pub(crate) async fn admin(server: &Server) -> AdminClient<Channel> {
    AdminClient::new(channel(server.config().listen.client).await)
}

pub(crate) async fn peer(server: &Server) -> PeerClient<Channel> {
    PeerClient::new(channel(server.config().listen.peer).await)
}

/// How node `from` would present itself to `server`.
pub(crate) fn hello(server: &Server, from: u64) -> Hello {
    let identity = server.chain().identity();
    Hello {
        protocol_version: 1,
        cluster: identity.cluster.clone(),
        chain: identity.chain.clone(),
        chain_incarnation: identity.chain_incarnation,
        genesis_hash: identity.genesis_hash.as_bytes().to_vec().into(),
        node_id: from,
        store_incarnation: vec![from as u8; 16].into(),
        to_node_id: identity.node_id.get(),
        address: "127.0.0.1:1".to_owned(),
    }
}

pub(crate) fn transaction(id: impl Into<String>, payload: impl Into<String>) -> Transaction {
    Transaction { id: id.into().into_bytes().into(), payload: payload.into().into_bytes().into() }
}

/// What `/metrics` says about this series.
pub(crate) async fn metric(ops: SocketAddr, series: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(ops).await.expect("listens");
    let request = "GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("answered");
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    Some(line.trim().parse().expect("a number"))
}
