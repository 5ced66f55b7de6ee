//! Where the consensus processes have their seats: all validators in one group, and nobody leads another.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::chain::consensus_status;
use super::play::{PATIENCE, Play};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(50);

/// What a node says of its seat; `null` values where it has none.
fn seats(play: &Play<'_>) -> Vec<Value> {
    let statuses = play.chain.nodes().iter().map(consensus_status);
    statuses.map(|status| status.map_or(Value::Null, |status| status["chains"][0].clone())).collect()
}

/// The groups that have a leader.
fn led(seats: &[Value]) -> Vec<&str> {
    let leaders = seats.iter().filter(|seat| seat["role"] == "leader");
    let mut groups = leaders.filter_map(|seat| seat["group"].as_str()).collect::<Vec<_>>();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Waits until these nodes, the validators, are in one group that has a leader and apply what was agreed
/// before. Fails at once if two groups are led.
pub(super) fn expect_one_group(play: &Play<'_>, validators: &[usize]) -> Result<()> {
    let height = play.height();
    let mut last = Vec::new();
    let settled = play.interrupt().poll(PATIENCE, PERIOD, || {
        let seats = seats(play);
        let led = led(&seats);
        ensure!(led.len() <= 1, "two groups are led: {}\n{}", led.join(" and "), play.chain.described());
        let is_seated = |seat: &Value| {
            seat["state"] == "running"
                && seat["leader_id"].as_u64() > Some(0)
                && seat["height"].as_u64() >= Some(height)
                && seat["group"].as_str() == led.first().copied()
        };
        let done = !led.is_empty() && validators.iter().all(|node| is_seated(&seats[*node]));
        last = seats.iter().map(|seat| format!("{}: {}", seat["role"], seat["group"])).collect();
        Ok(done.then_some(()))
    })?;
    settled.with_context(|| format!("validators {validators:?} are not in one group: {}", last.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_group_counts_once_however_many_lead_it_and_only_if_somebody_does() {
        let seat = |role: &str, group: &str| json!({"role": role, "group": group});
        let seats = [seat("leader", "b"), seat("follower", "c"), seat("leader", "a"), seat("leader", "b")];
        assert_eq!(led(&seats), ["a", "b"]);
        assert_eq!(led(&[Value::Null, seat("candidate", "a")]), [""; 0]);
    }
}
