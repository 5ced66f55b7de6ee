//! Clients' calls of the ordering service, from the frame on the connection to the answer: whole frames, frames
//! whose lengths lie, frames that are no message, and messages out of all bounds.
//!
//! Each call ends in time with an answer that fits its request or with a status that has words; which of the two
//! is reckoned here from the request alone. Memory stays within what frames may hold.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use consensus_core::limits::{Limits, TRANSACTION_ID_BYTES_MAX};
use consensus_proto::ordering::ordering_server::OrderingServer;
use consensus_proto::ordering::{
    Block, DeliverRequest, GetBlockRequest, GetTransactionRequest, Outcome, Proof, ProveRequest, SubmitBatch,
    SubmitBatchReply, SubmitReply, SubmitRequest, TipReply, TipRequest, get_block_request, outcome,
};
use consensus_proto::records::Transaction;
use consensus_server::application::ledger::LedgerOptions;
use consensus_server::config::Config;
use consensus_server::services::{OrderingService, client_message_bytes_max};
use consensus_server::telemetry::Metrics;
use consensus_server::telemetry::metrics::OrderingMetrics;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::codegen::Body as _;
use tonic::codegen::http::Request;
use tonic::server::NamedService;

use super::draws::Draws;
use super::heap::peak_of;
use super::rig::Node;

/// No call may last longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A fresh chain after so many inputs, so that it stays small.
const INPUTS_MAX: usize = 500;
/// Small bounds, so that they are met.
const CONFIG: &str = "[node]\nid = 1\ncluster = 'fuzz'\n[limits]\nentry_bytes_max = 65536\n\
    append_bytes_max = 16384\nstream_frames_max = 4\n[block]\nabsolute_bytes = 32768\n\
    preferred_bytes = 8192\nmessages_max = 100\n[security]\ninsecure = true\n";
/// Transactions that wait for a block or an answer.
const POOL_TRANSACTIONS: usize = 400;

/// What runs came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    /// Transactions.
    pub(crate) committed: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.answered += other.answered;
        self.refused += other.refused;
        self.committed += other.committed;
    }
}

/// A node that leads its chain, and its service.
struct Served {
    node: Node,
    server: OrderingServer<OrderingService>,
    bytes_max: usize,
}

/// How a call ended.
struct Answer {
    frames: Vec<Bytes>,
    code: Code,
    words: String,
}

impl Served {
    fn start(text: &str) -> Self {
        let config = Config::parse(text, "fuzz", ".".as_ref()).expect("valid");
        let mut options = LedgerOptions {
            queue_transactions_max: POOL_TRANSACTIONS,
            queue_bytes_max: config.queues.pool_bytes_max,
            ..LedgerOptions::default()
        };
        options.pipeline.transactions_max = POOL_TRANSACTIONS as u64;
        let cutter = &mut options.pipeline.cutter;
        cutter.absolute_bytes = config.block.absolute_bytes;
        cutter.preferred_bytes = config.block.preferred_bytes;
        cutter.messages_max = config.block.messages_max as u32;
        let limits = Limits { ..config.limits.clone() };
        let node = Node::start(&[1], limits, options);
        node.lead();
        let bytes_max = client_message_bytes_max(&config);
        let metrics = OrderingMetrics::new(&Metrics::new(1), "main");
        let stop = CancellationToken::new();
        let service = OrderingService::new(node.ledger.clone(), &Arc::new(config), metrics, stop);
        let server = OrderingServer::new(service).max_decoding_message_size(bytes_max);
        Self { node, server, bytes_max }
    }

    /// Calls a method with the bytes of a request's body; no more frames of the answer are read than that, and
    /// none is waited for if there are none to come.
    fn call(&self, method: &str, body: Bytes, frames_max: usize) -> Answer {
        let path = format!("http://node/{}/{method}", OrderingServer::<OrderingService>::NAME);
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::from(body))
            .expect("a request");
        let answer = read(self.server.clone(), request, frames_max);
        let timed = self.node.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        timed.unwrap_or_else(|_| panic!("{method} has no answer within {PATIENCE:?}"))
    }
}

async fn read(
    mut server: OrderingServer<OrderingService>,
    request: Request<Body>,
    frames_max: usize,
) -> Answer {
    use tonic::codegen::Service;
    let response = server.call(request).await.expect("it cannot fail");
    let (head, mut body) = response.into_parts();
    let mut trailers = head.headers;
    let mut received = BytesMut::new();
    let mut frames = Vec::new();
    // The head has the status where there is no body.
    while trailers.get("grpc-status").is_none() && frames.len() < frames_max {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let Some(frame) = frame else { break };
        let frame = frame.unwrap_or_else(|error| panic!("the body ends with {error}"));
        match frame.into_data() {
            Ok(data) => received.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().expect("trailers"),
        }
        while received.len() >= 5 {
            let length = u32::from_be_bytes(received[1..5].try_into().expect("4 bytes")) as usize;
            assert_eq!(received[0], 0, "not compressed");
            if received.len() < 5 + length {
                break;
            }
            let _ = received.split_to(5);
            frames.push(received.split_to(length).freeze());
        }
    }
    // The words are percent-encoded in the header.
    let status = tonic::Status::from_header_map(&trailers);
    let code = status.as_ref().map_or(Code::Ok, tonic::Status::code);
    let words = status.map_or(String::new(), |status| status.message().to_owned());
    // That there is no such method is what the code says.
    assert!(matches!(code, Code::Ok | Code::Unimplemented) || !words.is_empty(), "{code:?} without a word");
    Answer { frames, code, words }
}

/// A message in its frame.
fn framed(message: &impl Message) -> Bytes {
    frame(0, message.encoded_len() as u32, &message.encode_to_vec())
}

fn frame(compressed: u8, length: u32, bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + bytes.len());
    framed.put_u8(compressed);
    framed.put_u32(length);
    framed.put_slice(bytes);
    framed.freeze()
}

/// The service under fuzz.
pub(crate) struct Target {
    served: Served,
    inputs: usize,
}

impl Target {
    pub(crate) fn new() -> Self {
        Self { served: Served::start(CONFIG), inputs: 0 }
    }

    /// Calls until the bytes are used up.
    pub(crate) fn run(&mut self, bytes: &[u8]) -> Report {
        self.inputs += 1;
        if self.inputs > INPUTS_MAX {
            *self = Self::new();
        }
        let mut report = Report::default();
        let mut draws = Draws::new(bytes);
        while !draws.is_empty() {
            report.requests += 1;
            self.request(&mut draws, &mut report);
        }
        let status = self.served.node.chain().status();
        assert_eq!(status.halted, None);
        report
    }

    fn call(&self, method: &str, body: Bytes, frames_max: usize) -> Answer {
        // Blocks and answers beside the frames, which are a few; and the body, which comes in one piece here and is
        // copied by who cuts it into frames.
        let bound = 64 * self.served.bytes_max + (4 << 20) + 3 * body.len();
        let (answer, heap) = peak_of(|| self.served.call(method, body, frames_max));
        assert!(heap <= bound, "{method} took {heap} bytes of memory, more than {bound}");
        answer
    }

    fn request(&self, draws: &mut Draws<'_>, report: &mut Report) {
        // What was only accepted is in the chain before the next call.
        let drained = self.served.node.ledger.drained(PATIENCE);
        assert!(self.served.node.runtime.block_on(drained), "transactions wait for ever");
        let method = draws.below(9);
        if draws.chance(48) {
            return self.broken(draws, report);
        }
        match method {
            0 => self.submit(draws, report),
            1..=3 => self.submit_stream(draws, report),
            4 => self.deliver(draws, report),
            5 => self.block(draws, report),
            6 => self.transaction(draws, report),
            7 => self.prove(draws, report),
            _ => {
                let request = TipRequest { linearizable: draws.chance(128) };
                let answer = self.call("Tip", framed(&request), usize::MAX);
                one::<TipReply>(answer).expect("the tip");
                report.answered += 1;
            }
        }
    }

    /// Frames that lie, and bytes that are no message: an answer by chance, or a refusal.
    fn broken(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let methods = ["Submit", "SubmitStream", "GetBlock", "GetTransaction", "Tip", "Prove", "Nothing"];
        let method = draws.pick(&methods);
        let mut body = BytesMut::new();
        for _ in 0..=draws.below(3) {
            let transactions = (0..draws.below(4)).map(|_| transaction(draws)).collect();
            let batch = SubmitBatch { sequence: draws.number(), transactions, acknowledgement: 1 };
            let mut bytes = if draws.chance(96) { draws.bytes().to_vec() } else { batch.encode_to_vec() };
            if !bytes.is_empty() && draws.chance(160) {
                let at = draws.number() as usize % bytes.len();
                bytes[at] = draws.byte();
            }
            let whole = bytes.len() as u32;
            let length = match draws.below(8) {
                0 => draws.number() as u32,
                1 => whole + 1,
                2 => whole.saturating_sub(1),
                3 => self.served.bytes_max as u32 + 1,
                _ => whole,
            };
            let compressed = if draws.chance(24) { draws.byte() } else { 0 };
            body.extend_from_slice(&frame(compressed, length, &bytes));
        }
        if draws.chance(64) {
            body.truncate(draws.below(body.len().min(256)));
        }
        let answer = self.call(method, body.freeze(), usize::MAX);
        if answer.code == Code::Ok { report.answered += 1 } else { report.refused += 1 }
    }

    fn submit(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let Transaction { id, payload } = transaction(draws);
        let level = level(draws);
        let request = SubmitRequest { id, payload, acknowledgement: level };
        let valid = (0..=2).contains(&level) && self.is_valid(&request.id, &request.payload);
        match one::<SubmitReply>(self.call("Submit", framed(&request), usize::MAX)) {
            Ok(reply) => {
                assert!(valid, "taken: {request:?}");
                assert!(reply.outcome.is_some() && !reply.id.is_empty());
                assert!(request.id.is_empty() || reply.id == request.id);
                report.answered += 1;
                report.committed += 1;
            }
            Err((Code::OutOfRange, _)) if request.encoded_len() > self.served.bytes_max => {
                report.refused += 1
            }
            Err((code, words)) => {
                assert!(!valid, "{code:?} {words}: {request:?}");
                self.is_told(code, &words, &["acknowledgement", "payload", "id", "transaction"]);
                report.refused += 1;
            }
        }
    }

    /// A transaction that fits into the chain. One without an id has that of its payload.
    fn is_valid(&self, id: &[u8], payload: &[u8]) -> bool {
        let id_bytes = if id.is_empty() { 32 } else { id.len() };
        let bytes = id_bytes + payload.len();
        !payload.is_empty() && id_bytes <= TRANSACTION_ID_BYTES_MAX && bytes <= 32_768
    }

    fn is_told(&self, code: Code, words: &str, names: &[&str]) {
        assert_eq!(code, Code::InvalidArgument, "{words}");
        assert!(names.iter().any(|name| words.contains(name)), "what it is about: {words}");
    }

    fn submit_stream(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let mut body = BytesMut::new();
        let mut batches: Vec<SubmitBatch> = Vec::new();
        let mut wrong = false;
        for _ in 0..=draws.below(6) {
            let count = draws.pick(&[0, 1, 1, 2, 5, 30, 300, 900]);
            let mut transactions: Vec<Transaction> = Vec::new();
            for _ in 0..count {
                // Many are alike, or the input would not last.
                let same = transactions.last().filter(|_| transactions.len() >= 3).cloned();
                transactions.push(same.unwrap_or_else(|| transaction(draws)));
            }
            let acknowledgement = level(draws);
            let batch = SubmitBatch { sequence: draws.number(), transactions, acknowledgement };
            let framed = framed(&batch);
            body.extend_from_slice(&framed);
            let told = (0..=2).contains(&acknowledgement) && framed.len() - 5 <= self.served.bytes_max;
            wrong |= !told;
            if !wrong {
                batches.push(batch);
            }
        }
        let answer = self.call("SubmitStream", body.freeze(), usize::MAX);
        match (wrong, answer.code) {
            (false, Code::Ok) => {}
            (true, Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted) => report.refused += 1,
            (_, code) => panic!("{code:?}: {}, a frame was wrong: {wrong}", answer.words),
        }
        assert_eq!(answer.frames.len(), batches.len(), "one answer for each frame before the wrong one");
        for bytes in answer.frames {
            let reply = SubmitBatchReply::decode(bytes).expect("a reply");
            let of = batches.iter().position(|batch| batch.sequence == reply.sequence && fits(batch, &reply));
            batches.swap_remove(of.unwrap_or_else(|| panic!("the reply of no frame: {reply:?}")));
            report.committed += reply.outcomes.iter().map(committed).sum::<u64>();
            report.answered += 1;
        }
    }

    fn deliver(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let tip = self.served.node.ledger.tip().height;
        let from = draws.near(&[0, 1, 2, 3, 4]) as i32;
        let number = if from == 3 || draws.chance(32) { draws.near(&[1, tip]) } else { 0 };
        let to = if draws.chance(128) { 0 } else { draws.near(&[1, tip]) };
        let request = DeliverRequest {
            from,
            number,
            to,
            fail_if_not_ready: draws.chance(64),
            headers_only: draws.chance(64),
        };
        let first = match from {
            0 | 1 => 1,
            2 => tip.max(1),
            3 => number,
            4 => tip + 1,
            _ => u64::MAX,
        };
        let last = if to == 0 { u64::MAX } else { to };
        let is_right = (0..=4).contains(&from)
            && (from == 3 || number == 0)
            && (1..=tip + 1).contains(&first)
            && first <= last;
        let there = if is_right { (last.min(tip) + 1).saturating_sub(first) } else { 0 };
        if is_right && there == 0 && !request.fail_if_not_ready {
            // It waits for a block, so a reader would, too.
            return;
        }
        let answer = self.call("Deliver", framed(&request), there.clamp(1, 5) as usize);
        if !is_right {
            assert!(
                matches!(answer.code, Code::InvalidArgument | Code::NotFound),
                "{:?} {request:?}",
                answer.code
            );
            assert!(["from", "number", "to", "block"].iter().any(|name| answer.words.contains(name)));
            report.refused += 1;
            return;
        }
        report.answered += 1;
        for (bytes, height) in answer.frames.into_iter().zip(first..) {
            let block = Block::decode(bytes).expect("a block");
            assert_eq!(block.header.expect("a header").number, height, "{request:?}");
            let count = if request.headers_only { 0 } else { block.transaction_count as usize };
            assert_eq!(block.transactions.len(), count);
        }
        if there == 0 {
            assert_eq!(answer.code, Code::NotFound, "{request:?} at {tip}");
        }
    }

    fn block(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let tip = self.served.node.ledger.tip().height;
        let block = match draws.below(4) {
            0 => None,
            1 => Some(get_block_request::Block::Newest(draws.chance(128))),
            _ => Some(get_block_request::Block::Number(draws.near(&[1, tip]))),
        };
        let wanted = match block {
            None => 0,
            Some(get_block_request::Block::Newest(_)) => tip,
            Some(get_block_request::Block::Number(number)) => number,
        };
        match one::<Block>(self.call("GetBlock", framed(&GetBlockRequest { block }), usize::MAX)) {
            Ok(found) => {
                assert_eq!(found.header.expect("a header").number, wanted);
                report.answered += 1;
            }
            Err((code, words)) => {
                assert!(wanted == 0 || wanted > tip, "{code:?} {words}: {block:?} at {tip}");
                assert!(matches!(code, Code::InvalidArgument | Code::NotFound) && words.contains(['b', 'n']));
                report.refused += 1;
            }
        }
    }

    fn transaction(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let id = transaction(draws).id;
        let is_id = (1..=TRANSACTION_ID_BYTES_MAX).contains(&id.len());
        let answer = self.call("GetTransaction", framed(&GetTransactionRequest { id }), usize::MAX);
        if is_id {
            assert_eq!((answer.code, answer.frames.len()), (Code::Ok, 1), "{}", answer.words);
            report.answered += 1;
        } else {
            self.is_told(answer.code, &answer.words, &["id of"]);
            report.refused += 1;
        }
    }

    fn prove(&self, draws: &mut Draws<'_>, report: &mut Report) {
        let id = transaction(draws).id;
        let is_id = (1..=TRANSACTION_ID_BYTES_MAX).contains(&id.len());
        match one::<Proof>(self.call("Prove", framed(&ProveRequest { id: id.clone() }), usize::MAX)) {
            Ok(proof) => {
                assert!(is_id && proof.id == id && proof.index < proof.transactions);
                report.answered += 1;
            }
            Err((Code::NotFound, words)) => {
                assert!(is_id && words.contains("transaction"), "{words}");
                report.refused += 1;
            }
            Err((code, words)) => {
                assert!(!is_id);
                self.is_told(code, &words, &["id of"]);
                report.refused += 1;
            }
        }
    }
}

/// The only message of an answer, or its status.
fn one<T: Message + Default>(answer: Answer) -> Result<T, (Code, String)> {
    if answer.code != Code::Ok {
        return Err((answer.code, answer.words));
    }
    assert_eq!(answer.frames.len(), 1, "one message");
    Ok(T::decode(&*answer.frames[0]).expect("an answer that can be read"))
}

/// An id of few there are, so that some come twice, and a payload around the bounds.
fn transaction(draws: &mut Draws<'_>) -> Transaction {
    let id = match draws.below(8) {
        0 => Bytes::new(),
        1 => vec![draws.byte(); draws.pick(&[63, 64, 65, 255])].into(),
        _ => vec![draws.byte()].into(),
    };
    let payload = match draws.below(16) {
        0 => Bytes::new(),
        1 => vec![7; draws.pick(&[32_766, 32_767, 32_768, 40_000, 90_000])].into(),
        _ => draws.bytes(),
    };
    Transaction { id, payload }
}

fn level(draws: &mut Draws<'_>) -> i32 {
    if draws.chance(12) { draws.number() as i32 } else { draws.pick(&[0, 1, 2]) }
}

/// As many outcomes as transactions, and refusals with words.
fn fits(batch: &SubmitBatch, reply: &SubmitBatchReply) -> bool {
    let told = reply.outcomes.iter().all(|outcome| match &outcome.outcome {
        Some(outcome::Outcome::Refused(refused)) => !refused.message.is_empty(),
        Some(outcome::Outcome::Committed(committed)) => committed.height > 0,
        Some(outcome::Outcome::Accepted(_)) => true,
        None => false,
    });
    let count: u64 = reply.outcomes.iter().map(|outcome| u64::from(outcome.count)).sum();
    told && count == batch.transactions.len() as u64
}

fn committed(outcome: &Outcome) -> u64 {
    match &outcome.outcome {
        Some(outcome::Outcome::Committed(_)) => outcome.count.into(),
        Some(outcome::Outcome::Accepted(_) | outcome::Outcome::Refused(_)) | None => 0,
    }
}

/// A frame as large as may be that holds as many things as it can.
pub(crate) fn many_small_things() {
    let served = Served::start(
        "[node]\nid = 1\ncluster = 'fuzz'\n[block]\nabsolute_bytes = 32768\npreferred_bytes = 8192\n\
         [security]\ninsecure = true\n",
    );
    // An empty transaction, as one field of the message.
    let bytes = [0x12, 0].repeat(served.bytes_max / 2);
    let (answer, heap) =
        peak_of(|| served.call("SubmitStream", frame(0, bytes.len() as u32, &bytes), usize::MAX));
    println!("{} bytes took {heap} bytes of memory", bytes.len());
    assert!(heap <= 8 * bytes.len() + (16 << 20), "{heap} bytes of memory for {} bytes", bytes.len());
    assert_eq!(answer.code, Code::InvalidArgument, "{}", answer.words);
    assert!(answer.words.contains("transactions"), "{}", answer.words);
}
