//! `cargo xtask e2e cita`: four nodes of a CITA-Cloud chain, twelve processes, the original's command line
//! and configuration, and everything that an operator of such a chain has seen go wrong.
//!
//! [`chain`] owns the processes, [`config`] writes what they read. The controllers' own ledgers are the
//! oracle: [`observer`] asks them all the time and [`record`] judges. [`scenarios`] tell the stories,
//! [`figures`] are what they have measured.

pub(super) mod chain;
mod config;
mod figures;
mod load;
mod observer;
pub(super) mod play;
mod record;
pub(super) mod scenarios;
mod seats;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use self::chain::Programs;
use self::figures::Figures;
use crate::e2e::random::Random;
use crate::e2e::{Profile, Stage};
use crate::workspace::spoken;

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask e2e cita                        all stories, in about ten minutes
  cargo xtask e2e cita --quick                one short story, in about a minute
  cargo xtask e2e cita leader --rounds 20     the leader killed with -9, twenty times
  cargo xtask e2e cita kills --cycles 50 --seed 7
  cargo xtask e2e cita pauses --seconds 25    everything stands still for as long as it was seen to
  cargo xtask e2e cita --release              with release binaries, for the bounds that speak of them")]
pub(crate) struct Options {
    /// Stories to tell [default: all but `quick`]
    #[arg(value_enum, value_name = "STORY")]
    stories: Vec<Story>,
    /// Only the short story
    #[arg(long, conflicts_with = "stories")]
    quick: bool,
    /// Rounds of `restart`, `leader` and `reshaping`
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Cycles of `kills`
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cycles: u32,
    /// How often `power-cuts` kills everything at once
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
    /// Seconds for which it is measured, and at most for which something stands still or hangs
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Times are allowed to take so many times as long, on a machine that does other things, too
    #[arg(long, default_value_t = 1, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=100))]
    allowance: u32,
    /// Seed of ports, victims and moments [default: another one each time]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Started in each node's directory in place of the stand-in controller; tells `intervals` only
    #[arg(long, value_name = "CMD")]
    controller: Option<String>,
    /// Started in each node's directory in place of the stand-in network
    #[arg(long, value_name = "CMD")]
    network: Option<String>,
    /// Consensus processes reach each other directly, by `[consensus_raft.peers]`
    #[arg(long)]
    direct: bool,
    /// Use release binaries
    #[arg(long)]
    pub(super) release: bool,
    /// Use the binaries as they are
    #[arg(long)]
    pub(super) no_build: bool,
}

impl Options {
    /// The short story with binaries that are there, wherever it runs.
    pub(super) fn short() -> Self {
        Self {
            stories: Vec::new(),
            quick: true,
            rounds: 1,
            cycles: 1,
            cuts: 1,
            seconds: 5,
            allowance: 3,
            seed: None,
            controller: None,
            network: None,
            direct: false,
            release: false,
            no_build: true,
        }
    }

    pub(super) fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Dev }
    }

    fn stories(&self) -> Vec<Story> {
        if self.quick {
            return vec![Story::Quick];
        }
        let all = || Story::value_variants().iter().copied().filter(|story| *story != Story::Quick).collect();
        if self.stories.is_empty() { all() } else { self.stories.clone() }
    }
}

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Story {
    /// First start, the leader killed, validators changed, an agreed block given up: each once
    Quick,
    /// Block interval 3, 1 and 0: blocks per second, redundant imports, processor time
    Intervals,
    /// First start of all nodes, clean restarts of all
    Restart,
    /// The leader's consensus killed with -9
    Leader,
    /// The leader's network, controller and consensus stand still for long
    Pauses,
    /// Random processes killed with -9
    Kills,
    /// Everything killed with -9 at once, half of the times with the controllers' pools lost
    PowerCuts,
    /// Everything killed with a block agreed on that no controller has, and its transactions lost
    Stuck,
    /// Controllers that refuse, hang, die in the middle, or are slow
    Faults,
    /// A network that loses, doubles, delays and reorders, and one that cuts the leader off
    Network,
    /// Controllers that lost blocks, consensus that lost its state
    Heights,
    /// State files that are torn, emptied or gone, and a disk that is full
    Disk,
    /// What the probes say of a node that has no leader, no controller, or has halted
    Health,
    /// Validators and interval change under load
    Validators,
    /// Validators shrink, grow and are replaced, again and again
    Reshaping,
    /// What a chain costs that has nothing to do
    Idle,
}

/// What every story is told with.
#[derive(Debug)]
pub(crate) struct Telling<'a> {
    stage: &'a Stage,
    programs: Programs,
    figures: RefCell<Figures>,
    rounds: u32,
    cycles: u32,
    cuts: u32,
    length: Duration,
    allowance: u32,
    seed: u64,
}

impl<'a> Telling<'a> {
    /// For a play of one chain that belongs to none of these stories.
    pub(crate) fn of_one_chain(stage: &'a Stage, seed: u64) -> Self {
        let programs = Programs {
            consensus: stage.server().clone(),
            peer: stage.server().with_file_name("cita-peer"),
            controller: None,
            network: None,
            is_direct: false,
        };
        Self {
            stage,
            programs,
            figures: RefCell::new(Figures::new(Profile::Dev)),
            rounds: 1,
            cycles: 1,
            cuts: 1,
            length: Duration::from_secs(10),
            allowance: 10,
            seed,
        }
    }
}

/// Tells the stories one after the other, each on a new chain.
///
/// # Errors
/// When something does not hold in one of them.
pub(crate) fn run(stage: &Stage, options: &Options) -> Result<()> {
    let programs = Programs {
        consensus: stage.server().clone(),
        peer: stage.server().with_file_name("cita-peer"),
        controller: options.controller.clone(),
        network: options.network.clone(),
        is_direct: options.direct,
    };
    let stories = options.stories();
    let is_foreign = options.controller.is_some();
    ensure!(
        !is_foreign || stories == [Story::Intervals],
        "with --controller only the story `intervals` can be told: the others steer the stand-in"
    );
    let telling = Telling {
        stage,
        programs,
        figures: RefCell::new(Figures::new(options.profile())),
        rounds: options.rounds,
        cycles: options.cycles,
        cuts: options.cuts,
        length: Duration::from_secs(options.seconds),
        allowance: options.allowance,
        seed: options.seed.unwrap_or_else(Random::fresh_seed),
    };
    tell_all(&telling, &stories)
}

fn tell_all(telling: &Telling<'_>, stories: &[Story]) -> Result<()> {
    let started = Instant::now();
    let mut failed = Vec::new();
    for story in stories {
        let told = tell(telling, *story);
        telling.stage.interrupt().check()?;
        if let Err(error) = told {
            println!("{story:?} does not hold:\n{error:#}\n");
            failed.push(format!("{story:?}"));
        }
    }
    println!("\n{}", telling.figures.borrow().table());
    let (count, seed, took) = (stories.len(), telling.seed, spoken(started.elapsed()));
    ensure!(
        failed.is_empty(),
        "{} of {count} stories do not hold (seed {seed}, {took}): {}",
        failed.len(),
        failed.join(", ")
    );
    println!("{count} stories hold; seed {seed}, {took}");
    Ok(())
}

fn tell(telling: &Telling<'_>, story: Story) -> Result<()> {
    match story {
        Story::Quick => scenarios::quick::run(telling),
        Story::Intervals => scenarios::intervals::run(telling),
        Story::Restart => scenarios::restart::run(telling),
        Story::Leader => scenarios::leader::run(telling),
        Story::Pauses => scenarios::pauses::run(telling),
        Story::Kills => scenarios::kills::run(telling),
        Story::PowerCuts => scenarios::power_cuts::run(telling),
        Story::Stuck => scenarios::stuck::run(telling),
        Story::Faults => scenarios::faults::run(telling),
        Story::Network => scenarios::network::run(telling),
        Story::Heights => scenarios::heights::run(telling),
        Story::Disk => scenarios::disk::run(telling),
        Story::Health => scenarios::health::run(telling),
        Story::Validators => scenarios::validators::run(telling),
        Story::Reshaping => scenarios::reshaping::run(telling),
        Story::Idle => scenarios::idle::run(telling),
    }
}
