//! Rules on what one part of the tree may know of another: crates by cargo's own account, modules by the
//! paths that their code names.

use anyhow::{Context, Result};
use serde_json::Value;

use super::source::Source;
use super::{Finding, occurrences};

/// The workspace's own crates that each crate may depend on.
const CRATES: [(&str, &[&str]); 7] = [
    ("consensus-proto", &[]),
    ("consensus-core", &["consensus-proto"]),
    // Its tests depend on the core.
    ("storage-faults", &[]),
    ("consensus-server", &["consensus-core", "consensus-proto"]),
    ("consensus-cli", &["consensus-core", "consensus-proto"]),
    ("xtask", &[]),
    ("cita-peers", &["consensus-proto"]),
];

/// Foreign crates that a crate must not depend on, tests aside.
const FOREIGN: [(&str, &[&str], &str); 2] = [
    (
        "consensus-core",
        &["tokio", "tonic", "axum", "rand", "getrandom", "chrono", "time"],
        "the core knows no runtime, network, clock or randomness",
    ),
    ("xtask", &["tokio", "tonic", "rocksdb", "prost"], "xtask builds in seconds, also on a fresh machine"),
];

/// Paths that the code of a room must not name, and why. A room is a prefix of the file's path.
const ROOMS: [(&str, &[&str], &str); 9] = [
    (
        "consensus-core/src/storage/",
        &["crate::replica", "crate::ledger", "crate::sim"],
        "storage is below the replica and the ledger",
    ),
    (
        "consensus-core/src/replica/",
        &["crate::ledger", "crate::sim", "storage::rocks", "storage::group_commit"],
        "the replica knows storage only by its traits, and no ledger",
    ),
    (
        "consensus-core/src/ledger/",
        &["crate::replica", "crate::sim", "storage::rocks", "storage::group_commit"],
        "the ledger knows no consensus",
    ),
    (
        "consensus-server/src/services/",
        &["Replica", "replica::Effect", "replica::Event"],
        "services talk to a chain's handle, never to a replica",
    ),
    (
        "consensus-server/src/transport/",
        &["Effect", "Replica", "crate::services"],
        "transports carry messages",
    ),
    (
        "consensus-server/src/config/",
        &["crate::chain", "crate::transport", "crate::application", "crate::services"],
        "configuration is below everything it configures",
    ),
    (
        "consensus-server/src/telemetry/",
        &["ChainHandle", "crate::transport", "crate::application", "crate::services"],
        "telemetry is below everything it measures",
    ),
    (
        "consensus-server/src/application/",
        &["crate::services", "crate::node"],
        "an application does not know who asks it",
    ),
    ("consensus-server/src/chain/", &["crate::services", "crate::node"], "a chain does not know who asks it"),
];

/// Where the raft crate's own types may stand.
const RAFT_ALLOWED: [&str; 4] = [
    "consensus-core/src/replica/",
    "consensus-core/src/storage/records.rs",
    "consensus-server/src/transport/wire.rs",
    // The simulator reads messages in order to judge them.
    "consensus-core/src/sim/",
];

/// Names of the raft crate.
const RAFT_NAMES: [&str; 5] = ["raft", "raft_proto", "eraftpb", "RawNode", "protobuf"];

/// Checks which crates depend on which.
///
/// # Errors
/// When cargo's account of the workspace does not have the form that it documents.
pub(super) fn crates(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let own = packages.iter().filter_map(|package| package["name"].as_str()).collect::<Vec<_>>();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some((_, allowed)) = CRATES.iter().find(|(crate_name, _)| *crate_name == name) else {
            findings.push(crate_finding(name, format!("{name} has no place in the list of directions")));
            continue;
        };
        let foreign = FOREIGN.iter().find(|(crate_name, _, _)| *crate_name == name);
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"].is_null()) {
            let on = dependency["name"].as_str().context("a dependency without a name")?;
            if own.contains(&on) && !allowed.contains(&on) {
                findings.push(crate_finding(name, format!("{name} must not depend on {on}")));
            }
            if let Some((_, banned, why)) = foreign
                && banned.contains(&on)
            {
                findings.push(crate_finding(name, format!("{name} must not depend on {on}: {why}")));
            }
            if on == "raft" && name != "consensus-core" {
                findings.push(crate_finding(
                    name,
                    format!("{name} must not depend on raft: the replica hides it"),
                ));
            }
        }
    }
    Ok(findings)
}

fn crate_finding(name: &str, message: String) -> Finding {
    let directory = match name {
        "consensus-proto" => "proto",
        "cita-peers" => "xtask/peers",
        "storage-faults" => "consensus-core/storage-faults",
        name => name,
    };
    Finding { path: format!("{directory}/Cargo.toml"), line: 0, rule: "crates", message }
}

/// Checks which modules name which.
pub(super) fn modules(source: &Source) -> Vec<Finding> {
    let mut findings = raft_types(source);
    for (room, banned, why) in ROOMS {
        if !source.path().starts_with(room) {
            continue;
        }
        for token in banned {
            for position in occurrences(source.code(), token).filter(|&position| !source.is_test(position)) {
                findings.push(Finding {
                    path: source.path().to_owned(),
                    line: source.line_of(position),
                    rule: "rooms",
                    message: format!("{token}: {why}"),
                });
            }
        }
    }
    findings
}

fn raft_types(source: &Source) -> Vec<Finding> {
    let in_our_crates = source.path().starts_with("consensus-");
    if !in_our_crates || RAFT_ALLOWED.iter().any(|room| source.path().starts_with(room)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for name in RAFT_NAMES {
        for position in occurrences(source.code(), name).filter(|&position| !source.is_test(position)) {
            if names_raft_crate(source.code(), position, name) {
                findings.push(Finding {
                    path: source.path().to_owned(),
                    line: source.line_of(position),
                    rule: "raft-types",
                    message: format!("{name}: types of the raft crate stay in {}", RAFT_ALLOWED.join(", ")),
                });
            }
        }
    }
    findings
}

/// True if the word at `position` is the crate and not our own schema of the same name.
fn names_raft_crate(code: &str, position: usize, name: &str) -> bool {
    if matches!(name, "eraftpb" | "RawNode") {
        return true;
    }
    let is_path = code[position + name.len()..].starts_with("::");
    let is_inside_path =
        code[..position].ends_with("::") || code[..position].trim_end().ends_with(['{', ',']);
    let own_schema = code.contains("consensus_proto::raft")
        || code.contains("consensus_proto::{") && occurrences(code, "raft").count() > 1;
    is_path && !is_inside_path && !own_schema
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(path: &str, text: &str) -> Vec<&'static str> {
        let source = Source::new(path.into(), text.into());
        modules(&source).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_crate_that_depends_against_the_direction_is_found() {
        let metadata = json!({"packages": [
            {"name": "consensus-core", "dependencies": [
                {"name": "tokio", "kind": null},
                {"name": "tokio", "kind": "dev"},
                {"name": "consensus-server", "kind": null},
            ]},
            {"name": "consensus-server", "dependencies": [{"name": "raft", "kind": null}]},
            {"name": "helper", "dependencies": []},
        ]});
        let messages = crates(&metadata).expect("has its form");
        let messages = messages.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>();
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert!(messages[0].starts_with("consensus-core must not depend on tokio"), "{messages:?}");
        assert_eq!(messages[1], "consensus-core must not depend on consensus-server");
        assert!(messages[2].starts_with("consensus-server must not depend on raft"), "{messages:?}");
        assert_eq!(messages[3], "helper has no place in the list of directions");
    }

    #[test]
    fn a_room_that_names_what_is_above_it_is_found() {
        assert_eq!(broken("consensus-core/src/ledger/x.rs", "use crate::replica::Event;"), ["rooms"]);
        assert_eq!(broken("consensus-core/src/storage/x.rs", "use crate::ledger::Block;"), ["rooms"]);
        assert_eq!(broken("consensus-server/src/transport/x.rs", "fn a(_: Effect) {}"), ["rooms"]);
        assert_eq!(broken("consensus-server/src/services/x.rs", "fn a(_: &Replica) {}"), ["rooms"]);
        assert_eq!(broken("consensus-core/src/sim/x.rs", "use crate::replica::Event;"), Vec::<&str>::new());
    }

    #[test]
    fn a_type_of_the_raft_crate_outside_its_rooms_is_found() {
        for text in ["use raft::RawNode;", "fn a(_: raft::Config) {}", "use b::eraftpb::Entry;"] {
            assert!(broken("consensus-server/src/node.rs", text).contains(&"raft-types"), "{text}");
            assert_eq!(broken("consensus-core/src/replica/ready.rs", text), Vec::<&str>::new(), "{text}");
        }
        for text in
            ["use consensus_proto::raft;\nfn a(_: raft::Message) {}", "use consensus_core::replica::Message;"]
        {
            assert_eq!(broken("consensus-server/src/node.rs", text), Vec::<&str>::new(), "{text}");
        }
    }
}
