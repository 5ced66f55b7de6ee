//! The Dockerfile makes what the compose file, the manifests and a CITA-Cloud node expect.

use crate::yaml::text;

/// The lines of a stage, in which a backslash joins lines.
fn stage(name: &str) -> Vec<String> {
    let file = text("docker/Dockerfile").replace("\\\n", " ");
    let lines = file.lines().skip_while(|line| !line.ends_with(&format!(" AS {name}"))).skip(1);
    lines.take_while(|line| !line.starts_with("FROM ")).map(str::to_owned).collect()
}

fn has(lines: &[String], start: &str, part: &str) -> bool {
    lines.iter().any(|line| line.starts_with(start) && line.contains(part))
}

#[test]
fn bases_are_arguments_and_the_compiler_is_fetched_after_the_stage_that_does_without() {
    let file = text("docker/Dockerfile");
    let position = |part: &str| file.find(part).unwrap_or_else(|| panic!("{part} is not there"));
    assert!(position("ARG BUILD_IMAGE=") < position("FROM "));
    assert!(position("ARG RUNTIME_IMAGE=") < position("FROM "));
    assert!(position("FROM runtime AS prebuilt") < position("FROM ${BUILD_IMAGE} AS build"));
    assert!(file.rfind("FROM ") == file.find("FROM runtime AS source"), "the last stage is the default");
    for line in file.lines().filter(|line| line.starts_with("ARG ") && line.contains("_IMAGE=")) {
        assert!(line.contains(':') && !line.ends_with(":latest"), "{line} is not pinned");
    }
}

#[test]
fn the_user_is_chain_1000_and_owns_the_data() {
    let runtime = stage("runtime");
    assert!(has(&runtime, "RUN", "chain:x:1000:1000:"));
    assert!(has(&runtime, "RUN", "chown 1000:1000 /data"));
    for name in ["prebuilt", "source"] {
        let stage = stage(name);
        assert!(has(&stage, "USER", "1000:1000"), "{name}");
        assert!(has(&stage, "VOLUME", "/data"), "{name}");
        assert_eq!(stage.iter().filter(|line| line.starts_with("VOLUME")).count(), 1, "{name}");
    }
}

#[test]
fn both_names_of_the_service_and_the_probe_are_there_and_signals_arrive() {
    let runtime = stage("runtime");
    for part in
        ["ln -s consensus-server /usr/bin/consensus", "ln -s consensus-cli /usr/bin/grpc-health-probe"]
    {
        assert!(has(&runtime, "RUN", part), "{part}");
    }
    assert!(has(&runtime, "STOPSIGNAL", "SIGTERM"));
    // Without a shell in between, which would keep the signal to itself.
    assert!(has(&runtime, "CMD", "[\"consensus-server\", "));
    assert!(has(&runtime, "HEALTHCHECK", "CMD [\"consensus-cli\", \"health\", "));
}

#[test]
fn the_sources_that_the_image_is_built_from_are_in_its_context() {
    let ignored = std::fs::read_to_string(crate::yaml::deploy("../.dockerignore")).expect("is there");
    let manifest = std::fs::read_to_string(crate::yaml::deploy("../Cargo.toml")).expect("is there");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    for member in members.split(',') {
        let top = member.trim().trim_matches('"').split('/').next().unwrap_or_default();
        assert!(ignored.lines().any(|line| line == format!("!{top}")), "{top}");
    }
    for name in ["!Cargo.toml", "!Cargo.lock", "!target/dist"] {
        assert!(ignored.lines().any(|line| line == name), "{name}");
    }
}
