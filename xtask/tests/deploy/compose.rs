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
        let certs = format!("{name}-certs:/certs:ro");
        assert_eq!(volumes, ["./config:/etc/consensus:ro", &certs, &format!("{name}:/data")], "{name}");
        let ports = words(&node["ports"]);
        assert!(ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{name}: {ports:?}");
        assert!(ports[0].ends_with(":7400") && ports[1].ends_with(":7402"), "{name}: {ports:?}");
        let config = text(&format!("compose/config/{name}.toml"));
        for (other, _) in &nodes {
            assert!(config.contains(&format!("\"{other}:7401\"")), "{name} does not know {other}");
            let certificate = format!("certificate = \"/certs/{other}.crt\"");
            assert!(config.contains(&certificate), "{name} has no public key of {other}");
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

/// The volumes of a service that hold certificates, by where they are mounted.
fn certificates_of(service: &Value) -> Vec<(&str, &str)> {
    let volumes = words(&service["volumes"]).into_iter().filter_map(|volume| volume.split_once(':'));
    volumes.filter(|(name, _)| *name == "ca" || name.ends_with("-certs")).collect()
}

#[test]
fn certificates_are_there_before_anything_starts_and_each_service_sees_its_own_only() {
    let services: std::collections::BTreeMap<_, _> = services().into_iter().collect();
    let certs = &services["certs"];
    let made: Vec<_> = certificates_of(certs);
    assert!(made.contains(&("ca", "/certs/ca")), "{made:?}");
    for (name, owner) in
        [("node1", "node1"), ("node4", "node4"), ("client", "operator"), ("prometheus", "prometheus")]
    {
        let volume = format!("{owner}-certs");
        let service = &services[name];
        assert_eq!(certificates_of(service), [(volume.as_str(), "/certs:ro")], "{name}");
        assert!(made.contains(&(&volume, &format!("/certs/{owner}"))), "{volume} is not filled");
        let waits = &service["depends_on"]["certs"]["condition"];
        assert_eq!(waits, "service_completed_successfully", "{name}");
    }
    let readers = services.values().flat_map(certificates_of).filter(|(name, _)| *name == "ca").count();
    assert_eq!(readers, 1, "the key of the CA is for the service that makes certificates");
}

#[test]
fn certificates_are_made_without_a_network_by_a_command_that_may_be_repeated() {
    let (_, certs) = services().into_iter().find(|(name, _)| name == "certs").expect("is there");
    assert_eq!(certs["network_mode"], "none");
    assert_eq!(certs["cap_drop"], json!(["ALL"]));
    assert_eq!(certs["cap_add"], json!(["CHOWN", "DAC_OVERRIDE"]));
    assert_eq!(certs["read_only"], true);
    assert!(certs["restart"].is_null(), "it ends");
    let command = words(&certs["command"]);
    assert_eq!(command[..3], ["consensus-cli", "certs", "set"]);
    for part in ["--dir=/certs/ca", "--hand-out=/certs", "--nodes=4", "--host=node{id}", "--host=127.0.0.1"] {
        assert!(command.contains(&part), "{part} is not in {command:?}");
    }
}

#[test]
fn nodes_and_client_call_each_other_with_the_certificates_that_they_have() {
    let all: Vec<String> = nodes().into_iter().map(|(name, _)| format!("{name}:7400")).collect();
    let calling = services().into_iter().filter(|(name, _)| name.starts_with("node") || name == "client");
    for (name, service) in calling {
        let environment = &service["environment"];
        assert_eq!(environment["CONSENSUS_NODES"], all.join(","), "{name}");
        for (key, file) in [("CA", "ca.crt"), ("CERT", "tls.crt"), ("KEY", "tls.key")] {
            assert_eq!(environment[format!("CONSENSUS_{key}")], format!("/certs/{file}"), "{name}");
        }
    }
    let text = text("compose/compose.yaml") + &text("compose/config/node1.toml");
    assert!(!text.contains("insecure"), "plaintext");
}

#[test]
fn what_watches_comes_only_when_it_is_asked_for_and_its_files_are_there() {
    let watching = |service: &Value| service["profiles"] == json!(["observe"]);
    let watching: Vec<_> = services().into_iter().filter(|(_, service)| watching(service)).collect();
    let names: Vec<&str> = watching.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["grafana", "otel", "prometheus"]);
    let volumes = document("compose/compose.yaml")["volumes"].clone();
    for (name, service) in services() {
        for volume in words(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            let there = match source.strip_prefix("../").or_else(|| source.strip_prefix("./")) {
                Some("config") => deploy("compose/config").exists(),
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
    let job = &config["scrape_configs"][0];
    assert_eq!(job["scheme"], "https");
    for (key, file) in [("ca_file", "ca.crt"), ("cert_file", "tls.crt"), ("key_file", "tls.key")] {
        assert_eq!(job["tls_config"][key], format!("/certs/{file}"));
    }
    for file in words(&config["rule_files"]) {
        assert!(deploy(&format!("prometheus/{file}")).is_file(), "{file}");
    }
}
