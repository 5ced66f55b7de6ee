//! D1: nothing that a node promises leaves it before the promise is durable: votes, acceptances of entries,
//! and a leader's word, which rests on its term and its vote for itself (house rule "durable before heard";
//! Raft paper, figure 2, "updated on stable storage before responding"; thesis, section 10.2.1).
//!
//! A promise of a former term needs no more than the later term on disk: whoever has that will never act on
//! the former one again. Refusals, heartbeat responses and the messages of pre-votes promise nothing.

use super::{Verdict, Violation};
use crate::replica::Message;
use crate::replica::eraftpb::MessageType;
use crate::sim::image::LogImage;

/// Judges a message against what its sender has on disk.
#[derive(Debug, Default)]
pub struct DurableBeforeHeard;

impl DurableBeforeHeard {
    /// A message leaves its sender, whose disk has this.
    pub fn sent(&self, message: &Message, durable: &LogImage) -> Verdict {
        let hard_state = durable.hard_state();
        let vote = hard_state.vote.map_or(0, |vote| vote.get());
        let kept = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse if !message.reject => vote == message.to,
            MessageType::MsgRequestVote
            | MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgSnapshot
            | MessageType::MsgTimeoutNow => vote == message.from,
            MessageType::MsgAppendResponse if !message.reject => durable.last() >= message.index,
            MessageType::MsgAppendResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse => return Ok(()),
            other => {
                let detail = format!("n{} sends {other:?}, which is no message between peers", message.from);
                return Err(Violation::new("D1 durable before heard", detail));
            }
        };
        if hard_state.term > message.term || (hard_state.term == message.term && kept) {
            return Ok(());
        }
        let detail = format!(
            "n{} sends {:?} to n{} in term {} for index {}, durable is {hard_state:?} with a log to {}",
            message.from,
            message.get_msg_type(),
            message.to,
            message.term,
            message.index,
            durable.last()
        );
        Err(Violation::new("D1 durable before heard", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::sim::image::EntryDigest;
    use crate::storage::{HardState, Position};

    fn disk(term: u64, vote: u64, entries: u64) -> LogImage {
        let hard_state = HardState { term, vote: NodeId::new(vote), commit: 0 };
        let mut image = LogImage::new(Position::default(), hard_state, 0, 0);
        (0..entries).for_each(|_| image.push(EntryDigest { term: 1, content: 0 }));
        image
    }

    fn judge(kind: MessageType, index: u64, disk: &LogImage) -> Verdict {
        let mut message = Message { from: 1, to: 2, term: 5, index, ..Message::default() };
        message.set_msg_type(kind);
        DurableBeforeHeard.sent(&message, disk)
    }

    #[test]
    fn a_promise_needs_its_term_its_vote_or_its_entries_on_disk() {
        judge(MessageType::MsgRequestVoteResponse, 0, &disk(5, 2, 0)).unwrap();
        judge(MessageType::MsgRequestVoteResponse, 0, &disk(5, 0, 0)).expect_err("the vote is not durable");
        judge(MessageType::MsgRequestVoteResponse, 0, &disk(4, 2, 0)).expect_err("the term is not durable");
        judge(MessageType::MsgAppend, 0, &disk(5, 1, 0)).unwrap();
        judge(MessageType::MsgAppend, 0, &disk(5, 2, 0)).expect_err("the vote for itself is not durable");
        judge(MessageType::MsgAppendResponse, 3, &disk(5, 0, 3)).unwrap();
        judge(MessageType::MsgAppendResponse, 3, &disk(5, 0, 2)).expect_err("an entry is not durable");
        judge(MessageType::MsgAppendResponse, 3, &disk(6, 0, 2)).expect("the term is over for this node");
        judge(MessageType::MsgHeartbeatResponse, 0, &disk(0, 0, 0)).unwrap();
        judge(MessageType::MsgPropose, 0, &disk(9, 1, 9)).expect_err("never sent to peers");
    }
}
