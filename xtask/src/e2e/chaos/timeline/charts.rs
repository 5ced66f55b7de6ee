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
    let told = (0..).zip(&latencies).collect::<Vec<(u64, &Vec<u64>)>>();
    // Where nothing was acknowledged there is nothing to draw, no line either.
    for run in told.split(|(_, latencies)| latencies.is_empty()).filter(|run| !run.is_empty()) {
        let longest = run.iter().map(|(second, all)| (x(*second), y(all.iter().max().copied().unwrap_or(0))));
        let medians = run.iter().map(|(second, all)| (x(*second), y(median(all))));
        drawing.line("longest", &longest.collect::<Vec<_>>());
        drawing.line("median", &medians.collect::<Vec<_>>());
    }
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
    use std::sync::Arc;

    use super::super::svg::Scale;
    use super::*;
    use crate::e2e::cli::Receipt;
    use crate::e2e::clients::Share;

    #[test]
    fn a_second_without_an_acknowledgement_interrupts_the_lines() {
        let receipt = |second: u64| Receipt {
            id: String::new(),
            outcome: "committed".into(),
            height: Some(1),
            index: Some(0),
            block_hash: None,
            duplicate: false,
            latency_us: Some(1),
            at_ms: second * 1000,
        };
        let share = Share { client: "a".into(), lines: Arc::default() };
        let receipts = [0, 1, 4].map(receipt).to_vec();
        let client = Finished { share, sent: 3, is_ordered: false, receipts, summary: None, complaint: None };
        let length = Duration::from_secs(5);
        let mut drawing = Drawing::new(Scale::of(length));
        clients(&mut drawing, &[client], 0, length);
        assert_eq!(drawing.html().matches("class=\"median\"").count(), 2);
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[9, 1, 5]), 5);
        assert_eq!(median(&[]), 0);
    }
}
