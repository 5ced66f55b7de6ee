//! Stories of one replica against hand-made peers: each shows a rule that the `raft` crate leaves to its
//! driver, and fails when the rule is removed. The T numbers name the hazard of the crate that the rule
//! answers.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, MessageType, Snapshot as RaftSnapshot};

use super::*;
use crate::ids::{Hash, StoreIncarnation};
use crate::storage::memory::MemoryStore;
use crate::storage::{ConfState, Identity, LogWriter, WriteBatch};

mod acknowledgements;
mod contexts;
mod idle;
mod membership;
#[cfg(feature = "mutants")]
mod mutants;
mod newcomers;
mod readiness;
mod reconfiguration;
mod restarts;
mod running;
mod snapshots;
mod transfers;

/// A replica whose disk, application and peers are played by the test.
struct Story {
    replica: Replica,
    store: Arc<MemoryStore>,
    chain: ChainId,
    effects: Effects,
    /// Handed to the writer, not durable.
    writes: Vec<WriteBatch>,
    sent: Vec<Message>,
    /// Handed to the application, not taken.
    to_apply: Vec<CommittedEntry>,
    answers: Vec<(Ticket, Outcome)>,
    reports: Vec<Report>,
    installs: Vec<Snapshot>,
    builds: usize,
    halted: Option<String>,
    room: Option<usize>,
}

fn identity(node: u64) -> Identity {
    Identity {
        cluster: "test".to_owned(),
        chain: "main".to_owned(),
        chain_incarnation: 1,
        node_id: NodeId::new(node).unwrap(),
        store_incarnation: StoreIncarnation([node as u8; 16]),
        genesis_hash: Hash([7; 32]),
        created_at_ms: 0,
    }
}

fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
}

fn config() -> ReplicaConfig {
    ReplicaConfig { seed: 7, ..ReplicaConfig::default() }
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut message = Message { from, to, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn entry(index: u64, term: u64, data: &'static [u8]) -> Entry {
    Entry { index, term, data: Bytes::from_static(data), ..Entry::default() }
}

/// Entries `(index, term)` behind `(prev, prev_term)`.
fn append(from: u64, to: u64, term: u64, prev: (u64, u64), entries: &[(u64, u64)], commit: u64) -> Message {
    let mut message = message(MessageType::MsgAppend, from, to, term);
    message.index = prev.0;
    message.log_term = prev.1;
    message.commit = commit;
    let entries: Vec<Entry> = entries.iter().map(|(index, term)| entry(*index, *term, b"x")).collect();
    message.set_entries(entries.into());
    message
}

fn change_entry(index: u64, term: u64, kind: raft::eraftpb::ConfChangeType, node: u64) -> Entry {
    use protobuf::Message as _;
    let mut single = raft::eraftpb::ConfChangeSingle { node_id: node, ..Default::default() };
    single.set_change_type(kind);
    let mut change = raft::eraftpb::ConfChangeV2::default();
    change.set_changes(vec![single].into());
    let mut entry = Entry { index, term, data: change.write_to_bytes().unwrap().into(), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

impl Story {
    fn new(node: u64, voters: &[u64]) -> Self {
        Self::with(node, &members(voters, &[]), config())
    }

    fn with(node: u64, members: &ConfState, config: ReplicaConfig) -> Self {
        let store = Arc::new(MemoryStore::new());
        store.create_chain(&identity(node), members).unwrap();
        Self::open(node, store, config)
    }

    fn open(node: u64, store: Arc<MemoryStore>, config: ReplicaConfig) -> Self {
        let chain = identity(node).chain_id();
        let state = store.open_chain(chain).unwrap();
        let replica = Replica::open(config, state, store.clone()).unwrap();
        Self {
            replica,
            store,
            chain,
            effects: Effects::new(),
            writes: Vec::new(),
            sent: Vec::new(),
            to_apply: Vec::new(),
            answers: Vec::new(),
            reports: Vec::new(),
            installs: Vec::new(),
            builds: 0,
            halted: None,
            room: None,
        }
    }

    fn collect(&mut self) {
        for effect in self.effects.drain() {
            match effect {
                Effect::Send { messages } => self.sent.extend(messages),
                Effect::Persist { batch } => self.writes.push(batch),
                Effect::RequestProposal { room, .. } => self.room = Some(room),
                Effect::WithdrawRequest => self.room = None,
                Effect::Apply { entries } => self.to_apply.extend(entries),
                Effect::BuildSnapshot => self.builds += 1,
                Effect::InstallSnapshot { snapshot } => self.installs.push(snapshot),
                Effect::Answer { ticket, outcome } => self.answers.push((ticket, outcome)),
                Effect::Report(report) => self.reports.push(report),
                Effect::Halt { reason } => self.halted = Some(reason),
            }
        }
    }

    /// An event and the end of its round.
    fn event(&mut self, event: Event) {
        self.replica.handle(event, &mut self.effects);
        self.replica.flush(&mut self.effects);
        self.collect();
    }

    fn peer(&mut self, message: Message) {
        let from = NodeId::new(message.from).unwrap();
        self.event(Event::PeerMessage { from, message });
    }

    fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.event(Event::Tick);
        }
    }

    /// Makes the oldest write durable.
    fn persist_one(&mut self) {
        let batch = self.writes.remove(0);
        self.store.write(std::slice::from_ref(&batch)).unwrap();
        if batch.sync {
            self.event(Event::Persisted { number: batch.number });
        }
    }

    fn persist(&mut self) {
        while !self.writes.is_empty() {
            self.persist_one();
        }
    }

    fn apply(&mut self) {
        if let Some(last) = self.to_apply.last() {
            let index = last.entry.index;
            self.to_apply.clear();
            self.event(Event::Applied { index });
        }
    }

    /// Until disk and application have nothing to do.
    fn settle(&mut self) {
        while !self.writes.is_empty() || !self.to_apply.is_empty() {
            self.persist();
            self.apply();
        }
        assert_eq!(self.halted, None);
    }

    fn take_sent(&mut self, kind: MessageType) -> Vec<Message> {
        let (wanted, rest) =
            std::mem::take(&mut self.sent).into_iter().partition(|m| m.get_msg_type() == kind);
        self.sent = rest;
        wanted
    }

    fn count_sent(&self, kind: MessageType) -> usize {
        self.sent.iter().filter(|m| m.get_msg_type() == kind).count()
    }

    fn status(&self) -> Status {
        self.replica.status()
    }

    /// Wins an election with the vote of `voter`.
    fn elect(&mut self, voter: u64) {
        let me = self.status().node_id.get();
        self.event(Event::Control { ticket: Ticket(u64::MAX), command: Control::Campaign });
        let term = self.status().term;
        self.peer(message(MessageType::MsgRequestPreVoteResponse, voter, me, term + 1));
        self.settle();
        let term = self.status().term;
        self.peer(message(MessageType::MsgRequestVoteResponse, voter, me, term));
        assert_eq!(self.status().role, Role::Leader);
    }

    /// Elected, with its first entry committed and applied.
    fn lead(&mut self, voter: u64) {
        self.elect(voter);
        self.settle();
        self.acknowledge(voter);
        self.settle();
        self.sent.clear();
        self.answers.clear();
    }

    fn acknowledge(&mut self, voter: u64) {
        let status = self.status();
        let mut ack = message(MessageType::MsgAppendResponse, voter, status.node_id.get(), status.term);
        ack.index = status.last;
        self.peer(ack);
    }

    fn propose(&mut self, ticket: u64, data: &'static [u8]) {
        let proposal = Proposal::new(Ticket(ticket), Bytes::from_static(data));
        self.event(Event::Propose { proposals: vec![proposal] });
    }

    fn answer(&self, ticket: u64) -> Option<&Outcome> {
        self.answers.iter().find(|(t, _)| *t == Ticket(ticket)).map(|(_, outcome)| outcome)
    }

    fn control(&mut self, ticket: u64, command: Control) {
        self.event(Event::Control { ticket: Ticket(ticket), command });
    }
}

#[test]
fn a_vote_is_not_heard_before_it_is_durable() {
    let mut story = Story::new(2, &[1, 2, 3]);
    let mut request = message(MessageType::MsgRequestVote, 1, 2, 1);
    request.index = 0;
    story.peer(request);
    assert_eq!(story.count_sent(MessageType::MsgRequestVoteResponse), 0);
    story.persist();
    assert_eq!(story.count_sent(MessageType::MsgRequestVoteResponse), 1);
    let vote = story.store.durable_view(story.chain, |image| image.hard_state().vote).unwrap();
    assert_eq!(vote, NodeId::new(1));
}

#[test]
fn an_append_is_not_acknowledged_before_it_is_durable() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    assert_eq!(story.count_sent(MessageType::MsgAppendResponse), 0);
    story.persist();
    let acks = story.take_sent(MessageType::MsgAppendResponse);
    assert_eq!((acks.len(), acks[0].index), (1, 1));
}

#[test]
fn a_leader_sends_while_it_writes_and_commits_only_what_is_durable() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.acknowledge(3);
    story.sent.clear();
    story.propose(1, b"block");
    assert_eq!(story.count_sent(MessageType::MsgAppend), 2, "appends leave before the sync");
    let last = story.status().last;
    let mut ack = message(MessageType::MsgAppendResponse, 2, 1, story.status().term);
    ack.index = last;
    story.peer(ack);
    assert!(story.to_apply.is_empty(), "one of three is not a quorum, and our own copy is not durable");
    story.persist();
    assert_eq!(story.to_apply.len(), 1);
    assert_eq!(story.to_apply[0].ticket, Some(Ticket(1)));
    story.apply();
    assert_eq!(story.answer(1), Some(&Outcome::Applied { index: last, term: story.status().term }));
}

#[test]
fn t1_a_leader_does_not_take_itself_out() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let me = NodeId::new(1).unwrap();
    for (ticket, change) in [(1, MembershipChange::Remove(me)), (2, MembershipChange::AddLearner(me))] {
        story.control(ticket, Control::ChangeMembership { changes: vec![change] });
        assert!(matches!(story.answer(ticket), Some(Outcome::Failed(Refusal::Membership(_)))));
    }
    assert_eq!(story.status().last, 1, "nothing was proposed");
}

#[test]
fn t1_a_leader_that_an_inherited_entry_removes_falls_silent() {
    let mut story = Story::new(1, &[1, 2, 3]);
    let mut inherited = append(2, 1, 1, (0, 0), &[(1, 1)], 0);
    let removal = change_entry(2, 1, raft::eraftpb::ConfChangeType::RemoveNode, 1);
    inherited.mut_entries().push(removal);
    story.peer(inherited);
    story.settle();
    story.elect(3);
    story.persist();
    // Everything is committed while a later round is still on its way to the disk.
    story.acknowledge(3);
    story.persist();
    story.propose(1, b"too early");
    story.apply();
    assert!(story.reports.contains(&Report::Removed));
    story.sent.clear();
    story.ticks(50);
    story.acknowledge(3);
    story.acknowledge(2);
    story.persist();
    assert_eq!(story.halted, None, "no panic of the crate");
    assert_eq!(story.sent, Vec::new(), "a removed leader sends nothing");
}

#[test]
fn t2_a_sole_voter_says_nothing_in_a_term_that_is_not_durable() {
    let mut story = Story::with(1, &members(&[1], &[2]), config());
    story.event(Event::Tick);
    assert_eq!(story.status().role, Role::Leader);
    assert_eq!(story.sent, Vec::new());
    story.persist();
    assert_eq!(story.count_sent(MessageType::MsgAppend), 1);
}

/// Follower 2 of {1, 2} whose leader has left, with an entry that is not durable.
fn sole_voter_with_unsynced_log() -> Story {
    let mut story = Story::new(2, &[1, 2]);
    let mut first = append(1, 2, 1, (0, 0), &[(1, 1)], 0);
    first.mut_entries().push(change_entry(2, 1, raft::eraftpb::ConfChangeType::RemoveNode, 1));
    first.commit = 2;
    story.peer(first);
    story.settle();
    assert_eq!(story.status().voters, [2]);
    story.peer(append(1, 2, 1, (2, 1), &[(3, 1)], 2));
    assert_eq!(story.writes.iter().filter(|batch| batch.sync).count(), 1);
    story
}

#[test]
fn t3_a_sole_voter_waits_for_its_disk_before_it_stands() {
    let mut story = sole_voter_with_unsynced_log();
    story.ticks(60);
    story.control(1, Control::Campaign);
    story.peer(message(MessageType::MsgTimeoutNow, 1, 2, 1));
    assert_eq!(story.halted, None);
    assert_eq!(story.status().role, Role::Follower);
    story.persist();
    story.ticks(60);
    story.persist();
    assert_eq!(story.halted, None);
    assert_eq!(story.status().role, Role::Leader);
}

#[test]
fn t5_the_proposals_of_a_round_are_one_append_per_peer() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    // Both peers in replicate state.
    story.acknowledge(3);
    story.sent.clear();
    let proposals = (0..100).map(|n| Proposal::new(Ticket(n), Bytes::from_static(&[0; 1000]))).collect();
    story.event(Event::Propose { proposals });
    let appends = story.take_sent(MessageType::MsgAppend);
    assert_eq!(appends.len(), 2);
    assert!(appends.iter().all(|m| m.entries.len() == 100));
}

#[test]
fn t5_an_append_keeps_to_its_size() {
    let mut config = config();
    config.limits.append_bytes_max = 10_000;
    let mut story = Story::with(1, &members(&[1, 2, 3], &[]), config);
    story.lead(2);
    story.acknowledge(3);
    story.sent.clear();
    let proposals = (0..100).map(|n| Proposal::new(Ticket(n), Bytes::from_static(&[0; 1000]))).collect();
    story.event(Event::Propose { proposals });
    let appends = story.take_sent(MessageType::MsgAppend);
    assert!(appends.len() >= 20);
    for append in appends {
        let bytes: usize = append.entries.iter().map(|entry| entry.data.len()).sum();
        assert!(bytes <= 10_000, "{bytes} bytes in one append");
    }
}

#[test]
fn t6_a_second_membership_change_is_refused_and_leaves_no_empty_entry() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let add = |id| Control::ChangeMembership {
        changes: vec![MembershipChange::AddLearner(NodeId::new(id).unwrap())],
    };
    story.control(1, add(4));
    let last = story.status().last;
    story.control(2, add(5));
    assert!(matches!(story.answer(2), Some(Outcome::Failed(Refusal::Membership(_)))));
    assert_eq!(story.status().last, last, "the crate would append an empty entry instead");
    story.settle();
    story.acknowledge(2);
    story.settle();
    assert_eq!(story.answer(1), Some(&Outcome::Done));
    assert_eq!(story.status().learners, [4]);
}

#[test]
fn t6_a_change_right_after_the_election_is_refused_until_the_log_is_applied() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.peer(append(2, 1, 1, (0, 0), &[(1, 1), (2, 1)], 0));
    story.settle();
    story.elect(2);
    let last = story.status().last;
    let change = MembershipChange::Remove(NodeId::new(3).unwrap());
    story.control(1, Control::ChangeMembership { changes: vec![change] });
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::Membership(_)))));
    assert_eq!(story.status().last, last);
}

#[test]
fn several_changes_go_through_a_joint_phase_that_ends_by_itself() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let node = |id| NodeId::new(id).unwrap();
    let changes = vec![MembershipChange::AddVoter(node(4)), MembershipChange::Remove(node(3))];
    story.control(1, Control::ChangeMembership { changes });
    let mut phases = Vec::new();
    for _ in 0..4 {
        story.settle();
        story.acknowledge(2);
        story.acknowledge(4);
        story.settle();
        phases.push(story.status().joint);
    }
    assert!(phases.contains(&true), "no joint phase seen: {phases:?}");
    assert_eq!(story.status().voters, [1, 2, 4]);
    assert!(!story.status().joint);
}

#[test]
fn t7_a_commit_index_beyond_the_log_is_reported_and_not_stepped() {
    let mut story = Story::new(2, &[1, 2, 3]);
    let mut heartbeat = message(MessageType::MsgHeartbeat, 1, 2, 5);
    heartbeat.commit = 100;
    story.peer(heartbeat);
    assert_eq!(story.halted, None);
    let from = NodeId::new(1).unwrap();
    assert_eq!(story.reports, [Report::StoreBehind { from, claimed: 100, last: 0 }]);
    assert_eq!(story.status().term, 0);
}

#[test]
fn t8_what_no_honest_peer_sends_is_refused_by_name() {
    let leader = |story: &mut Story| story.lead(2);
    let ok_ack = |index| {
        let mut ack = message(MessageType::MsgAppendResponse, 2, 1, 1);
        ack.index = index;
        ack
    };
    let mut far_ahead = ok_ack(1);
    far_ahead.term = u64::MAX;
    let mut zero_term = ok_ack(1);
    zero_term.term = 0;
    let mut hint = ok_ack(1);
    hint.reject = true;
    hint.reject_hint = u64::MAX;
    let mut gap = append(2, 1, 1, (0, 0), &[(1, 1), (3, 1)], 0);
    gap.term = 2;
    let mut later_entry = append(2, 1, 2, (0, 0), &[(1, 3)], 0);
    later_entry.commit = 1;
    let mut bad_snapshot = message(MessageType::MsgSnapshot, 2, 1, 2);
    bad_snapshot.set_snapshot(snapshot_message(50, 2, &[1, 1]));
    let mut other_to = ok_ack(1);
    other_to.to = 3;
    let table: Vec<(Message, &str)> = vec![
        (message(MessageType::MsgPropose, 2, 1, 1), "type not for peers"),
        (message(MessageType::MsgReadIndex, 2, 1, 1), "type not for peers"),
        (message(MessageType::MsgTransferLeader, 2, 1, 1), "type not for peers"),
        (message(MessageType::MsgHup, 2, 1, 1), "type not for peers"),
        (far_ahead, "term too far ahead"),
        (zero_term, "no term"),
        (ok_ack(99), "acknowledges what we do not have"),
        (hint, "index out of range"),
        (gap, "entries not contiguous"),
        (later_entry, "entry terms out of order"),
        (bad_snapshot, "snapshot with an impossible membership"),
        (message(MessageType::MsgSnapshot, 2, 1, 2), "snapshot message without snapshot"),
        (other_to, "addressed to another node"),
    ];
    for (message, expected) in table {
        let mut story = Story::new(1, &[1, 2, 3]);
        leader(&mut story);
        story.reports.clear();
        story.peer(message.clone());
        let from = NodeId::new(2).unwrap();
        assert_eq!(story.reports, [Report::GateRefused { from, reason: expected }], "{message:?}");
        assert_eq!(story.halted, None);
        assert_eq!(story.status().role, Role::Leader);
    }
}

#[test]
fn a_message_under_a_foreign_name_is_refused() {
    let mut story = Story::new(2, &[1, 2, 3]);
    let message = append(1, 2, 1, (0, 0), &[(1, 1)], 0);
    story.event(Event::PeerMessage { from: NodeId::new(3).unwrap(), message });
    let from = NodeId::new(3).unwrap();
    assert_eq!(story.reports, [Report::GateRefused { from, reason: "sender is not the peer" }]);
}

fn heartbeats_answered(story: &mut Story, ticks: usize) {
    for _ in 0..ticks {
        story.event(Event::Tick);
        for from in [2, 3] {
            story.peer(message(MessageType::MsgHeartbeatResponse, from, 1, story.status().term));
        }
    }
}

fn snapshot_message(index: u64, term: u64, voters: &[u64]) -> RaftSnapshot {
    let mut snapshot = RaftSnapshot { data: Bytes::from_static(b"state"), ..RaftSnapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = index;
    metadata.term = term;
    metadata.mut_conf_state().set_voters(voters.to_vec());
    snapshot
}

#[test]
fn t15_a_store_that_contradicts_itself_is_refused_with_the_figures() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1), (2, 1), (3, 1)], 3));
    story.settle();
    let good = story.store.open_chain(story.chain).unwrap();
    let open = |state: ChainState| Replica::open(config(), state, story.store.clone());

    let mut applied_ahead_of_commit = good.clone();
    applied_ahead_of_commit.applied.index = 3;
    applied_ahead_of_commit.hard_state.commit = 2;
    let replica = open(applied_ahead_of_commit).expect("the applied index proves the commit index");
    assert_eq!(replica.status().commit, 3);

    let mut commit_beyond_log = good.clone();
    commit_beyond_log.hard_state.commit = 9;
    let error = open(commit_beyond_log).expect_err("refused").to_string();
    assert!(error.contains("commit index 9 is above the last entry 3"), "{error}");

    let mut applied_beyond_log = good.clone();
    applied_beyond_log.applied.index = 4;
    let error = open(applied_beyond_log).expect_err("refused").to_string();
    assert!(error.contains("applied index 4 is above the last entry 3"), "{error}");

    let mut vote_forgotten = good;
    vote_forgotten.hard_state.term = 0;
    let error = open(vote_forgotten).expect_err("refused").to_string();
    assert!(error.contains("the promised term is 0"), "{error}");
}

#[test]
fn t16_a_read_before_the_first_commit_of_the_term_waits_and_is_answered() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.elect(2);
    story.event(Event::ReadIndex { ticket: Ticket(1) });
    assert_eq!(story.answer(1), None);
    story.settle();
    story.acknowledge(2);
    story.settle();
    let heartbeat = story.take_sent(MessageType::MsgHeartbeat).pop().expect("asked after the commit");
    let mut response = message(MessageType::MsgHeartbeatResponse, 2, 1, story.status().term);
    response.context = heartbeat.context;
    story.peer(response);
    story.settle();
    assert_eq!(story.answer(1), Some(&Outcome::ReadIndex { index: 1 }));
}

#[test]
fn t16_an_old_heartbeat_answer_confirms_no_new_read() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.event(Event::ReadIndex { ticket: Ticket(1) });
    let heartbeat = story.take_sent(MessageType::MsgHeartbeat).pop().unwrap();
    let mut response = message(MessageType::MsgHeartbeatResponse, 2, 1, story.status().term);
    response.context = heartbeat.context;
    story.peer(response.clone());
    assert!(story.answer(1).is_some());
    story.event(Event::ReadIndex { ticket: Ticket(2) });
    story.peer(response);
    assert_eq!(story.answer(2), None, "confirmed by the answer to an earlier question");
}

#[test]
fn t16_a_read_that_nobody_confirms_is_answered_in_time() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.event(Event::ReadIndex { ticket: Ticket(1) });
    heartbeats_answered(&mut story, 50);
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::TimedOut { .. }))));
    story.event(Event::ReadIndex { ticket: Ticket(2) });
    story.ticks(30);
    assert!(matches!(story.answer(2), Some(Outcome::Failed(_))), "leadership is lost without a quorum");
}

/// Follower 2 of five with three writes on their way: (2,1), then (2,2), then (2,1),(3,3).
fn aba() -> Story {
    let mut story = Story::new(2, &[1, 2, 3, 4, 5]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    story.settle();
    story.peer(append(1, 2, 1, (1, 1), &[(2, 1)], 1));
    story.peer(append(3, 2, 2, (1, 1), &[(2, 2)], 1));
    story.peer(append(1, 2, 3, (1, 1), &[(2, 1), (3, 3)], 3));
    story.to_apply.clear();
    assert_eq!(story.writes.iter().filter(|batch| batch.sync).count(), 3);
    story
}

#[test]
fn t20_a_late_notice_of_a_replaced_tail_makes_nothing_durable() {
    let mut story = aba();
    story.persist_one();
    let handed: Vec<u64> = story.to_apply.iter().map(|committed| committed.entry.index).collect();
    assert_eq!(handed, [] as [u64; 0], "the disk will still pass through another entry 2");
    story.persist();
    let handed: Vec<(u64, u64)> =
        story.to_apply.iter().map(|committed| (committed.entry.index, committed.entry.term)).collect();
    assert_eq!(handed, [(2, 1), (3, 3)]);
}

#[test]
fn a_replaced_tail_is_removed_in_the_batch_that_replaces_it() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1), (2, 1), (3, 1)], 1));
    story.settle();
    story.peer(append(3, 2, 2, (1, 1), &[(2, 2)], 1));
    assert_eq!(story.writes[0].truncate_from, Some(2));
    story.settle();
    let last = story.store.durable_view(story.chain, |image| image.last().index).unwrap();
    assert_eq!(last, 2);
}

#[test]
fn t21_a_vote_is_asked_for_only_when_the_log_counts_as_durable() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1)], 0));
    story.ticks(40);
    story.control(1, Control::Campaign);
    assert_eq!(story.count_sent(MessageType::MsgRequestVote), 0);
    assert_eq!(
        story.count_sent(MessageType::MsgRequestPreVote),
        0,
        "the log that it stands on is not durable"
    );
    // The moment a request is out, its answer may be stepped.
    story.persist();
    let term = story.status().term;
    story.peer(message(MessageType::MsgRequestPreVoteResponse, 3, 2, term + 1));
    while !story.writes.is_empty() {
        let batch = story.writes.remove(0);
        story.store.write(std::slice::from_ref(&batch)).unwrap();
        story.replica.handle(Event::Persisted { number: batch.number }, &mut story.effects);
        story.collect();
        if story.count_sent(MessageType::MsgRequestVote) > 0 {
            break;
        }
    }
    assert!(story.count_sent(MessageType::MsgRequestVote) > 0);
    let term = story.status().term;
    story.peer(message(MessageType::MsgRequestVoteResponse, 3, 2, term));
    assert_eq!(story.halted, None);
    assert_eq!(story.status().role, Role::Leader);
}

#[test]
fn leadership_goes_to_the_peer_that_is_furthest_on() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.acknowledge(3);
    story.propose(1, b"block");
    story.acknowledge(3);
    story.sent.clear();
    story.control(2, Control::TransferLeader { to: None });
    let now: Vec<u64> = story.take_sent(MessageType::MsgTimeoutNow).iter().map(|m| m.to).collect();
    assert_eq!(now, [3]);
    assert_eq!(story.room, Some(0), "no proposals are asked for meanwhile");
    assert_eq!(story.answer(2), None);
    story.peer(message(MessageType::MsgHeartbeat, 3, 1, story.status().term + 1));
    assert_eq!(story.answer(2), Some(&Outcome::Done));
}

#[test]
fn a_transfer_that_does_not_succeed_is_given_up_and_proposals_go_on() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.control(2, Control::TransferLeader { to: NodeId::new(2) });
    story.propose(3, b"meanwhile");
    assert!(matches!(story.answer(3), Some(Outcome::Failed(Refusal::NotLeader { .. }))));
    heartbeats_answered(&mut story, 12);
    assert!(matches!(story.answer(2), Some(Outcome::Failed(Refusal::Transfer(_)))));
    story.propose(4, b"again");
    assert_eq!(story.answer(4), None, "accepted");
    assert!(story.room.is_some_and(|room| room > 0));
}

#[test]
fn a_transfer_to_a_stranger_or_a_silent_peer_is_refused() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    for (ticket, id) in [(1, 9), (2, 3)] {
        story.control(ticket, Control::TransferLeader { to: NodeId::new(id) });
        assert!(matches!(story.answer(ticket), Some(Outcome::Failed(Refusal::Transfer(_)))), "{id}");
    }
}

#[test]
fn what_is_in_flight_when_leadership_is_lost_is_answered_as_unknown() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    story.propose(1, b"block");
    let term = story.status().term;
    story.peer(message(MessageType::MsgHeartbeat, 3, 1, term + 1));
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::LeadershipLost { .. }))));
    assert_eq!(story.room, None);
    story.propose(2, b"late");
    let leader = NodeId::new(3);
    assert_eq!(story.answer(2), Some(&Outcome::Failed(Refusal::NotLeader { leader })));
}

#[test]
fn proposals_of_the_round_that_lost_leadership_are_refused_and_not_sent_on() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.lead(2);
    let term = story.status().term;
    let proposals = vec![Proposal::new(Ticket(1), Bytes::from_static(b"block"))];
    story.replica.handle(Event::Propose { proposals }, &mut story.effects);
    story.peer(message(MessageType::MsgHeartbeat, 3, 1, term + 1));
    assert_eq!(story.count_sent(MessageType::MsgPropose), 0);
    let leader = NodeId::new(3);
    assert_eq!(story.answer(1), Some(&Outcome::Failed(Refusal::NotLeader { leader })));
    story.persist();
    assert_eq!(story.count_sent(MessageType::MsgPropose), 0);
}

#[test]
fn a_new_leader_takes_proposals_only_when_its_inheritance_is_applied() {
    let mut story = Story::new(1, &[1, 2, 3]);
    story.elect(2);
    story.propose(1, b"early");
    assert!(matches!(story.answer(1), Some(Outcome::Failed(Refusal::NotLeader { .. }))));
    assert_eq!(story.room, None);
    story.settle();
    story.acknowledge(2);
    story.persist();
    assert_eq!(story.room, None, "committed, not applied");
    story.apply();
    assert!(story.room.is_some());
}

#[test]
fn an_entry_without_payload_or_beyond_the_bound_is_refused_with_its_size() {
    let mut config = config();
    config.limits.entry_bytes_max = 1024;
    let mut story = Story::with(1, &members(&[1, 2, 3], &[]), config);
    story.lead(2);
    story.propose(1, b"");
    assert_eq!(story.answer(1), Some(&Outcome::Failed(Refusal::EntrySize { bytes: 0, bound: 1024 })));
    story.propose(2, &[0; 1025]);
    assert_eq!(story.answer(2), Some(&Outcome::Failed(Refusal::EntrySize { bytes: 1025, bound: 1024 })));
}

#[test]
fn proposals_beyond_the_bound_are_refused_and_never_queued() {
    let mut config = config();
    config.limits.inflight_proposals_max = 3;
    let mut story = Story::with(1, &members(&[1, 2, 3], &[]), config);
    story.lead(2);
    for ticket in 0..5 {
        story.propose(ticket, b"block");
    }
    assert_eq!(story.answer(2), None);
    for ticket in [3, 4] {
        assert!(matches!(story.answer(ticket), Some(Outcome::Failed(Refusal::Overloaded { bound: 3, .. }))));
    }
}

#[test]
fn a_follower_whose_application_lags_drops_appends_and_still_answers_heartbeats() {
    let mut config = config();
    config.limits.entry_bytes_max = 1024;
    config.limits.apply_backlog_bytes_max = 1024;
    let mut story = Story::with(2, &members(&[1, 2, 3], &[]), config);
    let mut big = append(1, 2, 1, (0, 0), &[], 0);
    big.set_entries(vec![Entry { index: 1, term: 1, data: vec![0; 1024].into(), ..Entry::default() }].into());
    big.commit = 1;
    story.peer(big);
    story.persist();
    assert_eq!(story.to_apply.len(), 1);
    story.sent.clear();
    story.peer(append(1, 2, 1, (1, 1), &[(2, 1)], 2));
    assert_eq!(story.status().last, 1, "dropped");
    story.peer(message(MessageType::MsgHeartbeat, 1, 2, 1));
    story.persist();
    assert_eq!(story.count_sent(MessageType::MsgHeartbeatResponse), 1);
    story.apply();
    story.peer(append(1, 2, 1, (1, 1), &[(2, 1)], 2));
    assert_eq!(story.status().last, 2);
}

#[test]
fn a_long_committed_log_is_handed_out_within_the_backlog_bound() {
    let mut story = Story::new(2, &[1, 2, 3]);
    for index in 1..=40 {
        let mut message = append(1, 2, 1, (index - 1, u64::from(index > 1)), &[], 0);
        let entry = Entry { index, term: 1, data: vec![0; 1000].into(), ..Entry::default() };
        message.set_entries(vec![entry].into());
        story.peer(message);
    }
    story.settle();
    let mut config = config();
    config.limits.entry_bytes_max = 1024;
    config.limits.apply_backlog_bytes_max = 4000;
    config.limits.apply_bytes_max = 2000;
    let mut again = Story::open(2, story.store.clone(), config);
    again.peer(append(1, 2, 1, (40, 1), &[], 40));
    let mut handed_out = 0;
    while again.status().applied < 40 {
        assert!(!again.to_apply.is_empty(), "stuck at {}", again.status().applied);
        assert!(again.to_apply.len() <= 6, "{} entries at once", again.to_apply.len());
        again.sent.clear();
        again.peer(message(MessageType::MsgHeartbeat, 1, 2, 1));
        again.persist();
        assert!(again.count_sent(MessageType::MsgHeartbeatResponse) > 0, "still answers");
        handed_out += again.to_apply.len();
        again.apply();
    }
    assert_eq!(handed_out, 40);
}

/// A tick makes it the leader, and what it proposes is applied.
fn leads_at_once(story: &mut Story) {
    story.event(Event::Tick);
    story.settle();
    assert_eq!(story.status().role, Role::Leader);
    story.propose(1, b"block");
    story.settle();
    assert!(matches!(story.answer(1), Some(Outcome::Applied { .. })));
}

#[test]
fn a_sole_voter_leads_at_once() {
    leads_at_once(&mut Story::new(1, &[1]));
}

#[test]
fn a_damaged_entry_halts_the_chain_with_its_name() {
    let mut story = Story::new(2, &[1, 2, 3]);
    story.peer(append(1, 2, 1, (0, 0), &[(1, 1), (2, 1)], 0));
    story.settle();
    let store = story.store.clone();
    let mut again = Story::open(2, store.clone(), config());
    store.damage_entry(again.chain, 2);
    // A leader's word commits the entry; applying it needs the store.
    again.peer(append(1, 2, 1, (2, 1), &[], 2));
    let reason = again.halted.clone().expect("halted");
    assert!(reason.contains("log 2"), "{reason}");
    again.propose(1, b"x");
    assert_eq!(again.answer(1), Some(&Outcome::Failed(Refusal::Halted)));
}

#[test]
fn the_same_seed_gives_the_same_timeouts_and_another_seed_others() {
    let timeouts = |seed: u64| -> Vec<usize> {
        let config = ReplicaConfig { seed, ..ReplicaConfig::default() };
        let mut story = Story::with(2, &members(&[1, 2, 3], &[]), config);
        (0..200)
            .filter(|_| {
                let before = story.sent.len();
                story.event(Event::Tick);
                story.persist();
                story.sent.len() > before
            })
            .collect()
    };
    assert_eq!(timeouts(1), timeouts(1));
    assert_ne!(timeouts(1), timeouts(2));
}
