//! The unit file starts the program as it is to be started, and systemd, where it is installed, finds nothing.

use std::process::Command;

use crate::yaml::text;

const UNIT: &str = "systemd/consensus-server.service";

/// The values of a key.
fn values(key: &str) -> Vec<String> {
    let unit = text(UNIT);
    let found = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.map(str::to_owned).collect()
}

#[test]
fn the_node_is_started_restarted_and_stopped_as_it_should() {
    let start = values("ExecStart");
    assert_eq!(start, ["/usr/local/bin/consensus-server run --config /etc/consensus/node.toml"]);
    assert_eq!(values("Restart"), ["on-failure"]);
    assert_eq!(values("RestartPreventExitStatus"), ["2"], "a mistake is not cured by a restart");
    let stop: u64 = values("TimeoutStopSec")[0].parse().expect("seconds");
    assert!(stop > 5, "the server takes up to 5 s");
    let files: u64 = values("LimitNOFILE")[0].parse().expect("a number");
    assert!(files >= 65_536);
}

#[test]
fn the_node_can_write_its_data_and_nothing_else() {
    for (key, expected) in [
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectory", "consensus"),
        ("StateDirectoryMode", "0700"),
    ] {
        assert_eq!(values(key), [expected], "{key}");
    }
}

#[test]
fn systemd_finds_nothing_where_it_is_installed() {
    let directory = tempfile::tempdir().expect("a directory");
    let unit = directory.path().join("consensus-server.service");
    // It looks whether the program is there, which it is not before it is installed.
    let text = text(UNIT).replace("/usr/local/bin/consensus-server", "/bin/sh");
    std::fs::write(&unit, text).expect("is written");
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
        eprintln!("SKIPPED: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("consensus-server.service"), "{said}");
}
