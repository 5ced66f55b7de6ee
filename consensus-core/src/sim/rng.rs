//! Randomness from one seed.
//!
//! Every decision of a run is drawn from a stream of its own, named by what is decided and for which
//! object (a link, a node, a client). A stream knows only the seed, its name and how often it was asked,
//! so that switching one fault off leaves the draws of all others as they were.
//!
//! Only integers: the same seed gives the same run on every machine.

/// What a stream decides. The numbers are part of a seed's meaning: new ones go to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// The swarm configuration; the object is the field.
    Swarm,
    /// A message's time on a link.
    LinkLatency,
    /// Whether a message is lost.
    LinkLoss,
    /// Whether a message arrives twice, and when.
    LinkDuplicate,
    /// Whether a sender learns of a loss.
    LinkReport,
    /// Partitions: when, which, how long.
    Partition,
    /// How long a sync takes.
    DiskLatency,
    /// Whether a sync stalls, and how long.
    DiskStall,
    /// How much of what is not synced survives a crash.
    DiskCrash,
    /// Whether a node crashes after an effect; the object is node and boundary.
    BoundaryCrash,
    /// Crashes by the clock.
    TimedCrash,
    /// How long a crashed node is down.
    Downtime,
    /// All nodes lose power.
    PowerCut,
    /// A node stands still and goes on.
    Pause,
    /// A node's clock: drift and phase.
    Clock,
    /// How long a round of the driver takes.
    Driver,
    /// How long the application takes.
    Application,
    /// What clients submit, when and where.
    Workload,
    /// Time between a client and a node, and losses there.
    ClientLink,
    /// A replica's own generator for election timeouts.
    Election,
    /// Transfers of leadership.
    Transfer,
    /// Old messages that arrive again.
    Replay,
    /// Links that hold everything for a while.
    Clog,
    /// Messages that no honest peer sends.
    Garbage,
    /// Writes that fail, disks that are full.
    DiskFailure,
    /// What becomes of a store at rest.
    Damage,
    /// Changes of the membership.
    Operator,
    /// Applications that hang or fail.
    ApplicationFault,
    /// Who has to recover alone.
    Core,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of 64 bits in which every input bit reaches every output bit (the finalizer of splitmix64).
pub const fn scramble(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// The stream of `seed` for this decision about this object.
    pub fn new(seed: u64, stream: Stream, object: u64) -> Self {
        let named = scramble(seed.wrapping_add(GOLDEN)) ^ scramble((stream as u64 + 1).wrapping_mul(GOLDEN));
        Self { key: scramble(named.wrapping_add(scramble(object.wrapping_add(1)))), counter: 0 }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        scramble(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `parts` times in a million.
    pub fn chance(&mut self, parts: u32) -> bool {
        self.below(1_000_000) < u64::from(parts)
    }

    /// True every second time.
    pub fn coin(&mut self) -> bool {
        self.draw() >> 63 == 1
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Roughly exponential with this mean, at most sixteen times the mean.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let bits = self.draw();
        let whole = u64::from(bits.trailing_zeros().min(22));
        let fraction = bits >> 54;
        // Halvings are geometric, the line between two powers is straight: mean 1.5 units of 1024.
        let units = whole * 1024 + fraction;
        ((u128::from(mean) * u128::from(units)) / 1536) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |seed, stream, object| Rng::new(seed, stream, object).draw();
        assert_eq!(draw(7, Stream::LinkLoss, 3), draw(7, Stream::LinkLoss, 3));
        assert_ne!(draw(7, Stream::LinkLoss, 3), draw(7, Stream::LinkLoss, 4));
        assert_ne!(draw(7, Stream::LinkLoss, 3), draw(7, Stream::LinkLatency, 3));
        assert_ne!(draw(7, Stream::LinkLoss, 3), draw(8, Stream::LinkLoss, 3));
    }

    #[test]
    fn chances_and_means_are_near_what_they_say() {
        let mut rng = Rng::new(1, Stream::Workload, 0);
        let hits = (0..100_000).filter(|_| rng.chance(250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits} of 100000 at one in four");
        let sum: u64 = (0..100_000).map(|_| rng.exponential(1_000)).sum();
        assert!((95_000_000..105_000_000).contains(&sum), "mean is {} of 1000", sum / 100_000);
        assert!((0..10_000).all(|_| rng.between(3, 5) >= 3 && rng.between(3, 5) <= 5));
    }
}
