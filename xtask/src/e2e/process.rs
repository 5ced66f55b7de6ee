//! One process that this command started: its log file, its signals, its end.
//!
//! Signals go to the one process by its id, while its handle shows that it has not been waited for, so
//! the id cannot have passed to another process. A process that is dropped is killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::workspace::shown;

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// Length of a tick of the processor counters: 100 per second on every Linux that is in use.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// A running process, or one that has ended and not been replaced.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    leave_running: bool,
}

impl Process {
    /// Starts `command` with its output appended to `log`, in a process group of its own.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = log_file(log)?;
        let copy = file.try_clone().with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
        Ok(Self { name: name.to_owned(), log: log.to_path_buf(), child, leave_running: false })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Fails if it has ended, with the last lines of its log.
    pub(crate) fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!(
                "{} ended ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log, 8)
            );
        }
        Ok(())
    }

    /// Ends it as a power cut would: SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill -9 of {}", self.name))?;
        self.child.wait().with_context(|| self.name.clone())?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and says how it did and after how long.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let started = Instant::now();
        self.send_terminate()?;
        match self.wait(limit)? {
            Some(status) => Ok((status, started.elapsed())),
            None => bail!("{} has not ended {limit:?} after SIGTERM", self.name),
        }
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn send_terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM, "SIGTERM")
    }

    /// Lets it stand still, with its connections open.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP, "SIGSTOP")
    }

    /// Lets it go on after [`Process::freeze`].
    pub(crate) fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT, "SIGCONT")
    }

    /// True if it stands still, where the system tells.
    pub(crate) fn is_frozen(&self) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        text.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
    }

    fn signal(&mut self, signal: Signal, name: &str) -> Result<()> {
        self.expect_running()?;
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id of 0")?;
        kill_process(id, signal).with_context(|| format!("{name} to {}", self.name))
    }

    /// Waits until it ends; `None` when `limit` has passed.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Resident memory in bytes, where the system tells.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some(kib * 1024)
    }

    /// Processor time that it has used, where the system tells.
    pub(crate) fn processor_time(&self) -> Duration {
        let (ticks, _) = process_ticks(&self.child.id().to_string());
        Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Lets it run on after this command ends.
    pub(crate) fn leave_running(&mut self) {
        self.leave_running = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leave_running {
            return;
        }
        // Nobody is left to tell; a process that has ended cannot be killed and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a log for appending; a restarted process continues the log of the one before.
pub(crate) fn log_file(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())
}

/// The last lines of a file, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all = text.lines().collect::<Vec<_>>();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Ticks of a process and of the children that it has waited for; 0 where the system does not tell.
pub(crate) fn process_ticks(id: &str) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    process_ticks_in(&text).unwrap_or((0, 0))
}

fn process_ticks_in(text: &str) -> Option<(u64, u64)> {
    // The name in parentheses may hold blanks; the fields that follow it are numbers.
    let (_, fields) = text.rsplit_once(')')?;
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(16)? + field(17)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_the_fields_that_hold_them() {
        let mut stat = "42 (a name) S".to_owned();
        for number in 4..=20 {
            stat.push_str(&format!(" {number}"));
        }
        assert_eq!(process_ticks_in(&stat), Some((29, 33)));
    }

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let process =
            Process::start("shell", Command::new("/bin/sh").args(["-c", script]), &log).expect("starts");
        (process, directory)
    }

    #[test]
    fn a_process_that_ended_is_reported_with_the_end_of_its_log() {
        let (mut process, _directory) = shell("echo port in use >&2; exit 1");
        let limit = Duration::from_secs(10);
        assert!(process.wait(limit).expect("is asked").is_some());
        let text = process.expect_running().expect_err("has ended").to_string();
        assert!(text.contains("shell ended") && text.contains("port in use"), "{text}");
    }

    #[test]
    fn a_frozen_process_is_seen_to_stand_still_until_it_is_thawed() {
        let (mut process, _directory) = shell("while :; do read x < /dev/null; done");
        let comes = |process: &Process, frozen: bool| {
            let end = Instant::now() + Duration::from_secs(10);
            while process.is_frozen() != frozen && Instant::now() < end {
                std::thread::yield_now();
            }
            process.is_frozen() == frozen
        };
        process.freeze().expect("is sent");
        assert!(comes(&process, true));
        process.thaw().expect("is sent");
        assert!(comes(&process, false));
    }

    #[test]
    fn sigterm_ends_a_process_and_its_status_is_returned() {
        let (mut process, directory) =
            shell("trap 'exit 7' TERM; echo ready; while :; do read x < /dev/null; done");
        let log = directory.path().join("log");
        let end = Instant::now() + Duration::from_secs(10);
        while tail(&log, 1) != "ready" && Instant::now() < end {
            std::thread::yield_now();
        }
        let (status, _) = process.terminate(Duration::from_secs(10)).expect("ends");
        assert_eq!(status.code(), Some(7));
    }
}
