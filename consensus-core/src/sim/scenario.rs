//! A run made explicit: its configuration in full, and the faults that happen in it.
//!
//! A seed changes its meaning when the simulator learns something new; a scenario keeps it, as far as the code under
//! test does what it did. A failing seed becomes a scenario, is made small ([`super::shrink`]) and kept as a file
//! in `consensus-core/corpus/sim`, which the tests replay. Fields that a file does not have are off.

use serde::{Deserialize, Serialize};

use super::cluster::{Options, Sight, run_script};
use super::report::{Failure, Report};
use super::script::{Occurrence, Script};
use super::swarm::Swarm;
use crate::mutant::Mutant;

/// A run made explicit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scenario {
    /// How it came to be, for people.
    pub about: String,
    /// The rule to break, by name.
    pub mutant: Option<String>,
    /// The property that is violated.
    pub violates: Option<String>,
    /// Everything else that was drawn.
    pub swarm: Swarm,
    /// The faults, in the order of their time; `null`: all that the seed draws.
    pub faults: Option<Vec<Occurrence>>,
}

impl Scenario {
    /// The run that failed.
    pub fn of(failure: &Failure, mutant: Option<Mutant>) -> Self {
        Self {
            about: format!("seed {}: {}", failure.swarm.seed, failure.violation),
            mutant: mutant.map(|mutant| mutant.name().to_owned()),
            violates: Some(failure.violation.invariant.to_owned()),
            swarm: failure.swarm.clone(),
            faults: Some(failure.faults.clone()),
        }
    }

    /// Runs it with this rule broken.
    pub fn run(&self, mutant: Option<Mutant>, verbose: bool) -> Report {
        let options = Options { seed: self.swarm.seed, mutant, sight: Sight::Inside, verbose };
        let script = self.faults.as_ref().map_or_else(Script::default, |faults| Script::only(faults));
        run_script(options, self.swarm.clone(), script)
    }
}
