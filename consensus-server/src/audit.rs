//! Writes the log of administrative actions: one synced line before an action, one with its outcome after it.
//!
//! What cannot be written down is not done ([`AuditLog::carry_out`]); the chain goes on without the log, and
//! the next action tries to open it again. The lines and their chain are [`consensus_core::audit`]'s. Actions
//! are rare: a line costs a sync, on a thread where that makes nobody wait.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use consensus_core::audit::{self, Entry, FILE, FILE_BYTES_MAX, FULL_FILES_MAX, PRUNED, THROUGH, Tail};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::telemetry::unix_time_ms;

/// Lines that wait for the disk; more administrative actions at once are refused.
const WAITING_MAX: usize = 16;
/// A file above this size is not one that a node wrote.
const READABLE_BYTES_MAX: u64 = 4 * FILE_BYTES_MAX;
/// The node itself, as an actor.
const NODE: &str = "node";

/// Why something could not be written down.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// Too much at once.
    #[error("{WAITING_MAX} administrative actions wait to be written down")]
    Busy,
}

/// The log of one data directory; clones write into the same.
#[derive(Clone, Debug)]
pub struct AuditLog {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    file_bytes_max: u64,
    /// None before the first line and after a failure.
    writer: Mutex<Option<Writer>>,
}

impl AuditLog {
    /// The log in a data directory; it is opened with the first line.
    pub fn new(directory: &Path) -> Self {
        Self::with_files_of(directory, FILE_BYTES_MAX)
    }

    fn with_files_of(directory: &Path, file_bytes_max: u64) -> Self {
        let shared = Shared { directory: directory.to_owned(), file_bytes_max, writer: Mutex::new(None) };
        Self { shared: Arc::new(shared), room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Writes a line and waits until it is durable: its sequence number.
    ///
    /// # Errors
    /// If it is not certain that it is durable. It is logged already.
    pub async fn record(&self, entry: Entry) -> Result<u64, AuditError> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| AuditError::Busy)?;
        let shared = self.shared.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = shared.write(&entry);
            drop(room);
            written
        })
        .await
        .unwrap_or_else(|error| Err(shared_error(&self.shared, io::Error::other(error))));
        if let Err(error) = &written {
            tracing::error!(%error, "the audit log cannot be written: administrative actions are refused");
        }
        written
    }

    /// Writes a line about the node itself; a failure is logged, and the node goes on.
    pub async fn note(&self, action: &str, arguments: &[(&str, String)]) {
        let entry = Entry::new(NODE, action, "done");
        let entry = arguments.iter().fold(entry, |entry, (name, value)| entry.with(name, value));
        // The failure is logged, and whoever asks for an action will be told.
        let _ = self.record(entry).await;
    }

    /// Writes down that an action begins, and gives back what its outcome is told to.
    ///
    /// # Errors
    /// If that cannot be written: the action must not be carried out.
    pub async fn begin(&self, entry: Entry) -> Result<Ongoing, AuditError> {
        let entry = Entry { outcome: "begun".to_owned(), ..entry };
        let sequence = self.record(entry.clone()).await?;
        Ok(Ongoing { log: self.clone(), end: Some(entry.with("of", sequence)) })
    }

    /// Carries an action out if it can be written down, and writes down what came of it.
    ///
    /// # Errors
    /// The action's, or that it is not carried out because it cannot be written down.
    pub async fn carry_out<T>(
        &self,
        entry: Entry,
        action: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let ongoing =
            self.begin(entry).await.map_err(|error| Status::failed_precondition(refusal(&error)))?;
        let outcome = action.await;
        let words = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        ongoing.end(&words).await;
        outcome
    }
}

/// Why an action is not carried out, for whoever asked for it.
pub(crate) fn refusal(error: &AuditError) -> String {
    format!("refused, because it cannot be written into the audit log: {error}")
}

/// An action that has begun.
#[derive(Debug)]
pub struct Ongoing {
    log: AuditLog,
    /// The line that ends it; none once it is written.
    end: Option<Entry>,
}

impl Ongoing {
    /// Writes down what came of it. A failure is logged: the action cannot be taken back.
    pub async fn end(mut self, outcome: &str) {
        if let Some(entry) = self.end.take() {
            let _ = self.log.record(Entry { outcome: outcome.to_owned(), ..entry }).await;
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let Some(entry) = self.end.take() else { return };
        let entry = Entry { outcome: "unknown: the caller went away".to_owned(), ..entry };
        let log = self.log.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { log.record(entry).await });
        }
    }
}

fn shared_error(shared: &Shared, cause: io::Error) -> AuditError {
    AuditError::File { path: shared.directory.join(FILE).display().to_string(), cause }
}

impl Shared {
    fn write(&self, entry: &Entry) -> Result<u64, AuditError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.write_with(&mut writer, entry);
        if written.is_err() {
            // What is in the file now is found out when it is opened again.
            *writer = None;
        }
        written.map_err(|cause| shared_error(self, cause))
    }

    fn write_with(&self, writer: &mut Option<Writer>, entry: &Entry) -> io::Result<u64> {
        let writer = match writer {
            Some(writer) => writer,
            None => writer.insert(Writer::open(&self.directory)?),
        };
        if writer.bytes >= self.file_bytes_max {
            writer.rotate()?;
        }
        writer.append(entry)
    }
}

/// An open file with the place at which the chain goes on.
#[derive(Debug)]
struct Writer {
    directory: PathBuf,
    file: File,
    bytes: u64,
    /// First record of the file; none while it has none.
    first: Option<u64>,
    tail: Tail,
}

/// What a file says about the chain.
#[derive(Default)]
struct Content {
    first: Option<u64>,
    tail: Option<Tail>,
    /// Bytes of a line without an end.
    torn: u64,
    /// Lines behind the newest record that are none.
    damaged: u64,
}

impl Content {
    fn new(content: &[u8]) -> Self {
        let mut lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
        let torn = lines.pop().unwrap_or_default().len() as u64;
        let first = lines.iter().find_map(|line| Tail::behind(line)).map(|tail| tail.sequence);
        let newest = lines.iter().rposition(|line| Tail::behind(line).is_some());
        let damaged = lines.len() - newest.map_or(0, |at| at + 1);
        let tail = newest.and_then(|at| Tail::behind(lines[at]));
        Self { first, tail, torn, damaged: damaged as u64 }
    }
}

impl Writer {
    fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = open_file(directory)?;
        let content = read(&mut file)?;
        if content.torn > 0 {
            let length = file.metadata()?.len();
            file.set_len(length - content.torn)?;
            file.sync_all()?;
        }
        File::open(directory)?.sync_all()?;
        let tail = match content.tail {
            Some(tail) => tail,
            None => newest_full(directory)?,
        };
        let bytes = file.metadata()?.len();
        let mut writer = Self { directory: directory.to_owned(), file, bytes, first: content.first, tail };
        if content.torn > 0 || content.damaged > 0 {
            tracing::warn!(
                torn_bytes = content.torn,
                damaged_lines = content.damaged,
                "the audit log does not end with a whole record; it goes on behind the newest one"
            );
            let entry = Entry::new(NODE, "audit-resumed", "done")
                .with("torn_bytes", content.torn)
                .with("damaged_lines", content.damaged);
            writer.append(&entry)?;
        }
        Ok(writer)
    }

    fn append(&mut self, entry: &Entry) -> io::Result<u64> {
        let (line, tail) = self.tail.line(unix_time_ms(), entry);
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()?;
        self.bytes += line.len() as u64;
        self.first.get_or_insert(tail.sequence);
        self.tail = tail;
        Ok(tail.sequence)
    }

    /// Begins a new file, and removes the oldest of the full ones if they are too many.
    fn rotate(&mut self) -> io::Result<()> {
        let full = self.directory.join(audit::rotated_name(self.first.unwrap_or(self.tail.sequence)));
        if full.exists() {
            return Err(io::Error::other(format!("{} exists already", full.display())));
        }
        fs::rename(self.directory.join(FILE), &full)?;
        self.file = open_file(&self.directory)?;
        (self.bytes, self.first) = (0, None);
        let directory = File::open(&self.directory)?;
        directory.sync_all()?;
        let kept = full_files(&self.directory)?;
        let surplus = kept.len().saturating_sub(FULL_FILES_MAX);
        if surplus > 0 {
            let through = kept[surplus] - 1;
            self.append(&Entry::new(NODE, PRUNED, "done").with(THROUGH, through))?;
            for first in &kept[..surplus] {
                fs::remove_file(self.directory.join(audit::rotated_name(*first)))?;
            }
            directory.sync_all()?;
        }
        Ok(())
    }
}

/// Opens the file that is written to, for its owner alone and for this process alone.
fn open_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(FILE);
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another process writes it"))?;
    Ok(file)
}

fn read(file: &mut File) -> io::Result<Content> {
    let length = file.metadata()?.len();
    if length > READABLE_BYTES_MAX {
        let what = format!("it has {length} bytes, more than {READABLE_BYTES_MAX}: move it away");
        return Err(io::Error::other(what));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(Content::new(&content))
}

/// Where the chain is behind the newest full file.
fn newest_full(directory: &Path) -> io::Result<Tail> {
    let Some(first) = full_files(directory)?.pop() else { return Ok(Tail::default()) };
    let mut file = File::open(directory.join(audit::rotated_name(first)))?;
    Ok(read(&mut file)?.tail.unwrap_or_default())
}

/// First records of the full files, ascending.
fn full_files(directory: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(directory)? {
        firsts.extend(entry?.file_name().to_str().and_then(audit::rotated_first));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

#[cfg(test)]
mod tests {
    use consensus_core::audit::{Checker, Report};

    use super::*;

    fn check(directory: &Path) -> Report {
        let mut checker = Checker::default();
        for first in full_files(directory).expect("lists") {
            let name = audit::rotated_name(first);
            checker.file(&name, &fs::read(directory.join(&name)).expect("reads"), false, &mut |_| {});
        }
        checker.file(FILE, &fs::read(directory.join(FILE)).expect("reads"), true, &mut |_| {});
        checker.finish()
    }

    fn entry() -> Entry {
        Entry::new("127.0.0.1:1", "log-filter", "done").with("filter", "info")
    }

    #[tokio::test]
    async fn the_chain_goes_on_over_restarts_and_only_the_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        for expected in 1..=3 {
            let log = AuditLog::new(&data);
            assert_eq!(log.record(entry()).await.expect("writes"), expected);
        }
        let report = check(&data);
        assert_eq!((report.records, report.findings_total), (3, 0), "{report:?}");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join(FILE))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off_and_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        AuditLog::new(dir.path()).record(entry()).await.expect("writes");
        AuditLog::new(dir.path()).record(entry()).await.expect("writes");
        let whole = fs::read(&file).expect("reads");
        fs::write(&file, &whole[..whole.len() - 9]).expect("writes");
        AuditLog::new(dir.path()).record(entry()).await.expect("writes");
        let report = check(dir.path());
        assert_eq!((report.records, report.findings_total), (3, 0), "{report:?}");
        let text = fs::read_to_string(&file).expect("reads");
        assert!(text.lines().nth(1).expect("there").contains("audit-resumed"), "{text}");
    }

    #[tokio::test]
    async fn a_damaged_end_stays_and_the_chain_goes_on_behind_the_newest_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        AuditLog::new(dir.path()).record(entry()).await.expect("writes");
        let whole = fs::read_to_string(&file).expect("reads");
        fs::write(&file, whole + "garbage\n").expect("writes");
        AuditLog::new(dir.path()).record(entry()).await.expect("writes");
        let report = check(dir.path());
        assert_eq!((report.records, report.findings_total), (3, 1), "{report:?}");
        assert!(report.findings[0].at.contains("line 2"), "{report:?}");
    }

    #[tokio::test]
    async fn full_files_are_bounded_in_number_and_the_chain_goes_over_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = AuditLog::with_files_of(dir.path(), 1000);
        for _ in 0..60 {
            log.record(entry()).await.expect("writes");
        }
        let firsts = full_files(dir.path()).expect("lists");
        assert_eq!(firsts.len(), FULL_FILES_MAX);
        assert!(firsts[0] > 1, "{firsts:?}");
        let report = check(dir.path());
        assert_eq!((report.first, report.findings_total), (firsts[0], 0), "{report:?}");
        fs::remove_file(dir.path().join(audit::rotated_name(firsts[0]))).expect("removes");
        assert_eq!(check(dir.path()).findings_total, 1, "one more removed, and nobody says so");
        // A rotation that ended between its two steps.
        fs::remove_file(dir.path().join(FILE)).expect("removes");
        let log = AuditLog::new(dir.path());
        let next = log.record(entry()).await.expect("writes");
        assert_eq!(check(dir.path()).tail.sequence, next);
        assert!(next > firsts[FULL_FILES_MAX - 1]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_done_until_it_can() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        fs::write(&data, "a file in the way").expect("writes");
        let log = AuditLog::new(&data);
        let done = std::sync::atomic::AtomicBool::new(false);
        let action = async {
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        };
        let refused = log.carry_out(entry(), action).await.expect_err("refused");
        assert!(refused.message().contains("audit log") && refused.message().contains("data"), "{refused}");
        assert!(!done.load(std::sync::atomic::Ordering::Relaxed));
        fs::remove_file(&data).expect("removes");
        log.carry_out(entry(), async { Ok(()) }).await.expect("carried out");
        let failed = async { Err::<(), _>(Status::invalid_argument("no such filter")) };
        log.carry_out(entry(), failed).await.expect_err("the action's");
        let text = fs::read_to_string(data.join(FILE)).expect("reads");
        let outcomes = ["begun", "done", "begun", "InvalidArgument: no such filter"];
        for (line, outcome) in text.lines().zip(outcomes) {
            assert!(line.contains(&format!("\"outcome\":\"{outcome}\"")), "{line}");
        }
        assert_eq!(text.lines().count(), 4);
        assert_eq!(check(&data).findings_total, 0);
    }

    #[tokio::test]
    async fn an_action_whose_caller_leaves_has_a_line_that_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = AuditLog::new(dir.path());
        drop(log.begin(entry()).await.expect("writes"));
        for _ in 0..500 {
            if fs::read_to_string(dir.path().join(FILE)).expect("reads").contains("the caller went away") {
                return;
            }
            // Lines of others let the one that is awaited have its turn.
            log.record(entry()).await.expect("writes");
        }
        panic!("no line about it");
    }

    #[tokio::test]
    async fn two_processes_do_not_write_one_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = AuditLog::new(dir.path());
        first.record(entry()).await.expect("writes");
        let refused = AuditLog::new(dir.path()).record(entry()).await.expect_err("in use").to_string();
        assert!(refused.contains("another process writes it"), "{refused}");
    }
}
