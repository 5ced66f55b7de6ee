//! One fault: it begins, its alerts fire, it ends, they are over. How long each took is a row of the table.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::table::in_brackets;
use super::watch::Watch;
use crate::e2e::report::Phases;
use crate::interrupt::Interrupt;
use crate::workspace::spoken;

/// An alert that does not fire by then, or is not over by then, is not going to.
const PATIENCE: Duration = Duration::from_secs(150);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// What became of an alert.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) alert: &'static str,
    pub(super) fault: &'static str,
    /// About whom it fired.
    pub(super) who: String,
    /// From the beginning of the fault.
    pub(super) fired: Option<Duration>,
    /// From the end of the fault.
    pub(super) cleared: Option<Duration>,
}

/// A fault under way.
#[derive(Debug)]
pub(super) struct Act<'a> {
    watch: &'a Watch,
    interrupt: &'a Interrupt,
    phases: &'a Phases,
    began: Instant,
    ended: Option<Instant>,
    rows: Vec<Row>,
}

impl<'a> Act<'a> {
    /// A fault that is to fire these alerts, and begins now.
    pub(super) fn new(
        watch: &'a Watch,
        interrupt: &'a Interrupt,
        phases: &'a Phases,
        fault: &'static str,
        alerts: &[&'static str],
    ) -> Self {
        let row = |alert: &&'static str| Row { alert, fault, who: String::new(), fired: None, cleared: None };
        let rows = alerts.iter().map(row).collect();
        Self { watch, interrupt, phases, began: Instant::now(), ended: None, rows }
    }

    /// What was prepared is over: the fault itself begins now.
    pub(super) fn begins(&mut self) {
        self.began = Instant::now();
    }

    /// Waits until all alerts have fired, whether they do still or not. Those that do not are told at the end.
    pub(super) fn fired(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !self.have_fired() {
            self.interrupt.pause(LOOK)?;
        }
        Ok(())
    }

    /// Whether all alerts have fired by now.
    pub(super) fn have_fired(&mut self) -> bool {
        for row in self.rows.iter_mut().filter(|row| row.fired.is_none()) {
            if let Some((at, who)) = self.watch.seen(|seen| seen.fired(row.alert, self.began)) {
                let took = at.duration_since(self.began);
                self.phases.say(&format!(
                    "  {} fires after {}{}",
                    row.alert,
                    spoken(took),
                    in_brackets(&who)
                ));
                (row.fired, row.who) = (Some(took), who);
            }
        }
        self.rows.iter().all(|row| row.fired.is_some())
    }

    /// The fault is over.
    pub(super) fn ends(&mut self) {
        // What fired meanwhile counts, whoever looked.
        self.have_fired();
        self.ended = Some(Instant::now());
    }

    /// Waits until all alerts are over; what became of them.
    pub(super) fn finish(mut self) -> Result<Vec<Row>> {
        let ended = self.ended.context("a fault that does not end")?;
        let end = Instant::now() + PATIENCE;
        loop {
            for row in self.rows.iter_mut().filter(|row| row.fired.is_some() && row.cleared.is_none()) {
                let over = self.watch.seen(|seen| seen.over(row.alert));
                row.cleared = over.map(|at| at.saturating_duration_since(ended));
            }
            let open = self.rows.iter().any(|row| row.fired.is_some() && row.cleared.is_none());
            if !open || Instant::now() >= end {
                break;
            }
            self.interrupt.pause(LOOK)?;
        }
        for row in &self.rows {
            let said = match (row.fired, row.cleared) {
                (Some(_), Some(took)) => format!("over after {}", spoken(took)),
                (Some(_), None) => "STILL FIRES".to_owned(),
                (None, _) => "HAS NOT FIRED".to_owned(),
            };
            self.phases.say(&format!("  {} {said}", row.alert));
        }
        Ok(self.rows)
    }
}

/// Waits until nothing fires, and sees that it stays so for a while.
pub(super) fn calm(watch: &Watch, interrupt: &Interrupt, length: Duration) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let looks = watch.seen(|seen| seen.looks());
    let mut since = None;
    loop {
        let firing = watch.seen(|seen| seen.firing());
        since = if firing.is_empty() { since.or(Some(Instant::now())) } else { None };
        if since.is_some_and(|since| since.elapsed() >= length) {
            break;
        }
        let list = Vec::from_iter(firing).join("; ");
        ensure!(
            Instant::now() < end,
            "nothing is wrong any more, and after {} fires: {list}",
            spoken(PATIENCE)
        );
        interrupt.pause(LOOK)?;
    }
    ensure!(watch.seen(|seen| seen.looks()) > looks, "prometheus does not answer");
    Ok(())
}
