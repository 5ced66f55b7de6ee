//! Linearizable reads by ReadIndex.
//!
//! A context confirmed once must never be used again: the crate would take an old heartbeat's answer for a
//! confirmation of the new question. So each attempt carries a fresh counter behind this start's nonce.
//! Before the leader has committed in its own term the crate drops the question silently; such reads wait
//! here. Whatever is not confirmed in time is answered, never dropped.

use std::collections::{BTreeMap, VecDeque};

use super::proposals::fail;
use super::{Effect, Effects, Outcome, Refusal};
use crate::ids::{NodeId, Ticket};
use crate::mutant::{self, Mutant};
use crate::reach::reach;

#[derive(Debug)]
pub(super) struct Reads {
    nonce: u64,
    counter: u64,
    timeout_ticks: u64,
    /// Not asked yet, with their deadlines.
    parked: VecDeque<(Ticket, u64)>,
    /// Asked under a counter.
    asked: BTreeMap<u64, Vec<(Ticket, u64)>>,
    /// Confirmed, by the index that must be applied.
    confirmed: BTreeMap<u64, Vec<Ticket>>,
    count: usize,
}

impl Reads {
    pub(super) fn new(nonce: u64, timeout_ticks: u64) -> Self {
        Self {
            nonce,
            counter: 0,
            timeout_ticks,
            parked: VecDeque::new(),
            asked: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            count: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    pub(super) fn park(&mut self, ticket: Ticket, now: u64) {
        self.count += 1;
        self.parked.push_back((ticket, now + self.timeout_ticks));
    }

    /// A context that was never used.
    pub(super) fn next_context(&mut self) -> Vec<u8> {
        self.counter = if mutant::is(Mutant::ReadContextReused) { 1 } else { self.counter + 1 };
        let mut context = self.nonce.to_be_bytes().to_vec();
        context.extend(self.counter.to_be_bytes());
        context
    }

    /// The crate has taken the question under the last context: it stands for all parked reads.
    pub(super) fn asked(&mut self) {
        self.asked.insert(self.counter, self.parked.drain(..).collect());
    }

    pub(super) fn confirm(&mut self, context: &[u8], index: u64) {
        let Some((nonce, counter)) = context.split_at_checked(8) else { return };
        if nonce != self.nonce.to_be_bytes() {
            return;
        }
        let Ok(counter) = counter.try_into().map(u64::from_be_bytes) else { return };
        if let Some(reads) = self.asked.remove(&counter) {
            self.confirmed.entry(index).or_default().extend(reads.into_iter().map(|(ticket, _)| ticket));
        }
    }

    pub(super) fn applied(&mut self, applied: u64, effects: &mut Effects) {
        while let Some(first) = self.confirmed.first_entry() {
            if *first.key() > applied {
                break;
            }
            let index = *first.key();
            for ticket in first.remove() {
                self.count -= 1;
                effects.push(Effect::Answer { ticket, outcome: Outcome::ReadIndex { index } });
            }
        }
    }

    pub(super) fn expire(&mut self, now: u64, effects: &mut Effects) {
        let mut late: Vec<Ticket> = Vec::new();
        self.parked.retain(|(ticket, deadline)| keep(*ticket, *deadline, now, &mut late));
        self.asked.retain(|_, reads| {
            reads.retain(|(ticket, deadline)| keep(*ticket, *deadline, now, &mut late));
            !reads.is_empty()
        });
        self.count -= late.len();
        for ticket in late {
            fail(ticket, Refusal::TimedOut { ticks: self.timeout_ticks }, effects);
        }
    }

    /// Nobody will confirm what is not confirmed yet.
    pub(super) fn lost(&mut self, leader: Option<NodeId>, effects: &mut Effects) {
        let tickets: Vec<Ticket> = self
            .parked
            .drain(..)
            .chain(std::mem::take(&mut self.asked).into_values().flatten())
            .map(|(ticket, _)| ticket)
            .collect();
        self.count -= tickets.len();
        reach!(ReadLostWithLeadership, !tickets.is_empty());
        for ticket in tickets {
            fail(ticket, Refusal::NotLeader { leader }, effects);
        }
    }

    pub(super) fn halt(&mut self, effects: &mut Effects) {
        self.lost(None, effects);
        for ticket in std::mem::take(&mut self.confirmed).into_values().flatten() {
            fail(ticket, Refusal::Halted, effects);
        }
        self.count = 0;
    }
}

fn keep(ticket: Ticket, deadline: u64, now: u64, late: &mut Vec<Ticket>) -> bool {
    if deadline <= now {
        reach!(ReadExpired);
        late.push(ticket);
    }
    deadline > now
}
