//! Three real nodes over real streams: any of them takes transactions and answers with the leader's verdict;
//! leadership moves when it is asked to or when its node stops.

mod edge_harness;

use consensus_core::ids::NodeId;
use consensus_proto::admin::{SetLogFilterRequest, StatusRequest, TransferLeaderRequest};
use consensus_proto::ordering::{SubmitBatch, SubmitRequest, TipRequest, outcome, submit_reply};
use consensus_server::lifecycle::Server;
use edge_harness::{Cluster, admin, ordering, transaction};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_forwards_and_answers_with_the_leaders_verdict() {
    let cluster = Cluster::start(3, "").await;
    let follower = cluster.follower().await;
    let mut client = ordering(follower).await;
    let request = SubmitRequest { id: "a".into(), payload: "1".into(), acknowledgement: 0 };
    let reply = client.submit(request.clone()).await.expect("committed").into_inner();
    let Some(submit_reply::Outcome::Committed(first)) = reply.outcome else { panic!("no position") };
    assert_eq!((first.height, first.duplicate), (1, false));
    let again = client.submit(request).await.expect("committed").into_inner();
    let Some(submit_reply::Outcome::Committed(again)) = again.outcome else { panic!("no position") };
    assert_eq!((again.height, again.duplicate), (1, true), "the leader knows the id");
    let empty = SubmitRequest { id: "b".into(), ..Default::default() };
    assert_eq!(client.submit(empty).await.expect_err("the leader refuses it").code(), Code::InvalidArgument);

    let frames: Vec<SubmitBatch> = (0..100)
        .map(|sequence| SubmitBatch {
            sequence,
            transactions: vec![transaction(format!("s{sequence:03}"), "x")],
            acknowledgement: 0,
        })
        .collect();
    let mut replies =
        client.submit_stream(futures_util::stream::iter(frames)).await.expect("opens").into_inner();
    let mut places = std::collections::BTreeMap::new();
    while let Some(reply) = replies.message().await.expect("no error of the stream") {
        let Some(outcome::Outcome::Committed(committed)) = &reply.outcomes[0].outcome else {
            panic!("{reply:?}")
        };
        places.insert(reply.sequence, (committed.height, committed.index));
    }
    let in_order: Vec<_> = places.values().copied().collect();
    assert!(places.len() == 100 && in_order.is_sorted(), "forwarded frames keep their order: {in_order:?}");

    let tip =
        client.tip(TipRequest { linearizable: true }).await.expect("confirmed by the leader").into_inner();
    assert_eq!(tip.transactions, 101);
    cluster.stop().await;
}

/// The node with the lowest id that is not `other`.
fn someone_else(cluster: &Cluster, other: NodeId) -> &Server {
    cluster.servers.iter().find(|server| server.config().node_id != other).expect("more than one node")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_the_node_that_is_named() {
    let cluster = Cluster::start(3, "").await;
    let leader = cluster.leader().await;
    // All peers must be connected before one of them can take over.
    let mut client = ordering(cluster.server(leader)).await;
    let request = SubmitRequest { id: "a".into(), payload: "1".into(), acknowledgement: 0 };
    client.submit(request).await.expect("committed");
    let target = someone_else(&cluster, leader).config().node_id;
    // The target may lack the newest entry or its stream for an instant: then the transfer is refused or runs
    // out of time, and is asked for again.
    let mut administrator = admin(cluster.server(leader)).await;
    let moved = loop {
        match administrator.transfer_leader(TransferLeaderRequest { to_node_id: target.get() }).await {
            Ok(reply) => break reply.into_inner().leader_id,
            Err(status) if cluster.server(leader).chain().status().leader == Some(target) => {
                println!("{status}");
                break target.get();
            }
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(moved, target.get());
    let stranger =
        administrator.transfer_leader(TransferLeaderRequest { to_node_id: 9 }).await.expect_err("unknown");
    assert_eq!(
        (stranger.code(), stranger.message()),
        (Code::InvalidArgument, "node 9 is no member of the chain")
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_node_tells_its_chain_and_its_peers() {
    let cluster = Cluster::start(3, "").await;
    let leader = cluster.leader().await;
    let mut client = ordering(cluster.server(leader)).await;
    client.submit(SubmitRequest { payload: "1".into(), ..Default::default() }).await.expect("committed");
    cluster.ready().await;
    let status =
        admin(cluster.server(leader)).await.status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!((status.cluster.as_str(), status.node_id, status.ready), ("test", leader.get(), true));
    let chain = &status.chains[0];
    assert_eq!((chain.role.as_str(), chain.height, chain.transactions), ("leader", 1, 1));
    assert_eq!(chain.leader_address, cluster.server(leader).config().own().client_address);
    assert_eq!((chain.voters.as_slice(), chain.peers.len()), (&[1, 2, 3][..], 2));
    assert!(chain.peers.iter().any(|peer| peer.connected && peer.last_heard_ms > 0), "{:?}", chain.peers);
    cluster.stop().await;
}

#[tokio::test]
async fn a_log_filter_that_cannot_be_read_is_refused() {
    let cluster = edge_harness::alone("").await;
    let mut client = admin(&cluster.servers[0]).await;
    let refused =
        client.set_log_filter(SetLogFilterRequest { filter: "inof".to_owned() }).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, "").await;
    let leader = cluster.leader().await;
    let mut client = ordering(cluster.server(leader)).await;
    client.submit(SubmitRequest { payload: "1".into(), ..Default::default() }).await.expect("committed");
    let position =
        cluster.servers.iter().position(|server| server.config().node_id == leader).expect("a member");
    let stopped = cluster.servers.remove(position);
    stopped.stop().await;
    let mut status = cluster.servers[0].chain().watch_status();
    status.wait_for(|status| status.leader.is_some_and(|now| now != leader)).await.expect("a new leader");
    let mut client = ordering(&cluster.servers[0]).await;
    loop {
        match client.submit(SubmitRequest { payload: "2".into(), ..Default::default() }).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_tell_what_is_true() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };

    // Two of three members are absent: no leader, ever.
    let cluster = Cluster::start_without(1, &[2, 3], "").await;
    let alone = edge_harness::alone("").await;
    for (server, ready) in
        [(&cluster.servers[0], ServingStatus::NotServing), (&alone.servers[0], ServingStatus::Serving)]
    {
        let mut health = HealthClient::new(edge_harness::client_channel(server).await);
        for (service, expected) in [("", ServingStatus::Serving), ("ready", ready), ("chain/main", ready)] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let mut watched = health.watch(request).await.expect("known").into_inner();
            while watched.message().await.expect("goes on").expect("goes on").status() != expected {}
        }
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request, server_reflection_response,
    };
    let mut reflection = ServerReflectionClient::new(edge_harness::client_channel(&alone.servers[0]).await);
    let list = server_reflection_request::MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = reflection
        .server_reflection_info(futures_util::stream::iter([request]))
        .await
        .expect("served")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["consensus.ordering.v1.Ordering", "consensus.admin.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    drop(answers);
    cluster.stop().await;
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_store_is_still_refused_after_a_restart() {
    let mut cluster = Cluster::start_without(1, &[9], "").await;
    let server = &cluster.servers[0];
    let hello = edge_harness::hello(server, 9);
    let request = |hello| consensus_proto::peer::ReadIndexRequest { hello: Some(hello) };
    let mut client = edge_harness::peer(server).await;
    // Accepted, then refused for want of a leader; the store is known from now on.
    let status = client.read_index(request(hello.clone())).await.expect_err("no leader");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    cluster.restart(0).await;
    let mut client = edge_harness::peer(&cluster.servers[0]).await;
    let replaced = consensus_proto::peer::Hello { store_incarnation: vec![1; 16].into(), ..hello };
    let status = client.read_index(request(replaced)).await.expect_err("another store");
    assert!(status.message().starts_with("store of node 9 was replaced"), "{status}");
    cluster.stop().await;
}
