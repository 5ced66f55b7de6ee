//! The compose file fits the configurations, the image and the files that it mounts.

use serde_json::{Value, json};

use crate::yaml::{deploy, document, text, words};

fn services() -> Vec<(String, Value)> {
    let compose = document("compose/compose.yaml");
    let services = compose["services"].as_object().expect("services").clone();
    services.into_iter().collect()
}

fn nodes() -> Vec<(String, Value)> {
    services().into_iter().filter(|(name, _)| name.starts_with("node")).collect()
}

#[test]
fn four_nodes_each_with_its_own_configuration_data_and_ports() {
    let nodes = nodes();
    assert_eq!(nodes.len(), 4);
    for (name, node) in &nodes {
        let command = words(&node["command"]);
        let file = format!("/etc/consensus/{name}.toml");
        assert_eq!(command, ["consensus-server", "run", "--config", &file], "{name}");
        assert!(deploy(&format!("compose/config/{name}.toml")).is_file(), "{name}");
        let volumes = words(&node["volumes"]);
        assert_eq!(volumes, ["./config:/etc/consensus:ro", &format!("{name}:/data")], "{name}");
        let ports = words(&node["ports"]);
        assert!(ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{name}: {ports:?}");
        assert!(ports[0].ends_with(":7400") && ports[1].ends_with(":7402"), "{name}: {ports:?}");
        let config = text(&format!("compose/config/{name}.toml"));
        for (other, _) in &nodes {
            assert!(config.contains(&format!("\"{other}:7401\"")), "{name} does not know {other}");
        }
    }
}

#[test]
fn published_ports_are_all_different() {
    let services = services();
    let mut ports: Vec<&str> = services.iter().flat_map(|(_, service)| words(&service["ports"])).collect();
    let all = ports.len();
    ports.sort_unstable();
    ports.dedup_by_key(|port| port.split("}:").next().unwrap_or(port));
    assert_eq!(ports.len(), all, "{ports:?}");
}

#[test]
fn nodes_have_no_more_rights_than_they_need() {
    for (name, node) in nodes() {
        assert_eq!(node["read_only"], true, "{name}");
        assert_eq!(node["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(node["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(node["networks"], json!(["nodes"]), "{name}");
        assert!(node["user"].is_null(), "{name}: the image's own user is the one that owns the data");
    }
}

#[test]
fn what_watches_comes_only_when_it_is_asked_for_and_its_files_are_there() {
    let watching: Vec<_> = services().into_iter().filter(|(name, _)| !name.starts_with("node")).collect();
    assert_eq!(watching.len(), 3);
    let volumes = document("compose/compose.yaml")["volumes"].clone();
    for (name, service) in watching {
        assert_eq!(service["profiles"], json!(["observe"]), "{name}");
        for volume in words(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            let there = match source.strip_prefix("../") {
                Some(path) => deploy(path).exists(),
                None => volumes.get(source).is_some(),
            };
            assert!(there, "{name}: {source}");
        }
    }
}

#[test]
fn prometheus_scrapes_the_nodes_of_the_compose_file() {
    let config = document("prometheus/prometheus.yml");
    let targets = &config["scrape_configs"][0]["static_configs"][0]["targets"];
    let expected: Vec<String> = nodes().into_iter().map(|(name, _)| format!("{name}:7402")).collect();
    assert_eq!(words(targets), expected);
    for file in words(&config["rule_files"]) {
        assert!(deploy(&format!("prometheus/{file}")).is_file(), "{file}");
    }
}
