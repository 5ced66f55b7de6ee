//! Whether the run has tested what it was meant to test.
//!
//! Properties that hold while nothing happens say nothing. So a run that was asked for a kind of fault must
//! have evidence of it, its clients must have been answered in every way that they can be, and the cluster
//! must have changed its leader; otherwise the verdict is "not covered", which is no pass.

use std::collections::BTreeMap;
use std::fmt;

use super::kind::Kind;
use crate::e2e::clients::Finished;

/// What happened of what was planned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    faults: BTreeMap<Kind, Count>,
    pub(crate) outcomes: Outcomes,
    /// Terms in which somebody led.
    pub(crate) terms_led: usize,
    /// Nodes that have shown no block to those who follow them.
    pub(crate) never_followed: Vec<u64>,
}

/// Of one kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    planned: usize,
    happened: usize,
}

/// What clients were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) acknowledged: usize,
    /// Of them, those that an earlier sending had brought into the chain.
    pub(crate) duplicates: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
}

impl Outcomes {
    pub(crate) fn of(clients: &[Finished]) -> Self {
        let mut outcomes = Self::default();
        for client in clients {
            let count = |name: &str| client.receipts.iter().filter(|r| r.outcome == name).count();
            let acknowledged = count("committed");
            let refused = count("refused");
            outcomes.acknowledged += acknowledged;
            outcomes.refused += refused;
            // Whatever a client was not told.
            outcomes.unknown += client.sent - (acknowledged + refused).min(client.sent);
            outcomes.duplicates += client.receipts.iter().filter(|r| r.duplicate).count();
        }
        outcomes
    }
}

impl Coverage {
    /// A fault of this kind was due.
    pub(crate) fn plan(&mut self, kind: Kind) {
        self.faults.entry(kind).or_default().planned += 1;
    }

    /// There is evidence of one.
    pub(crate) fn happened(&mut self, kind: Kind) {
        self.faults.entry(kind).or_default().happened += 1;
    }

    /// What is missing of a run that was asked for `kinds`.
    pub(crate) fn gaps(&self, kinds: &[Kind]) -> Vec<String> {
        let happened = |kind: &Kind| self.faults.get(kind).is_some_and(|count| count.happened > 0);
        let mut gaps = kinds
            .iter()
            .filter(|kind| !happened(kind))
            .map(|kind| format!("no evidence of {kind}"))
            .collect::<Vec<_>>();
        let mut need = |is_there: bool, what: &str| {
            if !is_there {
                gaps.push(what.to_owned());
            }
        };
        let Outcomes { acknowledged, refused, unknown, .. } = self.outcomes;
        need(acknowledged > 0, "no transaction was acknowledged");
        need(refused > 0, "no transaction was refused");
        let stops = [Kind::NoMajority, Kind::PowerCut].iter().any(|kind| kinds.contains(kind));
        need(unknown > 0 || !stops, "no transaction was left without an outcome");
        let deposes = [Kind::KillLeader, Kind::PauseLeader, Kind::LeaderMinority];
        let deposes = deposes.iter().any(|kind| kinds.contains(kind));
        need(self.terms_led > 1 || !deposes, "the leader never changed");
        need(self.never_followed.is_empty(), "a node has shown no block to its follower");
        gaps
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, Count { planned, happened }) in &self.faults {
            writeln!(formatter, "  {:<16} {happened:>4} of {planned}", kind.to_string())?;
        }
        let Outcomes { acknowledged, duplicates, refused, unknown } = self.outcomes;
        writeln!(
            formatter,
            "  transactions: {acknowledged} acknowledged ({duplicates} of them were there already when they were sent again), \
             {refused} refused, {unknown} of unknown outcome"
        )?;
        write!(formatter, "  {} terms with a leader", self.terms_led)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Coverage {
        let mut coverage = Coverage {
            outcomes: Outcomes { acknowledged: 9, duplicates: 0, refused: 1, unknown: 2 },
            terms_led: 2,
            ..Coverage::default()
        };
        for kind in [Kind::KillLeader, Kind::NoMajority] {
            coverage.plan(kind);
            coverage.happened(kind);
        }
        coverage
    }

    const KINDS: [Kind; 2] = [Kind::KillLeader, Kind::NoMajority];

    #[test]
    fn a_run_with_evidence_of_everything_has_no_gap() {
        assert_eq!(full().gaps(&KINDS), Vec::<String>::new());
    }

    #[test]
    fn a_kind_that_was_planned_and_left_no_evidence_is_a_gap() {
        let mut coverage = full();
        coverage.plan(Kind::Reset);
        assert_eq!(coverage.gaps(&[Kind::Reset]), ["no evidence of reset"]);
    }

    #[test]
    fn outcomes_that_no_client_has_met_are_gaps() {
        let gaps = |outcomes, terms_led| Coverage { outcomes, terms_led, ..full() }.gaps(&KINDS);
        assert_eq!(gaps(Outcomes::default(), 2).len(), 3);
        assert_eq!(gaps(full().outcomes, 1), ["the leader never changed"]);
        assert_eq!(Coverage { never_followed: vec![3], ..full() }.gaps(&KINDS).len(), 1);
    }
}
