//! S13: a store speaks for its member only once the group has admitted it: a node whose store is new grants
//! no vote, asks for none and acknowledges nothing before it was given the chain as a member (ADR 0005, a store
//! that lost its promises never votes). And who has no vote in the membership that it goes by, a learner or one
//! that was removed, neither stands for election nor leads.
//!
//! One that was removed and keeps its store goes on to vote and to acknowledge when it is asked: its word is
//! needed by those that do not know yet that the removal is committed (Raft thesis, sections 4.2.2 and 4.2.3).

use super::{Verdict, Violation};
use crate::replica::eraftpb::MessageType;
use crate::replica::{Message, Role};
use crate::storage::ConfState;

const NAME: &str = "S13 silent outsiders";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Member,
    /// Its store is new and was not given the chain yet.
    Outside,
    /// It has applied its own removal.
    Removed,
}

/// Who may speak.
#[derive(Debug)]
pub struct SilentOutsiders {
    nodes: Vec<Standing>,
}

impl SilentOutsiders {
    /// For so many members and then so many others.
    pub fn new(members: usize, others: usize) -> Self {
        let mut nodes = vec![Standing::Member; members];
        nodes.resize(members + others, Standing::Outside);
        Self { nodes }
    }

    /// A node's store is a new one.
    pub fn begins_anew(&mut self, node: usize) {
        self.nodes[node] = Standing::Outside;
    }

    /// A node was given the chain as it is with itself as a member; `admitted` says whether its store was.
    pub fn joins(&mut self, node: usize, admitted: bool) -> Verdict {
        if self.nodes[node] == Standing::Outside {
            if !admitted {
                return Err(Violation::new(NAME, format!("n{} joins, its store was not admitted", node + 1)));
            }
            self.nodes[node] = Standing::Member;
        }
        Ok(())
    }

    /// A node has applied its own removal.
    pub fn removed(&mut self, node: usize) {
        self.nodes[node] = Standing::Removed;
    }

    /// Whether a node has been removed.
    pub fn is_removed(&self, node: usize) -> bool {
        self.nodes[node] == Standing::Removed
    }

    /// Whether a node was never given the chain.
    pub fn is_outside(&self, node: usize) -> bool {
        self.nodes[node] == Standing::Outside
    }

    /// A replica after a round, with the membership that it goes by.
    pub fn observe(&mut self, node: usize, role: Role, membership: &ConfState) -> Verdict {
        let id = node as u64 + 1;
        if self.nodes[node] == Standing::Removed && is_named(membership, id) {
            // It came back, or it forgot its removal in a crash.
            self.nodes[node] = Standing::Member;
        }
        let votes = membership.voters.contains(&id) || membership.voters_outgoing.contains(&id);
        if votes || role == Role::Follower {
            return Ok(());
        }
        Err(Violation::new(NAME, format!("n{id} has no vote and is a {}", role.as_str())))
    }

    /// A message leaves its sender.
    pub fn sent(&self, node: usize, message: &Message) -> Verdict {
        let promises = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => !message.reject,
            // Without an index it only tells the term, to a leader of an earlier one.
            MessageType::MsgAppendResponse => !message.reject && message.index > 0,
            MessageType::MsgHeartbeatResponse => false,
            _ => true,
        };
        if self.nodes[node] != Standing::Outside || !promises {
            return Ok(());
        }
        let detail = format!("n{} has a new store and sends {:?}", node + 1, message.get_msg_type());
        Err(Violation::new(NAME, detail))
    }
}

/// Whether a membership has this node.
pub fn is_named(membership: &ConfState, id: u64) -> bool {
    let ConfState { voters, learners, voters_outgoing, .. } = membership;
    [voters, learners, voters_outgoing].iter().any(|ids| ids.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, reject: bool) -> Message {
        let mut message = Message { reject, index: 7, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn who_is_outside_promises_nothing() {
        let mut check = SilentOutsiders::new(1, 1);
        check.sent(0, &message(MessageType::MsgRequestVoteResponse, false)).unwrap();
        check.sent(1, &message(MessageType::MsgRequestVoteResponse, false)).expect_err("a vote");
        check.sent(1, &message(MessageType::MsgAppendResponse, false)).expect_err("an acknowledgement");
        check.sent(1, &message(MessageType::MsgRequestPreVote, false)).expect_err("it stands for election");
        check.sent(1, &message(MessageType::MsgAppendResponse, true)).expect("a refusal promises nothing");
        check.joins(1, false).expect_err("not admitted");
        check.joins(1, true).unwrap();
        check.sent(1, &message(MessageType::MsgAppendResponse, false)).unwrap();
        check.begins_anew(1);
        check.sent(1, &message(MessageType::MsgRequestVoteResponse, false)).expect_err("a vote");
    }

    #[test]
    fn who_has_no_vote_neither_stands_nor_leads() {
        let mut check = SilentOutsiders::new(3, 0);
        let membership = ConfState { voters: vec![1], voters_outgoing: vec![2], ..ConfState::default() };
        check.observe(0, Role::Leader, &membership).unwrap();
        check.observe(1, Role::Candidate, &membership).expect("it votes in the outgoing half");
        check.observe(2, Role::Follower, &membership).unwrap();
        check.observe(2, Role::PreCandidate, &membership).expect_err("it stands");
        check.removed(2);
        check.observe(2, Role::Follower, &membership).unwrap();
        assert!(check.is_removed(2));
        check.observe(2, Role::Follower, &ConfState { learners: vec![3], ..membership }).unwrap();
        assert!(!check.is_removed(2), "it came back");
    }
}
