//! The container engine, through its command line, and one compose project of it.
//!
//! Everything that is made belongs to the project's name and goes with it when the [`Project`] is dropped,
//! however the run ends. What others have made on the same machine is left alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{output, shown};

/// How long a container may take to stop before it is killed; the server needs 5 s at most.
const STOP_SECONDS: &str = "15";

/// An engine that answers, and a compose that goes with it.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    compose: Vec<&'static str>,
    version: String,
}

impl Engine {
    /// Looks for them.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn find() -> Result<Self> {
        let version = output(Command::new("docker").args(["info", "--format", "{{.ServerVersion}}"]))?;
        ensure!(!version.trim().is_empty(), "`docker info` names no version of a server");
        for compose in [&["docker", "compose"][..], &["docker-compose"]] {
            let mut command = Command::new(compose[0]);
            if output(command.args(&compose[1..]).arg("version")).is_ok() {
                return Ok(Self { compose: compose.to_vec(), version: version.trim().to_owned() });
            }
        }
        bail!("neither `docker compose` nor docker-compose is installed");
    }

    /// The engine and its compose, for people.
    pub(super) fn shown(&self) -> String {
        format!("docker {}, {}", self.version, self.compose.join(" "))
    }
}

/// Runs docker and returns what it printed.
pub(super) fn docker<const N: usize>(arguments: [&str; N]) -> Result<String> {
    let text = output(Command::new("docker").args(arguments))?;
    Ok(text.trim().to_owned())
}

/// Runs docker with its output in a file, which is named if it fails.
pub(super) fn docker_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let copy = file.try_clone().with_context(|| log.display().to_string())?;
    let shown = shown(command);
    let status = command.stdin(Stdio::null()).stdout(copy).stderr(file).status();
    let status = status.with_context(|| format!("cannot start `{shown}`"))?;
    let end = || crate::e2e::process::tail(log, 12);
    ensure!(status.success(), "`{shown}` failed ({status}); the end of {}:\n{}", log.display(), end());
    Ok(())
}

/// The services of a compose file under a name of their own, and the images that were made for them.
#[derive(Debug)]
pub(super) struct Project {
    engine: Engine,
    name: String,
    file: PathBuf,
    environment: Vec<(String, String)>,
    images: Vec<String>,
    keep: bool,
}

impl Project {
    pub(super) fn new(engine: Engine, name: &str, file: PathBuf) -> Self {
        Self { engine, name: name.to_owned(), file, environment: Vec::new(), images: Vec::new(), keep: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A variable that the compose file reads.
    pub(super) fn set(&mut self, name: String, value: String) {
        self.environment.push((name, value));
    }

    /// An image that goes with the project.
    pub(super) fn owns_image(&mut self, image: &str) {
        self.images.push(image.to_owned());
    }

    /// Leaves everything there at the end.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    /// Compose, on this project.
    pub(super) fn compose(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.engine.compose[0]);
        command.args(&self.engine.compose[1..]).args(["-p", &self.name, "-f"]).arg(&self.file);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The container of a service.
    pub(super) fn container(&self, service: &str) -> Result<String> {
        let text = output(&mut self.compose(&["ps", "-q", service]))?;
        let id = text.lines().last().unwrap_or_default().trim().to_owned();
        ensure!(!id.is_empty(), "{service} has no container");
        Ok(id)
    }

    /// The network of the services.
    pub(super) fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    fn clean_up(&self) {
        // Nobody is left to tell; what cannot be removed carries the project's name.
        let _ = output(&mut self.compose(&["down", "-v", "--remove-orphans", "-t", "1"]));
        for image in &self.images {
            let _ = docker(["image", "rm", "-f", image]);
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if !self.keep {
            self.clean_up();
        }
    }
}

/// A node's container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    /// The engine's id.
    pub(super) id: String,
}

impl Container {
    /// One field of what the engine knows of it.
    pub(super) fn inspect(&self, template: &str) -> Result<String> {
        docker(["inspect", "--format", template, &self.id])
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        docker(["kill", "--signal", "KILL", &self.id]).map(drop)
    }

    /// SIGTERM, and the exit code that came of it.
    pub(super) fn stop(&self) -> Result<String> {
        docker(["stop", "-t", STOP_SECONDS, &self.id])?;
        self.inspect("{{.State.ExitCode}}")
    }

    pub(super) fn start(&self) -> Result<()> {
        docker(["start", &self.id]).map(drop)
    }

    /// Takes it off a network.
    pub(super) fn cut_off(&self, network: &str) -> Result<()> {
        docker(["network", "disconnect", network, &self.id]).map(drop)
    }

    /// Puts it back, under the name that the others know.
    pub(super) fn bring_back(&self, network: &str, name: &str) -> Result<()> {
        docker(["network", "connect", "--alias", name, network, &self.id]).map(drop)
    }

    /// The exit code of a command in it.
    pub(super) fn exec(&self, arguments: &[&str]) -> Result<Option<i32>> {
        let mut command = Command::new("docker");
        command.args(["exec", &self.id]).args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot start docker")?;
        Ok(output.status.code())
    }
}
