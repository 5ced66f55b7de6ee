//! What every scenario of a CITA-Cloud chain stands on: the processes, the observer, the load, the verdict.
//!
//! A bound that is missed does not end a play, so that one run tells all that is wrong; what makes the rest
//! meaningless is an error at once. The directory of a play that holds is removed, another one is named.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::Telling;
use super::chain::{Chain, Leader, Plan, Service, now_ms};
use super::figures::{Bound, Unit, milliseconds};
use super::load::Load;
use super::observer::Observer;
use crate::e2e::cli::Cli;
use crate::e2e::http;
use crate::e2e::random::Random;
use crate::e2e::report::Phases;
use crate::interrupt::Interrupt;

/// Beyond this a chain is called stuck, whatever bound is asked of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// SIGTERM to exit of a consensus process, at most.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Of four or more controllers a new block may be so far ahead of the last one that a quorum has.
const WINDOW_MAX: u64 = 1;

/// One chain and who watches it.
pub(crate) struct Play<'a> {
    telling: &'a Telling<'a>,
    phases: Phases,
    directory: PathBuf,
    pub(crate) chain: Chain,
    pub(crate) observer: Observer,
    pub(crate) random: Random,
    misses: Vec<String>,
}

/// After this long a transaction is in the pools of all controllers.
const SPREAD: Duration = Duration::from_millis(200);

/// What the controllers have counted, together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Imports {
    committed: u64,
    imported: u64,
}

impl Imports {
    /// Which part of the blocks since `before` came by sync, in per cent.
    pub(crate) fn share_since(self, before: Self) -> f64 {
        // A controller that was restarted counts anew.
        let imported = self.imported.saturating_sub(before.imported) as f64;
        let committed = self.committed.saturating_sub(before.committed) as f64;
        100.0 * imported / (imported + committed).max(1.0)
    }
}

impl<'a> Play<'a> {
    /// The command line, for what is on disk.
    pub(crate) fn cli(&self) -> &'a Cli {
        self.telling.stage.cli()
    }

    /// Writes a new chain; nothing runs yet.
    pub(crate) fn new(telling: &'a Telling<'a>, name: &str, plan: &Plan) -> Result<Self> {
        let seed = telling.seed;
        let mut random = Random::new(seed);
        let directory = telling.stage.run_directory(&format!("cita-{name}"))?;
        let chain = Chain::create(&telling.programs, &directory, plan, &mut random)?;
        let ports = chain.nodes().iter().map(|node| node.ports().controller_control).collect::<Vec<_>>();
        let observer = Observer::start(&ports);
        let phases = Phases::start(false);
        let interval = plan.block_interval;
        phases.say(&format!("{name}: {} nodes, block interval {interval}, seed {seed}", plan.nodes));
        Ok(Self { telling, phases, directory, chain, observer, random, misses: Vec::new() })
    }

    pub(crate) fn say(&self, text: &str) {
        self.phases.say(text);
    }

    pub(crate) fn interrupt(&self) -> &'a Interrupt {
        self.telling.stage.interrupt()
    }

    pub(crate) fn pause(&self, duration: Duration) -> Result<()> {
        self.interrupt().pause(duration)
    }

    /// Notes a bound that is missed.
    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.say(&format!("MISSED: {what}"));
            self.misses.push(what);
        }
    }

    /// Takes a figure into the table, and notes it if it misses its bound.
    pub(in crate::e2e::cita) fn measured(&mut self, what: &str, value: f64, unit: Unit, bound: Bound) {
        let missed = self.telling.figures.borrow_mut().take(what, value, unit, bound);
        if let Some(missed) = missed {
            self.expect(false, || missed);
        }
    }

    /// The same with a time.
    pub(crate) fn expect_within(&mut self, what: &str, took: Duration, limit: Duration) {
        let limit = milliseconds(limit * self.telling.allowance);
        self.measured(what, milliseconds(took), Unit::Milliseconds, Bound::AtMost(limit));
    }

    /// Takes a time into the table that nothing is asked of.
    pub(crate) fn note(&mut self, what: &str, took: Duration) {
        self.measured(what, milliseconds(took), Unit::Milliseconds, Bound::None);
    }

    /// Notes blocks that came before a quorum had the ones before them.
    pub(crate) fn expect_window(&mut self, voters: usize) {
        let window = self.observer.record().window_max(voters);
        let what = "agreed height ahead of a quorum's controllers";
        self.measured(what, window as f64, Unit::Blocks, Bound::AtMost(WINDOW_MAX as f64));
    }

    /// Starts everything that does not run and waits until the chain goes on. Returns how long that took.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let height = self.height();
        let started = Instant::now();
        self.chain.start_all()?;
        self.observer.wait_for_height(self.interrupt(), height + 1, PATIENCE)?;
        Ok(started.elapsed())
    }

    /// The highest height of all controllers.
    pub(crate) fn height(&self) -> u64 {
        self.observer.record().highest()
    }

    /// Waits until the chain has grown by `count` blocks. Returns how long that took.
    pub(crate) fn grow(&self, count: u64) -> Result<Duration> {
        self.observer.wait_for_height(self.interrupt(), self.height() + count, PATIENCE)
    }

    /// Waits until all controllers have what the highest one has now.
    pub(crate) fn level(&mut self) -> Result<Duration> {
        let height = self.height();
        self.chain.expect_running()?;
        self.observer.wait_for_all(self.interrupt(), height, PATIENCE)
    }

    /// Waits until somebody leads.
    pub(crate) fn leader(&self) -> Result<Leader> {
        let leader =
            self.interrupt().poll(PATIENCE, Duration::from_millis(50), || Ok(self.chain.leader()))?;
        leader.context("no consensus process says that it leads")
    }

    /// Measures the gap and the window from now on.
    pub(crate) fn measure(&self) {
        self.observer.record().restart(Instant::now());
    }

    /// The longest time without a new block since [`Play::measure`].
    pub(crate) fn longest_gap(&self) -> Duration {
        self.observer.record().longest_gap(Instant::now())
    }

    /// Puts transactions on random controllers until it is dropped.
    pub(in crate::e2e::cita) fn load(&mut self, per_second: u32) -> Load {
        let ports = self.chain.nodes().iter().map(|node| node.ports().controller_control).collect();
        Load::start(ports, per_second, self.random.next())
    }

    /// What a stand-in controller says of itself.
    pub(crate) fn status(&self, node: usize) -> Result<Value> {
        http::get(self.chain.node(node).ports().controller_control, "/status")
    }

    /// How the blocks came to the controllers so far.
    pub(crate) fn imports(&self) -> Result<Imports> {
        let mut imports = Imports { committed: 0, imported: 0 };
        for node in 0..self.chain.nodes().len() {
            let status = self.status(node)?;
            let count = |name: &str| status["counts"][name].as_u64().context("a controller counts nothing");
            imports.committed += count("committed")?;
            imports.imported += count("imported")?;
        }
        Ok(imports)
    }

    /// Gives all stand-in networks the same order.
    pub(crate) fn order_networks(&self, path: &str, body: &Value) -> Result<()> {
        let orders = self.chain.nodes().iter();
        orders
            .map(|node| http::post(node.ports().network_control, path, body))
            .try_for_each(|done| done.map(drop))
    }

    /// Gives all stand-in controllers the same order.
    pub(crate) fn order_all(&self, path: &str, body: &Value) -> Result<()> {
        self.chain.nodes().iter().try_for_each(|node| node.order(path, body).map(drop))
    }

    /// Gives transactions to one controller. They must be in a block that was made not later than the first
    /// one that was made after they had reached every pool.
    pub(crate) fn expect_fresh_transactions(&mut self, node: usize) -> Result<()> {
        let height = self.height();
        let answer = self.chain.node(node).order("/txs", &json!({"count": 3}))?;
        let everywhere_ms = now_ms() + SPREAD.as_millis() as u64;
        let hashes = answer["hashes"].as_array().context("no hashes")?.clone();
        let port = self.chain.node(node).ports().controller_control;
        let page = format!("/blocks?from={height}&txs=true");
        let made_ms = |block: &Value| block["timestamp_ms"].as_u64().unwrap_or(0);
        let listed = self.interrupt().poll(PATIENCE, SPREAD, || {
            let blocks = http::get(port, &page)?;
            let blocks = blocks.as_array().context("no blocks")?;
            let end = blocks.iter().position(|block| made_ms(block) >= everywhere_ms);
            Ok(end.map(|end| blocks[..=end].to_vec()))
        })?;
        let listed = listed.context("no new block")?;
        let listed = listed.iter().filter_map(|block| block["txs"].as_array()).flatten().collect::<Vec<_>>();
        let missing = hashes.iter().filter(|hash| !listed.contains(hash)).count();
        self.expect(missing == 0, || format!("{missing} of 3 transactions were not in the block made next"));
        Ok(())
    }

    /// Removes the directory of a play that is not told.
    pub(crate) fn discard(self) -> Result<()> {
        std::fs::remove_dir_all(&self.directory).with_context(|| self.directory.display().to_string())
    }

    /// Stops everything, judges, and removes the directory if all holds.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.level()?;
        let took = self.chain.stop_service(Service::Consensus)?;
        self.expect_within("SIGTERM to exit of consensus", took, STOP_LIMIT);
        self.chain.stop_all()?;
        self.observer.check()?;
        let heights = self.observer.record().heights();
        self.say(&format!("all controllers equal at their common heights; heights {heights:?}"));
        ensure!(self.misses.is_empty(), "{}", self.misses.join("\n"));
        let Self { directory, chain, observer, .. } = self;
        drop((chain, observer));
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())
    }
}

/// Tells the story, and names the directory if it does not hold.
pub(crate) fn tell<'a>(mut play: Play<'a>, story: impl FnOnce(&mut Play<'a>) -> Result<()>) -> Result<()> {
    let directory = play.directory.clone();
    let told = match story(&mut play) {
        Ok(()) => play.finish(),
        Err(error) => {
            let misses = play.misses.iter().map(|miss| format!("\n{miss}")).collect::<String>();
            Err(anyhow!("{error:#}{misses}\n{}", play.chain.described()))
        }
    };
    match told {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}\nlogs and data are in {}", directory.display()),
    }
}
