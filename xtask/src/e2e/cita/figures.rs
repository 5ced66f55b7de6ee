//! What was measured, all stories together: the table at the end, figure by figure beside its bound.
//!
//! A figure that is measured again under the same name is one line, with its median and its worst value.
//! Some bounds speak of a release build; of another one such a figure is shown with a remark and decides
//! nothing.

use std::fmt::Write;
use std::time::Duration;

use crate::e2e::Profile;

/// What a value is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Percent,
    MebiBytes,
    PerSecond,
    Blocks,
    Terms,
}

impl Unit {
    fn shown(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value < 100.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Percent => format!("{value:.2} %"),
            Self::MebiBytes => format!("{value:.0} MiB"),
            Self::PerSecond => format!("{value:.2} /s"),
            Self::Blocks | Self::Terms => format!("{value:.0}"),
        }
    }
}

/// Milliseconds of a time.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// It is only shown.
    None,
    AtMost(f64),
    /// The same of a release build.
    AtMostInRelease(f64),
    AtLeastInRelease(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::AtMost(limit) | Self::AtMostInRelease(limit) => value <= limit,
            Self::AtLeastInRelease(limit) => value >= limit,
        }
    }

    /// Whether it says something of a build with `profile`.
    fn counts(self, profile: Profile) -> bool {
        match self {
            Self::None | Self::AtMost(_) => true,
            Self::AtMostInRelease(_) | Self::AtLeastInRelease(_) => profile == Profile::Release,
        }
    }

    fn shown(self, unit: Unit) -> String {
        match self {
            Self::None => String::new(),
            Self::AtMost(limit) | Self::AtMostInRelease(limit) => format!("at most {}", unit.shown(limit)),
            Self::AtLeastInRelease(limit) => format!("at least {}", unit.shown(limit)),
        }
    }

    /// The worst of ascending values.
    fn worst(self, values: &[f64]) -> Option<f64> {
        match self {
            Self::AtLeastInRelease(_) => values.first().copied(),
            Self::None | Self::AtMost(_) | Self::AtMostInRelease(_) => values.last().copied(),
        }
    }
}

#[derive(Clone, Debug)]
struct Figure {
    what: String,
    unit: Unit,
    bound: Bound,
    values: Vec<f64>,
}

/// All of them, in the order in which they were first measured.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    profile: Profile,
    figures: Vec<Figure>,
}

impl Figures {
    /// Of binaries that were built with `profile`.
    pub(super) fn new(profile: Profile) -> Self {
        Self { profile, figures: Vec::new() }
    }

    /// Takes a value; what is wrong with it, in words, if it misses a bound that counts.
    pub(super) fn take(&mut self, what: &str, value: f64, unit: Unit, bound: Bound) -> Option<String> {
        match self.figures.iter_mut().find(|figure| figure.what == what && figure.bound == bound) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure { what: what.to_owned(), unit, bound, values: vec![value] }),
        }
        let is_missed = bound.counts(self.profile) && !bound.holds(value);
        is_missed.then(|| format!("{what}: {}, {}", unit.shown(value), bound.shown(unit)))
    }

    /// A line for each figure; empty without any.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        let mut line = |cells: [&str; 6]| {
            let [what, times, median, worst, bound, verdict] = cells;
            let line =
                format!("  {what:<width$}  {times:>5}  {median:>10}  {worst:>10}  {bound:<18}  {verdict}");
            let _ = writeln!(text, "{}", line.trim_end());
        };
        if !self.figures.is_empty() {
            line(["", "times", "median", "worst", "bound", ""]);
        }
        for Figure { what, unit, bound, values } in &self.figures {
            let mut values = values.clone();
            values.sort_unstable_by(f64::total_cmp);
            let worst = bound.worst(&values).unwrap_or(f64::NAN);
            let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
            let verdict = match (bound.holds(worst), bound.counts(self.profile)) {
                (true, _) => "",
                (false, true) => "MISSED",
                (false, false) => "not a release build",
            };
            let (median, worst) = (unit.shown(median), unit.shown(worst));
            line([what, &values.len().to_string(), &median, &worst, &bound.shown(*unit), verdict]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_was_measured_again_is_one_line_with_its_median_and_its_worst() {
        let mut figures = Figures::new(Profile::Dev);
        for value in [900.0, 1300.0, 1000.0] {
            assert_eq!(figures.take("next height", value, Unit::Milliseconds, Bound::AtMost(1500.0)), None);
        }
        let table = figures.table();
        let line = table.lines().nth(1).expect("a line");
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words, "next height 3 1000 ms 1300 ms at most 1500 ms");
    }

    #[test]
    fn a_missed_bound_is_told_at_once_and_in_the_table() {
        let mut figures = Figures::new(Profile::Dev);
        let told = figures.take("window", 2.0, Unit::Blocks, Bound::AtMost(1.0));
        assert_eq!(told.as_deref(), Some("window: 2, at most 1"));
        assert!(figures.table().contains("MISSED"));
    }

    #[test]
    fn bounds_of_release_builds_decide_nothing_in_another_one() {
        let bound = Bound::AtLeastInRelease(41.0);
        let mut figures = Figures::new(Profile::Dev);
        assert_eq!(figures.take("blocks", 30.0, Unit::PerSecond, bound), None);
        assert!(figures.table().contains("not a release build"));
        assert!(Figures::new(Profile::Release).take("blocks", 30.0, Unit::PerSecond, bound).is_some());
    }

    #[test]
    fn the_worst_of_what_shall_be_much_is_the_least() {
        let mut figures = Figures::new(Profile::Release);
        for value in [50.0, 44.0, 61.0] {
            figures.take("blocks", value, Unit::PerSecond, Bound::AtLeastInRelease(41.0));
        }
        assert!(figures.table().contains("44.00 /s"), "{}", figures.table());
    }
}
