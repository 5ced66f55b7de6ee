//! Stories of the context that a proposal brings along.

use super::*;
use crate::limits::ENTRY_CONTEXT_BYTES_MAX;
use crate::storage::LogEntry;

/// The entry that a sole voter appends for a proposal.
fn appended(config: ReplicaConfig, data: Vec<u8>, context: &[u8]) -> LogEntry {
    let mut story = Story::with(1, &members(&[1], &[]), config);
    story.settle();
    story.ticks(25);
    story.settle();
    let context = Bytes::copy_from_slice(context);
    let proposal = Proposal { context, ..Proposal::new(Ticket(1), data.into()) };
    story.event(Event::Propose { proposals: vec![proposal] });
    story.settle();
    assert!(matches!(story.answer(1), Some(Outcome::Applied { .. })), "{:?}", story.answers);
    let last = story.status().last;
    let id = identity(1).chain_id();
    let entries = story.store.entries(id, last, last + 1, u64::MAX).expect("it is readable");
    entries.into_iter().next().expect("it is in the log")
}

#[test]
fn a_context_is_in_the_log_beside_its_entry() {
    let entry = appended(config(), b"block".to_vec(), b"where it belongs");
    assert_eq!((&entry.data[..], &entry.context[..]), (&b"block"[..], &b"where it belongs"[..]));
}

#[test]
fn an_entry_without_a_context_has_an_empty_one() {
    assert_eq!(appended(config(), b"block".to_vec(), b"").context, Bytes::new());
}

#[test]
fn a_context_beyond_its_bound_is_left_out_and_the_entry_is_taken() {
    let longest = [7; ENTRY_CONTEXT_BYTES_MAX];
    assert_eq!(appended(config(), b"block".to_vec(), &longest).context, Bytes::copy_from_slice(&longest));
    let longer = [7; ENTRY_CONTEXT_BYTES_MAX + 1];
    assert_eq!(appended(config(), b"block".to_vec(), &longer).context, Bytes::new());
}

/// A follower's gate would refuse the two together.
#[test]
fn a_context_that_does_not_fit_beside_the_largest_payload_is_left_out() {
    let largest = config().limits.entry_bytes_max as usize;
    assert_eq!(appended(config(), vec![1; largest], b"c").context, Bytes::new());
    assert_eq!(appended(config(), vec![1; largest - 1], b"c").context, Bytes::from_static(b"c"));
}
