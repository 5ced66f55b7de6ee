//! Traces: what became of a submission and of its block, on every node, as OpenTelemetry spans.
//!
//! A submission is sampled where it arrives: as its caller says, else by the configured ratio. The block that a
//! sampled submission gets into has a trace of its own, which all nodes add to; the two link to each other. On a
//! CITA-Cloud chain the leader samples heights. Spans are made from times that were noted on the way
//! ([`BlockTraces`] for a chain's driver), so that without tracing, and for what is not sampled, a seam costs one
//! branch. Finished spans go through one bounded queue to the collector (`export`); nobody ever waits for it, and
//! while it is nearly full no new trace is begun: a collector that hangs costs no spans that nobody will see.
//!
//! What it does not do: log lines, metrics, or spans of the core's logic.

mod blocks;
mod context;
mod export;
mod tls;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanId, SpanKind, Status};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

pub use blocks::BlockTraces;
pub use context::{Parent, TRACE_BYTES, TraceContext};
pub use export::{Exporter, start_if_wanted, stop};

use super::metrics::TraceMetrics;

/// Links of one span at most; those beyond are counted in it.
pub const LINKS_MAX: usize = 32;
/// Attributes of one span at most.
const ATTRIBUTES_MAX: usize = 8;
/// No new trace is begun while less than this part of the queue is free: those that are have room for their spans.
const FREE_PART: usize = 4;
/// A ratio of one, in millionths.
pub const RATIO_ONE_PPM: u32 = 1_000_000;

/// Makes a process's spans, or none. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer {
    on: Option<Arc<Open>>,
}

#[derive(Debug)]
struct Open {
    ratio_ppm: u32,
    queue: mpsc::Sender<SpanData>,
    metrics: TraceMetrics,
    scope: InstrumentationScope,
}

impl Open {
    fn draws(&self) -> bool {
        if rand::random_range(0..RATIO_ONE_PPM) >= self.ratio_ppm {
            return false;
        }
        let has_room = self.queue.capacity() * FREE_PART >= self.queue.max_capacity();
        if !has_room {
            self.metrics.not_begun();
        }
        has_room
    }
}

impl Tracer {
    /// Makes no spans.
    pub fn off() -> Self {
        Self::default()
    }

    fn new(ratio_ppm: u32, queue: mpsc::Sender<SpanData>, metrics: TraceMetrics) -> Self {
        let scope =
            InstrumentationScope::builder("consensus").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { on: Some(Arc::new(Open { ratio_ppm, queue, metrics, scope })) }
    }

    /// Whether anything can be sampled at all.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Whether something that nobody above has decided about is sampled.
    fn draws(&self) -> bool {
        self.on.as_ref().is_some_and(|open| open.draws())
    }

    /// A span that begins now where a call enters this process: below its caller's if that is sampled, the first of
    /// a new trace if the caller says nothing and the ratio wants it.
    pub fn enter(&self, name: &'static str, parent: Parent) -> Option<Span> {
        if !self.is_on() {
            return None;
        }
        match parent {
            Parent::Sampled(above) => {
                self.child(name, Some(above)).map(|span| span.of_kind(SpanKind::Server))
            }
            Parent::None if self.draws() => self.root(name).map(|span| span.of_kind(SpanKind::Server)),
            Parent::None | Parent::Unsampled => None,
        }
    }

    /// The first span of a new trace if the ratio wants one: for what begins in this process.
    pub fn begin(&self, name: &'static str) -> Option<Span> {
        if self.draws() { self.root(name) } else { None }
    }

    /// The first span of a new trace, whatever the ratio.
    pub fn root(&self, name: &'static str) -> Option<Span> {
        self.span(name, TraceContext::root(), SpanId::INVALID)
    }

    /// A span that begins now below another one, if there is one above.
    pub fn child(&self, name: &'static str, above: Option<TraceContext>) -> Option<Span> {
        let above = above?;
        self.span(name, above.child(), above.span)
    }

    fn span(&self, name: &'static str, context: TraceContext, parent: SpanId) -> Option<Span> {
        let open = self.on.clone()?;
        let (kind, started) = (SpanKind::Internal, SystemTime::now());
        let (attributes, links) = (Vec::new(), SpanLinks::default());
        let status = Status::Unset;
        let state =
            State { open, name, kind, context, parent, started, ended: None, attributes, links, status };
        Some(Span(Box::new(state)))
    }
}

/// A span of a sampled trace. It ends when it is dropped, unless an end was noted before.
#[derive(Debug)]
pub struct Span(Box<State>);

#[derive(Debug)]
struct State {
    open: Arc<Open>,
    name: &'static str,
    kind: SpanKind,
    context: TraceContext,
    parent: SpanId,
    started: SystemTime,
    ended: Option<SystemTime>,
    attributes: Vec<KeyValue>,
    links: SpanLinks,
    status: Status,
}

impl Span {
    /// What others name as their parent, or link to.
    pub fn context(&self) -> TraceContext {
        self.0.context
    }

    fn of_kind(mut self, kind: SpanKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// It is a call to another process.
    #[must_use]
    pub fn calling(self) -> Self {
        self.of_kind(SpanKind::Client)
    }

    /// It began at another time.
    #[must_use]
    pub fn since(mut self, started: SystemTime) -> Self {
        self.0.started = started;
        self
    }

    /// Something that is known of it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.note(key, value);
        self
    }

    /// The same later.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if self.0.attributes.len() < ATTRIBUTES_MAX {
            self.0.attributes.push(KeyValue::new(key, value));
        }
    }

    /// It has to do with a span of another trace. Beyond [`LINKS_MAX`] links are only counted.
    pub fn link(&mut self, other: TraceContext) {
        let links = &mut self.0.links;
        if links.links.len() < LINKS_MAX {
            links.links.push(Link::with_context(other.to_span_context(true)));
        } else {
            links.dropped_count += 1;
        }
    }

    /// What it is linked to.
    #[cfg(test)]
    pub(crate) fn links(&self) -> Vec<TraceContext> {
        let context = |link: &Link| TraceContext {
            trace: link.span_context.trace_id(),
            span: link.span_context.span_id(),
        };
        self.0.links.iter().map(context).collect()
    }

    /// It came to nothing.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        self.0.status = Status::Error { description: why.into() };
    }

    /// It ended at this time.
    pub fn end_at(mut self, ended: SystemTime) {
        self.0.ended = Some(ended);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let state = &mut *self.0;
        let Ok(place) = state.open.queue.try_reserve() else {
            state.open.metrics.dropped_queue_full(1);
            return;
        };
        let ended = state.ended.unwrap_or_else(SystemTime::now);
        let data = SpanData {
            span_context: state.context.to_span_context(false),
            parent_span_id: state.parent,
            parent_span_is_remote: false,
            span_kind: state.kind.clone(),
            name: Cow::Borrowed(state.name),
            start_time: state.started,
            // The wall clock may be set back in between.
            end_time: ended.max(state.started),
            attributes: std::mem::take(&mut state.attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: std::mem::take(&mut state.links),
            status: std::mem::take(&mut state.status),
            instrumentation_scope: state.open.scope.clone(),
        };
        place.send(data);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    /// A tracer whose spans come out of a queue of this length.
    pub(crate) fn tracer(ratio_ppm: u32, queue: usize) -> (Tracer, mpsc::Receiver<SpanData>, Metrics) {
        let metrics = Metrics::new(1);
        let (sender, spans) = mpsc::channel(queue);
        let tracer = Tracer::new(ratio_ppm, sender, TraceMetrics::new(&metrics));
        (tracer, spans, metrics)
    }

    fn sampled() -> Parent {
        Parent::Sampled(TraceContext::root())
    }

    #[test]
    fn without_tracing_nothing_is_sampled_whatever_the_caller_says() {
        let tracer = Tracer::off();
        assert!(tracer.enter("submit", sampled()).is_none());
        assert!(tracer.root("block").is_none() && tracer.begin("height").is_none());
        assert!(tracer.child("sync", Some(TraceContext::root())).is_none());
    }

    #[test]
    fn the_callers_word_goes_before_the_ratio() {
        let (never, ..) = tracer(0, 8);
        assert!(never.enter("submit", sampled()).is_some());
        assert!(never.enter("submit", Parent::None).is_none());
        let (always, ..) = tracer(RATIO_ONE_PPM, 8);
        assert!(always.enter("submit", Parent::Unsampled).is_none());
        assert!(always.enter("submit", Parent::None).is_some());
    }

    #[test]
    fn the_ratio_is_about_the_share_that_is_sampled() {
        let (tracer, _spans, _metrics) = tracer(100_000, 8);
        let sampled = (0..20_000).filter(|_| tracer.draws()).count();
        assert!((1_600..2_400).contains(&sampled), "{sampled} of 20,000 at 10 %");
    }

    #[test]
    fn no_trace_is_begun_while_the_queue_is_nearly_full() {
        let (tracer, mut spans, metrics) = tracer(RATIO_ONE_PPM, 8);
        for filled in 0..=6 {
            assert!(tracer.draws(), "{filled} of 8");
            drop(tracer.root("block"));
        }
        assert!(tracer.begin("height").is_none() && tracer.enter("submit", Parent::None).is_none());
        let text = metrics.encode();
        assert!(text.contains("consensus_tracing_traces_not_begun_total 2"), "{text}");
        assert!(tracer.enter("submit", sampled()).is_some(), "what others have begun is gone on with");
        while spans.try_recv().is_ok() {}
        assert!(tracer.begin("height").is_some());
    }

    #[test]
    fn a_child_is_in_its_parents_trace_and_names_it() {
        let (tracer, mut spans, _metrics) = tracer(RATIO_ONE_PPM, 8);
        let block = tracer.root("block").expect("on");
        let above = block.context();
        drop(tracer.child("sync", Some(above)));
        let sync = spans.try_recv().expect("ended");
        assert_eq!((sync.span_context.trace_id(), sync.parent_span_id), (above.trace, above.span));
        drop(block);
        assert_eq!(spans.try_recv().expect("ended").parent_span_id, SpanId::INVALID);
    }

    #[test]
    fn links_beyond_their_bound_are_counted() {
        let (tracer, mut spans, _metrics) = tracer(RATIO_ONE_PPM, 8);
        let mut block = tracer.root("block").expect("on");
        for _ in 0..LINKS_MAX + 5 {
            block.link(TraceContext::root());
        }
        drop(block);
        let links = spans.try_recv().expect("ended").links;
        assert_eq!((links.links.len(), links.dropped_count), (LINKS_MAX, 5));
    }

    #[test]
    fn attributes_beyond_their_bound_are_left_out() {
        let (tracer, mut spans, _metrics) = tracer(RATIO_ONE_PPM, 8);
        let mut block = tracer.root("block").expect("on");
        for value in 0..ATTRIBUTES_MAX as i64 + 5 {
            block.note("consensus.index", value);
        }
        drop(block);
        assert_eq!(spans.try_recv().expect("ended").attributes.len(), ATTRIBUTES_MAX);
    }

    #[test]
    fn a_span_does_not_end_before_it_began_though_the_clock_was_set_back() {
        let (tracer, mut spans, _metrics) = tracer(RATIO_ONE_PPM, 8);
        let began = SystemTime::now();
        let before = began - std::time::Duration::from_secs(5);
        tracer.root("block").expect("on").since(began).end_at(before);
        let span = spans.try_recv().expect("ended");
        assert_eq!((span.start_time, span.end_time), (began, began));
    }

    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let (tracer, mut spans, metrics) = tracer(RATIO_ONE_PPM, 2);
        for _ in 0..5 {
            drop(tracer.root("block"));
        }
        assert_eq!(std::iter::from_fn(|| spans.try_recv().ok()).count(), 2);
        let text = metrics.encode();
        assert!(text.contains("consensus_tracing_spans_dropped_total{reason=\"queue-full\"} 3"), "{text}");
    }
}
