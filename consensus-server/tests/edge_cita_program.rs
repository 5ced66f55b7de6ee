//! The program under the name of CITA-Cloud's consensus service: what it says, and how it ends.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_consensus-server");
const ADDRESS: &str = "c1bcd410636e5ece8699d44ec1b47996d7895ebe";

/// A node's directory with its address, a configuration and a link `consensus` to the program.
fn node() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    symlink(PROGRAM, directory.path().join("consensus")).expect("links");
    std::fs::write(directory.path().join("node_address"), ADDRESS).expect("writes");
    configure(directory.path(), "");
    directory
}

fn configure(directory: &Path, more: &str) {
    let text = format!("[controller]\nx = 1\n[consensus_raft]\nnode_addr = 'node_address'\n{more}");
    std::fs::write(directory.join("config.toml"), text).expect("writes");
}

/// Runs a command line in the directory; its exit code, standard output and standard error.
fn run(directory: &Path, line: &str) -> (Option<i32>, String, String) {
    let mut words = line.split(' ');
    let name = words.next().expect("a program");
    let program = if name == "consensus" { directory.join(name) } else { PROGRAM.into() };
    let mut command = Command::new(program);
    let Output { status, stdout, stderr } =
        command.args(words).current_dir(directory).env_remove("CONSENSUS_LOG").output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn without_a_subcommand_it_says_so_and_ends_well() {
    let node = node();
    let said = run(node.path(), "consensus");
    assert_eq!(said, (Some(0), "no subcommand provided\n".to_owned(), String::new()));
}

#[test]
fn it_answers_to_both_names() {
    let node = node();
    let (code, version, _) = run(node.path(), "consensus --version");
    assert_eq!((code, version), (Some(0), format!("consensus {}\n", env!("CARGO_PKG_VERSION"))));
    for line in ["consensus run --help", "consensus-server cita run --help"] {
        let (code, help, _) = run(node.path(), line);
        assert_eq!(code, Some(0), "{line}");
        for option in ["-c, --config", "--stdout", "-d, --log-dir", "-f, --log-file-name"] {
            assert!(help.contains(option), "{option} in\n{help}");
        }
    }
}

#[test]
fn a_configuration_is_judged_under_both_names() {
    let node = node();
    let fine = format!(
        "config.toml: fine: validator 0x{ADDRESS}, the loss of a leader is noticed after 1.1 to 2.0 s\n"
    );
    let odd = "warning: config.toml:5: consensus_raft.odd is not known, it is ignored\n";
    for line in ["consensus config check", "consensus-server cita config check -c config.toml"] {
        configure(node.path(), "");
        assert_eq!(run(node.path(), line), (Some(0), fine.clone(), String::new()), "{line}");
        configure(node.path(), "odd = 1\n");
        assert_eq!(run(node.path(), line), (Some(0), format!("{odd}{fine}"), String::new()), "{line}");
    }
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_2_and_the_reason_on_the_first_line() {
    let node = node();
    for line in ["consensus run --stdout -d logs", "consensus run --stdout -f name", "consensus walk"] {
        let (code, _, said) = run(node.path(), line);
        assert!(code == Some(2) && said.starts_with("error: "), "{line}: {code:?} {said}");
    }
    configure(node.path(), "election_tick = 1\n");
    let expected = "config.toml:5: consensus_raft.election_tick is 1, must be between 2 and 10000\n";
    for line in ["consensus run", "consensus run --stdout", "consensus-server cita run -c config.toml"] {
        assert_eq!(run(node.path(), line), (Some(2), String::new(), expected.to_owned()), "{line}");
    }
    let (code, _, said) = run(node.path(), "consensus run -c nowhere.toml");
    assert!(code == Some(2) && said.starts_with("nowhere.toml: cannot be read: No such file"), "{said}");
    std::fs::remove_file(node.path().join("node_address")).expect("removes");
    configure(node.path(), "");
    let (code, _, said) = run(node.path(), "consensus run");
    assert!(code == Some(2) && said.contains("the file node_address cannot be read: No such file"), "{said}");
}
