//! What a chain's driver notes about sampled blocks, from the entry's first step on this node to the last.
//!
//! An entry whose context says that its block is sampled gets a [`Record`] when it is sent or written; the verbs below
//! note times in it and make the spans `propose`, `replicate` (for each peer), `sync`, `commit` and `apply` as they
//! end, all below the block's own span, which the proposing application makes. While no sampled block is under
//! way, a verb costs one load; without tracing, one branch.
//!
//! Nothing is decided here, and nothing of it is durable: after a restart, or for an entry that another one has
//! replaced, spans are missing and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use consensus_core::ids::NodeId;
use consensus_core::replica::CommittedEntry;
use consensus_core::storage::{EntryKind, WriteBatch};

use super::{Span, TraceContext, Tracer};

/// Sampled blocks under way on this node; the oldest is let go for a newer one.
const RECORDS_MAX: usize = 1024;
/// A peer that has not acknowledged an entry for so long gets a span that says so.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// One chain's sampled blocks on this node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BlockTraces {
    on: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    tracer: Tracer,
    chain: String,
    /// Names a node in spans.
    name: fn(u64) -> String,
    /// Records and announcements in the table.
    live: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    records: BTreeMap<u64, Record>,
    /// When the blocks that this node proposes began, until they are in its log.
    proposed: HashMap<[u8; 8], SystemTime>,
    /// Records of blocks that this node proposed and that are over: a peer that was not sent one in time, because it
    /// was being probed, gets it only after the others have committed it. Not counted as live.
    lately: BTreeMap<u64, Record>,
}

/// One sampled block's entry on this node.
#[derive(Debug)]
struct Record {
    term: u64,
    block: TraceContext,
    /// Number of the write that makes it durable, and when that was handed over.
    write: Option<(u64, SystemTime)>,
    synced: bool,
    committed: Option<SystemTime>,
    applied: bool,
    /// Peers that it was sent to and that have not acknowledged it.
    awaited: Vec<(NodeId, SystemTime)>,
    /// Those that have, or were waited for too long.
    acknowledged: Vec<NodeId>,
    /// This node proposed it.
    own: bool,
}

impl Record {
    fn is_over(&self) -> bool {
        self.applied && self.synced && self.awaited.is_empty()
    }

    /// Whether a peer that it is sent to now still belongs to its trace.
    fn goes_on(&self, term: u64, peer: NodeId, now: SystemTime) -> bool {
        let fresh = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < ACKNOWLEDGED_MAX);
        self.term == term && !self.acknowledged.contains(&peer) && self.committed.is_some_and(fresh)
    }
}

impl BlockTraces {
    /// Notes nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// For a chain; spans call nodes by `name`.
    pub fn new(tracer: &Tracer, chain: &str, name: fn(u64) -> String) -> Self {
        let on = tracer.is_on().then(|| {
            let (tracer, chain) = (tracer.clone(), chain.to_owned());
            Arc::new(Shared { tracer, chain, name, live: AtomicUsize::new(0), table: Mutex::default() })
        });
        Self { on }
    }

    /// The process's spans.
    pub fn tracer(&self) -> Tracer {
        self.on.as_ref().map_or_else(Tracer::off, |shared| shared.tracer.clone())
    }

    /// Whether anything can be sampled at all.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// The application proposes a block that is sampled and began at this time.
    pub fn proposed(&self, block: TraceContext, began: SystemTime) {
        let Some(shared) = &self.on else { return };
        let mut table = shared.lock();
        if table.proposed.len() < RECORDS_MAX {
            table.proposed.insert(block.span.to_bytes(), began);
        }
        shared.count(&table);
    }

    /// It was applied, or came to nothing.
    pub fn settled(&self, block: TraceContext) {
        let Some(shared) = &self.on else { return };
        let mut table = shared.lock();
        table.proposed.remove(&block.span.to_bytes());
        shared.count(&table);
    }

    /// An entry with this context leaves for a peer.
    pub(crate) fn sent(&self, peer: NodeId, index: u64, term: u64, context: &Bytes) {
        let Some(shared) = &self.on else { return };
        shared.on_sent(peer, index, term, context);
    }

    /// This write is handed over.
    pub(crate) fn appended(&self, batch: &WriteBatch) {
        let Some(shared) = &self.on else { return };
        let Some((first, last)) = batch.entries.first().zip(batch.entries.last()) else { return };
        if shared.is_idle() && batch.entries.iter().all(|entry| entry.context.is_empty()) {
            return;
        }
        let (mut table, now) = (shared.lock(), SystemTime::now());
        // What is written takes the place of everything from there on that it does not go on with.
        table.records.retain(|index, record| match index.checked_sub(first.index) {
            None => true,
            Some(at) => batch.entries.get(at as usize).unwrap_or(last).term == record.term,
        });
        for entry in batch.entries.iter().filter(|entry| entry.kind == EntryKind::Normal) {
            if let Some(record) = shared.touch(&mut table, entry.index, entry.term, &entry.context, now) {
                record.write = Some((batch.number, now));
                record.synced = false;
            }
        }
        shared.count(&table);
    }

    /// Whether a sampled block is under way: otherwise no peer's acknowledgement matters.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy().is_some()
    }

    /// A peer has everything up to `index`.
    pub(crate) fn acknowledged(&self, from: NodeId, index: u64) {
        let Some(shared) = self.busy() else { return };
        shared.on_acknowledged(from, index);
    }

    /// Writes up to `number` are durable.
    pub(crate) fn durable(&self, number: u64) {
        let Some(shared) = self.busy() else { return };
        let (mut table, now) = (shared.lock(), SystemTime::now());
        for (index, record) in &mut table.records {
            if let Some((write, since)) = record.write
                && write <= number
                && !record.synced
            {
                record.synced = true;
                shared.tell("sync", *index, record, since, now);
            }
        }
        shared.sweep(&mut table, now);
    }

    /// These are committed and handed to the application.
    pub(crate) fn committed(&self, entries: &[CommittedEntry]) {
        let Some(shared) = self.busy() else { return };
        let (mut table, now) = (shared.lock(), SystemTime::now());
        for CommittedEntry { entry, .. } in entries {
            if let Some(record) = table.records.get_mut(&entry.index) {
                record.committed = Some(now);
                let since = record.write.map_or(now, |(_, since)| since);
                shared.tell("commit", entry.index, record, since, now);
            }
        }
    }

    /// The application has taken everything up to `index`.
    pub(crate) fn applied(&self, index: u64) {
        let Some(shared) = self.busy() else { return };
        let (mut table, now) = (shared.lock(), SystemTime::now());
        for (index, record) in table.records.range_mut(..=index) {
            if let Some(since) = record.committed
                && !record.applied
            {
                shared.tell("apply", *index, record, since, now);
            }
            record.applied = true;
        }
        shared.sweep(&mut table, now);
    }

    /// A snapshot stands for everything up to `index`.
    pub(crate) fn replaced(&self, index: u64) {
        let Some(shared) = self.busy() else { return };
        let mut table = shared.lock();
        table.records = table.records.split_off(&(index + 1));
        shared.count(&table);
    }

    /// `Some` while a sampled block is under way.
    fn busy(&self) -> Option<&Shared> {
        self.on.as_deref().filter(|shared| !shared.is_idle())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    fn count(&self, table: &Table) {
        self.live.store(table.records.len() + table.proposed.len(), Ordering::Relaxed);
    }

    /// The record of an entry, made if its block is sampled.
    fn touch<'a>(
        &self,
        table: &'a mut Table,
        index: u64,
        term: u64,
        context: &Bytes,
        now: SystemTime,
    ) -> Option<&'a mut Record> {
        let block = TraceContext::from_bytes(context)?;
        if table.records.get(&index).is_none_or(|record| record.term != term) {
            if table.records.len() >= RECORDS_MAX {
                table.records.pop_first();
            }
            let mut record = Record {
                term,
                block,
                write: None,
                synced: false,
                committed: None,
                applied: false,
                awaited: Vec::new(),
                acknowledged: Vec::new(),
                own: false,
            };
            if let Some(began) = table.proposed.remove(&block.span.to_bytes()) {
                record.own = true;
                self.tell("propose", index, &record, began, now);
            }
            table.records.insert(index, record);
        }
        table.records.get_mut(&index)
    }

    fn on_sent(&self, peer: NodeId, index: u64, term: u64, context: &Bytes) {
        let (mut table, now) = (self.lock(), SystemTime::now());
        // What was applied long ago is sent again to a peer that lags: it has its span, or none.
        let known = table.records.contains_key(&index);
        if !known && !table.proposed.contains_key(&context_key(context)) {
            if table.lately.get(&index).is_none_or(|record| !record.goes_on(term, peer, now)) {
                return;
            }
            if let Some(record) = table.lately.remove(&index) {
                table.records.insert(index, record);
            }
        }
        if let Some(record) = self.touch(&mut table, index, term, context, now)
            && !record.acknowledged.contains(&peer)
            && record.awaited.iter().all(|(awaited, _)| *awaited != peer)
        {
            record.awaited.push((peer, now));
        }
        self.count(&table);
    }

    fn on_acknowledged(&self, peer: NodeId, upto: u64) {
        let (mut table, now) = (self.lock(), SystemTime::now());
        for (index, record) in table.records.range_mut(..=upto) {
            let Some(at) = record.awaited.iter().position(|(awaited, _)| *awaited == peer) else { continue };
            let (_, since) = record.awaited.swap_remove(at);
            record.acknowledged.push(peer);
            if let Some(span) = self.span("replicate", *index, record) {
                span.calling().with("consensus.peer", (self.name)(peer.get())).since(since).end_at(now);
            }
        }
        self.sweep(&mut table, now);
    }

    fn span(&self, name: &'static str, index: u64, record: &Record) -> Option<Span> {
        let span = self.tracer.child(name, Some(record.block))?;
        let (index, term) = (index as i64, record.term as i64);
        let span = span.with("consensus.chain", self.chain.clone());
        Some(span.with("consensus.index", index).with("consensus.term", term))
    }

    fn tell(&self, name: &'static str, index: u64, record: &Record, since: SystemTime, now: SystemTime) {
        if let Some(span) = self.span(name, index, record) {
            span.since(since).end_at(now);
        }
    }

    /// Lets go of what is over, and of peers that were waited for too long.
    fn sweep(&self, table: &mut Table, now: SystemTime) {
        for (index, record) in &mut table.records {
            let late = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= ACKNOWLEDGED_MAX);
            while let Some(at) = record.awaited.iter().position(|(_, since)| late(*since)) {
                let (peer, since) = record.awaited.swap_remove(at);
                record.acknowledged.push(peer);
                if let Some(span) = self.span("replicate", *index, record) {
                    let mut span = span.calling().with("consensus.peer", (self.name)(peer.get()));
                    span.fail(format!("not acknowledged within {} s", ACKNOWLEDGED_MAX.as_secs()));
                    span.since(since).end_at(now);
                }
            }
        }
        let over =
            table.records.extract_if(.., |_, record| record.is_over()).filter(|(_, record)| record.own);
        table.lately.extend(over);
        while table.lately.len() > RECORDS_MAX {
            table.lately.pop_first();
        }
        self.count(table);
    }
}

/// What an announced block is found by.
fn context_key(context: &Bytes) -> [u8; 8] {
    TraceContext::from_bytes(context).map_or([0; 8], |context| context.span.to_bytes())
}

#[cfg(test)]
mod tests {
    use consensus_core::ids::ChainId;
    use consensus_core::storage::LogEntry;
    use opentelemetry_sdk::trace::SpanData;
    use tokio::sync::mpsc::Receiver;

    use super::super::RATIO_ONE_PPM;
    use super::super::tests::tracer;
    use super::*;

    fn traces() -> (BlockTraces, Receiver<SpanData>) {
        let (tracer, spans, _) = tracer(RATIO_ONE_PPM, 4096);
        (BlockTraces::new(&tracer, "main", |id| id.to_string()), spans)
    }

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    fn entry(index: u64, term: u64, block: Option<TraceContext>) -> LogEntry {
        let context = block.map(TraceContext::to_bytes).unwrap_or_default();
        LogEntry { index, term, kind: EntryKind::Normal, context, data: Bytes::from_static(b"block") }
    }

    fn write(number: u64, entries: Vec<LogEntry>) -> WriteBatch {
        WriteBatch { number, entries, sync: true, ..WriteBatch::new(ChainId::derive("main", 1)) }
    }

    fn send(traces: &BlockTraces, to: u64, entry: &LogEntry) {
        traces.sent(node(to), entry.index, entry.term, &entry.context);
    }

    fn committed(entry: LogEntry) -> [CommittedEntry; 1] {
        [CommittedEntry { entry, ticket: None }]
    }

    /// Names of the spans that have ended, each with its peer if it has one.
    fn ended(spans: &mut Receiver<SpanData>, block: TraceContext) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(span) = spans.try_recv() {
            let ids = (span.span_context.trace_id(), span.parent_span_id);
            assert_eq!(ids, (block.trace, block.span), "below the block: {span:?}");
            let peer = span.attributes.iter().find(|attribute| attribute.key.as_str() == "consensus.peer");
            names.push(match peer {
                Some(peer) => format!("{} {}", span.name, peer.value),
                None => span.name.to_string(),
            });
        }
        names
    }

    fn live(traces: &BlockTraces) -> usize {
        traces.on.as_ref().expect("on").live.load(Ordering::Relaxed)
    }

    #[test]
    fn a_leaders_block_leaves_a_span_for_each_step_and_then_nothing() {
        let (traces, mut spans) = traces();
        let block = TraceContext::root();
        let sampled = entry(5, 2, Some(block));
        traces.proposed(block, SystemTime::now());
        send(&traces, 2, &sampled);
        send(&traces, 3, &sampled);
        assert_eq!(ended(&mut spans, block), ["propose"]);
        traces.appended(&write(7, vec![sampled.clone()]));
        traces.durable(6);
        assert!(ended(&mut spans, block).is_empty(), "an earlier write");
        traces.acknowledged(node(2), 4);
        assert!(ended(&mut spans, block).is_empty(), "an earlier entry");
        traces.acknowledged(node(2), 5);
        traces.durable(7);
        traces.committed(&committed(sampled.clone()));
        traces.applied(5);
        assert_eq!(ended(&mut spans, block), ["replicate 2", "sync", "commit", "apply"]);
        send(&traces, 2, &sampled);
        assert_eq!(live(&traces), 1, "the slower peer is waited for");
        traces.acknowledged(node(3), 6);
        traces.acknowledged(node(2), 6);
        assert_eq!(ended(&mut spans, block), ["replicate 3"]);
        assert_eq!(live(&traces), 0);
        // A peer that lags gets it again, long after.
        send(&traces, 3, &sampled);
        assert_eq!(live(&traces), 0);
    }

    #[test]
    fn a_peer_that_gets_a_block_after_the_others_have_committed_it_has_its_span_too() {
        let (traces, mut spans) = traces();
        let block = TraceContext::root();
        let sampled = entry(5, 2, Some(block));
        traces.proposed(block, SystemTime::now());
        send(&traces, 2, &sampled);
        traces.appended(&write(7, vec![sampled.clone()]));
        traces.durable(7);
        traces.acknowledged(node(2), 5);
        traces.committed(&committed(sampled.clone()));
        traces.applied(5);
        assert_eq!(ended(&mut spans, block), ["propose", "sync", "replicate 2", "commit", "apply"]);
        assert_eq!(live(&traces), 0);
        // Peer 3 was being probed.
        send(&traces, 3, &entry(5, 3, Some(block)));
        send(&traces, 2, &sampled);
        assert_eq!(live(&traces), 0, "another entry, or one that it has");
        send(&traces, 3, &sampled);
        traces.acknowledged(node(3), 5);
        assert_eq!(ended(&mut spans, block), ["replicate 3"]);
        send(&traces, 3, &sampled);
        assert_eq!(live(&traces), 0, "once");
        let shared = traces.on.as_ref().expect("on");
        for record in shared.lock().lately.values_mut() {
            record.committed = Some(SystemTime::now() - ACKNOWLEDGED_MAX);
        }
        send(&traces, 4, &sampled);
        assert_eq!(live(&traces), 0, "long after");
    }

    #[test]
    fn a_follower_notes_what_it_writes_and_applies() {
        let (traces, mut spans) = traces();
        let block = TraceContext::root();
        traces.appended(&write(1, vec![entry(4, 2, None), entry(5, 2, Some(block))]));
        traces.durable(1);
        traces.committed(&committed(entry(5, 2, Some(block))));
        traces.applied(5);
        assert_eq!(ended(&mut spans, block), ["sync", "commit", "apply"]);
        assert_eq!(live(&traces), 0);
    }

    #[test]
    fn what_is_not_sampled_is_not_noted() {
        let (traces, mut spans) = traces();
        let plain = entry(5, 2, None);
        send(&traces, 2, &plain);
        let mut change = entry(6, 2, Some(TraceContext::root()));
        change.kind = EntryKind::ConfChangeV2;
        let unknown = LogEntry { context: Bytes::from_static(b"of another kind"), ..entry(7, 2, None) };
        traces.appended(&write(1, vec![plain.clone(), change, unknown]));
        assert_eq!(live(&traces), 0);
        traces.durable(1);
        traces.committed(&committed(plain));
        traces.applied(7);
        assert!(spans.try_recv().is_err());
        BlockTraces::off().appended(&write(1, vec![entry(5, 2, Some(TraceContext::root()))]));
    }

    #[test]
    fn an_entry_that_another_one_replaces_leaves_no_further_span() {
        let (traces, mut spans) = traces();
        let block = TraceContext::root();
        traces.appended(&write(1, vec![entry(5, 2, Some(block)), entry(6, 2, Some(block))]));
        assert_eq!(live(&traces), 2);
        traces.appended(&write(2, vec![entry(5, 3, None)]));
        assert_eq!(live(&traces), 0);
        traces.durable(2);
        traces.committed(&committed(entry(5, 3, None)));
        traces.applied(6);
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_write_of_the_same_leader_keeps_what_was_sent_beyond_it() {
        let (traces, _spans) = traces();
        let (one, two) = (TraceContext::root(), TraceContext::root());
        let entries = [entry(5, 2, Some(one)), entry(6, 2, Some(two))];
        traces.proposed(one, SystemTime::now());
        traces.proposed(two, SystemTime::now());
        entries.iter().for_each(|entry| send(&traces, 2, entry));
        traces.appended(&write(1, vec![entries[0].clone()]));
        assert_eq!(live(&traces), 2);
    }

    #[test]
    fn a_peer_that_does_not_acknowledge_gets_a_span_that_says_so() {
        let (traces, mut spans) = traces();
        let block = TraceContext::root();
        let sampled = entry(5, 2, Some(block));
        traces.appended(&write(1, vec![sampled.clone()]));
        send(&traces, 2, &sampled);
        traces.durable(1);
        traces.committed(&committed(sampled));
        traces.applied(5);
        assert_eq!(ended(&mut spans, block), ["sync", "commit", "apply"]);
        let shared = traces.on.as_ref().expect("on");
        let later = SystemTime::now() + ACKNOWLEDGED_MAX;
        shared.sweep(&mut shared.lock(), later);
        let late = spans.try_recv().expect("ended");
        assert!(matches!(late.status, opentelemetry::trace::Status::Error { .. }), "{late:?}");
        assert_eq!(live(&traces), 0);
    }

    #[test]
    fn a_snapshot_takes_the_place_of_what_it_stands_for() {
        let (traces, _spans) = traces();
        let entries = (5..8).map(|index| entry(index, 2, Some(TraceContext::root()))).collect();
        traces.appended(&write(1, entries));
        traces.replaced(6);
        assert_eq!(live(&traces), 1);
    }

    #[test]
    fn no_more_blocks_are_followed_than_the_bound() {
        let (traces, _spans) = traces();
        for index in 1..=2 * RECORDS_MAX as u64 {
            traces.appended(&write(index, vec![entry(index, 1, Some(TraceContext::root()))]));
            traces.proposed(TraceContext::root(), SystemTime::now());
        }
        assert_eq!(live(&traces), 2 * RECORDS_MAX);
    }
}
