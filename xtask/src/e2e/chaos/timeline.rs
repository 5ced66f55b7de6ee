//! The run on one page: what was done to whom, what the nodes said, what clients felt, what was violated.
//!
//! The page is one file of HTML with a drawing in it, without scripts or anything from elsewhere, so that it
//! can be attached to a report. Time runs from left to right, in the same scale for all lanes; the pointer
//! shows what a thing is.

mod charts;
mod lanes;
mod svg;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use self::svg::{Drawing, Scale, escaped};
use super::chronicle::{Chronicle, Mark};
use super::coverage::Coverage;
use super::figures::Figures;
use super::observer::Sample;
use crate::e2e::clients::Finished;

/// What a run leaves for its page, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) samples: BTreeMap<u64, Vec<Sample>>,
    pub(crate) clients: Vec<Finished>,
    pub(crate) coverage: Coverage,
    pub(crate) figures: Figures,
}

/// The colours and what they mean.
const LEGEND: [(&str, &str); 16] = [
    ("leader", "leader"),
    ("follower", "follower"),
    ("candidate", "candidate"),
    ("halted", "halted"),
    ("mute", "no answer"),
    ("down", "down"),
    ("paused", "stands still"),
    ("full", "disk full"),
    ("hangs", "disk hangs"),
    ("silent", "link silent"),
    ("refused", "link refused"),
    ("late", "late"),
    ("slow", "slow"),
    ("lossy", "lossy"),
    ("half", "half open, resets"),
    ("recovery", "recovery"),
];

/// The whole page.
pub(crate) fn page(title: &str, end: &str, chronicle: &Chronicle, record: &Record) -> String {
    let story = chronicle.told();
    let length = chronicle.now();
    let mut drawing = Drawing::new(Scale::of(length));
    lanes::marks(&mut drawing, &story.marks);
    lanes::cluster(&mut drawing, &story.spans, length);
    for (node, samples) in &record.samples {
        lanes::node(&mut drawing, *node, samples, &story.spans, length);
    }
    lanes::links(&mut drawing, &story.spans, length);
    charts::clients(&mut drawing, &record.clients, chronicle.started_unix_ms(), length);
    drawing.axis(length);
    let mut legend = String::new();
    for (class, name) in LEGEND {
        let _ = write!(legend, "<span><i class=\"{class}\"></i>{name}</span>");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<pre class=\"verdict {class}\">{end}</pre>\n\
         <p class=\"legend\">{legend}</p>\n{drawing}\n<h2>Figures</h2>\n<pre>{figures}</pre>\n\
         <h2>Coverage</h2>\n<pre>{coverage}</pre>\n<h2>Notes</h2>\n<table>\n{notes}</table>\n</body>\n</html>\n",
        title = escaped(title),
        style = include_str!("timeline/style.css"),
        class = if end.starts_with("passed") { "good" } else { "bad" },
        end = escaped(end),
        drawing = drawing.html(),
        figures = escaped(&record.figures.to_string()),
        coverage = escaped(&record.coverage.to_string()),
        notes = notes(&story.marks),
    )
}

fn notes(marks: &[Mark]) -> String {
    let mut text = String::new();
    for mark in marks {
        let class = if mark.is_violation { " class=\"violation\"" } else { "" };
        let _ = writeln!(
            text,
            "<tr{class}><td>{:.1} s</td><td>{}</td></tr>",
            mark.at.as_secs_f64(),
            escaped(&mark.what)
        );
    }
    text
}

/// The second of a moment.
fn second(at: Duration) -> usize {
    usize::try_from(at.as_secs()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::chronicle::{Lane, State};
    use super::*;
    use crate::e2e::cli::Receipt;
    use crate::e2e::clients::Share;

    fn record(started_ms: u64) -> Record {
        let receipt = Receipt {
            id: "a-1".into(),
            outcome: "committed".into(),
            height: Some(1),
            index: Some(0),
            block_hash: None,
            duplicate: false,
            latency_us: Some(4_000),
            at_ms: started_ms + 10,
        };
        let share = Share { client: "a".into(), lines: Arc::new(Vec::new()) };
        let client = Finished {
            share,
            sent: 1,
            is_ordered: false,
            receipts: vec![receipt],
            summary: None,
            complaint: None,
        };
        let samples = BTreeMap::from([(1, vec![Sample { at: Duration::ZERO, seen: None }])]);
        Record { samples, clients: vec![client], ..Record::default() }
    }

    #[test]
    fn the_page_shows_lanes_faults_and_violations_and_needs_nothing_from_elsewhere() {
        let chronicle = Chronicle::start();
        chronicle.begin(Lane::Node(1), State::Down, "kill-leader");
        chronicle.begin(Lane::Link((1, 2)), State::Silent, "one-way");
        chronicle.violation("two leaders & <one> term");
        let page = page("chaos, seed 1", "FAILED", &chronicle, &record(chronicle.started_unix_ms()));
        for part in ["node 1", "1 → 2", "kill-leader", "two leaders &amp; &lt;one&gt; term", "verdict bad"]
        {
            assert!(page.contains(part), "{part} is missing");
        }
        for foreign in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn every_element_of_the_drawing_is_closed() {
        let chronicle = Chronicle::start();
        chronicle.note("a note");
        let page = page("chaos", "passed", &chronicle, &record(chronicle.started_unix_ms()));
        for name in ["svg", "g", "text", "title", "table", "tr", "td", "pre", "div"] {
            let opened =
                page.matches(&format!("<{name}>")).count() + page.matches(&format!("<{name} ")).count();
            let closed = page.matches(&format!("</{name}>")).count();
            assert_eq!(opened, closed, "{name}");
        }
    }
}
