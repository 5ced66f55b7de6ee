//! What the clients felt, second by second.

use std::time::Duration;

use super::second;
use super::svg::Drawing;
use crate::e2e::clients::Finished;

/// Height of a chart in pixels.
const HEIGHT: u64 = 60;

/// Acknowledgements per second, and their latencies: median and longest.
pub(super) fn clients(drawing: &mut Drawing, clients: &[Finished], started_unix_ms: u64, length: Duration) {
    let latencies = by_second(clients, started_unix_ms, second(length) + 1);
    let most = latencies.iter().map(Vec::len).max().unwrap_or(0);
    let top = drawing.lane(&format!("tx/s ≤ {most}"), HEIGHT);
    for (second, latencies) in (0..).zip(&latencies) {
        let height = HEIGHT * latencies.len() as u64 / (most as u64).max(1);
        let from = Duration::from_secs(second);
        let what = format!("{second} s: {} acknowledged", latencies.len());
        drawing.bar("bar", (from, from + Duration::from_millis(900)), top + HEIGHT - height, height, &what);
    }
    let longest_ms = latencies.iter().flatten().max().map_or(1, |us| us / 1000).max(1);
    let top = drawing.lane(&format!("ms ≤ {longest_ms}"), HEIGHT);
    // A square root, so that the usual latencies can be seen beside those of a fault.
    let y = |us: u64| {
        let share = (us as f64 / 1000.0 / longest_ms as f64).sqrt();
        (top + HEIGHT) as f64 - HEIGHT as f64 * share
    };
    let scale = drawing.scale();
    let x = |second: u64| scale.x(Duration::from_millis(second * 1000 + 500));
    let told = (0..).zip(&latencies).filter(|(_, latencies)| !latencies.is_empty());
    let told = told.map(|(second, latencies)| (second, median(latencies), latencies.iter().max()));
    let (mut medians, mut longest) = (Vec::new(), Vec::new());
    for (second, median, max) in told {
        medians.push((x(second), y(median)));
        longest.push((x(second), y(max.copied().unwrap_or(0))));
    }
    drawing.line("longest", &longest);
    drawing.line("median", &medians);
}

fn median(latencies: &[u64]) -> u64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// The latencies in microseconds of what was acknowledged in each second.
fn by_second(clients: &[Finished], started_unix_ms: u64, seconds: usize) -> Vec<Vec<u64>> {
    let mut latencies = vec![Vec::new(); seconds];
    for receipt in clients.iter().flat_map(|client| &client.receipts).filter(|r| r.is_committed()) {
        let place = receipt.at_ms.saturating_sub(started_unix_ms) / 1000;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let (Some(slot), Some(latency)) = (latencies.get_mut(place), receipt.latency_us) {
            slot.push(latency);
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[9, 1, 5]), 5);
        assert_eq!(median(&[]), 0);
    }
}
