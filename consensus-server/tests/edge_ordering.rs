//! The ordering service as a client sees it: what is refused and in which words, what the seeks of Deliver
//! give, and that a stream of frames keeps its order.

mod edge_harness;

use consensus_core::ledger::id_of_payload;
use consensus_proto::ordering::deliver_request::From;
use consensus_proto::ordering::{
    Acknowledgement, DeliverRequest, GetBlockRequest, GetTransactionRequest, ProveRequest, Reason,
    SubmitBatch, SubmitRequest, TipRequest, get_block_request, outcome, submit_reply, transaction_status,
};
use consensus_proto::records::Transaction;
use edge_harness::{alone, metric, ordering, transaction};
use tonic::{Code, Status};

fn submission(id: &[u8], payload: &[u8]) -> SubmitRequest {
    SubmitRequest { id: id.to_vec().into(), payload: payload.to_vec().into(), acknowledgement: 0 }
}

fn said(status: Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn a_transaction_that_can_never_be_ordered_is_refused_with_its_bound() {
    let cluster = alone("[block]\nabsolute_bytes = 2048\npreferred_bytes = 2048").await;
    let mut client = ordering(&cluster.servers[0]).await;
    for (request, code, words) in [
        (submission(b"a", b""), Code::InvalidArgument, "payload is empty"),
        (
            submission(b"a", &[0; 2048]),
            Code::InvalidArgument,
            "transaction of 2049 bytes, must be at most 2048",
        ),
        (submission(&[b'x'; 65], b"y"), Code::InvalidArgument, "id of 65 bytes, must be between 1 and 64"),
        (
            SubmitRequest { acknowledgement: 7, ..submission(b"a", b"y") },
            Code::InvalidArgument,
            "acknowledgement 7 is unknown, must be 1 (accepted) or 2 (committed)",
        ),
        (submission(b"a", &vec![0; 32 << 20]), Code::OutOfRange, "the limit is"),
    ] {
        let (found, message) = said(client.submit(request).await.expect_err(words));
        assert!(found == code && message.contains(words), "{found:?} {message}, expected {code:?} {words}");
    }
    let committed = client.submit(submission(b"a", b"z")).await.expect("the server lives").into_inner();
    assert!(matches!(committed.outcome, Some(submit_reply::Outcome::Committed(_))));
    cluster.stop().await;
}

#[tokio::test]
async fn in_a_stream_a_refusal_is_an_answer_and_the_stream_goes_on() {
    let cluster = alone("").await;
    let mut client = ordering(&cluster.servers[0]).await;
    let batch = |sequence, transactions: Vec<Transaction>| SubmitBatch {
        sequence,
        transactions,
        acknowledgement: Acknowledgement::Committed.into(),
    };
    let frames = [
        batch(1, vec![transaction("a", "1"), transaction("b", ""), transaction("c", "3")]),
        batch(2, vec![]),
        batch(3, vec![transaction("d", "4")]),
    ];
    let mut replies =
        client.submit_stream(futures_util::stream::iter(frames)).await.expect("opens").into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while let Some(reply) = replies.message().await.expect("no error of the stream") {
        seen.insert(reply.sequence, reply.outcomes);
    }
    let count = |sequence| seen[&sequence].iter().map(|outcome| outcome.count).sum::<u32>();
    assert_eq!([count(1), count(2), count(3)], [3, 0, 1]);
    let reasons: Vec<Reason> = seen[&1]
        .iter()
        .filter_map(|outcome| match &outcome.outcome {
            Some(outcome::Outcome::Refused(refused)) => Some(refused.reason()),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [Reason::Invalid]);
    cluster.stop().await;
}

#[tokio::test]
async fn frames_of_one_stream_keep_their_order_in_the_chain() {
    let cluster = alone("").await;
    let mut client = ordering(&cluster.servers[0]).await;
    let frames = (0..200).map(|number| SubmitBatch {
        sequence: number,
        transactions: vec![transaction(format!("{number:04}"), "x")],
        acknowledgement: 0,
    });
    let mut replies = client
        .submit_stream(futures_util::stream::iter(frames.collect::<Vec<_>>()))
        .await
        .expect("opens")
        .into_inner();
    let mut tip = 0;
    while let Some(reply) = replies.message().await.expect("no error of the stream") {
        for outcome in reply.outcomes {
            let Some(outcome::Outcome::Committed(committed)) = outcome.outcome else { panic!("{outcome:?}") };
            tip = tip.max(committed.height);
        }
    }
    let mut blocks =
        client.deliver(DeliverRequest { to: tip, ..Default::default() }).await.expect("opens").into_inner();
    let mut ids = Vec::new();
    while let Some(block) = blocks.message().await.expect("no error of the stream") {
        assert_eq!(block.transaction_count as usize, block.transactions.len());
        ids.extend(block.transactions.into_iter().map(|transaction| transaction.id));
    }
    let expected: Vec<_> = (0..200).map(|number| format!("{number:04}").into_bytes()).collect();
    assert_eq!(ids, expected);
    cluster.stop().await;
}

#[tokio::test]
async fn each_seek_gives_its_blocks_and_ends_as_it_should() {
    let cluster = alone("").await;
    let mut client = ordering(&cluster.servers[0]).await;
    for number in 1..=3 {
        client.submit(submission(format!("{number}").as_bytes(), b"x")).await.expect("committed");
    }
    let seek = |from: From, number, to, fail_if_not_ready| DeliverRequest {
        from: from.into(),
        number,
        to,
        fail_if_not_ready,
        headers_only: false,
    };
    for (request, heights, end) in [
        (seek(From::Oldest, 0, 3, false), vec![1, 2, 3], None),
        (seek(From::Newest, 0, 3, false), vec![3], None),
        (seek(From::Number, 2, 2, false), vec![2], None),
        (seek(From::Number, 2, 0, true), vec![2, 3], Some((Code::NotFound, "block 4 is not there yet"))),
        (seek(From::Live, 0, 0, true), vec![], Some((Code::NotFound, "block 4 is not there yet"))),
        (
            seek(From::Number, 5, 0, false),
            vec![],
            Some((Code::NotFound, "block 5 is beyond the next one, 4")),
        ),
        (seek(From::Number, 3, 2, false), vec![], Some((Code::InvalidArgument, "to is 2, which is before"))),
    ] {
        let mut found = Vec::new();
        let ended = match client.deliver(request).await {
            Err(status) => Some(said(status)),
            Ok(blocks) => {
                let mut blocks = blocks.into_inner();
                loop {
                    match blocks.message().await {
                        Ok(Some(block)) => found.push(block.header.expect("a header").number),
                        Ok(None) => break None,
                        Err(status) => break Some(said(status)),
                    }
                }
            }
        };
        assert_eq!(found, heights, "{request:?}");
        match (ended, end) {
            (None, None) => {}
            (Some((code, message)), Some((expected, words))) => {
                assert!(code == expected && message.contains(words), "{request:?}: {message}");
            }
            (ended, end) => panic!("{request:?} ended {ended:?}, expected {end:?}"),
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_live_reader_gets_the_next_block_and_is_told_when_the_node_stops() {
    let cluster = alone("").await;
    let mut client = ordering(&cluster.servers[0]).await;
    let request = DeliverRequest { from: From::Live.into(), headers_only: true, ..Default::default() };
    let mut blocks = client.deliver(request).await.expect("opens").into_inner();
    client.submit(submission(b"a", b"x")).await.expect("committed");
    let block = blocks.message().await.expect("no error").expect("a block");
    assert_eq!((block.transactions.len(), block.transaction_count), (0, 1), "only the header was asked for");
    let stopping = tokio::spawn(cluster.stop());
    assert_eq!(
        said(blocks.message().await.expect_err("ends")),
        (Code::Unavailable, "the node is stopping".to_owned())
    );
    stopping.await.expect("stops");
}

#[tokio::test]
async fn what_is_in_the_chain_can_be_looked_up_and_proved() {
    let cluster = alone("").await;
    let mut client = ordering(&cluster.servers[0]).await;
    let reply = client.submit(submission(b"", b"payload")).await.expect("committed").into_inner();
    assert_eq!(reply.id, id_of_payload(b"payload"), "a transaction without an id gets that of its payload");
    let again = client.submit(submission(b"", b"payload")).await.expect("answered").into_inner();
    let Some(submit_reply::Outcome::Committed(committed)) = again.outcome else { panic!("{again:?}") };
    assert!(committed.duplicate && committed.height == 1);

    let request = GetTransactionRequest { id: reply.id.clone() };
    let status = client.get_transaction(request).await.expect("answered").into_inner();
    assert_eq!((status.state(), status.height), (transaction_status::State::Committed, 1));
    let request = GetTransactionRequest { id: "nobody".into() };
    let status = client.get_transaction(request).await.expect("answered").into_inner();
    assert_eq!(status.state(), transaction_status::State::Unknown);

    let proof = client.prove(ProveRequest { id: reply.id }).await.expect("proved").into_inner();
    let tip = client.tip(TipRequest { linearizable: true }).await.expect("answered").into_inner();
    assert_eq!((proof.payload.as_ref(), &proof.block_hash, tip.height), (&b"payload"[..], &tip.hash, 1));
    let missing = client.prove(ProveRequest { id: "nobody".into() }).await.expect_err("not there");
    assert_eq!(said(missing), (Code::NotFound, "transaction 6e6f626f6479 is not in the chain".to_owned()));

    for (block, code) in [
        (Some(get_block_request::Block::Number(0)), Code::InvalidArgument),
        (Some(get_block_request::Block::Number(2)), Code::NotFound),
        (None, Code::InvalidArgument),
    ] {
        assert_eq!(client.get_block(GetBlockRequest { block }).await.expect_err("not there").code(), code);
    }
    let newest = GetBlockRequest { block: Some(get_block_request::Block::Newest(true)) };
    assert_eq!(client.get_block(newest).await.expect("there").into_inner().hash, tip.hash);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_measures_its_disk_its_proposals_its_reads_and_its_readers() {
    let cluster = alone("").await;
    let server = &cluster.servers[0];
    let mut client = ordering(server).await;
    for n in 0..3 {
        client.submit(submission(format!("m{n}").as_bytes(), b"x")).await.expect("committed");
    }
    server.chain().read_index().await.expect("it leads alone");
    let mut blocks = client.deliver(DeliverRequest::default()).await.expect("opens").into_inner();
    blocks.message().await.expect("no error").expect("a block");
    let ops = server.config().listen.ops;
    let at_least = async |series: &str, least: f64| {
        while metric(ops, series).await.is_none_or(|value| value < least) {
            tokio::task::yield_now().await;
        }
    };
    at_least("consensus_raft_commit_duration_seconds_count{chain=\"main\"}", 3.0).await;
    at_least("consensus_raft_apply_duration_seconds_count{chain=\"main\"}", 3.0).await;
    at_least("consensus_raft_reads_total{chain=\"main\"}", 1.0).await;
    at_least("consensus_ordering_deliver_streams_opened_total{chain=\"main\"}", 1.0).await;
    at_least("consensus_raft_role{chain=\"main\",role=\"leader\"}", 1.0).await;
    at_least("consensus_storage_free_bytes", 1.0).await;
    at_least("consensus_storage_wal_bytes", 1.0).await;
    at_least("consensus_storage_write_size_bytes_count", 3.0).await;
    at_least("consensus_runtime_busy_seconds_total", 0.001).await;
    assert_eq!(metric(ops, "consensus_raft_reads_pending{chain=\"main\"}").await, Some(0.0));
    let age = metric(ops, "consensus_raft_round_age_seconds{chain=\"main\"}").await.expect("is there");
    assert!((0.0..60.0).contains(&age), "{age}");
    cluster.stop().await;
}
