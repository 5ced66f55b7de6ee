//! Which fault fires which alerts, and why some alerts are left to promtool.

use anyhow::Result;

use super::act::Act;
use super::cita::{self, Cita};
use super::ledger::{self, Ledger};
use super::secured::{self, Secured};

/// How a fault is made, and with whom.
#[derive(Clone, Copy)]
pub(super) enum Play {
    Ledger(fn(&mut Ledger<'_>, &mut Act<'_>) -> Result<()>),
    /// The same, for which a file system is mounted and frozen.
    LedgerWithDisks(fn(&mut Ledger<'_>, &mut Act<'_>) -> Result<()>),
    Secured(fn(&mut Secured<'_>, &mut Act<'_>) -> Result<()>),
    Cita(fn(&mut Cita<'_>, &mut Act<'_>) -> Result<()>),
}

/// A fault and its alerts.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    /// As it is asked for.
    pub(super) name: &'static str,
    /// In words.
    pub(super) fault: &'static str,
    pub(super) alerts: &'static [&'static str],
    pub(super) play: Play,
}

/// All faults, in the order in which they are played.
pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "misfit",
        fault: "a node made with another list of members",
        alerts: &["ConsensusHandshakesRefused", "ConsensusMembersDiffer"],
        play: Play::Ledger(ledger::mistakes::misfit),
    },
    Scene {
        name: "node-down",
        fault: "a follower killed",
        alerts: &[
            "ConsensusNodeDown",
            "ConsensusQuorumAtRisk",
            "ConsensusMemberMissing",
            "ConsensusPeerDisconnected",
        ],
        play: Play::Ledger(ledger::processes::node_down),
    },
    Scene {
        name: "no-majority",
        fault: "two of four stand still",
        alerts: &["ConsensusNoLeader"],
        play: Play::Ledger(ledger::processes::no_majority),
    },
    Scene {
        name: "restarts",
        fault: "a node killed five times",
        alerts: &["ConsensusRestarts"],
        play: Play::Ledger(ledger::processes::restarts),
    },
    Scene {
        name: "restless",
        fault: "leadership moved again and again",
        alerts: &["ConsensusLeadershipRestless", "ConsensusElectionsFail"],
        play: Play::Ledger(ledger::processes::restless),
    },
    Scene {
        name: "cut-off",
        fault: "a follower cut off under load",
        alerts: &["ConsensusNodeBehind", "ConsensusPeerLag"],
        play: Play::Ledger(ledger::links::cut_off),
    },
    Scene {
        name: "silent",
        fault: "a link that keeps what it is given",
        alerts: &["ConsensusPeerQueueFull"],
        play: Play::Ledger(ledger::links::silent),
    },
    Scene {
        name: "far",
        fault: "a link that takes its time",
        alerts: &["ConsensusPeersFar"],
        play: Play::Ledger(ledger::links::far),
    },
    Scene {
        name: "two-leaders",
        fault: "a leader with a longer election timeout cut off",
        alerts: &["ConsensusTwoLeaders"],
        play: Play::Ledger(ledger::links::two_leaders),
    },
    Scene {
        name: "limits-differ",
        fault: "a node with narrower limits",
        alerts: &["ConsensusMessagesRefused"],
        play: Play::Ledger(ledger::mistakes::limits_differ),
    },
    Scene {
        name: "files",
        fault: "connections that nobody ends",
        alerts: &["ConsensusFilesRunOut"],
        play: Play::Ledger(ledger::processes::files),
    },
    Scene {
        name: "overload",
        fault: "more submitted than the pool takes",
        alerts: &["ConsensusSubmissionsFail"],
        play: Play::Ledger(ledger::processes::overload),
    },
    Scene {
        name: "slow-disks",
        fault: "two disks that take seconds for a sync",
        alerts: &["ConsensusDiskSlow", "ConsensusDiskTooSlow", "ConsensusPersistSlow", "ConsensusSubmitSlow"],
        play: Play::LedgerWithDisks(ledger::disks::slow),
    },
    Scene {
        name: "stuck-disk",
        fault: "a follower's disk stuck under load",
        alerts: &["ConsensusWriterBehind"],
        play: Play::LedgerWithDisks(ledger::disks::writer_behind),
    },
    Scene {
        name: "stuck-leader",
        fault: "the leader's disk stuck",
        alerts: &["ConsensusLeaderDiskHangs"],
        play: Play::LedgerWithDisks(ledger::disks::leader_hangs),
    },
    Scene {
        name: "stuck-disks",
        fault: "the disks of two of four nodes stuck",
        alerts: &["ConsensusNoProgress"],
        play: Play::LedgerWithDisks(ledger::disks::no_progress),
    },
    Scene {
        name: "filling-disk",
        fault: "a disk that fills by 12 MiB a second",
        alerts: &["ConsensusDiskFillsUp"],
        play: Play::LedgerWithDisks(ledger::disks::fills),
    },
    Scene {
        name: "full-disk",
        fault: "a full disk",
        alerts: &["ConsensusDiskFull", "ConsensusHalted"],
        play: Play::LedgerWithDisks(ledger::disks::full),
    },
    Scene {
        name: "certificates",
        fault: "certificates that end, do not fit, or are a stranger's",
        alerts: &[
            "ConsensusCertificateEnds",
            "ConsensusCertificateEndsSoon",
            "ConsensusCertificateFilesRefused",
            "ConsensusExpiredAccepted",
            "ConsensusTurnedAway",
        ],
        play: Play::Secured(secured::all_at_once),
    },
    Scene {
        name: "greedy-client",
        fault: "a client that submits ten times what it may",
        alerts: &["ConsensusClientLimited"],
        play: Play::Secured(secured::limited),
    },
    Scene {
        name: "idle-readers",
        fault: "readers that ask for blocks and take none",
        alerts: &["ConsensusReadersCut"],
        play: Play::Secured(secured::readers),
    },
    Scene {
        name: "controllers",
        fault: "two of four controllers killed",
        alerts: &["CitaNoBlocks", "CitaControllerSilent"],
        play: Play::Cita(cita::controllers),
    },
    Scene {
        name: "controller-hangs",
        fault: "a controller that takes no block",
        alerts: &["CitaControllerBehind"],
        play: Play::Cita(cita::behind),
    },
    Scene {
        name: "network-service",
        fault: "the network service of a node killed",
        alerts: &["CitaNotRegistered"],
        play: Play::Cita(cita::network),
    },
    Scene {
        name: "hand-overs",
        fault: "every leader's controller killed in turn",
        alerts: &["CitaHandOvers"],
        play: Play::Cita(cita::hand_overs),
    },
    Scene {
        name: "foreign-chain",
        fault: "a node of another chain on the network",
        alerts: &["CitaForeignMessages"],
        play: Play::Cita(cita::foreign),
    },
    Scene {
        name: "log",
        fault: "a log that nobody reads",
        alerts: &["CitaLogLinesLost"],
        play: Play::Cita(cita::log),
    },
    Scene {
        name: "lost-block",
        fault: "an agreed block lost everywhere",
        alerts: &["CitaBlockVoided"],
        play: Play::Cita(cita::voided),
    },
];

/// Alerts that no fault from outside fires here, and why; promtool tests them all the same.
pub(super) const UNTOLD: &[(&str, &str)] = &[
    ("ConsensusApplyLag", "applying takes no input that a fault could slow down alone"),
    ("ConsensusDriverSlow", "a round takes microseconds, and a node that is stopped is hardly ever in one"),
    ("ConsensusInboxFull", "flow control between the nodes ends the flood within seconds"),
    ("ConsensusMemoryAboveBound", "would take a bound that does not hold"),
    ("ConsensusMessagesMalformed", "takes a program of another version; TLS notices changed bytes before"),
    ("ConsensusVersionsDiffer", "takes a program of another version"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_alert_that_ships_is_fired_by_a_fault_or_has_a_reason_why_not() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/rules.yml");
        let rules = std::fs::read_to_string(file).expect("the rules that ship");
        let ships = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        let ships = ships.collect::<BTreeSet<_>>();
        let fired = SCENES.iter().flat_map(|scene| scene.alerts).copied().collect::<Vec<_>>();
        let untold = UNTOLD.iter().map(|(alert, _)| *alert).collect::<Vec<_>>();
        assert_eq!(BTreeSet::from_iter(fired.iter().chain(&untold).copied()), ships);
        assert_eq!(fired.len() + untold.len(), ships.len(), "an alert that is told of twice");
        let names = SCENES.iter().map(|scene| scene.name).collect::<BTreeSet<_>>();
        assert_eq!(names.len(), SCENES.len(), "two faults of one name");
    }
}
