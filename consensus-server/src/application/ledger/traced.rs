//! The sampled frames and blocks of one ledger's leader.
//!
//! A sampled frame has a span, `order`, from its arrival in the pipeline to its outcome; a block that got a
//! transaction of one is sampled too and has the span `block`, the first of its own trace, from the cut until it
//! is applied. The two link to each other. What else happens to the block is noted by the driver and by all nodes
//! ([`BlockTraces`]), which know it by the context of its entry.
//!
//! Nothing is kept or looked up for a transaction: a frame is found again by the ordinals of its transactions in the
//! pipeline. Without a sampled frame every verb ends at an empty collection.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use consensus_core::ids::Ticket;
use consensus_core::ledger::{AppliedEntry, Batch};

use crate::telemetry::trace::{BlockTraces, Span, TraceContext, Tracer};

/// Sampled frames without an outcome; further ones are not followed.
const FRAMES_MAX: usize = 1024;

/// Names a sampled frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FrameKey(u64);

/// A sampled frame's transactions that are not in a block yet.
#[derive(Debug)]
struct Queued {
    ordinals: Range<u64>,
    key: FrameKey,
}

/// What is sampled.
#[derive(Debug)]
pub(super) struct Traced {
    traces: BlockTraces,
    tracer: Tracer,
    frames: HashMap<FrameKey, Span>,
    next_key: u64,
    /// In the order of their ordinals.
    queued: VecDeque<Queued>,
    blocks: HashMap<Ticket, Span>,
}

impl Traced {
    pub(super) fn new(traces: BlockTraces) -> Self {
        let (tracer, frames, blocks) = (traces.tracer(), HashMap::new(), HashMap::new());
        Self { traces, tracer, frames, next_key: 0, queued: VecDeque::new(), blocks }
    }

    /// A frame is about to enter the pipeline; named if it is sampled.
    pub(super) fn arrived(&mut self, above: Option<TraceContext>, transactions: usize) -> Option<FrameKey> {
        let above = above.filter(|_| self.frames.len() < FRAMES_MAX)?;
        let span = self.tracer.child("order", Some(above))?;
        let key = FrameKey(self.next_key);
        self.next_key += 1;
        self.frames.insert(key, span.with("consensus.transactions", transactions as i64));
        Some(key)
    }

    /// These of its transactions were taken.
    pub(super) fn queued(&mut self, key: FrameKey, ordinals: Range<u64>) {
        if !ordinals.is_empty() {
            self.queued.push_back(Queued { ordinals, key });
        }
    }

    /// A batch becomes a proposal; returns what the proposal carries along: nothing unless it is sampled.
    pub(super) fn cut(&mut self, ticket: Ticket, batch: &Batch) -> Bytes {
        if self.queued.is_empty() {
            return Bytes::new();
        }
        let end = batch.first_ordinal + batch.transactions.len() as u64;
        let mut block: Option<Span> = None;
        while let Some(Queued { ordinals, key }) = self.queued.front()
            && ordinals.start < end
        {
            // Frames whose transactions were never proposed are passed over.
            let in_batch = ordinals.end > batch.first_ordinal;
            if let Some(frame) = self.frames.get_mut(key).filter(|_| in_batch) {
                block = block.or_else(|| self.tracer.root("block"));
                if let Some(block) = &mut block {
                    block.link(frame.context());
                    frame.link(block.context());
                }
            }
            if ordinals.end > end {
                break;
            }
            self.queued.pop_front();
        }
        let Some(block) = block else { return Bytes::new() };
        let context = block.context();
        self.traces.proposed(context, SystemTime::now());
        self.blocks.insert(ticket, block.with("consensus.transactions", batch.transactions.len() as i64));
        context.to_bytes()
    }

    /// A proposal was applied.
    pub(super) fn applied(&mut self, ticket: Ticket, entry: &AppliedEntry) {
        let Some(mut block) = self.blocks.remove(&ticket) else { return };
        block.note("consensus.index", entry.index as i64);
        if let Some(made) = &entry.block {
            block.note("consensus.height", made.header.number as i64);
        }
        self.traces.settled(block.context());
    }

    /// A proposal came to nothing, or nobody here will know.
    pub(super) fn lost(&mut self, ticket: Ticket, why: impl std::fmt::Display) {
        let Some(mut block) = self.blocks.remove(&ticket) else { return };
        block.fail(why.to_string());
        self.traces.settled(block.context());
    }

    /// A frame has all its outcomes.
    pub(super) fn answered(&mut self, key: FrameKey) {
        self.frames.remove(&key);
    }

    /// The chain has halted: nothing that is queued will be proposed, and nothing that was will be heard of.
    pub(super) fn halted(&mut self) {
        self.queued.clear();
        for (_, mut block) in self.blocks.drain() {
            block.fail("the chain has halted on this node");
            self.traces.settled(block.context());
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::ledger::Transaction;
    use opentelemetry_sdk::trace::SpanData;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::telemetry::trace::{RATIO_ONE_PPM, tests::tracer};

    fn traced() -> (Traced, Receiver<SpanData>) {
        let (tracer, spans, _) = tracer(RATIO_ONE_PPM, 4096);
        (Traced::new(BlockTraces::new(&tracer, "main", |id| id.to_string())), spans)
    }

    /// A sampled frame whose transactions have these ordinals.
    fn frame(traced: &mut Traced, ordinals: Range<u64>) -> FrameKey {
        let above = traced.tracer.root("submit").map(|span| span.context());
        let key = traced.arrived(above, (ordinals.end - ordinals.start) as usize).expect("sampled");
        traced.queued(key, ordinals);
        key
    }

    fn batch(first_ordinal: u64, transactions: usize) -> Batch {
        Batch { number: 1, first_ordinal, transactions: vec![Transaction::default(); transactions] }
    }

    fn links(traced: &Traced, key: FrameKey) -> Vec<TraceContext> {
        traced.frames[&key].links()
    }

    fn block(traced: &Traced, ticket: u64) -> TraceContext {
        traced.blocks[&Ticket(ticket)].context()
    }

    #[test]
    fn a_block_is_sampled_if_a_frame_in_it_is() {
        let (mut traced, _spans) = traced();
        assert_eq!(traced.cut(Ticket(1), &batch(0, 10)), Bytes::new());
        let sampled = frame(&mut traced, 15..20);
        assert_eq!(traced.cut(Ticket(2), &batch(10, 5)), Bytes::new(), "before it");
        let context = traced.cut(Ticket(3), &batch(15, 5));
        assert_eq!(TraceContext::from_bytes(&context), Some(block(&traced, 3)));
        assert_eq!(links(&traced, sampled), [block(&traced, 3)]);
        assert_eq!(traced.blocks[&Ticket(3)].links(), [traced.frames[&sampled].context()]);
        assert_eq!(traced.cut(Ticket(4), &batch(20, 5)), Bytes::new(), "after it");
    }

    #[test]
    fn a_frame_in_several_blocks_links_to_each_and_several_frames_share_one() {
        let (mut traced, _spans) = traced();
        let (long, short) = (frame(&mut traced, 0..25), frame(&mut traced, 25..27));
        for ticket in 0..3 {
            traced.cut(Ticket(ticket), &batch(10 * ticket, 10));
        }
        assert_eq!(links(&traced, long), [0, 1, 2].map(|ticket| block(&traced, ticket)));
        assert_eq!(links(&traced, short), [block(&traced, 2)]);
        assert_eq!(traced.blocks[&Ticket(2)].links().len(), 2);
    }

    #[test]
    fn a_frame_that_was_never_proposed_is_in_no_block() {
        let (mut traced, _spans) = traced();
        frame(&mut traced, 0..5);
        assert_eq!(traced.cut(Ticket(1), &batch(5, 5)), Bytes::new());
        assert!(traced.queued.is_empty());
    }

    #[test]
    fn without_a_sampled_frame_above_nothing_is_kept() {
        let (mut traced, _spans) = traced();
        assert_eq!(traced.arrived(None, 5), None);
        let mut off = Traced::new(BlockTraces::off());
        let above = traced.tracer.root("submit").map(|span| span.context());
        assert_eq!(off.arrived(above, 5), None);
        for _ in 0..2 * FRAMES_MAX {
            traced.arrived(above, 1);
        }
        assert_eq!(traced.frames.len(), FRAMES_MAX);
    }

    #[test]
    fn spans_end_with_their_frame_and_their_block() {
        let (mut traced, mut spans) = traced();
        let key = frame(&mut traced, 0..5);
        assert_eq!(spans.try_recv().expect("ended").name, "submit");
        traced.cut(Ticket(1), &batch(0, 5));
        let entry = AppliedEntry { index: 7, block: None, skipped: Vec::new(), writes: Vec::new() };
        traced.applied(Ticket(1), &entry);
        assert_eq!(spans.try_recv().expect("ended").name, "block");
        traced.answered(key);
        assert_eq!(spans.try_recv().expect("ended").name, "order");
        let key = frame(&mut traced, 5..6);
        traced.cut(Ticket(2), &batch(5, 1));
        traced.lost(Ticket(2), "leadership was lost");
        let lost = std::iter::from_fn(|| spans.try_recv().ok()).find(|span| span.name == "block");
        let status = lost.expect("ended").status;
        assert_eq!(status, opentelemetry::trace::Status::error("leadership was lost"));
        traced.answered(key);
    }
}
