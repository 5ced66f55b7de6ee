//! What a replica has heard of the leader that it follows: when, and how far the chain is.
//!
//! The crate is no source for this. It remembers a leader until an election timeout ends, and a replica that
//! never stands (a learner, one that was removed) remembers it for ever. And a heartbeat tells a follower no more
//! than what its leader knows it to have, so right after a start every follower seems to have everything.
//!
//! Elections, commits and reads do not depend on any of this; what is told of the replica does
//! ([`super::health`]).

use raft::StateRole;
use raft::eraftpb::MessageType;

use super::{Message, Replica};

/// What only the leader of a term says.
#[derive(Clone, Copy, Debug)]
struct Word {
    kind: MessageType,
    term: u64,
    commit: u64,
}

impl Word {
    /// What a message is as the word of a leader, if only leaders send such ones.
    fn of(message: &Message) -> Option<Self> {
        let kind = message.get_msg_type();
        let leads =
            matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        leads.then_some(Self { kind, term: message.term, commit: message.commit })
    }
}

/// The words of the leader of one term. Ticks are counted since open.
#[derive(Debug, Default)]
pub(super) struct Heard {
    term: u64,
    /// Since this tick its appends could have come.
    since: u64,
    last: u64,
    commit: Option<u64>,
}

impl Heard {
    /// The log is being replaced, and meanwhile nothing is listened to: how far the chain is must be told anew.
    pub(super) fn forget_commit(&mut self, ticks: u64) {
        (self.since, self.commit) = (ticks, None);
    }

    /// From now on appends are listened to again.
    pub(super) fn listen(&mut self, ticks: u64) {
        self.since = ticks;
    }
}

impl Replica {
    /// Notes a word of a leader; to be called when its message has passed the gate, whether there is room for it or
    /// not.
    pub(super) fn note_leader(&mut self, message: &Message) {
        // One of a later term counts even if it is not let in: who leads now is not followed any more.
        let newest = self.heard.term.max(self.raw.raft.term);
        let Some(word) = Word::of(message).filter(|word| word.term >= newest) else { return };
        if self.heard.term != word.term {
            self.heard = Heard { term: word.term, since: self.ticks, last: self.ticks, commit: None };
        }
        self.heard.last = self.ticks;
        // A leader answers the answer to its heartbeat with what is missing. Where nothing came of that for half an
        // election timeout, nothing is.
        let patience = self.config.election_ticks.div_ceil(2) as u64;
        let tells = match word.kind {
            MessageType::MsgAppend => true,
            MessageType::MsgHeartbeat => self.ticks - self.heard.since >= patience,
            _ => false,
        };
        if tells {
            self.heard.commit = self.heard.commit.max(Some(word.commit));
        }
    }

    /// Whether there is a leader that was heard within two election timeouts. One that hears no majority for as
    /// long steps down by itself.
    pub(super) fn hears_leader(&self) -> bool {
        let raft = &self.raw.raft;
        let bound = 2 * self.config.election_ticks as u64;
        raft.state == StateRole::Leader
            || raft.leader_id != 0 && self.heard.term == raft.term && self.ticks - self.heard.last <= bound
    }

    /// What the leader counts committed, as far as this replica was told in its term. A leader knows it once it
    /// has committed in its own term.
    pub(super) fn told_commit(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            return raft.commit_to_current_term().then_some(raft.raft_log.committed);
        }
        self.heard.commit.filter(|_| raft.leader_id != 0 && self.heard.term == raft.term)
    }
}
