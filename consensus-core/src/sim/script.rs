//! Which faults of a run happen: all that its streams draw, or only those of a list.
//!
//! A fault is named by its class and by how many of that class were drawn before, so that leaving one out changes
//! neither the name nor the draws of another. Messages that are lost or come twice, and disks that stall, have no
//! names: they are on or off as a class ([`super::swarm`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::swarm::Boundary;

/// A class of faults that strike one by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A crash by the clock.
    Crash,
    /// All nodes lose power.
    PowerCut,
    /// The network is cut.
    Partition,
    /// A process stands still.
    Pause,
    /// The operator moves the leadership.
    Transfer,
    /// A link holds everything.
    Clog,
    /// An old message arrives again.
    Replay,
    /// A message that no honest peer sends.
    Garbage,
    /// A write fails.
    WriteError,
    /// A disk is full.
    DiskFull,
    /// A store is damaged.
    Damage,
    /// An application hangs.
    Hang,
    /// An application fails.
    Failure,
    /// The operator wants another membership.
    Reshape,
    /// The operator makes a mistake.
    Mistake,
    /// A crash right after an effect.
    Boundary {
        /// The node's id.
        node: u64,
        /// After what.
        at: Boundary,
    },
}

/// One fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Occurrence {
    /// When it struck, in microseconds since the start; for people.
    pub at_us: u64,
    /// Its class.
    pub class: Class,
    /// The first of its class is 1.
    pub nth: u64,
}

/// Decides which faults happen and remembers them.
#[derive(Debug, Default)]
pub struct Script {
    /// `None`: all.
    only: Option<BTreeSet<(Class, u64)>>,
    drawn: BTreeMap<Class, u64>,
    happened: Vec<Occurrence>,
}

impl Script {
    /// Only these happen.
    pub fn only(faults: &[Occurrence]) -> Self {
        let only = faults.iter().map(|fault| (fault.class, fault.nth)).collect();
        Self { only: Some(only), ..Self::default() }
    }

    /// A fault is drawn: whether it happens.
    pub fn happens(&mut self, class: Class, at_us: u64) -> bool {
        let drawn = self.drawn.entry(class).or_default();
        *drawn += 1;
        let nth = *drawn;
        let happens = self.only.as_ref().is_none_or(|only| only.contains(&(class, nth)));
        if happens {
            self.happened.push(Occurrence { at_us, class, nth });
        }
        happens
    }

    /// What happened, in order.
    pub fn into_happened(self) -> Vec<Occurrence> {
        self.happened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_keeps_its_name_when_another_one_is_left_out() {
        let strike = |mut script: Script| {
            for at_us in [10, 20, 30] {
                script.happens(Class::Crash, at_us);
                script.happens(Class::Boundary { node: 1, at: Boundary::VoteSent }, at_us + 1);
            }
            script.into_happened()
        };
        let all = strike(Script::default());
        assert_eq!(all.len(), 6);
        assert_eq!(strike(Script::only(&all[2..5])), all[2..5]);
        assert_eq!(strike(Script::only(&[])), []);
    }
}
