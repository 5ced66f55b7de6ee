//! How what is sent leaves: order, bounds, failures, reports.

use std::sync::atomic::AtomicBool;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;

use super::super::sender::IDLE_ATTEMPTS;
use super::*;
use crate::telemetry::metrics::DropCause;

/// Lets envelopes of some nodes pass one by one, fails or hangs.
struct Sluice {
    hub: Arc<Hub>,
    held: Vec<NodeId>,
    passes: Arc<Semaphore>,
    fails: AtomicBool,
    waits: Arc<Notify>,
}

impl Sluice {
    /// Holds back what goes to node 2 until it may pass.
    fn new(hub: Arc<Hub>) -> Arc<Self> {
        let (passes, waits) = (Arc::new(Semaphore::new(0)), Arc::default());
        Arc::new(Self { hub, held: vec![id(2)], passes, fails: AtomicBool::new(false), waits })
    }
}

impl Carrier for Sluice {
    fn carry(&self, to: NodeId, origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        if self.fails.load(Ordering::SeqCst) {
            return Box::pin(async { Err("broken".to_owned()) });
        }
        let carried = self.hub.carry(to, origin, envelope);
        if !self.held.contains(&to) {
            return carried;
        }
        let passes = self.passes.clone();
        self.waits.notify_one();
        Box::pin(async move {
            passes.acquire().await.map_err(|closed| closed.to_string())?.forget();
            carried.await
        })
    }

    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        self.hub.announce(envelope)
    }
}

/// Three members, of which node 1 sends through a sluice.
fn sluiced(change: impl FnOnce(&mut ExchangeConfig), timeout: Duration) -> (Arc<Sluice>, Node, Node, Node) {
    let hub = Arc::new(Hub::default());
    let sluice = Sluice::new(hub.clone());
    let mut config = ExchangeConfig::testing(1, MIB);
    change(&mut config);
    let one = Node::with_timeout(config, sluice.clone(), timeout);
    let [two, three] = [2, 3].map(|node| Node::seated(ExchangeConfig::testing(node, MIB), hub.clone()));
    [&one, &two, &three].into_iter().for_each(|node| hub.join(node));
    (sluice, one, two, three)
}

#[tokio::test]
async fn raft_messages_arrive_in_order_and_letters_too() {
    let (_hub, one, mut two) = pair();
    for index in 0..100 {
        one.exchange.send(vec![heartbeat(1, 2, 2 * index), append(1, 2, 2 * index + 1, 10)]);
        one.exchange.mail(id(2), report(index));
    }
    for index in 0..100 {
        assert_eq!(two.letter().await.mail, report(index));
    }
    assert_eq!(two.chain.indices(200).await, (0..200).collect::<Vec<_>>());
    assert!(two.chain.seen.lock().unwrap().messages.iter().all(|(from, _)| *from == id(1)));
    let peers = two.exchange.peers();
    assert_eq!(peers.iter().map(|peer| peer.node_id).collect::<Vec<_>>(), [id(1), id(3)]);
    assert!(peers[0].connected && peers[0].last_heard_ms > 0 && peers[0].store_incarnation == Some(store(1)));
    assert!(!peers[1].connected && peers[1].last_heard_ms == 0);
}

#[tokio::test]
async fn candidates_of_8_and_60_mib_arrive_whole() {
    let (hub, one, mut two) = pair();
    for mib in [8, 60] {
        one.exchange.mail(id(2), candidate(mib * MIB));
        assert!(two.letter().await.mail == candidate(mib * MIB), "{mib} MiB");
        let carried = hub.carried();
        assert_eq!(carried.len() as u64, mib + 1);
        assert!(carried.iter().all(|(_, _, envelope)| envelope.len() as u64 <= MIB + 1024));
    }
    one.exchange.send(vec![append(1, 2, 1, 5 << 20), append(1, 2, 2, 10)]);
    assert_eq!(two.chain.indices(2).await, [1, 2]);
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_for_a_large_candidate() {
    let (sluice, one, mut two, _three) = sluiced(|_| {}, SOON);
    one.exchange.mail(id(2), candidate(8 * MIB));
    sluice.waits.notified().await;
    one.exchange.send(vec![heartbeat(1, 2, 1)]);
    sluice.passes.add_permits(2);
    assert_eq!(two.chain.indices(1).await, [1], "after one piece");
    assert!(two.letters.try_recv().is_err());
    sluice.passes.add_permits(100);
    assert!(two.letter().await.mail == candidate(8 * MIB));
}

#[tokio::test]
async fn a_peer_that_hangs_holds_up_nobody_else_and_its_queue_is_bounded() {
    let (sluice, one, _two, three) = sluiced(|config| config.queue_messages_max = 10, SOON);
    one.exchange.send(vec![heartbeat(1, 2, 0)]);
    sluice.waits.notified().await;
    one.exchange.send((1..=12).map(|index| heartbeat(1, 2, index)).collect());
    one.exchange.send(vec![heartbeat(1, 3, 1)]);
    assert_eq!(three.chain.indices(1).await, [1]);
    assert_eq!(one.chain.reports(1).await, [PeerReport::Unreachable], "two did not fit");
    let series = one.metrics.peer(id(2));
    assert_eq!((series.dropped_messages(), series.queue_messages.get()), (2, 10));
    for _ in 0..20 {
        one.exchange.mail(id(2), report(1));
    }
    assert_eq!((series.dropped_messages(), series.queue_messages.get()), (12, 20));
}

#[tokio::test]
async fn an_outage_is_reported_once_and_what_waited_is_lost() {
    let (sluice, one, two, _three) = sluiced(|_| {}, Duration::from_millis(50));
    one.exchange.send(vec![heartbeat(1, 2, 1)]);
    sluice.waits.notified().await;
    one.exchange.send(vec![heartbeat(1, 2, 2)]);
    assert_eq!(one.chain.reports(1).await, [PeerReport::Unreachable], "not taken in time");
    sluice.fails.store(true, Ordering::SeqCst);
    for index in 3..6 {
        let dropped = one.metrics.peer(id(2)).dropped_messages();
        one.exchange.send(vec![heartbeat(1, 2, index)]);
        while one.metrics.peer(id(2)).dropped_messages() == dropped {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(one.chain.reports(1).await, [PeerReport::Unreachable], "still the same outage");
    sluice.fails.store(false, Ordering::SeqCst);
    sluice.passes.add_permits(100);
    one.exchange.send(vec![heartbeat(1, 2, 7)]);
    assert_eq!(two.chain.indices(1).await, [7]);
    sluice.fails.store(true, Ordering::SeqCst);
    one.exchange.send(vec![heartbeat(1, 2, 8)]);
    assert_eq!(one.chain.reports(2).await.len(), 2, "the next outage");
}

#[tokio::test]
async fn an_outage_that_nobody_notices_any_more_is_over() {
    let attempt = Duration::from_millis(50);
    let (sluice, one, _two, _three) = sluiced(|_| {}, attempt);
    let series = one.metrics.peer(id(2));
    sluice.fails.store(true, Ordering::SeqCst);
    for outage in 1..=2 {
        one.exchange.send(vec![heartbeat(1, 2, outage)]);
        assert_eq!(one.chain.reports(outage as usize).await.len(), outage as usize);
        assert_eq!(series.connected.get(), 0);
        let began = tokio::time::Instant::now();
        while series.connected.get() == 0 {
            assert!(began.elapsed() < SOON, "nothing has failed for long");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Not the pause between two attempts.
        assert!(began.elapsed() > attempt * IDLE_ATTEMPTS / 2, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn every_snapshot_gets_exactly_one_report() {
    let (sluice, one, two, _three) = sluiced(|config| config.queue_messages_max = 2, SOON);
    one.exchange.send(vec![snapshot(1, 2, 1)]);
    sluice.waits.notified().await;
    one.exchange.send(vec![snapshot(1, 2, 2), snapshot(1, 2, 3), snapshot(1, 2, 4)]);
    let full = [PeerReport::SnapshotFailed, PeerReport::Unreachable];
    assert_eq!(one.chain.reports(2).await, full, "the last did not fit");
    sluice.passes.add_permits(1);
    assert_eq!(one.chain.reports(3).await[2], PeerReport::SnapshotDelivered);
    assert_eq!(two.chain.indices(1).await, [1]);
    sluice.passes.close();
    let lost = [PeerReport::SnapshotFailed, PeerReport::SnapshotFailed, PeerReport::Unreachable];
    assert_eq!(one.chain.reports(6).await[3..], lost, "the way broke");
    one.exchange.send(vec![snapshot(1, 9, 1)]);
    assert_eq!(one.chain.reports(7).await[6], PeerReport::SnapshotFailed, "no member");
    assert_eq!(one.metrics.unsent_count(Unsent::Stranger), 1);
}

#[tokio::test]
async fn a_stopped_exchange_gives_up_what_waits() {
    let (sluice, one, _two, _three) = sluiced(|_| {}, SOON);
    one.exchange.send(vec![snapshot(1, 2, 1)]);
    sluice.waits.notified().await;
    one.exchange.send(vec![snapshot(1, 2, 2)]);
    one.exchange.stop();
    assert_eq!(one.chain.reports(2).await, [PeerReport::SnapshotFailed; 2]);
    one.exchange.send(vec![snapshot(1, 2, 3)]);
    assert_eq!(one.chain.reports(3).await, [PeerReport::SnapshotFailed; 3]);
    let series = one.metrics.peer(id(2));
    assert_eq!((series.dropped_messages(), series.queue_messages.get()), (3, 0));
    series.dropped(DropCause::QueueFull, 0);
}

#[tokio::test]
async fn the_chain_of_a_seat_that_was_left_sends_nothing_any_more() {
    let (hub, one, two) = pair();
    let transport = one.exchange.transport();
    transport.send(vec![heartbeat(1, 2, 1)]);
    assert_eq!(two.chain.indices(1).await, [1]);
    let another = Some(GroupId([8; 16]));
    one.exchange.take_seat(store(1), another);
    one.exchange.set_roster(Some(roster(&[1, 2])));
    transport.send(vec![heartbeat(1, 2, 2)]);
    assert_eq!(one.metrics.unsent_count(Unsent::Seatless), 1);
    two.exchange.take_seat(store(2), another);
    two.exchange.attach_sink(Some(two.chain.clone()));
    one.exchange.transport().send(vec![heartbeat(1, 2, 3)]);
    assert_eq!(two.chain.indices(2).await, [1, 3]);
    assert_eq!(hub.carried().len(), 2);
}

#[tokio::test]
async fn who_was_invited_answers_before_it_knows_the_roster() {
    let (_hub, one, two) = pair();
    two.exchange.set_roster(None);
    two.exchange.send(vec![heartbeat(2, 1, 1)]);
    assert_eq!(two.metrics.unsent_count(Unsent::Stranger), 1, "nobody was heard");
    one.exchange.send(vec![heartbeat(1, 2, 2)]);
    assert_eq!(two.chain.indices(1).await, [2]);
    two.exchange.send(vec![heartbeat(2, 1, 3)]);
    assert_eq!(one.chain.indices(1).await, [3]);
}

#[tokio::test]
async fn a_restarted_node_is_heard_at_once() {
    let (hub, one, two) = pair();
    one.exchange.send((1..=9).map(|index| append(1, 2, index, 700_000)).collect());
    assert_eq!(two.chain.indices(9).await.len(), 9);
    let late = hub.carried().pop().expect("sent").2;
    one.exchange.stop();
    let mut config = ExchangeConfig::testing(1, MIB);
    config.session = 5;
    let again = Node::seated(config, hub.clone());
    again.exchange.send(vec![heartbeat(1, 2, 10)]);
    assert_eq!(two.chain.indices(10).await[9], 10);
    assert!(!two.exchange.receive(0, late));
    assert_eq!(two.metrics.refused_count(Refused::OldSession), 1);
}

/// Loses, doubles and reorders.
struct Storm {
    to: Mutex<Option<Arc<Exchange>>>,
    state: Mutex<(SmallRng, Vec<Bytes>)>,
}

impl Storm {
    fn deliver(&self, envelope: Bytes) {
        let to = self.to.lock().unwrap().clone().expect("set");
        to.receive(0, envelope);
    }

    /// What is still held back.
    fn calm(&self) {
        let held = std::mem::take(&mut self.state.lock().unwrap().1);
        held.into_iter().for_each(|envelope| self.deliver(envelope));
    }
}

impl Carrier for Storm {
    fn carry(&self, _to: NodeId, _origin: u64, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        let delivered = {
            let mut state = self.state.lock().unwrap();
            let (rng, held) = &mut *state;
            let copies = [0, 1, 1, 1, 1, 1, 1, 2, 3][rng.random_range(0..9)];
            held.extend(std::iter::repeat_n(envelope, copies));
            let mut delivered = Vec::new();
            while held.len() > 20 {
                let at = rng.random_range(0..held.len());
                delivered.push(held.swap_remove(at));
            }
            delivered
        };
        delivered.into_iter().for_each(|envelope| self.deliver(envelope));
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(())
        })
    }

    fn announce(&self, envelope: Bytes) -> BoxFuture<'static, Result<(), String>> {
        self.deliver(envelope);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn on_a_network_that_loses_doubles_and_reorders_nothing_comes_twice_or_changed() {
    for seed in 0..10 {
        let state = Mutex::new((SmallRng::seed_from_u64(seed), Vec::new()));
        let storm = Arc::new(Storm { to: Mutex::default(), state });
        let mut config = ExchangeConfig::testing(1, 1000);
        config.queue_messages_max = 10_000;
        let one = Node::seated(config, storm.clone());
        let mut two = Node::seated(ExchangeConfig::testing(2, 1000), storm.clone());
        *storm.to.lock().unwrap() = Some(two.exchange.clone());
        let mut letters = Vec::new();
        for index in 0..500_u64 {
            one.exchange.send(vec![append(1, 2, index, (index as usize % 50) * 50)]);
            one.exchange.mail(
                id(2),
                Mail::Candidate(Candidate {
                    height: index,
                    data: vec![index as u8; (index as usize % 40) * 100].into(),
                    ..Candidate::default()
                }),
            );
            tokio::task::yield_now().await;
            letters.extend(std::iter::from_fn(|| two.letters.try_recv().ok()));
        }
        let series = one.metrics.peer(id(2));
        while series.sent_messages.get() < 1000 {
            tokio::task::yield_now().await;
            letters.extend(std::iter::from_fn(|| two.letters.try_recv().ok()));
        }
        storm.calm();
        letters.extend(std::iter::from_fn(|| two.letters.try_recv().ok()));
        let mut heights = Vec::new();
        for letter in letters {
            let Mail::Candidate(candidate) = letter.mail else { panic!("seed {seed}") };
            let expected = vec![candidate.height as u8; (candidate.height as usize % 40) * 100];
            assert_eq!(candidate.data, expected, "seed {seed}");
            heights.push(candidate.height);
        }
        let seen = two.chain.seen.lock().unwrap();
        let mut indices: Vec<u64> = seen.messages.iter().map(|(_, message)| message.index).collect();
        for came in [&mut heights, &mut indices] {
            let count = came.len();
            came.sort_unstable();
            came.dedup();
            assert_eq!(came.len(), count, "seed {seed}: nothing comes twice");
            assert!(count > 50, "seed {seed}: {count} came");
        }
        assert!(two.metrics.refused_count(Refused::Duplicate) > 50, "seed {seed}");
    }
}
