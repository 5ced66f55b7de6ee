//! A file system under RocksDB that tells a test of every change on its way to the disk and fails those that
//! the test chooses, and what a power cut can leave of such changes.
//!
//! The tests of this crate put `consensus_core::storage::rocks` on it; nothing else uses it.
//!
//! RocksDB's own `FaultInjectionTestFS` fails at random and loses either nothing or all of what is unsynced.
//! Here a test chooses the operation that fails, and [`Recording::after_power_loss`] builds what any moment
//! may leave: each file cut at any byte behind its last sync, names as of any moment behind the directory's.
//!
//! Only files that RocksDB opens for writing are seen; its text log (`LOG`) and its lock are not.

#![allow(unsafe_code, reason = "RocksDB calls a file system through C++ alone")]

mod recording;
mod watched;

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

pub use recording::{Loss, Recording};
pub use watched::{Actor, Fault, Watched};

/// A change on its way to the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A file is created, empty.
    Create(PathBuf),
    /// A file is opened to be continued.
    Reopen(PathBuf),
    /// Bytes are added to a file's end.
    Append(PathBuf, Vec<u8>),
    /// A file gets this length.
    Truncate(PathBuf, u64),
    /// A file's bytes become durable.
    Sync(PathBuf),
    /// A file gets another name.
    Rename(PathBuf, PathBuf),
    /// A file gets a second name.
    Link(PathBuf, PathBuf),
    /// A name is removed.
    Delete(PathBuf),
    /// The names in a directory become durable.
    SyncDirectory(PathBuf),
}

impl Operation {
    /// What is done to what kind of file, such as `append data file`.
    pub fn kind(&self) -> String {
        let (verb, path) = match self {
            Self::Create(path) => ("create", path),
            Self::Reopen(path) => ("reopen", path),
            Self::Append(path, _) => ("append", path),
            Self::Truncate(path, _) => ("truncate", path),
            Self::Sync(path) => ("sync", path),
            Self::Rename(path, _) => ("rename", path),
            Self::Link(path, _) => ("link", path),
            Self::Delete(path) => ("delete", path),
            Self::SyncDirectory(_) => return "sync directory".to_owned(),
        };
        format!("{verb} {}", file_kind(path))
    }
}

/// RocksDB names its files by their kind.
fn file_kind(path: &Path) -> &'static str {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kinds = [
        ("MANIFEST-", "manifest"),
        ("OPTIONS-", "options"),
        ("CURRENT", "current"),
        ("IDENTITY", "identity"),
    ];
    if let Some((_, kind)) = kinds.into_iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return kind;
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("log") => "write-ahead log",
        Some("sst") => "data file",
        Some("dbtmp") => "temporary file",
        _ => "other file",
    }
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Nothing is done.
    InputOutput,
    /// The disk is full; of an append, the first half is written.
    NoSpace,
}

/// Judges operations, from any thread and one at a time per call.
pub trait Judge: Send + Sync {
    /// Before `operation` is done: whether it fails.
    fn judge(&self, operation: Operation) -> Option<Failure>;
}

/// An environment for RocksDB whose file system asks `judge` before each change.
pub fn env(judge: Box<dyn Judge>) -> rocksdb::Env {
    let context = Box::into_raw(Box::new(judge)).cast();
    // SAFETY: `context` is what `ask` and `forget` expect; the file system calls `forget` once, when it goes,
    // after the last `ask`. The result is a new environment that the wrapper destroys.
    unsafe { rocksdb::Env::from_raw(fault_fs_env(context, ask, forget).cast()) }
}

type Ask = extern "C" fn(*mut c_void, c_int, *const c_char, usize, *const c_char, usize) -> c_int;
type Forget = extern "C" fn(*mut c_void);

unsafe extern "C" {
    fn fault_fs_env(context: *mut c_void, ask: Ask, forget: Forget) -> *mut c_void;
}

/// As the operating system numbers them on Linux.
const EIO: c_int = 5;
const ENOSPC: c_int = 28;

extern "C" fn ask(
    context: *mut c_void,
    operation: c_int,
    path: *const c_char,
    path_length: usize,
    bytes: *const c_char,
    length: usize,
) -> c_int {
    // SAFETY: `context` came from `env` and lives until `forget`; the ranges are valid during this call.
    let (judge, path, bytes) = unsafe {
        let judge = &*context.cast::<Box<dyn Judge>>();
        (judge, slice(path, path_length), slice(bytes, length))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (path, second) = (PathBuf::from(text(path)), || PathBuf::from(text(bytes)));
    // The numbers of `Operation` in fault_fs.cc.
    let operation = match operation {
        0 => Operation::Create(path),
        1 => Operation::Reopen(path),
        2 => Operation::Append(path, bytes.to_vec()),
        3 => Operation::Truncate(path, text(bytes).parse().expect("a length")),
        4 => Operation::Sync(path),
        5 => Operation::Rename(path, second()),
        6 => Operation::Link(path, second()),
        7 => Operation::Delete(path),
        8 => Operation::SyncDirectory(path),
        other => panic!("operation {other} is unknown, the last is 8"),
    };
    match judge.judge(operation) {
        None => 0,
        Some(Failure::InputOutput) => EIO,
        Some(Failure::NoSpace) => ENOSPC,
    }
}

/// # Safety
/// `length` bytes at `data` must be valid for `'a`, unless `length` is 0.
unsafe fn slice<'a>(data: *const c_char, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data.cast(), length) }
}

extern "C" fn forget(context: *mut c_void) {
    // SAFETY: `context` came from `env` and is given back once.
    drop(unsafe { Box::from_raw(context.cast::<Box<dyn Judge>>()) });
}
