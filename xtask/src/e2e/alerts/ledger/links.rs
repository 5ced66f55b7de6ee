//! Links that are cut, silent, or between nodes with different ideas of time.

use std::time::Duration;

use anyhow::Result;

use super::{FLOOD, Ledger, STEADY};
use crate::e2e::alerts::act::Act;
use crate::e2e::chaos::network::{Passage, Rule};

/// A leader with this is patient for half a minute where the others are for a second.
const PATIENT: &str = "\n[raft]\nelection_ticks = 600\nelection_ticks_min = 700\nelection_ticks_max = 800\n";

/// What all nodes have, and what is full before a connection is given up.
const QUEUE: &str = "[limits]\n";
const SHORT_QUEUE: &str = "[limits]\npeer_queue_messages_max = 4\n";

/// Each way: together well above what is called far, and well below an election timeout.
const LATE: Duration = Duration::from_millis(150);

/// A follower is cut off while the others go on.
pub(crate) fn cut_off(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.followers()?[0];
    let leader = troupe.settle()?;
    let load = troupe.load(leader, FLOOD)?;
    act.begins();
    troupe.spoil(node, Rule::passage(Passage::Refused))?;
    act.fired()?;
    drop(load);
    troupe.heal()?;
    act.ends();
    Ok(())
}

/// What the leader, which keeps only a few messages for anybody, sends to one follower does not arrive, and nobody
/// is told.
pub(crate) fn silent(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let before = troupe.reconfigure(1, |text| text.replace(QUEUE, SHORT_QUEUE))?;
    troupe.lead(1)?;
    let load = troupe.load(1, STEADY)?;
    act.begins();
    troupe.spoil_links([(1, 2)], Rule::passage(Passage::Silent))?;
    act.fired()?;
    troupe.heal()?;
    act.ends();
    drop(load);
    troupe.reconfigure(1, |_| before)?;
    Ok(())
}

/// Everything between one node and the others arrives late.
pub(crate) fn far(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let node = troupe.followers()?[0];
    act.begins();
    troupe.spoil(node, Rule { delay: LATE, ..Rule::default() })?;
    act.fired()?;
    troupe.heal()?;
    act.ends();
    Ok(())
}

/// A leader that is told to wait for long for its majority is cut off, and the others choose another one.
pub(crate) fn two_leaders(troupe: &mut Ledger<'_>, act: &mut Act<'_>) -> Result<()> {
    let before = troupe.reconfigure(2, |text| format!("{text}{PATIENT}"))?;
    troupe.lead(2)?;
    act.begins();
    troupe.spoil(2, Rule::passage(Passage::Refused))?;
    act.fired()?;
    troupe.heal()?;
    act.ends();
    troupe.pause(Duration::from_secs(1))?;
    troupe.reconfigure(2, |_| before)?;
    Ok(())
}
