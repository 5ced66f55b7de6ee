//! The leader's side: what is cut when, who is answered what, and that nothing is answered twice or never.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ledger_support;

use std::collections::{BTreeMap, HashSet, VecDeque};

use bytes::Bytes;
use consensus_core::error::Class;
use consensus_core::ledger::{
    AppliedEntry, Batch, Completion, CutterConfig, Frame, LedgerConfig, Outcome, Pipeline, PipelineConfig,
    Refusal, Run, Transaction, encode_proposal,
};
use ledger_support::{Chain, entry, transactions, window};
use proptest::prelude::*;

const CUTTER: CutterConfig =
    CutterConfig { messages_max: 4, preferred_bytes: 200, absolute_bytes: 300, timeout_ms: 50 };

/// A leader: its chain and its pipeline.
struct Leader {
    chain: Chain,
    pipeline: Pipeline<u32>,
}

impl Leader {
    fn new(config: PipelineConfig) -> Self {
        Self { chain: Chain::new(LedgerConfig::default()), pipeline: Pipeline::new(config).unwrap() }
    }

    fn with_cutter(cutter: CutterConfig) -> Self {
        Self::new(PipelineConfig { cutter, ..PipelineConfig::default() })
    }

    fn offer(&mut self, token: u32, ids: &[&str], now_ms: u64) -> Vec<Run> {
        self.offer_all(token, transactions(ids), now_ms)
    }

    fn offer_all(&mut self, token: u32, transactions: Vec<Transaction>, now_ms: u64) -> Vec<Run> {
        self.pipeline.offer(Frame { token, transactions }, now_ms, &self.chain.ledger)
    }

    /// The ids of the next batch, which is then in flight.
    fn next(&mut self, now_ms: u64, in_flight: usize) -> Option<(u64, Vec<String>)> {
        let batch = self.pipeline.next_batch(now_ms, 1, in_flight)?;
        Some((batch.number, ids(&batch.transactions)))
    }

    fn batch(&mut self, now_ms: u64, in_flight: usize) -> Batch {
        self.pipeline.next_batch(now_ms, 1, in_flight).expect("a batch is due")
    }

    fn commit(&mut self, batch: &Batch) -> AppliedEntry {
        let data = encode_proposal(1, &batch.transactions);
        let applied = self.chain.entry(&entry(self.chain.last + 1, data));
        assert!(self.pipeline.applied(batch.number, &applied));
        applied
    }
}

fn ids(transactions: &[Transaction]) -> Vec<String> {
    transactions.iter().map(|t| String::from_utf8(t.id.to_vec()).unwrap()).collect()
}

fn accepted(count: u32) -> Run {
    Run { count, outcome: Outcome::Accepted }
}

fn refused(count: u32, refusal: Refusal) -> Run {
    Run { count, outcome: Outcome::Refused(refusal) }
}

/// Count, height, index and duplicate of each committed run; panics on any other.
fn positions(runs: &[Run]) -> Vec<(u32, u64, u32, bool)> {
    runs.iter()
        .map(|run| match &run.outcome {
            Outcome::Committed { height, index, duplicate, .. } => (run.count, *height, *index, *duplicate),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s08_blocks_are_made_by_rule_and_by_timeout_with_the_right_numbers() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b", "c", "d", "e"], 1000);
    let by_count = leader.batch(1000, 0);
    assert_eq!(ids(&by_count.transactions), ["a", "b", "c", "d"]);
    assert_eq!(leader.next(1049, 1), None);
    let by_timeout = leader.batch(1050, 1);
    assert_eq!(ids(&by_timeout.transactions), ["e"]);
    let first = leader.commit(&by_count).block.unwrap();
    let second = leader.commit(&by_timeout).block.unwrap();
    assert_eq!((first.header.number, second.header.number), (1, 2));
    let completions = leader.pipeline.take_completions();
    assert_eq!(completions.len(), 1);
    assert_eq!(completions[0].token, 1);
    assert_eq!(positions(&completions[0].outcomes), [(4, 1, 0, false), (1, 2, 0, false)]);
}

#[test]
fn s09_a_second_frame_does_not_restart_the_timeout() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a"], 1000);
    assert_eq!(leader.pipeline.next_deadline_ms(), Some(1050));
    leader.offer(2, &["b"], 1049);
    assert_eq!(leader.pipeline.next_deadline_ms(), Some(1050));
    assert_eq!(leader.next(1050, 3).unwrap().1, ["a", "b"]);
    assert_eq!(leader.pipeline.next_deadline_ms(), None);
}

#[test]
fn s10_what_is_cleared_before_the_timeout_makes_no_block() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b"], 1000);
    let completions = leader.pipeline.clear(Refusal::Halted);
    assert_eq!(completions, [Completion { token: 1, outcomes: vec![refused(2, Refusal::NotProposed)] }]);
    assert_eq!(leader.pipeline.next_deadline_ms(), None);
    assert_eq!(leader.next(9999, 0), None);
}

#[test]
fn s11_a_cut_by_count_ends_the_timeout_and_the_next_transaction_starts_a_full_one() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b", "c", "d"], 1000);
    assert_eq!(leader.pipeline.next_deadline_ms(), None);
    leader.offer(2, &["e"], 1049);
    assert_eq!(leader.pipeline.next_deadline_ms(), Some(1099));
}

#[test]
fn s12_a_transaction_that_does_not_fit_leads_to_two_blocks_at_once_in_order() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b"], 1000);
    let large = Transaction { id: "large".into(), payload: vec![1; 250].into() };
    leader.offer_all(2, vec![large], 1000);
    assert_eq!(leader.next(1000, 5).unwrap().1, ["a", "b"]);
    assert_eq!(leader.next(1000, 6).unwrap().1, ["large"]);
    assert_eq!(leader.next(1000, 0), None);
}

#[test]
fn with_nothing_in_flight_a_block_is_cut_at_once() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a"], 1000);
    assert_eq!(leader.next(1000, 0).unwrap().1, ["a"]);
    leader.offer(2, &["b"], 1001);
    assert_eq!(leader.next(1001, 1), None);
    leader.offer(3, &["c"], 1002);
    assert_eq!(leader.next(1002, 0).unwrap().1, ["b", "c"], "what came meanwhile goes together");
}

#[test]
fn without_room_nothing_is_given_out_and_batches_keep_growing() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a"], 1000);
    assert_eq!(leader.pipeline.next_batch(2000, 0, 0), None);
    leader.offer(2, &["b"], 2000);
    assert_eq!(leader.next(2000, 9).unwrap().1, ["a", "b"], "the deadline of the first has passed");
}

#[test]
fn a_frame_that_spans_blocks_is_answered_once_when_the_last_of_it_is_applied() {
    let mut leader = Leader::with_cutter(CUTTER);
    let names: Vec<String> = (0..10).map(|n| format!("{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    leader.offer(1, &["x"], 0);
    assert_eq!(leader.offer(2, &names, 0), [accepted(10)]);
    let mut batches = Vec::new();
    while let Some(batch) = leader.pipeline.next_batch(0, 1, 0) {
        batches.push(batch);
    }
    assert_eq!(batches.len(), 3);
    let mut answered = Vec::new();
    for batch in &batches {
        leader.commit(batch);
        answered.push(leader.pipeline.take_completions());
    }
    let tokens: Vec<Vec<u32>> = answered.iter().map(|a| a.iter().map(|c| c.token).collect()).collect();
    assert_eq!(tokens, [vec![1], vec![], vec![2]]);
    assert_eq!(positions(&answered[2][0].outcomes), [(3, 1, 1, false), (4, 2, 0, false), (3, 3, 0, false)]);
    assert_eq!((leader.pipeline.waiting_transactions(), leader.pipeline.waiting_bytes()), (0, 0));
}

#[test]
fn an_id_in_the_chain_is_answered_at_once_with_its_position() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.chain.block(1, &["a", "b", "c"]);
    let hash = leader.chain.ledger.tip().hash;
    let committed = |count, index| Run {
        count,
        outcome: Outcome::Committed { height: 1, index, block_hash: hash, duplicate: true },
    };
    assert_eq!(leader.offer(1, &["b", "c", "x", "a"], 0), [committed(2, 1), accepted(1), committed(1, 0)]);
    assert!(leader.pipeline.take_completions().is_empty());
    assert_eq!(leader.offer(2, &["a"], 0), [committed(1, 0)]);
    let completions = leader.pipeline.take_completions();
    assert_eq!(completions, [Completion { token: 2, outcomes: vec![committed(1, 0)] }]);
    let batch = leader.batch(0, 0);
    leader.commit(&batch);
    let completions = leader.pipeline.take_completions();
    assert_eq!(positions(&completions[0].outcomes), [(2, 1, 1, true), (1, 2, 0, false), (1, 1, 0, true)]);
}

#[test]
fn an_id_on_its_way_is_not_proposed_twice_and_answered_like_the_first() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b"], 0);
    assert_eq!(leader.offer(2, &["b", "c", "b", "c"], 0), [accepted(4)]);
    let batch = leader.batch(0, 0);
    assert_eq!(ids(&batch.transactions), ["a", "b", "c"]);
    assert_eq!(leader.offer(3, &["a"], 0), [accepted(1)], "in flight already");
    assert!(leader.pipeline.is_waiting(b"a") && !leader.pipeline.is_waiting(b"z"));
    leader.commit(&batch);
    let mut completions = leader.pipeline.take_completions();
    completions.sort_by_key(|completion| completion.token);
    let answers: Vec<_> = completions.iter().map(|c| (c.token, positions(&c.outcomes))).collect();
    let expected = [
        (1, vec![(2, 1, 0, false)]),
        (2, vec![(1, 1, 1, true), (1, 1, 2, false), (2, 1, 1, true)]),
        (3, vec![(1, 1, 0, true)]),
    ];
    assert_eq!(answers, expected);
    assert!(!leader.pipeline.is_waiting(b"a"));
}

#[test]
fn a_transaction_that_the_chain_got_from_elsewhere_is_answered_as_a_duplicate() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b", "c"], 0);
    let batch = leader.batch(0, 0);
    leader.chain.block(1, &["b"]);
    leader.commit(&batch);
    let completions = leader.pipeline.take_completions();
    assert_eq!(positions(&completions[0].outcomes), [(1, 2, 0, false), (1, 1, 0, true), (1, 2, 1, false)]);
}

#[test]
fn a_batch_of_nothing_but_duplicates_is_answered_without_a_block() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b"], 0);
    let batch = leader.batch(0, 0);
    leader.chain.block(1, &["a", "b"]);
    assert!(leader.commit(&batch).block.is_none());
    assert_eq!(positions(&leader.pipeline.take_completions()[0].outcomes), [(2, 1, 0, true)]);
}

#[test]
fn invalid_transactions_are_refused_one_by_one_and_the_others_go_on() {
    let mut leader = Leader::with_cutter(CUTTER);
    let one = |id: &str, payload: usize| Transaction {
        id: Bytes::copy_from_slice(id.as_bytes()),
        payload: vec![7; payload].into(),
    };
    let long = "i".repeat(65);
    let frame =
        vec![one("a", 1), one("", 1), one(&long, 1), one("b", 0), one("c", 300), one("d", 299), one("e", 1)];
    let verdicts = leader.offer_all(1, frame, 0);
    let messages: Vec<_> = verdicts
        .iter()
        .map(|run| match &run.outcome {
            Outcome::Refused(refusal) => {
                assert_eq!(refusal.class(), Class::Reject);
                refusal.to_string()
            }
            other => format!("{} {other:?}", run.count),
        })
        .collect();
    assert_eq!(
        messages,
        [
            "1 Accepted",
            "transaction id of 0 bytes, must be between 1 and 64",
            "transaction id of 65 bytes, must be between 1 and 64",
            "transaction payload is empty",
            "transaction of 301 bytes, must be at most 300 (absolute_bytes)",
            "2 Accepted",
        ]
    );
    assert_eq!(leader.pipeline.queued_transactions(), 3);
}

#[test]
fn a_full_pipeline_refuses_the_rest_of_a_frame_and_names_the_bound() {
    let config = PipelineConfig { cutter: CUTTER, transactions_max: 3, ..PipelineConfig::default() };
    let mut leader = Leader::new(config);
    let full = Refusal::Overloaded { what: "transactions_max", bound: 3 };
    assert_eq!(leader.offer(1, &["a", "b"], 0), [accepted(2)]);
    assert_eq!(leader.offer(2, &["c", "d", "e"], 0), [accepted(1), refused(2, full.clone())]);
    assert_eq!(full.to_string(), "transactions_max is at its bound of 3");
    assert_eq!(full.class(), Class::Retry);
    assert_eq!(
        leader.offer(3, &["a"], 0),
        [refused(1, full)],
        "waiting for another one's outcome takes room too"
    );
    let batch = leader.batch(0, 0);
    leader.commit(&batch);
    assert_eq!(leader.offer(4, &["d", "e", "f"], 0), [accepted(3)]);
}

#[test]
fn a_later_small_transaction_does_not_overtake_a_refused_large_one() {
    let config = PipelineConfig { cutter: CUTTER, bytes_max: 300, ..PipelineConfig::default() };
    let mut leader = Leader::new(config);
    let one =
        |id: &'static str, payload: usize| Transaction { id: id.into(), payload: vec![7; payload].into() };
    let full = Refusal::Overloaded { what: "bytes_max", bound: 300 };
    let verdicts = leader.offer_all(1, vec![one("a", 199), one("b", 199), one("c", 1)], 0);
    assert_eq!(verdicts, [accepted(1), refused(2, full)]);
    assert_eq!(leader.offer_all(2, vec![one("c", 99)], 0), [accepted(1)], "exactly the bound");
    assert_eq!(leader.pipeline.waiting_bytes(), 300);
}

#[test]
fn a_lost_batch_is_answered_and_its_ids_may_come_again() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.offer(1, &["a", "b"], 0);
    let batch = leader.batch(0, 0);
    leader.offer(2, &["b"], 0);
    assert!(leader.pipeline.lost(batch.number, Refusal::OutcomeUnknown));
    assert!(!leader.pipeline.lost(batch.number, Refusal::OutcomeUnknown));
    let completions = leader.pipeline.take_completions();
    assert_eq!(completions.len(), 2);
    for completion in completions {
        assert_eq!(completion.outcomes, [refused(3 - completion.token, Refusal::OutcomeUnknown)]);
    }
    assert_eq!(leader.offer(3, &["a"], 0), [accepted(1)]);
    assert_eq!(leader.next(0, 0).unwrap().1, ["a"]);
}

#[test]
fn batches_may_be_answered_out_of_order() {
    let mut leader = Leader::with_cutter(CutterConfig { messages_max: 1, ..CUTTER });
    leader.offer(1, &["a", "b"], 0);
    leader.offer(2, &["b", "a"], 0);
    let first = leader.batch(0, 0);
    let second = leader.batch(0, 1);
    leader.commit(&second);
    assert!(leader.pipeline.lost(first.number, Refusal::OutcomeUnknown));
    let completions = leader.pipeline.take_completions();
    assert_eq!(completions[0].outcomes[0], refused(1, Refusal::OutcomeUnknown));
    assert_eq!(positions(&completions[0].outcomes[1..]), [(1, 1, 0, false)]);
    assert_eq!(positions(&completions[1].outcomes[..1]), [(1, 1, 0, true)]);
    assert_eq!(completions[1].outcomes[1], refused(1, Refusal::OutcomeUnknown));
}

#[test]
fn losing_leadership_answers_every_frame_and_tells_queued_from_in_flight() {
    let mut leader = Leader::with_cutter(CUTTER);
    leader.chain.block(1, &["known"]);
    leader.offer(1, &["a", "b", "c", "known", "d", "e", "f"], 0);
    let batch = leader.batch(0, 0);
    leader.offer(2, &["a", "f", "g"], 0);
    let mut completions = leader.pipeline.clear(Refusal::OutcomeUnknown);
    completions.sort_by_key(|completion| completion.token);
    let [one, two] = completions.as_slice() else { panic!("{completions:?}") };
    assert_eq!(one.outcomes[0], refused(3, Refusal::OutcomeUnknown));
    assert_eq!(positions(&one.outcomes[1..2]), [(1, 1, 0, true)]);
    assert_eq!(one.outcomes[2..], [refused(1, Refusal::OutcomeUnknown), refused(2, Refusal::NotProposed)]);
    assert_eq!(two.outcomes, [refused(1, Refusal::OutcomeUnknown), refused(2, Refusal::NotProposed)]);
    assert_eq!((leader.pipeline.waiting_transactions(), leader.pipeline.batches_in_flight()), (0, 0));
    let applied = leader.chain.entry(&entry(2, encode_proposal(1, &batch.transactions)));
    assert!(!leader.pipeline.applied(batch.number, &applied), "an old batch is nobody's any more");
    leader.offer(3, &["a", "z"], 0);
    assert_eq!(leader.next(0, 0).unwrap().1, ["z"]);
}

#[test]
fn an_empty_frame_is_complete_at_once() {
    let mut leader = Leader::with_cutter(CUTTER);
    assert_eq!(leader.offer(1, &[], 0), []);
    assert_eq!(leader.pipeline.take_completions(), [Completion { token: 1, outcomes: Vec::new() }]);
}

#[test]
fn bounds_that_cannot_work_are_refused_by_name() {
    let refused = |config| Pipeline::<u32>::new(config).unwrap_err().to_string();
    let default = PipelineConfig::default();
    assert_eq!(
        refused(PipelineConfig { transactions_max: 0, ..default }),
        "transactions_max is 0, must be between 1 and 16777216"
    );
    assert_eq!(
        refused(PipelineConfig { bytes_max: 5, ..default }),
        "bytes_max is 5, must be at least 10485760 (absolute_bytes)"
    );
    default.validate().unwrap();
}

#[test]
fn the_largest_batches_fit_the_entry_size_that_their_bounds_promise() {
    for (messages_max, payload) in [(1, 300 - 64), (4, 11), (64, 1)] {
        let cutter = CutterConfig { messages_max, preferred_bytes: 300, ..CUTTER };
        let mut leader = Leader::with_cutter(cutter);
        let all = (0..1000u32)
            .map(|n| Transaction {
                id: format!("{n:0width$}", width = if payload > 100 { 64 } else { 4 }).into(),
                payload: vec![1; payload].into(),
            })
            .collect();
        leader.offer_all(1, all, 0);
        while let Some(batch) = leader.pipeline.next_batch(0, 1, 0) {
            let bytes = encode_proposal(u64::MAX, &batch.transactions).len() as u64;
            assert!(bytes <= cutter.entry_bytes_max(), "{bytes} above {}", cutter.entry_bytes_max());
        }
    }
}

/// One step of a leader's life.
#[derive(Clone, Debug)]
enum Step {
    /// Ids out of a few; 0 is an invalid one.
    Offer(Vec<u8>),
    Propose,
    ApplyOldest,
    LoseOldest(bool),
    LoseLeadership,
    Foreign(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => proptest::collection::vec(0u8..30, 0..12).prop_map(Step::Offer),
        6 => Just(Step::Propose),
        5 => Just(Step::ApplyOldest),
        1 => any::<bool>().prop_map(Step::LoseOldest),
        1 => Just(Step::LoseLeadership),
        1 => (1u8..30).prop_map(Step::Foreign),
    ];
    proptest::collection::vec(step, 0..80)
}

/// What must hold of a leader whatever happens.
struct Story {
    leader: Leader,
    /// What each frame offered, until it is answered.
    open: BTreeMap<u32, Vec<Transaction>>,
    in_flight: VecDeque<Batch>,
    next_token: u32,
}

impl Story {
    fn offer(&mut self, ids: &[u8]) {
        let transactions: Vec<_> = ids
            .iter()
            .map(|id| Transaction {
                id: if *id == 0 { Bytes::new() } else { format!("{id}").into() },
                payload: vec![*id; 1 + usize::from(*id) * 4].into(),
            })
            .collect();
        let token = self.next_token;
        self.next_token += 1;
        self.open.insert(token, transactions.clone());
        let verdicts = self.leader.offer_all(token, transactions, u64::from(token));
        assert_eq!(verdicts.iter().map(|run| run.count as usize).sum::<usize>(), ids.len());
    }

    fn answered(&mut self, completions: Vec<Completion<u32>>) {
        let blocks = self.leader.chain.reader();
        for Completion { token, outcomes } in completions {
            let offered = self.open.remove(&token).expect("each frame is answered once");
            let mut offered = offered.into_iter();
            for Run { count, outcome } in outcomes {
                assert!(count > 0);
                for by in 0..count {
                    let transaction = offered.next().expect("no more outcomes than transactions");
                    match &outcome {
                        Outcome::Committed { height, index, block_hash, .. } => {
                            let block = blocks.block(*height).unwrap().expect("it is in the chain");
                            assert_eq!(block.hash, *block_hash);
                            assert_eq!(block.transactions[(index + by) as usize].id, transaction.id);
                        }
                        Outcome::Refused(Refusal::Invalid(_)) => assert!(transaction.id.is_empty()),
                        Outcome::Refused(_) => assert!(!transaction.id.is_empty()),
                        Outcome::Accepted => panic!("an answer says what became of it"),
                    }
                }
            }
            assert_eq!(offered.next(), None, "as many outcomes as transactions");
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Offer(ids) => self.offer(ids),
            Step::Propose => {
                let now_ms = u64::from(self.next_token);
                let batch = self.leader.pipeline.next_batch(now_ms, 1, self.in_flight.len());
                self.in_flight.extend(batch);
            }
            Step::ApplyOldest => {
                if let Some(batch) = self.in_flight.pop_front() {
                    self.leader.commit(&batch);
                }
            }
            Step::LoseOldest(proposed) => {
                let Some(batch) = self.in_flight.pop_front() else { return };
                if *proposed {
                    let data = encode_proposal(1, &batch.transactions);
                    let index = self.leader.chain.last + 1;
                    self.leader.chain.entry(&entry(index, data));
                }
                assert!(self.leader.pipeline.lost(batch.number, Refusal::OutcomeUnknown));
            }
            Step::LoseLeadership => {
                self.in_flight.clear();
                let completions = self.leader.pipeline.clear(Refusal::OutcomeUnknown);
                self.answered(completions);
                assert!(self.open.is_empty(), "everybody is answered");
            }
            Step::Foreign(id) => {
                self.leader.chain.block(1, &[&format!("{id}")]);
            }
        }
        let completions = self.leader.pipeline.take_completions();
        self.answered(completions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_frame_is_answered_once_and_truly_whatever_happens(steps in steps(), window_size in 1usize..40) {
        let cutter = CutterConfig { messages_max: 5, ..CUTTER };
        let config = PipelineConfig { cutter, transactions_max: 40, bytes_max: 1500, hash_seed: [5, 6] };
        let chain = Chain::new(window(window_size));
        let leader = Leader { chain, pipeline: Pipeline::new(config).unwrap() };
        let mut story = Story { leader, open: BTreeMap::new(), in_flight: VecDeque::new(), next_token: 0 };
        for step in &steps {
            story.take(step);
            prop_assert!(story.leader.pipeline.waiting_transactions() <= 40);
            prop_assert!(story.leader.pipeline.waiting_bytes() <= 1500);
            prop_assert_eq!(story.leader.pipeline.batches_in_flight(), story.in_flight.len());
            let waiting: HashSet<_> = story.open.values().flatten().map(|t| t.id.clone()).collect();
            prop_assert!(story.leader.pipeline.queued_transactions() <= waiting.len());
        }
        loop {
            story.take(&Step::Propose);
            if story.in_flight.is_empty() {
                break;
            }
            while !story.in_flight.is_empty() {
                story.take(&Step::ApplyOldest);
            }
        }
        prop_assert!(story.open.is_empty());
        prop_assert_eq!(story.leader.pipeline.waiting_transactions(), 0);
        prop_assert_eq!(story.leader.pipeline.waiting_bytes(), 0);
    }
}
