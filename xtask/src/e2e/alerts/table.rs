//! What a run has found, alert by alert, and what there is to find.

use std::fmt::Write;
use std::time::Duration;

use super::act::Row;
use super::scenes::{SCENES, UNTOLD};
use crate::workspace::spoken;

/// Width of the column of alerts.
const ALERT: usize = 34;

/// A line for each alert of the faults that were made, then those that no fault fires.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!("{:ALERT$}  {:>10}  {:>11}  fault\n", "alert", "fired in", "over in");
    for Row { alert, fault, who, fired, cleared } in rows {
        let shown = |took: &Option<Duration>| took.map_or_else(|| "NEVER".to_owned(), spoken);
        let (fired, cleared) = (shown(fired), shown(cleared));
        let who = in_brackets(who);
        let _ = writeln!(text, "{alert:ALERT$}  {fired:>10}  {cleared:>11}  {fault}{who}");
    }
    text + &untold()
}

/// Of whom an alert tells; those of a whole chain tell of nobody.
pub(super) fn in_brackets(who: &str) -> String {
    if who.is_empty() { String::new() } else { format!(" ({who})") }
}

/// The faults and their alerts.
pub(super) fn list() -> String {
    let mut text = String::new();
    for scene in SCENES {
        let _ = writeln!(text, "{:18}{}: {}", scene.name, scene.fault, scene.alerts.join(", "));
    }
    text + &untold()
}

fn untold() -> String {
    let mut text = String::from("\nleft to promtool:\n");
    for (alert, why) in UNTOLD {
        let _ = writeln!(text, "{alert:ALERT$}  {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_fired_or_is_not_over_stands_out() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let row =
            |alert, fired, cleared| Row { alert, fault: "a fault", who: "node3".into(), fired, cleared };
        let table = table(&[
            row("Down", seconds(3), seconds(70)),
            row("Stays", seconds(3), None),
            row("Sleeps", None, None),
        ]);
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
        assert!(line("Down").contains("3.0 s") && line("Down").contains("1 min 10 s"), "{table}");
        assert!(line("Down").ends_with("a fault (node3)"), "{table}");
        assert_eq!(line("Stays").matches("NEVER").count(), 1);
        assert_eq!(line("Sleeps").matches("NEVER").count(), 2);
    }

    #[test]
    fn the_list_names_every_fault_and_every_reason() {
        let list = list();
        for name in SCENES.iter().map(|scene| scene.name).chain(UNTOLD.iter().map(|(alert, _)| *alert)) {
            assert!(list.contains(name), "{name}");
        }
    }
}
