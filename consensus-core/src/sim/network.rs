//! The network between the nodes: how long a message takes and whether it arrives.
//!
//! Each ordered pair of nodes is a link with its own streams. Partitions block links, in one direction or
//! both, at the moment of sending; what is on its way arrives. This module decides; the cluster schedules.

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

/// A way of cutting the network. Node numbers are positions from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// One node hears nobody and nobody hears it.
    Isolate(usize),
    /// The nodes of the mask hear only each other, and so do the rest.
    Halves(u64),
    /// Nothing from the first arrives at the second.
    OneWay(usize, usize),
    /// Nothing that the node sends arrives.
    Mute(usize),
    /// Nothing arrives at the node.
    Deaf(usize),
    /// The two do not hear each other; all others hear both.
    Pair(usize, usize),
}

impl Cut {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolate(_) => "isolate",
            Self::Halves(_) => "halves",
            Self::OneWay(..) => "one-way",
            Self::Mute(_) => "mute",
            Self::Deaf(_) => "deaf",
            Self::Pair(..) => "pair",
        }
    }

    /// Some way among `nodes` nodes; `leader` is cut off more often than others.
    pub fn draw(rng: &mut Rng, nodes: usize, leader: Option<usize>) -> Self {
        let any = rng.below(nodes as u64) as usize;
        let other = (any + 1 + rng.below(nodes as u64 - 1) as usize) % nodes;
        let target = if rng.coin() { leader.unwrap_or(any) } else { any };
        match rng.below(6) {
            0 => Self::Isolate(target),
            1 => Self::Halves(rng.between(1, (1 << nodes) - 2)),
            2 => Self::OneWay(any, other),
            3 => Self::Mute(target),
            4 => Self::Deaf(target),
            _ => Self::Pair(any, other),
        }
    }

    fn blocks(self, from: usize, to: usize) -> bool {
        match self {
            Self::Isolate(node) => from == node || to == node,
            Self::Halves(mask) => (mask >> from) & 1 != (mask >> to) & 1,
            Self::OneWay(a, b) => from == a && to == b,
            Self::Mute(node) => from == node,
            Self::Deaf(node) => to == node,
            Self::Pair(a, b) => (from == a && to == b) || (from == b && to == a),
        }
    }
}

#[derive(Debug)]
struct Link {
    latency: Rng,
    loss: Rng,
    duplicate: Rng,
    report: Rng,
    last_arrival_us: u64,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    links: Vec<Link>,
    latencies: Latencies,
    faults: NetworkFaults,
    cut: Option<Cut>,
    quiet: bool,
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
            })
            .collect();
        Self { nodes, links, latencies: latencies.clone(), faults: faults.clone(), cut: None, quiet: false }
    }

    /// Cuts the network; an earlier cut ends.
    pub fn cut(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    /// Ends the cut.
    pub fn heal(&mut self) {
        self.cut = None;
    }

    /// Ends all faults for ever.
    pub fn quieten(&mut self) {
        self.cut = None;
        self.quiet = true;
    }

    /// Decides about one message of `from` to `to`, sent now.
    pub fn send(&mut self, now_us: u64, from: usize, to: usize, snapshot: bool) -> Fate {
        let blocked = self.cut.is_some_and(|cut| cut.blocks(from, to));
        let link = &mut self.links[from * self.nodes + to];
        let transit = self.latencies.link_min_us + link.latency.exponential(self.latencies.link_mean_us);
        let lost = link.loss.chance(self.faults.loss) && !self.quiet;
        let twice = link.duplicate.chance(self.faults.duplicate) && !self.quiet;
        let later_us = link.duplicate.below(self.faults.duplicate_after_us);
        let noticed = link.report.coin();
        if blocked || lost {
            return Fate { arrives_us: None, again_us: None, noticed };
        }
        let mut arrives_us = now_us + transit;
        if snapshot {
            arrives_us += SNAPSHOT_EXTRA_US;
        } else if !self.faults.reorder || self.quiet {
            arrives_us = arrives_us.max(link.last_arrival_us);
            link.last_arrival_us = arrives_us;
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
        let faults = NetworkFaults { loss, duplicate, reorder, ..swarm.network };
        Network::new(1, 3, &swarm.latencies, &faults)
    }

    #[test]
    fn a_cut_blocks_what_it_says_and_nothing_else() {
        let blocked = |cut: Cut| {
            let mut network = network(0, 0, true);
            network.cut(cut);
            let pairs =
                (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to);
            pairs
                .filter(|(from, to)| network.send(0, *from, *to, false).arrives_us.is_none())
                .collect::<Vec<_>>()
        };
        assert_eq!(blocked(Cut::Isolate(0)), [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(blocked(Cut::Halves(0b011)), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(blocked(Cut::OneWay(0, 2)), [(0, 2)]);
        assert_eq!(blocked(Cut::Mute(1)), [(1, 0), (1, 2)]);
        assert_eq!(blocked(Cut::Deaf(1)), [(0, 1), (2, 1)]);
        assert_eq!(blocked(Cut::Pair(0, 1)), [(0, 1), (1, 0)]);
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
    fn a_quiet_network_loses_nothing() {
        let mut network = network(1_000_000, 1_000_000, true);
        network.cut(Cut::Isolate(0));
        network.quieten();
        assert!((0..50).all(|now_us| {
            let fate = network.send(now_us, 0, 1, false);
            fate.arrives_us.is_some() && fate.again_us.is_none()
        }));
    }
}
