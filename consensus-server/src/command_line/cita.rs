//! `consensus run [-c FILE] [--stdout | -d DIR -f NAME]`, as CITA-Cloud starts its consensus service; the
//! same under `consensus-server cita`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use consensus_server::config::cita::CitaLog;
use consensus_server::config::{CitaConfig, LogFormat};
use consensus_server::telemetry::{LogFiles, LogTarget, logging};

use super::{EXIT_USAGE, serve, told};

/// The name of the program, as CITA-Cloud has it.
pub(super) const NAME: &str = "consensus";
/// The configuration, unless it is named.
const CONFIG: &str = "config.toml";
/// Threads of the runtime. Nothing in the service computes for long or waits for a disk on it, blocks come one
/// after the other, and threads that wake each other for every call would be a third of its cost.
const WORKER_THREADS: usize = 1;

/// CITA-Cloud's consensus service: takes proposals from the controller, agrees on them with the other
/// validators by Raft, and has the controller commit them.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    after_help = "\
Examples:
  consensus run -c config.toml             logs into ./logs, as the configuration says
  consensus run -c config.toml --stdout    for containers
  consensus config check -c config.toml    says what is wrong with the section [consensus_raft]

Exit codes: 0 fine, 1 the service could not start or go on, 2 wrong usage or configuration"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the drop-in can be told.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the service in the node's directory until SIGTERM or SIGINT; a second signal ends it at once
    Run(Run),
    /// Looks at configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The node's configuration (TOML), of which the section [consensus_raft] is read
    #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Log to standard output instead of files
    #[arg(long, conflicts_with_all = ["log_dir", "log_file_name"])]
    stdout: bool,
    /// Directory of the log files [default: log_dir of the configuration, or logs]
    #[arg(short = 'd', long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Name of the log file [default: log_file_name of the configuration, or consensus-service.log]
    #[arg(short = 'f', long, value_name = "NAME")]
    log_file_name: Option<String>,
    /// What to log, as in RUST_LOG [default: log_level of the configuration]
    #[arg(long, value_name = "FILTER", env = "CONSENSUS_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Says what is wrong with a configuration, with lines; exit code 2 if anything is
    Check {
        /// The node's configuration (TOML)
        #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
    },
}

/// Does what the command line says.
pub(super) fn run() -> ExitCode {
    match Cli::parse().command {
        Some(command) => command.run(),
        None => {
            println!("no subcommand provided");
            ExitCode::SUCCESS
        }
    }
}

impl Command {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Run(run) => run.run(),
            Self::Config { command: ConfigCommand::Check { config } } => check(&config),
        }
    }
}

fn check(file: &Path) -> ExitCode {
    let config = match CitaConfig::load(file) {
        Ok(config) => config,
        Err(mistakes) => return told(&mistakes),
    };
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    let (file, address, (shortest, longest)) =
        (file.display(), hex::encode(&config.own_address), config.failover());
    println!(
        "{file}: fine: validator 0x{address}, the loss of a leader is noticed after {:.1} to {:.1} s",
        shortest.as_secs_f64(),
        longest.as_secs_f64(),
    );
    ExitCode::SUCCESS
}

impl Run {
    fn run(self) -> ExitCode {
        let mut config = match CitaConfig::load(&self.config) {
            Ok(config) => config,
            Err(mistakes) => return told(&mistakes),
        };
        self.direct(&mut config.log);
        let target = target(&config.log);
        let in_files = matches!(target, LogTarget::Files(_));
        let log = match logging::init_to(&config.log.filter, LogFormat::Human, target) {
            Ok(log) => log,
            Err(error) => {
                eprintln!("error: {error:#}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
        for warning in &config.warnings {
            tracing::warn!(warning, "the configuration has something that does not count");
        }
        let serving = consensus_server::cita::run(config, log.clone());
        match serve(WORKER_THREADS, &log, serving) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Whoever started it sees no file.
                if in_files {
                    eprintln!("error: {error:#}");
                }
                ExitCode::FAILURE
            }
        }
    }

    /// The command line goes before the configuration; a place for files is a wish for files.
    fn direct(&self, log: &mut CitaLog) {
        if self.stdout {
            log.to_stdout = true;
        }
        if self.log_dir.is_some() || self.log_file_name.is_some() {
            log.to_stdout = false;
        }
        if let Some(dir) = &self.log_dir {
            log.dir.clone_from(dir);
        }
        if let Some(name) = &self.log_file_name {
            log.file_name.clone_from(name);
        }
        if let Some(filter) = &self.log {
            log.filter.clone_from(filter);
        }
    }
}

fn target(log: &CitaLog) -> LogTarget {
    if log.to_stdout {
        return LogTarget::Stdout;
    }
    LogTarget::Files(LogFiles {
        dir: log.dir.clone(),
        name: log.file_name.clone(),
        rotate_bytes: log.rotate_bytes,
        keep: log.rotate_keep,
        compress: log.rotate_compress,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Run, String> {
        let arguments = arguments.split_whitespace();
        match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command {
            Some(Command::Run(run)) => Ok(run),
            other => Err(format!("{other:?}")),
        }
    }

    fn log() -> CitaLog {
        CitaLog {
            filter: "info".to_owned(),
            to_stdout: false,
            dir: "logs".into(),
            file_name: "consensus-service.log".to_owned(),
            rotate_bytes: 1,
            rotate_keep: 2,
            rotate_compress: true,
        }
    }

    #[test]
    fn the_predecessors_command_lines_are_understood() {
        for (line, config) in [
            ("consensus run", "config.toml"),
            (
                "consensus run -c /etc/cita-cloud/config/config.toml --stdout",
                "/etc/cita-cloud/config/config.toml",
            ),
            ("consensus run --config x.toml -d logs -f name.log", "x.toml"),
            ("consensus run --log-dir=logs --log-file-name=name.log", "config.toml"),
        ] {
            assert_eq!(parse(line).expect(line).config, Path::new(config), "{line}");
        }
        for line in ["consensus run --stdout -d logs", "consensus run -f name --stdout"] {
            assert!(parse(line).expect_err(line).contains("cannot be used with"), "{line}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_configuration() {
        let directed = |line: &str, to_stdout: bool| {
            let mut log = CitaLog { to_stdout, ..log() };
            parse(line).expect(line).direct(&mut log);
            target(&log)
        };
        assert_eq!(directed("consensus run --stdout", false), LogTarget::Stdout);
        assert_eq!(directed("consensus run", true), LogTarget::Stdout);
        let files = |dir: &str, name: &str| {
            let (dir, name) = (dir.into(), name.to_owned());
            LogTarget::Files(LogFiles { dir, name, rotate_bytes: 1, keep: 2, compress: true })
        };
        assert_eq!(directed("consensus run", false), files("logs", "consensus-service.log"));
        assert_eq!(directed("consensus run -d here -f this", true), files("here", "this"));
    }
}
