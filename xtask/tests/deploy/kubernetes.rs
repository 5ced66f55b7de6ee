//! The manifests fit each other: selectors select, ports have names that exist, files that are mounted are made.

use std::process::Command;

use serde_json::{Value, json};

use crate::yaml::{deploy, document, documents, text, words};

/// All manifests of the kustomization.
fn manifests() -> Vec<Value> {
    let kustomization = document("k8s/kustomization.yaml");
    let files = words(&kustomization["resources"]);
    assert!(files.len() >= 5, "{files:?}");
    files.iter().flat_map(|file| documents(&format!("k8s/{file}"))).collect()
}

fn manifest(kind: &str, name: &str) -> Value {
    let found = manifests().into_iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn container(pod: &Value, name: &str) -> Value {
    let found = pod["containers"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no container {name}")).clone()
}

/// The number of a named port of a container.
fn port(container: &Value, name: &str) -> Option<u64> {
    let ports = container["ports"].as_array()?;
    ports.iter().find(|port| port["name"] == name)?["containerPort"].as_u64()
}

#[test]
fn every_manifest_says_what_it_is_and_every_file_is_part_of_the_kustomization() {
    for one in manifests() {
        for key in ["apiVersion", "kind"] {
            assert!(one[key].is_string(), "{one}");
        }
        assert!(one["metadata"]["name"].is_string(), "{one}");
    }
    let kustomization = document("k8s/kustomization.yaml");
    let listed = words(&kustomization["resources"]);
    for entry in std::fs::read_dir(deploy("k8s")).expect("is there") {
        let name = entry.expect("is read").file_name().to_string_lossy().into_owned();
        let is_manifest = name.ends_with(".yaml") && name != "kustomization.yaml";
        assert!(!is_manifest || listed.contains(&name.as_str()), "{name} is not in the kustomization");
    }
}

#[test]
fn all_selectors_select_the_pods() {
    let set = manifest("StatefulSet", "consensus");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        set["spec"]["selector"]["matchLabels"].clone(),
        manifest("Service", "consensus")["spec"]["selector"].clone(),
        manifest("Service", "consensus-peers")["spec"]["selector"].clone(),
        manifest("PodDisruptionBudget", "consensus")["spec"]["selector"]["matchLabels"].clone(),
        manifest("NetworkPolicy", "consensus")["spec"]["podSelector"]["matchLabels"].clone(),
        manifest("NetworkPolicy", "consensus")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
            .clone(),
        set["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
            .clone(),
    ];
    for selector in selectors {
        let pairs = selector.as_object().expect("labels");
        assert!(!pairs.is_empty());
        assert!(pairs.iter().all(|(key, value)| labels[key] == *value), "{selector} selects not {labels}");
    }
}

#[test]
fn services_policies_and_probes_name_ports_that_the_container_has() {
    let set = manifest("StatefulSet", "consensus");
    let container = container(&set["spec"]["template"]["spec"], "consensus");
    for service in ["consensus", "consensus-peers"] {
        for one in manifest("Service", service)["spec"]["ports"].as_array().expect("ports") {
            let target = one["targetPort"].as_str().expect("a name");
            assert_eq!(port(&container, target), one["port"].as_u64(), "{service}: {one}");
        }
    }
    for rule in manifest("NetworkPolicy", "consensus")["spec"]["ingress"].as_array().expect("rules") {
        let name = rule["ports"][0]["port"].as_str().expect("a name");
        assert!(port(&container, name).is_some(), "{rule}");
    }
    assert_eq!(port(&container, "ops"), Some(7402));
    for (probe, how) in [
        ("startupProbe", "--accept-expired"),
        ("livenessProbe", "--accept-expired"),
        ("readinessProbe", "--ready"),
    ] {
        let asked = words(&container[probe]["exec"]["command"]);
        assert_eq!(asked, ["consensus-cli", "health", "--ops", "127.0.0.1:7402", how], "{probe}");
        // The command gives up by itself, with its reason, before it is killed.
        assert!(container[probe]["timeoutSeconds"].as_u64() > Some(2), "{probe}");
    }
}

/// The files that a projected volume is made of: the Secret, its key, and the path that it gets.
fn projected(volumes: &Value, name: &str) -> Vec<(String, String, String)> {
    let volume = volumes.as_array().expect("volumes").iter().find(|volume| volume["name"] == name);
    let sources = volume.unwrap_or_else(|| panic!("no volume {name}"))["projected"]["sources"].clone();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let files = sources.as_array().expect("sources").iter().flat_map(|source| {
        let secret = &source["secret"];
        let items = secret["items"].as_array().expect("items").clone();
        items.into_iter().map(|item| (text(&secret["name"]), text(&item["key"]), text(&item["path"])))
    });
    files.collect()
}

#[test]
fn a_pod_has_all_certificates_and_its_container_sees_no_other_nodes_key() {
    let set = manifest("StatefulSet", "consensus");
    let pod = &set["spec"]["template"]["spec"];
    let file = |secret: &str, key: &str, path: &str| (secret.to_owned(), key.to_owned(), path.to_owned());
    let mut certs = vec![file("consensus-ca", "ca.crt", "ca.crt")];
    let mut keys = Vec::new();
    for pod in 0..4 {
        let secret = format!("consensus-{pod}-tls");
        certs.push(file(&secret, "tls.crt", &format!("node{}.crt", pod + 1)));
        for key in ["tls.crt", "tls.key"] {
            keys.push(file(&secret, key, &format!("consensus-{pod}/{key}")));
        }
    }
    assert_eq!(projected(&pod["volumes"], "certs"), certs);
    assert_eq!(projected(&pod["volumes"], "keys"), keys);
    let container = container(pod, "consensus");
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let mount = |name: &str| mounts.iter().find(|mount| mount["name"] == name).expect("is mounted").clone();
    assert_eq!(mount("keys")["subPathExpr"], "$(POD_NAME)", "the pod's own directory");
    assert_eq!(
        (&mount("keys")["mountPath"], &mount("certs")["mountPath"]),
        (&json!("/own"), &json!("/certs"))
    );
    for one in &["keys", "certs"] {
        assert_eq!(mount(one)["readOnly"], true, "{one}");
    }
    let environment = container["env"].as_array().expect("a list");
    for (name, path) in [("CA", "/certs/ca.crt"), ("CERT", "/own/tls.crt"), ("KEY", "/own/tls.key")] {
        let expected = json!({ "name": format!("CONSENSUS_{name}"), "value": path });
        assert!(environment.contains(&expected), "{expected}");
        assert!(text("k8s/config/consensus-0.toml").contains(&format!("\"{path}\"")), "{path}");
    }
    for id in 1..=4 {
        let certificate = format!("certificate = \"/certs/node{id}.crt\"");
        assert!(text("k8s/config/consensus-0.toml").contains(&certificate), "{certificate}");
    }
    assert!(!text("k8s/config/consensus-0.toml").contains("insecure"), "plaintext");
}

#[test]
fn kubectl_puts_the_manifests_together_where_it_is_installed() {
    let Ok(output) = Command::new("kubectl").arg("kustomize").arg(deploy("k8s")).output() else {
        eprintln!("SKIPPED: kubectl is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for kind in ["StatefulSet", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap"] {
        assert!(said.contains(&format!("kind: {kind}\n")), "{kind} is not in {said}");
    }
}

#[test]
fn the_nodes_find_each_other_before_they_are_ready_under_the_names_that_the_configurations_have() {
    let set = manifest("StatefulSet", "consensus");
    let peers = manifest("Service", "consensus-peers");
    assert_eq!(set["spec"]["serviceName"], peers["metadata"]["name"]);
    assert_eq!(peers["spec"]["clusterIP"], "None");
    assert_eq!(peers["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(set["spec"]["podManagementPolicy"], "Parallel", "one alone never becomes ready");
    let replicas = set["spec"]["replicas"].as_u64().expect("a number");
    assert_eq!(replicas, 4);
    let kustomization = document("k8s/kustomization.yaml");
    let files = words(&kustomization["configMapGenerator"][0]["files"]);
    let expected: Vec<String> = (0..replicas).map(|pod| format!("config/consensus-{pod}.toml")).collect();
    assert_eq!(files, expected);
    for file in files {
        let config = text(&format!("k8s/{file}"));
        for pod in 0..replicas {
            assert!(config.contains(&format!("\"consensus-{pod}.consensus-peers:7401\"")), "{file}");
        }
    }
    let container = container(&set["spec"]["template"]["spec"], "consensus");
    assert_eq!(container["args"], json!(["run", "--config", "/etc/consensus/$(POD_NAME).toml"]));
    assert_eq!(container["env"][0]["name"], "POD_NAME");
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
}

#[test]
fn what_is_mounted_is_there() {
    let set = manifest("StatefulSet", "consensus");
    let mut pods =
        vec![set["spec"]["template"]["spec"].clone(), document("k8s/cita/pod.yaml")["spec"].clone()];
    let claim = set["spec"]["volumeClaimTemplates"][0]["metadata"].clone();
    pods[0]["volumes"].as_array_mut().expect("volumes").push(claim);
    for pod in &pods {
        let volumes: Vec<_> =
            pod["volumes"].as_array().expect("volumes").iter().map(|one| one["name"].clone()).collect();
        for container in pod["containers"].as_array().expect("containers") {
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                assert!(volumes.contains(&mount["name"]), "{}: {mount}", container["name"]);
            }
        }
    }
    let kustomization = document("k8s/kustomization.yaml");
    let volumes = &set["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["name"], kustomization["configMapGenerator"][0]["name"]);
}

#[test]
fn containers_run_as_the_images_user_without_anything_that_they_do_not_need() {
    let set = manifest("StatefulSet", "consensus");
    let pods = [set["spec"]["template"]["spec"].clone(), document("k8s/cita/pod.yaml")["spec"].clone()];
    for pod in pods {
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(context[key], 1000, "{key}");
        }
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let container = container(&pod, "consensus");
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(10), "the server takes up to 5 s");
    }
    assert_eq!(set["spec"]["template"]["spec"]["automountServiceAccountToken"], false);
    assert_eq!(manifest("ServiceAccount", "consensus")["automountServiceAccountToken"], false);
    assert_eq!(manifest("PodDisruptionBudget", "consensus")["spec"]["maxUnavailable"], 1);
}

#[test]
fn the_cita_container_keeps_the_name_command_and_ports_that_operators_look_for() {
    let pod = document("k8s/cita/pod.yaml");
    let container = container(&pod["spec"], "consensus");
    let command = words(&container["command"]);
    assert_eq!(command, ["consensus", "run", "-c", "/etc/cita-cloud/config/config.toml", "--stdout"]);
    assert_eq!(container["workingDir"], "/data");
    assert!(container["image"].as_str().is_some_and(|image| image.starts_with("consensus_raft")));
    let config = text("k8s/cita/config.toml");
    for (name, key, expected) in
        [("consensus", "grpc_listen_port", 50001), ("metrics", "metrics_port", 60001)]
    {
        assert_eq!(port(&container, name), Some(expected));
        assert!(config.contains(&format!("{key} = {expected}\n")), "{key}");
    }
    for probe in ["startupProbe", "livenessProbe"] {
        let asked = words(&container[probe]["exec"]["command"]);
        assert_eq!(asked, ["grpc-health-probe", "-addr=127.0.0.1:50001"], "{probe}");
    }
}
