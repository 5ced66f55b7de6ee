//! A drawing of lanes below each other, with one scale of time.

use std::fmt::Write as _;
use std::time::Duration;

/// Width of the column of names, in pixels.
const NAMES: u64 = 92;

/// Widest drawing, in pixels: a long run is drawn narrower.
const WIDTH_MAX: f64 = 14_000.0;

/// Room for what is written beside the last moment, in pixels.
const RIGHT_MARGIN: f64 = 40.0;

/// Pixels of a second, at most.
const SECOND_MAX: f64 = 14.0;

/// From time to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    second: f64,
    width: f64,
}

impl Scale {
    /// For a run of this length.
    pub(super) fn of(length: Duration) -> Self {
        let seconds = length.as_secs_f64().max(1.0);
        let second = (WIDTH_MAX / seconds).min(SECOND_MAX);
        Self { second, width: second * seconds }
    }

    pub(super) fn x(self, at: Duration) -> f64 {
        at.as_secs_f64() * self.second
    }
}

/// Lanes so far.
#[derive(Debug)]
pub(super) struct Drawing {
    scale: Scale,
    names: String,
    lanes: String,
    /// Where the next lane begins.
    top: u64,
}

impl Drawing {
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, names: String::new(), lanes: String::new(), top: 18 }
    }

    pub(super) fn scale(&self) -> Scale {
        self.scale
    }

    /// Begins a lane; returns its upper edge.
    pub(super) fn lane(&mut self, name: &str, height: u64) -> u64 {
        let top = self.top;
        self.top += height + 4;
        let middle = top + height.min(16) - 4;
        let _ = writeln!(self.names, "<text x=\"4\" y=\"{middle}\">{}</text>", escaped(name));
        top
    }

    /// A stretch of time.
    pub(super) fn bar(
        &mut self,
        class: &str,
        (from, to): (Duration, Duration),
        top: u64,
        height: u64,
        what: &str,
    ) {
        let x = self.scale.x(from);
        let width = (self.scale.x(to) - x).max(1.0);
        let what = escaped(what);
        let _ = writeln!(
            self.lanes,
            "<g><title>{what}</title><rect class=\"{class}\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" \
             height=\"{height}\"/></g>"
        );
    }

    /// A moment, drawn as a triangle; a violation goes through all lanes below.
    pub(super) fn moment(&mut self, is_violation: bool, at: Duration, top: u64, what: &str) {
        let x = self.scale.x(at);
        let class = if is_violation { "violation" } else { "mark" };
        let (left, right, foot) = (x - 4.0, x + 4.0, top + 9);
        if is_violation {
            let _ = writeln!(
                self.lanes,
                "<line class=\"violation-line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"100%\"/>"
            );
        }
        let what = escaped(what);
        let _ = writeln!(
            self.lanes,
            "<g><title>{what}</title><path class=\"{class}\" d=\"M{left:.1} {top} L{right:.1} {top} L{x:.1} {foot} Z\"/></g>"
        );
    }

    /// A line through points in pixels.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(self.lanes, "<polyline class=\"{class}\" points=\"{points}\"/>");
    }

    /// Text at a moment.
    pub(super) fn text(&mut self, at: Duration, base: u64, what: &str) {
        let x = self.scale.x(at) + 2.0;
        let _ = writeln!(self.lanes, "<text x=\"{x:.1}\" y=\"{base}\">{}</text>", escaped(what));
    }

    /// Seconds at the upper edge, and lines down from them.
    pub(super) fn axis(&mut self, length: Duration) {
        let step = if self.scale.second > 6.0 { 10 } else { 60 };
        let mut grid = String::new();
        for second in (0..=length.as_secs()).step_by(step) {
            let x = self.scale.x(Duration::from_secs(second));
            let _ = writeln!(
                grid,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"14\" y2=\"{}\"/><text x=\"{x:.1}\" y=\"11\">{second} s</text>",
                self.top
            );
        }
        self.lanes.insert_str(0, &grid);
    }

    /// Both columns.
    pub(super) fn html(&self) -> String {
        let Self { names, lanes, top, .. } = self;
        let width = self.scale.width + RIGHT_MARGIN;
        format!(
            "<div class=\"timeline\">\n<svg class=\"names\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{NAMES}\" height=\"{top}\">\n\
             {names}</svg>\n<div class=\"lanes\">\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{top}\">\n\
             {lanes}</svg>\n</div>\n</div>"
        )
    }
}

/// Text as it may stand between tags and in attributes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_no_wider_than_the_widest_drawing() {
        let hour = Duration::from_secs(3600);
        assert!(Scale::of(hour).x(hour) <= WIDTH_MAX + 0.1);
        let minute = Duration::from_secs(60);
        assert!((Scale::of(minute).x(minute) - 60.0 * SECOND_MAX).abs() < 0.1);
    }
}
