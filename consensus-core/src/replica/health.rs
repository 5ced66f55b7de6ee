//! Whether clients can be sent to a replica.
//!
//! They can when it runs, its leader is heard, no snapshot is being installed, and its application is not further
//! behind what the leader counts committed than a bound. This is the one rule: the server shows it and adds what
//! concerns the process, the simulator compares it with what is true.
//!
//! Whether a process is alive is another question, and not asked here: a chain that has halted is not ready and its
//! process is well.

use super::Status;
use crate::mutant::{self, Mutant};

/// A replica further behind than this serves stale blocks.
pub const LAG_ENTRIES_MAX: u64 = 1000;

/// One condition, judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Its name, one word.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

/// What readiness asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The chain has not halted.
    Chain,
    /// A leader is known and was heard within two election timeouts.
    Leader,
    /// No received snapshot is on its way into the application.
    Snapshot,
    /// How far the chain is was told, and the application is not far behind.
    Lag,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chain, Self::Leader, Self::Snapshot, Self::Lag];

    /// The name, one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Leader => "leader",
            Self::Snapshot => "snapshot",
            Self::Lag => "lag",
        }
    }

    /// Whether it holds, with this bound for [`Self::Lag`].
    pub fn holds(self, status: &Status, lag_entries_max: u64) -> bool {
        match self {
            Self::Chain => status.halted.is_none(),
            Self::Leader => {
                let heard = status.leader_heard || mutant::is(Mutant::SilentLeaderCounts);
                status.leader.is_some() && heard
            }
            Self::Snapshot => !status.installing,
            Self::Lag => {
                let near = lag(status).is_some_and(|lag| lag <= lag_entries_max);
                near || mutant::is(Mutant::ReadyWhileBehind)
            }
        }
    }

    fn found(self, status: &Status, lag_entries_max: u64) -> String {
        match (self, status.leader, &status.halted) {
            (Self::Chain, _, Some(reason)) => format!("halted: {reason}"),
            (Self::Chain, _, None) => "running".to_owned(),
            (Self::Leader, None, _) => format!("none known in term {}", status.term),
            (Self::Leader, Some(leader), _) if status.leader_heard => {
                format!("node {leader} leads term {}", status.term)
            }
            (Self::Leader, Some(leader), _) => {
                format!("node {leader} of term {} was not heard for two election timeouts", status.term)
            }
            (Self::Snapshot, ..) => if status.installing { "being installed" } else { "none" }.to_owned(),
            (Self::Lag, ..) => match lag(status) {
                Some(lag) => format!("{lag} entries not applied, bound {lag_entries_max}"),
                None => "the leader has not told yet how far the chain is".to_owned(),
            },
        }
    }
}

/// Entries that are committed and not applied; `None` while nobody has told what is committed.
fn lag(status: &Status) -> Option<u64> {
    let committed = status.told_commit?.max(status.commit);
    Some(committed.saturating_sub(status.applied))
}

/// Whether all conditions hold.
pub fn is_ready(status: &Status, lag_entries_max: u64) -> bool {
    Condition::ALL.iter().all(|condition| condition.holds(status, lag_entries_max))
}

/// All conditions, judged and in words.
pub fn readiness(status: &Status, lag_entries_max: u64) -> Vec<Check> {
    let check = |condition: &Condition| Check {
        name: condition.name(),
        ok: condition.holds(status, lag_entries_max),
        found: condition.found(status, lag_entries_max),
    };
    Condition::ALL.iter().map(check).collect()
}
