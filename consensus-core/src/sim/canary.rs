//! The canary: one seed whose run must fail, which shows that failures are found and reported.
//!
//! In its run a node that does not lead says that it does, which is a lie that no gate can know.

use super::cluster::{Cluster, Happening};
use super::invariants::Verdict;
use super::schedule::SECOND;
use crate::replica::Message;
use crate::replica::eraftpb::MessageType;

/// The seed.
pub const CANARY: u64 = 0xca9a_29ca_9a29_ca9a;

/// It tries to lie after this time, again and again until somebody leads.
const LIE_AFTER_US: u64 = 20 * SECOND;

impl Cluster {
    /// Schedules the next lie, if this is the canary's run.
    pub(super) fn schedule_lie(&mut self) {
        if self.swarm.seed == CANARY {
            self.schedule.after(LIE_AFTER_US, Happening::Lie);
        }
    }

    /// A node that does not lead sends what only the leader of its term may send.
    pub(super) fn lie(&mut self) -> Verdict {
        if self.quiet || self.nodes.len() < 2 {
            return Ok(());
        }
        self.schedule_lie();
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(running) = self.nodes[leader].running.as_ref() else { return Ok(()) };
        let liar = self.process((leader + 1) % self.nodes.len());
        let (from, to) = (liar.node as u64 + 1, leader as u64 + 1);
        let mut message = Message { from, to, term: running.status.term, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        self.send(liar, vec![message]).map(drop)
    }
}
