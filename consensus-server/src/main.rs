//! The consensus service.
//!
//! `consensus-server run -c FILE` runs a node, `run --dev [DIR]` a one-node chain without any configuration,
//! `config check FILE` says what is wrong with a configuration; under the name `consensus`, or as
//! `consensus-server cita`, it is the consensus service of a CITA-Cloud node. Exit codes: 0 fine, 1 the node
//! could not start or go on, 2 wrong usage or configuration.

mod command_line;

use std::process::ExitCode;

fn main() -> ExitCode {
    command_line::run()
}
