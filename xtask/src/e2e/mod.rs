//! `cargo xtask e2e`: real processes on loopback ports, real faults, and a verdict that is reached through
//! the command line only.
//!
//! [`scenarios`] tell the stories, [`cita`] those of a CITA-Cloud chain, [`docker`] that of the containers that
//! ship, [`chaos`] is a story that a seed tells; [`cluster`] and [`process`] own what
//! was started, [`clients`] put load on it, [`cli`] asks it, [`assertions`] judge what is left and [`report`]
//! says so. Everything a run writes is under `e2e/` in the build directory; a run that holds removes it, one
//! that does not names it.

mod alerts;
mod assertions;
mod chaos;
mod cita;
pub(crate) mod cli;
mod clients;
pub(crate) mod cluster;
pub(crate) mod docker;
mod http;
pub(crate) mod process;
pub(crate) mod random;
mod report;
mod scenarios;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

pub(crate) use self::chaos::NotCovered;
use self::cli::Cli;
pub(crate) use self::report::thousands;
use self::scenarios::upgrade::Older;
use crate::interrupt::Interrupt;
use crate::setup;
use crate::workspace::{self, Workspace};

/// What to run, and how.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cargo xtask e2e                          four nodes, the leader killed with -9 in the middle
  cargo xtask e2e --keep                   the same, and the cluster stays up
  cargo xtask e2e --rounds 20 --no-build   twenty times at other moments; median time to the next block
  cargo xtask e2e --power-cut              all four nodes killed at once
  cargo xtask e2e --input payments.txt     your own transactions, one per line
  cargo xtask e2e certs                    TLS: certificates and CA exchanged under load
  cargo xtask e2e flood --seconds 15       TLS: a client floods, the others are served
  cargo xtask e2e chaos --quick            every kind of fault once: processes, network, disk
  cargo xtask e2e page                     the status page in Chromium, with pictures
  cargo xtask e2e alerts                   every alert fired by a real fault, and over after it
  cargo xtask e2e cita                     the consensus service of a CITA-Cloud chain, all stories
  cargo xtask e2e docker                   the image and the compose file that ship, in containers
  cargo xtask e2e upgrade --revision v0.1  a rolling upgrade from that revision to this build, and back"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    default: scenarios::default::Options,
    /// Use the binaries as they are
    #[arg(long)]
    no_build: bool,
}

/// Scenarios beside the default one.
#[derive(Debug, Subcommand)]
enum Scenario {
    /// Restarts a node with a long log: time until it serves, memory
    Restart(scenarios::restart::Options),
    /// Makes the mistakes that people make, and checks what they are told
    Mistakes(scenarios::mistakes::Options),
    /// TLS: all certificates and their CA exchanged under load, and each refusal
    Certs(scenarios::certs::Options),
    /// TLS: one client sends ten times what the cluster can take, and hinders nobody else
    Flood(scenarios::flood::Options),
    /// Faults of every kind from a seeded schedule: processes, network, disk
    Chaos(chaos::Options),
    /// The alerts that ship, fired by real faults before a real Prometheus
    Alerts(alerts::Options),
    /// The status page in a browser without a screen, when all is well and when it is not
    Page(scenarios::page::Options),
    /// A CITA-Cloud chain: the consensus service between stand-ins for controller and network
    Cita(cita::Options),
    /// The image and the compose file as they ship: four containers, killed, cut off and restarted under load
    Docker(docker::Options),
    /// A rolling upgrade from an older build and back, under load
    Upgrade(scenarios::upgrade::Options),
}

/// What every scenario stands on.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The server's binary.
    server: PathBuf,
    cli: Cli,
    interrupt: Interrupt,
    /// The checkout.
    root: PathBuf,
    /// Where runs write.
    runs: PathBuf,
}

impl Stage {
    /// Builds the server and the command line, unless they are to be used as they are.
    pub(crate) fn build(workspace: &Workspace, profile: Profile, no_build: bool) -> Result<Self> {
        Self::build_with(workspace, profile, no_build, &[])
    }

    /// The same with further packages.
    pub(crate) fn build_with(
        workspace: &Workspace,
        profile: Profile,
        no_build: bool,
        packages: &[&str],
    ) -> Result<Self> {
        if !no_build {
            setup::ensure(workspace)?;
            let mut command = workspace.cargo();
            command.args(["build", "-p", "consensus-server", "-p", "consensus-cli"]);
            command.args(packages.iter().flat_map(|package| ["-p", *package]));
            if profile == Profile::Release {
                command.arg("--release");
            }
            workspace::run(&mut command)?;
        }
        let binaries = workspace.target()?.join(profile.directory());
        Self::with_binaries(workspace, &binaries).context("run without --no-build")
    }

    /// Uses the binaries of a directory as they are.
    fn with_binaries(workspace: &Workspace, binaries: &Path) -> Result<Self> {
        let interrupt = Interrupt::install()?;
        let server = binaries.join("consensus-server");
        let cli = binaries.join("consensus-cli");
        for binary in [&server, &cli] {
            binary.metadata().with_context(|| format!("{} is not there", binary.display()))?;
        }
        let runs = workspace.target()?.join("e2e");
        Ok(Self { server, cli: Cli::new(cli), interrupt, root: workspace.root().to_path_buf(), runs })
    }

    /// A new directory for one run.
    pub(crate) fn run_directory(&self, name: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.runs).with_context(|| self.runs.display().to_string())?;
        for number in 1..1000 {
            let directory =
                self.runs.join(if number == 1 { name.to_owned() } else { format!("{name}.{number}") });
            match std::fs::create_dir(&directory) {
                Ok(()) => return Ok(directory),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| directory.display().to_string()),
            }
        }
        anyhow::bail!("{} has a thousand runs named {name}: remove some", self.runs.display())
    }

    /// Where pictures of pages are kept.
    pub(crate) fn pictures(&self) -> PathBuf {
        self.runs.with_file_name("screenshots")
    }

    /// A path as one would type it from the checkout.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// The checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn server(&self) -> &PathBuf {
        &self.server
    }

    pub(crate) fn cli(&self) -> &Cli {
        &self.cli
    }

    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }
}

/// How binaries are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Tests and end-to-end runs.
    Dev,
    /// Measurements.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Says what was asked for without a build, or why nothing can be run here; whether that was all.
fn ends_at_once(arguments: &Arguments) -> Result<bool> {
    let skipped = match &arguments.scenario {
        Some(Scenario::Chaos(options)) if options.plan => return chaos::planned(options).map(|_| true),
        Some(Scenario::Alerts(options)) if options.list => {
            alerts::list();
            return Ok(true);
        }
        Some(Scenario::Docker(_)) => docker::missing().map(|why| format!("no containers were run, {why}")),
        Some(Scenario::Alerts(_)) => alerts::missing().map(|why| format!("no alert was fired, {why}")),
        _ => None,
    };
    if let Some(why) = &skipped {
        println!("SKIPPED: {why}");
    }
    Ok(skipped.is_some())
}

/// Runs a scenario.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if ends_at_once(arguments)? {
        return Ok(());
    }
    let no_build = match &arguments.scenario {
        None => arguments.no_build,
        Some(Scenario::Restart(options)) => options.no_build,
        Some(Scenario::Mistakes(options)) => options.no_build,
        Some(Scenario::Page(options)) => options.no_build,
        Some(Scenario::Alerts(options)) => options.no_build,
        Some(Scenario::Certs(options)) => options.no_build,
        Some(Scenario::Flood(options)) => options.no_build,
        Some(Scenario::Chaos(options)) => options.no_build,
        Some(Scenario::Cita(options)) => options.no_build,
        Some(Scenario::Docker(options)) => options.no_build,
        Some(Scenario::Upgrade(options)) => options.no_build,
    };
    // First, because it is built where this build goes too.
    let older = match &arguments.scenario {
        Some(Scenario::Upgrade(options)) => match Older::provide(workspace, options)? {
            Some(older) => Some(older),
            None => {
                println!(
                    "SKIPPED: there is no tag to upgrade from; --revision names one, --from its programs"
                );
                return Ok(());
            }
        },
        _ => None,
    };
    let packages: &[&str] = match &arguments.scenario {
        Some(Scenario::Cita(_) | Scenario::Alerts(_)) => &["cita-peers"],
        _ => &[],
    };
    let profile = match &arguments.scenario {
        Some(Scenario::Cita(options)) => options.profile(),
        _ => Profile::Dev,
    };
    let binaries = match &arguments.scenario {
        Some(Scenario::Chaos(options)) => options.binaries.as_deref(),
        _ => None,
    };
    let stage = match binaries {
        Some(binaries) => Stage::with_binaries(workspace, &std::path::absolute(binaries)?)?,
        None => Stage::build_with(workspace, profile, no_build, packages)?,
    };
    match &arguments.scenario {
        None => scenarios::default::run(&stage, &arguments.default),
        Some(Scenario::Restart(options)) => scenarios::restart::run(&stage, options),
        Some(Scenario::Mistakes(options)) => scenarios::mistakes::run(&stage, options),
        Some(Scenario::Page(options)) => scenarios::page::run(&stage, options),
        Some(Scenario::Alerts(options)) => alerts::run(&stage, options),
        Some(Scenario::Certs(options)) => scenarios::certs::run(&stage, options),
        Some(Scenario::Flood(options)) => scenarios::flood::run(&stage, options),
        Some(Scenario::Chaos(options)) => chaos::run(&stage, options),
        Some(Scenario::Cita(options)) => cita::run(&stage, options),
        Some(Scenario::Docker(options)) => docker::run(workspace, &stage, options),
        Some(Scenario::Upgrade(options)) => {
            let older = older.context("an upgrade without an older build ends above")?;
            scenarios::upgrade::run(&stage, &older, options)
        }
    }
}

/// What continuous integration runs: the default scenario once, all nodes killed once, the mistakes, the status
/// page where there is a browser, a short story of a CITA-Cloud chain.
pub(crate) fn smoke(workspace: &Workspace) -> Result<()> {
    let stage = Stage::build_with(workspace, Profile::Dev, false, &["cita-peers"])?;
    scenarios::default::run(&stage, &scenarios::default::Options::one_round(false))?;
    scenarios::default::run(&stage, &scenarios::default::Options::one_round(true))?;
    scenarios::mistakes::run(&stage, &scenarios::mistakes::Options { seed: None, no_build: true })?;
    scenarios::page::run(&stage, &scenarios::page::Options { pictures: None, no_build: true })?;
    cita::run(&stage, &cita::Options::short())
}
