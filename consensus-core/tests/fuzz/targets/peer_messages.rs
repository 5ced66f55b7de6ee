//! Any well-formed messages, in any of the states of a replica, between the events of a living node.
//!
//! No panic of the raft crate is reached and no chain halts; positions, promises and bounds hold after every
//! event, and what is on the disk at the end opens again.

use consensus_core::replica::{Control, Event, MembershipChange, PeerReport, Proposal};

use super::draws::Draws;
use super::messages;
use super::rig::{Rig, node};
use super::states::STATES;

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Messages that were thrown at the replica.
    pub(crate) messages: u64,
    /// Those that the gate let through or dropped without a word.
    pub(crate) passed: u64,
}

/// The first byte names the state; the others are messages and events until they are used up.
pub(crate) fn peer_messages(bytes: &[u8]) -> Report {
    let mut draws = Draws::new(bytes);
    let (_, state) = STATES[draws.below(STATES.len())];
    let mut rig = state();
    rig.refused.clear();
    let mut report = Report::default();
    while !draws.is_empty() && rig.halted.is_none() {
        if draws.chance(64) {
            event(&mut draws, &mut rig);
            continue;
        }
        let message = messages::any(&mut draws, &rig);
        // A transport that does not know its peer would be another defect than this one looks for.
        let from = if draws.chance(4) { node(draws.number()) } else { node(message.from) };
        report.messages += 1;
        let event = Event::PeerMessage { from, message };
        if draws.chance(64) { rig.event_without_flush(event) } else { rig.event(event) }
    }
    rig.flush();
    report.passed = report.messages - rig.refused.values().sum::<u64>();
    rig.reopen();
    report
}

fn event(draws: &mut Draws<'_>, rig: &mut Rig) {
    let peer = node(draws.pick(&[2, 3, 4, 5, 9]));
    match draws.below(16) {
        0..=3 => rig.persist_one(),
        4 | 5 => rig.apply(),
        6 | 7 => rig.snapshots(),
        8 => rig.settle(),
        9 => rig.event(Event::Tick),
        10 => rig.ticks(12),
        11 => {
            let reports =
                [PeerReport::Unreachable, PeerReport::SnapshotDelivered, PeerReport::SnapshotFailed];
            rig.event(Event::PeerReport { peer, report: draws.pick(&reports) });
        }
        12 => {
            let count = 1 + draws.below(4);
            let proposals = (0..count).map(|_| Proposal::new(rig.ticket(), "block".into())).collect();
            rig.event(Event::Propose { proposals });
        }
        13 => {
            let ticket = rig.ticket();
            rig.event(Event::ReadIndex { ticket });
        }
        14 => {
            let to = draws.chance(128).then_some(peer);
            control(rig, Control::TransferLeader { to });
        }
        _ if draws.chance(128) => control(rig, Control::Campaign),
        _ => {
            let change = draws.pick(&[
                MembershipChange::AddVoter(peer),
                MembershipChange::AddLearner(peer),
                MembershipChange::Remove(peer),
            ]);
            control(rig, Control::ChangeMembership { changes: vec![change] });
        }
    }
}

fn control(rig: &mut Rig, command: Control) {
    let ticket = rig.ticket();
    rig.event(Event::Control { ticket, command });
}
