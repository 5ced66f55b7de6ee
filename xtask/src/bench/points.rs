//! What is measured: workloads, their parameters and their names in the table.
//!
//! B1: unary submissions in a closed loop, call to acknowledgement. B2: 16 streams with a window of 64,
//! submission to delivery on another node. B3: hardly any load, submission to delivery.

/// Streams of B2 and the window of each.
const STREAMS: u32 = 16;
const WINDOW: u32 = 64;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) work: Work,
    pub(super) place: Place,
    /// Part of `--quick`.
    quick: bool,
}

/// Under which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// As shipped.
    Defaults,
    /// Blocks of one transaction.
    OnePerBlock,
}

/// The load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// B1.
    Unary { concurrency: u32, to: To },
    /// B2.
    Stream { to: To },
    /// B3; closed loop or 20 per second.
    LowLoad { closed: bool },
}

/// Which nodes are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Leader,
    Follower,
    All,
}

const fn unary(name: &'static str, concurrency: u32, to: To, quick: bool) -> Point {
    Point { name, work: Work::Unary { concurrency, to }, place: Place::Defaults, quick }
}

const fn stream(name: &'static str, to: To) -> Point {
    Point { name, work: Work::Stream { to }, place: Place::Defaults, quick: true }
}

const fn low(name: &'static str, closed: bool, place: Place, quick: bool) -> Point {
    Point { name, work: Work::LowLoad { closed }, place, quick }
}

const POINTS: [Point; 14] = [
    unary("B1 unary, 1 client, leader", 1, To::Leader, true),
    unary("B1 unary, 16 clients, leader", 16, To::Leader, false),
    unary("B1 unary, 64 clients, leader", 64, To::Leader, true),
    unary("B1 unary, 256 clients, leader", 256, To::Leader, false),
    unary("B1 unary, 1000 clients, leader", 1000, To::Leader, true),
    unary("B1 unary, 64 clients, all nodes", 64, To::All, false),
    unary("B1 unary, 1000 clients, all nodes", 1000, To::All, false),
    stream("B2 streams, leader", To::Leader),
    stream("B2 streams, one follower", To::Follower),
    stream("B2 streams, all nodes", To::All),
    low("B3 20 tx/s", false, Place::Defaults, true),
    low("B3 one client", true, Place::Defaults, true),
    low("B3 20 tx/s, 1 tx per block", false, Place::OnePerBlock, false),
    low("B3 one client, 1 tx per block", true, Place::OnePerBlock, false),
];

/// What the cost of tracing is measured under.
pub(super) const TRACED: Point = stream("B2 streams, all nodes, traced", To::All);

/// The points of a run; `only` names workloads, none means all.
pub(super) fn select(quick: bool, only: &[String]) -> Vec<Point> {
    let wanted = |point: &&Point| {
        (!quick || point.quick) && (only.is_empty() || only.iter().any(|name| name == point.workload()))
    };
    POINTS.iter().filter(wanted).copied().collect()
}

impl Point {
    /// The name of the workload at the command line.
    pub(super) fn workload(&self) -> &'static str {
        match self.work {
            Work::Unary { .. } => "b1",
            Work::Stream { .. } => "b2",
            Work::LowLoad { .. } => "b3",
        }
    }

    /// The flags that `consensus-cli bench` takes for it, nodes aside.
    pub(super) fn flags(&self, quick: bool) -> Vec<String> {
        let measure = if quick { "4s" } else { "8s" };
        let mut flags = ["--json", "--payload", "256", "--warm-up", "1s", "--measure", measure]
            .map(str::to_owned)
            .to_vec();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        match self.work {
            Work::Unary { concurrency, .. } => add("--concurrency", concurrency.to_string()),
            Work::Stream { .. } => {
                add("--streams", STREAMS.to_string());
                add("--window", WINDOW.to_string());
            }
            Work::LowLoad { closed: true } => add("--pace", "closed".to_owned()),
            Work::LowLoad { closed: false } => {
                add("--pace", "open".to_owned());
                add("--rate", "20".to_owned());
            }
        }
        flags
    }

    /// Which nodes it loads.
    pub(super) fn to(&self) -> To {
        match self.work {
            Work::Unary { to, .. } | Work::Stream { to } => to,
            Work::LowLoad { .. } => To::Leader,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_has_all_three_workloads_and_a_choice_leaves_the_others_out() {
        let names =
            |points: &[Point]| points.iter().map(Point::workload).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names(&select(true, &[])).len(), 3);
        assert_eq!(names(&select(false, &["b2".to_owned()])).into_iter().collect::<Vec<_>>(), ["b2"]);
        assert!(select(true, &[]).len() < select(false, &[]).len());
    }
}
