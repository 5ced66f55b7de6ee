//! The same stories over every carrier, and each carrier's own.

use consensus_proto::cita::common::StatusCode;
use consensus_proto::cita::network::network_service_server::{NetworkService, NetworkServiceServer};
use consensus_proto::cita::network::{NetworkMsg, RegisterInfo};
use futures_util::future::select_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::super::direct::{DirectCarrier, ExchangeService};
use super::super::network::NetworkCarrier;
use super::*;

/// What the network services of a chain share: who is where, and what they did.
#[derive(Default)]
struct Net {
    nodes: Mutex<BTreeMap<u64, Arc<Exchange>>>,
    registrations: Mutex<Vec<(u64, RegisterInfo)>>,
    types: Mutex<Vec<String>>,
    code: std::sync::atomic::AtomicU32,
    changed: Notify,
}

/// A stand-in for one node's network service.
struct Service {
    node: u64,
    net: Arc<Net>,
}

#[tonic::async_trait]
impl NetworkService for Service {
    async fn send_msg(&self, request: Request<NetworkMsg>) -> Result<Response<StatusCode>, Status> {
        assert_eq!(request.metadata().get("client-name").expect("there"), "consensus");
        let message = request.into_inner();
        assert_eq!(message.module, "consensus");
        self.net.types.lock().unwrap().push(message.r#type);
        let to = self.net.nodes.lock().unwrap().get(&message.origin).cloned();
        if let Some(to) = to {
            to.receive(self.node, message.msg);
        }
        Ok(Response::new(StatusCode { code: self.net.code.load(Ordering::SeqCst) }))
    }

    async fn broadcast(&self, _request: Request<NetworkMsg>) -> Result<Response<StatusCode>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn register_network_msg_handler(
        &self,
        request: Request<RegisterInfo>,
    ) -> Result<Response<StatusCode>, Status> {
        self.net.registrations.lock().unwrap().push((self.node, request.into_inner()));
        self.net.changed.notify_one();
        Ok(Response::new(StatusCode { code: 0 }))
    }
}

impl Net {
    fn serve(self: &Arc<Self>, node: u64, listener: TcpListener, stop: CancellationToken) -> JoinHandle<()> {
        let service = NetworkServiceServer::new(Service { node, net: self.clone() })
            .max_decoding_message_size(usize::MAX);
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, stop.cancelled())
                .await
                .expect("serves");
        })
    }

    async fn registrations(&self, count: usize) -> Vec<(u64, RegisterInfo)> {
        let wait = async {
            loop {
                let seen = self.registrations.lock().unwrap().clone();
                if seen.len() >= count {
                    return seen;
                }
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("registered")
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("localhost:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// Two members over network services of their own.
async fn over_network(net: &Arc<Net>, stop: &CancellationToken) -> (Node, Node) {
    let mut nodes = Vec::new();
    for node in [1, 2] {
        let (listener, port) = listener().await;
        net.serve(node, listener, stop.clone());
        let metrics = ExchangeMetrics::new(&Metrics::new(node), "test");
        let carrier = Arc::new(NetworkCarrier::new(port, metrics));
        let node = Node::seated(ExchangeConfig::testing(node, MIB), carrier);
        net.nodes.lock().unwrap().insert(node.exchange.core.config.node.get(), node.exchange.clone());
        nodes.push(node);
    }
    let two = nodes.pop().expect("two");
    (nodes.pop().expect("one"), two)
}

/// A server for an exchange, on its listener.
fn serve_direct(node: &Node, listener: TcpListener, stop: CancellationToken) -> JoinHandle<()> {
    let service = ExchangeService::new(node.exchange.clone(), stop.clone()).into_server();
    tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled())
            .await
            .expect("serves");
    })
}

/// Two members with streams to each other.
async fn over_streams(stop: &CancellationToken) -> (Node, Node) {
    let [(listener_1, port_1), (listener_2, port_2)] = [listener().await, listener().await];
    let carrier = |to: u64, port: u16| {
        let addresses = BTreeMap::from([(id(to), format!("localhost:{port}"))]);
        let carrier = Arc::new(DirectCarrier::new(addresses, Arc::new(Hub::default())));
        carrier.start(stop);
        carrier
    };
    let one = Node::seated(ExchangeConfig::testing(1, MIB), carrier(2, port_2));
    let two = Node::seated(ExchangeConfig::testing(2, MIB), carrier(1, port_1));
    serve_direct(&one, listener_1, stop.clone());
    serve_direct(&two, listener_2, stop.clone());
    (one, two)
}

/// Sends until something comes: what is sent before the way is open may be lost.
async fn warm_up(from: &Node, to: &mut Node) {
    let node = from.exchange.core.config.node;
    loop {
        from.exchange.mail(to.exchange.core.config.node, report(0));
        let pause = Box::pin(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }) as BoxFuture<'_, Option<Letter>>;
        if let (Some(letter), ..) = select_all([Box::pin(to.letters.recv()) as BoxFuture<'_, _>, pause]).await
        {
            assert_eq!(letter.from, node);
            return;
        }
    }
}

/// Large and small, both ways.
async fn story(mut one: Node, mut two: Node) {
    tokio::time::timeout(SOON, warm_up(&one, &mut two)).await.expect("the way there opens");
    tokio::time::timeout(SOON, warm_up(&two, &mut one)).await.expect("the way back opens");
    while two.letters.try_recv().is_ok() {}
    one.exchange.mail(id(2), candidate(8 * MIB));
    one.exchange.send(vec![heartbeat(1, 2, 1), append(1, 2, 2, 3 << 20), snapshot(1, 2, 3)]);
    loop {
        let letter = two.letter().await;
        if letter.mail == candidate(8 * MIB) {
            assert_eq!((letter.from, letter.incarnation, letter.group), (id(1), store(1), Some(GROUP)));
            break;
        }
        assert_eq!(letter.mail, report(0));
    }
    assert_eq!(two.chain.indices(3).await, [1, 2, 3]);
    assert_eq!(one.chain.reports(1).await.last(), Some(&PeerReport::SnapshotDelivered));
    two.exchange.send((0..100).map(|index| heartbeat(2, 1, index)).collect());
    assert_eq!(one.chain.indices(100).await, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_exchange_works_in_memory() {
    let (_hub, one, two) = pair();
    story(one, two).await;
}

#[tokio::test]
async fn the_exchange_works_over_the_network_service() {
    let (net, stop) = (Arc::new(Net::default()), CancellationToken::new());
    let (one, two) = over_network(&net, &stop).await;
    story(one, two).await;
    let types = net.types.lock().unwrap().clone();
    assert!(types.iter().any(|name| name == "consensus.exchange"));
    assert!(types.iter().any(|name| name == "consensus.exchange.part"));
    assert_eq!(types.iter().filter(|name| name.starts_with("consensus.exchange")).count(), types.len());
    stop.cancel();
}

#[tokio::test]
async fn the_exchange_works_over_direct_streams() {
    let stop = CancellationToken::new();
    let (one, two) = over_streams(&stop).await;
    story(one, two).await;
    stop.cancel();
}

#[tokio::test]
async fn a_node_without_a_direct_address_is_reached_over_the_fallback() {
    let hub = Arc::new(Hub::default());
    let carrier =
        Arc::new(DirectCarrier::new(BTreeMap::from([(id(3), "localhost:1".to_owned())]), hub.clone()));
    let one = Node::seated(ExchangeConfig::testing(1, MIB), carrier);
    let mut two = Node::seated(ExchangeConfig::testing(2, MIB), hub.clone());
    hub.join(&two);
    one.exchange.mail(id(2), report(4));
    assert_eq!(two.letter().await.mail, report(4));
    let addresses: Vec<String> = one.exchange.peers().into_iter().map(|peer| peer.address).collect();
    assert_eq!(addresses, ["origin 0000000000000002", "localhost:1"]);
    one.exchange.send(vec![heartbeat(1, 3, 1)]);
    assert_eq!(one.chain.reports(1).await, [PeerReport::Unreachable], "no stream to it");
}

#[tokio::test]
async fn a_direct_stream_that_broke_is_made_again() {
    let stop = CancellationToken::new();
    let (listener, port) = listener().await;
    let addresses = BTreeMap::from([(id(2), format!("localhost:{port}"))]);
    let carrier = Arc::new(DirectCarrier::new(addresses, Arc::new(Hub::default())));
    carrier.start(&stop);
    let one = Node::seated(ExchangeConfig::testing(1, MIB), carrier);
    let mut two = Node::seated(ExchangeConfig::testing(2, MIB), Arc::new(Hub::default()));
    let first = CancellationToken::new();
    let server = serve_direct(&two, listener, first.clone());
    tokio::time::timeout(SOON, warm_up(&one, &mut two)).await.expect("opens");
    first.cancel();
    server.await.expect("ends");
    let listener = TcpListener::bind(("localhost", port)).await.expect("free again");
    serve_direct(&two, listener, stop.clone());
    while two.letters.try_recv().is_ok() {}
    tokio::time::timeout(SOON, warm_up(&one, &mut two)).await.expect("opens again");
    stop.cancel();
}

#[tokio::test]
async fn a_network_service_that_was_restarted_is_registered_with_again() {
    let (net, stop) = (Arc::new(Net::default()), CancellationToken::new());
    let metrics = Metrics::new(1);
    let (listener, port) = listener().await;
    drop(listener);
    let carrier = NetworkCarrier::new(port, ExchangeMetrics::new(&metrics, "test"));
    carrier.start(4711, stop.clone());
    // Nobody is there at first; whoever comes later is registered with.
    tokio::task::yield_now().await;
    for count in 1..=2 {
        let served = CancellationToken::new();
        let listener = TcpListener::bind(("localhost", port)).await.expect("free");
        let server = net.serve(1, listener, served.clone());
        let (_, info) = net.registrations(count).await.pop().expect("registered");
        assert_eq!((&*info.module_name, &*info.hostname, &*info.port), ("consensus", "localhost", "4711"));
        served.cancel();
        server.await.expect("ends");
    }
    stop.cancel();
}

#[tokio::test]
async fn a_code_of_the_network_service_is_a_failure() {
    let (net, stop) = (Arc::new(Net::default()), CancellationToken::new());
    let (one, _two) = over_network(&net, &stop).await;
    net.code.store(400, Ordering::SeqCst);
    one.exchange.send(vec![heartbeat(1, 2, 1)]);
    assert_eq!(one.chain.reports(1).await, [PeerReport::Unreachable]);
    stop.cancel();
}
