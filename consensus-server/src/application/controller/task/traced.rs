//! The sampled heights of a CITA-Cloud chain, on this node.
//!
//! The leader samples a height when its block is due. The span `height`, the first of the trace, lasts until this
//! leader's own controller has the block; every call to a controller about the height, on any node, is a span
//! below it and tells the controller so in its headers. Other nodes learn of it from the candidate and from the
//! agreed entry. What the chain does with the entry is noted by the driver ([`BlockTraces`]).

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use consensus_core::ids::Ticket;

use crate::application::controller::desk::Call;
use crate::telemetry::trace::{BlockTraces, Span, TraceContext, Tracer};

/// Sampled heights that calls may still be about; the lowest is let go for another one.
const HEIGHTS_MAX: usize = 64;

/// What is sampled.
#[derive(Debug)]
pub(super) struct Traced {
    traces: BlockTraces,
    tracer: Tracer,
    own: Option<Own>,
    heights: BTreeMap<u64, TraceContext>,
}

/// The height that this node leads to a block.
#[derive(Debug)]
struct Own {
    span: Span,
    /// Known from the proposal on.
    height: Option<u64>,
    /// Its entry is in flight, or was agreed on.
    proposed: Option<Ticket>,
    agreed: bool,
}

impl Traced {
    pub(super) fn new(traces: &BlockTraces) -> Self {
        let (traces, tracer) = (traces.clone(), traces.tracer());
        Self { traces, tracer, own: None, heights: BTreeMap::new() }
    }

    /// The next block is due: its height may be sampled. An attempt before that came to nothing for the reason.
    pub(super) fn due(&mut self, trouble: Option<&str>) {
        self.failed(trouble.unwrap_or("the block came to nothing"));
        let own = |span| Own { span, height: None, proposed: None, agreed: false };
        self.own = self.tracer.begin("height").map(own);
    }

    /// The validators are asked about a candidate; returns what the letters say of its trace.
    pub(super) fn asked(&mut self, height: u64) -> Bytes {
        let Some(own) = &mut self.own else { return Bytes::new() };
        if own.height.is_none() {
            own.span.note("consensus.height", height as i64);
        }
        own.height = Some(height);
        let context = own.span.context();
        self.learn(height, context);
        context.to_bytes()
    }

    /// A candidate that another node leads is to be checked here.
    pub(super) fn candidate(&mut self, height: u64, trace: &[u8]) {
        self.note_height(height, trace);
    }

    /// The candidate becomes an entry; returns its context: nothing unless it is sampled.
    pub(super) fn proposed(&mut self, height: u64, ticket: Ticket) -> Bytes {
        let context = self.asked(height);
        if let Some(own) = &mut self.own {
            own.proposed = Some(ticket);
            self.traces.proposed(own.span.context(), SystemTime::now());
        }
        context
    }

    /// A proposal came to nothing.
    pub(super) fn proposal_failed(&mut self, ticket: Ticket, why: &str) {
        if self.own.as_ref().is_some_and(|own| own.proposed == Some(ticket)) {
            self.failed(why);
        }
    }

    /// Leadership is lost, or an attempt is over. A block that was agreed on comes all the same.
    pub(super) fn failed(&mut self, why: &str) {
        if let Some(Own { mut span, .. }) = self.own.take_if(|own| !own.agreed) {
            self.traces.settled(span.context());
            span.fail(why.to_owned());
        }
    }

    /// A block was agreed on, by an entry with this context.
    pub(super) fn agreed(&mut self, height: u64, index: u64, context: &[u8]) {
        self.note_height(height, context);
        let sampled = TraceContext::from_bytes(context);
        if let Some(own) = &mut self.own
            && sampled == Some(own.span.context())
        {
            own.agreed = true;
            own.span.note("consensus.index", index as i64);
            self.traces.settled(own.span.context());
        }
    }

    /// This node's controller has everything up to a height.
    pub(super) fn reached(&mut self, height: u64) {
        if self.heights.first_key_value().is_some_and(|(first, _)| *first <= height) {
            self.heights = self.heights.split_off(&(height + 1));
        }
        self.own.take_if(|own| own.proposed.is_some() && own.height.is_some_and(|own| own <= height));
    }

    /// The span of a call to this node's controller, if its height is sampled.
    pub(super) fn call(&self, method: &'static str, call: &Call) -> Option<Span> {
        let (above, height) = match call {
            Call::Ping => return None,
            Call::Fetch => (self.own.as_ref()?.span.context(), None),
            Call::Check { height, .. } | Call::Commit { height, .. } => {
                (*self.heights.get(height)?, Some(*height))
            }
        };
        let span = self.tracer.child(method, Some(above))?.calling();
        Some(match height {
            Some(height) => span.with("consensus.height", height as i64),
            None => span,
        })
    }

    fn note_height(&mut self, height: u64, trace: &[u8]) {
        match TraceContext::from_bytes(trace).filter(|_| self.tracer.is_on()) {
            Some(context) => self.learn(height, context),
            // Another block than the one that was known of.
            None => drop(self.heights.remove(&height)),
        }
    }

    fn learn(&mut self, height: u64, context: TraceContext) {
        self.heights.insert(height, context);
        if self.heights.len() > HEIGHTS_MAX {
            self.heights.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, Status};
    use opentelemetry_sdk::trace::SpanData;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::telemetry::trace::{RATIO_ONE_PPM, tests::tracer};

    fn traced(ratio_ppm: u32) -> (Traced, Receiver<SpanData>) {
        let (tracer, spans, _) = tracer(ratio_ppm, 64);
        (Traced::new(&BlockTraces::new(&tracer, "cita", |id| id.to_string())), spans)
    }

    fn check(height: u64) -> Call {
        Call::Check { height, data: Bytes::new() }
    }

    #[test]
    fn a_height_lasts_from_due_until_its_leaders_controller_has_the_block() {
        let (mut traced, mut spans) = traced(RATIO_ONE_PPM);
        traced.due(None);
        drop(traced.call("get_proposal", &Call::Fetch).expect("sampled"));
        let fetch = spans.try_recv().expect("ended");
        let letters = traced.asked(7);
        let context = traced.proposed(7, Ticket(1));
        assert_eq!(letters, context, "one trace");
        traced.agreed(7, 12, &context);
        // The answer to the ticket comes after what it led to.
        traced.proposal_failed(Ticket(1), "it had no effect");
        traced.reached(6);
        drop(traced.call("commit_block", &Call::Commit { height: 7, data: Bytes::new() }).expect("sampled"));
        let commit = spans.try_recv().expect("ended");
        assert!(spans.try_recv().is_err(), "under way");
        traced.reached(7);
        let height = spans.try_recv().expect("ended");
        assert_eq!((height.name.as_ref(), height.parent_span_id), ("height", SpanId::INVALID));
        assert_eq!(height.status, Status::Unset);
        for below in [fetch, commit] {
            assert_eq!(below.parent_span_id, height.span_context.span_id());
        }
        assert!(traced.call("check_proposal", &check(7)).is_none(), "it is let go");
    }

    #[test]
    fn an_attempt_that_comes_to_nothing_says_why() {
        let (mut traced, mut spans) = traced(RATIO_ONE_PPM);
        traced.due(None);
        traced.proposed(7, Ticket(1));
        traced.proposal_failed(Ticket(2), "another one");
        assert!(spans.try_recv().is_err());
        traced.proposal_failed(Ticket(1), "leadership was lost");
        assert_eq!(spans.try_recv().expect("ended").status, Status::error("leadership was lost"));
        traced.due(None);
        traced.due(Some("no quorum"));
        assert_eq!(spans.try_recv().expect("ended").status, Status::error("no quorum"));
    }

    #[test]
    fn a_node_that_does_not_lead_learns_of_a_trace_from_letters_and_entries() {
        let (mut traced, mut spans) = traced(0);
        let above = TraceContext::from_bytes(&[&[1][..], &[2; 24]].concat()).expect("is one");
        assert!(traced.call("check_proposal", &check(7)).is_none());
        traced.candidate(7, &above.to_bytes());
        drop(traced.call("check_proposal", &check(7)).expect("sampled"));
        assert_eq!(spans.try_recv().expect("ended").parent_span_id, SpanId::from_bytes([2; 8]));
        traced.agreed(7, 12, b"");
        assert!(traced.call("commit_block", &check(7)).is_none(), "another block was agreed on");
        traced.agreed(8, 13, &above.to_bytes());
        assert!(traced.call("commit_block", &check(8)).is_some());
        for height in 9..9 + 2 * HEIGHTS_MAX as u64 {
            traced.candidate(height, &above.to_bytes());
        }
        assert_eq!(traced.heights.len(), HEIGHTS_MAX);
    }

    #[test]
    fn a_height_that_is_not_sampled_carries_nothing() {
        let (mut traced, mut spans) = traced(0);
        traced.due(None);
        assert_eq!((traced.asked(7), traced.proposed(7, Ticket(1))), (Bytes::new(), Bytes::new()));
        assert!(traced.call("get_proposal", &Call::Fetch).is_none());
        traced.reached(7);
        assert!(spans.try_recv().is_err());
    }
}
