//! S19: a node that says that it is ready is (our promise to whoever sends clients there). In the last two election
//! timeouts its leader's word arrived, or a leader was answered by a majority; no snapshot waits for its
//! application; and the application has what its leader said to be committed, up to a bound.
//!
//! What is true is counted from the messages that arrive, the application's own index and its tasks, not from what
//! the replica notes. Time is the node's own ticks, for it knows no other: a process that was stopped cannot be
//! asked meanwhile.

use std::collections::BTreeMap;

use super::{Verdict, Violation, is_majority};
use crate::replica::eraftpb::MessageType;
use crate::replica::{Message, Role, Status, health};
use crate::storage::ConfState;

const NAME: &str = "S19 true readiness";

/// Entries that an application may be behind. Fewer than in production, so that it happens.
const LAG_ENTRIES_MAX: u64 = 5;

/// What is true of a node after a round.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The last entry that its application has.
    pub application: u64,
    /// Its application has a snapshot to take.
    pub installs: bool,
    /// The membership that it goes by.
    pub membership: &'a ConfState,
    /// What the group has committed, if this node leads its newest term.
    pub committed: Option<u64>,
    /// Its election timeout.
    pub election_ticks: u64,
}

/// What has arrived at a running node.
#[derive(Clone, Debug, Default)]
struct Arrived {
    ticks: u64,
    /// By term, what its leader said; only of terms that the node has not left.
    words: BTreeMap<u64, Words>,
    /// The term that the node leads; 0 for none.
    leads: u64,
    /// The voters of both halves of the membership that it goes by.
    halves: (Vec<u64>, Vec<u64>),
    /// When each voter answered in that term; the beginning counts as an answer.
    answers: BTreeMap<u64, u64>,
}

/// What a leader said in its term.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    leader: u64,
    /// When it spoke last.
    at: u64,
    /// What it said to be committed.
    told: u64,
}

/// Compares.
#[derive(Debug)]
pub struct TrueReadiness {
    nodes: Vec<Arrived>,
}

impl TrueReadiness {
    /// For nodes `0..nodes`.
    pub fn new(nodes: usize) -> Self {
        Self { nodes: vec![Arrived::default(); nodes] }
    }

    /// A node is gone with what its process knew.
    pub fn stops(&mut self, node: usize) {
        self.nodes[node] = Arrived::default();
    }

    /// A node's clock has ticked.
    pub fn ticks(&mut self, node: usize) {
        self.nodes[node].ticks += 1;
    }

    /// A message arrives.
    pub fn arrives(&mut self, node: usize, message: &Message) {
        let arrived = &mut self.nodes[node];
        match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot => {
                let words = arrived.words.entry(message.term).or_default();
                (words.leader, words.at) = (message.from, arrived.ticks);
                // A heartbeat tells no more than what its receiver is known to have.
                if message.get_msg_type() == MessageType::MsgAppend {
                    words.told = words.told.max(message.commit);
                }
            }
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
                if arrived.leads != 0 && message.term == arrived.leads =>
            {
                arrived.answers.insert(message.from, arrived.ticks);
            }
            _ => {}
        }
    }

    /// After a round.
    pub fn round(&mut self, node: usize, status: &Status, seen: &Seen<'_>) -> Verdict {
        let arrived = &mut self.nodes[node];
        arrived.words.retain(|term, _| *term >= status.term);
        if status.installing {
            // What comes meanwhile is not listened to.
            arrived.words.values_mut().for_each(|words| words.told = 0);
        }
        arrived.follow(status, seen.membership);
        if !health::is_ready(status, LAG_ENTRIES_MAX) {
            return Ok(());
        }
        let wrong = |what: String| Err(Violation::new(NAME, format!("n{} is ready, and {what}", node + 1)));
        if seen.installs {
            return wrong("its application has a snapshot to take".to_owned());
        }
        let words = arrived.words.get(&status.term).copied().unwrap_or_default();
        let told = if status.role == Role::Leader { seen.committed.unwrap_or(0) } else { words.told };
        if told > seen.application + LAG_ENTRIES_MAX {
            return wrong(format!("its application has {}, committed are {told}", seen.application));
        }
        let leader = status.leader.map_or(0, |leader| leader.get());
        if status.role == Role::Leader {
            // A transfer that fails puts off the leader's next look at its majority, once.
            let bound = 4 * seen.election_ticks;
            let answered = |id: &u64| {
                *id == leader || arrived.answers.get(id).is_some_and(|answer| arrived.ticks - answer <= bound)
            };
            if !is_majority(seen.membership, answered) {
                return wrong(format!("no majority answers its term {}", status.term));
            }
        } else if words.leader != leader || arrived.ticks - words.at > 2 * seen.election_ticks + 1 {
            // A word may arrive before a tick and be listened to after it.
            let silence = arrived.ticks - words.at;
            let term = status.term;
            return wrong(format!("follows n{leader} of term {term}, which spoke {silence} ticks ago"));
        }
        Ok(())
    }
}

impl Arrived {
    /// When a leader begins to lead, and when others are needed for its majority, all have the whole time to answer.
    fn follow(&mut self, status: &Status, membership: &ConfState) {
        let leads = if status.role == Role::Leader { status.term } else { 0 };
        let halves = (&membership.voters, &membership.voters_outgoing);
        if leads != self.leads || halves != (&self.halves.0, &self.halves.1) {
            let voters = halves.0.iter().chain(halves.1);
            self.answers = voters.map(|voter| (*voter, self.ticks)).collect();
            self.leads = leads;
            self.halves = (halves.0.clone(), halves.1.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::sim::invariants::ordered_and_bounded::tests::status;

    const ELECTION_TICKS: u64 = 10;

    fn message(kind: MessageType, from: u64, term: u64, commit: u64) -> Message {
        let mut message = Message { from, term, commit, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn members() -> ConfState {
        ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
    }

    fn seen(membership: &ConfState, application: u64) -> Seen<'_> {
        Seen { application, installs: false, membership, committed: None, election_ticks: ELECTION_TICKS }
    }

    /// A follower of n2 that says that it is ready.
    fn ready() -> Status {
        let leader = NodeId::new(2);
        Status { leader, leader_heard: true, told_commit: Some(5), applied: 5, ..status() }
    }

    #[test]
    fn a_follower_that_is_ready_though_its_leader_is_silent_or_far_ahead_is_a_violation() {
        let members = members();
        let mut check = TrueReadiness::new(1);
        check.round(0, &status(), &seen(&members, 0)).expect("it is not ready");
        check.round(0, &ready(), &seen(&members, 5)).expect_err("nobody spoke");
        check.arrives(0, &message(MessageType::MsgAppend, 2, 1, 9));
        check.round(0, &ready(), &seen(&members, 5)).unwrap();
        check.round(0, &ready(), &seen(&members, 3)).expect_err("9 are committed, the application has 3");
        check
            .round(0, &ready(), &Seen { installs: true, ..seen(&members, 9) })
            .expect_err("a snapshot waits");
        (0..=2 * ELECTION_TICKS).for_each(|_| check.ticks(0));
        check.round(0, &ready(), &seen(&members, 9)).unwrap();
        check.ticks(0);
        check.round(0, &ready(), &seen(&members, 9)).expect_err("silent for too long");
        check.arrives(0, &message(MessageType::MsgHeartbeat, 2, 1, 0));
        check.round(0, &ready(), &seen(&members, 9)).unwrap();
        let later = Status { term: 2, leader: NodeId::new(3), ..ready() };
        check.round(0, &later, &seen(&members, 9)).expect_err("n3 said nothing in term 2");
        check.arrives(0, &message(MessageType::MsgHeartbeat, 3, 2, 0));
        check.round(0, &later, &seen(&members, 9)).unwrap();
        check.stops(0);
        check.round(0, &later, &seen(&members, 9)).expect_err("a new process has heard nobody");
    }

    #[test]
    fn a_learner_that_becomes_a_voter_has_the_whole_time_to_answer() {
        let alone = ConfState { voters: vec![1], learners: vec![2], ..ConfState::default() };
        let leads = Status { role: Role::Leader, leader: NodeId::new(1), ..ready() };
        let mut check = TrueReadiness::new(1);
        check.round(0, &leads, &seen(&alone, 5)).unwrap();
        check.arrives(0, &message(MessageType::MsgHeartbeatResponse, 2, 1, 0));
        check.round(0, &leads, &seen(&alone, 5)).unwrap();
        (0..5 * ELECTION_TICKS).for_each(|_| check.ticks(0));
        let both = ConfState { voters: vec![1, 2], ..ConfState::default() };
        check.round(0, &leads, &seen(&both, 5)).unwrap();
        (0..5 * ELECTION_TICKS).for_each(|_| check.ticks(0));
        check.round(0, &leads, &seen(&both, 5)).expect_err("it did not");
    }

    #[test]
    fn a_leader_that_is_ready_without_its_majority_or_its_entries_is_a_violation() {
        let members = members();
        let leads = Status { role: Role::Leader, leader: NodeId::new(1), ..ready() };
        let mut check = TrueReadiness::new(1);
        check.round(0, &leads, &seen(&members, 5)).unwrap();
        let behind = Seen { committed: Some(12), ..seen(&members, 5) };
        check.round(0, &leads, &behind).expect_err("12 are committed");
        (0..4 * ELECTION_TICKS).for_each(|_| check.ticks(0));
        check.arrives(0, &message(MessageType::MsgHeartbeatResponse, 3, 1, 0));
        check.ticks(0);
        check.round(0, &leads, &seen(&members, 5)).expect("n3 answered");
        (0..4 * ELECTION_TICKS).for_each(|_| check.ticks(0));
        check.round(0, &leads, &seen(&members, 5)).expect_err("n3 is silent as well");
    }
}
