//! What is done when, drawn from the seed before anything is started.
//!
//! The schedule is a sequence of episodes: one fault, later up to three that overlap, then everything is healed
//! and the cluster has to recover before the next. Every requested kind is dealt once before any is dealt
//! again, so that a short run covers all of them. Moments count from the episode's start and who is hit is
//! drawn as a number, because who leads is known only then.

use std::fmt;
use std::time::Duration;

use super::kind::Kind;
use crate::e2e::random::Random;

/// In so many episodes of the later rounds, in percent, a second fault overlaps the first; in as many of
/// these a third one does.
const COMBINED_PERCENT: u64 = 60;

/// Faults of an episode, at most.
const COMBINED_MAX: usize = 3;

/// What an episode takes beside its faults and its rest, to be planned with: detection and recovery.
const RECOVERY: Duration = Duration::from_millis(1_500);

/// How long the parts of an episode take, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    hold_ms_min: u64,
    hold_ms_max: u64,
    rest_ms_max: u64,
}

impl Pace {
    /// Long enough for what takes a while to show: keep-alives, back-offs, a stale leader.
    pub(crate) const USUAL: Self = Self { hold_ms_min: 2_000, hold_ms_max: 9_000, rest_ms_max: 3_000 };
    /// For a run of a minute.
    pub(crate) const QUICK: Self = Self { hold_ms_min: 1_200, hold_ms_max: 2_400, rest_ms_max: 300 };
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// From the episode's start.
    pub(crate) after: Duration,
    pub(crate) hold: Duration,
    /// Decides who is hit, and how.
    pub(crate) dice: u64,
}

/// Faults that overlap, and the rest after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Episode {
    pub(crate) faults: Vec<Fault>,
    pub(crate) rest: Duration,
}

impl Episode {
    /// How long it is expected to take.
    fn length(&self) -> Duration {
        let last = self.faults.iter().map(|fault| fault.after + fault.hold).max().unwrap_or_default();
        last + RECOVERY + self.rest
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            let (from, hold) = (fault.after.as_secs_f64(), fault.hold.as_secs_f64());
            write!(formatter, "{separator}{} at {from:.1} s for {hold:.1} s", fault.kind)?;
        }
        write!(formatter, "; rest {:.1} s", self.rest.as_secs_f64())
    }
}

/// Draws episodes for about `length`, and at least one of each of `kinds`.
pub(crate) fn draw(kinds: &[Kind], length: Duration, pace: Pace, random: &mut Random) -> Vec<Episode> {
    let mut episodes = Vec::new();
    let mut planned = Duration::ZERO;
    let mut round = 0;
    while !kinds.is_empty() && (round == 0 || planned < length) {
        for kind in shuffled(kinds, random) {
            if round > 0 && planned >= length {
                break;
            }
            let partners = if round > 0 { kinds } else { &[] };
            let episode = episode(kind, partners, pace, random);
            planned += episode.length();
            episodes.push(episode);
        }
        round += 1;
    }
    episodes
}

fn episode(kind: Kind, partners: &[Kind], pace: Pace, random: &mut Random) -> Episode {
    let first = fault(kind, Duration::ZERO, pace, random);
    let partners = partners.iter().copied().filter(|other| other.is_partner()).collect::<Vec<_>>();
    let mut faults = vec![first];
    while kind.is_combinable()
        && !partners.is_empty()
        && faults.len() < COMBINED_MAX
        && random.below(100) < COMBINED_PERCENT
    {
        let partner = partners[random.below(partners.len() as u64) as usize];
        let after = Duration::from_millis(random.below(faults[0].hold.as_millis() as u64));
        faults.push(fault(partner, after, pace, random));
    }
    Episode { faults, rest: Duration::from_millis(random.below(pace.rest_ms_max + 1)) }
}

fn fault(kind: Kind, after: Duration, pace: Pace, random: &mut Random) -> Fault {
    let hold = pace.hold_ms_min + random.below(pace.hold_ms_max - pace.hold_ms_min + 1);
    // Whether two halves stay without a commit shows only after an election timeout, and a leader waits two of them
    // for its disk.
    let is_slow = matches!(kind, Kind::NoMajority | Kind::DiskHangs);
    let hold = if is_slow { hold.max(4_500) } else { hold };
    Fault { kind, after, hold: Duration::from_millis(hold), dice: random.next() }
}

fn shuffled(kinds: &[Kind], random: &mut Random) -> Vec<Kind> {
    let mut deck = kinds.to_vec();
    for last in (1..deck.len()).rev() {
        deck.swap(last, random.below(last as u64 + 1) as usize);
    }
    deck
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    fn drawn(seed: u64, minutes: u64) -> Vec<Episode> {
        let length = Duration::from_secs(60 * minutes);
        draw(Kind::value_variants(), length, Pace::USUAL, &mut Random::new(seed))
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(drawn(1, 10), drawn(1, 10));
        assert_ne!(drawn(1, 10), drawn(2, 10));
    }

    #[test]
    fn every_kind_is_dealt_once_before_any_is_dealt_again() {
        let count = Kind::value_variants().len();
        for seed in 0..20 {
            let first = drawn(seed, 1);
            assert!(first.iter().take(count).all(|episode| episode.faults.len() == 1));
            let kinds = first.iter().take(count).map(|episode| episode.faults[0].kind);
            assert_eq!(kinds.collect::<BTreeSet<_>>().len(), count);
        }
    }

    #[test]
    fn later_rounds_have_faults_that_overlap() {
        let episodes = drawn(3, 30);
        let several = episodes.iter().filter(|episode| episode.faults.len() > 1).collect::<Vec<_>>();
        assert!(several.iter().any(|episode| episode.faults.len() == 2));
        assert!(several.iter().any(|episode| episode.faults.len() == COMBINED_MAX));
        assert!(several.iter().all(|e| e.faults.iter().all(|fault| fault.after < e.faults[0].hold)));
    }

    #[test]
    fn a_longer_run_has_more_episodes_and_takes_about_as_long_as_asked() {
        let length = |episodes: &[Episode]| episodes.iter().map(Episode::length).sum::<Duration>();
        let long = length(&drawn(4, 20));
        assert!(long > Duration::from_secs(20 * 60) && long < Duration::from_secs(21 * 60), "{long:?}");
    }
}
