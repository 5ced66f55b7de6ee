//! The rules that ship, in a time that runs faster.
//!
//! Every duration in them (`for:`, the ranges in brackets, `offset`, how far `predict_linear` looks) is divided by [`FACTOR`], and none is longer
//! than [`LONGEST`] afterwards; everything else, the thresholds above all, stays to the letter. The nodes' own
//! times stay as they are. So an alert that waits fires here after a fault that would be over in earnest, and one
//! that counts over a range takes a fault that counts so much faster.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// By how much durations are shorter.
pub(super) const FACTOR: u32 = 30;

/// The longest of them. Of what is left of an hour or a day nobody would see more in a longer time.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// The text of a file of rules with shorter durations.
///
/// # Errors
/// At a duration that cannot be read, with its line.
pub(super) fn compressed(rules: &str) -> Result<String> {
    let mut text = String::with_capacity(rules.len());
    for (number, line) in (1..).zip(rules.lines()) {
        text.push_str(&compressed_line(line).with_context(|| format!("line {number}: {line}"))?);
        text.push('\n');
    }
    Ok(text)
}

fn compressed_line(line: &str) -> Result<String> {
    let content = line.trim_start();
    if let Some(duration) = content.strip_prefix("for:") {
        let indent = &line[..line.len() - content.len()];
        return Ok(format!("{indent}for: {}", shorter(duration.trim())?));
    }
    // Words for people name durations, too.
    if ["#", "summary:", "runbook:"].iter().any(|begin| content.starts_with(begin)) {
        return Ok(line.to_owned());
    }
    // How far is looked ahead is a time, too, in seconds.
    let ahead =
        line.split_once("predict_linear(").and_then(|(_, rest)| rest.split_once("], ")?.1.split_once(')'));
    let line = &match ahead {
        Some((seconds, _)) => line.replace(&format!("], {seconds})"), &format!("], ({seconds}) / {FACTOR})")),
        None => line.to_owned(),
    };
    let mut shortened = String::new();
    let mut rest = line.as_str();
    while let Some((at, end)) = next_duration(rest) {
        shortened.push_str(&rest[..at]);
        shortened.push_str(&shorter(&rest[at..end])?);
        rest = &rest[end..];
    }
    Ok(shortened + rest)
}

/// Where the next duration of an expression begins and ends.
fn next_duration(text: &str) -> Option<(usize, usize)> {
    const OFFSET: &str = " offset ";
    let range = text.find('[').map(|at| at + 1);
    let offset = text.find(OFFSET).map(|at| at + OFFSET.len());
    let at = range.into_iter().chain(offset).min()?;
    let length = text[at..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len() - at);
    Some((at, at + length))
}

fn shorter(duration: &str) -> Result<String> {
    let shorter = (parsed(duration)? / FACTOR).min(LONGEST);
    Ok(format!("{}ms", shorter.as_millis()))
}

/// A duration as Prometheus writes it: `90s`, `5m`, `1h30m`.
fn parsed(text: &str) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let letters = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
        let milliseconds = match &unit[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => bail!("{text:?} is no duration"),
        };
        let number: u64 = number.parse().with_context(|| format!("{text:?} is no duration"))?;
        sum += Duration::from_millis(number * milliseconds);
        rest = &unit[letters..];
    }
    if sum.is_zero() {
        bail!("{text:?} is no duration");
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_divided_wherever_rules_have_them_and_nothing_else_changes() {
        for (before, after) in [
            ("        for: 5m", "        for: 10000ms"),
            ("        for: 24h", "        for: 60000ms"),
            ("  expr: rate(a_total[2m]) > 0.5", "  expr: rate(a_total[4000ms]) > 0.5"),
            ("  or (a unless a offset 10m)", "  or (a unless a offset 20000ms)"),
            ("  f(a[1h30m]) + f(b[90s])", "  f(a[60000ms]) + f(b[3000ms])"),
            ("  summary: \"for [5m] offset 1h\"", "  summary: \"for [5m] offset 1h\""),
            ("# for: 5m", "# for: 5m"),
            ("  expr: a > 1000", "  expr: a > 1000"),
            ("  predict_linear(a[1h], 4 * 3600) < 0", "  predict_linear(a[60000ms], (4 * 3600) / 30) < 0"),
        ] {
            assert_eq!(compressed(before).expect(before), format!("{after}\n"));
        }
    }

    #[test]
    fn what_is_no_duration_is_an_error_with_its_line() {
        for line in ["for: soon", "for: 5", "for:", "  rate(a[5x])", "  rate(a[0s])"] {
            let error = compressed(&format!("groups:\n{line}")).expect_err(line);
            assert!(format!("{error:#}").contains("line 2"), "{error:#}");
        }
    }

    #[test]
    fn the_rules_that_ship_keep_their_lines_and_no_duration_is_as_long_as_before() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/rules.yml");
        let before = std::fs::read_to_string(&file).expect("the rules that ship");
        let after = compressed(&before).expect("are compressed");
        assert_eq!(before.lines().count(), after.lines().count());
        let changed = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
        let durations = before.lines().filter(|line| !line.trim_start().starts_with('#'));
        let durations = durations.filter(|line| !line.contains("summary:"));
        let has_duration =
            |line: &&str| line.trim_start().starts_with("for:") || next_duration(line).is_some();
        assert_eq!(changed.count(), durations.filter(has_duration).count());
        for line in after.lines().filter(|line| !line.contains("summary:")) {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|w| w.strip_suffix("ms"));
            for number in words.filter_map(|number| number.parse::<u64>().ok()) {
                // Two scrapes and more fit into the shortest.
                assert!((2_000..=LONGEST.as_millis() as u64).contains(&number), "{line}");
            }
        }
    }
}
