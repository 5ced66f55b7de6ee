//! What a run says: a line per phase while it goes, a table at its end, one line per round of many.

use std::time::{Duration, Instant};

use super::assertions::Verdict;
use crate::workspace::spoken;

/// Prints phases with the time since the start, or keeps silent where many rounds are run.
#[derive(Debug)]
pub(crate) struct Phases {
    started: Instant,
    silent: bool,
}

impl Phases {
    pub(crate) fn start(silent: bool) -> Self {
        Self { started: Instant::now(), silent }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.silent {
            println!("{:>6.1} s  {text}", self.started.elapsed().as_secs_f64());
        }
    }
}

/// A node at the end of a run.
#[derive(Debug)]
pub(crate) struct NodeEnd {
    pub(crate) id: u64,
    pub(crate) height: u64,
    pub(crate) tip: String,
    /// SIGTERM to exit; nothing if the node was left running.
    pub(crate) stop: Option<Duration>,
    /// What happened to it.
    pub(crate) fate: &'static str,
    pub(crate) clean: bool,
}

/// What was done to the cluster, and how long it took to go on.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) what: String,
    /// From the kill, or from the restart after a power cut, to the next committed block.
    pub(crate) recovery: Duration,
}

/// A round's end.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) nodes: Vec<NodeEnd>,
    pub(crate) fault: Fault,
    /// What to do with a cluster that was left running.
    pub(crate) epilogue: Option<String>,
}

impl Outcome {
    pub(crate) fn holds(&self) -> bool {
        self.verdict.findings.is_empty()
    }

    /// The table at the end of a single round.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![String::new(), row(["", "height", "tip", "stopped in", "data", ""])];
        for node in &self.nodes {
            let stop = node.stop.map_or_else(|| "running".to_owned(), spoken);
            let tip = node.tip.chars().take(16).collect::<String>();
            let data = if node.clean { "clean" } else { "damaged" };
            let name = format!("node {}", node.id);
            lines.push(row([&name, &thousands(node.height), &tip, &stop, data, node.fate]));
        }
        let Verdict { sent, acknowledged, in_chain, lost, doubled, .. } = &self.verdict;
        let count = |number: &usize| thousands(*number as u64);
        lines.push(String::new());
        lines.push(row(["", "sent", "acknowledged", "in the chain", "lost", "doubled"]));
        lines.push(row([
            "transactions",
            &count(sent),
            &count(acknowledged),
            &count(in_chain),
            &count(lost),
            &count(doubled),
        ]));
        lines.push(String::new());
        lines.push(format!(
            "  {}: next block committed after {}",
            self.fault.what,
            spoken_precisely(self.fault.recovery)
        ));
        lines.push(match self.holds() {
            true => "  verdict: every acknowledged transaction is in the chain once, in order, on every node"
                .to_owned(),
            false => format!("  verdict: FAILED\n    {}", self.verdict.findings.join("\n    ")),
        });
        lines.extend(self.epilogue.clone());
        lines.join("\n")
    }

    /// One line of a table of rounds.
    pub(crate) fn line(&self, round: u32, seed: u64) -> String {
        let Verdict { sent, acknowledged, in_chain, .. } = &self.verdict;
        let verdict = if self.holds() { "fine" } else { "FAILED" };
        format!(
            "round {round:>3}  seed {seed:<7}  {}  next block after {:>7}  {sent} sent, {acknowledged} acknowledged, \
             {in_chain} in the chain  {verdict}",
            self.fault.what,
            spoken_precisely(self.fault.recovery),
        )
    }
}

/// Columns of a table: the first and the last two left, numbers right.
fn row(cells: [&str; 6]) -> String {
    let [name, one, two, three, four, five] = cells;
    format!("  {name:<12}  {one:>7}  {two:>16}  {three:>12}  {four:>7}  {five:<10}").trim_end().to_owned()
}

/// Median and maximum of many rounds.
pub(crate) fn median_and_max(durations: &mut [Duration]) -> Option<(Duration, Duration)> {
    durations.sort_unstable();
    let max = *durations.last()?;
    Some((durations[durations.len() / 2], max))
}

/// Milliseconds below ten seconds: what is compared from run to run.
pub(crate) fn spoken_precisely(duration: Duration) -> String {
    if duration < Duration::from_secs(10) { format!("{} ms", duration.as_millis()) } else { spoken(duration) }
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(findings: Vec<String>) -> Outcome {
        let node = NodeEnd {
            id: 1,
            height: 1234,
            tip: "0123456789abcdef0123".into(),
            stop: Some(Duration::from_millis(210)),
            fate: "killed",
            clean: true,
        };
        Outcome {
            verdict: Verdict { sent: 5, acknowledged: 5, in_chain: 5, findings, ..Verdict::default() },
            nodes: vec![node],
            fault: Fault { what: "kill -9 of node 1".into(), recovery: Duration::from_millis(1310) },
            epilogue: None,
        }
    }

    #[test]
    fn the_table_shows_each_node_the_counts_the_gap_and_the_verdict() {
        let table = outcome(Vec::new()).table();
        for part in
            ["node 1", "1,234", "0123456789abcdef", "210 ms", "clean", "1310 ms", "every acknowledged"]
        {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(!table.lines().any(|line| line.ends_with(' ')), "{table}");
    }

    #[test]
    fn a_failed_run_lists_what_is_wrong() {
        let table = outcome(vec!["lost: a-1".into()]).table();
        assert!(table.contains("FAILED") && table.contains("lost: a-1"), "{table}");
    }

    #[test]
    fn median_and_maximum_of_rounds() {
        let mut durations = [3, 1, 2].map(Duration::from_secs);
        assert_eq!(median_and_max(&mut durations), Some((Duration::from_secs(2), Duration::from_secs(3))));
        assert_eq!(median_and_max(&mut []), None);
    }
}
