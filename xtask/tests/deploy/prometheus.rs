//! Every alert has its test and its page, and promtool, where it is installed, finds nothing.

use std::process::Command;

use serde_json::Value;

use crate::yaml::{deploy, document, text};

/// The tests of the rules; time goes in larger steps in the second.
const TESTS: [&str; 2] = ["rules.test.yml", "rules.day.test.yml"];

fn alerts() -> Vec<Value> {
    let rules = document("prometheus/rules.yml");
    let groups = rules["groups"].as_array().expect("groups").clone();
    groups.into_iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

fn name(alert: &Value) -> String {
    alert["alert"].as_str().expect("a name").to_owned()
}

/// The anchors of a document's headings.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let plain = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            plain.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
        })
        .collect()
}

#[test]
fn every_alert_has_a_severity_a_summary_and_a_heading_in_the_runbook() {
    let anchors = anchors(&text("docs/runbook.md"));
    let alerts = alerts();
    assert!(alerts.len() >= 20, "{}", alerts.len());
    for alert in alerts {
        let name = name(&alert);
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}");
        assert!(alert["annotations"]["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let page = alert["annotations"]["runbook"].as_str().unwrap_or_default();
        let anchor = page.strip_prefix("runbook.md#").unwrap_or_default();
        assert!(anchors.iter().any(|known| known == anchor), "{name}: {page} is no heading");
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_to_clear_after_it() {
    let tests: Vec<Value> = TESTS
        .iter()
        .flat_map(|file| document(&format!("prometheus/{file}"))["tests"].as_array().expect("tests").clone())
        .collect();
    let minutes = |check: &Value| {
        let time = check["eval_time"].as_str().unwrap_or_default();
        time.strip_suffix('m').and_then(|number| number.parse::<u64>().ok()).expect("minutes")
    };
    for alert in alerts() {
        let name = name(&alert);
        let checks: Vec<&Value> = tests
            .iter()
            .flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten())
            .filter(|check| check["alertname"] == name.as_str())
            .collect();
        let is_firing = |check: &Value| check["exp_alerts"].as_array().is_some_and(|list| !list.is_empty());
        let fires = checks.iter().filter(|check| is_firing(check)).map(|check| minutes(check)).min();
        let clears = checks.iter().filter(|check| !is_firing(check)).map(|check| minutes(check)).max();
        assert!(fires.is_some(), "no test lets {name} fire");
        assert!(clears > fires, "no test lets {name} clear");
    }
}

#[test]
fn promtool_finds_nothing_where_it_is_installed() {
    let promtool = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let ask = |arguments: &[&str], file: &str| {
        Command::new(&promtool).args(arguments).arg(deploy(&format!("prometheus/{file}"))).output()
    };
    // Without a look at the certificates, which are not on this machine.
    let config = (&["check", "config", "--syntax-only"][..], "prometheus.yml");
    if ask(config.0, config.1).is_err() {
        eprintln!("SKIPPED: promtool is not installed; PROMTOOL may name it");
        return;
    }
    let tests = TESTS.map(|file| (&["test", "rules"][..], file));
    let rules = (&["check", "rules"][..], "rules.yml");
    for (arguments, file) in [config, rules].into_iter().chain(tests) {
        let output = ask(arguments, file).expect("starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn the_dashboards_panels_ask_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&text("grafana/consensus.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 20);
    let mut places = std::collections::BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{title} lies on another");
        let asks = panel["targets"].as_array().is_some_and(|targets| !targets.is_empty());
        assert!(asks || panel["type"] == "row", "{title} asks nothing");
    }
}
