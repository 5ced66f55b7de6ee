//! What a script wants a controller to do wrong.
//!
//! A script says what happens to the next calls of one kind, or for a while: another code, a hang, an
//! outcome that the caller does not learn. Hangs and codes come while the chain is locked.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use tokio::time::Instant;

/// What consensus asks of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// GetProposal.
    Get,
    /// CheckProposal.
    Check,
    /// CommitBlock, except pings.
    Commit,
}

/// What the caller of CommitBlock does not learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The block is stored and the call fails.
    Unavailable,
    /// The process ends before the block is stored.
    ExitBeforeStore,
    /// The process ends after the block was stored, without an answer.
    ExitAfterStore,
}

/// An order of `POST /faults`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// To which calls it applies; everything but `delay_ms` needs it.
    pub call: Option<Call>,
    /// Answered instead of what would be.
    pub code: Option<u32>,
    /// What becomes of CommitBlock.
    pub outcome: Option<Outcome>,
    /// Calls within this time from now wait for its end, and hold the chain's lock.
    pub hang_ms: Option<u64>,
    /// How many calls `code` or `outcome` apply to; 1 if `for_ms` is not given either.
    pub times: Option<u32>,
    /// How long `code` applies.
    pub for_ms: Option<u64>,
    /// How long a block takes to be executed, from now on.
    pub delay_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    Times(u32),
    Until(Instant),
}

#[derive(Debug, Default)]
struct Script {
    code: Option<(u32, Limit)>,
    outcome: Option<(Outcome, u32)>,
    hang: Option<Instant>,
}

/// The scripts in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    get: Script,
    check: Script,
    commit: Script,
    /// How long a block takes to be executed.
    pub(super) delay: Duration,
}

impl Faults {
    fn script(&mut self, call: Call) -> &mut Script {
        match call {
            Call::Get => &mut self.get,
            Call::Check => &mut self.check,
            Call::Commit => &mut self.commit,
        }
    }

    /// Takes an order.
    ///
    /// # Errors
    /// When it says nothing, or something that cannot be.
    pub(super) fn take(&mut self, order: &Order) -> Result<()> {
        if let Some(delay_ms) = order.delay_ms {
            self.delay = Duration::from_millis(delay_ms);
        }
        let Some(call) = order.call else {
            ensure!(order.delay_ms.is_some(), "an order without call needs delay_ms");
            return Ok(());
        };
        if order.outcome.is_some() && call != Call::Commit {
            bail!("only commit has an outcome");
        }
        let script = self.script(call);
        if let Some(code) = order.code {
            let limit = match (order.times, order.for_ms) {
                (Some(_), Some(_)) => bail!("a code has times or for_ms, not both"),
                (_, Some(for_ms)) => Limit::Until(Instant::now() + Duration::from_millis(for_ms)),
                (times, None) => Limit::Times(times.unwrap_or(1)),
            };
            script.code = Some((code, limit));
        }
        if let Some(outcome) = order.outcome {
            script.outcome = Some((outcome, order.times.unwrap_or(1)));
        }
        if let Some(hang_ms) = order.hang_ms {
            script.hang = Some(Instant::now() + Duration::from_millis(hang_ms));
        }
        Ok(())
    }

    /// Until when a call that comes now hangs.
    pub(super) fn hang(&mut self, call: Call) -> Option<Instant> {
        self.script(call).hang.filter(|end| *end > Instant::now())
    }

    /// The code that a call is answered with instead; counts it.
    pub(super) fn code(&mut self, call: Call) -> Option<u32> {
        let script = self.script(call);
        let (code, limit) = script.code.as_mut()?;
        let code = *code;
        let holds = match limit {
            Limit::Times(0) => false,
            Limit::Times(times) => {
                *times -= 1;
                true
            }
            Limit::Until(end) => Instant::now() < *end,
        };
        if !holds {
            script.code = None;
        }
        holds.then_some(code)
    }

    /// What becomes of a CommitBlock that would succeed; counts it.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        let (outcome, times) = self.commit.outcome.as_mut()?;
        if *times == 0 {
            return None;
        }
        *times -= 1;
        Some(*outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Order {
        serde_json::from_str(json).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_applies_as_often_or_as_long_as_ordered() {
        let mut faults = Faults::default();
        faults.take(&order(r#"{"call":"check","code":119,"times":2}"#)).unwrap();
        let codes = [(); 3].map(|()| faults.code(Call::Check));
        assert_eq!(codes, [Some(119), Some(119), None]);
        faults.take(&order(r#"{"call":"get","code":500,"for_ms":100}"#)).unwrap();
        assert_eq!(faults.code(Call::Get), Some(500));
        assert_eq!(faults.code(Call::Commit), None);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(faults.code(Call::Get), None);
    }

    #[test]
    fn an_order_that_cannot_be_carried_out_is_refused() {
        let mut faults = Faults::default();
        assert!(faults.take(&order("{}")).is_err());
        assert!(faults.take(&order(r#"{"call":"get","outcome":"unavailable"}"#)).is_err());
        assert!(faults.take(&order(r#"{"call":"get","code":1,"times":1,"for_ms":1}"#)).is_err());
    }
}
