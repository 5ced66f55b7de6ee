//! What a script wants a network to do wrong with the messages that it carries.
//!
//! Loss, doubling, delay and disorder happen where a message leaves its node; a blocked peer is cut off
//! where the message leaves, or where it arrives. Randomness comes from one seed.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// An order of `POST /faults`: all that is wrong from now on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Order {
    /// Only messages of this module are lost, doubled, delayed; none: all.
    pub module: Option<String>,
    /// Share of messages that are lost.
    pub loss: f64,
    /// Share of messages that arrive twice.
    pub duplicate: f64,
    /// What every message takes longer.
    pub delay_ms: u64,
    /// What a message takes longer at most, at random: they overtake each other.
    pub reorder_ms: u64,
    /// Addresses (or their first 8 bytes, in hexadecimal) of nodes that nothing comes from.
    pub block_in: Vec<String>,
    /// The same of nodes that nothing goes to.
    pub block_out: Vec<String>,
    /// Nothing leaves or arrives for this long from now; it waits.
    pub pause_ms: u64,
}

/// What is wrong now.
#[derive(Debug)]
pub(super) struct Faults {
    order: Order,
    block_in: Vec<u64>,
    block_out: Vec<u64>,
    paused_until: Option<Instant>,
    random: StdRng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            order: Order::default(),
            block_in: Vec::new(),
            block_out: Vec::new(),
            paused_until: None,
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Takes an order in place of the last one.
    ///
    /// # Errors
    /// When it says something that cannot be.
    pub(super) fn take(&mut self, order: Order) -> Result<()> {
        for (name, share) in [("loss", order.loss), ("duplicate", order.duplicate)] {
            ensure!((0.0..=1.0).contains(&share), "{name} {share} is no share from 0 to 1");
        }
        let origins = |texts: &[String]| texts.iter().map(|text| origin(text)).collect::<Result<Vec<_>>>();
        (self.block_in, self.block_out) = (origins(&order.block_in)?, origins(&order.block_out)?);
        let pause = Duration::from_millis(order.pause_ms);
        self.paused_until = Some(Instant::now() + pause).filter(|_| !pause.is_zero());
        self.order = order;
        Ok(())
    }

    /// After how long each copy of a message leaves; none at all if it is lost.
    pub(super) fn departures(&mut self, module: &str) -> Vec<Duration> {
        let Order { loss, duplicate, delay_ms, reorder_ms, .. } = self.order;
        if self.order.module.as_deref().is_some_and(|only| only != module) {
            return vec![Duration::ZERO];
        }
        if loss > 0.0 && self.random.random_bool(loss) {
            return Vec::new();
        }
        let copies = if duplicate > 0.0 && self.random.random_bool(duplicate) { 2 } else { 1 };
        let mut departure = || {
            let extra = if reorder_ms == 0 { 0 } else { self.random.random_range(0..=reorder_ms) };
            Duration::from_millis(delay_ms + extra)
        };
        (0..copies).map(|_| departure()).collect()
    }

    /// Whether nothing comes from a node with one of these origins.
    pub(super) fn is_blocked_in(&self, origins: [u64; 2]) -> bool {
        origins.iter().any(|origin| self.block_in.contains(origin))
    }

    /// Whether nothing goes to a node with one of these origins.
    pub(super) fn is_blocked_out(&self, origins: [u64; 2]) -> bool {
        origins.iter().any(|origin| self.block_out.contains(origin))
    }

    /// Until when nothing moves.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until.filter(|end| *end > Instant::now())
    }
}

fn origin(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let first = digits.get(..16).filter(|first| first.chars().all(|c| c.is_ascii_hexdigit()));
    ensure!(first.is_some(), "{text:?} does not begin with 16 hexadecimal digits");
    Ok(u64::from_str_radix(first.unwrap_or_default(), 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Faults {
        let mut faults = Faults::new(7);
        faults.take(serde_json::from_str(json).unwrap()).unwrap();
        faults
    }

    #[test]
    fn shares_are_kept_and_other_modules_are_left_alone() {
        let mut faults = faults(r#"{"loss":0.25,"duplicate":0.5,"module":"consensus"}"#);
        let copies = (0..4000).map(|_| faults.departures("consensus").len()).collect::<Vec<_>>();
        let lost = copies.iter().filter(|count| **count == 0).count();
        let doubled = copies.iter().filter(|count| **count == 2).count();
        assert!((900..1100).contains(&lost), "{lost}");
        assert!((1400..1600).contains(&doubled), "{doubled}");
        assert_eq!(faults.departures("controller"), [Duration::ZERO]);
    }

    #[test]
    fn a_peer_is_blocked_by_its_address_in_one_direction() {
        let faults = faults(r#"{"block_out":["c1bcd410636e5ece8699d44ec1b47996d7895ebe"]}"#);
        assert!(faults.is_blocked_out([5, 0xc1bc_d410_636e_5ece]));
        assert!(!faults.is_blocked_out([5, 6]));
        assert!(!faults.is_blocked_in([5, 0xc1bc_d410_636e_5ece]));
    }

    #[test]
    fn an_order_that_cannot_be_carried_out_is_refused() {
        let mut faults = Faults::new(7);
        for json in [r#"{"loss":1.5}"#, r#"{"block_in":["c1bc"]}"#] {
            assert!(faults.take(serde_json::from_str(json).unwrap()).is_err(), "{json}");
        }
    }
}
