//! Random histories of rounds that replicas could write, and what a store shows of them.

use bytes::Bytes;
use consensus_core::ids::{ChainId, NodeId};
use consensus_core::storage::conformance::{entry, identity, members};
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{
    ApplicationWrite, Applied, ChainState, HardState, LogEntry, LogReader, LogWriter, PeerRecord, Position,
    Snapshot, WriteBatch,
};

/// SplitMix64: enough randomness for a test, from one number.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Within `from..=to`.
    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// Everything that can be read of a chain.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Contents {
    pub(crate) state: ChainState,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) peers: Vec<PeerRecord>,
    pub(crate) application: Vec<(Vec<u8>, Bytes)>,
}

pub(crate) fn contents<S: LogReader + LogWriter>(store: &S, chain: ChainId) -> Contents {
    let state = store.open_chain(chain).expect("a sound chain");
    let (from, to) = (state.truncated.index + 1, state.last.index + 1);
    let mut entries = Vec::new();
    while from + (entries.len() as u64) < to {
        let next = from + entries.len() as u64;
        entries.extend(store.entries(chain, next, to, 500).expect("kept entries"));
    }
    Contents {
        entries,
        peers: store.peers(chain).expect("readable"),
        application: store.application_records(chain, &[], &[0xff], usize::MAX).expect("readable"),
        state,
    }
}

/// A batch that a replica in this state could write.
pub(crate) fn batch(random: &mut Random, state: &ChainState, chain: ChainId) -> WriteBatch {
    let mut batch = WriteBatch::new(chain);
    batch.sync = random.one_in(3);
    let mut promised = state.hard_state;
    let mut end = state.last;
    let mut applied = state.applied.index;
    let mut base = state.truncated.index;
    if random.one_in(4) {
        let vote = random.within(0, 3);
        promised =
            HardState { term: promised.term + random.within(1, 2), vote: NodeId::new(vote), ..promised };
    }
    if random.one_in(25) && promised.term > 0 {
        let index = applied.max(promised.commit) + random.within(1, 40);
        end = Position { index, term: random.within(end.term.max(1), promised.term.max(end.term)) };
        batch.install = Some(Snapshot {
            position: end,
            conf_state: members(),
            data: Bytes::from(format!("snapshot {index}")),
        });
        (applied, base) = (index, index);
        promised.commit = promised.commit.max(index);
    } else if random.one_in(5) && end.index > promised.commit.max(applied) {
        let from = random.within(promised.commit.max(applied) + 1, end.index);
        batch.truncate_from = Some(from);
        promised = HardState { term: promised.term.max(end.term) + 1, vote: None, ..promised };
        end = Position { index: from - 1, term: promised.term };
        batch.entries.push(entry(from, promised.term));
        end.index = from;
    }
    if promised.term > 0 && !random.one_in(3) {
        let count = if random.one_in(10) { 150 } else { random.within(1, 6) };
        let term = random.within(end.term.max(1), promised.term.max(1));
        for index in end.index + 1..=end.index + count {
            batch.entries.push(entry(index, term));
        }
        end = Position { index: end.index + count, term };
    }
    if random.one_in(2) {
        promised.commit = random.within(promised.commit, end.index);
    }
    batch.hard_state = (promised != state.hard_state).then_some(promised);
    if random.one_in(3) && promised.commit > applied {
        applied = random.within(applied, promised.commit);
        batch.applied = Some(Applied { index: applied, conf_state: members() });
    }
    let compactable = state.applied.index.min(state.last.index);
    if random.one_in(8) && batch.install.is_none() && compactable > base {
        let index = random.within(base, compactable);
        let term = state.terms.iter().rev().find(|start| start.index <= index).map(|start| start.term);
        batch.compact_to = term.map(|term| Position { index, term });
    }
    batch.installed = batch.install.is_none() && random.one_in(6);
    beside_the_log(random, &mut batch, applied);
    batch
}

fn beside_the_log(random: &mut Random, batch: &mut WriteBatch, applied: u64) {
    if random.one_in(10) && batch.install.is_none() {
        let position = Position { index: applied, term: 1 };
        batch.snapshot = Some(Snapshot { position, conf_state: members(), data: Bytes::from_static(b"own") });
    }
    if random.one_in(6) {
        batch.peers.push(PeerRecord {
            node_id: NodeId::new(random.within(1, 4)).expect("not 0"),
            address: format!("node:{}", random.within(1, 9)),
            store_incarnation: None,
            last_heard_ms: random.next(),
            matched: 0,
            next: 0,
            progress: "unknown".to_owned(),
            connected: random.one_in(2),
            recorded_at_ms: random.next(),
        });
    }
    for _ in 0..random.within(0, 3) {
        let key = format!("key {}", random.within(1, 20)).into_bytes();
        let value = (!random.one_in(4)).then(|| Bytes::from(format!("value {}", random.next())));
        batch.application.push(ApplicationWrite { key, value });
    }
}

/// One round of both chains, the second one only sometimes, after what `memory` has.
pub(crate) fn draw(random: &mut Random, memory: &MemoryStore, chains: [ChainId; 2]) -> Vec<WriteBatch> {
    let mut round = Vec::new();
    for chain in chains {
        if chain == chains[0] || random.one_in(3) {
            let state = memory.visible_view(chain, |image| image.state()).expect("created");
            round.push(batch(random, &state, chain));
        }
    }
    round
}

pub(crate) fn create(store: &dyn LogWriter) -> [ChainId; 2] {
    ["main", "side"].map(|name| {
        store.create_chain(&identity(name), &members()).expect("a new chain");
        identity(name).chain_id()
    })
}
