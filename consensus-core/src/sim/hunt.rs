//! Which seeds can show a broken rule, so that the search leaves the others out.

use super::mutant::Mutant;
use super::swarm::{ApplicationKind, Boundary, Swarm};

/// Seeds, from `start` on, whose runs come to the rule.
pub fn seeds(mutant: Mutant, start: u64) -> impl Iterator<Item = u64> {
    (start..).filter(move |seed| comes_to(mutant, &Swarm::derive(*seed)))
}

/// Whether runs with this configuration come to the rule. Only for rules that most runs do not come to.
fn comes_to(mutant: Mutant, swarm: &Swarm) -> bool {
    let ledger = swarm.application == ApplicationKind::Ledger;
    let snapshots = !ledger && swarm.snapshot_every <= 100;
    let crashes = swarm.faults.timed_crash_every_us.is_some() || swarm.faults.power_cut_every_us.is_some();
    let reads = swarm.workload.read_every_us.is_some();
    match mutant {
        Mutant::LeaderSpeaksEarly => swarm.voters == 1 && swarm.nodes > 1,
        Mutant::AppliedAgain | Mutant::WindowNotReadAtOpen | Mutant::PlacesShiftAtOpen => ledger && crashes,
        Mutant::DuplicateNotLeftOut => ledger && swarm.workload.careless,
        Mutant::PlaceCountsSkipped => {
            ledger && swarm.workload.careless && swarm.workload.block_transactions_max > 1
        }
        Mutant::BlocksNotChained | Mutant::DataHashOfFirstOnly => ledger,
        Mutant::ProposalsUnbounded => swarm.workload.careless && swarm.limits.inflight_proposals_max < 10,
        Mutant::TransferNeverGivenUp => swarm.faults.transfer_every_us.is_some() && swarm.nodes > 1,
        Mutant::GateOpen => swarm.network.garbage_every_us.is_some() && swarm.nodes > 1,
        Mutant::StaleLeaderReads | Mutant::ReadContextReused | Mutant::ReadBeforeApplied => reads,
        Mutant::LearnerCounted | Mutant::SilentLeaderCounts => swarm.nodes > swarm.voters,
        Mutant::InterruptedInstallForgotten => {
            snapshots && swarm.retain <= 5 && swarm.faults.boundary_crashes[Boundary::Snapshot as usize] > 0
        }
        Mutant::SnapshotAcknowledgedEarly
        | Mutant::CompactedBeforeSnapshot
        | Mutant::SnapshotLossUnnoticed => snapshots,
        Mutant::CompactionOffByOne => snapshots && swarm.retain == 0,
        _ => true,
    }
}

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use super::*;

    #[test]
    fn every_broken_rule_has_seeds_that_come_to_it() {
        for mutant in Mutant::ALL {
            let first: Vec<u64> = seeds(*mutant, 0).take(3).collect();
            assert!(first.len() == 3 && first.is_sorted() && first[2] < 200, "{mutant:?}: {first:?}");
        }
    }
}
