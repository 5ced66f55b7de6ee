//! A Prometheus of this run: scrapes every second, evaluates the compressed rules every second, and is asked
//! which alerts fire.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::compressed::compressed;
use crate::e2e::cluster::free_ports;
use crate::e2e::http;
use crate::e2e::process::{Process, tail};
use crate::e2e::random::Random;
use crate::interrupt::Interrupt;

/// How long it may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Scrapes and evaluations; where it looks for what to scrape can change while it runs.
const CONFIGURATION: &str = "\
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: [rules.yml]
scrape_configs:
  - job_name: consensus
    file_sd_configs: [{ files: [targets.json], refresh_interval: 1s }]
";

/// Something to be scraped.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its label `instance`.
    pub(super) name: String,
    /// Its label `cluster`.
    pub(super) cluster: &'static str,
    pub(super) address: SocketAddr,
}

/// An alert that is active.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Alert {
    pub(super) labels: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub(super) state: String,
}

/// The process.
#[derive(Debug)]
pub(super) struct Prometheus {
    process: Process,
    port: u16,
    directory: PathBuf,
}

impl Prometheus {
    /// The program, if it is installed; `PROMETHEUS` may name it.
    pub(super) fn find() -> Option<PathBuf> {
        if let Some(named) = std::env::var_os("PROMETHEUS") {
            return Some(PathBuf::from(named));
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join("prometheus")).find(|file| file.is_file())
    }

    /// Starts it with the rules of a file, and with nothing to scrape.
    pub(super) fn start(
        program: &Path,
        rules: &Path,
        directory: &Path,
        random: &mut Random,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let text = std::fs::read_to_string(rules).with_context(|| rules.display().to_string())?;
        let text = compressed(&text).with_context(|| rules.display().to_string())?;
        let files = [("prometheus.yml", CONFIGURATION), ("rules.yml", &text), ("targets.json", "[]")];
        for (name, content) in files {
            std::fs::write(directory.join(name), content).with_context(|| name.to_owned())?;
        }
        let port = *free_ports(1, random)?.first().context("no port")?;
        let log = directory.join("log");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", directory.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=warn");
        let process = Process::start("prometheus", &mut command, &log)?;
        let mut this = Self { process, port, directory: directory.to_path_buf() };
        let ready = interrupt.poll(START_PATIENCE, Duration::from_millis(100), || {
            this.process.expect_running()?;
            Ok(http::code(port, "/-/ready").ok().filter(|code| *code == 200))
        })?;
        ready.with_context(|| format!("prometheus is not ready; {}", tail(&log, 5)))?;
        Ok(this)
    }

    /// Scrapes these from now on and nothing else.
    pub(super) fn scrape(&self, targets: &[Target]) -> Result<()> {
        let groups = targets.iter().map(|Target { name, cluster, address }| {
            json!({
                "targets": [address.to_string()],
                "labels": { "instance": name, "cluster": cluster },
            })
        });
        let text = serde_json::Value::from_iter(groups).to_string();
        // In one step for whoever reads it.
        let beside = self.directory.join("targets.new");
        std::fs::write(&beside, text).with_context(|| beside.display().to_string())?;
        std::fs::rename(&beside, self.directory.join("targets.json"))
            .with_context(|| beside.display().to_string())
    }

    /// Where it is asked.
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// The alerts that are active at the Prometheus that listens at a loopback port.
pub(super) fn alerts(port: u16) -> Result<Vec<Alert>> {
    #[derive(Deserialize)]
    struct Answer {
        status: String,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        alerts: Vec<Alert>,
    }
    let answer: Answer = serde_json::from_value(http::get(port, "/api/v1/alerts")?)?;
    ensure!(answer.status == "success", "prometheus answers {}", answer.status);
    Ok(answer.data.alerts)
}
