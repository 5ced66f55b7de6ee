//! The judge of most tests: it records what is done to the disk and lets the operation fail that a test armed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

use crate::{Failure, Judge, Operation, Recording};

/// Who changes the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    /// The thread that opens or writes.
    Caller,
    /// RocksDB's thread that writes data files out of memory.
    Flush,
    /// RocksDB's thread that merges data files.
    Compaction,
}

impl Actor {
    /// Of this thread, by the name that RocksDB gives its own.
    fn here() -> Self {
        match fs::read_to_string("/proc/thread-self/comm").as_deref().map(str::trim) {
            Ok("rocksdb:high") => Self::Flush,
            Ok("rocksdb:low") => Self::Compaction,
            _ => Self::Caller,
        }
    }
}

type Choice = Box<dyn FnMut(&Operation, Actor) -> bool + Send>;

/// Which operation fails, and how.
pub struct Fault {
    failure: Failure,
    lasting: bool,
    choice: Choice,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("failure", &self.failure).field("lasting", &self.lasting).finish()
    }
}

impl Fault {
    /// The first operation of this choice fails, all later ones do not.
    pub fn once(failure: Failure, choice: impl FnMut(&Operation, Actor) -> bool + Send + 'static) -> Self {
        Self { failure, lasting: false, choice: Box::new(choice) }
    }

    /// The operation behind `skipped` others fails.
    pub fn after(mut skipped: usize, failure: Failure) -> Self {
        Self::once(failure, move |_, _| {
            let strikes = skipped == 0;
            skipped = skipped.saturating_sub(1);
            strikes
        })
    }

    /// From the first operation of this choice on, whatever needs room fails: the disk is full.
    pub fn full_from(choice: impl FnMut(&Operation, Actor) -> bool + Send + 'static) -> Self {
        Self { failure: Failure::NoSpace, lasting: true, choice: Box::new(choice) }
    }
}

#[derive(Default, Debug)]
struct Tape {
    recording: Recording,
    fault: Option<Fault>,
    /// The operations that failed since the fault was armed.
    met: Vec<Operation>,
}

impl Tape {
    fn strikes(&mut self, operation: &Operation) -> Option<Failure> {
        let fault = self.fault.as_mut()?;
        let needs_room = matches!(operation, Operation::Create(_) | Operation::Append(..));
        let strikes = match (fault.lasting, self.met.is_empty()) {
            (true, false) => needs_room,
            (false, false) => false,
            (_, true) => (fault.choice)(operation, Actor::here()),
        };
        strikes.then_some(fault.failure)
    }
}

/// The judge. Its clones are the same one.
#[derive(Clone, Default, Debug)]
pub struct Watched(Arc<Mutex<Tape>>);

impl Watched {
    /// A judge of a disk on which there is something already.
    pub fn beginning_with(recording: Recording) -> Self {
        Self(Arc::new(Mutex::new(Tape { recording, ..Tape::default() })))
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done so far.
    pub fn recording(&self) -> Recording {
        self.tape().recording.clone()
    }

    /// How many operations were done.
    pub fn done(&self) -> usize {
        self.tape().recording.len()
    }

    /// Lets operations fail from now on.
    pub fn arm(&self, fault: Fault) {
        let mut tape = self.tape();
        tape.met.clear();
        tape.fault = Some(fault);
    }

    /// The operations that failed since a fault was armed.
    pub fn met(&self) -> Vec<Operation> {
        self.tape().met.clone()
    }

    /// Nothing fails any more; what failed since the fault was armed.
    pub fn disarm(&self) -> Vec<Operation> {
        let mut tape = self.tape();
        tape.fault = None;
        std::mem::take(&mut tape.met)
    }
}

impl Judge for Watched {
    fn judge(&self, operation: Operation) -> Option<Failure> {
        let mut tape = self.tape();
        let Some(failure) = tape.strikes(&operation) else {
            tape.recording.push(operation);
            return None;
        };
        if let (Operation::Append(path, bytes), Failure::NoSpace) = (&operation, failure) {
            let half = bytes[..bytes.len() / 2].to_vec();
            tape.recording.push(Operation::Append(path.clone(), half));
        }
        tape.met.push(operation);
        Some(failure)
    }
}
