//! The network between the nodes: how long a message takes and whether it arrives.
//!
//! Each ordered pair of nodes is a link with its own streams. A cut blocks links at the moment of sending;
//! what is on its way arrives. A clog holds everything on a link for a while and then lets it go at once. A
//! link carries so many messages at a time and loses what is beyond. This module decides; the cluster
//! schedules.
//!
//! What it does not do: corrupt bytes. Messages are values here; the codec that must find corruption is in
//! the server, below the core.

use std::collections::VecDeque;

use super::cut::Cut;
use super::rng::{Rng, Stream};
use super::schedule::MILLISECOND;
use super::swarm::{Latencies, NetworkFaults};

/// Extra time of a snapshot, which travels on a stream of its own.
const SNAPSHOT_EXTRA_US: u64 = 20 * MILLISECOND;

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// When it arrives; `None`: lost.
    pub arrives_us: Option<u64>,
    /// When it arrives once more.
    pub again_us: Option<u64>,
    /// Whether the sender's transport notices a loss.
    pub noticed: bool,
}

#[derive(Debug)]
struct Link {
    latency: Rng,
    loss: Rng,
    duplicate: Rng,
    report: Rng,
    last_arrival_us: u64,
    clogged_until_us: u64,
    /// When the messages that are under way arrive.
    under_way: VecDeque<u64>,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    links: Vec<Link>,
    latencies: Latencies,
    faults: NetworkFaults,
    cuts: Vec<Cut>,
    /// Nodes that are left out for good, until [`Self::rejoin`].
    left_out: u64,
    quiet: bool,
    overfull: u64,
}

impl Network {
    /// A whole network of nodes `0..nodes`.
    pub fn new(seed: u64, nodes: usize, latencies: &Latencies, faults: &NetworkFaults) -> Self {
        let links = (0..(nodes * nodes) as u64)
            .map(|link| Link {
                latency: Rng::new(seed, Stream::LinkLatency, link),
                loss: Rng::new(seed, Stream::LinkLoss, link),
                duplicate: Rng::new(seed, Stream::LinkDuplicate, link),
                report: Rng::new(seed, Stream::LinkReport, link),
                last_arrival_us: 0,
                clogged_until_us: 0,
                under_way: VecDeque::new(),
            })
            .collect();
        Self {
            nodes,
            links,
            latencies: latencies.clone(),
            faults: faults.clone(),
            cuts: Vec::new(),
            left_out: 0,
            quiet: false,
            overfull: 0,
        }
    }

    /// Cuts the network, beside the cuts that are there.
    pub fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Holds what is and will be on a link until a time.
    pub fn clog(&mut self, from: usize, to: usize, until_us: u64) {
        let link = &mut self.links[from * self.nodes + to];
        link.clogged_until_us = link.clogged_until_us.max(until_us);
    }

    /// Ends all faults for ever; the nodes of the mask stay without any link until [`Self::rejoin`].
    pub fn quieten(&mut self, left_out: u64) {
        self.cuts.clear();
        self.links.iter_mut().for_each(|link| link.clogged_until_us = 0);
        self.left_out = left_out;
        self.quiet = true;
    }

    /// Everybody is connected.
    pub fn rejoin(&mut self) {
        self.left_out = 0;
    }

    /// Messages that did not fit a link.
    pub fn overfull(&self) -> u64 {
        self.overfull
    }

    fn blocked(&self, from: usize, to: usize) -> bool {
        (self.left_out >> from) & 1 == 1
            || (self.left_out >> to) & 1 == 1
            || self.cuts.iter().any(|cut| cut.blocks(from, to))
    }

    /// Decides about one message of `from` to `to`, sent now.
    pub fn send(&mut self, now_us: u64, from: usize, to: usize, snapshot: bool) -> Fate {
        let blocked = self.blocked(from, to);
        let link = &mut self.links[from * self.nodes + to];
        let transit = self.latencies.link_min_us + link.latency.exponential(self.latencies.link_mean_us);
        let lost = link.loss.chance(self.faults.loss) && !self.quiet;
        let twice = link.duplicate.chance(self.faults.duplicate) && !self.quiet;
        let later_us = link.duplicate.below(self.faults.duplicate_after_us);
        let noticed = link.report.coin();
        while link.under_way.pop_front_if(|arrives_us| *arrives_us <= now_us).is_some() {}
        let full = !self.quiet && self.faults.capacity.is_some_and(|most| link.under_way.len() >= most);
        self.overfull += u64::from(full && !blocked && !lost);
        if blocked || lost || full {
            return Fate { arrives_us: None, again_us: None, noticed };
        }
        let mut arrives_us = (now_us + transit).max(link.clogged_until_us);
        if snapshot {
            arrives_us += SNAPSHOT_EXTRA_US;
        } else if !self.faults.reorder || self.quiet {
            arrives_us = arrives_us.max(link.last_arrival_us);
            link.last_arrival_us = arrives_us;
        }
        if self.faults.capacity.is_some() {
            let place = link.under_way.partition_point(|other| *other <= arrives_us);
            link.under_way.insert(place, arrives_us);
        }
        let again_us = twice.then_some(arrives_us + later_us);
        Fate { arrives_us: Some(arrives_us), again_us, noticed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::super::swarm::Swarm;
    use super::*;

    fn network(loss: u32, duplicate: u32, reorder: bool) -> Network {
        let swarm = Swarm::derive(1);
        let faults = NetworkFaults { loss, duplicate, reorder, capacity: None, ..swarm.network };
        Network::new(1, 3, &swarm.latencies, &faults)
    }

    #[test]
    fn cuts_add_up_until_they_are_healed() {
        let mut network = network(0, 0, true);
        network.cut(Cut::OneWay(0, 1));
        network.cut(Cut::Deaf(2));
        let arrives = |network: &mut Network, from, to| network.send(0, from, to, false).arrives_us.is_some();
        assert!(!arrives(&mut network, 0, 1) && !arrives(&mut network, 0, 2) && arrives(&mut network, 1, 0));
        network.heal();
        assert!(arrives(&mut network, 0, 1) && arrives(&mut network, 0, 2));
    }

    #[test]
    fn a_clog_holds_everything_and_lets_it_go_at_once() {
        let mut network = network(0, 0, true);
        network.clog(0, 1, 5_000_000);
        let arrivals: Vec<_> = (0..20).map(|now_us| network.send(now_us, 0, 1, false).arrives_us).collect();
        assert_eq!(arrivals, vec![Some(5_000_000); 20]);
        assert!(network.send(0, 1, 0, false).arrives_us.is_some_and(|at_us| at_us < 5_000_000));
    }

    #[test]
    fn a_link_loses_what_is_beyond_its_capacity() {
        let mut network = network(0, 0, true);
        network.faults.capacity = Some(2);
        network.clog(0, 1, 1_000);
        let arrived = |network: &mut Network, now_us| network.send(now_us, 0, 1, false).arrives_us.is_some();
        assert!(arrived(&mut network, 0) && arrived(&mut network, 0) && !arrived(&mut network, 0));
        assert_eq!(network.overfull(), 1);
        assert!(arrived(&mut network, 900_000_000), "what has arrived makes room");
    }

    #[test]
    fn a_link_without_reordering_keeps_the_order_of_sending() {
        let mut network = network(0, 0, false);
        let arrivals: Vec<_> =
            (0..100).filter_map(|now_us| network.send(now_us, 0, 1, false).arrives_us).collect();
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn without_loss_the_other_messages_take_as_long_as_with_it() {
        let (mut lossy, mut safe) = (network(500_000, 0, true), network(0, 0, true));
        let mut lost = 0;
        for now_us in 0..100 {
            let (fate, other) = (lossy.send(now_us, 0, 1, false), safe.send(now_us, 0, 1, false));
            match fate.arrives_us {
                Some(arrives_us) => assert_eq!(Some(arrives_us), other.arrives_us),
                None => lost += 1,
            }
        }
        assert!((20..80).contains(&lost), "{lost} of 100 lost");
    }

    #[test]
    fn a_quiet_network_loses_nothing_but_what_is_left_out() {
        let mut network = network(1_000_000, 1_000_000, true);
        network.cut(Cut::Isolate(0));
        network.quieten(0b100);
        assert!((0..50).all(|now_us| {
            let fate = network.send(now_us, 0, 1, false);
            fate.arrives_us.is_some() && fate.again_us.is_none()
        }));
        assert_eq!(network.send(0, 0, 2, false).arrives_us, None);
        network.rejoin();
        assert!(network.send(0, 0, 2, false).arrives_us.is_some());
    }
}
