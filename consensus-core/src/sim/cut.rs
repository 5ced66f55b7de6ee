//! Ways of cutting the network between nodes: whole, partial, in one direction.
//!
//! Node numbers are positions from 0. A cut blocks a message at the moment of its sending.

use super::rng::Rng;

/// A way of cutting the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// One node hears nobody and nobody hears it.
    Isolate(usize),
    /// The nodes of the mask hear only each other, and so do the rest.
    Halves(u64),
    /// Nothing that the nodes of the mask send arrives at the rest.
    OneWayHalves(u64),
    /// Nothing from the first arrives at the second.
    OneWay(usize, usize),
    /// Nothing that the node sends arrives.
    Mute(usize),
    /// Nothing arrives at the node.
    Deaf(usize),
    /// The two do not hear each other; all others hear both.
    Pair(usize, usize),
    /// Each of so many nodes hears only its neighbours in a circle.
    Ring(usize),
    /// Two halves that hear each other only by way of this node, which is in both.
    Bridge(u64, usize),
}

impl Cut {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolate(_) => "isolate",
            Self::Halves(_) => "halves",
            Self::OneWayHalves(_) => "one-way halves",
            Self::OneWay(..) => "one-way",
            Self::Mute(_) => "mute",
            Self::Deaf(_) => "deaf",
            Self::Pair(..) => "pair",
            Self::Ring(_) => "ring",
            Self::Bridge(..) => "bridge",
        }
    }

    /// Some way among `nodes` nodes, two at least; `leader` is cut off more often than others.
    pub fn draw(rng: &mut Rng, nodes: usize, leader: Option<usize>) -> Self {
        let any = rng.below(nodes as u64) as usize;
        let other = (any + 1 + rng.below(nodes as u64 - 1) as usize) % nodes;
        let target = if rng.coin() { leader.unwrap_or(any) } else { any };
        let mask = rng.between(1, (1 << nodes) - 2);
        match rng.below(9) {
            0 => Self::Isolate(target),
            1 => Self::Halves(mask),
            2 => Self::OneWay(any, other),
            3 => Self::Mute(target),
            4 => Self::Deaf(target),
            5 => Self::Pair(any, other),
            6 => Self::OneWayHalves(mask),
            7 => Self::Ring(nodes),
            _ => Self::Bridge(mask, any),
        }
    }

    /// Whether nothing from one arrives at the other.
    pub fn blocks(self, from: usize, to: usize) -> bool {
        let within = |mask: u64, node: usize| (mask >> node) & 1 == 1;
        match self {
            Self::Isolate(node) => from == node || to == node,
            Self::Halves(mask) => within(mask, from) != within(mask, to),
            Self::OneWayHalves(mask) => within(mask, from) && !within(mask, to),
            Self::OneWay(a, b) => from == a && to == b,
            Self::Mute(node) => from == node,
            Self::Deaf(node) => to == node,
            Self::Pair(a, b) => (from == a && to == b) || (from == b && to == a),
            Self::Ring(nodes) => (from + 1) % nodes != to && (to + 1) % nodes != from,
            Self::Bridge(mask, bridge) => {
                from != bridge && to != bridge && within(mask, from) != within(mask, to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_blocks_what_it_says_and_nothing_else() {
        let blocked = |cut: Cut, nodes: usize| {
            let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
            pairs.filter(|(from, to)| from != to && cut.blocks(*from, *to)).collect::<Vec<_>>()
        };
        assert_eq!(blocked(Cut::Isolate(0), 3), [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(blocked(Cut::Halves(0b011), 3), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(blocked(Cut::OneWayHalves(0b011), 3), [(0, 2), (1, 2)]);
        assert_eq!(blocked(Cut::OneWay(0, 2), 3), [(0, 2)]);
        assert_eq!(blocked(Cut::Mute(1), 3), [(1, 0), (1, 2)]);
        assert_eq!(blocked(Cut::Deaf(1), 3), [(0, 1), (2, 1)]);
        assert_eq!(blocked(Cut::Pair(0, 1), 3), [(0, 1), (1, 0)]);
        assert_eq!(blocked(Cut::Ring(4), 4), [(0, 2), (1, 3), (2, 0), (3, 1)]);
        assert_eq!(blocked(Cut::Bridge(0b0011, 1), 4), [(0, 2), (0, 3), (2, 0), (3, 0)]);
    }
}
