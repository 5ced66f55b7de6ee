//! A replica whose disk, application and peers are played by the test, and what must hold after each event.
//!
//! The disk is honest: what is handed to it is written, in order, and read back as written. So a halt is a
//! defect of the replica, whatever its peers say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use consensus_core::ids::{ChainId, Hash, NodeId, StoreIncarnation, Ticket};
use consensus_core::limits::Limits;
use consensus_core::replica::eraftpb::MessageType;
use consensus_core::replica::{
    Effect, Effects, Event, Message, Replica, ReplicaConfig, Report, SnapshotPolicy, Status,
};
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{ConfState, Identity, LogWriter, WriteBatch};

/// The node under test.
pub(crate) const ME: u64 = 1;

/// The replica and everything around it.
#[derive(Debug)]
pub(crate) struct Rig {
    replica: Replica,
    store: Arc<MemoryStore>,
    chain: ChainId,
    effects: Effects,
    writes: VecDeque<WriteBatch>,
    /// Given to the application and not taken: the highest.
    to_apply: Option<u64>,
    handed_out: u64,
    installing: Option<u64>,
    building: bool,
    /// Terms of the entries that the replica has written, to make messages that fit.
    pub(crate) terms: BTreeMap<u64, u64>,
    before: Status,
    /// Messages that the gate has refused, by reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) sent: Vec<Message>,
    /// Set if a change of membership was committed that contradicts the membership.
    pub(crate) halted: Option<String>,
    tickets: u64,
}

fn identity() -> Identity {
    Identity {
        cluster: "fuzz".to_owned(),
        chain: "main".to_owned(),
        chain_incarnation: 1,
        node_id: node(ME),
        store_incarnation: StoreIncarnation([1; 16]),
        genesis_hash: Hash([7; 32]),
        created_at_ms: 0,
    }
}

/// A node's id; 1 for 0, which no transport names as a sender.
pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id.max(1)).expect("not 0")
}

/// Small bounds, so that queues fill up and logs are compacted.
fn config() -> ReplicaConfig {
    let limits = Limits {
        entry_bytes_max: 1024,
        append_bytes_max: 1024,
        inflight_appends_max: 4,
        uncommitted_bytes_max: 2048,
        apply_bytes_max: 512,
        apply_backlog_bytes_max: 1024,
        unpersisted_rounds_max: 4,
        unpersisted_bytes_max: 2048,
        tail_bytes_max: 1024,
        inflight_proposals_max: 8,
        pending_reads_max: 8,
    };
    ReplicaConfig {
        seed: 7,
        snapshots: Some(SnapshotPolicy { every_entries: 8, keep_entries: 4 }),
        snapshot_timeout_ticks: 30,
        limits,
        ..ReplicaConfig::default()
    }
}

/// A quorum has agreed on a change of membership that cannot be made. No honest leader proposes one, and no
/// replica can go on without the others: halting is the rule, and the only one that peers can bring about.
fn is_agreed_nonsense(reason: &str) -> bool {
    let impossible = [
        "removed all voters",
        "config is already joint",
        "can't leave a non-joint config",
        "can't apply simple config change in joint config",
        "more than one voter changed",
    ];
    reason.starts_with("membership change at") && impossible.iter().any(|cause| reason.contains(cause))
}

impl Rig {
    /// A fresh replica in a chain of these members.
    pub(crate) fn new(voters: &[u64], learners: &[u64]) -> Self {
        let members =
            ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
        let store = Arc::new(MemoryStore::new());
        store.create_chain(&identity(), &members).expect("an empty store");
        let chain = identity().chain_id();
        let state = store.open_chain(chain).expect("just created");
        let replica = Replica::open(config(), state, store.clone()).expect("a fresh chain opens");
        let before = replica.status();
        Self {
            replica,
            store,
            chain,
            effects: Effects::new(),
            writes: VecDeque::new(),
            to_apply: None,
            handed_out: 0,
            installing: None,
            building: false,
            terms: BTreeMap::new(),
            before,
            refused: BTreeMap::new(),
            sent: Vec::new(),
            halted: None,
            tickets: 0,
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.replica.status()
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// An event and the end of its round.
    pub(crate) fn event(&mut self, event: Event) {
        self.replica.handle(event, &mut self.effects);
        self.flush();
    }

    /// An event whose round goes on.
    pub(crate) fn event_without_flush(&mut self, event: Event) {
        self.replica.handle(event, &mut self.effects);
        self.collect();
        self.check();
    }

    pub(crate) fn flush(&mut self) {
        self.replica.flush(&mut self.effects);
        self.collect();
        self.check();
    }

    pub(crate) fn peer(&mut self, message: Message) {
        self.event(Event::PeerMessage { from: node(message.from), message });
    }

    pub(crate) fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.event(Event::Tick);
        }
    }

    /// Makes the oldest write durable.
    pub(crate) fn persist_one(&mut self) {
        let Some(batch) = self.writes.pop_front() else { return };
        self.store.write(std::slice::from_ref(&batch)).expect("the shape of the log allows every write");
        if batch.sync {
            self.event(Event::Persisted { number: batch.number });
        }
    }

    pub(crate) fn persist(&mut self) {
        while !self.writes.is_empty() {
            self.persist_one();
        }
    }

    pub(crate) fn apply(&mut self) {
        if let Some(index) = self.to_apply.take() {
            self.event(Event::Applied { index });
        }
    }

    /// The application has taken a snapshot, or gives one.
    pub(crate) fn snapshots(&mut self) {
        if let Some(index) = self.installing.take() {
            self.event(Event::SnapshotInstalled { index });
        } else if std::mem::take(&mut self.building) {
            let index = self.status().applied;
            self.event(Event::SnapshotBuilt { index, data: Some(Bytes::from_static(b"state")) });
        }
    }

    /// Until disk and application have nothing to do.
    pub(crate) fn settle(&mut self) {
        while !self.writes.is_empty() || self.to_apply.is_some() || self.installing.is_some() {
            self.persist();
            self.apply();
            self.snapshots();
        }
    }

    /// The power fails with some writes not durable; what is on the disk then must open again.
    pub(crate) fn reopen(&self) {
        self.store.crash(0);
        let state = self.store.open_chain(self.chain).expect("an honest disk holds a chain");
        let reopened = Replica::open(config(), state, self.store.clone());
        assert!(reopened.is_ok(), "does not open again: {}", reopened.unwrap_err());
    }

    fn collect(&mut self) {
        let effects: Vec<Effect> = self.effects.drain().collect();
        for effect in effects {
            match effect {
                Effect::Send { messages } => self.on_send(messages),
                Effect::Persist { batch } => self.on_persist(batch),
                Effect::Apply { entries } => {
                    for committed in entries {
                        let index = committed.entry.index;
                        assert_eq!(index, self.handed_out + 1, "committed entries without a gap");
                        self.handed_out = index;
                        self.to_apply = Some(index);
                    }
                }
                Effect::BuildSnapshot => self.building = true,
                Effect::InstallSnapshot { snapshot } => {
                    self.handed_out = snapshot.position.index;
                    self.to_apply = None;
                    self.installing = Some(snapshot.position.index);
                }
                Effect::Halt { reason } if is_agreed_nonsense(&reason) => self.halted = Some(reason),
                Effect::Halt { reason } => panic!("halted on an honest disk: {reason}"),
                Effect::Report(Report::GateRefused { reason, .. }) => {
                    *self.refused.entry(reason).or_default() += 1;
                }
                Effect::Report(Report::StoreBehind { .. }) => {
                    *self.refused.entry("store behind").or_default() += 1;
                }
                Effect::Report(_)
                | Effect::RequestProposal { .. }
                | Effect::WithdrawRequest
                | Effect::Answer { .. } => {}
            }
        }
    }

    fn on_persist(&mut self, batch: WriteBatch) {
        if batch.install.is_some() {
            self.terms.clear();
        }
        if let Some(from) = batch.truncate_from {
            self.terms.split_off(&from);
        }
        self.terms.extend(batch.entries.iter().map(|entry| (entry.index, entry.term)));
        self.writes.push_back(batch);
    }

    /// Nothing may be said in a term that a power cut could make this replica forget.
    fn on_send(&mut self, messages: Vec<Message>) {
        let durable = self.store.durable_view(self.chain, |image| image.hard_state()).expect("created");
        for message in messages {
            let kind = message.get_msg_type();
            let hypothetical =
                matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
            assert!(
                hypothetical || message.term <= durable.term,
                "{kind:?} of term {} leaves, durable is {}",
                message.term,
                durable.term
            );
            let granted = kind == MessageType::MsgRequestVoteResponse && !message.reject;
            // In a later term there is no other vote to give in this one.
            let kept = message.term < durable.term || durable.vote == NodeId::new(message.to);
            assert!(!granted || kept, "a vote that is not durable");
            self.sent.push(message);
        }
        let keep = self.sent.len().saturating_sub(16);
        self.sent.drain(..keep);
    }

    fn check(&mut self) {
        let now = self.replica.status();
        let before = &self.before;
        assert_eq!(now.halted, self.halted);
        assert!(now.applied <= now.commit && now.commit <= now.last, "positions in order: {now:?}");
        assert!(now.persisted <= now.last, "positions in order: {now:?}");
        assert!(now.installing || now.first <= now.applied + 1, "positions in order: {now:?}");
        assert!(now.term >= before.term, "the term went back from {} to {}", before.term, now.term);
        assert!(now.commit >= before.commit, "commit went back from {} to {}", before.commit, now.commit);
        assert!(now.applied >= before.applied, "applied went back");
        let kept = now.term > before.term || before.vote.is_none() || now.vote == before.vote;
        assert!(kept, "two votes in term {}: {:?} and {:?}", now.term, before.vote, now.vote);
        assert!(now.unpersisted_rounds <= config().limits.unpersisted_rounds_max, "rounds are bounded");
        assert!(now.proposals <= config().limits.inflight_proposals_max, "proposals are bounded");
        self.before = now;
    }
}
