//! How long the cluster took to go on: figures to look at, not bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::kind::Kind;
use crate::e2e::report::{median_and_max, spoken_precisely};

/// What was measured; status is asked for ten times a second, which bounds the precision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    gaps: BTreeMap<Kind, Vec<Duration>>,
    stepped_down: Vec<Duration>,
    next: Vec<Duration>,
    whole: Vec<Duration>,
}

impl Figures {
    /// Longest time without a commit among those not hit, while a fault lasted.
    pub(crate) fn gap(&mut self, kind: Kind, longest: Duration) {
        self.gaps.entry(kind).or_default().push(longest);
    }

    /// From the moment a leader was cut off to the first time that it was seen not to lead.
    pub(crate) fn stepped_down(&mut self, after: Duration) {
        self.stepped_down.push(after);
    }

    /// From the end of an episode to the next commit anywhere, and to a cluster that is whole.
    pub(crate) fn recovery(&mut self, next: Duration, whole: Duration) {
        self.next.push(next);
        self.whole.push(whole);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |durations: &[Duration]| {
            let both = median_and_max(&mut durations.to_vec());
            both.map_or_else(
                || "      not measured".to_owned(),
                |(median, max)| {
                    format!("{:>8} (median) {:>8} (longest)", spoken_precisely(median), spoken_precisely(max))
                },
            )
        };
        for (kind, durations) in &self.gaps {
            let name = kind.to_string();
            writeln!(formatter, "  {name:<16} longest gap of others    {}", text(durations))?;
        }
        writeln!(formatter, "  {:<16} old leader stepped down  {}", "cut off", text(&self.stepped_down))?;
        writeln!(formatter, "  {:<16} next commit after        {}", "healed", text(&self.next))?;
        write!(formatter, "  {:<16} cluster whole after      {}", "healed", text(&self.whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_by_kind_with_median_and_longest() {
        let mut figures = Figures::default();
        for ms in [700, 1500, 900] {
            figures.gap(Kind::KillLeader, Duration::from_millis(ms));
        }
        figures.recovery(Duration::from_millis(100), Duration::from_millis(2300));
        let text = figures.to_string();
        for part in ["kill-leader", "900 ms", "1500 ms", "2300 ms"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
