//! Where a span belongs: a trace and the span above, as W3C Trace Context names them.
//!
//! Only what is sampled has a [`TraceContext`]; what is not has none, so an unsampled block carries no byte and
//! costs no allocation. In the headers of a call it is the text `traceparent`, everywhere else (a log entry, a
//! forwarded frame, a letter) [`TRACE_BYTES`] bytes that begin with their version. What cannot be read is as if it
//! were not there: a mistake in a trace never refuses a transaction. `tracestate` is not carried.

use bytes::Bytes;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";
/// Version of the bytes, their first one.
const VERSION: u8 = 1;
/// Length of a context as bytes: version, trace id, span id.
pub const TRACE_BYTES: usize = 1 + 16 + 8;

const _: () = assert!(TRACE_BYTES <= consensus_core::limits::ENTRY_CONTEXT_BYTES_MAX);

/// A span of a sampled trace, to be the parent of others or linked from them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// What a caller says about the trace that its call belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Parent {
    /// Nothing, or nothing that can be read: this node decides.
    #[default]
    None,
    /// It is not sampled, so nothing that follows from it is.
    Unsampled,
    /// It is sampled.
    Sampled(TraceContext),
}

impl TraceContext {
    /// `None` for ids that W3C Trace Context reserves.
    fn new(trace: TraceId, span: SpanId) -> Option<Self> {
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span })
    }

    /// The first span of a new trace.
    pub(super) fn root() -> Self {
        // Zero is reserved.
        Self { trace: rand::random::<u128>().max(1).into(), span: span_id() }
    }

    /// A further span of the same trace.
    pub(super) fn child(self) -> Self {
        Self { span: span_id(), ..self }
    }

    pub(super) fn to_span_context(self, remote: bool) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, remote, TraceState::NONE)
    }

    /// As bytes.
    pub fn to_bytes(self) -> Bytes {
        let mut bytes = [VERSION; TRACE_BYTES];
        bytes[1..17].copy_from_slice(&self.trace.to_bytes());
        bytes[17..].copy_from_slice(&self.span.to_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    /// From bytes; `None` if there are none, or of a version or length that is not known.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, ids) = bytes.split_first()? else { return None };
        let (trace, span) = ids.split_first_chunk::<16>()?;
        Self::new(TraceId::from_bytes(*trace), SpanId::from_bytes(span.try_into().ok()?))
    }

    /// Puts itself into the headers of a call.
    pub fn to_metadata(self, metadata: &mut MetadataMap) {
        let text = format!("00-{}-{}-01", self.trace, self.span);
        let value = MetadataValue::try_from(text).expect("hexadecimal digits and hyphens are a valid header");
        metadata.insert(TRACEPARENT, value);
    }
}

fn span_id() -> SpanId {
    rand::random::<u64>().max(1).into()
}

impl Parent {
    /// From the headers of a call. Several parents are none.
    pub fn of_metadata(metadata: &MetadataMap) -> Self {
        let mut values = metadata.get_all(TRACEPARENT).iter();
        match (values.next().map(|value| value.to_str()), values.next()) {
            (Some(Ok(text)), None) => Self::parse(text).unwrap_or_default(),
            _ => Self::None,
        }
    }

    /// A `traceparent`: `VERSION-TRACE-SPAN-FLAGS` in lower case hexadecimal digits. Versions above 0 may have more
    /// behind it.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = *digits::<1>(version)?.first()?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (TraceId::from_bytes(digits(trace)?), SpanId::from_bytes(digits(span)?));
        let context = TraceContext::new(trace, span)?;
        let [flags] = digits(flags)?;
        Some(if flags & 1 == 1 { Self::Sampled(context) } else { Self::Unsampled })
    }
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn metadata(values: &[&'static str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(TRACEPARENT, MetadataValue::from_static(value));
        }
        metadata
    }

    #[test]
    fn a_context_is_the_same_after_bytes_and_headers() {
        let context = TraceContext::root();
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        let mut metadata = MetadataMap::new();
        context.to_metadata(&mut metadata);
        assert_eq!(Parent::of_metadata(&metadata), Parent::Sampled(context));
    }

    #[test]
    fn a_parent_says_whether_it_is_sampled() {
        let Parent::Sampled(context) = Parent::of_metadata(&metadata(&[SAMPLED])) else { panic!("sampled") };
        assert_eq!(context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span.to_string(), "b7ad6b7169203331");
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(Parent::of_metadata(&metadata(&[unsampled])), Parent::Unsampled);
        assert_eq!(Parent::of_metadata(&metadata(&[])), Parent::None);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(matches!(Parent::of_metadata(&metadata(&[later])), Parent::Sampled(_)));
    }

    #[test]
    fn a_malformed_parent_is_none() {
        for malformed in [
            "",
            "00",
            "garbage",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Parent::of_metadata(&metadata(&[malformed])), Parent::None, "{malformed:?}");
        }
        assert_eq!(Parent::of_metadata(&metadata(&[SAMPLED, SAMPLED])), Parent::None, "two of them");
    }

    #[test]
    fn bytes_of_another_version_or_length_are_no_context() {
        let bytes = TraceContext::root().to_bytes();
        assert_eq!(TraceContext::from_bytes(&[]), None);
        assert_eq!(TraceContext::from_bytes(&bytes[..TRACE_BYTES - 1]), None);
        assert_eq!(TraceContext::from_bytes(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(TraceContext::from_bytes(&[&[2], &bytes[1..]].concat()), None);
        assert_eq!(TraceContext::from_bytes(&[&[VERSION][..], &[0; 24]].concat()), None);
        // A membership change keeps its ticket there.
        assert_eq!(TraceContext::from_bytes(&7u64.to_be_bytes()), None);
    }
}
