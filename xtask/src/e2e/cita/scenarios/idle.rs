//! What a chain costs that has nothing to do, at block interval 3.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::four;
use crate::e2e::cita::Telling;
use crate::e2e::cita::chain::Service;
use crate::e2e::cita::figures::{Bound, Unit};
use crate::e2e::cita::play::{Play, tell};
use crate::e2e::process::Process;

/// Processor time of a consensus process, in per cent of a core, at most.
const PROCESSOR_PERCENT_MAX: f64 = 0.2;

/// Memory of a consensus process, at most.
const RESIDENT_MEBIBYTES_MAX: f64 = 40.0;

/// The processor counters count in hundredths of a second: less says little.
const LENGTH_MIN: Duration = Duration::from_secs(30);

/// Before it is measured.
const WARM_UP: Duration = Duration::from_secs(5);

pub(crate) fn run(telling: &Telling<'_>) -> Result<()> {
    let play = Play::new(telling, "idle", &four(3))?;
    tell(play, |play| {
        play.start()?;
        play.pause(WARM_UP)?;
        let (used, started) = (play.chain.processor_time(Service::Consensus), Instant::now());
        play.pause(telling.length.max(LENGTH_MIN))?;
        let used = play.chain.processor_time(Service::Consensus) - used;
        let percent = 100.0 * used.as_secs_f64() / started.elapsed().as_secs_f64() / 4.0;
        let processes = play.chain.nodes().iter().filter_map(|node| node.process(Service::Consensus));
        let resident = processes.filter_map(Process::resident_bytes).max().unwrap_or(0);
        let mebibytes = resident as f64 / f64::from(1 << 20);
        play.say(&format!("idle: {percent:.2} % of a core and {mebibytes:.0} MiB per consensus process"));
        let processor = Bound::AtMostInRelease(PROCESSOR_PERCENT_MAX);
        play.measured("idle: a core's share per node", percent, Unit::Percent, processor);
        let memory = Bound::AtMostInRelease(RESIDENT_MEBIBYTES_MAX);
        play.measured("idle: memory per node", mebibytes, Unit::MebiBytes, memory);
        Ok(())
    })
}
