//! S8: a node gives one vote per term over all of its incarnations (Raft paper, section 5.2).
//!
//! Only votes that left the node count. Asking for votes is voting for oneself.

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::replica::Message;
use crate::replica::eraftpb::MessageType;

/// Whom each node voted for.
#[derive(Debug, Default)]
pub struct OneVotePerTerm {
    votes: BTreeMap<(u64, u64), u64>,
}

impl OneVotePerTerm {
    /// A message leaves its sender.
    pub fn sent(&mut self, message: &Message) -> Verdict {
        let candidate = match message.get_msg_type() {
            MessageType::MsgRequestVote => message.from,
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            _ => return Ok(()),
        };
        let (node, term) = (message.from, message.term);
        let first = *self.votes.entry((term, node)).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        Err(Violation::new(
            "S8 one vote per term",
            format!("n{node} votes for n{candidate} in term {term}, before for n{first}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, from: u64, to: u64, term: u64, reject: bool) -> Message {
        let mut message = Message { from, to, term, reject, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn a_candidate_that_grants_its_term_to_another_violates_it() {
        let mut check = OneVotePerTerm::default();
        check.sent(&message(MessageType::MsgRequestVote, 1, 2, 7, false)).unwrap();
        check.sent(&message(MessageType::MsgRequestVote, 1, 3, 7, false)).unwrap();
        check.sent(&message(MessageType::MsgRequestVoteResponse, 1, 2, 7, true)).unwrap();
        check.sent(&message(MessageType::MsgRequestVoteResponse, 1, 2, 8, false)).unwrap();
        check.sent(&message(MessageType::MsgRequestVoteResponse, 1, 2, 7, false)).expect_err("a second vote");
    }
}
