//! Rules for links, and the board on which the proxies look them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// From one node to another.
pub(crate) type Link = (u64, u64);

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Passage {
    #[default]
    Open,
    /// Nothing passes and nobody is told.
    Silent,
    /// Nothing passes, connections are reset.
    Refused,
}

/// What happens on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) passage: Passage,
    pub(crate) delay: Duration,
    /// Added to the delay, drawn anew for each piece, at most.
    pub(crate) jitter: Duration,
    pub(crate) bytes_per_s: Option<u64>,
    /// Of the packets.
    pub(crate) loss_percent: u64,
}

impl Rule {
    pub(crate) fn passage(passage: Passage) -> Self {
        Self { passage, ..Self::default() }
    }

    /// Both rules at once.
    fn and(self, other: Self) -> Self {
        let bytes_per_s = match (self.bytes_per_s, other.bytes_per_s) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            passage: self.passage.max(other.passage),
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            bytes_per_s,
            loss_percent: self.loss_percent.max(other.loss_percent),
        }
    }
}

/// The rules of several faults as one.
pub(super) fn combined(faults: &[&BTreeMap<Link, Rule>]) -> BTreeMap<Link, Rule> {
    let mut rules = BTreeMap::<Link, Rule>::new();
    for (link, rule) in faults.iter().flat_map(|fault| fault.iter()) {
        let combined = rules.entry(*link).or_default();
        *combined = combined.and(*rule);
    }
    rules
}

/// How often rules had an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Pieces or packets that did not pass.
    pub(crate) held: u64,
    /// Pieces that passed late.
    pub(crate) delayed: u64,
    /// Pieces that waited for their share of the link.
    pub(crate) slowed: u64,
    /// Connections that were reset or refused.
    pub(crate) reset: u64,
    /// Connections that were ended at one end.
    pub(crate) half_opened: u64,
}

/// The rules as they are now, and counts of what they did.
#[derive(Debug, Default)]
pub(crate) struct Board {
    rules: Mutex<BTreeMap<Link, Rule>>,
    held: AtomicU64,
    delayed: AtomicU64,
    slowed: AtomicU64,
    reset: AtomicU64,
    half_opened: AtomicU64,
}

/// What a rule did.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    Held,
    Delayed,
    Slowed,
    Reset,
    HalfOpened,
}

impl Board {
    pub(super) fn replace(&self, rules: BTreeMap<Link, Rule>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    pub(super) fn rule(&self, link: Link) -> Rule {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.get(&link).copied().unwrap_or_default()
    }

    pub(super) fn count(&self, effect: Effect) {
        let counter = match effect {
            Effect::Held => &self.held,
            Effect::Delayed => &self.delayed,
            Effect::Slowed => &self.slowed,
            Effect::Reset => &self.reset,
            Effect::HalfOpened => &self.half_opened,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn effects(&self) -> Effects {
        Effects {
            held: self.held.load(Ordering::Relaxed),
            delayed: self.delayed.load(Ordering::Relaxed),
            slowed: self.slowed.load(Ordering::Relaxed),
            reset: self.reset.load(Ordering::Relaxed),
            half_opened: self.half_opened.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_several_faults_add_up_and_the_stricter_passage_holds() {
        let late = Rule { delay: Duration::from_millis(5), bytes_per_s: Some(10), ..Rule::default() };
        let silent = Rule { bytes_per_s: Some(7), ..Rule::passage(Passage::Silent) };
        let refused = Rule::passage(Passage::Refused);
        let one = BTreeMap::from([((1, 2), late), ((2, 1), late)]);
        let other = BTreeMap::from([((1, 2), silent)]);
        let third = BTreeMap::from([((1, 2), refused)]);
        let rules = combined(&[&one, &other, &third]);
        assert_eq!(rules[&(1, 2)], Rule { bytes_per_s: Some(7), ..late.and(refused) });
        assert_eq!(rules[&(1, 2)].passage, Passage::Refused);
        assert_eq!(rules[&(2, 1)], late);
        assert_eq!(combined(&[]), BTreeMap::new());
    }
}
