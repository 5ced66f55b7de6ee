//! What the controllers of a chain have said, and what of it must not be: the judge of every scenario.
//!
//! Heights only rise, blocks follow each other without gaps, and no height has two contents on any two
//! controllers. Besides it keeps what scenarios bound: the longest time without a new height, and how far
//! the highest controller was ahead of a quorum. The latter comes from the times at which the controllers
//! stored each block, by the one clock of the machine, not from when they were asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Findings that are kept; one mistake is seen many times.
const FINDINGS_MAX: usize = 20;

/// What one controller said.
#[derive(Clone, Debug, Default)]
struct Seen {
    height: u64,
    /// All its blocks up to here have been compared.
    compared: u64,
}

/// A block as the controllers have it.
#[derive(Clone, Debug)]
struct Agreed {
    hash: String,
    /// When each controller stored it, in microseconds since 1970.
    arrivals: Vec<Option<u64>>,
}

impl Agreed {
    fn first(&self) -> u64 {
        self.arrivals.iter().flatten().copied().min().unwrap_or(u64::MAX)
    }

    /// When `quorum` controllers had it.
    fn on_quorum(&self, quorum: usize) -> u64 {
        let mut arrivals = self.arrivals.iter().flatten().copied().collect::<Vec<_>>();
        arrivals.sort_unstable();
        arrivals.get(quorum - 1).copied().unwrap_or(u64::MAX)
    }
}

/// What all controllers said.
#[derive(Debug)]
pub(crate) struct Record {
    nodes: Vec<Seen>,
    blocks: BTreeMap<u64, Agreed>,
    highest: u64,
    rose: Instant,
    longest_gap: Duration,
    /// Heights from here on count for the window.
    measured_from: u64,
    /// Answers to questions of an earlier epoch do not count.
    epoch: u64,
    findings: Vec<String>,
}

impl Record {
    /// Of `count` controllers, nothing yet.
    pub(crate) fn new(count: usize, now: Instant) -> Self {
        Self {
            nodes: vec![Seen::default(); count],
            blocks: BTreeMap::new(),
            highest: 0,
            rose: now,
            longest_gap: Duration::ZERO,
            measured_from: 1,
            epoch: 0,
            findings: Vec::new(),
        }
    }

    /// A controller tells its height. Returns the heights that are to be compared next, if there are any.
    pub(crate) fn on_height(&mut self, node: usize, height: u64, now: Instant) -> Option<(u64, u64)> {
        let before = self.nodes[node].height;
        if height < before {
            self.find(format!("controller {node} fell from height {before} to {height}"));
        }
        let seen = &mut self.nodes[node];
        seen.height = height;
        seen.compared = seen.compared.min(height);
        let next = (seen.compared < height).then_some((seen.compared + 1, height));
        if height > self.highest {
            self.highest = height;
            self.longest_gap = self.longest_gap.max(now - self.rose);
            self.rose = now;
        }
        next
    }

    /// A controller lists its blocks from `first` on.
    pub(crate) fn on_blocks(&mut self, node: usize, first: u64, blocks: &[Value]) {
        let count = self.nodes.len();
        for (height, block) in (first..).zip(blocks) {
            let hash = block["hash"].as_str().unwrap_or_default();
            if block["height"] != height || hash.is_empty() {
                self.find(format!("controller {node} lists {block} in the place of block {height}"));
                return;
            }
            let new = || Agreed { hash: hash.to_owned(), arrivals: vec![None; count] };
            let known = self.blocks.entry(height).or_insert_with(new);
            if known.hash != hash {
                let text =
                    format!("block {height} is {hash} on controller {node} and {} elsewhere", known.hash);
                self.find(text);
                return;
            }
            known.arrivals[node] = block["arrived_us"].as_u64();
            self.nodes[node].compared = height;
        }
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Blocks are about to be taken away, or have been: answers that are on their way do not count.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Counts the rollbacks that were ordered.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Blocks above `height` have been taken away on purpose, on these controllers.
    pub(crate) fn on_rollback(&mut self, nodes: &[usize], height: u64) {
        for node in nodes {
            let seen = &mut self.nodes[*node];
            seen.height = seen.height.min(height);
            seen.compared = seen.compared.min(height);
        }
        self.highest = self.heights().into_iter().max().unwrap_or(0);
        let highest = self.highest;
        self.blocks.retain(|height, _| *height <= highest);
        self.measured_from = highest + 1;
    }

    /// Begins to measure anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.rose = now;
        self.longest_gap = Duration::ZERO;
        self.measured_from = self.highest + 1;
    }

    /// Height of each controller.
    pub(crate) fn heights(&self) -> Vec<u64> {
        self.nodes.iter().map(|seen| seen.height).collect()
    }

    /// The highest of them.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// Up to where every block of every controller has been compared.
    pub(crate) fn lowest_compared(&self) -> u64 {
        self.nodes.iter().map(|seen| seen.compared).min().unwrap_or(0)
    }

    /// The longest time without a new height since the last restart.
    pub(crate) fn longest_gap(&self, now: Instant) -> Duration {
        self.longest_gap.max(now - self.rose)
    }

    /// The furthest that a new block was ahead of the last one that a quorum of `voters` controllers had:
    /// 1 if each block was on a quorum of disks before the next one was anywhere. Blocks of which not all
    /// controllers have told yet do not count.
    pub(crate) fn window_max(&self, voters: usize) -> u64 {
        let quorum = voters / 2 + 1;
        let mut widest = 0;
        let told = self.lowest_compared();
        let counted = self.blocks.range(self.measured_from..).take_while(|(height, _)| **height <= told);
        for (height, block) in counted {
            let first = block.first();
            let agreed = self.blocks.range(..height).rev();
            let settled = agreed.take_while(|(_, before)| before.on_quorum(quorum) > first);
            widest = widest.max(settled.count() as u64 + 1);
        }
        widest
    }

    /// What must not be.
    pub(crate) fn findings(&self) -> &[String] {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn block(height: u64, hash: &str) -> Value {
        json!({"height": height, "hash": hash})
    }

    #[test]
    fn a_height_with_two_contents_a_gap_and_a_fall_are_found() {
        let now = Instant::now();
        let mut record = Record::new(4, now);
        assert_eq!(record.on_height(0, 2, now), Some((1, 2)));
        record.on_blocks(0, 1, &[block(1, "a"), block(2, "b")]);
        record.on_height(1, 2, now);
        record.on_blocks(1, 1, &[block(1, "a"), block(2, "c")]);
        record.on_height(2, 2, now);
        record.on_blocks(2, 1, &[block(2, "b")]);
        record.on_height(0, 1, now);
        let findings = record.findings();
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert_eq!(findings[0], "block 2 is c on controller 1 and b elsewhere");
        assert!(findings[1].contains("in the place of block 1"), "{findings:?}");
        assert_eq!(findings[2], "controller 0 fell from height 2 to 1");
    }

    #[test]
    fn a_rollback_that_was_ordered_is_no_finding_and_the_height_may_change_its_content() {
        let now = Instant::now();
        let mut record = Record::new(2, now);
        for node in 0..2 {
            record.on_height(node, 2, now);
            record.on_blocks(node, 1, &[block(1, "a"), block(2, "b")]);
        }
        record.on_rollback(&[0, 1], 1);
        assert_eq!(record.on_height(0, 2, now), Some((2, 2)));
        record.on_blocks(0, 2, &[block(2, "c")]);
        assert_eq!(record.on_height(1, 1, now), None);
        assert_eq!(record.findings(), [""; 0]);
    }

    #[test]
    fn one_that_was_rolled_back_must_get_the_same_blocks_again() {
        let now = Instant::now();
        let mut record = Record::new(2, now);
        for node in 0..2 {
            record.on_height(node, 2, now);
            record.on_blocks(node, 1, &[block(1, "a"), block(2, "b")]);
        }
        record.on_rollback(&[1], 1);
        assert_eq!((record.highest(), record.lowest_compared()), (2, 1));
        record.on_height(1, 2, now);
        record.on_blocks(1, 2, &[block(2, "c")]);
        assert_eq!(record.findings().len(), 1);
    }

    #[test]
    fn the_longest_gap_is_kept_until_the_measurement_begins_anew() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut record = Record::new(4, now);
        record.on_height(0, 1, at(1));
        record.on_height(1, 3, at(5));
        assert_eq!(record.longest_gap(at(6)), Duration::from_secs(4));
        record.on_height(2, 4, at(7));
        assert_eq!(record.longest_gap(at(20)), Duration::from_secs(13));
        record.restart(at(20));
        assert_eq!(record.longest_gap(at(21)), Duration::from_secs(1));
    }

    #[test]
    fn a_block_that_came_before_a_quorum_had_the_one_before_widens_the_window() {
        let now = Instant::now();
        let arrivals = [[10, 20, 30], [11, 21, 31], [12, 22, 32], [90, 91, 92]];
        let window = |arrivals: [[u64; 3]; 4]| {
            let mut record = Record::new(4, now);
            for (node, times) in arrivals.iter().enumerate() {
                let blocks = (1..).zip(times);
                let blocks =
                    blocks.map(|(height, time)| json!({"height": height, "hash": "x", "arrived_us": time}));
                record.on_height(node, 3, now);
                record.on_blocks(node, 1, &blocks.collect::<Vec<_>>());
            }
            record.window_max(4)
        };
        assert_eq!(window(arrivals), 1, "the one that lags does no harm");
        let mut ahead = arrivals;
        (ahead[0][1], ahead[0][2]) = (11, 11);
        assert_eq!(window(ahead), 3);
    }

    #[test]
    fn blocks_of_which_not_all_have_told_yet_say_nothing_of_the_window() {
        let now = Instant::now();
        let mut record = Record::new(4, now);
        for node in 0..4 {
            record.on_height(node, 2, now);
            let heights = if node == 0 { 1..=2 } else { 1..=1 };
            let blocks = heights.map(|height| json!({"height": height, "hash": "x", "arrived_us": height}));
            record.on_blocks(node, 1, &blocks.collect::<Vec<_>>());
        }
        record.on_height(0, 3, now);
        record.on_blocks(0, 3, &[json!({"height": 3, "hash": "x", "arrived_us": 3})]);
        assert_eq!(record.window_max(4), 1);
    }
}
