//! `cargo xtask e2e alerts`: the alerts that ship, fired by real faults on real nodes, and over when the fault is.
//!
//! A real Prometheus scrapes the nodes and evaluates the rules of `deploy/prometheus`, in a time that runs faster
//! ([`compressed`]). [`scenes`] says which fault fires which alerts; the troupes are [`ledger`], [`secured`] and
//! [`cita`]; an [`act`] measures one fault and [`watch`] sees what fires. Before each fault nothing may fire.

mod act;
mod cita;
mod compressed;
mod ledger;
mod load;
mod prometheus;
mod scenes;
mod secured;
mod table;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::act::{Act, Row, calm};
use self::cita::Cita;
use self::ledger::Ledger;
use self::prometheus::{Prometheus, Target};
use self::scenes::{Play, SCENES, Scene};
use self::secured::Secured;
use self::watch::Watch;
use crate::e2e::Stage;
use crate::e2e::chaos::disk::is_root;
use crate::e2e::chaos::guardian::Guardian;
use crate::e2e::cita::Telling;
use crate::e2e::random::Random;
use crate::e2e::report::Phases;
use crate::workspace::spoken;

/// For so long nothing fires before a fault.
const CALM: Duration = Duration::from_secs(3);

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask e2e alerts                       every fault, in about twenty minutes; disks take root
  cargo xtask e2e alerts node-down full-disk   these faults
  cargo xtask e2e alerts --list                the faults and their alerts, and those that no fault fires")]
pub(crate) struct Options {
    /// Faults to make [default: all]
    #[arg(value_name = "FAULT", value_parser = clap::builder::PossibleValuesParser::new(SCENES.iter().map(|scene| scene.name)))]
    faults: Vec<String>,
    /// Only say which there are
    #[arg(long)]
    pub(super) list: bool,
    /// Seed of the ports [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Use the binaries as they are
    #[arg(long)]
    pub(super) no_build: bool,
}

/// What is missing for a run, and how to get it.
pub(crate) fn missing() -> Option<&'static str> {
    let why = "prometheus is not installed (Debian, Ubuntu: `apt-get install prometheus`), and PROMETHEUS names none";
    Prometheus::find().is_none().then_some(why)
}

/// Prints faults and alerts.
pub(crate) fn list() {
    println!("{}", table::list());
}

/// Makes the faults one after the other.
///
/// # Errors
/// When an alert does not fire or is not over, or one fires although nothing is wrong.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let directory = stage.run_directory(&format!("alerts-{seed}"))?;
    let program = Prometheus::find().context("prometheus is not installed")?;
    let (played, skipped): (Vec<&Scene>, Vec<&Scene>) = SCENES
        .iter()
        .filter(|scene| options.faults.is_empty() || options.faults.iter().any(|name| name == scene.name))
        .partition(|scene| is_root() || !matches!(scene.play, Play::LedgerWithDisks(_)));
    for scene in &skipped {
        println!("SKIPPED: {}, which takes root to mount a file system", scene.fault);
    }
    let mut random = Random::new(seed);
    let mut guardian = Guardian::start(&directory.join("guardian.log"))?;
    guardian.kill_processes_of(&directory)?;
    let rules = stage.root().join("deploy/prometheus/rules.yml");
    let home = directory.join("prometheus");
    let prometheus = Prometheus::start(&program, &rules, &home, &mut random, stage.interrupt())?;
    let watch = Watch::start(prometheus.port());
    let phases = Phases::start(false);
    let mut run = Run { stage, directory: directory.clone(), prometheus, watch, phases, rows: Vec::new() };
    run.phases.say(&format!(
        "durations are divided by {} and at most {}; seed {seed}",
        compressed::FACTOR,
        spoken(compressed::LONGEST)
    ));
    let started = Instant::now();
    let failed = run.play_all(&played, &mut random, &mut guardian);
    let rows = run.finish();
    drop(guardian);
    println!("\n{}", table::table(&rows));
    let holds = failed.is_empty() && rows.iter().all(|row| row.cleared.is_some());
    let place = directory.display().to_string();
    if !holds {
        failed.iter().for_each(|error| println!("{error}"));
        bail!("not every alert has fired and is over (seed {seed}); logs and data are in {place}");
    }
    println!("{} alerts have fired and are over; seed {seed}, {}", rows.len(), spoken(started.elapsed()));
    std::fs::remove_dir_all(&directory).context(place)
}

/// Prometheus and what it has said so far.
struct Run<'a> {
    stage: &'a Stage,
    directory: PathBuf,
    prometheus: Prometheus,
    watch: Watch,
    phases: Phases,
    rows: Vec<Row>,
}

impl Run<'_> {
    /// Each troupe plays its scenes; why one has ended early.
    fn play_all(&mut self, scenes: &[&Scene], random: &mut Random, guardian: &mut Guardian) -> Vec<String> {
        let of = |is_of: fn(&Play) -> bool| {
            scenes.iter().copied().filter(|scene| is_of(&scene.play)).collect::<Vec<_>>()
        };
        let ledger = of(|play| matches!(play, Play::Ledger(_) | Play::LedgerWithDisks(_)));
        let secured = of(|play| matches!(play, Play::Secured(_)));
        let cita = of(|play| matches!(play, Play::Cita(_)));
        let ends = [
            self.play_ledger(&ledger, random, guardian),
            self.play_secured(&secured, random),
            self.play_cita(&cita, random),
        ];
        ends.into_iter().filter_map(|end| end.err().map(|error| format!("{error:#}"))).collect()
    }

    fn play_ledger(&mut self, scenes: &[&Scene], random: &mut Random, guardian: &mut Guardian) -> Result<()> {
        if scenes.is_empty() {
            return Ok(());
        }
        let mut troupe = Ledger::create(self.stage, &self.directory.join("ledger"), random, guardian)?;
        self.enter("the built-in ledger", &troupe.targets())?;
        for scene in scenes {
            troupe.settle()?;
            let (Play::Ledger(play) | Play::LedgerWithDisks(play)) = scene.play else { continue };
            self.play(scene, |act| play(&mut troupe, act))?;
        }
        troupe.settle()?;
        self.leave()?;
        troupe.stop()
    }

    fn play_secured(&mut self, scenes: &[&Scene], random: &mut Random) -> Result<()> {
        if scenes.is_empty() {
            return Ok(());
        }
        let mut troupe = Secured::create(self.stage, &self.directory.join("secured"), random)?;
        self.enter("nodes with certificates", &troupe.targets())?;
        for scene in scenes {
            troupe.settle()?;
            let Play::Secured(play) = scene.play else { continue };
            self.play(scene, |act| play(&mut troupe, act))?;
        }
        troupe.settle()?;
        self.leave()?;
        troupe.stop()
    }

    fn play_cita(&mut self, scenes: &[&Scene], random: &mut Random) -> Result<()> {
        if scenes.is_empty() {
            return Ok(());
        }
        let telling = Telling::of_one_chain(self.stage, random.next());
        let mut troupe = Cita::create(&telling)?;
        self.enter("a CITA-Cloud chain", &troupe.targets())?;
        for scene in scenes {
            troupe.settle()?;
            let Play::Cita(play) = scene.play else { continue };
            self.play(scene, |act| play(&mut troupe, act))?;
        }
        troupe.settle()?;
        self.leave()?;
        troupe.finish()
    }

    fn enter(&self, who: &str, targets: &[Target]) -> Result<()> {
        self.phases.say(who);
        self.prometheus.scrape(targets)
    }

    /// Nobody is scraped any more, so nobody is missed who ends.
    fn leave(&self) -> Result<()> {
        calm(&self.watch, self.stage.interrupt(), CALM)?;
        self.prometheus.scrape(&[])
    }

    /// One fault, from calm to calm.
    fn play(&mut self, scene: &Scene, make: impl FnOnce(&mut Act<'_>) -> Result<()>) -> Result<()> {
        let interrupt = self.stage.interrupt();
        calm(&self.watch, interrupt, CALM).with_context(|| format!("before {}", scene.fault))?;
        self.phases.say(scene.fault);
        let mut act = Act::new(&self.watch, interrupt, &self.phases, scene.fault, scene.alerts);
        make(&mut act).with_context(|| scene.fault.to_owned())?;
        self.rows.extend(act.finish()?);
        Ok(())
    }

    /// Ends Prometheus; what was found.
    fn finish(self) -> Vec<Row> {
        self.rows
    }
}
