//! Lanes of the cluster, of each node and of each link that was spoiled.

use std::collections::BTreeMap;
use std::time::Duration;

use super::second;
use super::svg::Drawing;
use crate::e2e::chaos::chronicle::{Lane, Mark, Span, State};
use crate::e2e::chaos::observer::{Role, Sample, Seen};

/// Between two heights that are written below a node's lane, in seconds.
const HEIGHT_EVERY: usize = 10;

/// Notes and violations.
pub(super) fn marks(drawing: &mut Drawing, marks: &[Mark]) {
    let top = drawing.lane("notes", 12);
    for mark in marks {
        let what = format!("{:.1} s: {}", mark.at.as_secs_f64(), mark.what);
        drawing.moment(mark.is_violation, mark.at, top, &what);
    }
}

/// Episodes, recoveries and what is done to all.
pub(super) fn cluster(drawing: &mut Drawing, spans: &[Span], length: Duration) {
    let top = drawing.lane("episodes", 16);
    for span in spans.iter().filter(|span| span.lane == Lane::Cluster) {
        bar(drawing, span, top, 16, length);
        if span.state == State::Episode {
            drawing.text(span.from, top + 12, span.what.split(':').next().unwrap_or_default());
        }
    }
}

/// What a node said of itself above, what was done to it over that, its height below.
pub(super) fn node(drawing: &mut Drawing, node: u64, samples: &[Sample], spans: &[Span], length: Duration) {
    let top = drawing.lane(&format!("node {node}"), 44);
    for (class, from, to, what) in stretches(samples, length) {
        drawing.bar(class, (from, to), top, 14, &what);
    }
    for span in spans.iter().filter(|span| span.lane == Lane::Node(node)) {
        bar(drawing, span, top + 14, 5, length);
    }
    let seen = samples.iter().filter_map(|sample| Some((sample.at, sample.seen.as_ref()?.height)));
    let seen = seen.collect::<Vec<_>>();
    let highest = seen.iter().map(|(_, height)| *height).max().unwrap_or(1).max(1) as f64;
    let y = |height: u64| top as f64 + 44.0 - 24.0 * height as f64 / highest;
    let scale = drawing.scale();
    let points = seen.iter().map(|(at, height)| (scale.x(*at), y(*height))).collect::<Vec<_>>();
    drawing.line("height", &points);
    let mut written = None;
    for (at, height) in seen {
        let slot = second(at) / HEIGHT_EVERY;
        if written.replace(slot) != Some(slot) {
            drawing.text(at, top + 43, &height.to_string());
        }
    }
}

/// Links that were spoiled, each in a thin lane.
pub(super) fn links(drawing: &mut Drawing, spans: &[Span], length: Duration) {
    let mut links = BTreeMap::<_, Vec<&Span>>::new();
    for span in spans {
        if let Lane::Link(link) = span.lane {
            links.entry(link).or_default().push(span);
        }
    }
    for ((from, to), spans) in links {
        let top = drawing.lane(&format!("{from} → {to}"), 9);
        spans.into_iter().for_each(|span| bar(drawing, span, top, 9, length));
    }
}

fn bar(drawing: &mut Drawing, span: &Span, top: u64, height: u64, length: Duration) {
    let to = span.to.unwrap_or(length);
    let what = format!("{:.1} s to {:.1} s: {}", span.from.as_secs_f64(), to.as_secs_f64(), span.what);
    drawing.bar(class_of(span.state), (span.from, to), top, height, &what);
}

fn class_of(state: State) -> &'static str {
    match state {
        State::Down => "down",
        State::Paused => "paused",
        State::DiskFull => "full",
        State::DiskHangs => "hangs",
        State::Silent => "silent",
        State::Refused => "refused",
        State::Late => "late",
        State::Slow => "slow",
        State::Lossy => "lossy",
        State::HalfOpen | State::Resets => "half",
        State::Episode => "episode",
        State::Recovery => "recovery",
    }
}

/// Samples that say the same one after the other, as one stretch.
fn stretches(samples: &[Sample], length: Duration) -> Vec<(&'static str, Duration, Duration, String)> {
    let mut stretches: Vec<(&'static str, Duration, Duration, String)> = Vec::new();
    for (place, sample) in samples.iter().enumerate() {
        let to = samples.get(place + 1).map_or(length, |next| next.at);
        let (class, what) = said(sample.seen.as_ref());
        match stretches.last_mut() {
            Some(last) if last.0 == class && last.3 == what => last.2 = to,
            _ => stretches.push((class, sample.at, to, what)),
        }
    }
    stretches
}

fn said(seen: Option<&Seen>) -> (&'static str, String) {
    let Some(seen) = seen else { return ("mute", "no answer".to_owned()) };
    if let Some(reason) = &seen.halted {
        return ("halted", format!("halted: {reason}"));
    }
    let ready = if seen.is_ready { "ready" } else { "not ready" };
    let term = seen.term;
    match seen.role {
        Role::Leader => ("leader", format!("leader of term {term}, {ready}")),
        Role::Candidate => ("candidate", format!("candidate in term {term}, {ready}")),
        Role::Follower => ("follower", format!("follower of {} in term {term}, {ready}", seen.leader)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_say_the_same_become_one_stretch_up_to_the_next_that_differs() {
        let at = Duration::from_secs;
        let mute = |second| Sample { at: at(second), seen: None };
        let found = stretches(&[mute(0), mute(1), mute(3)], at(5));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].1, found[0].2), (at(0), at(5)));
    }
}
