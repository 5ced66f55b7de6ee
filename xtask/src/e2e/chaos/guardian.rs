//! Undoes what this command has done to the machine, also if it is killed.
//!
//! A shell waits for the end of a pipe that only this process holds. When the pipe ends, whether because the
//! run is over, has failed or was killed with -9, it runs the commands that it was told, the newest first. What they complain about is in its log.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::e2e::process::log_file;

/// Collects lines, newest first, and runs them at the end of its input.
const SCRIPT: &str = r#"
list=
while IFS= read -r line; do
  list="$line
$list"
done
printf '%s' "$list" | sh
"#;

/// Keeps the promise that nothing is left behind.
#[derive(Debug)]
pub(crate) struct Guardian {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Starts it; what it does is written to `log`.
    pub(crate) fn start(log: &Path) -> Result<Self> {
        let file = log_file(log)?;
        let copy = file.try_clone().with_context(|| log.display().to_string())?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(file).stderr(copy).process_group(0);
        let mut shell = command.spawn().context("cannot start a shell")?;
        let pipe = Some(shell.stdin.take().context("a shell without a pipe")?);
        Ok(Self { shell, pipe })
    }

    /// `line` will be run at the end.
    pub(crate) fn at_end(&mut self, line: &str) -> Result<()> {
        ensure!(!line.contains('\n'), "more than one line: {line}");
        let pipe = self.pipe.as_mut().context("the guardian has ended")?;
        writeln!(pipe, "{line}").context("the guardian does not listen")
    }

    /// Kills at the end the nodes and clients of the run in `directory` that have not ended by then.
    pub(crate) fn kill_processes_of(&mut self, directory: &Path) -> Result<()> {
        let directory = directory.display();
        self.at_end(&format!(
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | \
             grep -qF -e ' run --config {directory}/' -e ' --receipts {directory}/' && kill -9 ${{p#/proc/}}; done"
        ))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // What went wrong is in its log.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_undone_in_reverse_when_the_pipe_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let list = directory.path().join("list");
        let mut guardian = Guardian::start(&directory.path().join("log")).expect("starts");
        for name in ["first", "second"] {
            guardian.at_end(&format!("echo {name} >> {}", list.display())).expect("listens");
        }
        assert!(guardian.at_end("two\nlines").is_err());
        assert!(!list.exists());
        drop(guardian);
        assert_eq!(std::fs::read_to_string(list).expect("was written"), "second\nfirst\n");
    }
}
